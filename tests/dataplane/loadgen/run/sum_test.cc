// Results of several machines as one.
#include "dataplane/loadgen/run/sum.h"

#include <cmath>
#include <gtest/gtest.h>
#include <random>
#include <stdexcept>

namespace dataplane::loadgen {
namespace {

RunResult box(double rate, double from, unsigned seed, Histogram& whole) {
    std::mt19937_64 random(seed);
    RunResult result{.profile = "p", .measured_from = from, .seconds = 60};
    for (int i = 0; i < 60; ++i)
        result.samples.push_back({.at_s = i + 1.0,
                                  .measured = true,
                                  .accepted_per_s = rate,
                                  .p99_ms = i == 7 ? std::nan("") : 10.0 * seed});
    result.accepted = static_cast<std::uint64_t>(60 * rate);
    for (std::uint64_t i = 0; i < result.accepted; ++i) {
        const std::uint64_t value = random() % (50'000'000 * seed);
        result.latency_ns.record(value);
        whole.record(value);
    }
    result.audit.promised = result.accepted;
    result.targets = {{.name = "192.0.2.1:25", .accepted = result.accepted}};
    result.targets[0].accept_latency_ns = result.latency_ns;
    result.providers = {{.name = "gmail", .taken = 5}};
    result.settled_s = 61;
    return result;
}

TEST(Sum, CountsAndHistogramsAddExactlyAlsoThroughFiles) {
    Histogram whole;
    RunResult a = box(100, 1000, 1, whole), b = box(50, 1001, 2, whole);
    b.audit.lost.add("b", 3);
    b.targets.push_back({.name = "192.0.2.2:25", .accepted = 1});
    const RunResult sum =
        sum_of({{"a", result_from_json(to_json(a))}, {"b", result_from_json(to_json(b))}});
    EXPECT_EQ(sum.accepted, 9000U);
    EXPECT_DOUBLE_EQ(sum.accepted_per_s(), 150);
    for (const double share : {0.001, 0.5, 0.99, 0.999, 1.0})
        EXPECT_EQ(sum.latency_ns.percentile(share), whole.percentile(share));
    ASSERT_EQ(sum.targets.size(), 2U);
    EXPECT_EQ(sum.targets[0].accepted, 9000U);
    EXPECT_EQ(sum.targets[0].accept_latency_ns.percentile(0.99), whole.percentile(0.99));
    EXPECT_EQ(sum.providers.at(0).taken, 10U);
    EXPECT_EQ(sum.audit.promised, 9000U);
    EXPECT_EQ(sum.audit.lost.examples.at(0), "b/3");
    EXPECT_DOUBLE_EQ(sum.samples.at(0).accepted_per_s, 150);
    EXPECT_DOUBLE_EQ(sum.samples.at(0).p99_ms, 20);
    EXPECT_TRUE(std::isnan(sum.samples.at(7).p99_ms));
    EXPECT_TRUE(sum.doubts.empty()) << sum.doubts.front();
}

TEST(Sum, WhatWasNotMeasuredAtTheSameTimeIsDoubted) {
    Histogram whole;
    const RunResult a = box(10, 1000, 1, whole), b = box(10, 1030, 2, whole);
    RunResult sum = sum_of({{"a", a}, {"b", b}});
    ASSERT_EQ(sum.doubts.size(), 1U);
    EXPECT_NE(sum.doubts[0].find("50 %"), std::string::npos) << sum.doubts[0];
    RunResult unknown = a;
    unknown.measured_from = 0;
    EXPECT_EQ(sum_of({{"a", a}, {"u", unknown}}).doubts.size(), 1U);
}

TEST(Sum, EachDoubtKeepsItsMachinesName) {
    Histogram whole;
    RunResult a = box(10, 1000, 1, whole), b = a;
    b.doubts = {"the clock stepped"};
    b.settled_s = 0;
    const RunResult sum = sum_of({{"a.json", a}, {"b.json", b}});
    EXPECT_EQ(sum.doubts, std::vector<std::string>{"b.json: the clock stepped"});
    EXPECT_EQ(sum.settled_s, 0);
    EXPECT_THROW(static_cast<void>(sum_of({})), std::runtime_error);
}

} // namespace
} // namespace dataplane::loadgen
