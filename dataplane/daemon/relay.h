// relay.h: one shard's relay: queue, listeners, sessions and deliveries, wired together over interfaces.
//
// Scope      The wiring and nothing else. Transport, disk, resolver, authenticator and clock come from
//            outside: shard.h gives it sockets and files, tests/sim gives it a simulated world.
// Owns       The queue, the dispatcher, the listeners and the screener of its shard.
// Threading  Bound to its Loop's thread.
// Failure    open() and listen() return a sentence for the operator. A policy whose rules do not load
//            keeps the old ones, and says so through `note`. Certificates have their own way here: see
//            tls_offload/keeper.h.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/stream.h"
#include "dataplane/daemon/log.h"
#include "dataplane/daemon/quarantine.h"
#include "dataplane/delivery/dispatcher.h"
#include "dataplane/delivery/resolver.h"
#include "dataplane/delivery/site_ledger.h"
#include "dataplane/message/dkim/inline_signer.h"
#include "dataplane/message/dkim/message_signer.h"
#include "dataplane/policy/authenticator.h"
#include "dataplane/policy/policy.h"
#include "dataplane/policy/transports.h"
#include "dataplane/screen/screen.h"
#include "dataplane/smtp/server_context.h"
#include "dataplane/telemetry/event.h"
#include "dataplane/telemetry/stats.h"
#include "queue/disk/disk.h"
#include "queue/queue.h"
#include "tls_offload/keeper.h"

#include <cstdint>
#include <expected>
#include <functional>
#include <limits>
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
    std::vector<delivery::StandingOrder> orders{}; // that hold from the first hand-out on
    std::uint64_t seed = 0;                        // of retry jitter, host order and session ids
    tls_offload::TlsPort* tls = nullptr;           // null: TLS is neither offered nor used
    std::function<void(LogLevel, std::string_view event, std::string_view text)> note;
    // The screening rules of a policy. Loading them takes longer than a turn: rule_cache.h has them ready.
    std::function<std::expected<std::shared_ptr<const screen::RuleSet>, screen::ScreenError>(
        const policy::PolicyPtr&)>
        rules;
    // The DKIM keys of a policy, in the same way (dkim_cache.h). Empty: nothing is signed.
    std::function<std::expected<std::shared_ptr<const message::dkim::KeySet>, std::string>(
        const policy::PolicyPtr&)>
        dkim_keys;
    message::dkim::Signer* signer = nullptr; // null: keys are used on the spot
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
    /// Takes over what the slot's new policy says about rules.
    void policy_changed();
    /// Stops accepting, tells sessions 421, lets deliveries in flight end, closes the queue.
    [[nodiscard]] base::Task<void> stop(base::Duration limit);

    /// Copies what the rooms count for themselves to the statistics page.
    void publish_stats();

    /// Whether open() has succeeded; before that there is no queue and no dispatcher.
    [[nodiscard]] bool is_open() const noexcept { return dispatcher_ != nullptr; }
    [[nodiscard]] queue::MessageQueue& queue() noexcept { return *queue_; }
    [[nodiscard]] delivery::Dispatcher& dispatcher() noexcept { return *dispatcher_; }
    /// Bound addresses, in the order of the policy's listeners.
    [[nodiscard]] std::vector<base::SocketAddress> addresses() const;

private:
    base::Task<void> accept_from(base::Listener& listener, std::size_t index);
    base::Task<void> serve_one(base::StreamPtr stream, std::size_t index);
    void look_for_oldest();
    [[nodiscard]] std::expected<void, std::string> load_screen();
    [[nodiscard]] std::expected<void, std::string> load_dkim();

    RelayParts parts_;
    base::CancelSource stopping_;
    screen::Screener screener_;
    message::dkim::InlineSigner inline_signer_;
    message::dkim::SigningDesk dkim_;
    std::unique_ptr<QuarantineFolder> quarantine_; // outlives the queue
    std::unique_ptr<queue::MessageQueue> queue_;
    std::unique_ptr<delivery::Dispatcher> dispatcher_;
    bool read_only_told_ = false;   // of the spool, in the log
    queue::EntryRef oldest_at_ = 0; // how far the look for the oldest message has come
    std::uint32_t oldest_found_ = std::numeric_limits<std::uint32_t>::max();
    std::unique_ptr<smtp::ServerContext> server_;
    std::vector<std::unique_ptr<base::Listener>> listeners_;
    std::size_t sessions_ = 0;
    base::WaitQueue session_ended_{"session end"};
};

} // namespace dataplane::daemon
