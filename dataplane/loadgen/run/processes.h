// processes.h: what the relay's processes use, those that come and go included.
//
// Scope      The processes that were named, and all that descend from them, from /proc. A relay that
//            makes a process for each connection or delivery is summed too: what a process used after the
//            last look and before its end is known from its parent, who waited for it.
// Owns       What was seen of each process at the last look.
// Threading  One thread; a look takes milliseconds.
// Failure    What cannot be read is left out. Of a process whose parent is not watched, or waits for
//            nobody, what it used between the last look and its end is not known.
#pragma once

#include "dataplane/loadgen/run/result.h"

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace dataplane::loadgen {

struct ProcessUse {
    bool alive = false; // any of them
    double cpu_s = 0;   // since the first look
    double memory_mb = 0;
    std::vector<NamedValue> threads; // CPU seconds by name, the number at its end cut off
};

class ProcessMeter {
public:
    /// \param name  every process of this name as well, at each look anew; empty: none
    ProcessMeter(std::vector<int> pids, std::string name, std::filesystem::path proc = "/proc")
        : pids_(std::move(pids)), name_(std::move(name)), proc_(std::move(proc)) {}

    [[nodiscard]] ProcessUse look();

private:
    struct Process {
        int parent = 0;
        std::string name;
        double own_s = 0;      // user and system
        double children_s = 0; // of those that ended and were waited for
        std::uint64_t started = 0;
    };
    using Processes = std::map<int, Process>;

    [[nodiscard]] Processes read_all() const;
    [[nodiscard]] Processes watched(const Processes& all) const;
    void count_threads(int pid);

    std::vector<int> pids_;
    std::string name_;
    std::filesystem::path proc_;
    bool first_ = true;
    Processes known_; // at the last look
    double cpu_s_ = 0;
    std::map<std::pair<int, std::uint64_t>, double> threads_known_,
        threads_now_; // by number, begin
    std::map<std::string, double> threads_;
};

/// Of this name now; the kernel keeps 15 characters of it.
[[nodiscard]] std::vector<int> processes_named(const std::string& name);

} // namespace dataplane::loadgen
