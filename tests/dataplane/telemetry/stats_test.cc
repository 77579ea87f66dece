#include "dataplane/telemetry/stats.h"

#include <cstdlib>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace {

using namespace dataplane::telemetry;
using control::schema::StatsPage;

TEST(StatsFile, AReaderInAnotherMappingSeesWhatTheShardCounts) {
    std::string folder = "/tmp/millrace-stats-XXXXXX";
    ASSERT_NE(mkdtemp(folder.data()), nullptr);
    const std::string path = folder + "/stats.page";
    {
        StatsFile file(path, 2, dataplane::base::WallTime{std::chrono::milliseconds{5}});
        Stats stats{file.shard(1)};
        const int descriptor = open(path.c_str(), O_RDONLY);
        ASSERT_GE(descriptor, 0);
        void* memory = mmap(nullptr, sizeof(StatsPage), PROT_READ, MAP_SHARED, descriptor, 0);
        close(descriptor);
        ASSERT_NE(memory, MAP_FAILED);
        const auto& page = *static_cast<const StatsPage*>(memory);
        EXPECT_EQ(page.magic.load(), control::schema::stats_magic);
        EXPECT_EQ(page.page_bytes, sizeof(StatsPage));
        EXPECT_EQ(page.shard_count, 2U);
        stats.add(Counter::messages_received, 3);
        stats.adjust(Gauge::open_in, 5);
        stats.adjust(Gauge::open_in, -2);
        EXPECT_EQ(
            page.shards[1].counters[static_cast<std::size_t>(Counter::messages_received)].load(),
            3U);
        EXPECT_EQ(page.shards[1].gauges[static_cast<std::size_t>(Gauge::open_in)].load(), 3U);
        EXPECT_EQ(
            page.shards[0].counters[static_cast<std::size_t>(Counter::messages_received)].load(),
            0U);
        munmap(memory, sizeof(StatsPage));
    }
    unlink(path.c_str());
    rmdir(folder.c_str());
}

TEST(Stats, ALatencyLandsInTheBucketBelowItsNextPowerOfTwo) {
    control::schema::ShardStats page{};
    Stats stats{page};
    stats.record(Latency::accept, std::chrono::microseconds{1000}); // below 2^10
    stats.record(Latency::accept,
                 std::chrono::nanoseconds{-5}); // a clock that stepped back counts as 0
    const auto& histogram = page.latencies[static_cast<std::size_t>(Latency::accept)];
    EXPECT_EQ(histogram.buckets[10].load(), 1U);
    EXPECT_EQ(histogram.buckets[0].load(), 1U);
    EXPECT_EQ(histogram.sum_us.load(), 1000U);
}

} // namespace
