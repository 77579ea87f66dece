// net_host.h: the network port that DPDK drives, opened at start, with one queue for each shard.
//
// Scope      From the policy's start-up settings to an open device and each shard's share of it. What a
//            shard does with its queue is shard_net.h's.
// Owns       DPDK's environment and the device, until every shard has ended.
// Threading  main's; queue() is asked by each shard for its own.
// Failure    open() returns a sentence with the remedy; nothing is half open then.
#pragma once

#include "dataplane/net/ip/layer.h"
#include "dataplane/net/port/eal.h"
#include "dataplane/net/port/ethdev_port.h"
#include "dataplane/net/stack/stack.h"
#include "dataplane/policy/policy.h"

#include <expected>
#include <memory>
#include <string>

namespace dataplane::daemon {

class NetHost {
public:
    /// \pre  start_up.ports is not empty
    [[nodiscard]] static std::expected<std::unique_ptr<NetHost>, std::string>
    open(const policy::StartUp& start_up);

    [[nodiscard]] net::Port& queue(unsigned shard) noexcept {
        return port_->queue(static_cast<std::uint16_t>(shard));
    }
    [[nodiscard]] const net::EthdevReport& report() const noexcept { return port_->report(); }
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
};

} // namespace dataplane::daemon
