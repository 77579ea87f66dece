#include "dataplane/loadgen/run/diff.h"
#include "dataplane/loadgen/run/result.h"
#include "dataplane/loadgen/run/totals.h"

#include <cmath>
#include <gtest/gtest.h>
#include <limits>
#include <random>

namespace dataplane::loadgen {
namespace {

RunResult run_of(double rate, double p99_ms, unsigned seed, double noise = 0.03) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> around(1, noise);
    RunResult result{.profile = "test", .seconds = 60};
    for (int i = 0; i < 60; ++i) {
        Sample sample{.at_s = i + 1.0, .measured = true};
        sample.accepted_per_s = rate * around(random);
        sample.p50_ms = p99_ms / 4;
        sample.p99_ms = p99_ms * around(random);
        result.accepted += static_cast<std::uint64_t>(sample.accepted_per_s);
        for (int k = 0; k < 100; ++k)
            result.latency_ns.record(
                static_cast<std::uint64_t>(p99_ms * 1e6 * (k == 99 ? around(random) : 0.25)));
        result.samples.push_back(sample);
    }
    return result;
}
const Change& named(const Difference& difference, const std::string& name) {
    for (const Change& change : difference.changes) {
        if (change.name == name) return change;
    }
    throw std::runtime_error("no change named " + name);
}

TEST(Result, ComesBackFromJsonAsItWas) {
    RunResult result = run_of(1000, 10, 1);
    result.command = "millrace-bench run <\"x\"> \xFF";
    result.began = "2026-01-01T00:00:00Z";
    result.machine = {{"CPU", "one"}};
    result.doubts = {"no reason"};
    result.audit.promised = 5;
    result.audit.lost.add("r", 17);
    result.providers = {{.name = "gmail", .taken = 4, .greylisted = 2}};
    result.relay = {.known = true, .cpu_s = 3.5, .memory_max_mb = 120, .threads = {{"shard", 3.1}}};
    result.relay.over_time = {{"shard", {0.5, 0.75}}};
    result.rooms = {{"smtp", 1.25}, {"spool", 0.5}};
    result.rooms_over_time = {{"smtp", {0.1, 0.2}}};
    result.settled_s = 12.5;
    result.settled = 5000;
    result.capacity = {.searched = true, .knee = 900, .knees = {890, 910}, .bounds = "b"};
    result.capacity.trials.push_back({.facts = {.rate = 900, .due = 9000}, .why_not = "p99"});
    result.hostile = {{"silent", 3}};
    result.samples[3].p50_ms = std::nan("");
    result.capacity.half_width = std::numeric_limits<double>::infinity();
    result.capacity.full_run = "too slow";
    result.setup = {{"times", "60 s"}};
    result.unchecked = {"the disk"};
    result.recipients_refused = 6;
    result.targets = {{.name = "192.0.2.1:25", .accepted = 4}};
    result.targets[0].accept_latency_ns.record(77);
    result.audit.misdelivered.add("r", 18);
    const RunResult again = result_from_json(to_json(result));
    EXPECT_EQ(again.accepted, result.accepted);
    EXPECT_EQ(again.latency_ns.count(), result.latency_ns.count());
    for (const double share : {0.01, 0.5, 0.9, 0.99, 0.999, 1.0})
        EXPECT_EQ(again.latency_ns.percentile(share), result.latency_ns.percentile(share));
    EXPECT_EQ(again.audit.lost.examples, result.audit.lost.examples);
    EXPECT_EQ(again.samples.size(), 60U);
    EXPECT_EQ(again.samples[7].accepted_per_s, result.samples[7].accepted_per_s);
    EXPECT_EQ(again.providers.at(0).greylisted, 2U);
    EXPECT_EQ(again.relay.threads.at(0).name, "shard");
    EXPECT_EQ(again.relay.over_time.at(0).name, "shard");
    EXPECT_EQ(again.relay.over_time.at(0).cores, (std::vector<double>{0.5, 0.75}));
    EXPECT_EQ(again.rooms.at(1).name, "spool");
    EXPECT_EQ(again.rooms.at(0).value, 1.25);
    EXPECT_EQ(again.rooms_over_time.at(0).cores, (std::vector<double>{0.1, 0.2}));
    EXPECT_EQ(again.settled_per_s(), 400);
    EXPECT_EQ(again.capacity.knees, result.capacity.knees);
    EXPECT_EQ(again.capacity.trials.at(0).facts.due, 9000U);
    EXPECT_TRUE(std::isnan(again.samples[3].p50_ms)); // no answer is no latency, and not 0
    EXPECT_TRUE(std::isinf(again.capacity.half_width));
    EXPECT_EQ(again.capacity.full_run, "too slow");
    EXPECT_EQ(again.setup, result.setup);
    EXPECT_EQ(again.unchecked, result.unchecked);
    EXPECT_EQ(again.recipients_refused, 6U);
    EXPECT_EQ(again.targets.at(0).accept_latency_ns.percentile(0.5), 77U);
    EXPECT_EQ(again.audit.misdelivered.count, 1U);
    EXPECT_EQ(again.doubts, result.doubts);
    EXPECT_EQ(again.machine, result.machine);
    EXPECT_THROW(static_cast<void>(result_from_json("{}")), std::runtime_error);
    EXPECT_THROW(static_cast<void>(result_from_json("garbage")), std::runtime_error);
}

TEST(Result, EveryFaultThatIsNotZeroIsNamed) {
    RunResult result;
    result.audit.reordered.add("run-1", 42);
    result.audit.late.add("run-1", 43);
    const std::string text = to_text(result);
    EXPECT_NE(text.find("reordered 1 (run-1/42)"), std::string::npos) << text;
    EXPECT_NE(text.find("late 1 (run-1/43)"), std::string::npos);
}

TEST(Diff, TheSameTwiceIsNoise) {
    const Difference difference = difference_of(run_of(1000, 10, 1), run_of(1000, 10, 2));
    EXPECT_EQ(named(difference, "accepted/s").verdict, Verdict::same) << to_text(difference);
    EXPECT_EQ(named(difference, "accept p99, ms").verdict, Verdict::same);
    EXPECT_FALSE(difference.any_worse());
}

TEST(Diff, ASlowerRunIsWorseAndAFasterOneBetter) {
    const Difference slower = difference_of(run_of(1000, 10, 1), run_of(900, 13, 2));
    EXPECT_EQ(named(slower, "accepted/s").verdict, Verdict::worse);
    EXPECT_EQ(named(slower, "accept p99, ms").verdict, Verdict::worse);
    EXPECT_NEAR(named(slower, "accepted/s").percent, -10, 1.5);
    EXPECT_TRUE(slower.any_worse());
    const Difference faster = difference_of(run_of(900, 13, 1), run_of(1000, 10, 2));
    EXPECT_EQ(named(faster, "accepted/s").verdict, Verdict::better);
    EXPECT_FALSE(faster.any_worse());
}

TEST(Diff, ABigDifferenceWithinBiggerNoiseIsNoise) {
    const Difference difference = difference_of(run_of(1000, 10, 1, 0.6), run_of(950, 10, 2, 0.6));
    EXPECT_EQ(named(difference, "accepted/s").verdict, Verdict::same) << to_text(difference);
}

TEST(Result, OneRepeatHasNoPlusOrMinus) {
    RunResult result;
    result.capacity = {.searched = true,
                       .knee = 900,
                       .half_width = std::numeric_limits<double>::infinity(),
                       .knees = {900}};
    EXPECT_EQ(to_text(result).find("\u00b1"), std::string::npos) << to_text(result);
}

TEST(Result, AHostileTextObeysNobodyOnTheTerminal) {
    RunResult result;
    result.last_error = "550 \x1b]0;owned\a\x1b[2Jgone";
    result.relay_greeting = "\x1b[31m";
    result.doubts = {"\rclean"};
    for (const std::string& text : {to_text(result), to_text(difference_of(RunResult{}, result))}) {
        for (const char c : text)
            EXPECT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= ' ') << text;
    }
    EXPECT_NE(to_text(result).find("owned"), std::string::npos);
}

