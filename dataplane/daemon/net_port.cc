#include "dataplane/daemon/net_port.h"

#include <utility>
#include <vector>

namespace dataplane::daemon {

std::expected<std::unique_ptr<NetPort>, std::string>
NetPort::open(net::Eal& eal, const policy::PortPolicy& settings, unsigned shards) {
    const std::string whose = "port \"" + settings.name + "\": ";
    auto device = eal.add_device(settings.device);
    if (!device) return std::unexpected(whose + device.error().text);
    auto port = net::EthdevPort::open({.device = *device,
                                       .queue_count = static_cast<std::uint16_t>(shards),
                                       .spread_or_one = true,
                                       .mtu = settings.mtu});
    if (!port) return std::unexpected(whose + port.error().text);
    const net::EthdevReport& report = (*port)->report();
    if (shards > 1 && report.queue_count == 1 && report.mtu > net::stack::steered_mtu_max) {
        return std::unexpected(whose + "its device does not spread flows over queues (" +
                               report.features.back().why +
                               "), and frames that go from shard to shard have an MTU of " +
                               std::to_string(net::stack::steered_mtu_max) +
                               " at most; set mtu = 1500, or [server] shards = 1");
    }
    return std::unique_ptr<NetPort>(new NetPort(settings, shards, std::move(*port)));
}

NetPort::NetPort(const policy::PortPolicy& settings, unsigned shards,
                 std::unique_ptr<net::EthdevPort> port)
    : settings_(settings), shards_(shards), port_(std::move(port)), neighbours_(shards) {
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

net::Port& NetPort::queue(unsigned shard) noexcept {
    if (steering_) return steering_->port(shard);
    if (guard_) return guard_->port(shard);
    return port_->queue(0);
}

const net::stack::SteeringCounters* NetPort::steering(unsigned shard) const noexcept {
    if (guard_) return &guard_->counters(shard);
    return steering_ && shard == 0 ? &steering_->counters() : nullptr;
}

NetPort::Sharing NetPort::sharing() const {
    if (shards_ == 1) return {"one shard", ""};
    if (guard_) {
        return {"RSS", "the device shows its key and its table; the first segments of each queue "
                       "are held against our own hash"};
    }
    return {"software", "RSS: " + port_->report().features.back().why +
                            "; shard 0 reads the port and hands frames to the others"};
}

net::ip::LayerOptions NetPort::layer_options() const {
    net::ip::LayerOptions options{.vlan = settings_.vlan, .mtu = settings_.mtu};
    for (const auto& address : settings_.addresses)
        options.addresses.push_back({address.ip, address.prefix_bits});
    for (const auto& route : settings_.routes)
        options.routes.push_back({route.destination, route.gateway});
    return options;
}

} // namespace dataplane::daemon
