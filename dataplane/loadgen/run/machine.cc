#include "dataplane/loadgen/run/machine.h"

#include "dataplane/loadgen/limits.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/utsname.h>
#include <thread>
#include <unistd.h>

namespace dataplane::loadgen {
namespace {

namespace fs = std::filesystem;

std::string first_line(const fs::path& path) {
    std::ifstream in(path);
    std::string line;
    std::getline(in, line);
    while (!line.empty() && std::isspace(static_cast<unsigned char>(line.back())) != 0)
        line.pop_back();
    return line;
}

/// The value of "NAME : value" or "NAME: value".
std::string field(const fs::path& path, std::string_view name) {
    std::ifstream in(path);
    for (std::string line; std::getline(in, line);) {
        if (!line.starts_with(name)) continue;
        const std::size_t colon = line.find(':');
        if (colon == std::string::npos) continue;
        const std::size_t begin = line.find_first_not_of(" \t", colon + 1);
        return begin == std::string::npos ? "" : line.substr(begin);
    }
    return {};
}

struct Mount {
    std::string folder, type, device, options;
};

/// The mount that `folder` lies on.
Mount mount_of(const std::string& folder) {
    std::error_code error;
    const std::string path = fs::canonical(folder, error).string();
    Mount best;
    std::ifstream in("/proc/self/mounts");
    for (std::string line; std::getline(in, line);) {
        std::istringstream words(line);
        Mount mount;
        words >> mount.device >> mount.folder >> mount.type >> mount.options;
        const bool below =
            path == mount.folder || mount.folder == "/" || path.starts_with(mount.folder + "/");
        if (below && mount.folder.size() >= best.folder.size()) best = mount;
    }
    return best;
}

std::string disk_of(const std::string& folder) {
    const Mount mount = mount_of(folder);
    std::string text = mount.type + " on " + mount.device + " (" + mount.options + ")";
    struct stat info{};
    if (stat(folder.c_str(), &info) != 0 || major(info.st_dev) == 0) return text;
    std::error_code error;
    fs::path block = fs::canonical("/sys/dev/block/" + std::to_string(major(info.st_dev)) + ":" +
                                       std::to_string(minor(info.st_dev)),
                                   error);
    if (error) return text;
    if (!fs::exists(block / "queue")) block = block.parent_path(); // a partition: its disk
    const std::string model = first_line(block / "device/model");
    text += ", " + block.filename().string();
    if (!model.empty()) text += " " + model;
    if (first_line(block / "queue/rotational") == "1") text += ", rotating";
    const std::string cache = first_line(block / "queue/write_cache");
    if (!cache.empty()) text += ", cache: " + cache;
    return text;
}

std::string network_cards() {
    std::string text;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator("/sys/class/net", error)) {
        const std::string name = entry.path().filename();
        const fs::path driver = fs::read_symlink(entry.path() / "device/driver", error);
        const std::string speed = first_line(entry.path() / "speed");
        text += (text.empty() ? "" : "; ") + name + " " +
                (error ? std::string("(virtual)") : driver.filename().string());
        if (!speed.empty() && speed.front() != '-') text += " " + speed + " Mbit/s";
    }
    return text.empty() ? "none" : text;
}

/// Devices on the bus by their class, also those that a program has taken from the kernel (vfio).
std::string bus_devices(std::string_view kind) {
    std::string text;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator("/sys/bus/pci/devices", error)) {
        if (!first_line(entry.path() / "class").starts_with(kind)) continue;
        std::error_code none;
        const fs::path driver = fs::read_symlink(entry.path() / "driver", none);
        text += (text.empty() ? "" : "; ") + entry.path().filename().string() + " " +
                first_line(entry.path() / "vendor") + ":" + first_line(entry.path() / "device") +
                " " + (none ? std::string("without a driver") : driver.filename().string());
    }
    return text.empty() ? "none" : text;
}

double ticks_to_s(double ticks) {
    static const double per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
    return ticks / per_second;
}

/// The value under `name` in /proc/net/netstat: a line of names, then a line of values.
std::uint64_t netstat(std::string_view name) {
    std::ifstream in("/proc/net/netstat");
    for (std::string names, values; std::getline(in, names) && std::getline(in, values);) {
        std::istringstream name_words(names), value_words(values);
        for (std::string one, value; name_words >> one && value_words >> value;) {
            if (one == name) return std::strtoull(value.c_str(), nullptr, 10);
        }
    }
    return 0;
}

