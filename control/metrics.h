// metrics.h: the statistics page that the shards write, as Prometheus text and as numbers for
// /status.
//
// Scope      Maps the page, refuses one of another build, sums over the shards. What is counted is
//            listed in schema/stats_layout.h.
// Owns       The mapping; a data plane that starts anew makes a new file, which is mapped when it
//            is seen.
// Threading  One thread at a time per StatsReader.
// Failure    No page, or a foreign one: page() is null, and the metrics say so with millrace_up 0.
#pragma once

#include "control/schema/stats_layout.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <vector>

namespace control {

class StatsReader {
public:
    explicit StatsReader(std::string path) : path_(std::move(path)) {}
    ~StatsReader() { unmap(); }
    StatsReader(const StatsReader&) = delete;
    StatsReader& operator=(const StatsReader&) = delete;

    /// The current page, or null. It lives until the next call.
    [[nodiscard]] const schema::StatsPage* page();

private:
    void unmap() noexcept;
    std::string path_;
    const schema::StatsPage* page_ = nullptr;
    dev_t device_ = 0;
    ino_t inode_ = 0;
};

/// A number that the control process adds of its own.
struct OwnMetric {
    std::string_view name, labels, help, type; // type: "counter" or "gauge"
    std::uint64_t value;
};

/// Prometheus' text format, version 0.0.4. `page` may be null. Metrics of one name stand together.
[[nodiscard]] std::string prometheus_text(const schema::StatsPage* page,
                                          const std::vector<OwnMetric>& own);

/// {"counters":{...},"gauges":{...},"latencies":{...}}; names are the enumerators'.
[[nodiscard]] std::string stats_json(const schema::StatsPage& page);

/// What is counted of our own TCP/IP, shard by shard:
/// {"shards":[{"shard":0,"counters":{...},"gauges":{...}}, ...]}.
[[nodiscard]] std::string net_stats_json(const schema::StatsPage& page);

} // namespace control
