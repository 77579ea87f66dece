// histogram.h: latencies in buckets of constant relative width, so that merging loses nothing.
//
// Scope      128 buckets per power of two: a percentile is at most 0.8 % above the true value.
//            Values are nanoseconds by convention; the histogram does not care.
// Owns       Its counts, allocated once.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace dataplane::loadgen {

class Histogram {
public:
    Histogram() : counts_(bucket_count) {}

    void record(std::uint64_t value) noexcept;
    void merge(const Histogram& other) noexcept;
    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
    [[nodiscard]] std::uint64_t max() const noexcept { return max_; }
    /// The smallest bucket's upper edge below which at least `share` of the values lie, and never
    /// more than max(). 0 when nothing was recorded.
    /// \param share  0 to 1: 0.99 for p99
    [[nodiscard]] std::uint64_t percentile(double share) const noexcept;
    /// What was recorded since `earlier`, which is a copy of this histogram from before. Exact, but for
    /// max(): that is the upper edge of the highest bucket, unless the maximum itself is new.
    [[nodiscard]] Histogram since(const Histogram& earlier) const;
    /// Calls take(index, lower edge, upper edge, count) for each bucket that holds something, in order.
    template <class Take>
    void each_bucket(Take take) const {
        for (std::size_t i = 0; i < counts_.size(); ++i) {
            if (counts_[i] != 0)
                take(i, i == 0 ? std::uint64_t{0} : upper_edge(i - 1) + 1, upper_edge(i),
                     counts_[i]);
        }
    }
    /// Takes in a bucket that each_bucket() of another process told of; false for an index that is none.
    bool add_bucket(std::size_t index, std::uint64_t count) noexcept;
    /// After add_bucket(): the true maximum, where it is known.
    void limit_max(std::uint64_t max) noexcept { max_ = max < max_ ? max : max_; }

private:
    static constexpr unsigned sub_bits = 7;
    static constexpr std::uint64_t sub_count = 1U << sub_bits;
    static constexpr std::size_t bucket_count = (64 - sub_bits + 1) * sub_count;

    [[nodiscard]] static constexpr std::size_t bucket_of(std::uint64_t value) noexcept {
        if (value < 2 * sub_count) return value;
        const unsigned shift = static_cast<unsigned>(std::bit_width(value)) - 1 - sub_bits;
        return (static_cast<std::size_t>(shift) << sub_bits) + (value >> shift);
    }
    [[nodiscard]] static constexpr std::uint64_t upper_edge(std::size_t bucket) noexcept {
        if (bucket < 2 * sub_count) return bucket;
        const unsigned shift = static_cast<unsigned>(bucket >> sub_bits) - 1;
        const std::uint64_t base = (bucket & (sub_count - 1)) + sub_count;
        return ((base + 1) << shift) - 1;
    }

    std::vector<std::uint64_t> counts_;
    std::uint64_t count_ = 0;
    std::uint64_t max_ = 0;
};

} // namespace dataplane::loadgen
