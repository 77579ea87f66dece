// What each thread of a run is given, and what a stretch of it means for the search.
#include "dataplane/loadgen/run/plan.h"
#include "dataplane/loadgen/run/stretch.h"

#include <gtest/gtest.h>
#include <map>
#include <set>

namespace dataplane::loadgen {
namespace {

using namespace std::chrono_literals;

Profile read(const std::string& text) {
    auto profile = read_profile(text, "test", shipped_providers());
    if (!profile) throw std::runtime_error(profile.error().front().text);
    return *profile;
}

constexpr const char* two_by_two = R"(
[[source]]
target = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"]
connections = 6
threads = 4
rate = 100
[[source]]
target = "127.0.0.1:5"
connections = 3
threads = 2
rate = 50
[[sink]]
listen = "127.0.0.1:6"
threads = 2
)";

TEST(Plan, ConnectionsAndRatesAreSharedOutWhole) {
    const std::vector<WorkerPlan> plans = plan_workers(read(two_by_two), "x-");
    ASSERT_EQ(plans.size(), 8U);
    double rate = 0;
    std::size_t connections = 0;
    for (const WorkerPlan& plan : plans) {
        if (!plan.source) continue;
        rate += plan.source->rate_per_s;
        connections += plan.source->connections;
    }
    EXPECT_DOUBLE_EQ(rate, 150);
    EXPECT_EQ(connections, 9U);
    EXPECT_EQ(plans[0].sink->reception, plans[1].sink->reception);
    EXPECT_EQ(plans[0].sink->run_prefix, "x-");
}

TEST(Plan, EveryTargetOfSeveralGetsItsShareHoweverManyThreadsThereAre) {
    std::map<std::size_t, int> met;
    for (const WorkerPlan& plan : plan_workers(read(two_by_two), "x-")) {
        if (!plan.source || plan.source->targets.size() != 4) continue;
        for (std::size_t i = 0; i < plan.source->connections; ++i)
            ++met[(plan.source->first_connection + i) % 4];
    }
    EXPECT_EQ(met, (std::map<std::size_t, int>{{0, 2}, {1, 2}, {2, 1}, {3, 1}}));
}

TEST(Plan, NoTwoSourcesSendTheSameAndRecipientsAreAsTheProfileSays) {
    std::set<std::string> runs;
    std::set<std::uint64_t> seeds;
    Profile profile =
        read(std::string(two_by_two) + "[message]\nrecipient = \"known@a.example\"\n");
    for (const WorkerPlan& plan : plan_workers(profile, "x-")) {
        if (!plan.source) continue;
        runs.insert(plan.pattern.run);
        seeds.insert(plan.pattern.seed);
        EXPECT_EQ(plan.pattern.recipient, "known@a.example");
        EXPECT_EQ(plan.source->reconnect_limit, 0ms);
    }
    EXPECT_EQ(runs.size(), 6U);
    EXPECT_EQ(seeds.size(), 6U);
    EXPECT_NE(read(two_by_two).pattern.recipient.find("{run}"), std::string::npos);
}

TEST(Plan, LimitsThatCannotHoldAreNamed) {
    const std::string base = two_by_two;
    EXPECT_TRUE(idle_wishes(read(base + "[[provider]]\npreset = \"gmail\"\n")).empty());
    const auto wishes =
        idle_wishes(read(base + "[[provider]]\npreset = \"yahoo\"\n"
                                "[[provider]]\nname = \"p\"\ndomains = [\"p\"]\ntls = false\n"));
    ASSERT_EQ(wishes.size(), 2U);
    EXPECT_NE(wishes[0].find("yahoo: messages_per_connection_max"), std::string::npos) << wishes[0];
    EXPECT_NE(wishes[1].find("p: tls"), std::string::npos);
    EXPECT_TRUE(
        idle_wishes(read(base + "[[provider]]\npreset = \"yahoo\"\nlisten = \"127.0.0.1:7\"\n"))
            .empty());
}

TEST(Plan, TheSetUpTellsWhatTheCommandLineChanged) {
    Profile profile = read(two_by_two);
    const Facts before = setup_of(profile);
    EXPECT_EQ(before, setup_of(profile));
    profile.sources[0].options.connections = 99;
    EXPECT_NE(before, setup_of(profile));
}

Stretch stretch_of(std::uint64_t messages, std::uint64_t recipients_each, std::uint64_t arrived) {
    Stretch stretch{.rate_per_s = 100, .seconds = 10};
    stretch.end.source.accepted = messages;
    stretch.end.source.recipients = messages * recipients_each;
    stretch.end.sink.unique = arrived;
    stretch.final = stretch.end;
    return stretch;
}

TEST(Stretch, TheBacklogIsInMessagesAsItsBoundIs) {
    EXPECT_DOUBLE_EQ(facts_of(stretch_of(1000, 3, 2700)).backlog, 100); // 300 recipients
    EXPECT_DOUBLE_EQ(facts_of(stretch_of(1000, 1, 900)).backlog, 100);
}

TEST(Stretch, WhatWasOnItsWayBeforeIsNotThisRatesDoing) {
    Stretch stretch = stretch_of(1000, 1, 900);
    stretch.start.source.accepted = stretch.start.source.recipients = 70; // none of them there
    EXPECT_DOUBLE_EQ(facts_of(stretch).backlog, 30);
}

TEST(Stretch, ARefusedRecipientOfAnAcceptedMessageFailsATrial) {
    Stretch stretch = stretch_of(1000, 2, 2000);
    EXPECT_EQ(judge(facts_of(stretch), {}), "");
    stretch.final.source.recipients_refused = 4;
    EXPECT_EQ(facts_of(stretch).failed, 4U);
    EXPECT_NE(judge(facts_of(stretch), {}), "");
}

} // namespace
} // namespace dataplane::loadgen
