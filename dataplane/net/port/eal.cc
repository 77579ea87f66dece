#include "dataplane/net/port/eal.h"

#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_ring.h>
#include <rte_version.h>

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <string_view>

namespace dataplane::net {
namespace {

constexpr std::size_t log_bytes_max = 2048;
constexpr std::size_t memory_mb_default = 512; // without huge pages it cannot grow later
constexpr unsigned ring_pair_entries = 4096;

// DPDK's log has one stream for the process, and any of its threads may write to it.
std::mutex log_mutex;
std::string recent_log;

ssize_t on_log(void* /*cookie*/, const char* text, std::size_t bytes) {
    const std::string_view line{text, bytes};
    if (rte_log_cur_msg_loglevel() <= static_cast<int>(RTE_LOG_ERR))
        std::fwrite(line.data(), 1, line.size(), stderr);
    const std::lock_guard lock{log_mutex};
    recent_log += line;
    if (recent_log.size() > log_bytes_max) recent_log.erase(0, recent_log.size() - log_bytes_max);
    return static_cast<ssize_t>(bytes);
}

void catch_log() {
    cookie_io_functions_t functions{};
    functions.write = on_log;
    std::FILE* stream = fopencookie(nullptr, "w", functions);
    if (stream == nullptr) return; // then it goes where it always goes
    std::setvbuf(stream, nullptr, _IOLBF, 0);
    // DPDK keeps the stream until the process ends, also beyond rte_eal_cleanup().
    rte_openlog_stream(stream);
}

std::uint64_t number_in(const std::filesystem::path& file) {
    std::ifstream in{file};
    std::uint64_t number = 0;
    in >> number;
    return number;
}

std::uint64_t free_huge_pages() {
    std::error_code error;
    std::uint64_t pages = 0;
    for (const auto& size :
         std::filesystem::directory_iterator{"/sys/kernel/mm/hugepages", error}) {
        pages += number_in(size.path() / "free_hugepages");
    }
    return pages;
}

std::string with_log(std::string text) {
    std::string log = eal_log::take();
    while (!log.empty() && log.back() == '\n')
        log.pop_back();
    return log.empty() ? text : text + "\nDPDK says: " + log;
}

PortError start_error(int error) {
    switch (error) {
    case EALREADY:
        return {PortErrorKind::already_started, "DPDK was started before in this process"};
    case EACCES:
    case EPERM:
        return {PortErrorKind::no_permission,
                with_log("DPDK may not start: it needs root, or CAP_NET_ADMIN, CAP_NET_RAW and "
                         "CAP_IPC_LOCK, and write access to /dev/hugepages and /run/dpdk")};
    case ENOMEM:
        return {PortErrorKind::no_memory,
                with_log("DPDK finds too little memory: reserve more huge pages "
                         "(echo 512 > /proc/sys/vm/nr_hugepages) or ask for less")};
    default:
        return {PortErrorKind::failed,
                with_log("DPDK does not start: " + std::string{std::strerror(error)})};
    }
}

std::vector<unsigned> cores_of(const cpu_set_t& cpus) {
    std::vector<unsigned> cores;
    for (unsigned core = 0; core < CPU_SETSIZE; ++core) {
        if (CPU_ISSET(core, &cpus)) cores.push_back(core);
    }
    return cores;
}

std::string device_remedy(std::string_view device) {
    if (device.starts_with("net_memif"))
        return "is the socket's folder there and writable, and the peer of the other role?";
    if (device.starts_with("net_af_packet") || device.starts_with("net_af_xdp"))
        return "does the interface exist and is it up (ip link), and do we have CAP_NET_ADMIN and "
               "CAP_NET_RAW?";
    if (device.starts_with("net_tap"))
        return "is /dev/net/tun there, and do we have CAP_NET_ADMIN?";
    return "is it bound to vfio-pci (dpdk-devbind.py --status), and is the IOMMU on?";
}

PortErrorKind device_error_kind(int error) noexcept {
    switch (error) {
    case EPERM:
    case EACCES:
        return PortErrorKind::no_permission;
    case ENODEV:
    case ENOENT:
        return PortErrorKind::no_device;
    case EEXIST:
    case EBUSY:
        return PortErrorKind::device_busy;
    case ENOMEM:
        return PortErrorKind::no_memory;
    case EINVAL:
        return PortErrorKind::bad_option;
    default:
        return PortErrorKind::device_failed;
    }
}

} // namespace

namespace eal_log {
std::string take() {
    const std::lock_guard lock{log_mutex};
    return std::exchange(recent_log, {});
}
} // namespace eal_log

std::vector<std::string> Eal::arguments(const EalOptions& options,
                                        const std::vector<unsigned>& cores) {
    std::string cpus; // "0@(0,1)": one lcore that floats over these, so nothing is pinned to one
    for (const unsigned core : cores)
        cpus += (cpus.empty() ? "" : ",") + std::to_string(core);
    std::vector<std::string> out{"millrace", "--lcores=0@(" + cpus + ")", "--no-telemetry",
                                 "--log-level=*:warning", "--file-prefix=" + options.file_prefix};
    if (options.huge_pages) {
        out.emplace_back("--in-memory");
        if (options.memory_mb != 0) out.push_back("-m" + std::to_string(options.memory_mb));
        if (options.single_file_segments) out.emplace_back("--single-file-segments");
    } else { // implies legacy memory, which --in-memory does not go with
        const std::size_t mb = options.memory_mb != 0 ? options.memory_mb : memory_mb_default;
        out.emplace_back("--no-huge");
        out.emplace_back("--no-shconf");
        out.push_back("-m" + std::to_string(mb));
    }
    if (!options.pci) out.emplace_back("--no-pci");
    for (const std::string& device : options.pci_devices)
        out.push_back("--allow=" + device);
    out.insert(out.end(), options.extra.begin(), options.extra.end());
    return out;
}

std::string dpdk_version() {
    return rte_version();
}

std::expected<Eal, PortError> Eal::start(const EalOptions& options) {
    if (options.huge_pages && free_huge_pages() == 0) { // asked before DPDK's only try is used up
        return std::unexpected(
            PortError{PortErrorKind::no_huge_pages,
                      "no free huge pages: reserve some (echo 512 > /proc/sys/vm/nr_hugepages), or "
                      "run without them, with virtual devices only"});
    }
    if (!options.huge_pages && options.pci) {
        return std::unexpected(PortError{PortErrorKind::bad_option,
                                         "PCI devices need huge pages: a device reads physical "
                                         "memory, and ordinary pages move"});
    }
    if (options.file_prefix.empty() || options.file_prefix.contains('/')) {
        return std::unexpected(
            PortError{PortErrorKind::bad_option, "the file prefix must be a plain name"});
    }
    cpu_set_t before;
    CPU_ZERO(&before);
    pthread_getaffinity_np(pthread_self(), sizeof before, &before);
    const std::vector<unsigned> cores = options.cores.empty() ? cores_of(before) : options.cores;

    static std::atomic_flag tried = ATOMIC_FLAG_INIT;
    if (tried.test_and_set()) return std::unexpected(start_error(EALREADY));
    catch_log();
    std::vector<std::string> words = arguments(options, cores);
    std::vector<char*> argv;
    for (std::string& word : words)
        argv.push_back(word.data());
    const int result = rte_eal_init(static_cast<int>(argv.size()), argv.data());
    const int error = rte_errno;
    pthread_setaffinity_np(pthread_self(), sizeof before, &before);
    if (result < 0) return std::unexpected(start_error(error));
    static_cast<void>(eal_log::take());
    return Eal{};
}

Eal::~Eal() {
    if (started_) rte_eal_cleanup();
}

std::expected<std::string, PortError> Eal::add_device(const std::string& device) {
    const std::string name = device.substr(0, device.find(','));
    std::uint16_t port = 0;
    if (rte_eth_dev_get_port_by_name(name.c_str(), &port) == 0) {
        if (device == name) return name; // a PCI device that start() found
        return std::unexpected(PortError{PortErrorKind::device_busy, name + " is there already"});
    }
    static_cast<void>(eal_log::take());
    const int result = rte_dev_probe(device.c_str());
    if (result < 0) {
        return std::unexpected(
            PortError{device_error_kind(-result),
                      with_log("cannot open device " + device + ": " + device_remedy(device))});
    }
    if (rte_eth_dev_get_port_by_name(name.c_str(), &port) != 0) {
        return std::unexpected(
            PortError{PortErrorKind::no_driver,
                      with_log("no driver took device " + device +
                               ": is the driver installed (librte-net-*), and its name right?")});
    }
    return name;
}

void Eal::remove_device(const std::string& name) noexcept {
    std::uint16_t port = 0;
    if (rte_eth_dev_get_port_by_name(name.c_str(), &port) == 0) rte_eth_dev_close(port);
    rte_eal_hotplug_remove(name.contains(':') ? "pci" : "vdev", name.c_str());
}

std::expected<std::pair<std::string, std::string>, PortError>
Eal::add_ring_pair(const std::string& name, std::uint16_t queue_count) {
    constexpr std::size_t queues_max = 16;
    std::array<std::array<rte_ring*, queues_max>, 2> rings{};
    if (queue_count == 0 || queue_count > queues_max) {
        return std::unexpected(
            PortError{PortErrorKind::bad_option, "a ring device has 1 to 16 queues"});
    }
    for (unsigned side = 0; side < 2; ++side) {
        for (std::uint16_t queue = 0; queue < queue_count; ++queue) {
            const std::string ring = name + (side == 0 ? "a" : "b") + std::to_string(queue);
            rings[side][queue] = rte_ring_create(ring.c_str(), ring_pair_entries, SOCKET_ID_ANY,
                                                 RING_F_SP_ENQ | RING_F_SC_DEQ);
            if (rings[side][queue] == nullptr) {
                return std::unexpected(
                    PortError{PortErrorKind::no_memory, with_log("no memory for ring " + ring)});
            }
        }
    }
    const std::array<std::string, 2> names{name + "a", name + "b"};
    for (unsigned side = 0; side < 2; ++side) {
        if (rte_eth_from_rings(names[side].c_str(), rings[side].data(), queue_count,
                               rings[1 - side].data(), queue_count, 0) < 0) {
            return std::unexpected(
                PortError{PortErrorKind::device_failed, with_log("no ring device " + names[side])});
        }
    }
    // rte_eth_from_rings() names the device after its driver.
    return std::pair{"net_ring_" + names[0], "net_ring_" + names[1]};
}

std::expected<ShardThread, PortError> ShardThread::enter() {
    if (rte_lcore_id() != LCORE_ID_ANY) return ShardThread{false};
    if (rte_thread_register() != 0) {
        return std::unexpected(PortError{
            PortErrorKind::failed,
            with_log("DPDK takes no more threads: " + std::string{rte_strerror(rte_errno)})});
    }
    return ShardThread{true};
}

ShardThread::~ShardThread() {
    if (entered_) rte_thread_unregister();
}

} // namespace dataplane::net
