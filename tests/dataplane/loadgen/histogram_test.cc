#include "dataplane/loadgen/histogram.h"

#include <algorithm>
#include <cmath>
#include <gtest/gtest.h>
#include <random>
#include <vector>

namespace dataplane::loadgen {
namespace {

TEST(Histogram, EmptyHasNoPercentiles) {
    EXPECT_EQ(Histogram{}.percentile(0.99), 0U);
}

TEST(Histogram, SmallValuesAreExact) {
    Histogram histogram;
    for (std::uint64_t value = 1; value <= 100; ++value)
        histogram.record(value);
    EXPECT_EQ(histogram.percentile(0.5), 50U);
    EXPECT_EQ(histogram.percentile(0.99), 99U);
    EXPECT_EQ(histogram.percentile(1.0), 100U);
}

// Goal: no percentile is below the true one or more than 0.8 % above it. Method: compare with a
// sorted copy, over seven orders of magnitude.
TEST(Histogram, PercentilesAreWithinOneBucketOfTheTruth) {
    std::mt19937_64 random(7);
    std::lognormal_distribution<double> draw(14, 2.5); // around a millisecond, with a long tail
    Histogram histogram;
    std::vector<std::uint64_t> values(100'000);
    for (std::uint64_t& value : values) {
        value = static_cast<std::uint64_t>(draw(random));
        histogram.record(value);
    }
    std::sort(values.begin(), values.end());
    for (const double share : {0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999}) {
        const auto rank =
            static_cast<std::size_t>(std::ceil(share * static_cast<double>(values.size())));
        const std::uint64_t truth = values[rank - 1];
        const std::uint64_t told = histogram.percentile(share);
        EXPECT_GE(told, truth) << share;
        EXPECT_LE(static_cast<double>(told), static_cast<double>(truth) * 1.008 + 1) << share;
    }
    EXPECT_EQ(histogram.percentile(1.0), values.back());
}

TEST(Histogram, MergeEqualsRecordingAllInOne) {
    Histogram one, left, right;
    for (std::uint64_t i = 0; i < 10'000; ++i) {
        const std::uint64_t value = i * i * 37;
        one.record(value);
        (i % 3 == 0 ? left : right).record(value);
    }
    left.merge(right);
    EXPECT_EQ(left.count(), one.count());
    EXPECT_EQ(left.max(), one.max());
    for (double share = 0; share <= 1.0; share += 0.01) {
        EXPECT_EQ(left.percentile(share), one.percentile(share));
    }
}

TEST(Histogram, TakesTheLargestValueThereIs) {
    Histogram histogram;
    histogram.record(~std::uint64_t{0});
    EXPECT_EQ(histogram.percentile(0.5), ~std::uint64_t{0});
}

} // namespace
} // namespace dataplane::loadgen
