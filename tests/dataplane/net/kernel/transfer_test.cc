// Goal: every byte arrives once and in order, both ways at once, whatever the sizes and the pauses.
#include "tests/dataplane/net/kernel/shard_fixture.h"

#include <algorithm>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

namespace dataplane::net::kernel {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t transfer_bytes = 24 << 20;

std::uint64_t seed_of_run() {
    const char* given = std::getenv("MILLRACE_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
}

/// The byte that belongs at this place of the transfer: a repeating pattern whose period no buffer
/// size divides, so that a piece lost, doubled or moved shows.
std::byte byte_at(std::uint64_t place, std::uint64_t seed) {
    return static_cast<std::byte>((place * 131 + (place >> 9) + seed) & 255);
}

base::Task<void> send_pattern(base::Loop& loop, base::Stream& stream, base::SlabPool& pool,
                              std::uint64_t seed, bool& failed) {
    std::mt19937_64 random{seed};
    std::vector<std::byte> bytes;
    std::uint64_t place = 0;
    while (place < transfer_bytes) {
        const std::uint64_t left = transfer_bytes - place;
        if (random() % 2 == 0) {
            bytes.resize(std::min<std::uint64_t>(left, 1 + random() % 60'000));
            for (std::byte& byte : bytes)
                byte = byte_at(place++, seed);
            const auto written = co_await stream.write(bytes, base::Deadline::in(loop, 20s));
            failed = failed || !written;
        } else {
            base::SlabChain chain;
            const std::size_t views = 1 + random() % base::SlabChain::views_max;
            while (chain.views().size() < views && place < transfer_bytes) {
                base::SlabRef slab = pool.take();
                if (!slab) break;
                const auto length = static_cast<std::uint32_t>(std::min<std::uint64_t>(
                    transfer_bytes - place, 1 + random() % pool.slab_bytes()));
                for (std::uint32_t i = 0; i < length; ++i)
                    slab.data()[i] = byte_at(place++, seed);
                chain.push({std::move(slab), 0, length});
            }
            const auto written =
                co_await stream.write(std::move(chain), base::Deadline::in(loop, 20s));
            failed = failed || !written;
        }
        if (failed) co_return;
        if (random() % 64 == 0) co_await base::sleep_for(loop, 1ms);
    }
    const auto drained = co_await stream.drain(base::Deadline::in(loop, 20s));
    failed = failed || !drained;
}

base::Task<void> expect_pattern(base::Loop& loop, base::Stream& stream, std::uint64_t seed,
                                bool& failed) {
    std::mt19937_64 random{seed + 1};
    std::uint64_t place = 0;
    while (place < transfer_bytes) {
        const auto filled = co_await stream.fill(base::Deadline::in(loop, 20s));
        if (!filled) {
            failed = true;
            co_return;
        }
        auto bytes = stream.unread();
        if (random() % 4 == 0) bytes = bytes.first(1 + random() % bytes.size());
        for (const std::byte byte : bytes)
            failed = failed || byte != byte_at(place++, seed);
        stream.consume(bytes.size());
        if (random() % 256 == 0) co_await base::sleep_for(loop, 2ms);
    }
}

base::Task<void> both_ways(base::Loop& loop, base::StreamPtr stream, base::SlabPool& pool,
                           std::uint64_t send_seed, std::uint64_t receive_seed, bool& failed) {
    bool sent = false;
    const auto sender = [](base::Loop& on, base::Stream& to, base::SlabPool& from,
                           std::uint64_t seed, bool& bad, bool& done) -> base::Task<void> {
        co_await send_pattern(on, to, from, seed, bad);
        done = true;
    };
    loop.spawn(sender(loop, *stream, pool, send_seed, failed, sent), "send");
    co_await expect_pattern(loop, *stream, receive_seed, failed);
    while (!sent)
        co_await base::sleep_for(loop, 1ms);
    stream->close();
}

base::Task<void> serve_once(base::Loop& loop, base::Listener& listener, base::SlabPool& pool,
                            std::uint64_t seed, bool& failed) {
    auto stream = co_await listener.accept(base::Deadline::in(loop, 20s));
    failed = failed || !stream;
    if (stream) co_await both_ways(loop, std::move(*stream), pool, seed, seed + 100, failed);
}

base::Task<void> call_once(base::Loop& loop, KernelTransport& transport, base::SocketAddress remote,
                           base::SlabPool& pool, std::uint64_t seed, bool& failed) {
    auto stream = co_await transport.connect(remote, std::nullopt, base::Deadline::in(loop, 20s));
    failed = failed || !stream;
    if (stream) co_await both_ways(loop, std::move(*stream), pool, seed + 100, seed, failed);
}

TEST(KernelTransfer, EveryByteArrivesInOrderBothWaysOnOneShard) {
    const std::uint64_t seed = seed_of_run();
    SCOPED_TRACE("MILLRACE_SEED=" + std::to_string(seed));
    base::SlabPool pool{16384, 512};
    bool failed = false;
    {
        Shard shard;
        const auto listener = shard.listen();
        shard.loop.spawn(serve_once(shard.loop, *listener, pool, seed, failed), "serve");
        shard.loop.spawn(
            call_once(shard.loop, shard.transport, listener->local(), pool, seed, failed), "call");
        EXPECT_TRUE(shard.run_all(40s));
        EXPECT_TRUE(shard.run_until([&] { return shard.transport.connection_count() == 0; }));
        EXPECT_EQ(shard.transport.counters().received_bytes, 2 * transfer_bytes);
        EXPECT_EQ(shard.transport.counters().sent_bytes, 2 * transfer_bytes);
        EXPECT_EQ(shard.transport.free_receive_buffers(), receive_buffers);
        EXPECT_EQ(shard.transport.free_send_chunks(), send_chunks);
    }
    EXPECT_FALSE(failed);
    EXPECT_EQ(pool.free_count(), 512U);
}

TEST(KernelTransfer, EveryByteArrivesInOrderBetweenTwoShards) {
    const std::uint64_t seed = seed_of_run();
    SCOPED_TRACE("MILLRACE_SEED=" + std::to_string(seed));
    bool serve_failed = false;
    bool call_failed = false;
    Shard shard;
    base::SlabPool pool{16384, 512};
    const auto listener = shard.listen();
    const base::SocketAddress remote = listener->local();
    std::thread caller{[&] {
        base::SlabPool caller_pool{16384, 512};
        Shard other;
        other.loop.spawn(
            call_once(other.loop, other.transport, remote, caller_pool, seed, call_failed), "call");
        EXPECT_TRUE(other.run_all(40s));
        EXPECT_TRUE(other.run_until([&] { return other.transport.connection_count() == 0; }));
    }};
    shard.loop.spawn(serve_once(shard.loop, *listener, pool, seed, serve_failed), "serve");
    EXPECT_TRUE(shard.run_all(40s));
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.connection_count() == 0; }));
    caller.join();
    EXPECT_FALSE(serve_failed);
    EXPECT_FALSE(call_failed);
}

} // namespace
} // namespace dataplane::net::kernel
