// Goal: a warm shard answers without calling malloc: no allocation for a read, a write, a timer, a
// wait, or for a connection that comes and goes. Method: this binary counts operator new.
#include "dataplane/base/frame_pool.h"
#include "tests/dataplane/net/kernel/counting_new.h"
#include "tests/dataplane/net/kernel/shard_fixture.h"

#include <algorithm>
#include <vector>

namespace dataplane::net::kernel {
namespace {

using namespace std::chrono_literals;

/// Asks and waits for the answer, `rounds` times; every tenth time with slabs, and it counts what
/// it did.
base::Task<void> converse(Shard& shard, base::Stream& stream, base::SlabPool& pool, int rounds,
                          std::uint64_t& round_trips) {
    for (int i = 0; i < rounds; ++i) {
        constexpr std::string_view line = "NOOP and some more of it\r\n";
        if (i % 10 == 0) {
            base::SlabRef slab = pool.take();
            std::copy(line.begin(), line.end(), reinterpret_cast<char*>(slab.data()));
            base::SlabChain chain;
            chain.push({std::move(slab), 0, static_cast<std::uint32_t>(line.size())});
            const auto written = co_await stream.write(std::move(chain), shard.in(5s));
            if (!written) co_return;
        } else {
            const auto written = co_await stream.write(base::as_bytes(line), shard.in(5s));
            if (!written) co_return;
        }
        std::size_t got = 0;
        while (got < line.size()) {
            const auto filled = co_await stream.fill(shard.in(5s));
            if (!filled) co_return;
            got += stream.unread().size();
            stream.consume(stream.unread().size());
        }
        ++round_trips;
    }
}

base::Task<void> call(Shard& shard, base::SocketAddress remote, base::StreamPtr& out) {
    auto stream = co_await shard.transport.connect(remote, std::nullopt, shard.in(5s));
    if (stream) out = std::move(*stream);
}

base::Task<void> call_and_leave(Shard& shard, base::SocketAddress remote, base::SlabPool& pool,
                                std::uint64_t& round_trips) {
    auto stream = co_await shard.transport.connect(remote, std::nullopt, shard.in(5s));
    if (!stream) co_return;
    co_await converse(shard, **stream, pool, 1, round_trips);
    (*stream)->close();
}

TEST(KernelAllocation, TenThousandRoundTripsOfAWarmShardAllocateNothing) {
    if (!base::frames_are_pooled)
        GTEST_SKIP() << "AddressSanitizer builds do not pool coroutine frames";
    constexpr int connections = 20;
    base::SlabPool pool{4096, 64};
    Shard shard;
    const auto listener = shard.listen();
    shard.loop.spawn(serve_echo(shard.loop, *listener), "serve");
    std::vector<base::StreamPtr> streams(connections);
    for (base::StreamPtr& stream : streams)
        shard.loop.spawn(call(shard, listener->local(), stream), "call");
    ASSERT_TRUE(shard.run_until([&] {
        return std::ranges::all_of(streams, [](const auto& stream) { return stream != nullptr; }) &&
               shard.loop.spawned_count() == connections + 1; // each with its echo
    }));
    std::uint64_t round_trips = 0;
    const auto run = [&](int rounds) {
        for (base::StreamPtr& stream : streams) {
            shard.loop.spawn(converse(shard, *stream, pool, rounds, round_trips), "converse");
        }
        return shard.run_until([&] { return shard.loop.spawned_count() == connections + 1; });
    };
    ASSERT_TRUE(run(20));
    const std::uint64_t before = allocation_count();
    round_trips = 0;
    const bool finished = run(10'000 / connections);
    const std::uint64_t allocations = allocation_count() - before;
    EXPECT_TRUE(finished);
    EXPECT_EQ(round_trips, 10'000U);
    EXPECT_EQ(allocations, 0U);
    for (base::StreamPtr& stream : streams)
        stream->close();
}

TEST(KernelAllocation, ConnectionsThatComeAndGoOnAWarmShardAllocateNothing) {
    if (!base::frames_are_pooled)
        GTEST_SKIP() << "AddressSanitizer builds do not pool coroutine frames";
    base::SlabPool pool{4096, 64};
    Shard shard;
    const auto listener = shard.listen();
    shard.loop.spawn(serve_echo(shard.loop, *listener), "serve");
    std::uint64_t round_trips = 0;
    const auto run = [&](int calls) {
        for (int i = 0; i < calls; ++i) {
            for (int j = 0; j < 10; ++j) {
                shard.loop.spawn(call_and_leave(shard, listener->local(), pool, round_trips),
                                 "call");
            }
            if (!shard.run_until([&] {
                    return shard.transport.connection_count() == 0 &&
                           shard.loop.spawned_count() == 1;
                })) {
                return false;
            }
        }
        return true;
    };
    ASSERT_TRUE(run(20));
    const std::uint64_t before = allocation_count();
    round_trips = 0;
    const bool finished = run(50);
    const std::uint64_t allocations = allocation_count() - before;
    EXPECT_TRUE(finished);
    EXPECT_EQ(round_trips, 500U);
    EXPECT_EQ(allocations, 0U);
}

} // namespace
} // namespace dataplane::net::kernel
