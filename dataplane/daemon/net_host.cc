#include "dataplane/daemon/net_host.h"

#include "dataplane/daemon/offload_host.h"

#include <random>
#include <vector>

namespace dataplane::daemon {

std::expected<std::unique_ptr<NetHost>, std::string>
NetHost::open(const policy::StartUp& start_up) {
    const policy::PortPolicy& settings = start_up.ports.front();
    if (start_up.ports.size() > 1) {
        return std::unexpected("port \"" + start_up.ports[1].name +
                               "\": one port is what this version drives; keep one [[port]]");
    }
    net::EalOptions options = eal_options(start_up);
    options.pci = options.pci || settings.is_pci();
    if (settings.is_pci()) options.pci_devices.push_back(settings.device);
    auto eal = net::Eal::start(options);
    if (!eal) return std::unexpected(eal.error().text);
    auto device = eal->add_device(settings.device);
    if (!device) return std::unexpected("port \"" + settings.name + "\": " + device.error().text);
    auto port = net::EthdevPort::open({.device = *device,
                                       .queue_count = static_cast<std::uint16_t>(start_up.shards),
                                       .spread_or_one = true,
                                       .mtu = settings.mtu});
    if (!port) return std::unexpected("port \"" + settings.name + "\": " + port.error().text);
    const net::EthdevReport& report = (*port)->report();
    if (start_up.shards > 1 && report.queue_count == 1 &&
        report.mtu > net::stack::steered_mtu_max) {
        return std::unexpected("port \"" + settings.name +
                               "\": its device does not spread flows over queues (" +
                               report.features.back().why +
                               "), and frames that go from shard to shard have an MTU of " +
                               std::to_string(net::stack::steered_mtu_max) +
                               " at most; set mtu = 1500, or [server] shards = 1");
    }
    return std::unique_ptr<NetHost>(new NetHost(start_up, std::move(*eal), std::move(*port)));
}

NetHost::NetHost(const policy::StartUp& start_up, net::Eal eal,
                 std::unique_ptr<net::EthdevPort> port)
    : settings_(start_up.ports.front()), tcp_(start_up.tcp), shards_(start_up.shards),
      eal_(std::move(eal)), port_(std::move(port)), neighbours_(start_up.shards),
      others_(start_up.shards - 1) {
    std::random_device entropy;
    for (std::uint64_t& word : secret_)
        word = std::uint64_t{entropy()} << 32 | entropy();
    if (shards_ == 1) return;
    if (port_->queue_count() == 1) {
        steering_ = std::make_unique<net::stack::Steering>(port_->queue(0), shards_);
        return;
    }
    std::vector<net::Port*> queues;
    for (std::uint16_t queue = 0; queue < port_->queue_count(); ++queue)
        queues.push_back(&port_->queue(queue));
    guard_ = std::make_unique<net::stack::RssGuard>(queues);
}

net::Port& NetHost::port(unsigned shard) noexcept {
    if (steering_) return steering_->port(shard);
    if (guard_) return guard_->port(shard);
    return port_->queue(0);
}

const net::stack::SteeringCounters* NetHost::steering(unsigned shard) const noexcept {
    if (guard_) return &guard_->counters(shard);
    return steering_ && shard == 0 ? &steering_->counters() : nullptr;
}

void NetHost::leave(unsigned shard) noexcept {
    if (shard != 0) others_.fetch_sub(1, std::memory_order_acq_rel);
}

NetHost::Sharing NetHost::sharing() const {
    if (shards_ == 1) return {"one shard", ""};
    if (guard_) {
        return {"RSS", "the device shows its key and its table; the first segments of each queue "
                       "are held against our own hash"};
    }
    return {"software", "RSS: " + port_->report().features.back().why +
                            "; shard 0 reads the port and hands frames to the others"};
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