TEST(Diff, SecondsWithoutAnAnswerAreNotQuickOnes) {
    RunResult stalling = run_of(1000, 10, 2);
    for (std::size_t i = 0; i < stalling.samples.size();
         ++i) { // it stands still every other second
        Sample& sample = stalling.samples[i];
        sample.p50_ms = i % 2 == 0 ? std::nan("") : 500;
        sample.p99_ms = i % 2 == 0 ? std::nan("") : 900;
    }
    const Difference difference = difference_of(run_of(1000, 10, 1), stalling);
    EXPECT_NE(named(difference, "accept p99, ms").verdict, Verdict::better);
    EXPECT_GT(named(difference, "accept p99, ms").noise_percent, 0); // there is a number
}

TEST(Diff, AVerdictThatTheWholeRunContradictsIsNone) {
    RunResult after = run_of(1000, 10, 2);
    after.accepted = 2 * run_of(1000, 10, 1).accepted; // although each second had less
    for (Sample& sample : after.samples)
        sample.accepted_per_s *= 0.5;
    EXPECT_EQ(named(difference_of(run_of(1000, 10, 1), after), "accepted/s").verdict,
              Verdict::unclear);
}

TEST(Diff, FaultsOfALongerRunAreHeldAgainstItsLength) {
    RunResult before = run_of(1000, 10, 1), after = run_of(1000, 10, 2);
    before.audit.promised = 1000;
    after.audit.promised = 10'000;
    for (int i = 0; i < 2; ++i)
        before.audit.duplicated.add("r", 1);
    for (int i = 0; i < 10; ++i)
        after.audit.duplicated.add("r", 1);
    EXPECT_EQ(named(difference_of(before, after), "duplicated").verdict, Verdict::better);
}

