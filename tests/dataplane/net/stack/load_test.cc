// Goal: many connections, floods, empty pools and a stuck device: established traffic goes on or recovers by
// itself, what is refused is counted, and at the end nothing is missing.
#include "tests/dataplane/net/stack/world.h"

#include "dataplane/net/stack/engine.h"
#include "dataplane/net/stack/tcp_stream.h"

#include <cstdlib>
#include <random>
#include <vector>

namespace dataplane::net::stack {
namespace {

base::Task<void> converse(World& world, base::SocketAddress remote, std::string text,
                          std::size_t& answered) {
    auto stream = co_await world.client.connect(remote, std::nullopt, world.in(120s));
    if (!stream) co_return;
    const auto written = co_await (*stream)->write(base::as_bytes(text), world.in(120s));
    if (!written) co_return;
    const auto got = co_await read_exactly(**stream, text.size(), world.in(120s));
    if (got && *got == text) ++answered;
    (*stream)->close();
}

TEST(StackLoad, TenThousandConnectionsAtOnceAreAllAnsweredAndAllGoAway) {
    WorldOptions options;
    options.client.receive_slabs = options.server.receive_slabs = 16384;
    options.client.send_slabs = options.server.send_slabs = 16384;
    options.server.half_open_max = 20'000;
    for (SimPortOptions& port : options.link.ports) {
        port.receive_ring = 4096;
        port.receive_buffers = 16384;
    }
    options.link.frame_buffers = 32768;
    World world{options};
    const auto listener = world.listen("10.0.0.2:25", {.backlog = 20'000});
    world.loop.spawn(serve_echo(world.loop, *listener), "serve");
    constexpr std::size_t count = 10'000;
    std::size_t answered = 0;
    for (std::size_t i = 0; i < count; ++i) {
        world.loop.spawn(
            converse(world, listener->local(), "NOOP " + std::to_string(i) + "\r\n", answered),
            "converse");
    }
    std::size_t most = 0;
    EXPECT_TRUE(world.run_until(
        [&] {
            most = std::max(most, world.server.connection_count());
            return answered == count;
        },
        300s));
    EXPECT_EQ(answered, count);
    RecordProperty("most_at_once", static_cast<int>(most));
    world.expect_nothing_left();
}

// All of it: the connection, its handle, its share of a flow table that is about to grow, and what its chunk keeps.
TEST(StackLoad, AnIdleConnectionTakesAtMost768Bytes) {
    constexpr std::size_t table_free_list_and_mark =
        8 + 4 + 1; // a 64-byte bucket for eight, a number, a bool
    EXPECT_LE(sizeof(Tcb) + sizeof(TcpStream) + table_free_list_and_mark, 768U);
}

struct Flood {
    explicit Flood(World& its_world) : world(its_world) {
        world.link.set_tap([this](unsigned from, SimLink::TapPoint point,
                                  std::span<const std::byte> frame, base::TimePoint) {
            const bool tcp = frame.size() >= 54 && frame[12] == std::byte{8} &&
                             frame[13] == std::byte{0} && frame[23] == std::byte{6};
            if (from == 0 && point == SimLink::TapPoint::sent && tcp &&
                (std::to_integer<unsigned>(frame[47]) & 0x3f) == 2 && syn.empty()) {
                syn.assign(frame.begin(), frame.end());
            }
        });
    }
    /// SYNs from ports and sequence numbers of all kinds, whose answers find nobody.
    void send(std::size_t count) {
        for (std::size_t i = 0; i < count; ++i) {
            std::vector<std::byte> one = syn;
            one[29] = std::byte{static_cast<std::uint8_t>(100 + random() % 100)}; // 10.0.0.1xx
            one[34] = static_cast<std::byte>(random());
            one[35] = static_cast<std::byte>(random());
            for (std::size_t at = 38; at < 42; ++at)
                one[at] = static_cast<std::byte>(random());
            fix_checksums(one);
            world.link.deliver(1, one);
        }
    }
    static std::uint32_t add(std::span<const std::byte> bytes, std::uint32_t sum) {
        for (std::size_t i = 0; i < bytes.size(); ++i)
            sum += std::to_integer<std::uint32_t>(bytes[i]) << (i % 2 == 0 ? 8 : 0);
        return sum;
    }
    static void put(std::vector<std::byte>& frame, std::size_t at, std::uint32_t sum) {
        while (sum >> 16 != 0)
            sum = (sum & 0xffff) + (sum >> 16);
        frame[at] = static_cast<std::byte>(~sum >> 8);
        frame[at + 1] = static_cast<std::byte>(~sum);
    }
    static void fix_checksums(std::vector<std::byte>& frame) {
        frame[24] = frame[25] = frame[50] = frame[51] = std::byte{0};
        const std::span all{frame};
        put(frame, 24, add(all.subspan(14, 20), 0));
        const std::size_t total =
            std::to_integer<std::size_t>(frame[16]) << 8 | std::to_integer<std::size_t>(frame[17]);
        const std::size_t tcp_bytes = total - 20;
        std::uint32_t sum = 6 + static_cast<std::uint32_t>(tcp_bytes);
        sum = add(all.subspan(26, 8), sum);
        put(frame, 50, add(all.subspan(34, tcp_bytes), sum));
    }
    World& world;
    std::vector<std::byte> syn;
    std::minstd_rand random{5};
};

TEST(StackLoad, UnderASynFloodEstablishedMailGoesOnAndNewPeersGetInByCookies) {
    WorldOptions options;
    options.server.half_open_max = 64;
    World world{options};
    Flood flood{world};
    const auto listener = world.listen("10.0.0.2:25");
    world.loop.spawn(serve_echo(world.loop, *listener), "serve");
    std::size_t answered = 0;
    world.loop.spawn(converse(world, listener->local(), "before\r\n", answered), "converse");
    ASSERT_TRUE(world.run_until([&] { return answered == 1; }));
    ASSERT_FALSE(flood.syn.empty());
    flood.send(200);
    world.pass(1ms);
    EXPECT_LE(world.server.statistics().half_open, 64U);
    EXPECT_GT(world.server.statistics().stack.cookies_sent, 0U);
    for (int i = 0; i < 40; ++i) {
        flood.send(20);
        world.loop.spawn(converse(world, listener->local(), std::string(3000, 'x'), answered),
                         "converse");
        world.pass(25ms);
    }
    EXPECT_TRUE(world.run_until([&] { return answered == 41; }));
    EXPECT_GE(world.server.statistics().stack.cookies_accepted, 10U);
    EXPECT_LE(world.server.statistics().half_open, 64U);
    world.link.set_tap({});
    world.expect_nothing_left();
}

TEST(StackLoad, SegmentsOfNoConnectionAreAnsweredWithinARate) {
    World world;
    Flood flood{world};
    {
        const auto listener = world.listen();
        std::size_t answered = 0;
        world.loop.spawn(serve_echo(world.loop, *listener), "serve");
        world.loop.spawn(converse(world, listener->local(), "x", answered), "converse");
        ASSERT_TRUE(world.run_until([&] { return answered == 1; }));
        listener->close();
    }
    for (int i = 0; i < 50; ++i) {
        flood.send(100);
        world.pass(1ms);
    }
    const StackCounters counters = world.server.statistics().stack;
    EXPECT_EQ(counters.segments_unknown, 5000U);
    EXPECT_LE(counters.resets_unknown, resets_per_second + 100);
    EXPECT_GE(counters.resets_suppressed, 3500U);
    world.link.set_tap({});
}

base::Task<void> write_much(World& world, base::Stream& stream, std::string_view text) {
    const auto written = co_await stream.write(base::as_bytes(text), world.in(400s));
    EXPECT_TRUE(written);
}

/// Sends more than all buffers on the way hold, while it reads what comes back.
base::Task<void> converse_at_length(World& world, base::SocketAddress remote, std::string_view text,
                                    std::size_t& answered) {
    auto stream = co_await world.client.connect(remote, std::nullopt, world.in(400s));
    if (!stream) co_return;
    world.loop.spawn(write_much(world, **stream, text), "write");
    const auto got = co_await read_exactly(**stream, text.size(), world.in(400s));
    if (got && *got == text) ++answered;
    (*stream)->close();
}

struct FaultTest : testing::Test {
    FaultTest() {
        world.loop.spawn(serve_echo(world.loop, *listener), "serve");
        world.loop.spawn(converse_at_length(world, listener->local(), text, answered), "converse");
    }
    void expect_recovery() {
        EXPECT_TRUE(world.run_until([&] { return answered == 1; }, 200s));
        world.expect_nothing_left();
    }
    World world;
    std::unique_ptr<base::Listener> listener = world.listen();
    const std::string text = std::string(2 << 20, 'm');
    std::size_t answered = 0;
};

// T69
TEST_F(FaultTest, ADeviceThatTakesNothingForTenSecondsIsNotSpunOnAndTrafficRecovers) {
    world.pass(15ms);
    world.link.port(0).faults().ring_full = true;
    const std::uint64_t before = world.loop.counters().turns;
    world.pass(10s);
    EXPECT_LT(world.loop.counters().turns - before, 60'000U);
    EXPECT_GT(world.client.statistics().stack.output_stalls, 0U);
    EXPECT_EQ(answered, 0U);
    world.link.port(0).faults().ring_full = false;
    expect_recovery();
}

// T68
TEST_F(FaultTest, WithoutTransmitBuffersForDataAcknowledgementsStillLeave) {
    world.pass(15ms);
    world.link.port(0).faults().no_buffers = true;
    const std::uint64_t before = world.link.port(0).counters().frames_out;
    world.pass(2s);
    EXPECT_GT(world.link.port(0).counters().frames_out, before);
    EXPECT_EQ(answered, 0U);
    world.link.port(0).faults().no_buffers = false;
    expect_recovery();
}

TEST_F(FaultTest, ADeviceThatFinishesNothingForAWhileGivesSlabsBackWhenItGoesOn) {
    world.pass(15ms);
    world.link.port(1).faults().stuck = true;
    world.pass(5s);
    world.link.port(1).faults().stuck = false;
    expect_recovery();
}

base::Task<void> leave(World& world, base::SocketAddress remote, unsigned how) {
    const base::Duration limit = how % 10 == 7 ? 1ms : 20s;
    auto stream = co_await world.client.connect(remote, std::nullopt, world.in(limit));
    if (!stream) co_return;
    switch (how % 10) {
    case 0:
        co_return; // dropped while open
    case 1:
        (*stream)->abort();
        co_return;
    case 2:
        (*stream)->close();
        co_return;
    case 3: { // half-close, then wait for the end
        const auto shut = co_await (*stream)->shutdown_write(world.in(20s));
        if (!shut) co_return;
        const auto end = co_await (*stream)->fill(world.in(20s));
        static_cast<void>(end);
        (*stream)->close();
        co_return;
    }
    case 4: { // data, then gone without reading the answer
        const std::string text(5000, 'x');
        const auto written = co_await (*stream)->write(base::as_bytes(text), world.in(20s));
        if (written) co_await base::sleep_for(world.loop, 10ms);
        (*stream)->close();
        co_return;
    }
    case 5: { // a read that times out
        const auto filled = co_await (*stream)->fill(world.in(3ms));
        static_cast<void>(filled);
        co_return;
    }
    default: {
        const std::string text(100, 'x');
        const auto written = co_await (*stream)->write(base::as_bytes(text), world.in(20s));
        if (!written) co_return;
        const auto got = co_await read_exactly(**stream, text.size(), world.in(20s));
        static_cast<void>(got);
        (*stream)->close();
    }
    }
}

// T59. MILLRACE_CYCLES says how many; a million take some minutes.
TEST(StackLoad, TwentyThousandConnectionsOverEveryWayToEndLeaveNothingBehind) {
    const char* const asked = std::getenv("MILLRACE_CYCLES");
    const unsigned long cycles = asked != nullptr ? std::strtoul(asked, nullptr, 10) : 20'000;
    WorldOptions options;
    options.server.half_open_max = 32;
    options.client.tcp.time_wait = options.server.tcp.time_wait = 1s;
    options.server.time_wait_max = options.client.time_wait_max = 50; // T55
    options.link.lines[0].loss = options.link.lines[1].loss = 0.01;
    World world{options};
    const auto listener = world.listen("10.0.0.2:25", {.backlog = 64, .connections_max = 150});
    world.loop.spawn(serve_echo(world.loop, *listener), "serve");
    const base::SocketAddress closed_port = *base::SocketAddress::parse("10.0.0.2:26");
    for (unsigned i = 0; i < cycles; i += 40) {
        for (unsigned j = 0; j < 40; ++j) {
            world.loop.spawn(leave(world, j % 20 == 9 ? closed_port : listener->local(), i + j),
                             "leave");
        }
        world.pass(20ms);
        ASSERT_LE(world.client.statistics().time_waiting, 50U);
        ASSERT_FALSE(HasFatalFailure());
    }
    EXPECT_TRUE(world.run_until([&] { return world.loop.spawned_count() == 1; }, 300s));
    EXPECT_GT(world.client.statistics().time_wait.evicted +
                  world.server.statistics().time_wait.evicted,
              0U);
    world.expect_nothing_left();
}

} // namespace
} // namespace dataplane::net::stack
