// net_host.h: the network port that DPDK drives, opened at start, and each shard's share of it.
//
// Scope      From the policy's start-up settings to an open device. Several shards have a queue each if the
//            device spreads flows over them by RSS, held to it by stack/rss_guard.h; otherwise shard 0 reads
//            the one queue, and frames go by stack/steering.h. What a shard does with its share is
//            shard_net.h's.
// Owns       DPDK's environment, the device, and what lies between shards, until every shard has ended.
// Threading  main's; port(), attach(), steering() and leave() are each shard's, for its own share.
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

#include <array>
#include <atomic>
#include <cstdint>
#include <expected>
#include <memory>
#include <string>

namespace dataplane::daemon {

class NetHost {
public:
    /// \pre  start_up.ports is not empty
    [[nodiscard]] static std::expected<std::unique_ptr<NetHost>, std::string>
    open(const policy::StartUp& start_up);

    /// What the shard's stack stands on.
    [[nodiscard]] net::Port& port(unsigned shard) noexcept;
    /// Lets shards hear of each other's neighbours; the shard drains inbox().
    void attach(unsigned shard, net::stack::Stack& stack) { neighbours_.attach(shard, stack); }
    [[nodiscard]] base::Inbox& inbox(unsigned shard) noexcept { return neighbours_.inbox(shard); }
    /// What the shard hands to others; null when there is one shard only.
    [[nodiscard]] const net::stack::SteeringCounters* steering(unsigned shard) const noexcept;
    /// Shard 0 may carry the others' frames: it goes when they have said that they are done.
    void leave(unsigned shard) noexcept;
    [[nodiscard]] bool others_left() const noexcept {
        return others_.load(std::memory_order_acquire) == 0;
    }

    [[nodiscard]] const net::EthdevReport& report() const noexcept { return port_->report(); }
    /// How shards share the port, and why so, for the log.
    struct Sharing {
        std::string_view by; // "one shard", "RSS", "software"
        std::string why;
    };
    [[nodiscard]] Sharing sharing() const;
    [[nodiscard]] net::ip::LayerOptions layer_options() const;
    [[nodiscard]] net::stack::StackOptions stack_options(unsigned shard) const;

private:
    NetHost(const policy::StartUp& start_up, net::Eal eal, std::unique_ptr<net::EthdevPort> port);

    policy::PortPolicy settings_;
    policy::TcpPolicy tcp_;
    unsigned shards_;
    std::array<std::uint64_t, 2> secret_; // the same on all shards: any may answer a SYN cookie
    net::Eal eal_;
    std::unique_ptr<net::EthdevPort> port_; // goes before the environment
    net::stack::NeighbourExchange neighbours_;
    std::unique_ptr<net::stack::RssGuard> guard_;    // of several shards, the one
    std::unique_ptr<net::stack::Steering> steering_; // or the other
    std::atomic<unsigned> others_;                   // shards but 0 that still use the port
};

} // namespace dataplane::daemon
