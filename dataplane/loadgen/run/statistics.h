// statistics.h: what a handful of samples says, and how sure that is.
//
// Scope      Means with 95 % confidence intervals (Student's t), and samples put together in batches:
//            the seconds of one run hang together, so that they are fewer than they look.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace dataplane::loadgen {

struct Estimate {
    double mean = 0;
    double half_width = 0; // of the 95 % confidence interval; infinite for fewer than two samples
    std::size_t samples = 0;
};

/// Of independent samples.
[[nodiscard]] Estimate estimate(std::span<const double> samples);
/// Of samples in a row that hang together: means of at most `batches` equal stretches are taken as
/// independent ones. Fewer than two samples a batch: the samples themselves.
[[nodiscard]] Estimate estimate_in_batches(std::span<const double> samples,
                                           std::size_t batches = 10);
/// Two-sided 95 % quantile of Student's t.
[[nodiscard]] double student_t95(std::size_t degrees) noexcept;
[[nodiscard]] double median(std::vector<double> samples);

enum class Verdict : std::uint8_t { same, better, worse, unclear }; // same: within the noise

/// Whether b differs from a beyond what both runs' own noise explains (Welch), and by more than
/// `least` of a. unclear: too few samples to say.
[[nodiscard]] Verdict compare(const Estimate& a, const Estimate& b, bool more_is_better,
                              double least = 0.02);

/// 12345.678 as "12,346", 1.234 as "1.23", 7 as "7": three digits that matter, for people.
[[nodiscard]] std::string shown(double value);

} // namespace dataplane::loadgen
