#include "dataplane/loadgen/run/capacity.h"

#include "dataplane/loadgen/sink.h"
#include "dataplane/loadgen/source.h"
#include "tests/support/sim_net.h"

#include <cmath>
#include <gtest/gtest.h>
#include <random>
#include <utility>

namespace dataplane::loadgen {
namespace {

using namespace std::chrono_literals;

TrialFacts good(double rate) {
    const auto due = static_cast<std::uint64_t>(rate * 10);
    return {.rate = rate, .seconds = 10, .due = due, .accepted = due, .p99_us = 5'000};
}

TEST(CapacitySearch, FindsALimitWithinThePrecision) {
    for (const double limit : {3.0, 137.0, 5'000.0, 999'999.0}) {
        CapacitySearch search({.precision = 0.02, .trials_max = 200});
        while (const auto rate = search.next()) {
            TrialFacts facts = good(*rate);
            if (*rate > limit) facts.p99_us = 1e6;
            search.record(facts);
        }
        EXPECT_LE(search.knee(), limit);
        EXPECT_GT(search.knee(), limit * 0.97) << limit;
        EXPECT_EQ(search.knees().size(), 3U);
        EXPECT_EQ(search.caveat(), "");
    }
}

TEST(CapacitySearch, SaysHowFarTheRepeatsDisagree) {
    std::mt19937_64 random(7);
    CapacitySearch search({.repeats = 5, .trials_max = 300});
    while (const auto rate = search.next()) {
        TrialFacts facts = good(*rate);
        const double limit = 1000 * std::normal_distribution<double>(1, 0.02)(random);
        if (*rate > limit) facts.backlog = *rate * 5;
        search.record(facts);
    }
    EXPECT_NEAR(search.knee(), 1000, 80);
    EXPECT_GT(search.confidence().half_width, 1);
    EXPECT_LT(search.confidence().half_width, 200);
}

TEST(CapacitySearch, ASteadyRelaysIntervalIsNoNarrowerThanTheSearchsOwnStep) {
    CapacitySearch search({.precision = 0.05, .repeats = 3, .trials_max = 300});
    while (const auto rate = search.next()) {
        TrialFacts facts = good(*rate);
        if (*rate > 5'000) facts.p99_us = 1e6;
        search.record(facts);
    }
    const Estimate sure = search.confidence();
    EXPECT_LE(search.knee(), 5'000);
    EXPECT_GE(search.knee() + sure.half_width, 5'000);
    EXPECT_GT(sure.half_width, estimate(search.knees()).half_width + 100); // some 5 % of bracket
    EXPECT_NE(search.knees()[0], search.knees()[1]); // not the same grid again
    EXPECT_NE(search.knees()[1], search.knees()[2]);
}

TEST(CapacitySearch, OneUnluckyTrialIsNoLimit) {
    CapacitySearch search({.rate_first = 100, .precision = 0.05, .repeats = 1, .trials_max = 300});
    bool unlucky = true;
    while (const auto rate = search.next()) {
        TrialFacts facts = good(*rate);
        if (*rate > 5'000 || (*rate > 700 && std::exchange(unlucky, false))) facts.p99_us = 1e6;
        search.record(facts);
    }
    EXPECT_GT(search.knee(), 4'600);
    EXPECT_TRUE(std::isinf(search.confidence().half_width));
}

TEST(CapacitySearch, FewerRepeatsThanAskedAreACaveat) {
    CapacitySearch search({.repeats = 10, .trials_max = 30});
    while (const auto rate = search.next()) {
        TrialFacts facts = good(*rate);
        if (*rate > 1'000) facts.p99_us = 1e6;
        search.record(facts);
    }
    ASSERT_GE(search.knees().size(), 2U);
    ASSERT_LT(search.knees().size(), 10U);
    EXPECT_NE(search.caveat().find("of 10 repeats"), std::string::npos) << search.caveat();
}

TEST(CapacitySearch, AWildlyMovingLimitIsACaveat) {
    CapacitySearch search({.rate_first = 100, .repeats = 3});
    unsigned trials = 0;
    while (const auto rate = search.next()) {
        TrialFacts facts = good(*rate);
        const double limit = search.knees().empty()       ? 5'000
                             : search.knees().size() == 1 ? 700
                                                          : 2'500;
        if (*rate > limit) facts.p99_us = 1e6;
        search.record(facts);
        ASSERT_LT(++trials, 100U);
    }
    EXPECT_NE(search.caveat().find("disagree"), std::string::npos) << search.caveat();
}

TEST(CapacitySearch, EndsWhereNothingPassesAndWhereEverythingDoes) {
    CapacitySearch hopeless({.rate_first = 50});
    while (const auto rate = hopeless.next()) {
        TrialFacts facts = good(*rate);
        facts.failed = 1;
        hopeless.record(facts);
    }
    EXPECT_EQ(hopeless.knee(), 0);
    EXPECT_NE(hopeless.caveat().find("no rate passed"), std::string::npos);

    CapacitySearch endless({.rate_max = 8'000, .repeats = 1});
    while (const auto rate = endless.next())
        endless.record(good(*rate));
    EXPECT_EQ(endless.knee(), 8'000);
    EXPECT_NE(endless.caveat().find("lies above"), std::string::npos);
}

TEST(CapacityJudge, NamesWhatATrialBroke) {
    const CapacityOptions options{.p99_max = 50ms};
    EXPECT_EQ(judge(good(100), options), "");
    TrialFacts facts = good(100);
    facts.p99_us = 51'000;
    EXPECT_NE(judge(facts, options).find("p99"), std::string::npos);
    facts = good(100);
    facts.backlog = 101;
    EXPECT_NE(judge(facts, options).find("backlog"), std::string::npos);
    facts = good(100);
    facts.accepted = 980;
    EXPECT_NE(judge(facts, options).find("98"), std::string::npos);
    facts = good(100);
    facts.failed = 1;
    EXPECT_NE(judge(facts, options).find("refused"), std::string::npos);
    EXPECT_NE(judge({.rate = 1}, options), "");
}

/// A relay that takes 10 ms for each message, on each of 20 connections, on a virtual clock.
SourceTally load(double rate_per_s) {
    const auto address = *base::SocketAddress::parse("192.0.2.1:25");
    base::ManualClock clock;
    base::Loop loop{clock};
    tests::SimNet net{loop, {.fragment = false}};
    Sink relay(loop, net, {.addresses = {address}, .manner = {.delay = 10ms}}, nullptr, nullptr);
    EXPECT_TRUE(relay.start());
    Source source(loop, net,
                  {.targets = {address},
                   .connections = 20,
                   .time = 2s,
                   .rate_per_s = rate_per_s,
                   .chunking = true},
                  MessageMaker({.bytes_min = 600, .bytes_max = 600}), nullptr, nullptr);
    source.start();
    EXPECT_TRUE(tests::run_until(loop, clock, [&] { return source.finished(); }, 1min));
    loop.drop_tasks();
    return source.tally();
}

// Goal: the whole way from sockets to the knee. Method: the closed loop tells what the relay can do at most; the
// search, which only sees latencies, must find that again.
TEST(CapacitySearch, ConvergesOnASimulatedRelayOfAKnownLimit) {
    const double limit = static_cast<double>(load(0).accepted) / 2;
    EXPECT_NEAR(limit, 20 / 0.011, 150); // 10 ms, the round trip, and a timer's tick
    CapacitySearch search({.rate_first = 400, .precision = 0.02, .repeats = 2, .p99_max = 60ms});
    while (const auto rate = search.next()) {
        const SourceTally tally = load(*rate);
        search.record(
            {.rate = *rate,
             .seconds = 2,
             .due = tally.due,
             .accepted = tally.accepted,
             .failed = tally.transient + tally.permanent + tally.unknown,
             .p99_us = static_cast<double>(tally.accept_latency_ns.percentile(0.99)) / 1000});
    }
    EXPECT_GT(search.knee(), limit * 0.93);
    EXPECT_LT(search.knee(), limit * 1.04); // above it by what may queue within the 60 ms
    EXPECT_EQ(search.caveat(), "");
}

} // namespace
} // namespace dataplane::loadgen
