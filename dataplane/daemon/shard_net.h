// shard_net.h: one shard's own TCP/IP: its share of each port, its stacks, and what operators ask of them.
//
// Scope      Set-up, polling, statistics, connection list and capture. How TCP works is net/stack's.
// Owns       A stack and a capture for each port; the ports are net_host.h's.
// Threading  The shard's, construction and end included.
// Failure    Construction throws std::runtime_error (start-up).
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/uring.h"
#include "dataplane/daemon/net_host.h"
#include "dataplane/net/port/capture_port.h"
#include "dataplane/net/stack/driver.h"
#include "dataplane/net/stack/stack.h"
#include "dataplane/net/stack/stack_set.h"
#include "dataplane/policy/net_commands.h"
#include "dataplane/telemetry/stats.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace dataplane::daemon {

class ShardNet final : public policy::NetCommands {
public:
    ShardNet(base::Loop& loop, base::Uring& ring, NetHost& host);
    ~ShardNet() override;

    [[nodiscard]] base::Transport& transport() noexcept { return transport_; }
    /// A pool of slabs that mail is sent from. False when a port has to copy from it.
    bool register_memory(std::span<std::byte> arena) noexcept;
    /// Before those pools go: the ports give back what they still hold of them. False when one does not.
    bool settle() noexcept;
    /// Whether other shards still need this one's loop.
    [[nodiscard]] bool needed_by_others() const noexcept {
        return loop_.shard() == 0 && !host_.others_left();
    }
    void publish_stats(telemetry::Stats& stats) const;

    std::size_t
    net_connections(std::uint32_t limit,
                    const std::function<void(const policy::NetConnection&)>& visit) const override;
    std::expected<void, std::string> capture_start(const policy::CaptureRequest& request) override;
    std::optional<policy::CaptureState>
    capture_read(const policy::CaptureRequest& request) override;
    bool capture_stop(std::uint64_t id) override;

    /// Drives the shard: the ports, the ring, and the time that a capture stamps frames with.
    class Driver final : public net::stack::StackDriver {
    public:
        Driver(ShardNet& shard_net, base::Uring& ring, net::stack::DriverOptions options) noexcept
            : StackDriver(shard_net.stacks(), ring, options), net_(shard_net) {}
        void poll() override {
            for (const std::unique_ptr<Line>& line : net_.lines_)
                line->tap.advance(net_.loop_.now());
            StackDriver::poll();
            const std::uint64_t carried = net_.carried_for_others();
            if (carried != carried_) stay_awake();
            carried_ = carried;
        }

    private:
        ShardNet& net_;
        std::uint64_t carried_ = 0;
    };

private:
    /// The shard's share of one port.
    struct Line {
        Line(ShardNet& net, NetPort& port);
        NetPort& port;
        net::CapturePort tap;
        net::stack::Stack stack;
        const net::stack::SteeringCounters* steering; // ours; null when nothing goes to others
    };
    [[nodiscard]] std::vector<net::stack::Stack*> stacks() const;
    [[nodiscard]] std::uint64_t carried_for_others() const noexcept;

    base::Loop& loop_;
    base::Uring& ring_;
    NetHost& host_;
    net::ShardThread thread_;
    std::vector<std::unique_ptr<Line>> lines_; // one for each port
    net::stack::StackSet transport_;
    std::uint64_t capture_id_ = 0; // 0: none
    std::vector<std::byte> captured_;
};

} // namespace dataplane::daemon
