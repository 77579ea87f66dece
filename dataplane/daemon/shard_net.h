// shard_net.h: one shard's own TCP/IP: its share of the port, its stack, and what operators ask of it.
//
// Scope      Set-up, polling, statistics, connection list and capture. How TCP works is net/stack's.
// Owns       The stack and the capture; the port is net_host.h's.
// Threading  The shard's, construction and end included.
// Failure    Construction throws std::runtime_error (start-up).
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/uring.h"
#include "dataplane/daemon/net_host.h"
#include "dataplane/net/port/capture_port.h"
#include "dataplane/net/stack/driver.h"
#include "dataplane/net/stack/stack.h"
#include "dataplane/policy/net_commands.h"
#include "dataplane/telemetry/stats.h"

namespace dataplane::daemon {

class ShardNet final : public policy::NetCommands {
public:
    ShardNet(base::Loop& loop, base::Uring& ring, NetHost& host);
    ~ShardNet() override;

    [[nodiscard]] net::stack::Stack& stack() noexcept { return stack_; }
    /// A pool of slabs that mail is sent from. False when the port has to copy from it.
    bool register_memory(std::span<std::byte> arena) noexcept {
        return tap_.register_memory(arena);
    }
    /// Before those pools go: the port gives back what it still holds of them. False when it does not.
    bool settle() noexcept { return tap_.settle(); }
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

    /// Drives the shard: the port, the ring, and the time that a capture stamps frames with.
    class Driver final : public net::stack::StackDriver {
    public:
        Driver(ShardNet& shard_net, base::Uring& ring, net::stack::DriverOptions options) noexcept
            : StackDriver(shard_net.stack_, ring, options), net_(shard_net) {}
        void poll() override {
            net_.tap_.advance(net_.loop_.now());
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
    [[nodiscard]] std::uint64_t carried_for_others() const noexcept {
        return steering_ != nullptr ? steering_->forwarded + steering_->sent_for_others : 0;
    }

    base::Loop& loop_;
    base::Uring& ring_;
    NetHost& host_;
    const net::stack::SteeringCounters* steering_; // ours; null when nothing goes to other shards
    net::ShardThread thread_;
    net::CapturePort tap_;
    net::stack::Stack stack_;
    std::uint64_t capture_id_ = 0; // 0: none
};

} // namespace dataplane::daemon