double clock_s(clockid_t clock) noexcept {
    timespec now{};
    clock_gettime(clock, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

} // namespace

Facts inventory(const std::string& spool_folder) {
    Facts facts;
    const auto add = [&](const char* name, std::string value) {
        facts.emplace_back(name, value.empty() ? "unknown" : std::move(value));
    };
    add("CPU",
        field("/proc/cpuinfo", "model name") + ", " + std::to_string(cpu_count()) + " cores");
    const std::string flags = " " + field("/proc/cpuinfo", "flags") + " ";
    std::string found;
    for (const char* flag : {"aes", "avx2", "avx512f", "vaes", "sha_ni", "hypervisor"}) {
        if (flags.find(std::string(" ") + flag + " ") != std::string::npos)
            found += (found.empty() ? "" : " ") + std::string(flag);
    }
    add("CPU features", found);
    add("CPU governor", fs::exists("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
                            ? first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
                            : "not told");
    add("memory", field("/proc/meminfo", "MemTotal"));
    add("huge pages", field("/proc/meminfo", "HugePages_Total") + " of " +
                          field("/proc/meminfo", "Hugepagesize") + ", " +
                          field("/proc/meminfo", "HugePages_Free") + " free");
    add("network", network_cards());
    add("network devices on the bus", bus_devices("0x02"));
    add("crypto devices on the bus", bus_devices("0x0b40"));
    add("disk of the spool",
        spool_folder.empty() ? "not told: set spool in [relay]" : disk_of(spool_folder));
    utsname system{};
    uname(&system);
    add("kernel", std::string(system.sysname) + " " + system.release + " " + system.machine);
    std::string distribution = field("/etc/os-release", "PRETTY_NAME");
    std::ifstream release("/etc/os-release");
    for (std::string line; std::getline(release, line);) {
        if (line.starts_with("PRETTY_NAME=")) distribution = line.substr(12);
    }
    std::erase(distribution, '"');
    add("system", distribution);
    add("millrace-bench", std::string(bench_version) + ", built by GCC " + __VERSION__ +
#ifdef __OPTIMIZE__
                              ", optimised");
#else
                              ", NOT OPTIMISED");
#endif
    return facts;
}

std::string why_not_durable(const std::string& folder) {
    if (!fs::exists(folder)) return folder + " does not exist here";
    const Mount mount = mount_of(folder);
    for (const char* type : {"tmpfs", "ramfs", "devtmpfs", "zram"}) {
        if (mount.type == type) return folder + " is on " + mount.type + ", which is memory";
    }
    const std::string options = "," + mount.options + ",";
    for (const char* option : {"nobarrier", "barrier=0", "volatile"}) {
        if (options.find("," + std::string(option) + ",") != std::string::npos)
            return folder + " is mounted with " + option + ": a sync does not reach the disk";
    }
    if (mount.device.find("/zram") != std::string::npos || mount.device.starts_with("/dev/ram"))
        return folder + " is on " + mount.device + ", which is memory";
    return {};
}

MachineUse machine_use() {
    MachineUse use;
    std::istringstream words(first_line("/proc/stat"));
    std::string name;
    words >> name;
    std::array<double, 8> fields{}; // user nice system idle iowait irq softirq steal
    for (double& value : fields)
        words >> value;
    for (const double value : fields)
        use.total_s += ticks_to_s(value);
    use.busy_s = use.total_s - ticks_to_s(fields[3] + fields[4] + fields[7]);
    use.stolen_s = ticks_to_s(fields[7]);
    use.listen_drops = netstat("ListenDrops");
    return use;
}

std::optional<double> thread_wait_s(int thread) {
    // Nanoseconds that it ran, nanoseconds that it waited, and how often.
    std::ifstream in("/proc/self/task/" + std::to_string(thread) + "/schedstat");
    double ran = 0, waited = 0;
    if (!(in >> ran >> waited)) return std::nullopt;
    return waited / 1e9;
}

double thread_cpu_s() noexcept {
    return clock_s(CLOCK_THREAD_CPUTIME_ID);
}

double own_cpu_s() noexcept {
    return clock_s(CLOCK_PROCESS_CPUTIME_ID);
}

unsigned cpu_count() noexcept {
    return std::max(1U, std::thread::hardware_concurrency());
}

} // namespace dataplane::loadgen
