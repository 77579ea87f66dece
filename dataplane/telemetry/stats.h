// stats.h: a shard's own line of the statistics page.
//
// Scope      Count, gauge, record a latency; create and map the page. What is counted is listed in
//            control/schema/stats_layout.h.
// Owns       StatsFile owns the mapping. Stats borrows its ShardStats.
// Threading  Stats: its shard only (plain load + store, no locked instruction). Readers may look anytime.
// Failure    StatsFile::create throws std::system_error at start-up.
#pragma once

#include "control/schema/stats_layout.h"
#include "dataplane/base/clock.h"

#include <cstdint>
#include <memory>
#include <string>

namespace dataplane::telemetry {

using control::schema::Counter;
using control::schema::Gauge;
using control::schema::Latency;

class Stats {
public:
    explicit Stats(control::schema::ShardStats& page) noexcept : page_(page) {}

    void add(Counter counter, std::uint64_t amount = 1) noexcept {
        auto& cell = page_.counters[static_cast<std::size_t>(counter)];
        cell.store(cell.load(std::memory_order_relaxed) + amount, std::memory_order_relaxed);
    }
    void set(Counter counter, std::uint64_t value) noexcept { // for counters kept elsewhere
        page_.counters[static_cast<std::size_t>(counter)].store(value, std::memory_order_relaxed);
    }
    void set(Gauge gauge, std::uint64_t value) noexcept {
        page_.gauges[static_cast<std::size_t>(gauge)].store(value, std::memory_order_relaxed);
    }
    void adjust(Gauge gauge, std::int64_t by) noexcept {
        auto& cell = page_.gauges[static_cast<std::size_t>(gauge)];
        cell.store(cell.load(std::memory_order_relaxed) + static_cast<std::uint64_t>(by),
                   std::memory_order_relaxed);
    }
    void record(Latency latency, base::Duration took) noexcept;
    [[nodiscard]] std::uint64_t get(Counter counter) const noexcept {
        return page_.counters[static_cast<std::size_t>(counter)].load(std::memory_order_relaxed);
    }

private:
    control::schema::ShardStats& page_;
};

/// The page as a file that control maps: made anew at each start, published by rename.
class StatsFile {
public:
    StatsFile(const std::string& path, unsigned shard_count, base::WallTime now);
    ~StatsFile();
    StatsFile(const StatsFile&) = delete;
    StatsFile& operator=(const StatsFile&) = delete;
    [[nodiscard]] control::schema::ShardStats& shard(unsigned index) noexcept;

private:
    control::schema::StatsPage* page_;
};

} // namespace dataplane::telemetry
