#include "dataplane/loadgen/run/report.h"

#include "dataplane/loadgen/run/plot.h"
#include "dataplane/loadgen/run/statistics.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <initializer_list>
#include <limits>
#include <numeric>

namespace dataplane::loadgen {
namespace {

constexpr std::size_t lines_max = 5; // in a chart: more cannot be told apart

constexpr std::string_view style = R"css(
:root { color-scheme: light dark; --ink: #1c2630; --paper: #fdfdfb; --faint: #8a949e; --rule: #dde2e6; --shade: #e8f0e4;
  --good: #2c7a3f; --bad: #b3261e; --s0: #2563a8; --s1: #c2560c; --s2: #2c7a3f; --s3: #8e44ad; --s4: #b3261e; --s5: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --ink: #dfe5ea; --paper: #14181c; --faint: #87919b; --rule: #2c343b;
  --shade: #1d2a20; --good: #6cc788; --bad: #ff8a80; --s0: #6fb1ff; --s1: #ffa45c; --s2: #6cc788; --s3: #d19bf0;
  --s4: #ff8a80; --s5: #a4adb7; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 24px;
  max-width: 1500px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 28px 0 8px; }
p.sub { color: var(--faint); margin: 0 0 16px; }
.verdict { border-left: 5px solid var(--good); padding: 8px 14px; background: var(--shade); }
.verdict.bad { border-color: var(--bad); background: transparent; } .verdict ul { margin: 4px 0; padding-left: 20px; }
table { border-collapse: collapse; } td, th { padding: 3px 16px 3px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(560px, 100%), 1fr)); gap: 18px; }
svg { width: 100%; height: auto; font: 11px system-ui, sans-serif; } svg text { fill: var(--faint); }
svg text.title { font-weight: 600; font-size: 13px; fill: var(--ink); }
.grid { stroke: var(--rule); fill: none; } .shade { fill: var(--shade); } .bar { fill: var(--s0); }
.mark { stroke: var(--s4); stroke-dasharray: 3 3; fill: none; } .line { fill: none; stroke-width: 1.8; stroke-linecap: round; }
.line.s0 { stroke: var(--s0); } .line.s1 { stroke: var(--s1); } .line.s2 { stroke: var(--s2); } .line.s3 { stroke: var(--s3); }
.line.s4 { stroke: var(--s4); } .line.s5 { stroke: var(--s5); }
.dot.s0 { fill: var(--s0); } .dot.s1 { fill: var(--s1); } .dot.s2 { fill: var(--s2); }
svg text.legend.s0 { fill: var(--s0); } svg text.legend.s1 { fill: var(--s1); } svg text.legend.s2 { fill: var(--s2); }
svg text.legend.s3 { fill: var(--s3); } svg text.legend.s4 { fill: var(--s4); } svg text.legend.s5 { fill: var(--s5); }
pre { overflow-x: auto; background: var(--shade); padding: 10px; } .fault { color: var(--bad); font-weight: 600; }
)css";

std::string table_of(const Facts& facts) {
    std::string html = "<table>";
    for (const auto& [name, value] : facts)
        html += "<tr><td>" + escaped(name) + "</td><td>" + escaped(value) + "</td></tr>";
    return html + "</table>\n";
}

std::string verdict(const RunResult& result) {
    std::string html;
    if (result.doubts.empty()) {
        html = "<p class=\"verdict\">This run can be trusted: neither source nor sink was short of "
               "CPU, the clock was steady, nothing was dropped, rate, latency and backlog had "
               "settled.";
    } else {
        html = "<div class=\"verdict bad\"><strong>This run cannot be trusted:</strong><ul>";
        for (const std::string& doubt : result.doubts)
            html += "<li>" + escaped(doubt) + "</li>";
        return html + "</ul></div>\n";
    }
    return html + "</p>\n";
}

std::string not_checked(const RunResult& result) {
    if (result.unchecked.empty()) return {};
    std::string html = "<p>Not checked:</p><ul>";
    for (const std::string& what : result.unchecked)
        html += "<li>" + escaped(what) + "</li>";
    return html + "</ul>\n";
}

