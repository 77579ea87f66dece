// net_lines.h: what joins the two ends of a measurement, for our own TCP/IP and for the kernel's.
//
// Scope      Lays the line and says how each end is to be started on it. What is measured over it is
//            net_bench.h's.
// Owns       Namespaces, the wire's process, a temporary folder: all end with the line.
// Failure    NotPossibleHere, std::runtime_error.
//
// memif      ours: shared memory between two processes, MTU 1500, checksums in software, no TSO.
// loopback   the kernel's: MTU 65,536, no checksums, no segmentation; the receiver's work is done within the
//            sender's system call, on the sender's CPU.
// veth       the kernel's: two namespaces, MTU 1500, the offloads Linux has on by default (up to 64 KiB pass
//            in one piece, checksums unfinished), received on the receiver's CPU (RPS).
// frames     the same with the offloads off: every frame fits the MTU and has its checksum, as over memif.
// wire       either's: two devices with net_wire.h between them; memif for ours, veth for the kernel's.
#pragma once

#include "dataplane/loadgen/child.h"
#include "dataplane/loadgen/net_space.h"
#include "dataplane/loadgen/net_wire.h"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::loadgen {

enum class LineKind : std::uint8_t { memif, loopback, veth, frames, wire };
[[nodiscard]] std::string_view to_string(LineKind kind) noexcept;

struct NetLineOptions {
    bool own_stack = true; // memif and wire; the others are the kernel's
    LineKind kind = LineKind::memif;
    std::size_t connections = 1;
    bool huge_pages = false;
    std::uint16_t mtu = 1500; // of IP; loopback keeps its own
    int server_cpu = 0;
    int client_cpu = 1;
    LineQuality quality; // of a wire
};

struct KernelSender {
    std::string congestion_control; // "cubic"
    double rtt_ms = 0;
};

class NetLine {
public:
    explicit NetLine(NetLineOptions options);

    /// What net-end is told of its network.
    [[nodiscard]] std::vector<std::string> end_options(bool server) const;
    [[nodiscard]] const NetSpace* home(bool server) const noexcept;
    /// Of the kernel's sender, as its connections are now.
    [[nodiscard]] KernelSender kernel_sender() const;

private:
    [[nodiscard]] std::string server_address() const;
    void lay_in_kernel();
    void bring_up(bool server);
    void start_wire();

    NetLineOptions options_;
    TemporaryFolder folder_;
    std::optional<NetSpace> server_space_;
    std::optional<NetSpace> client_space_;
    std::optional<NetSpace> wire_space_;
    std::optional<Child> wire_;
};

} // namespace dataplane::loadgen
