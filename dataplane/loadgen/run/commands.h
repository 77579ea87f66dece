// commands.h: millrace-bench's commands run, report, add and diff, as main() calls them.
//
// Failure    Throws std::runtime_error with a text for a person; mistakes in a profile are printed,
//            each with its line, and give status 2.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace dataplane::loadgen {

struct RunCommand {
    std::string profile;              // a shipped one's name, or a file
    std::vector<std::string> targets; // each in place of what the profile says, when not empty
    std::vector<std::string> listen;
    std::optional<double> rate; // 0: closed loop
    std::optional<std::size_t> connections;
    std::optional<std::chrono::milliseconds> duration, warm_up, drain;
    std::vector<int> relay_pids;
    std::string relay_process;
    std::vector<std::string> relay_metrics;
    std::string spool_folder;
    std::string note;
    std::string json_file;   // empty: none
    std::string report_file; // empty: none
    bool find_capacity = false;
    bool check = false; // only says whether the profile is right
    bool show = false;  // only prints the profile
    bool list = false;  // only lists the shipped ones
    bool quiet = false;
    std::string command_line;
};

/// 0: measured, nothing lost or altered, and trusted; 1: not so; 2: the profile is wrong;
/// 3: measured, but the run cannot be trusted.
[[nodiscard]] int run_run(const RunCommand& command);
/// Writes a result's report.
[[nodiscard]] int run_report(const std::string& json_file, const std::string& html_file);
struct AddCommand {
    std::vector<std::string> results; // JSON files
    std::string json_file;            // empty: none
    std::string report_file;          // empty: none
};
/// Adds the results of several machines; the status is that of a run.
[[nodiscard]] int run_add(const AddCommand& command);
/// 0 unless something is worse beyond the noise.
[[nodiscard]] int run_diff(const std::string& before_file, const std::string& after_file);

} // namespace dataplane::loadgen
