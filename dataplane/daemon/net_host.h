// net_host.h: the network ports that DPDK drives, opened at start, for all shards.
//
// Scope      DPDK's environment, and a net_port.h for each [[port]]. Each shard has a stack on every port.
// Owns       All of them, until every shard has ended.
// Threading  main's; leave() is each shard's.
// Failure    open() returns a sentence with the remedy; nothing is half open then.
#pragma once

#include "dataplane/daemon/net_port.h"
#include "dataplane/net/port/eal.h"
#include "dataplane/policy/policy.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <vector>

namespace dataplane::daemon {

class NetHost {
public:
    /// \pre  start_up.ports is not empty
    [[nodiscard]] static std::expected<std::unique_ptr<NetHost>, std::string>
    open(const policy::StartUp& start_up);

    /// In the order of the configuration; never empty.
    [[nodiscard]] const std::vector<std::unique_ptr<NetPort>>& ports() const noexcept {
        return ports_;
    }
    [[nodiscard]] net::stack::StackOptions stack_options(unsigned shard) const;
    /// Shard 0 may carry the others' frames: it goes when they have said that they are done.
    void leave(unsigned shard) noexcept;
    [[nodiscard]] bool others_left() const noexcept {
        return others_.load(std::memory_order_acquire) == 0;
    }

private:
    NetHost(const policy::StartUp& start_up, net::Eal eal);

    policy::TcpPolicy tcp_;
    unsigned shards_;
    std::array<std::uint64_t, 2> secret_; // the same on all shards: any may answer a SYN cookie
    net::Eal eal_;
    std::vector<std::unique_ptr<NetPort>> ports_; // go before the environment
    std::atomic<unsigned> others_;                // shards but 0 that still use the ports
};

} // namespace dataplane::daemon
