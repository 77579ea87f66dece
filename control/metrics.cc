#include "control/metrics.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <fcntl.h>
#include <map>
#include <nlohmann/json.hpp>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace control {
namespace {

using schema::Counter;
using schema::Gauge;
using schema::Latency;

struct Series {
    std::string_view key, name, labels, help;
};

constexpr std::array counter_series{
#define X(enumerator, name, labels, help) Series{#enumerator, name, labels, help},
    MILLRACE_COUNTERS(X)
#undef X
};
constexpr std::array gauge_series{
#define X(enumerator, name, labels, help) Series{#enumerator, name, labels, help},
    MILLRACE_GAUGES(X)
#undef X
};
constexpr std::array latency_series{
    Series{"accept", "millrace_accept_latency_seconds", "",
           "from the end of the content to the 250"},
    Series{"delivery", "millrace_delivery_latency_seconds", "",
           "from the 250 to the final reply of the receiving host"},
};
static_assert(counter_series.size() == static_cast<std::size_t>(Counter::count));
static_assert(gauge_series.size() == static_cast<std::size_t>(Gauge::count));
static_assert(latency_series.size() == static_cast<std::size_t>(Latency::count));

std::uint32_t shard_count(const schema::StatsPage& page) {
    return std::min<std::uint32_t>(page.shard_count, schema::stats_shards_max);
}

template <class Pick>
std::uint64_t sum(const schema::StatsPage& page, Pick pick) {
    std::uint64_t total = 0;
    for (std::uint32_t shard = 0; shard < shard_count(page); ++shard)
        total += pick(page.shards[shard]);
    return total;
}

std::uint64_t counter(const schema::StatsPage& page, std::size_t index) {
    return sum(page, [&](const schema::ShardStats& shard) {
        return shard.counters[index].load(std::memory_order_relaxed);
    });
}

std::uint64_t gauge(const schema::StatsPage& page, std::size_t index) {
    if (index == static_cast<std::size_t>(Gauge::policy_version)) {
        // The oldest in use, not a sum: it shows a shard that is left behind.
        std::uint64_t oldest = shard_count(page) == 0 ? 0 : UINT64_MAX;
        for (std::uint32_t shard = 0; shard < shard_count(page); ++shard) {
            oldest =
                std::min(oldest, page.shards[shard].gauges[index].load(std::memory_order_relaxed));
        }
        return oldest;
    }
    if (index == static_cast<std::size_t>(Gauge::spool_level) ||
        index == static_cast<std::size_t>(Gauge::spool_used_percent)) {
        std::uint64_t worst = 0; // of the shards: each has a pool of its own
        for (std::uint32_t shard = 0; shard < shard_count(page); ++shard)
            worst =
                std::max(worst, page.shards[shard].gauges[index].load(std::memory_order_relaxed));
        return worst;
    }
    if (index == static_cast<std::size_t>(Gauge::oldest_arrival) ||
        index == static_cast<std::size_t>(Gauge::spool_seconds_to_full)) {
        std::uint64_t oldest = 0; // the least, of the shards that have one
        for (std::uint32_t shard = 0; shard < shard_count(page); ++shard) {
            const std::uint64_t each =
                page.shards[shard].gauges[index].load(std::memory_order_relaxed);
            if (each != 0) oldest = oldest == 0 ? each : std::min(oldest, each);
        }
        return oldest;
    }
    return sum(page, [&](const schema::ShardStats& shard) {
        return shard.gauges[index].load(std::memory_order_relaxed);
    });
}

struct Histogram {
    std::array<std::uint64_t, schema::latency_buckets> buckets{};
    std::uint64_t count = 0, sum_us = 0;
};

Histogram histogram(const schema::StatsPage& page, std::size_t index) {
    Histogram total;
    for (std::uint32_t shard = 0; shard < shard_count(page); ++shard) {
        const auto& from = page.shards[shard].latencies[index];
        for (std::size_t bucket = 0; bucket < total.buckets.size(); ++bucket) {
            const std::uint64_t value = from.buckets[bucket].load(std::memory_order_relaxed);
            total.buckets[bucket] += value;
            total.count += value;
        }
        total.sum_us += from.sum_us.load(std::memory_order_relaxed);
    }
    return total;
}

/// The upper bound of the bucket in which the given share of all values ends.
std::uint64_t quantile_us(const Histogram& from, double share) {
    const auto rank = static_cast<std::uint64_t>(static_cast<double>(from.count) * share);
    std::uint64_t below = 0;
    for (std::size_t bucket = 0; bucket < from.buckets.size(); ++bucket) {
        below += from.buckets[bucket];
        if (from.count != 0 && below > rank) return std::uint64_t{1} << bucket;
    }
    return 0;
}

std::string seconds_text(double seconds) {
    std::array<char, 32> text{};
    std::snprintf(text.data(), text.size(), "%.6f", seconds);
    std::string trimmed = text.data();
    trimmed.erase(trimmed.find_last_not_of('0') + 1);
    if (trimmed.ends_with('.')) trimmed.pop_back();
    return trimmed;
}

/// Collects series so that each name has one HELP and TYPE, and its samples follow.
class Text {
public:
    void add(std::string_view name, std::string_view labels, std::string_view help,
             std::string_view type, std::uint64_t value) {
        Family& family = families_[std::string{name}];
        if (family.samples.empty()) {
            order_.push_back(std::string{name});
            family.type = type;
        }
        // Several counters share a name, told apart by labels: its help is all of theirs.
        if (!help.empty()) family.help += (family.help.empty() ? "" : "; ") + std::string{help};
        family.samples += std::string{name} +
                          (labels.empty() ? "" : "{" + std::string{labels} + "}") + " " +
                          std::to_string(value) + "\n";
    }
    [[nodiscard]] std::string take() {
        std::string text;
        for (const std::string& name : order_) {
            const Family& family = families_[name];
            text += "# HELP " + name + " " + family.help + "\n# TYPE " + name + " " + family.type +
                    "\n" + family.samples;
        }
        return text;
    }

private:
    struct Family {
        std::string help, type, samples;
    };
    std::map<std::string, Family> families_;
    std::vector<std::string> order_;
};

std::string histogram_text(const Series& series, const Histogram& values) {
    const std::string name{series.name};
    std::string text =
        "# HELP " + name + " " + std::string{series.help} + "\n# TYPE " + name + " histogram\n";
    std::uint64_t below = 0;
    for (std::size_t bucket = 0; bucket + 1 < values.buckets.size(); ++bucket) {
        below += values.buckets[bucket];
        // Bucket i holds whole microseconds below 2^i.
        text += name + "_bucket{le=\"" +
                seconds_text(static_cast<double>(std::uint64_t{1} << bucket) / 1e6) + "\"} " +
                std::to_string(below) + "\n";
    }
    text += name + "_bucket{le=\"+Inf\"} " + std::to_string(values.count) + "\n";
    text += name + "_sum " + seconds_text(static_cast<double>(values.sum_us) / 1e6) + "\n";
    return text + name + "_count " + std::to_string(values.count) + "\n";
}

} // namespace