std::string audit_table(const RunResult& result) {
    const Audit& audit = result.audit;
    const auto number = [](std::uint64_t count) { return shown(static_cast<double>(count)); };
    std::string html = "<table><tr><th>recipients</th><th class=\"n\">count</th><th></th></tr>";
    const auto row = [&](const std::string& name, std::uint64_t count, const std::string& examples,
                         bool bad) {
        html += "<tr><td" + std::string(bad ? " class=\"fault\"" : "") + ">" + escaped(name) +
                "</td><td class=\"n\">" + number(count) + "</td><td>" + escaped(examples) +
                "</td></tr>";
    };
    row("promised with a 250", audit.promised, "", false);
    row("arrived", audit.delivered, "", false);
    row("refused for good by the sink", audit.refused, "", false);
    for (const auto& [name, fault] : faults(audit)) {
        std::string examples;
        for (const std::string& example : fault->examples)
            examples += (examples.empty() ? "" : ", ") + example;
        const bool grave =
            fault == &audit.lost || fault == &audit.altered || fault == &audit.misdelivered;
        row(name, fault->count, examples, grave && fault->count != 0);
    }
    return html + "</table>\n";
}

std::string provider_table(const RunResult& result) {
    std::string html = "<table><tr><th>provider</th>";
    for (const char* name : {"taken", "4xx", "5xx", "greylisted", "cut off", "connections refused"})
        html += "<th class=\"n\">" + std::string(name) + "</th>";
    html += "</tr>";
    for (const ProviderTally& tally : result.providers) {
        html += "<tr><td>" + escaped(tally.name) + "</td>";
        for (const std::uint64_t count :
             {tally.taken, tally.refused_4xx, tally.refused_5xx, tally.greylisted,
              tally.disconnected, tally.connections_refused})
            html += "<td class=\"n\">" + shown(static_cast<double>(count)) + "</td>";
        html += "</tr>";
    }
    return html + "</table>\n";
}

std::vector<double> column(const RunResult& result, double Sample::* field) {
    std::vector<double> values;
    for (const Sample& sample : result.samples)
        values.push_back(sample.*field);
    return values;
}

/// The busiest of them over time, and the others in one line. `frame` has the seconds.
Chart busiest(const Chart& frame, std::string title, const std::vector<ThreadUse>& all) {
    Chart chart = frame;
    chart.title = std::move(title);
    chart.y_label = "cores";
    chart.lines.clear();
    std::vector<const ThreadUse*> order;
    for (const ThreadUse& one : all)
        order.push_back(&one);
    const auto sum = [](const ThreadUse* one) {
        return std::accumulate(one->cores.begin(), one->cores.end(), 0.0);
    };
    std::stable_sort(order.begin(), order.end(),
                     [&](const ThreadUse* a, const ThreadUse* b) { return sum(a) > sum(b); });
    Line others{.name = "others", .values = std::vector<double>(frame.x.size())};
    for (std::size_t i = 0; i < order.size(); ++i) {
        if (i < lines_max) {
            chart.lines.push_back({order[i]->name, order[i]->cores});
            continue;
        }
        for (std::size_t k = 0; k < std::min(others.values.size(), order[i]->cores.size()); ++k)
            others.values[k] += order[i]->cores[k];
    }
    if (order.size() > lines_max) chart.lines.push_back(std::move(others));
    return chart;
}

/// What Millrace counts as each room's; of another relay's rooms only the names are known.
std::string_view includes(std::string_view room) {
    for (const auto& [name, what] : std::initializer_list<std::pair<const char*, const char*>>{
             {"loop", "the loop itself, its timers, and what belongs to no other"},
             {"kernel", "system calls for sockets and disk, sending and falling asleep included"},
             {"net", "what came from sockets, what a turn sends; all of our own TCP/IP"},
             {"tls", "handshakes, records, private-key operations (DKIM's too)"},
             {"smtp", "sessions with clients"},
             {"message", "headers and DKIM, but for the private key"},
             {"screen", "content screening"},
             {"delivery", "routing, sessions with receiving hosts, reports"},
             {"spool", "the spool's records, the queue's schedule"},
             {"control", "housekeeping, statistics, operators' commands"}}) {
        if (room == name) return what;
    }
    return "";
}

