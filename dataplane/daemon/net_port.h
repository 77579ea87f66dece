// net_port.h: one [[port]]: its device, and how shards share it.
//
// Scope      From the port's settings to an open device. Several shards have a queue each if the device
//            spreads flows over them by RSS, held to it by stack/rss_guard.h; otherwise shard 0 reads the
//            one queue, and frames go by stack/steering.h. What a shard does with its share is shard_net.h's.
// Owns       The device, and what lies between shards, until every shard has ended.
// Threading  main's; queue(), attach(), inbox() and steering() are each shard's, for its own share.
// Failure    open() returns a sentence with the remedy; nothing is half open then.
#pragma once

#include "dataplane/net/ip/layer.h"
#include "dataplane/net/port/eal.h"
#include "dataplane/net/port/ethdev_port.h"
#include "dataplane/net/stack/neighbour_exchange.h"
#include "dataplane/net/stack/rss_guard.h"
#include "dataplane/net/stack/stack.h"
#include "dataplane/net/stack/steering.h"
#include "dataplane/policy/policy.h"

#include <expected>
#include <memory>
#include <string>
#include <string_view>

namespace dataplane::daemon {

class NetPort {
public:
    [[nodiscard]] static std::expected<std::unique_ptr<NetPort>, std::string>
    open(net::Eal& eal, const policy::PortPolicy& settings, unsigned shards);

    /// What the shard's stack stands on.
    [[nodiscard]] net::Port& queue(unsigned shard) noexcept;
    /// Lets shards hear of each other's neighbours; the shard drains inbox().
    void attach(unsigned shard, net::stack::Stack& stack) { neighbours_.attach(shard, stack); }
    [[nodiscard]] base::Inbox& inbox(unsigned shard) noexcept { return neighbours_.inbox(shard); }
    /// What the shard hands to others; null when there is one shard only.
    [[nodiscard]] const net::stack::SteeringCounters* steering(unsigned shard) const noexcept;

    [[nodiscard]] const std::string& name() const noexcept { return settings_.name; }
    [[nodiscard]] const net::EthdevReport& report() const noexcept { return port_->report(); }
    /// How shards share the port, and why so, for the log.
    struct Sharing {
        std::string_view by; // "one shard", "RSS", "software"
        std::string why;
    };
    [[nodiscard]] Sharing sharing() const;
    [[nodiscard]] net::ip::LayerOptions layer_options() const;

private:
    NetPort(const policy::PortPolicy& settings, unsigned shards,
            std::unique_ptr<net::EthdevPort> port);

    policy::PortPolicy settings_;
    unsigned shards_;
    std::unique_ptr<net::EthdevPort> port_;
    net::stack::NeighbourExchange neighbours_;
    std::unique_ptr<net::stack::RssGuard> guard_;    // of several shards, the one
    std::unique_ptr<net::stack::Steering> steering_; // or the other
};

} // namespace dataplane::daemon
