#include "dataplane/loadgen/run/processes.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <unistd.h>

namespace dataplane::loadgen {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t name_length_max = 15; // of what the kernel keeps

struct Stat {
    std::string name;
    int parent = 0;
    double own_s = 0, children_s = 0;
    std::uint64_t started = 0;
};

double ticks_to_s(double ticks) {
    static const double per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
    return ticks / per_second;
}

/// Out of a stat file, whose second field may hold anything.
std::optional<Stat> read_stat(const fs::path& path) {
    std::ifstream in(path);
    std::string line;
    std::getline(in, line);
    const std::size_t open = line.find('(');
    const std::size_t close = line.rfind(')');
    if (open == std::string::npos || close == std::string::npos) return std::nullopt;
    Stat stat{.name = line.substr(open + 1, close - open - 1)};
    std::istringstream words(line.substr(close + 1));
    std::string skipped;
    double user = 0, system = 0, children_user = 0, children_system = 0;
    words >> skipped >> stat.parent; // the state before it
    for (int i = 0; i < 9; ++i)
        words >> skipped;
    words >> user >> system >> children_user >> children_system;
    for (int i = 0; i < 4; ++i)
        words >> skipped;
    words >> stat.started;
    if (!words) return std::nullopt;
    stat.own_s = ticks_to_s(user + system);
    stat.children_s = ticks_to_s(children_user + children_system);
    return stat;
}

double resident_mb(const fs::path& status) {
    std::ifstream in(status);
    for (std::string line; std::getline(in, line);) {
        if (line.starts_with("VmRSS:"))
            return std::strtod(line.c_str() + 6, nullptr) * 1024 / 1e6; // "kB" there is KiB
    }
    return 0;
}

/// The numbers among the names in a folder.
std::vector<int> numbers_in(const fs::path& folder) {
    std::vector<int> numbers;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(folder, error)) {
        const std::string name = entry.path().filename();
        int number = 0;
        const auto [end, wrong] = std::from_chars(name.data(), name.data() + name.size(), number);
        if (wrong == std::errc{} && end == name.data() + name.size()) numbers.push_back(number);
    }
    return numbers;
}

std::string without_number(std::string name) {
    while (!name.empty() && (std::isdigit(static_cast<unsigned char>(name.back())) != 0 ||
                             name.back() == '-' || name.back() == ':'))
        name.pop_back();
    return name;
}

} // namespace

ProcessMeter::Processes ProcessMeter::read_all() const {
    Processes all;
    for (const int pid : numbers_in(proc_)) {
        if (auto stat = read_stat(proc_ / std::to_string(pid) / "stat"))
            all.emplace(pid, Process{stat->parent, std::move(stat->name), stat->own_s,
                                     stat->children_s, stat->started});
    }
    return all;
}

ProcessMeter::Processes ProcessMeter::watched(const Processes& all) const {
    std::vector<int> chosen;
    for (const auto& [pid, process] : all) {
        // What was watched before stays so, though its parent may have gone.
        const auto before = known_.find(pid);
        const bool again = before != known_.end() && before->second.started == process.started;
        const bool named = !name_.empty() && process.name == name_.substr(0, name_length_max);
        if (again || named || std::find(pids_.begin(), pids_.end(), pid) != pids_.end())
            chosen.push_back(pid);
    }
    Processes result;
    std::multimap<int, int> children;
    for (const auto& [pid, process] : all)
        children.emplace(process.parent, pid);
    while (!chosen.empty()) {
        const int pid = chosen.back();
        chosen.pop_back();
        if (!result.emplace(pid, all.at(pid)).second) continue;
        const auto [from, to] = children.equal_range(pid);
        for (auto child = from; child != to; ++child)
            chosen.push_back(child->second);
    }
    return result;
}

void ProcessMeter::count_threads(int pid) {
    const fs::path folder = proc_ / std::to_string(pid) / "task";
    for (const int thread : numbers_in(folder)) {
        const auto stat = read_stat(folder / std::to_string(thread) / "stat");
        if (!stat) continue;
        const std::pair key{thread, stat->started};
        const auto before = threads_known_.find(key);
        double spent = first_ ? 0 : stat->own_s;
        if (before != threads_known_.end()) spent = stat->own_s - before->second;
        threads_now_[key] = stat->own_s;
        threads_[without_number(stat->name)] += std::max(0.0, spent);
    }
}

ProcessUse ProcessMeter::look() {
    Processes now = watched(read_all());
    std::map<int, double> ended; // by parent: what was counted already of children that are gone
    for (const auto& [pid, process] : known_) {
        const auto again = now.find(pid);
        if (again == now.end() || again->second.started != process.started)
            ended[process.parent] += process.own_s + process.children_s;
    }
    ProcessUse use{.alive = !now.empty()};
    for (const auto& [pid, process] : now) {
        const auto before = known_.find(pid);
        const bool known = before != known_.end() && before->second.started == process.started;
        if (known || !first_) {
            const double own = process.own_s - (known ? before->second.own_s : 0);
            const double children = process.children_s - (known ? before->second.children_s : 0);
            const double unseen = std::max(0.0, children - ended[pid]);
            cpu_s_ += std::max(0.0, own) + unseen;
            if (unseen > 0) threads_["processes that ended"] += unseen;
        }
        use.memory_mb += resident_mb(proc_ / std::to_string(pid) / "status");
        count_threads(pid);
    }
    known_ = std::move(now);
    threads_known_ = std::move(threads_now_);
    threads_now_.clear();
    first_ = false;
    use.cpu_s = cpu_s_;
    for (const auto& [name, spent] : threads_)
        use.threads.push_back({name, spent});
    return use;
}

std::vector<int> processes_named(const std::string& name) {
    std::vector<int> pids;
    for (const int pid : numbers_in("/proc")) {
        const auto stat = read_stat("/proc/" + std::to_string(pid) + "/stat");
        if (stat && stat->name == name.substr(0, name_length_max)) pids.push_back(pid);
    }
    return pids;
}

} // namespace dataplane::loadgen
