#include "dataplane/loadgen/run/commands.h"

#include "dataplane/loadgen/run/diff.h"
#include "dataplane/loadgen/run/plan.h"
#include "dataplane/loadgen/run/profile.h"
#include "dataplane/loadgen/run/report.h"
#include "dataplane/loadgen/run/runner.h"
#include "dataplane/loadgen/run/sum.h"

#include <cstdio>
#include <fstream>
#include <sstream>
#include <stdexcept>

namespace dataplane::loadgen {
namespace {

constexpr int status_wrong_profile = 2;
constexpr int status_untrusted = 3;

std::string read_file(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream text;
    text << in.rdbuf();
    if (!in) throw std::runtime_error("cannot read " + path);
    return text.str();
}

void write_file(const std::string& path, const std::string& text) {
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out << text;
    out.close();
    if (!out) throw std::runtime_error("cannot write " + path);
}

struct ProfileFile {
    std::string text;
    std::string name;     // without folder and ending
    std::string shown_as; // in errors
};

ProfileFile find_profile(const std::string& wanted) {
    for (const Shipped& shipped : shipped_profiles()) {
        if (shipped.name == wanted)
            return {std::string(shipped.text), wanted, wanted + ".toml (built in)"};
    }
    if (wanted.find('/') == std::string::npos && !wanted.ends_with(".toml")) {
        std::string names;
        for (const Shipped& shipped : shipped_profiles())
            names += " " + std::string(shipped.name);
        throw std::runtime_error("no profile is named '" + wanted + "'; there are" + names +
                                 ", and a file of your own is given by its path");
    }
    const std::size_t slash = wanted.rfind('/');
    std::string name = slash == std::string::npos ? wanted : wanted.substr(slash + 1);
    if (name.ends_with(".toml")) name.resize(name.size() - 5);
    return {read_file(wanted), name, wanted};
}

void apply(const RunCommand& command, Profile& profile) {
    std::vector<base::SocketAddress> targets, listen;
    for (const std::string& text : command.targets)
        targets.push_back(read_address(text));
    for (const std::string& text : command.listen)
        listen.push_back(read_address(text));
    for (SourceSection& source : profile.sources) {
        if (!targets.empty()) source.options.targets = targets;
        if (command.connections)
            source.options.connections =
                std::max<std::size_t>(source.threads, *command.connections);
        if (command.rate)
            source.options.rate_per_s = *command.rate / static_cast<double>(profile.sources.size());
    }
    if (!targets.empty()) profile.hostile.targets = targets;
    if (!listen.empty()) {
        if (profile.sinks.size() != 1)
            throw std::runtime_error("--listen is for profiles with one [[sink]]; this one has " +
                                     std::to_string(profile.sinks.size()));
        profile.sinks[0].options.addresses = listen;
    }
    if (command.duration) profile.duration = *command.duration;
    if (command.warm_up) profile.warm_up = *command.warm_up;
    if (command.drain) profile.drain = *command.drain;
    if (!command.relay_pids.empty()) profile.relay.pids = command.relay_pids;
    if (!command.relay_process.empty()) profile.relay.process = command.relay_process;
    if (!command.relay_metrics.empty()) profile.relay.metrics.clear();
    for (const std::string& text : command.relay_metrics)
        profile.relay.metrics.push_back(read_address(text));
    if (!command.spool_folder.empty()) profile.relay.spool_folder = command.spool_folder;
    if (!command.note.empty()) profile.relay.note = command.note;
}

void describe(const Profile& profile) {
    std::printf("%s: %s\n", profile.name.c_str(), profile.description.c_str());
    for (const SourceSection& source : profile.sources) {
        std::string targets;
        for (const base::SocketAddress& target : source.options.targets)
            targets += " " + target.to_string();
        std::printf("source: %zu connections on %u threads to%s, %s\n", source.options.connections,
                    source.threads, targets.c_str(),
                    source.options.rate_per_s > 0
                        ? (shown(source.options.rate_per_s) + " messages/s due").c_str()
                        : "closed loop");
    }
    for (const SinkSection& sink : profile.sinks) {
        std::string addresses;
        for (const base::SocketAddress& address : sink.options.addresses)
            addresses += " " + address.to_string();
        std::printf("sink: on%s, %zu providers\n", addresses.c_str(),
                    sink.options.providers.size());
    }
    for (const std::string& wish : idle_wishes(profile))
        std::printf("note: %s\n", wish.c_str());
    std::printf("the profile is right\n");
}

RunResult read_result(const std::string& file) try {
    return result_from_json(read_file(file));
} catch (const std::runtime_error& error) {
    throw std::runtime_error(file + ": " + error.what());
}

/// Writes it where it is wanted, tells it, and says by the status what it was.
int hand_over(const RunResult& result, const std::string& json_file,
              const std::string& report_file) {
    if (!json_file.empty()) write_file(json_file, to_json(result));
    if (!report_file.empty()) write_file(report_file, make_report(result));
    std::fputs(to_text(result).c_str(), stdout);
    if (result.accepted == 0 || !result.audit.passed()) return 1;
    return result.doubts.empty() ? 0 : status_untrusted;
}

} // namespace

int run_run(const RunCommand& command) {
    if (command.list) {
        for (const Shipped& shipped : shipped_profiles()) {
            const auto profile = read_profile(std::string(shipped.text), std::string(shipped.name),
                                              shipped_providers());
            std::printf("%-14s %s\n", std::string(shipped.name).c_str(),
                        profile ? profile->description.c_str() : "");
        }
        return 0;
    }
    if (command.profile.empty())
        throw std::runtime_error("say which profile: a name of --list, or a file");
    const ProfileFile file = find_profile(command.profile);
    if (command.show) {
        std::fputs(file.text.c_str(), stdout);
        return 0;
    }
    auto profile = read_profile(file.text, file.name, shipped_providers());
    if (!profile) {
        for (const ProfileError& error : profile.error())
            std::fprintf(stderr, "%s:%u: %s\n", file.shown_as.c_str(), error.line,
                         error.text.c_str());
        return status_wrong_profile;
    }
    apply(command, *profile);
    if (command.check) {
        describe(*profile);
        return 0;
    }
    if (!command.quiet) {
        for (const std::string& wish : idle_wishes(*profile))
            std::fprintf(stderr, "note: %s\n", wish.c_str());
    }
    const RunResult result = run_profile({.profile = std::move(*profile),
                                          .find_capacity = command.find_capacity,
                                          .quiet = command.quiet,
                                          .command = command.command_line});
    return hand_over(result, command.json_file, command.report_file);
}

int run_add(const AddCommand& command) {
    std::vector<NamedResult> results;
    for (const std::string& file : command.results)
        results.push_back({file, read_result(file)});
    return hand_over(sum_of(results), command.json_file, command.report_file);
}

int run_report(const std::string& json_file, const std::string& html_file) {
    write_file(html_file, make_report(read_result(json_file)));
    return 0;
}

int run_diff(const std::string& before_file, const std::string& after_file) {
    const Difference difference = difference_of(read_result(before_file), read_result(after_file));
    std::fputs(to_text(difference).c_str(), stdout);
    return difference.any_worse() ? 1 : 0;
}

} // namespace dataplane::loadgen