const schema::StatsPage* StatsReader::page() {
    struct stat status{};
    if (stat(path_.c_str(), &status) != 0) {
        unmap();
        return nullptr;
    }
    if (page_ != nullptr && status.st_ino == inode_ && status.st_dev == device_) return page_;
    unmap();
    if (status.st_size != static_cast<off_t>(sizeof(schema::StatsPage)))
        return nullptr; // reading past it would be SIGBUS
    const int file = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) return nullptr;
    void* memory = mmap(nullptr, sizeof(schema::StatsPage), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED) return nullptr;
    page_ = static_cast<const schema::StatsPage*>(memory);
    inode_ = status.st_ino;
    device_ = status.st_dev;
    const bool ours = page_->magic.load(std::memory_order_acquire) == schema::stats_magic &&
                      page_->version == schema::stats_version &&
                      page_->page_bytes == sizeof(schema::StatsPage);
    if (!ours) unmap();
    return page_;
}

void StatsReader::unmap() noexcept {
    if (page_ != nullptr) munmap(const_cast<schema::StatsPage*>(page_), sizeof(schema::StatsPage));
    page_ = nullptr;
}

std::string prometheus_text(const schema::StatsPage* page, const std::vector<OwnMetric>& own) {
    Text text;
    for (const OwnMetric& metric : own)
        text.add(metric.name, metric.labels, metric.help, metric.type, metric.value);
    if (page == nullptr) return text.take();
    text.add("millrace_shards", "", "shards of the data plane", "gauge", shard_count(*page));
    text.add("millrace_start_time_seconds", "", "when the data plane started, Unix time", "gauge",
             page->started_ms / 1000);
    for (std::size_t index = 0; index < counter_series.size(); ++index) {
        const Series& series = counter_series[index];
        text.add(series.name, series.labels, series.help, "counter", counter(*page, index));
    }
    for (std::size_t index = 0; index < gauge_series.size(); ++index) {
        const Series& series = gauge_series[index];
        text.add(series.name, series.labels, series.help, "gauge", gauge(*page, index));
    }
    std::string result = text.take();
    for (std::size_t index = 0; index < latency_series.size(); ++index) {
        result += histogram_text(latency_series[index], histogram(*page, index));
    }
    return result;
}

