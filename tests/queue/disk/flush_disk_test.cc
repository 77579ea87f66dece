// flush_disk_test.cc: strategy B: a write is acknowledged when a flush that began after it has succeeded.
#include "dataplane/base/uring.h"
#include "queue/disk/block_memory.h"
#include "queue/disk/flush_coordinator.h"
#include "queue/disk/flush_disk.h"
#include "tests/support/sim_disk.h"
#include "tests/support/sim_net.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <vector>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::SimDisk;
namespace base = dataplane::base;
using Result = std::expected<void, DiskError>;

class FlushDiskTest : public testing::Test {
protected:
    void write(std::uint64_t offset, std::optional<Result>* out) {
        auto writing = [](FlushDisk* to, std::uint64_t at, std::span<const std::byte> bytes,
                          std::optional<Result>* result) -> base::Task<void> {
            auto written = co_await to->write(at, bytes, Durable::yes);
            result->emplace(written);
        };
        loop.spawn(writing(&flushed, offset, block.span(), out), "writer");
    }
    void run(const std::function<bool()>& done, base::Duration limit = 10s) {
        static_cast<void>(tests::run_until(loop, clock, done, limit));
    }
    ~FlushDiskTest() override { loop.drop_tasks(); }

    base::ManualClock clock;
    base::Loop loop{clock};
    SimDisk disk{loop, {.bytes = 4 << 20}};
    FlushDisk flushed{loop, disk};
    BlockMemory block{block_bytes};
};

TEST_F(FlushDiskTest, AcknowledgedWriteIsSafe) {
    std::vector<std::optional<Result>> results(40);
    for (std::size_t i = 0; i < results.size(); ++i)
        write(i * block_bytes, &results[i]);
    for (std::size_t known = 0; known < results.size();) {
        run([&] {
            return std::ranges::count_if(results, [](const auto& r) { return r.has_value(); }) >
                   static_cast<std::ptrdiff_t>(known);
        });
        known = 0;
        for (std::size_t i = 0; i < results.size(); ++i) {
            if (!results[i]) continue;
            ++known;
            ASSERT_TRUE(*results[i]);
            ASSERT_TRUE(disk.safe(i * block_bytes, block_bytes)) << i;
        }
    }
    EXPECT_LT(flushed.flush_count(), 20U) << "one flush is for many";
}

TEST_F(FlushDiskTest, WriteThatLandsDuringAFlushWaitsForTheNext) {
    std::optional<Result> first, second;
    write(0, &first);
    run([&] { return flushed.flush_count() == 1; });
    write(block_bytes, &second);
    run([&] { return second.has_value(); });
    EXPECT_TRUE(first && *first);
    EXPECT_TRUE(*second);
    EXPECT_EQ(flushed.flush_count(), 2U);
}

TEST_F(FlushDiskTest, FailedFlushFailsAllSinceTheLastGoodOne) {
    std::optional<Result> before, in_it, during, after;
    write(0, &before);
    run([&] { return before.has_value(); });
    EXPECT_TRUE(*before);
    disk.fail_flushes(1);
    write(block_bytes, &in_it);
    run([&] { return flushed.flush_count() == 2; });
    write(2 * block_bytes, &during);
    run([&] { return in_it && during; });
    EXPECT_FALSE(*in_it);
    EXPECT_FALSE(*during);
    const std::uint64_t flushes = flushed.flush_count();
    run([] { return false; }, 1s);
    EXPECT_EQ(flushed.flush_count(), flushes) << "nothing is flushed again on their behalf";
    write(3 * block_bytes, &after);
    run([&] { return after.has_value(); });
    EXPECT_TRUE(*after);
}

// --- The thread --------------------------------------------------------------------------------

struct ShardEnd {
    base::RealClock clock;
    base::Loop loop{clock};
    base::Uring ring;
    void turn(const std::function<bool()>& done) {
        const auto limit = std::chrono::steady_clock::now() + 20s;
        while (!done() && std::chrono::steady_clock::now() < limit) {
            ring.poll();
            if (!loop.turn() && !done())
                ring.sleep_until(loop.now(), std::min(loop.next_due(), loop.now() + 10ms));
        }
    }
};

base::Task<void> flush_times(FlushCoordinator::Port* port, int times, int* good, int* bad) {
    for (int i = 0; i < times; ++i) {
        auto flushed = co_await port->flush();
        ++*(flushed ? good : bad);
    }
}

TEST(FlushCoordinator, AnswersEachShardOncePerQuestion) {
    std::atomic<std::uint64_t> descriptors{0};
    FlushCoordinator coordinator([&](const std::vector<int>& all) {
        descriptors += all.size();
        return true;
    });
    constexpr int times = 2000;
    std::atomic<int> answered{0};
    const auto shard = [&](int descriptor) {
        ShardEnd end;
        auto port = coordinator.attach(end.loop, end.ring, descriptor);
        int good = 0, bad = 0;
        end.loop.spawn(flush_times(port.get(), times, &good, &bad), "flusher");
        end.turn([&] { return good + bad == times; });
        answered += good;
        end.loop.drop_tasks();
    };
    std::thread other([&] { shard(2); });
    shard(1);
    other.join();
    EXPECT_EQ(answered, 2 * times);
    EXPECT_EQ(descriptors, 2U * times);
    EXPECT_LE(coordinator.epoch_count(), 2U * times);
}

TEST(FlushCoordinator, OneFailedFlushFailsAllOfItsEpochAndThoseThatCameMeanwhile) {
    std::atomic<int> calls{0};
    std::atomic<bool> both_asked{false};
    FlushCoordinator coordinator([&](const std::vector<int>&) {
        if (++calls > 1) return true;
        while (!both_asked) // the second shard asks while the first one's flush is under way
            std::this_thread::yield();
        return false;
    });
    ShardEnd end;
    auto first = coordinator.attach(end.loop, end.ring, 1);
    auto second = coordinator.attach(end.loop, end.ring, 2);
    int good = 0, bad = 0;
    end.loop.spawn(flush_times(first.get(), 1, &good, &bad), "first");
    end.turn([&] { return calls == 1; });
    end.loop.spawn(flush_times(second.get(), 1, &good, &bad), "second");
    end.turn([&] { return end.loop.idle(); });
    both_asked = true;
    end.turn([&] { return good + bad == 2; });
    EXPECT_EQ(bad, 2);
    EXPECT_EQ(calls, 1) << "and nobody flushes again for them";
    end.loop.spawn(flush_times(second.get(), 1, &good, &bad), "later");
    end.turn([&] { return good == 1; });
    EXPECT_EQ(good, 1);
    end.loop.drop_tasks();
}

} // namespace
