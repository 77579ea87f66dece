// eal.h: DPDK's environment: memory, drivers, devices by name. Once per process.
//
// Scope      Arguments, start, devices added and removed, shard threads made known to DPDK. What a device
//            can do is ethdev_port.h's.
// Owns       The EAL, from start() to the handle's end. It has one lcore, the calling thread, which polls
//            nothing and keeps the CPUs it had; our shards are threads of our own.
// Threading  start(), add_device() and the end on one thread; ShardThread on each shard's.
// Failure    Typed, with the remedy in the text. DPDK can be started once in a process's life, also when
//            that failed. Its own log goes to stderr only where it reports an error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace dataplane::net {

enum class PortErrorKind : std::uint8_t {
    already_started,
    no_huge_pages,
    no_permission,
    no_memory,
    no_driver,
    no_device,
    device_busy,
    bad_option,
    device_failed,
    failed,
};

struct PortError {
    PortErrorKind kind = PortErrorKind::failed;
    std::string text; // what failed, what DPDK said of it, and what to do
};

struct EalOptions {
    std::vector<unsigned> cores; // CPUs that EAL's helper threads may use; empty: the caller's
    bool huge_pages = true;      // false: ordinary memory; virtual devices only
    std::size_t memory_mb = 0;   // 0: as much as is needed; without huge pages: 512
    bool pci = false;            // look for PCI devices
    std::vector<std::string> pci_devices; // "0000:01:00.0"; empty: all that are bound to vfio-pci
    std::string file_prefix = "millrace"; // of two processes on one machine, each needs its own
    bool single_file_segments = false;    // memif's zero-copy mode needs it
    std::vector<std::string> extra;       // further arguments, as DPDK takes them
};

/// As DPDK names itself: "DPDK 22.11.5".
[[nodiscard]] std::string dpdk_version();

class Eal {
public:
    [[nodiscard]] static std::expected<Eal, PortError> start(const EalOptions& options);
    /// The arguments start() hands to DPDK, the program's name first; for reports and tests.
    [[nodiscard]] static std::vector<std::string> arguments(const EalOptions& options,
                                                            const std::vector<unsigned>& cores);

    Eal(Eal&& other) noexcept : started_(std::exchange(other.started_, false)) {}
    Eal& operator=(Eal&& other) noexcept {
        std::swap(started_, other.started_);
        return *this;
    }
    Eal(const Eal&) = delete;
    ~Eal(); // every EthdevPort is gone by then

    /// Makes a device: "net_memif0,role=server,id=0,socket=/run/x.sock",
    /// "net_af_packet0,iface=veth1", "net_af_xdp0,iface=veth1", "net_tap0,iface=tap1", "net_null0",
    /// "0000:01:00.0". Returns its name, for EthdevPort::open().
    [[nodiscard]] std::expected<std::string, PortError> add_device(const std::string& device);
    void remove_device(const std::string& name) noexcept;
    /// Two devices in this process, each sending what the other receives, mbufs handed over as they
    /// are: for tests and for figures without any kernel. \param queue_count  of each
    [[nodiscard]] std::expected<std::pair<std::string, std::string>, PortError>
    add_ring_pair(const std::string& name, std::uint16_t queue_count = 1);

private:
    Eal() noexcept = default;
    bool started_ = true;
};

/// Makes the calling thread known to DPDK, so that its mempool caches work. One per shard thread, for
/// as long as it touches ports.
class ShardThread {
public:
    [[nodiscard]] static std::expected<ShardThread, PortError> enter();
    ShardThread(ShardThread&& other) noexcept : entered_(std::exchange(other.entered_, false)) {}
    ShardThread& operator=(ShardThread&& other) noexcept {
        std::swap(entered_, other.entered_);
        return *this;
    }
    ShardThread(const ShardThread&) = delete;
    ~ShardThread();

private:
    explicit ShardThread(bool entered) noexcept : entered_(entered) {}
    bool entered_ = false; // false for EAL's own lcore, which is known anyway
};

namespace eal_log {
/// The last that DPDK logged, at most a few lines; and forgets it. For error texts.
[[nodiscard]] std::string take();
} // namespace eal_log

} // namespace dataplane::net
