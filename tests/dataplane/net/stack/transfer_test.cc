// Goal: every byte arrives once and in order, both ways at once, over lines that lose, reorder, repeat and
// damage frames. Method: seeds; each run draws its line, its sizes and its pauses from one, finds its neighbours
// on that line, and is looked at after every event. MILLRACE_SEEDS says how many (100000 is a good night's work),
// MILLRACE_SEED the first.
#include "tests/dataplane/net/stack/world.h"

#include "dataplane/base/frame_pool.h"
#include "dataplane/net/stack/engine.h"
#include "dataplane/net/stack/tcp_stream.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <unistd.h>
#include <vector>

namespace dataplane::net::stack {
namespace {

std::uint64_t number_from(const char* name, std::uint64_t otherwise) {
    const char* given = std::getenv(name);
    return given != nullptr ? std::strtoull(given, nullptr, 10) : otherwise;
}

/// The byte that belongs at this place of the transfer: a pattern whose period no buffer size divides.
std::byte byte_at(std::uint64_t place, std::uint64_t seed) {
    return static_cast<std::byte>((place * 131 + (place >> 9) + seed) & 255);
}

/// For the message of a CHECK that ends the process.
std::uint64_t running_seed = 0;

void tell_seed(int) {
    char text[64];
    const int length =
        std::snprintf(text, sizeof text, "MILLRACE_SEED=%llu MILLRACE_SEEDS=1 repeats it\n",
                      static_cast<unsigned long long>(running_seed));
    static_cast<void>(!::write(2, text, static_cast<std::size_t>(length)));
    std::signal(SIGABRT, SIG_DFL);
    std::abort();
}

base::SlabPool& body_slabs() { // outlives the ports that hold some of it
    static base::SlabPool slabs{16384, 512};
    return slabs;
}

base::Task<void> send_pattern(base::Loop& loop, base::Stream& stream, std::uint64_t bytes_total,
                              std::uint64_t seed, bool& failed) {
    std::mt19937_64 random{seed};
    std::vector<std::byte> bytes;
    std::uint64_t place = 0;
    while (place < bytes_total) {
        if (random() % 2 == 0) {
            bytes.resize(std::min<std::uint64_t>(bytes_total - place, 1 + random() % 60'000));
            for (std::byte& byte : bytes)
                byte = byte_at(place++, seed);
            const auto written = co_await stream.write(bytes, base::Deadline::in(loop, 1000s));
            failed = failed || !written;
        } else {
            base::SlabChain chain;
            const std::size_t views = 1 + random() % 4;
            while (chain.views().size() < views && place < bytes_total) {
                base::SlabRef slab = body_slabs().take();
                if (!slab) break;
                const auto length = static_cast<std::uint32_t>(
                    std::min<std::uint64_t>(bytes_total - place, 1 + random() % slab.capacity()));
                for (std::uint32_t i = 0; i < length; ++i)
                    slab.data()[i] = byte_at(place++, seed);
                chain.push({std::move(slab), 0, length});
            }
            const auto written =
                co_await stream.write(std::move(chain), base::Deadline::in(loop, 1000s));
            failed = failed || !written;
        }
        if (failed) co_return;
        if (random() % 16 == 0) co_await base::sleep_for(loop, 3ms);
    }
}

base::Task<void> expect_pattern(base::Loop& loop, base::Stream& stream, std::uint64_t bytes_total,
                                std::uint64_t seed, bool& failed) {
    std::mt19937_64 random{seed + 1};
    std::uint64_t place = 0;
    while (place < bytes_total) {
        const auto filled = co_await stream.fill(base::Deadline::in(loop, 1000s));
        if (!filled) {
            failed = true;
            co_return;
        }
        auto bytes = stream.unread();
        if (random() % 4 == 0) {
            bytes = bytes.first(std::min<std::size_t>(bytes.size(), 1 + random() % 3000));
        }
        for (const std::byte byte : bytes)
            if (byte != byte_at(place++, seed)) failed = true;
        stream.consume(bytes.size());
        if (random() % 32 == 0) co_await base::sleep_for(loop, 5ms);
    }
    if (place != bytes_total) failed = true;
    const auto end = co_await stream.fill(base::Deadline::in(loop, 1000s));
    if (end || end.error() != base::NetError::end_of_stream) failed = true;
}

base::Task<void> send_and_shut(base::Loop& loop, base::Stream& stream, std::uint64_t bytes_total,
                               std::uint64_t seed, bool& failed) {
    co_await send_pattern(loop, stream, bytes_total, seed, failed);
    const auto shut = co_await stream.shutdown_write(base::Deadline::in(loop, 1000s));
    failed = failed || !shut;
}

/// What must hold after every event, for every connection there is; the engine's and the sender's own checks
/// end the process, after the seed has been printed.
void expect_invariants(Stack& stack) {
    stack.engine().debug_check();
    std::array<ConnectionView, 8> views;
    std::size_t cursor = 0;
    while (const std::size_t count = stack.list(views, cursor)) {
        for (std::size_t i = 0; i < count; ++i) {
            const ConnectionView& view = views[i];
            EXPECT_GT(view.mss, 0U);
            EXPECT_GE(view.cwnd, std::min<std::uint32_t>(view.mss, 1));
            EXPECT_LE(view.unsent_bytes, (256U << 10) + 16384U * 4);
            // Data in flight and no timer would be a connection that waits for ever.
            if (view.flight_bytes > 0) {
                EXPECT_NE(stack.next_due(), base::TimePoint::max());
            }
        }
        if (count < views.size()) break;
    }
    const StackStatistics all = stack.statistics();
    EXPECT_LE(all.send_slabs_free, all.send_slabs_total);
    EXPECT_LE(all.flow_table_entries - all.time_waiting, all.connections);
}

void transfer(WorldOptions options, std::uint64_t bytes, std::uint64_t seed) {
    SCOPED_TRACE("MILLRACE_SEED=" + std::to_string(seed) + " MILLRACE_SEEDS=1 repeats it");
    running_seed = seed;
    bool failed = false;
    World world{options};
    {
        if (seed % 3 == 0) { // otherwise both sides have to find each other on the bad line, too
            for (const auto& one : options.server_ip.addresses)
                world.client.learn(one.ip, options.link.ports[1].mac);
            for (const auto& one : options.client_ip.addresses)
                world.server.learn(one.ip, options.link.ports[0].mac);
        }
        const bool six = seed % 2 == 1;
        const auto listener = world.listen(six ? "[fd00::2]:25" : "10.0.0.2:25");
        Connected opened, accepted;
        world.loop.spawn(accept_once(*listener, world.in(500s), accepted), "accept");
        // A question about a neighbour that is lost three times is "unreachable": asked again, as mail is.
        for (int attempt = 0; attempt < 10 && (!opened || !*opened); ++attempt) {
            if (opened) {
                EXPECT_EQ(opened->error(), base::NetError::unreachable);
                opened.reset();
                world.pass(5s);
            }
            world.loop.spawn(
                connect_once(world.client, listener->local(), std::nullopt, world.in(500s), opened),
                "connect");
            ASSERT_TRUE(world.run_until([&] { return opened.has_value(); }, 600s));
        }
        ASSERT_TRUE(world.run_until([&] { return accepted.has_value(); }, 600s));
        ASSERT_TRUE(*opened) << base::to_string(opened->error());
        ASSERT_TRUE(*accepted);
        base::StreamPtr a = std::move(**opened), b = std::move(**accepted);
        world.loop.spawn(send_and_shut(world.loop, *a, bytes, seed, failed), "a sends");
        world.loop.spawn(send_and_shut(world.loop, *b, bytes, seed + 7, failed), "b sends");
        world.loop.spawn(expect_pattern(world.loop, *a, bytes, seed + 7, failed), "a reads");
        world.loop.spawn(expect_pattern(world.loop, *b, bytes, seed, failed), "b reads");
        EXPECT_TRUE(world.run_until(
            [&] {
                expect_invariants(world.client);
                expect_invariants(world.server);
                return failed || world.loop.spawned_count() == 0;
            },
            3600s + std::chrono::seconds{bytes / 20'000}));
        EXPECT_FALSE(failed);
        if (failed || testing::Test::HasFailure()) world.loop.drop_tasks();
        a->close();
        b->close();
    }
    world.expect_nothing_left();
    EXPECT_EQ(body_slabs().free_count(), body_slabs().slab_count());
}

TEST(StackTransfer, EveryByteArrivesInOrderBothWaysOnACleanLine) {
    transfer({}, 4 << 20, number_from("MILLRACE_SEED", 1));
}

TEST(StackTransfer, EveryByteArrivesWithoutAnyOffload) {
    WorldOptions options;
    for (SimPortOptions& port : options.link.ports)
        port.tso = port.transmit_checksum = port.receive_checksum = false;
    options.link.ports[0].completion_delay = options.link.ports[1].completion_delay = 4ms;
    transfer(options, 1 << 20, 2);
}

// T21. MILLRACE_BYTES=1073741824 is the whole gigabyte.
TEST(StackTransfer, NothingStallsAtFivePercentLoss) {
    WorldOptions options;
    options.link.lines[0].delay = options.link.lines[1].delay = 10ms;
    options.link.lines[0].loss = options.link.lines[1].loss = 0.05;
    transfer(options, number_from("MILLRACE_BYTES", 2 << 20), 21);
}

// T20
TEST(StackTransfer, EveryByteArrivesOverBadLinesOfManySeeds) {
    const std::uint64_t first = number_from("MILLRACE_SEED", 100);
    const std::uint64_t count = number_from("MILLRACE_SEEDS", base::frames_are_pooled ? 2000 : 100);
    std::signal(SIGABRT, &tell_seed);
    for (std::uint64_t seed = first; seed < first + count; ++seed) {
        std::mt19937_64 random{seed};
        const auto chance = [&](double most) {
            return most * static_cast<double>(random() % 1000) / 1000;
        };
        WorldOptions options;
        options.link.seed = seed;
        for (ImpairmentOptions& line : options.link.lines) {
            line.delay = std::chrono::microseconds{random() % 40'000};
            line.jitter = std::chrono::microseconds{random() % 3000};
            if (random() % 2 == 0) line.loss = chance(0.15);
            if (random() % 3 == 0) line.reorder = chance(0.1);
            if (random() % 3 == 0) line.duplicate = chance(0.1);
            if (random() % 3 == 0) line.corrupt = chance(0.03);
            if (random() % 4 == 0) {
                line.rate_bits_per_s = 5'000'000 + random() % 50'000'000;
                line.queue_bytes = 30'000 + random() % 100'000;
            }
        }
        options.server.tcp.ecn = random() % 2 == 0;
        options.client.tcp.timestamps = random() % 3 != 0;
        options.client.tcp.sack = random() % 4 != 0;
        if (random() % 4 == 0) options.server.tcp.receive_bytes_max = 16'384;
        // Mostly what mail is; one in twenty for as long as it takes to leave slow start.
        const std::uint64_t bytes =
            random() % 20 == 0 ? 20'000 + random() % 200'000 : random() % 12'000;
        transfer(options, bytes, seed);
        if (testing::Test::HasFailure()) {
            std::printf("MILLRACE_SEED=%llu MILLRACE_SEEDS=1 repeats it\n",
                        static_cast<unsigned long long>(seed));
            break;
        }
    }
    std::signal(SIGABRT, SIG_DFL);
}

} // namespace
} // namespace dataplane::net::stack
