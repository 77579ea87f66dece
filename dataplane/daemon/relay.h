// relay.h: one shard's relay: queue, listeners, sessions and deliveries, wired together over interfaces.
//
// Scope      The wiring and nothing else. Transport, disk, resolver, authenticator and clock come from
//            outside: shard.h gives it sockets and files, tests/sim gives it a simulated world.
// Owns       The queue, the dispatcher, the listeners, TLS contexts and the screener of its shard.
// Threading  Bound to its Loop's thread.
// Failure    open() and listen() return a sentence for the operator. A policy whose certificates or rules
//            do not load keeps the old ones, and says so through `note`.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/stream.h"
#include "dataplane/daemon/log.h"
#include "dataplane/delivery/dispatcher.h"
#include "dataplane/delivery/resolver.h"
#include "dataplane/delivery/site_ledger.h"
#include "dataplane/policy/authenticator.h"
#include "dataplane/policy/policy.h"
#include "dataplane/policy/transports.h"
#include "dataplane/screen/screen.h"
#include "dataplane/smtp/server_context.h"
#include "dataplane/telemetry/event.h"
#include "dataplane/telemetry/stats.h"
#include "queue/disk.h"
#include "queue/queue.h"
#include "tls_offload/tls_context.h"

#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::daemon {

/// What a relay stands on; everything is borrowed and outlives it.
struct RelayParts {
    base::Loop& loop;
    policy::Transports transports;
    queue::Disk& disk;
    policy::PolicySlot& policy;
    policy::Authenticator& authenticator;
    delivery::Resolver& resolver;
    delivery::SiteLedger& ledger;
    telemetry::Stats& stats;
    telemetry::EventSink& events;
    std::uint64_t seed = 0; // of retry jitter, host order and session ids
    std::string certificate_file,
        key_file; // used when the policy names none; empty: no TLS offered
    std::function<void(LogLevel, std::string_view event, std::string_view text)> note;
    // The screening rules of a policy. Loading them takes longer than a turn: rule_cache.h has them ready.
    std::function<std::expected<std::shared_ptr<const screen::RuleSet>, screen::ScreenError>(
        const policy::PolicyPtr&)>
        rules;
};

class Relay {
public:
    explicit Relay(RelayParts parts);
    ~Relay();
    Relay(const Relay&) = delete;
    Relay& operator=(const Relay&) = delete;

    /// Recovers the queue and starts delivering what it held.
    [[nodiscard]] base::Task<std::expected<queue::RecoveryReport, std::string>> open();
    /// Opens every listener of the policy and accepts on them.
    [[nodiscard]] std::expected<void, std::string> listen();
    /// Takes over what the slot's new policy says about certificates and rules.
    void policy_changed();
    /// Stops accepting, tells sessions 421, lets deliveries in flight end, closes the queue.
    [[nodiscard]] base::Task<void> stop(base::Duration limit);

    /// Copies what the rooms count for themselves to the statistics page.
    void publish_stats();

    [[nodiscard]] queue::MessageQueue& queue() noexcept { return *queue_; }
    [[nodiscard]] delivery::Dispatcher& dispatcher() noexcept { return *dispatcher_; }
    /// Bound addresses, in the order of the policy's listeners.
    [[nodiscard]] std::vector<base::SocketAddress> addresses() const;

private:
    base::Task<void> accept_from(base::Listener& listener, std::size_t index);
    base::Task<void> serve_one(base::StreamPtr stream, std::size_t index);
    [[nodiscard]] std::expected<void, std::string> load_tls();
    [[nodiscard]] std::expected<void, std::string> load_screen();

    RelayParts parts_;
    base::CancelSource stopping_;
    tls_offload::TlsLibrary tls_library_;
    std::optional<tls_offload::ServerContext> tls_server_;
    std::optional<tls_offload::ClientContext> tls_client_;
    screen::Screener screener_;
    std::unique_ptr<queue::MessageQueue> queue_;
    std::unique_ptr<delivery::Dispatcher> dispatcher_;
    std::unique_ptr<smtp::ServerContext> server_;
    std::vector<std::unique_ptr<base::Listener>> listeners_;
    std::size_t sessions_ = 0;
    base::WaitQueue session_ended_{"session end"};
};

} // namespace dataplane::daemon
