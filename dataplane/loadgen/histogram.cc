#include "dataplane/loadgen/histogram.h"

#include <algorithm>
#include <cmath>

namespace dataplane::loadgen {

void Histogram::record(std::uint64_t value) noexcept {
    ++counts_[bucket_of(value)];
    ++count_;
    max_ = std::max(max_, value);
}

void Histogram::merge(const Histogram& other) noexcept {
    for (std::size_t i = 0; i < counts_.size(); ++i)
        counts_[i] += other.counts_[i];
    count_ += other.count_;
    max_ = std::max(max_, other.max_);
}

Histogram Histogram::since(const Histogram& earlier) const {
    Histogram difference;
    std::size_t highest = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
        difference.counts_[i] = counts_[i] - earlier.counts_[i];
        if (difference.counts_[i] != 0) highest = i;
    }
    difference.count_ = count_ - earlier.count_;
    if (difference.count_ != 0) difference.max_ = std::min(upper_edge(highest), max_);
    return difference;
}

bool Histogram::add_bucket(std::size_t index, std::uint64_t count) noexcept {
    if (index >= counts_.size()) return false;
    counts_[index] += count;
    count_ += count;
    max_ = std::max(max_, upper_edge(index));
    return true;
}

std::uint64_t Histogram::percentile(double share) const noexcept {
    if (count_ == 0) return 0;
    const auto wanted = static_cast<std::uint64_t>(
        std::ceil(std::clamp(share, 0.0, 1.0) * static_cast<double>(count_)));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
        seen += counts_[i];
        if (seen >= wanted && seen != 0) return std::min(upper_edge(i), max_);
    }
    return max_;
}

} // namespace dataplane::loadgen
