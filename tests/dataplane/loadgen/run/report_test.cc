#include "dataplane/loadgen/run/plot.h"
#include "dataplane/loadgen/run/report.h"

#include <cmath>
#include <gtest/gtest.h>
#include <limits>

namespace dataplane::loadgen {
namespace {

std::size_t count_of(const std::string& text, const std::string& what) {
    std::size_t count = 0;
    for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1))
        ++count;
    return count;
}

RunResult sample_run() {
    RunResult result{.profile = "<script>alert(1)</script>", .command = "a & b", .seconds = 30};
    for (int i = 0; i < 40; ++i) {
        result.samples.push_back({.at_s = i + 1.0,
                                  .measured = i >= 10,
                                  .accepted_per_s = 900 + 10 * std::sin(i),
                                  .delivered_per_s = 890,
                                  .p50_ms = 2,
                                  .p99_ms = 9,
                                  .max_ms = 30,
                                  .backlog = 50,
                                  .relay_cpu = 0.7,
                                  .relay_mb = 100});
        result.latency_ns.record(static_cast<std::uint64_t>(1'000'000 * (1 + i % 7)));
    }
    result.accepted = 27'000;
    result.providers = {{.name = "gmail"}};
    result.relay.known = true;
    return result;
}

TEST(Report, DrawsEveryChartAndLoadsNothing) {
    const std::string html = make_report(sample_run());
    EXPECT_EQ(count_of(html, "<svg "), 6U); // rate, latency, histogram, backlog, CPU, memory
    EXPECT_EQ(count_of(html, "</svg>"), 6U);
    EXPECT_GE(count_of(html, "class=\"line "), 12U);
    EXPECT_GE(count_of(html, "class=\"bar\""), 5U);
    for (const char* outside : {"http://", "https://", "src=", "@import", "url("})
        EXPECT_EQ(html.find(outside), std::string::npos) << outside;
    EXPECT_EQ(html.find("NaN"), std::string::npos);
    EXPECT_EQ(html.find("\"nan"), std::string::npos);
    EXPECT_EQ(html.find("inf "), std::string::npos);
}

TEST(Report, TheRelaysBusiestThreadsHaveAChart) {
    RunResult result = sample_run();
    for (int i = 0; i < 8; ++i) {
        const double cores = i / 10.0;
        result.relay.over_time.push_back(
            {"thread" + std::to_string(i), std::vector<double>(result.samples.size(), cores)});
    }
    const std::string html = make_report(result);
    EXPECT_EQ(count_of(html, "<svg "), 7U);
    EXPECT_NE(html.find("<title>thread7</title>"), std::string::npos);
    EXPECT_EQ(html.find("<title>thread2</title>"), std::string::npos); // five are enough
}

TEST(Report, RoomsHaveAChartAndATableThatSaysWhatTheyInclude) {
    RunResult result = sample_run();
    const char* const names[] = {"spool", "tls", "smtp", "net", "kernel", "delivery", "mystery"};
    for (std::size_t i = 0; i < std::size(names); ++i) {
        const double cores = 0.1 * static_cast<double>(i + 1);
        result.rooms.push_back({names[i], cores * 30});
        result.rooms_over_time.push_back(
            {names[i], std::vector<double>(result.samples.size(), cores)});
    }
    const std::string html = make_report(result);
    EXPECT_EQ(count_of(html, "<svg "), 7U);
    EXPECT_NE(html.find("<title>mystery</title>"), std::string::npos);
    EXPECT_NE(html.find("<title>others</title>"), std::string::npos); // spool and tls, the least
    EXPECT_EQ(html.find("<title>tls</title>"), std::string::npos);
    // 18 of 84 CPU seconds, over 27,000 messages.
    EXPECT_NE(html.find("<td>delivery</td><td class=\"n\">18.0</td><td class=\"n\">21.4 %</td>"
                        "<td class=\"n\">667</td><td>routing"),
              std::string::npos)
        << html.substr(html.find("CPU by room</h2>"), 900);
}

TEST(Report, TextFromOutsideStaysText) {
    const std::string html = make_report(sample_run());
    EXPECT_EQ(html.find("<script"), std::string::npos);
    EXPECT_NE(html.find("&lt;script&gt;"), std::string::npos);
    EXPECT_NE(html.find("a &amp; b"), std::string::npos);
}

TEST(Report, SaysWhatWasNotChecked) {
    RunResult result = sample_run();
    result.unchecked = {"whether the <disk> is durable"};
    const std::string html = make_report(result);
    EXPECT_NE(html.find("Not checked:"), std::string::npos);
    EXPECT_NE(html.find("whether the &lt;disk&gt; is durable"), std::string::npos);
}

TEST(Report, SaysWhyARunIsNotToBeTrusted) {
    RunResult result = sample_run();
    EXPECT_NE(make_report(result).find("can be trusted"), std::string::npos);
    result.doubts = {"the clock stepped by 3 s"};
    const std::string html = make_report(result);
    EXPECT_NE(html.find("cannot be trusted"), std::string::npos);
    EXPECT_NE(html.find("the clock stepped by 3 s"), std::string::npos);
}

TEST(Report, AnEmptyRunIsAReportToo) {
    const std::string html = make_report({});
    EXPECT_NE(html.find("nothing was recorded"), std::string::npos);
}

TEST(Plot, PointsLieWithinTheFrameAndGapsStayGaps) {
    Chart chart{.title = "t", .x = {1, 2, 3, 4}};
    chart.lines = {{"a", {1, std::numeric_limits<double>::quiet_NaN(), 3, 4}}};
    const std::string svg = draw(chart);
    const std::size_t path = svg.find("class=\"line s0\" d=\"");
    ASSERT_NE(path, std::string::npos);
    const std::string d = svg.substr(path + 19, svg.find('"', path + 19) - path - 19);
    EXPECT_EQ(count_of(d, "M"), 2U) << d; // before the gap, and behind it
    EXPECT_EQ(count_of(d, "L"), 1U) << d;
}

TEST(Plot, ALogarithmicAxisLeavesOutWhatItCannotShow) {
    Chart chart{.title = "t", .x = {1, 2, 3}, .log_y = true};
    chart.lines = {{"a", {0, 5, 50}}};
    const std::string svg = draw(chart);
    EXPECT_EQ(svg.find("inf"), std::string::npos);
    EXPECT_NE(svg.find("class=\"line s0\""), std::string::npos);
}

} // namespace
} // namespace dataplane::loadgen