std::string stats_json(const schema::StatsPage& page) {
    nlohmann::ordered_json result{{"shards", shard_count(page)},
                                  {"process_id", page.process_id},
                                  {"started_ms", page.started_ms},
                                  {"counters", nlohmann::ordered_json::object()},
                                  {"gauges", nlohmann::ordered_json::object()},
                                  {"latencies", nlohmann::ordered_json::object()}};
    for (std::size_t index = 0; index < counter_series.size(); ++index) {
        result["counters"][std::string{counter_series[index].key}] = counter(page, index);
    }
    for (std::size_t index = 0; index < gauge_series.size(); ++index) {
        result["gauges"][std::string{gauge_series[index].key}] = gauge(page, index);
    }
    for (std::size_t index = 0; index < latency_series.size(); ++index) {
        const Histogram values = histogram(page, index);
        result["latencies"][std::string{latency_series[index].key}] = {
            {"count", values.count},
            {"mean_us", values.count == 0 ? 0 : values.sum_us / values.count},
            {"p50_us_below", quantile_us(values, 0.50)},
            {"p99_us_below", quantile_us(values, 0.99)},
            {"p999_us_below", quantile_us(values, 0.999)}};
    }
    return result.dump();
}

std::string net_stats_json(const schema::StatsPage& page) {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (std::uint32_t index = 0; index < shard_count(page); ++index) {
        const schema::ShardStats& from = page.shards[index];
        nlohmann::ordered_json counters, gauges;
#define X(enumerator, name, labels, help)                                                          \
    counters[#enumerator] = from.counters[static_cast<std::size_t>(Counter::enumerator)].load(     \
        std::memory_order_relaxed);
        MILLRACE_NET_COUNTERS(X)
#undef X
#define X(enumerator, name, labels, help)                                                          \
    gauges[#enumerator] =                                                                          \
        from.gauges[static_cast<std::size_t>(Gauge::enumerator)].load(std::memory_order_relaxed);
        MILLRACE_NET_GAUGES(X)
#undef X
        list.push_back(
            {{"shard", index}, {"counters", std::move(counters)}, {"gauges", std::move(gauges)}});
    }
    return nlohmann::ordered_json{{"shards", std::move(list)}}.dump();
}

} // namespace control
