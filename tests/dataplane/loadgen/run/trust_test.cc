#include "dataplane/loadgen/run/machine.h"
#include "dataplane/loadgen/run/processes.h"
#include "dataplane/loadgen/run/trust.h"

#include <filesystem>
#include <gtest/gtest.h>
#include <unistd.h>

namespace dataplane::loadgen {
namespace {

RunResult quiet_run(std::size_t seconds = 30) {
    RunResult result{.seconds = static_cast<double>(seconds)};
    for (std::size_t i = 0; i < seconds; ++i) {
        result.samples.push_back({.at_s = static_cast<double>(i),
                                  .measured = true,
                                  .accepted_per_s = 1000 + static_cast<double>(i % 3),
                                  .p99_ms = 10,
                                  .source_cpu = 0.4,
                                  .sink_cpu = 0.3,
                                  .others_cpu = 0.02});
    }
    result.latency_ns.record(10'000'000);
    return result;
}
std::string only(const RunResult& result, const Evidence& evidence) {
    const std::vector<std::string> all = doubts(result, evidence);
    return all.size() == 1 ? all[0] : "there are " + std::to_string(all.size());
}

TEST(Trust, AQuietRunIsTrusted) {
    EXPECT_TRUE(doubts(quiet_run(), {.cpus = 4}).empty());
}

TEST(Trust, EachReasonIsNamed) {
    RunResult busy = quiet_run();
    for (Sample& sample : busy.samples)
        sample.source_cpu = 0.97;
    EXPECT_NE(only(busy, {}).find("source was short of CPU (97 %"), std::string::npos);
    busy = quiet_run();
    for (Sample& sample : busy.samples)
        sample.sink_cpu = 0.99;
    EXPECT_NE(only(busy, {}).find("sink was short of CPU"), std::string::npos);
    busy = quiet_run();
    for (Sample& sample : busy.samples)
        sample.others_cpu = 0.5;
    EXPECT_NE(only(busy, {.cpus = 2}).find("other processes took 25"), std::string::npos);

    RunResult full = quiet_run();
    full.sent = 1000;
    full.transient = 20;
    full.last_error = "452 4.3.1 full";
    EXPECT_NE(only(full, {}).find("turned away 2 % of what was sent (452 4.3.1 full)"),
              std::string::npos);
    full.transient = 10;
    EXPECT_TRUE(doubts(full, {}).empty());

    EXPECT_NE(only(quiet_run(), {.interrupted = true}).find("interrupted"), std::string::npos);
    EXPECT_NE(only(quiet_run(), {.clock_step_s = -2}).find("clock stepped"), std::string::npos);
    EXPECT_NE(only(quiet_run(), {.wake_lateness_p99_ms = 5}).find("itself was late"),
              std::string::npos);
    EXPECT_NE(only(quiet_run(), {.listen_drops = 3}).find("dropped 3 connections"),
              std::string::npos);
    EXPECT_NE(only(quiet_run(), {.port_drops = 3}).find("dropped 3 frames"), std::string::npos);
    EXPECT_NE(only(quiet_run(), {.pending = 7}).find("7 deliveries"), std::string::npos);
    EXPECT_NE(only(quiet_run(), {.other_runs = 9}).find("earlier run's mail (9"),
              std::string::npos);
    EXPECT_NE(only(quiet_run(), {.stolen_share = 0.1}).find("hypervisor"), std::string::npos);
    EXPECT_NE(only(quiet_run(), {.not_durable = "x is on tmpfs"}).find("tmpfs"), std::string::npos);
    EXPECT_NE(only(quiet_run(5), {}).find("only 5 seconds"), std::string::npos);
}

TEST(Trust, AThreadThatWantsACoreAndGetsHalfOfItIsShort) {
    RunResult busy = quiet_run();
    for (Sample& sample : busy.samples) {
        sample.source_cpu = 0.5;
        sample.source_wait = 0.5;
    }
    EXPECT_NE(
        only(busy, {}).find("source was short of CPU (50 % of a core, and waited for one 50 %"),
        std::string::npos);
    EXPECT_TRUE(doubts(busy, {.busy_poll = true}).empty());
    busy = quiet_run();
    for (Sample& sample : busy.samples)
        sample.sink_wait = 0.2;
    EXPECT_NE(only(busy, {}).find("sink was short of CPU"), std::string::npos);
}

TEST(Trust, TenSecondsAreEnoughAndNineAreNot) {
    RunResult result = quiet_run(10);
    result.seconds = 10.003;
    EXPECT_TRUE(doubts(result, {}).empty());
    result.samples.pop_back(); // nobody looked at the very end
    EXPECT_TRUE(doubts(result, {}).empty());
    result.seconds = 9;
    EXPECT_NE(only(result, {}).find("only 9 seconds"), std::string::npos);
}

TEST(Trust, MessagesWithoutAnAnswerAndRecipientsTurnedAwayAreNamed) {
    RunResult result = quiet_run();
    result.sent = 1000;
    result.unknown = 200;
    EXPECT_NE(only(result, {}).find("of 20 % of the messages nobody knows the fate"),
              std::string::npos);
    result = quiet_run();
    result.recipients = 900;
    result.recipients_refused = 100;
    EXPECT_NE(only(result, {}).find("refused 10 % of the recipients"), std::string::npos);
}

TEST(Trust, TheRunAtTheKneeMustKeepToItsBounds) {
    RunResult result = quiet_run();
    result.capacity = {.searched = true, .knee = 6230, .full_run = "p99 108 ms over 100 ms"};
    EXPECT_NE(only(result, {}).find("p99 108 ms over 100 ms"), std::string::npos);
    EXPECT_NE(to_text(result).find("NOT CONFIRMED"), std::string::npos);
}

TEST(Trust, LatencyOrBacklogThatStillGrowsIsNamed) {
    RunResult result = quiet_run();
    for (std::size_t i = 0; i < result.samples.size(); ++i)
        result.samples[i].p50_ms = 5 + static_cast<double>(i);
    EXPECT_NE(only(result, {}).find("latency was still rising"), std::string::npos);
    result = quiet_run();
    result.accepted = result.recipients = 30'000;
    for (std::size_t i = 0; i < result.samples.size(); ++i)
        result.samples[i].backlog = 100 * static_cast<double>(i);
    EXPECT_NE(only(result, {}).find("backlog was still growing"), std::string::npos);
    for (Sample& sample : result.samples)
        sample.backlog = sample.backlog / 100;
    EXPECT_TRUE(doubts(result, {}).empty());
    EXPECT_NE(only(quiet_run(), {.warm_up_s = 0}).find("no warm-up"), std::string::npos);
}

TEST(Trust, WhatTheSinkPutOffIsNamedApart) {
    RunResult result = quiet_run();
    result.audit.put_off.add("r", 1);
    EXPECT_NE(only(result, {}).find("1 deliveries that the sink itself had put off"),
              std::string::npos);
}

TEST(Trust, SignaturesAreHeldAgainstWhatTheProfileSays) {
    RunResult result = quiet_run();
    result.sink_messages = 100;
    EXPECT_TRUE(doubts(result, {.dkim = false}).empty());
    EXPECT_NE(only(result, {.dkim = true}).find("says that the relay signs, but 0 %"),
              std::string::npos);
    result.signed_messages = 100;
    EXPECT_TRUE(doubts(result, {.dkim = true}).empty());
    EXPECT_NE(only(result, {.dkim = false}).find("does not sign, but 100 %"), std::string::npos);
    EXPECT_TRUE(doubts(result, {}).empty());
}

TEST(Trust, WhatWasNotLookedAtIsNotVouchedFor) {
    RunResult result = quiet_run();
    result.relay.known = true;
    EXPECT_TRUE(unchecked(result, {}).empty());
    EXPECT_EQ(unchecked(result, {.spool_told = false, .sink = false, .waits_told = false}).size(),
              3U);
    result.relay.known = false;
    EXPECT_EQ(unchecked(result, {}).size(), 1U);
}

TEST(Trust, ARateThatStillMovesMeansTooLittleWarmUp) {
    RunResult result = quiet_run();
    for (std::size_t i = 0; i < result.samples.size(); ++i)
        result.samples[i].accepted_per_s = 600 + 15 * static_cast<double>(i);
    EXPECT_NE(only(result, {}).find("still moving"), std::string::npos);
}

TEST(Trust, AMessageThatIsLateByAFractionOfTheLatencyIsFine) {
    EXPECT_TRUE(doubts(quiet_run(), {.wake_lateness_p99_ms = 1.5}).empty());
}

TEST(Trust, ATimersTickIsNoLateness) {
    RunResult quick = quiet_run();
    quick.latency_ns = {};
    quick.latency_ns.record(1'000'000);
    EXPECT_TRUE(doubts(quick, {.wake_lateness_p99_ms = 1.3}).empty());
    EXPECT_NE(only(quick, {.wake_lateness_p99_ms = 2.1}).find("itself was late"),
              std::string::npos);
}

TEST(Machine, MemoryIsNoDisk) {
    if (!std::filesystem::exists("/dev/shm")) GTEST_SKIP() << "no /dev/shm here";
    EXPECT_NE(why_not_durable("/dev/shm").find("memory"), std::string::npos);
    EXPECT_NE(why_not_durable("/no/such/folder").find("does not exist"), std::string::npos);
}

TEST(Machine, TellsWhatItIsAndWhatAProcessUses) {
    const Facts facts = inventory("/");
    EXPECT_GE(facts.size(), 8U);
    for (const auto& [name, value] : facts)
        EXPECT_FALSE(value.empty()) << name;
    ProcessMeter meter({getpid()}, "");
    EXPECT_EQ(meter.look().cpu_s, 0);
    const double before = own_cpu_s();
    volatile double sum = 0;
    while (own_cpu_s() < before + 0.1)
        sum = sum + 1;
    const ProcessUse use = meter.look();
    EXPECT_TRUE(use.alive);
    EXPECT_GT(use.cpu_s, 0.04);
    EXPECT_GT(use.memory_mb, 1);
    EXPECT_FALSE(use.threads.empty());
    EXPECT_FALSE(ProcessMeter({999'999'999}, "").look().alive);
}

} // namespace
} // namespace dataplane::loadgen
