// metrics_test.cc: the statistics page as Prometheus reads it.

#include "control/metrics.h"
#include "tests/control/temp_folder.h"

#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

namespace control {
namespace {

std::unique_ptr<schema::StatsPage> page_of_two() {
    auto page = std::make_unique<schema::StatsPage>();
    page->magic = schema::stats_magic;
    page->version = schema::stats_version;
    page->page_bytes = sizeof(schema::StatsPage);
    page->shard_count = 2;
    for (std::size_t shard = 0; shard < 2; ++shard) {
        page->shards[shard].counters[static_cast<std::size_t>(schema::Counter::messages_received)] =
            10 + shard;
        page->shards[shard].gauges[static_cast<std::size_t>(schema::Gauge::policy_version)] =
            7 + shard;
    }
    auto& accept = page->shards[1].latencies[static_cast<std::size_t>(schema::Latency::accept)];
    accept.buckets[3] = 4;  // below 8 us
    accept.buckets[10] = 1; // below 1,024 us
    accept.sum_us = 1024;
    return page;
}

TEST(Metrics, EveryNameHasOneHelpAndTypeBeforeItsSamples) {
    const auto page = page_of_two();
    std::istringstream lines(
        prometheus_text(page.get(), {{"millrace_up", "", "help", "gauge", 1}}));
    std::set<std::string> helped, series;
    std::string family, line;
    while (std::getline(lines, line)) {
        std::istringstream words(line);
        std::string first, second, third;
        words >> first >> second >> third;
        if (first == "#") {
            if (second == "HELP") {
                EXPECT_TRUE(helped.insert(third).second) << third << " twice";
            }
            if (second == "TYPE") family = third;
            continue;
        }
        const std::string name = first.substr(0, first.find('{'));
        EXPECT_TRUE(name == family || name == family + "_bucket" || name == family + "_sum" ||
                    name == family + "_count")
            << line;
        EXPECT_TRUE(series.insert(first).second) << first << " twice";
        EXPECT_NE(name.find_first_of("abcdefghijklmnopqrstuvwxyz"), std::string::npos);
        EXPECT_FALSE(second.empty()) << line;
        EXPECT_TRUE(third.empty()) << line;
    }
    EXPECT_GT(series.size(), 50u);
}

TEST(Metrics, ShardsAreSummedAndThePolicyVersionIsTheOldest) {
    const auto page = page_of_two();
    const std::string text = prometheus_text(page.get(), {});
    EXPECT_NE(text.find("\ntotal_messages_received{service=\"esmtp_listener\"} 21\n"),
              std::string::npos);
    EXPECT_NE(text.find("\nmillrace_policy_version 7\n"), std::string::npos);
}

TEST(Metrics, OwnTcpIsToldShardByShard) {
    const auto page = page_of_two();
    const auto set = [&](std::size_t shard, schema::Counter counter, std::uint64_t value) {
        page->shards[shard].counters[static_cast<std::size_t>(counter)] = value;
    };
    set(0, schema::Counter::tcp_retransmits_fast, 3);
    set(1, schema::Counter::tcp_retransmits_fast, 4);
    page->shards[1].gauges[static_cast<std::size_t>(schema::Gauge::port_buffers_free)] = 5;
    const auto told = nlohmann::json::parse(net_stats_json(*page));
    ASSERT_EQ(told["shards"].size(), 2u);
    EXPECT_EQ(told["shards"][0]["counters"]["tcp_retransmits_fast"], 3);
    EXPECT_EQ(told["shards"][1]["shard"], 1);
    EXPECT_EQ(told["shards"][1]["counters"]["tcp_retransmits_fast"], 4);
    EXPECT_EQ(told["shards"][1]["gauges"]["port_buffers_free"], 5);
    EXPECT_FALSE(told["shards"][0]["counters"].contains("messages_received"));
    const std::string text = prometheus_text(page.get(), {});
    EXPECT_NE(text.find("\nmillrace_tcp_retransmits{cause=\"fast\"} 7\n"), std::string::npos);
    EXPECT_NE(text.find("\nmillrace_port_buffers{state=\"free\"} 5\n"), std::string::npos);
}

TEST(Metrics, HistogramBucketsAccumulateUpToTheCount) {
    const auto page = page_of_two();
    const std::string text = prometheus_text(page.get(), {});
    EXPECT_NE(text.find("millrace_accept_latency_seconds_bucket{le=\"0.000004\"} 0\n"),
              std::string::npos);
    EXPECT_NE(text.find("millrace_accept_latency_seconds_bucket{le=\"0.000008\"} 4\n"),
              std::string::npos);
    EXPECT_NE(text.find("millrace_accept_latency_seconds_bucket{le=\"0.001024\"} 5\n"),
              std::string::npos);
    EXPECT_NE(text.find("millrace_accept_latency_seconds_bucket{le=\"+Inf\"} 5\n"),
              std::string::npos);
    EXPECT_NE(text.find("millrace_accept_latency_seconds_sum 0.001024\n"), std::string::npos);
    EXPECT_NE(text.find("millrace_accept_latency_seconds_count 5\n"), std::string::npos);
}

TEST(Metrics, ForeignOrMissingPageIsNotBelieved) {
    const tests::TempFolder folder;
    StatsReader reader(folder.file("stats.page"));
    EXPECT_EQ(reader.page(), nullptr);
    auto page = page_of_two();
    const auto write = [&](const char* name) {
        folder.write(name, {reinterpret_cast<const char*>(page.get()), sizeof(schema::StatsPage)});
        std::filesystem::rename(folder.file(name), folder.file("stats.page"));
    };
    write("a");
    ASSERT_NE(reader.page(), nullptr);
    EXPECT_EQ(reader.page()->shard_count, 2u);
    page->shard_count = 1;
    write("b"); // a data plane that started anew
    ASSERT_NE(reader.page(), nullptr);
    EXPECT_EQ(reader.page()->shard_count, 1u);
    page->version = 999;
    write("c");
    EXPECT_EQ(reader.page(), nullptr);
    folder.write("d", "short");
    std::filesystem::rename(folder.file("d"), folder.file("stats.page"));
    EXPECT_EQ(reader.page(), nullptr);
}

} // namespace
} // namespace control
