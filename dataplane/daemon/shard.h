// shard.h: one thread of the data plane: its core, its ring, its spool file, its relay.
//
// Scope      Start, run, stop. What runs on it is relay.h's business.
// Owns       The thread and everything on it.
// Threading  Constructed, started, stopped and destroyed by main; the rest happens on its own thread.
// Failure    wait_ready() returns a sentence for the operator when the shard cannot start.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/daemon/dkim_cache.h"
#include "dataplane/daemon/log.h"
#include "dataplane/daemon/net_host.h"
#include "dataplane/daemon/rule_cache.h"
#include "dataplane/daemon/spool_pool.h"
#include "dataplane/delivery/orders.h"
#include "dataplane/delivery/site_ledger.h"
#include "dataplane/delivery/unbound_resolver.h"
#include "dataplane/policy/control_link.h"
#include "dataplane/policy/policy.h"
#include "dataplane/telemetry/event_log.h"
#include "dataplane/telemetry/stats.h"
#include "queue/queue.h"
#include "tls_offload/engine/engine.h"
#include "tls_offload/engine/host.h"
#include "tls_offload/keeper.h"

#include <atomic>
#include <cstdint>
#include <expected>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace dataplane::daemon {

/// What all shards share; see docs/architecture.md for why each of them is safe to.
struct ShardParts {
    const base::Clock& clock;
    policy::PolicyPtr policy;
    policy::ControlLink& link;
    delivery::DnsService& dns;
    delivery::SiteLedger& ledger;
    RuleCache& rules;
    DkimCache& dkim_keys;
    control::schema::ShardStats& stats;
    telemetry::EventLog& events;
    NetHost* net; // null: no port is configured
    tls_offload::Keeper& certificates;
    const tls_offload::offload::Host& offload;
    std::uint64_t seed;
    SpoolDevices& devices;
    const SpoolTampering& tampering;
    std::vector<delivery::StandingOrder> orders{}; // see queue_operations.h
    std::string
        attached{}; // a dead node's pool to deliver (attach.h); empty: the shard's own, for mail
};

/// \pre  report.records_damaged is not 0
[[nodiscard]] std::string describe_damage(const queue::RecoveryReport& report);

struct ShardStarted {
    queue::RecoveryReport recovery; // so far: see its `complete`
    std::vector<base::SocketAddress> addresses;
};

class Shard {
public:
    Shard(unsigned index, ShardParts parts);
    ~Shard();
    Shard(const Shard&) = delete;
    Shard& operator=(const Shard&) = delete;

    /// Starts the thread. It attaches to the link, recovers its spool and opens its listeners.
    void start();
    [[nodiscard]] std::expected<ShardStarted, std::string> wait_ready();
    /// Asks the shard to drain and end; join() waits for it. The shard looks every housekeeping_interval.
    void request_stop() noexcept;
    void join();
    void drain_log() { log_.drain(); }
    /// Of an attached pool: messages that delivery can still do something about; nothing while recovery
    /// is looking for more.
    [[nodiscard]] std::optional<std::uint64_t> left() const noexcept {
        const std::uint64_t left = left_.load(std::memory_order_relaxed);
        return left == left_unknown ? std::nullopt : std::optional{left};
    }

private:
    struct Running;
    void run();
    base::Task<void> open(Running& running);
    base::Task<void> report_recovery(Running& running);
    base::Task<void> count_rooms(Running& running);
    base::Task<void> housekeeping(Running& running);
    void count_left(Running& running);
    void publish_rooms() noexcept;
    void publish_offload(const tls_offload::offload::Engine& engine) noexcept;
    base::Task<void> serve_others(Running& running);

    unsigned index_;
    ShardParts parts_;
    telemetry::Stats stats_;
    telemetry::EventSink& events_;
    ShardLog log_;
    std::promise<std::expected<ShardStarted, std::string>> ready_;
    std::future<std::expected<ShardStarted, std::string>> ready_future_;
    SpoolPool* pool_ = nullptr; // on the shard's thread
    std::atomic<bool> stop_requested_{false};
    static constexpr std::uint64_t left_unknown = ~std::uint64_t{0};
    std::atomic<std::uint64_t> left_{left_unknown};
    std::thread thread_;
};

} // namespace dataplane::daemon
