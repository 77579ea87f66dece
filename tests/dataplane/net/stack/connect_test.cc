// Goal: opening ends with the cause kept, in time, and leaves nothing behind, whatever the other side does.
#include "tests/dataplane/net/stack/world.h"

#include "dataplane/net/stack/engine.h"

#include <vector>

namespace dataplane::net::stack {
namespace {

bool is_tcp(std::span<const std::byte> frame) {
    return frame.size() >= 54 && frame[12] == std::byte{0x08} && frame[13] == std::byte{0} &&
           frame[23] == std::byte{6};
}
bool has_flags(std::span<const std::byte> frame, std::uint8_t wanted) {
    return is_tcp(frame) && (std::to_integer<unsigned>(frame[47]) & 0x3f) == wanted;
}

struct StackConnectTest : testing::Test {
    explicit StackConnectTest(WorldOptions options = {}) : world(options) {}
    Connected connect(std::string_view remote, std::optional<base::IpAddress> source = std::nullopt,
                      base::Duration limit = 30s) {
        Connected result;
        world.loop.spawn(connect_once(world.client, *base::SocketAddress::parse(remote), source,
                                      world.in(limit), result),
                         "connect");
        EXPECT_TRUE(world.run_until([&] { return result.has_value(); }, limit + 10s));
        return result;
    }
    Connected accept(base::Listener& listener, base::Duration limit = 5s) {
        Connected result;
        world.loop.spawn(accept_once(listener, world.in(limit), result), "accept");
        EXPECT_TRUE(world.run_until([&] { return result.has_value(); }, limit + 1s));
        return result;
    }
    static base::NetError error_of(const Connected& result) {
        EXPECT_TRUE(result && !*result);
        return result && !*result ? result->error() : base::NetError::closed;
    }
    void rule(unsigned side, ImpairmentRule rule) {
        ImpairmentOptions options = world.link.line(side).options();
        options.rules = {std::move(rule)};
        world.link.line(side).change(options);
    }
    World world;
};

// T19
TEST_F(StackConnectTest, APortWithoutAListenerRefusesAtOnce) {
    const base::TimePoint start = world.clock.now();
    EXPECT_EQ(error_of(connect("10.0.0.2:26")), base::NetError::refused);
    EXPECT_LT(world.clock.now() - start, 100ms);
    EXPECT_EQ(world.server.statistics().stack.resets_unknown, 1U);
    world.expect_nothing_left();
}

// T1
TEST_F(StackConnectTest, LostSynsAreRepeatedAtOneTwoAndFourSeconds) {
    const auto listener = world.listen();
    std::vector<base::TimePoint> sent;
    world.link.set_tap([&](unsigned from, SimLink::TapPoint point, std::span<const std::byte> frame,
                           base::TimePoint now) {
        if (from == 0 && point == SimLink::TapPoint::sent && has_flags(frame, 0x02))
            sent.push_back(now);
    });
    rule(0, {.matches =
                 [](auto frame) {
                     return is_tcp(frame) && (std::to_integer<unsigned>(frame[47]) & 0x3f) == 0x02;
                 },
             .count = 3});
    auto result = connect("10.0.0.2:25");
    ASSERT_TRUE(*result);
    ASSERT_EQ(sent.size(), 4U);
    EXPECT_NEAR(std::chrono::duration<double>(sent[1] - sent[0]).count(), 1, 0.02);
    EXPECT_NEAR(std::chrono::duration<double>(sent[2] - sent[1]).count(), 2, 0.02);
    EXPECT_NEAR(std::chrono::duration<double>(sent[3] - sent[2]).count(), 4, 0.02);
    world.link.set_tap({});
}

// T1
TEST_F(StackConnectTest, ADeadlineEndsAnAttemptThatHearsNothing) {
    rule(0, {.matches = is_tcp, .count = 1000});
    EXPECT_EQ(error_of(connect("10.0.0.2:25", std::nullopt, 5s)), base::NetError::timed_out);
    EXPECT_EQ(world.client.connection_count(), 0U);
    EXPECT_EQ(world.client.statistics().flow_table_entries, 0U);
    world.expect_nothing_left();
}

TEST_F(StackConnectTest, CancellationEndsAnAttempt) {
    rule(0, {.matches = is_tcp, .count = 1000});
    base::CancelSource cancel;
    Connected result;
    world.loop.spawn(connect_once(world.client, *base::SocketAddress::parse("10.0.0.2:25"),
                                  std::nullopt, world.in(60s, &cancel), result),
                     "connect");
    world.pass(2s);
    EXPECT_FALSE(result);
    cancel.cancel();
    world.pass(10ms);
    EXPECT_EQ(error_of(result), base::NetError::cancelled);
    world.expect_nothing_left();
}

TEST_F(StackConnectTest, AnAttemptWhoseTaskIsDestroyedLeavesNothingBehind) {
    rule(0, {.matches = is_tcp, .count = 1000});
    Connected result;
    world.loop.spawn(connect_once(world.client, *base::SocketAddress::parse("10.0.0.2:25"),
                                  std::nullopt, world.in(60s), result),
                     "connect");
    world.pass(2s);
    EXPECT_EQ(world.client.connection_count(), 1U);
    world.loop.drop_tasks();
    world.expect_nothing_left();
}

// T2
TEST_F(StackConnectTest, ALostSynAckIsRepeatedAndADuplicateChangesNothing) {
    const auto listener = world.listen();
    rule(1, {.matches = [](auto frame) { return has_flags(frame, 0x12); },
             .action = ImpairmentRule::Action::duplicate,
             .extra = 50ms});
    auto result = connect("10.0.0.2:25");
    ASSERT_TRUE(*result);
    auto accepted = accept(*listener);
    ASSERT_TRUE(*accepted);
    world.pass(1s);
    EXPECT_EQ(world.client.connection_count(), 1U);
    EXPECT_EQ(world.server.statistics().stack.accepted, 1U);
    rule(1, {.matches = [](auto frame) { return has_flags(frame, 0x12); }, .count = 2});
    auto second = connect("10.0.0.2:25");
    EXPECT_TRUE(*second);
}

TEST_F(StackConnectTest, ComesFromTheSourceAddressAskedFor) {
    const auto listener = world.listen();
    const auto result = connect("10.0.0.2:25", base::IpAddress::parse("10.0.0.1"));
    ASSERT_TRUE(*result);
    const auto accepted = accept(*listener);
    ASSERT_TRUE(*accepted);
    EXPECT_EQ((**accepted)->info().peer, (**result)->info().local);
    EXPECT_EQ((**accepted)->info().local, listener->local());
}

TEST_F(StackConnectTest, WhatCannotWorkIsNamedAsTheCause) {
    EXPECT_EQ(error_of(connect("10.0.0.2:25", base::IpAddress::parse("10.0.0.9"))),
              base::NetError::address_not_available);
    EXPECT_EQ(error_of(connect("10.0.0.2:25", base::IpAddress::parse("fd00::1"))),
              base::NetError::address_not_available);
    EXPECT_EQ(error_of(connect("192.0.2.1:25")), base::NetError::unreachable); // no route
    EXPECT_EQ(error_of(connect("224.0.0.1:25")), base::NetError::unreachable);
    EXPECT_EQ(error_of(connect("10.0.0.1:25")), base::NetError::unreachable); // ourselves
    EXPECT_EQ(world.client.connection_count(), 0U);
}

// T9
TEST_F(StackConnectTest, AHostThatDoesNotAnswerArpIsUnreachableWellBeforeTheDeadline) {
    const base::TimePoint start = world.clock.now();
    EXPECT_EQ(error_of(connect("10.0.0.77:25", std::nullopt, 60s)), base::NetError::unreachable);
    EXPECT_LT(world.clock.now() - start, 10s);
    world.expect_nothing_left();
}

// T9
TEST_F(StackConnectTest, EverySynThatWaitedForOneNextHopLeavesWhenItAnswers) {
    const auto listener = world.listen("10.0.0.2:25");
    // The first answers to ARP are lost, so that all of them wait for it.
    rule(1, {.matches =
                 [](auto frame) { return frame[12] == std::byte{8} && frame[13] == std::byte{6}; },
             .count = 1});
    constexpr std::size_t count = 300;
    std::vector<Connected> results(count);
    for (Connected& result : results) {
        world.loop.spawn(
            connect_once(world.client, listener->local(), std::nullopt, world.in(30s), result),
            "connect");
    }
    const base::TimePoint start = world.clock.now();
    EXPECT_TRUE(world.run_until([&] {
        return std::ranges::all_of(results, [](const Connected& r) { return r.has_value(); });
    }));
    EXPECT_LT(world.clock.now() - start, 1500ms); // the second question comes after a second
    for (const Connected& result : results)
        EXPECT_TRUE(*result);
    EXPECT_GE(world.client.statistics().stack.parked, count);
}

TEST_F(StackConnectTest, ListeningSaysWhatIsWrongWithAnAddress) {
    const auto listener = world.listen("10.0.0.2:25");
    const auto again = world.server.listen(*base::SocketAddress::parse("10.0.0.2:25"), {});
    ASSERT_FALSE(again);
    EXPECT_EQ(again.error(), base::NetError::address_in_use);
    const auto foreign = world.server.listen(*base::SocketAddress::parse("10.0.0.9:25"), {});
    ASSERT_FALSE(foreign);
    EXPECT_EQ(foreign.error(), base::NetError::address_not_available);
    const auto any = world.listen("0.0.0.0:25");
    const auto any6 = world.listen("[::]:25");
    EXPECT_TRUE(any && any6);
    EXPECT_TRUE(*connect("[fd00::2]:25"));
}

TEST_F(StackConnectTest, ClosingAListenerEndsItsAcceptAndResetsWhatNobodyTook) {
    auto listener = world.listen();
    auto untaken = connect("10.0.0.2:25");
    ASSERT_TRUE(*untaken);
    world.pass(10ms);
    listener->close();
    EXPECT_EQ(error_of(accept(*listener)), base::NetError::closed);
    world.pass(10ms);
    EXPECT_EQ(world.server.connection_count(), 0U);
    EXPECT_EQ(error_of(connect("10.0.0.2:25")), base::NetError::refused);
}

TEST_F(StackConnectTest, ConnectionsBeyondTheMaximumAreRefusedAndThereIsRoomAgainLater) {
    const auto listener = world.listen("10.0.0.2:25", {.connections_max = 2});
    auto first = connect("10.0.0.2:25");
    auto second = connect("10.0.0.2:25");
    ASSERT_TRUE(*first && *second);
    world.pass(10ms); // their ACKs reach the listener
    EXPECT_EQ(error_of(connect("10.0.0.2:25")), base::NetError::refused);
    EXPECT_EQ(world.server.statistics().stack.refused_at_max, 1U);
    {
        auto taken = accept(*listener);
        ASSERT_TRUE(*taken);
    } // destroyed: reset
    world.pass(10ms);
    EXPECT_TRUE(*connect("10.0.0.2:25"));
}

TEST_F(StackConnectTest, AFullAcceptQueueDropsSynsUntilThereIsRoom) {
    const auto listener = world.listen("10.0.0.2:25", {.backlog = 2});
    auto first = connect("10.0.0.2:25");
    auto second = connect("10.0.0.2:25");
    world.pass(10ms);
    Connected third;
    world.loop.spawn(
        connect_once(world.client, listener->local(), std::nullopt, world.in(30s), third),
        "connect");
    world.pass(500ms);
    EXPECT_FALSE(third);
    EXPECT_GE(world.server.statistics().stack.syn_dropped, 1U);
    auto taken = accept(*listener);
    world.pass(2s);
    ASSERT_TRUE(third && *third);
}

struct FewPortsTest : StackConnectTest {};

// T14, T15
TEST_F(FewPortsTest, ExhaustedPortsAreToldAtOnceAndOnlyTowardsThatDestination) {
    // Occupied straight in the engine, whose SYNs nobody answers: 64K real handshakes would prove no more.
    rule(0, {.matches = is_tcp, .count = 1'000'000});
    const base::SocketAddress remote = *base::SocketAddress::parse("10.0.0.2:25");
    Engine& engine = world.client.engine();
    std::vector<base::Ref<Tcb>> held;
    for (std::uint32_t i = 0; i < source_port_count; ++i) {
        auto opened = engine.open(remote, std::nullopt);
        ASSERT_TRUE(opened) << i;
        held.push_back(std::move(*opened));
    }
    const auto none = engine.open(remote, std::nullopt);
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error(), base::NetError::no_port);
    EXPECT_EQ(world.client.statistics().stack.no_port, 1U);
    const auto other = engine.open(*base::SocketAddress::parse("10.0.0.2:26"), std::nullopt);
    EXPECT_TRUE(other);
    engine.abort(**other);
    engine.abort(*held.back());
    held.pop_back();
    world.pass(10ms);
    const auto again = engine.open(remote, std::nullopt);
    EXPECT_TRUE(again);
    engine.abort(**again);
    for (base::Ref<Tcb>& tcb : held)
        engine.abort(*tcb);
    held.clear();
    world.pass(100ms);
    EXPECT_EQ(world.client.statistics().flow_table_entries, 0U);
}

// T63
TEST_F(StackConnectTest, ASegmentFromOurselvesIsDropped) {
    const auto listener = world.listen();
    std::vector<std::byte> syn;
    world.link.set_tap([&](unsigned from, SimLink::TapPoint point, std::span<const std::byte> frame,
                           base::TimePoint) {
        if (from == 0 && point == SimLink::TapPoint::sent && has_flags(frame, 0x02))
            syn.assign(frame.begin(), frame.end());
    });
    ASSERT_TRUE(*connect("10.0.0.2:25"));
    world.link.set_tap({});
    ASSERT_FALSE(syn.empty());
    std::copy_n(syn.begin() + 30, 4, syn.begin() + 26); // source = destination, ports too
    std::copy_n(syn.begin() + 36, 2, syn.begin() + 34);
    const std::uint64_t before = world.server.statistics().stack.syns;
    world.link.inject(0, syn);
    world.pass(1s);
    EXPECT_EQ(world.server.statistics().stack.syns, before);
}

} // namespace
} // namespace dataplane::net::stack
