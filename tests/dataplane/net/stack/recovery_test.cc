// Goal: while something is wrong around it (a flood, a neighbour that is gone, no receive buffers, a clock that
// leaps) established mail goes on or waits, and the stack is well again by itself afterwards.
#include "tests/dataplane/net/stack/forged_frame.h"
#include "tests/dataplane/net/stack/world.h"

#include "dataplane/net/stack/engine.h"
#include "dataplane/net/stack/tcp_stream.h"

#include <random>
#include <vector>

namespace dataplane::net::stack {
namespace {

bool is_arp(std::span<const std::byte> frame) {
    return frame[12] == std::byte{8} && frame[13] == std::byte{6};
}
bool is_tcp(std::span<const std::byte> frame) {
    return frame[12] == std::byte{8} && frame[13] == std::byte{0} && frame[23] == std::byte{6};
}

struct RecoveryTest : testing::Test {
    explicit RecoveryTest(WorldOptions options = {}) : world(options) {
        world.loop.spawn(serve_echo(world.loop, *listener), "serve");
        connect();
    }
    void connect() {
        Connected opened;
        world.loop.spawn(
            connect_once(world.client, listener->local(), std::nullopt, world.in(60s), opened),
            "connect");
        ASSERT_TRUE(world.run_until([&] { return opened.has_value(); }));
        ASSERT_TRUE(*opened);
        streams.push_back(std::move(**opened));
    }
    static base::Task<void> ask(base::Loop& loop, base::Stream& stream, int times,
                                base::Duration pause, int& answered) {
        for (int i = 0; i < times; ++i) {
            const auto written =
                co_await stream.write(base::as_bytes("NOOP\r\n"), base::Deadline::never());
            if (!written) co_return;
            const auto got = co_await read_exactly(stream, 6, base::Deadline::never());
            if (!got || *got != "NOOP\r\n") co_return;
            ++answered;
            co_await base::sleep_for(loop, pause);
        }
    }
    static base::Task<void> send_all(base::Stream& stream, std::string_view text) {
        const auto written = co_await stream.write(base::as_bytes(text), base::Deadline::never());
        EXPECT_TRUE(written);
    }
    static base::Task<void> read_all(base::Stream& stream, std::string_view text, int& done) {
        const auto got = co_await read_exactly(stream, text.size(), base::Deadline::never());
        if (got && *got == text) ++done;
    }
    World world;
    std::unique_ptr<base::Listener> listener = world.listen();
    std::vector<base::StreamPtr> streams;
};

TEST_F(RecoveryTest, UnderAFloodOfAcksEstablishedMailGoesOnAndAnswersAreFew) {
    int answered = 0;
    world.loop.spawn(ask(world.loop, *streams[0], 100, 10ms, answered), "ask");
    const base::SocketAddress ours = streams[0]->info().local;
    std::minstd_rand random{7};
    const std::uint64_t before = world.server.statistics().tcp.segments_out;
    for (int i = 0; i < 200; ++i) {
        for (unsigned j = 0; j < 50;
             ++j) { // half to no connection, half to this one, whose numbers they guess
            const bool aimed = j % 2 == 0;
            world.link.deliver(
                1, forge({.host = static_cast<std::uint8_t>(aimed ? 1 : 100 + j),
                          .source_port = aimed ? ours.port : static_cast<std::uint16_t>(random()),
                          .seq = static_cast<std::uint32_t>(random()) * 2U,
                          .ack = static_cast<std::uint32_t>(random()) * 2U,
                          .flags = tcp::flag::ack}));
        }
        world.pass(5ms);
    }
    EXPECT_TRUE(world.run_until([&] { return answered == 100; }, 5s));
    const StackStatistics all = world.server.statistics();
    EXPECT_LE(all.tcp.segments_out - before, 2U * 100 + 5 * 10) << "5 to 10 challenges a second";
    EXPECT_LE(all.stack.resets_unknown, 2 * resets_per_second + 100);
    EXPECT_EQ(all.stack.cookies_bad, 0U) << "no cookie is looked at when none went out";
}

TEST_F(RecoveryTest, ANeighbourThatIsLostForMinutesCostsMailOnlyTime) {
    int answered = 0;
    world.loop.spawn(ask(world.loop, *streams[0], 60, 5s, answered), "ask");
    world.pass(20s);
    for (unsigned side = 0; side < 2; ++side) {
        ImpairmentOptions line = world.link.line(side).options();
        line.rules = {{.matches = is_arp, .count = 1'000'000}};
        world.link.line(side).change(line);
    }
    world.pass(100s);
    const int without = answered;
    EXPECT_LT(without, 20) << "nobody answers ARP, so nothing arrives";
    EXPECT_GE(world.client.statistics().ip.neighbours_failed, 1U);
    for (unsigned side = 0; side < 2; ++side) {
        ImpairmentOptions line = world.link.line(side).options();
        line.rules.clear();
        world.link.line(side).change(line);
    }
    EXPECT_TRUE(world.run_until([&] { return answered == 60; }, 500s));
    streams.clear();
    listener->close();
    world.expect_nothing_left();
}

struct FewReceiveBuffers : RecoveryTest {
    static WorldOptions few() {
        WorldOptions options;
        for (SimPortOptions& port : options.link.ports) {
            port.receive_ring = 8;
            port.receive_buffers = 8;
        }
        return options;
    }
    FewReceiveBuffers() : RecoveryTest(few()) {}
};

// T68
TEST_F(FewReceiveBuffers, WhatADeviceWithoutReceiveBuffersDropsIsSentAgain) {
    const std::string text(300'000, 'r');
    int done = 0;
    world.loop.spawn(send_all(*streams[0], text), "send");
    world.loop.spawn(read_all(*streams[0], text, done), "read");
    EXPECT_TRUE(world.run_until([&] { return done == 1; }, 300s));
    EXPECT_GT(world.link.port(1).counters().receive_missed, 0U);
    streams.clear();
    listener->close();
    world.expect_nothing_left();
}

// T71
TEST_F(RecoveryTest, APauseOfTheWholeMachineCostsEachConnectionOneStepAtMost) {
    constexpr int count = 20;
    while (streams.size() < count)
        connect();
    const std::string text(400'000, 'p');
    int done = 0;
    for (const base::StreamPtr& stream : streams) {
        world.loop.spawn(send_all(*stream, text), "send");
        world.loop.spawn(read_all(*stream, text, done), "read");
    }
    world.pass(8ms);
    EXPECT_EQ(done, 0);
    const std::uint64_t before = world.client.statistics().tcp.sender.timeouts +
                                 world.server.statistics().tcp.sender.timeouts;
    world.clock.advance_to(world.clock.now() +
                           5s); // nothing ran: what has arrived waits in the devices' rings
    unsigned backoff = 0;
    EXPECT_TRUE(world.run_until(
        [&] {
            for (const base::StreamPtr& stream : streams) {
                const auto& connection = static_cast<TcpStream&>(*stream).connection();
                backoff = std::max(backoff, connection.sender().backoff_count());
            }
            return done == count;
        },
        60s));
    EXPECT_LE(backoff, 1U);
    const std::uint64_t after = world.client.statistics().tcp.sender.timeouts +
                                world.server.statistics().tcp.sender.timeouts;
    EXPECT_LE(after - before, 2U * count);
}

// T70
TEST_F(RecoveryTest, ThousandsOfTimersOfOneMomentRunABudgetAtATimeAndAllRun) {
    constexpr std::size_t count = 20'000;
    ImpairmentOptions line = world.link.line(0).options();
    line.rules = {{.matches = is_tcp, .count = 10'000'000}};
    world.link.line(0).change(line);
    Engine& engine = world.client.engine();
    std::vector<base::Ref<Tcb>> held;
    for (std::size_t i = 0; i < count; ++i) {
        auto opened = engine.open(listener->local(), std::nullopt);
        ASSERT_TRUE(opened);
        held.push_back(std::move(*opened));
    }
    world.pass(900ms); // all SYNs have left, within a few turns
    const std::uint64_t sent = world.client.statistics().tcp.segments_out;
    EXPECT_GE(sent, count);
    const std::uint64_t budgets = world.client.statistics().stack.timer_budget;
    std::uint64_t most = 0, last = world.client.statistics().tcp.sender.timeouts;
    world.run_until(
        [&] {
            const std::uint64_t now = world.client.statistics().tcp.sender.timeouts;
            most = std::max(most, now - last);
            last = now;
            return now >= count;
        },
        1s);
    EXPECT_GE(last, count) << "late by a budget, never lost";
    // A step of the World runs timers twice at most: by poll(), and by the loop's own timer.
    EXPECT_LE(most, 2U * timers_per_turn_max);
    EXPECT_GT(world.client.statistics().stack.timer_budget, budgets);
    for (base::Ref<Tcb>& tcb : held)
        engine.abort(*tcb);
    held.clear();
}

} // namespace
} // namespace dataplane::net::stack