TEST(Diff, ASetUpAGreetingOrAFactOfOneSideIsARemark) {
    RunResult a = run_of(1000, 10, 1), b = run_of(1000, 10, 2);
    const std::size_t none = difference_of(a, b).remarks.size();
    a.setup = {{"source 1", "50 connections"}};
    b.setup = {{"source 1", "60 connections"}};
    a.relay_greeting = "220 one";
    b.relay_greeting = "220 two";
    a.machine = {{"CPU", "x"}};
    b.machine = {{"CPU", "x"}, {"relay's set-up", "DKIM"}};
    EXPECT_EQ(difference_of(a, b).remarks.size(), none + 3);
}

TEST(Diff, OneLossIsNeverNoise) {
    RunResult after = run_of(1000, 10, 2);
    after.audit.lost.add("r", 1);
    const Difference difference = difference_of(run_of(1000, 10, 1), after);
    EXPECT_EQ(named(difference, "lost").verdict, Verdict::worse);
}

TEST(Diff, SaysWhyTwoRunsMayNotBeComparable) {
    RunResult a = run_of(1000, 10, 1), b = run_of(1000, 10, 2);
    a.machine = {{"CPU", "one"}};
    b.machine = {{"CPU", "two"}};
    b.doubts = {"the clock stepped"};
    b.profile_text = "another";
    b.rate_per_s = 5;
    EXPECT_EQ(difference_of(a, b).remarks.size(), 4U);
}

TEST(Diff, TooFewSamplesGiveNoVerdict) {
    RunResult a = run_of(1000, 10, 1), b = run_of(500, 10, 2);
    a.samples.resize(1);
    b.samples.resize(1);
    EXPECT_EQ(named(difference_of(a, b), "accepted/s").verdict, Verdict::unclear);
}

TEST(Totals, HistogramsOfSeveralSourcesAddExactly) {
    std::mt19937_64 random(3);
    SourceTally one, two, sum;
    Histogram whole;
    for (int i = 0; i < 20'000; ++i) {
        const std::uint64_t value = random() % 50'000'000;
        (i % 3 == 0 ? one : two).accept_latency_ns.record(value);
        whole.record(value);
    }
    add(sum, one);
    const SourceTally before = sum;
    add(sum, two);
    for (const double share : {0.001, 0.5, 0.99, 0.9999, 1.0})
        EXPECT_EQ(sum.accept_latency_ns.percentile(share), whole.percentile(share));
    const Histogram later = since(sum, before).accept_latency_ns;
    EXPECT_EQ(later.count(), two.accept_latency_ns.count());
    EXPECT_EQ(later.percentile(0.99), two.accept_latency_ns.percentile(0.99));
}

TEST(Statistics, IntervalsAreStudents) {
    const std::vector<double> samples{10, 12, 14};
    const Estimate sure = estimate(samples);
    EXPECT_DOUBLE_EQ(sure.mean, 12);
    EXPECT_NEAR(sure.half_width, 4.303 * 2 / std::sqrt(3), 1e-9);
    EXPECT_TRUE(std::isinf(estimate(std::vector<double>{1}).half_width));
    EXPECT_EQ(median({3, 1, 2}), 2);
    EXPECT_EQ(shown(1234567.8), "1,234,568");
    EXPECT_EQ(shown(-123456), "-123,456");
    EXPECT_EQ(shown(0.1234), "0.123");
    EXPECT_EQ(shown(0), "0");
}

} // namespace
} // namespace dataplane::loadgen