std::string room_table(const RunResult& result) {
    double sum = 0;
    for (const NamedValue& room : result.rooms)
        sum += room.value;
    std::vector<NamedValue> rooms = result.rooms;
    std::ranges::stable_sort(rooms, std::greater{}, &NamedValue::value);
    std::string html =
        "<table><tr><th>room</th><th class=\"n\">CPU s</th><th class=\"n\">share</th>"
        "<th class=\"n\">µs a message</th><th>includes</th></tr>";
    for (const NamedValue& room : rooms) {
        html += "<tr><td>" + escaped(room.name) + "</td><td class=\"n\">" + shown(room.value) +
                "</td><td class=\"n\">" + shown(sum > 0 ? 100 * room.value / sum : 0) +
                " %</td><td class=\"n\">" +
                (result.accepted == 0
                     ? std::string{}
                     : shown(1e6 * room.value / static_cast<double>(result.accepted))) +
                "</td><td>" + escaped(includes(room.name)) + "</td></tr>";
    }
    return html + "</table>\n";
}

std::string charts(const RunResult& result) {
    const std::vector<double> x = column(result, &Sample::at_s);
    Chart rate{.title = "Rate", .x_label = "seconds", .y_label = "per second", .x = x};
    for (const Sample& sample : result.samples) {
        if (!sample.measured) continue;
        if (rate.shade_to == 0) rate.shade_from = std::max(0.0, sample.at_s - 1);
        rate.shade_to = sample.at_s;
    }
    Chart latency = rate, backlog = rate, cpu = rate, memory = rate;
    rate.lines = {{"accepted", column(result, &Sample::accepted_per_s)}};
    if (!result.providers.empty())
        rate.lines.push_back({"recipients delivered", column(result, &Sample::delivered_per_s)});
    if (result.rate_per_s > 0)
        rate.lines.push_back({"due", column(result, &Sample::offered_per_s)});
    rate.lines.push_back({"failed", column(result, &Sample::failed_per_s)});

    latency.title = "Accept latency, each second";
    latency.y_label = "ms";
    latency.log_y = true;
    latency.lines = {{"p50", column(result, &Sample::p50_ms)},
                     {"p99", column(result, &Sample::p99_ms)},
                     {"max", column(result, &Sample::max_ms)}};

    BarChart histogram{.title = "Accept latency, all of the measured time",
                       .x_label = "ms",
                       .y_label = "messages"};
    // Eight bars an octave are as many as can be told apart; the buckets are finer.
    double edge = 0;
    result.latency_ns.each_bucket(
        [&](std::size_t, std::uint64_t from, std::uint64_t to, std::uint64_t count) {
            const double from_ms = static_cast<double>(std::max<std::uint64_t>(from, 1)) / 1e6;
            const double to_ms = static_cast<double>(to + 1) / 1e6;
            if (histogram.bars.empty() || from_ms >= edge) {
                const double octave = std::floor(8 * std::log2(from_ms));
                edge = std::exp2((octave + 1) / 8);
                histogram.bars.push_back({std::exp2(octave / 8), std::max(edge, to_ms), 0});
            }
            histogram.bars.back().count += static_cast<double>(count);
        });
    for (const auto& [name, share] :
         {std::pair{"p50", 0.5}, std::pair{"p99", 0.99}, std::pair{"p99.9", 0.999}})
        histogram.marks.emplace_back(name, result.latency_ms(share));

    std::string html = "<div class=\"charts\">" + draw(rate) + draw(latency) + draw(histogram);
    if (!result.providers.empty()) {
        backlog.title = "Backlog: accepted and not yet arrived";
        backlog.y_label = "recipients";
        backlog.lines = {{"backlog", column(result, &Sample::backlog)}};
        html += draw(backlog);
    }
    cpu.title = "CPU";
    cpu.y_label = "cores";
    cpu.lines = {{"source", column(result, &Sample::source_cpu)},
                 {"sink", column(result, &Sample::sink_cpu)}};
    if (result.relay.known) {
        cpu.lines.insert(cpu.lines.begin(), {"relay", column(result, &Sample::relay_cpu)});
        cpu.lines.push_back({"others", column(result, &Sample::others_cpu)});
    }
    html += draw(cpu);
    if (result.relay.known) {
        memory.title = "Relay's memory";
        memory.y_label = "MB resident";
        memory.lines = {{"relay", column(result, &Sample::relay_mb)}};
        html += draw(memory);
    }
    if (!result.relay.over_time.empty())
        html += draw(busiest(rate, "Relay's CPU by thread", result.relay.over_time));
    if (!result.rooms_over_time.empty())
        html += draw(busiest(rate, "Relay's CPU by room, shards only", result.rooms_over_time));
    if (result.capacity.searched) {
        Chart search{.title = "The search: rate of each trial",
                     .x_label = "trial",
                     .y_label = "messages/s",
                     .dots = true};
        Line passed{.name = "passed"}, failed{.name = "failed"};
        const double none = std::numeric_limits<double>::quiet_NaN();
        for (const Trial& trial : result.capacity.trials) {
            search.x.push_back(static_cast<double>(search.x.size() + 1));
            passed.values.push_back(trial.passed ? trial.facts.rate : none);
            failed.values.push_back(trial.passed ? none : trial.facts.rate);
        }
        search.lines = {passed, failed};
        html += draw(search);
    }
    return html + "</div>\n";
}

