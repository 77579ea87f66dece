#include "dataplane/daemon/net_host.h"

#include <random>

namespace dataplane::daemon {

std::expected<std::unique_ptr<NetHost>, std::string>
NetHost::open(const policy::StartUp& start_up) {
    const policy::PortPolicy& settings = start_up.ports.front();
    if (start_up.ports.size() > 1) {
        return std::unexpected("port \"" + start_up.ports[1].name +
                               "\": one port is what this version drives; keep one [[port]]");
    }
    if (start_up.shards > 1) {
        return std::unexpected("a [[port]] works with one shard in this version; set [server] "
                               "shards = 1, or leave the port out");
    }
    net::EalOptions options{.huge_pages = start_up.dpdk.hugepages,
                            .memory_mb = start_up.dpdk.memory_mb,
                            .pci = settings.is_pci(),
                            .file_prefix = start_up.dpdk.file_prefix,
                            .extra = start_up.dpdk.driver_args};
    if (settings.is_pci()) options.pci_devices.push_back(settings.device);
    auto eal = net::Eal::start(options);
    if (!eal) return std::unexpected(eal.error().text);
    auto device = eal->add_device(settings.device);
    if (!device) return std::unexpected("port \"" + settings.name + "\": " + device.error().text);
    auto port = net::EthdevPort::open({.device = *device,
                                       .queue_count = static_cast<std::uint16_t>(start_up.shards),
                                       .mtu = settings.mtu});
    if (!port) return std::unexpected("port \"" + settings.name + "\": " + port.error().text);
    return std::unique_ptr<NetHost>(new NetHost(start_up, std::move(*eal), std::move(*port)));
}

NetHost::NetHost(const policy::StartUp& start_up, net::Eal eal,
                 std::unique_ptr<net::EthdevPort> port)
    : settings_(start_up.ports.front()), tcp_(start_up.tcp), shards_(start_up.shards),
      eal_(std::move(eal)), port_(std::move(port)) {
    std::random_device entropy;
    for (std::uint64_t& word : secret_)
        word = std::uint64_t{entropy()} << 32 | entropy();
}

net::ip::LayerOptions NetHost::layer_options() const {
    net::ip::LayerOptions options{.vlan = settings_.vlan, .mtu = settings_.mtu};
    for (const auto& address : settings_.addresses)
        options.addresses.push_back({address.ip, address.prefix_bits});
    for (const auto& route : settings_.routes)
        options.routes.push_back({route.destination, route.gateway});
    return options;
}

net::stack::StackOptions NetHost::stack_options(unsigned shard) const {
    net::stack::StackOptions options{.connections_max = tcp_.connections_max,
                                     .secret = secret_,
                                     .shard_count = shards_,
                                     .shard = shard};
    options.tcp.congestion = tcp_.congestion == policy::TcpPolicy::Congestion::new_reno
                                 ? net::tcp::CongestionKind::new_reno
                                 : net::tcp::CongestionKind::cubic;
    options.tcp.ecn = tcp_.ecn;
    options.tcp.initial_window_segments = tcp_.initial_window_segments;
    options.tcp.receive_bytes_max = tcp_.receive_bytes_max;
    options.tcp.send_bytes_max = tcp_.send_bytes_max;
    options.tcp.keepalive_idle = tcp_.keepalive_idle;
    options.tcp.user_timeout = tcp_.user_timeout;
    options.tcp.time_wait = tcp_.time_wait;
    return options;
}

} // namespace dataplane::daemon
