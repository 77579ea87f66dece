#include "dataplane/telemetry/stats.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <new>
#include <sys/mman.h>
#include <system_error>
#include <unistd.h>

namespace dataplane::telemetry {

void Stats::record(Latency latency, base::Duration took) noexcept {
    const auto us = static_cast<std::uint64_t>(std::max<std::int64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(took).count(), 0));
    auto& histogram = page_.latencies[static_cast<std::size_t>(latency)];
    const std::size_t bucket =
        std::min<std::size_t>(std::bit_width(us), control::schema::latency_buckets - 1);
    auto& cell = histogram.buckets[bucket];
    cell.store(cell.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    histogram.sum_us.store(histogram.sum_us.load(std::memory_order_relaxed) + us,
                           std::memory_order_relaxed);
}

StatsFile::StatsFile(const std::string& path, unsigned shard_count, base::WallTime now) {
    CHECK(shard_count <= control::schema::stats_shards_max);
    const std::string fresh = path + ".new";
    const int file = open(fresh.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
    if (file < 0) throw std::system_error(errno, std::generic_category(), fresh);
    if (ftruncate(file, sizeof(control::schema::StatsPage)) != 0) {
        const int error = errno;
        close(file);
        throw std::system_error(error, std::generic_category(), fresh);
    }
    void* memory = mmap(nullptr, sizeof(control::schema::StatsPage), PROT_READ | PROT_WRITE,
                        MAP_SHARED, file, 0);
    const int error = errno;
    close(file);
    if (memory == MAP_FAILED) throw std::system_error(error, std::generic_category(), fresh);
    page_ = new (memory) control::schema::StatsPage{};
    page_->version = control::schema::stats_version;
    page_->page_bytes = sizeof(control::schema::StatsPage);
    page_->shard_count = shard_count;
    page_->process_id = static_cast<std::uint32_t>(getpid());
    page_->started_ms = static_cast<std::uint64_t>(now.time_since_epoch().count());
    page_->magic.store(control::schema::stats_magic, std::memory_order_release);
    if (std::rename(fresh.c_str(), path.c_str()) != 0) {
        throw std::system_error(errno, std::generic_category(), path);
    }
}

StatsFile::~StatsFile() {
    munmap(page_, sizeof(control::schema::StatsPage));
}

control::schema::ShardStats& StatsFile::shard(unsigned index) noexcept {
    CHECK(index < page_->shard_count);
    return page_->shards[index];
}

} // namespace dataplane::telemetry
