#include "dataplane/loadgen/run/statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

namespace dataplane::loadgen {

double student_t95(std::size_t degrees) noexcept {
    constexpr std::array<double, 31> table{0,     12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365,
                                           2.306, 2.262,  2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
                                           2.120, 2.110,  2.101, 2.093, 2.086, 2.080, 2.074, 2.069,
                                           2.064, 2.060,  2.056, 2.052, 2.048, 2.045, 2.042};
    if (degrees == 0) return std::numeric_limits<double>::infinity();
    return degrees < table.size() ? table[degrees] : 1.96 + 2.5 / static_cast<double>(degrees);
}

Estimate estimate(std::span<const double> samples) {
    Estimate result{.samples = samples.size()};
    if (samples.empty()) {
        result.half_width = std::numeric_limits<double>::infinity();
        return result;
    }
    const auto count = static_cast<double>(samples.size());
    for (const double sample : samples)
        result.mean += sample / count;
    double squares = 0;
    for (const double sample : samples)
        squares += (sample - result.mean) * (sample - result.mean);
    result.half_width = samples.size() < 2 ? std::numeric_limits<double>::infinity()
                                           : student_t95(samples.size() - 1) *
                                                 std::sqrt(squares / (count - 1) / count);
    return result;
}

Estimate estimate_in_batches(std::span<const double> samples, std::size_t batches) {
    const std::size_t length = samples.size() / batches;
    if (length < 2) return estimate(samples);
    std::vector<double> means;
    for (std::size_t i = 0; i < batches; ++i)
        means.push_back(estimate(samples.subspan(i * length, length)).mean);
    return estimate(means);
}

double median(std::vector<double> samples) {
    if (samples.empty()) return 0;
    std::sort(samples.begin(), samples.end());
    const std::size_t middle = samples.size() / 2;
    return samples.size() % 2 == 1 ? samples[middle] : (samples[middle - 1] + samples[middle]) / 2;
}

Verdict compare(const Estimate& a, const Estimate& b, bool more_is_better, double least) {
    if (a.samples < 2 || b.samples < 2) return Verdict::unclear;
    const double difference = b.mean - a.mean;
    // Half widths stand for about two standard errors each; those of a difference add as squares.
    const double noise = std::hypot(a.half_width, b.half_width);
    if (std::abs(difference) <= noise || std::abs(difference) <= least * std::abs(a.mean))
        return Verdict::same;
    return (difference > 0) == more_is_better ? Verdict::better : Verdict::worse;
}

std::string shown(double value) {
    if (!std::isfinite(value)) return "unknown";
    const double size = std::abs(value);
    std::array<char, 64> digits{};
    const int places = size >= 100 || size == std::floor(size) ? 0
                       : size >= 10                            ? 1
                       : size >= 1                             ? 2
                                                               : 3;
    std::snprintf(digits.data(), digits.size(), "%.*f", places, value);
    std::string text = digits.data();
    if (places != 0) return text;
    for (std::size_t at = text.size(); at > (value < 0 ? 4U : 3U); at -= 3)
        text.insert(at - 3, ",");
    return text;
}

} // namespace dataplane::loadgen
