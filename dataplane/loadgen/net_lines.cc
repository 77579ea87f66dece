#include "dataplane/loadgen/net_lines.h"

#include <array>
#include <cstdlib>
#include <sstream>
#include <utility>

namespace dataplane::loadgen {
namespace {

using namespace std::chrono_literals;

constexpr unsigned source_count = 32; // with four ports: enough tuples for TIME_WAIT's minute
constexpr unsigned port_first = 7400;
constexpr std::array<std::string_view, 5> names{"memif", "loopback", "veth", "frames", "wire"};
// Both stacks' connections may have about as much in flight over a bad line. Linux counts a buffer's
// overhead too, which is as much again.
constexpr const char* wire_receive_memory = "4096 131072 1048576";
constexpr const char* wire_send_memory = "4096 65536 524288";

const std::string server_ip = "10.88.0.1";
std::string client_ip(unsigned number) {
    return "10.88.1." + std::to_string(number + 1);
}

/// A buffer holds a frame, and a ring 2 to 4 MB: what is larger falls out of a core's cache. A wire's queue is larger.
std::string memif_ring(std::uint16_t mtu, bool wire) {
    constexpr unsigned frame_overhead = 64; // Ethernet's, and up to the next cache line
    if (mtu <= 1500) return wire ? ",rsize=11" : ",rsize=10";
    return ",bsize=" + std::to_string((mtu + frame_overhead) / 64 * 64) +
           (mtu <= 9000 ? ",rsize=9" : ",rsize=6");
}

std::string interface(bool server) {
    return server ? "server0" : "client0";
}
std::string wire_interface(bool server) {
    return server ? "wire-server0" : "wire-client0";
}

} // namespace

std::string_view to_string(LineKind kind) noexcept {
    return names[static_cast<std::size_t>(kind)];
}

NetLine::NetLine(NetLineOptions options) : options_(std::move(options)) {
    if (!options_.own_stack && options_.kind != LineKind::loopback) lay_in_kernel();
    if (options_.kind == LineKind::wire) start_wire();
}

void NetLine::lay_in_kernel() {
    server_space_.emplace();
    client_space_.emplace();
    if (options_.kind == LineKind::wire) {
        wire_space_.emplace();
        for (const bool server : {true, false}) {
            lay_cable(*home(server), interface(server), *wire_space_, wire_interface(server));
            const InNetSpace there(*wire_space_);
            without_offloads(wire_interface(server));
            run_tool({"ip", "link", "set", wire_interface(server), "up", "promisc", "on"});
        }
    } else {
        lay_cable(*server_space_, interface(true), *client_space_, interface(false));
    }
    bring_up(true);
    bring_up(false);
}

void NetLine::bring_up(bool server) {
    const InNetSpace there(*home(server));
    const unsigned count = server ? 1 : source_count;
    for (unsigned i = 0; i < count; ++i)
        run_tool({"ip", "address", "add", (server ? server_ip : client_ip(i)) + "/16", "dev",
                  interface(server)});
    run_tool({"ip", "link", "set", interface(server), "mtu", std::to_string(options_.mtu), "up"});
    if (options_.kind != LineKind::veth) without_offloads(interface(server));
    if (options_.kind != LineKind::wire)
        receive_on_cpu(interface(server), server ? options_.server_cpu : options_.client_cpu);
    set_sysctl("ipv4/tcp_no_metrics_save", "1"); // each connection finds out for itself, as ours do
    if (options_.kind == LineKind::wire) {
        // By the route: a namespace may not choose its default freely (tcp_allowed_congestion_control).
        run_tool({"ip", "route", "replace", "10.88.0.0/16", "dev", interface(server), "congctl",
                  "cubic"});
        set_sysctl("ipv4/tcp_rmem", wire_receive_memory);
        set_sysctl("ipv4/tcp_wmem", wire_send_memory);
    }
}

void NetLine::start_wire() {
    const auto device = [&](bool server) {
        if (!options_.own_stack) {
            return std::string{server ? "net_af_packet0" : "net_af_packet1"} +
                   ",iface=" + wire_interface(server);
        }
        const std::string number = server ? "0" : "1";
        return "net_memif" + number + ",role=server,id=" + number + ",socket=" + folder_.path +
               "/memif" + number + ".sock,rsize=11";
    };
    const LineQuality& quality = options_.quality;
    wire_.emplace(std::vector<std::string>{"net-wire", "--device-a", device(true), "--device-b",
                                           device(false), "--loss", std::to_string(quality.loss),
                                           "--delay-us", std::to_string(quality.delay.count()),
                                           "--jitter-us", std::to_string(quality.jitter.count()),
                                           "--rate-mbit", std::to_string(quality.rate_mbit_per_s),
                                           "--queue-kb", std::to_string(quality.queue_kb), "--seed",
                                           std::to_string(quality.seed)},
                  wire_space_ ? &*wire_space_ : nullptr);
    static_cast<void>(wire_->line("ready", 30s));
}

const NetSpace* NetLine::home(bool server) const noexcept {
    const std::optional<NetSpace>& space = server ? server_space_ : client_space_;
    return space ? &*space : nullptr;
}

std::string NetLine::server_address() const {
    const bool loopback = options_.kind == LineKind::loopback;
    return (loopback ? "127.0.0.1" : server_ip) + ":" + std::to_string(port_first);
}

std::vector<std::string> NetLine::end_options(bool server) const {
    const bool loopback = options_.kind == LineKind::loopback;
    std::vector<std::string> list{"--address", (loopback ? "127.0.0.1" : server_ip) + ":" +
                                                   std::to_string(port_first)};
    const auto add = [&list](const std::string& name, const std::string& value) {
        list.push_back(name);
        list.push_back(value);
    };
    for (unsigned i = 0; !server && i < source_count; ++i)
        add("--source", loopback ? "127.0.1." + std::to_string(i + 1) : client_ip(i));
    // Three processes on two CPUs: nobody may spin, and all must wake in time.
    if (options_.kind == LineKind::wire) list.emplace_back("--punctual");
    if (!options_.own_stack) return list;

    const bool wire = options_.kind == LineKind::wire;
    const std::string number = wire && !server ? "1" : "0";
    const std::string role = wire || !server ? "client" : "server";
    add("--device", "net_memif0,role=" + role + ",id=" + number + ",socket=" + folder_.path +
                        "/memif" + (wire ? number : "") + ".sock" + memif_ring(options_.mtu, wire));
    add("--mtu", std::to_string(options_.mtu));
    add("--memory-mb", wire ? "256" : "1024");
    add("--connections-max",
        std::to_string(options_.connections + options_.connections / 8 + 10'000));
    if (options_.huge_pages) list.emplace_back("--huge-pages");
    for (unsigned i = 0; i < (server ? 1 : source_count); ++i)
        add("--own-address", (server ? server_ip : client_ip(i)) + "/16");
    return list;
}

KernelSender NetLine::kernel_sender() const {
    std::optional<InNetSpace> there;
    if (const NetSpace* space = home(false)) there.emplace(*space);
    KernelSender sender;
    const std::string server = server_address();
    std::istringstream words(run_tool({"ss", "-tniH", "state", "established", "dst", server}));
    for (std::string word; words >> word;) {
        if (word == "cubic" || word == "bbr" || word == "reno") sender.congestion_control = word;
        if (word.starts_with("rtt:")) sender.rtt_ms = std::atof(word.c_str() + 4);
    }
    return sender;
}

} // namespace dataplane::loadgen
