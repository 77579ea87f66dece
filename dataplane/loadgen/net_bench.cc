#include "dataplane/loadgen/net_bench.h"

#include "dataplane/loadgen/child.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace dataplane::loadgen {
namespace {

using Json = nlohmann::ordered_json;
using namespace std::chrono_literals;

constexpr auto start_limit = 30s;
constexpr unsigned lossy_repeats = 5; // losses come by chance: one run may have a lucky day
constexpr std::array sweep_losses{0.001, 0.01, 0.03};
constexpr std::array sweep_round_trips{1ms, 10ms, 40ms};

std::size_t connections_for(NetCase which) {
    switch (which) {
    case NetCase::short_connections:
        return 64;
    case NetCase::request:
        return 256;
    case NetCase::idle:
        return 1'000'000;
    case NetCase::bulk:
    case NetCase::echo:
    case NetCase::half_close:
        break;
    }
    return 1;
}

/// One row to be: a case, a stack and the line between its ends.
struct Setting {
    std::string name; // of the case
    NetCase which = NetCase::request;
    std::string stack; // as the row has it
    NetLineOptions line;
    unsigned repeats = 1;
};

struct Figure {
    double value = 0;
    std::string unit;
    Json details;
};

/// Two sets of counters of the same names: how much each has grown.
Json growth(const Json& before, const Json& after) {
    Json grown = Json::object();
    for (const auto& [name, value] : after.items()) {
        if (!value.is_number()) continue;
        const bool whole = value.is_number_integer();
        if (whole)
            grown[name] = value.get<std::int64_t>() - before.value(name, std::int64_t{0});
        else
            grown[name] = value.get<double>() - before.value(name, 0.0);
    }
    return grown;
}

/// What the kernel counts of TCP where a process's network is, by the names of /proc/net/netstat and snmp.
Json kernel_repairs(pid_t pid) {
    Json counters = Json::object();
    for (const char* name : {"netstat", "snmp"}) {
        std::ifstream file("/proc/" + std::to_string(pid) + "/net/" + name);
        for (std::string titles, values;
             std::getline(file, titles) && std::getline(file, values);) {
            std::istringstream title_words(titles);
            std::istringstream value_words(values);
            std::string group, title, ignored;
            title_words >> group;
            value_words >> ignored;
            std::uint64_t value = 0;
            while ((group == "TcpExt:" || group == "Tcp:") && title_words >> title &&
                   value_words >> value)
                counters[title] = value;
        }
    }
    return counters;
}

/// Of those, what tells how losses were mended.
Json telling(const Json& grown) {
    Json some = Json::object();
    for (const char* name :
         {"OutSegs", "InSegs", "RetransSegs", "TCPTimeouts", "TCPLossProbes", "TCPSackRecovery",
          "TCPLostRetransmit", "TCPDSACKRecv", "TCPFullUndo", "TCPDSACKUndo", "TCPSpuriousRTOs"}) {
        if (grown.contains(name) && grown[name] != 0) some[name] = grown[name];
    }
    return some;
}

Figure measure(const NetCommand& command, const Setting& setting) {
    const bool idle = setting.which == NetCase::idle;
    const NetLine line(setting.line);
    const auto arguments = [&](bool server) {
        std::vector<std::string> list{
            "net-end",
            "--case",
            std::string(to_string(setting.which)),
            "--connections",
            std::to_string(setting.line.connections),
            "--time-ms",
            std::to_string(command.time.count()),
            "--cpu",
            std::to_string(server ? command.server_cpu : command.client_cpu)};
        if (server) list.emplace_back("--server");
        for (std::string& option : line.end_options(server))
            list.push_back(std::move(option));
        return list;
    };
    Child server(arguments(true), line.home(true));
    static_cast<void>(server.line("ready", start_limit));
    Child client(arguments(false), line.home(false));
    const auto limit = command.time + (idle ? 300s : 60s);
    const Json own_before = Json::parse(client.line("begin ", limit));
    const bool wire = setting.line.kind == LineKind::wire;
    const bool alone = line.home(false) != nullptr; // else the counters are the whole machine's
    const Json repairs_before = alone ? kernel_repairs(client.pid()) : Json::object();
    const bool own = setting.line.own_stack;
    const KernelSender sender = own ? KernelSender{} : line.kernel_sender();
    if (wire && !own && sender.congestion_control != "cubic")
        throw std::runtime_error("Linux does not use CUBIC here");
    server.ask();
    const Json before = Json::parse(server.line("at ", start_limit));
    const Json client_end = Json::parse(client.line("end ", limit));
    server.ask();
    const Json after = Json::parse(server.line("at ", start_limit));

    const Json grown = growth(before, after);
    const double seconds = grown["at_s"];
    Figure figure;
    figure.details = {{"line", to_string(setting.line.kind)},
                      {"mtu", setting.line.kind == LineKind::loopback ? 65'536 : setting.line.mtu},
                      {"seconds", seconds},
                      {"server_cpu_s", grown["cpu_s"]},
                      {"client_cpu_s", client_end["cpu_s"]},
                      {"failed", client_end["failed"]},
                      {"open", after["open"]},
                      {"server_resident_bytes", after["resident_bytes"]}};
    if (idle) {
        figure.details["server_longest_turn_us"] = after["longest_turn_us"];
        figure.details["server_longest_undisturbed_turn_us"] = after["longest_undisturbed_turn_us"];
    }
    // Ours is always CUBIC: tcp/config.h.
    figure.details["congestion_control"] = own ? "cubic" : sender.congestion_control;
    if (wire) {
        const LineQuality& quality = setting.line.quality;
        figure.details["loss"] = quality.loss;
        figure.details["rtt_ms"] = static_cast<double>(quality.delay.count()) * 2 / 1000;
        figure.details["rtt_seen_ms"] = own ? client_end["rtt_seen_ms"] : Json(sender.rtt_ms);
        figure.details["tcp"] = alone
                                    ? telling(growth(repairs_before, kernel_repairs(client.pid())))
                                    : growth(own_before, client_end["tcp"]);
    }
    switch (setting.which) {
    case NetCase::short_connections:
    case NetCase::echo:
    case NetCase::half_close:
        figure.value = grown["exchanges"].get<double>() / seconds;
        figure.unit = "connections/s";
        break;
    case NetCase::request:
        figure.value = grown["exchanges"].get<double>() / seconds;
        figure.unit = "requests/s";
        break;
    case NetCase::bulk:
        figure.value = grown["bytes"].get<double>() * 8 / seconds / 1e9;
        figure.unit = "Gbit/s";
        break;
    case NetCase::idle:
        figure.value = after["resident_bytes"].get<double>() / after["open"].get<double>();
        figure.unit = "resident bytes/connection";
        break;
    }
    return figure;
}

LineKind kernel_line(const std::string& name) {
    for (const LineKind kind : {LineKind::loopback, LineKind::veth, LineKind::frames}) {
        if (name == to_string(kind)) return kind;
    }
    throw std::runtime_error("no line of the kernel's is named '" + name + "'");
}

/// The stacks and lines that one case is measured on.
std::vector<Setting> settings_of(const NetCommand& command, const std::string& name,
                                 const LineQuality& quality) {
    const bool lossy = name == "bulk_loss";
    const auto which = lossy ? NetCase::bulk : net_case(name);
    if (!which) throw std::runtime_error("no case is named '" + name + "'");
    Setting base{.name = name, .which = *which};
    base.repeats = command.repeats != 0 ? command.repeats : lossy ? lossy_repeats : 1;
    base.line = {.connections =
                     command.connections != 0 ? command.connections : connections_for(*which),
                 .huge_pages = command.huge_pages,
                 .mtu = command.mtu,
                 .server_cpu = command.server_cpu,
                 .client_cpu = command.client_cpu,
                 .quality = quality};
    std::vector<Setting> settings;
    const auto add = [&](const std::string& stack, bool own, LineKind kind) {
        Setting setting = base;
        setting.stack = stack;
        if (command.mtu != mtu_usual && kind != LineKind::loopback)
            setting.stack += "-mtu" + std::to_string(command.mtu);
        setting.line.own_stack = own;
        setting.line.kind = lossy ? LineKind::wire : kind;
        settings.push_back(std::move(setting));
    };
    for (const std::string& stack : command.stacks) {
        if (stack == "millrace") {
            add(stack, true, LineKind::memif);
        } else if (lossy || *which == NetCase::idle) {
            add(stack, false, LineKind::loopback);
        } else {
            for (const std::string& line : command.kernel_lines)
                add(line == "loopback" ? stack : stack + "-" + line, false, kernel_line(line));
        }
    }
    return settings;
}

/// Collects the figures of one case, its settings in turn, so that a slow minute of the machine hits all.
class CaseRun {
public:
    explicit CaseRun(const NetCommand& command) : command_(command) {}

    /// Prints its rows and appends them.
    void run(std::vector<Setting> settings, Json& rows) {
        std::vector<std::vector<Figure>> figures(settings.size());
        unsigned repeats = 0;
        for (const Setting& setting : settings)
            repeats = std::max(repeats, setting.repeats);
        for (unsigned repeat = 0; repeat < repeats; ++repeat) {
            for (std::size_t i = 0; i < settings.size(); ++i) {
                settings[i].line.quality.seed = command_.quality.seed + repeat;
                if (auto figure = try_one(settings[i])) figures[i].push_back(std::move(*figure));
            }
        }
        double own = 0;
        for (std::size_t i = 0; i < settings.size(); ++i) {
            if (figures[i].empty()) continue;
            const double value = print_row(settings[i], figures[i], own, rows);
            if (settings[i].line.own_stack) own = value;
        }
    }
    [[nodiscard]] bool complete() const noexcept { return complete_; }

private:
    std::optional<Figure> try_one(const Setting& setting) {
        const std::string what = setting.name + " on " + setting.stack;
        const auto where = std::pair{setting.stack, setting.line.kind};
        if (left_out_.contains(where)) return std::nullopt;
        if (!command_.quiet) std::fprintf(stderr, "net: %s\n", what.c_str());
        try {
            return measure(command_, setting);
        } catch (const NotPossibleHere& reason) {
            left_out_.insert(where);
            std::fprintf(stderr, "net: %s: skipped: %s\n", what.c_str(), reason.what());
        } catch (const std::runtime_error& error) {
            std::fprintf(stderr, "net: %s: %s\n", what.c_str(), error.what());
            complete_ = false;
        }
        return std::nullopt;
    }

    /// \param own  our stack's value, when it is known by now
    static double print_row(const Setting& setting, std::vector<Figure>& figures, double own,
                            Json& rows) {
        const auto by_value = [](const Figure& a, const Figure& b) { return a.value < b.value; };
        std::ranges::sort(figures, by_value);
        const Figure& median = figures[figures.size() / 2];
        Json row{{"case", setting.name},
                 {"stack", setting.stack},
                 {"value", median.value},
                 {"unit", median.unit}};
        row.update(median.details);
        if (figures.size() > 1) {
            Json values = Json::array();
            for (const Figure& figure : figures)
                values.push_back(figure.value);
            row["values"] = std::move(values);
        }
        std::string note{to_string(setting.line.kind)};
        if (setting.line.kind == LineKind::wire) {
            std::array<char, 64> text{};
            std::snprintf(text.data(), text.size(), ", loss %g %%, RTT %g ms",
                          setting.line.quality.loss * 100, row["rtt_ms"].get<double>());
            note += text.data();
        }
        std::string ratio;
        if (own > 0 && !setting.line.own_stack && setting.which != NetCase::idle) {
            std::array<char, 32> text{};
            std::snprintf(text.data(), text.size(), "%.2f", own / median.value);
            ratio = text.data();
            row["millrace_to_this"] = own / median.value;
        }
        std::printf("%-10s  %-14s  %14.3f  %-25s  %12.2f  %8s  %s\n", setting.name.c_str(),
                    setting.stack.c_str(), median.value, median.unit.c_str(),
                    median.details["server_cpu_s"].get<double>(), ratio.c_str(), note.c_str());
        std::fflush(stdout);
        const double value = median.value;
        rows.push_back(std::move(row));
        return value;
    }

    const NetCommand& command_;
    std::set<std::pair<std::string, LineKind>> left_out_; // said once, not again for each repeat
    bool complete_ = true;
};

/// bulk_loss's lines: the one asked for, or all of the sweep.
std::vector<LineQuality> qualities_of(const NetCommand& command, const std::string& name) {
    if (name != "bulk_loss" || !command.sweep) return {command.quality};
    std::vector<LineQuality> list;
    for (const double loss : sweep_losses) {
        for (const std::chrono::microseconds round_trip : sweep_round_trips) {
            LineQuality quality = command.quality;
            quality.loss = loss;
            quality.delay = round_trip / 2;
            list.push_back(quality);
        }
    }
    return list;
}

} // namespace

int run_net(const NetCommand& command) {
    catch_signals();
    Json rows = Json::array();
    CaseRun run(command);
    std::printf("%-10s  %-14s  %14s  %-25s  %12s  %8s  %s\n", "case", "stack", "value", "unit",
                "server CPU s", "ours/it", "line");
    for (const std::string& name : command.cases) {
        for (const LineQuality& quality : qualities_of(command, name))
            run.run(settings_of(command, name, quality), rows);
    }
    if (!command.json_file.empty()) {
        std::ofstream out(command.json_file, std::ios::trunc);
        out << rows.dump(2) << '\n';
        out.close();
        if (!out) throw std::runtime_error("cannot write " + command.json_file);
    }
    return run.complete() ? 0 : 1;
}

} // namespace dataplane::loadgen