std::string trial_table(const CapacityResult& capacity) {
    std::string html = "<table><tr><th class=\"n\">repeat</th><th class=\"n\">rate/s</th>"
                       "<th class=\"n\">accepted</th><th class=\"n\">p99 ms</th>"
                       "<th class=\"n\">backlog</th><th>verdict</th></tr>";
    for (const Trial& trial : capacity.trials) {
        html += "<tr><td class=\"n\">" + std::to_string(trial.repeat + 1) +
                "</td><td class=\"n\">" + shown(trial.facts.rate) + "</td><td class=\"n\">" +
                shown(static_cast<double>(trial.facts.accepted)) + "</td><td class=\"n\">" +
                shown(trial.facts.p99_us / 1000) + "</td><td class=\"n\">" +
                shown(trial.facts.backlog) + "</td><td>" +
                escaped(trial.passed ? "passed" : trial.why_not) + "</td></tr>";
    }
    return html + "</table>\n";
}

} // namespace

std::string make_report(const RunResult& result) {
    std::string html = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>"
                       "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>"
                       "<title>" +
                       escaped(result.profile) + ", " + escaped(result.began) +
                       "</title><link rel=\"icon\" href=\"data:,\"/><style>" + std::string(style) +
                       "</style></head><body>\n";
    html += "<h1>" + escaped(result.profile) + "</h1><p class=\"sub\">millrace-bench, " +
            escaped(result.began) + ", relay: " +
            escaped(result.relay_greeting.empty() ? "not asked for its greeting"
                                                  : result.relay_greeting) +
            "</p>\n";
    html += verdict(result) + not_checked(result);
    html += "<h2>What it came to</h2>" + table_of(headline(result));
    if (!result.capacity.caveat.empty())
        html += "<p class=\"fault\">" + escaped(result.capacity.caveat) + "</p>";
    html += "<h2>Over time</h2><p class=\"sub\">The shaded seconds are the measured ones.</p>" +
            charts(result);
    if (result.capacity.searched) html += "<h2>Capacity search</h2>" + trial_table(result.capacity);
    if (!result.providers.empty()) {
        html += "<h2>What became of each recipient</h2>" + audit_table(result);
        html += "<h2>How the sink answered</h2>" + provider_table(result);
    }
    if (result.relay.known) {
        Facts threads;
        for (const NamedValue& thread : result.relay.threads)
            threads.emplace_back(thread.name, shown(thread.value) + " s");
        html += "<h2>The relay's CPU by thread</h2>" + table_of(threads);
    }
    if (!result.rooms.empty()) {
        html += "<h2>The relay's CPU by room</h2><p class=\"sub\">Of the threads that do all "
                "rooms' work in turn, its "
                "shards; the sum is their CPU time. Other threads are in the table by thread.</p>" +
                room_table(result);
    }
    if (!result.hostile.empty()) {
        Facts hostile;
        for (const NamedValue& value : result.hostile)
            hostile.emplace_back(value.name, shown(value.value));
        html += "<h2>Intruders</h2>" + table_of(hostile);
    }
    if (!result.setup.empty()) html += "<h2>What was done</h2>" + table_of(result.setup);
    html += "<h2>The machine</h2>" + table_of(result.machine);
    html += "<h2>The command</h2><pre>" + escaped(result.command) +
            "</pre><h2>The profile</h2><pre>" + escaped(result.profile_text) +
            "</pre>\n</body></html>\n";
    return html;
}

} // namespace dataplane::loadgen
