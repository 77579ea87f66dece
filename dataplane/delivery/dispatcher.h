// dispatcher.h: takes messages that are due and brings each of their recipients to a next step.
//
// Scope      Routing (domain to site, cached), grouping of recipients, ready queues, connections
//            within limits, hosts in their order, and the end of each round: status, reports,
//            settle or defer. The dialogue is smtp/client_session.h's, the decision fate.h's.
// Owns       Domains, sites, lanes, jobs, rounds and connections of one shard; all bounded by
//            limits.h.
// Threading  Bound to one shard; shares only the SiteLedger with others.
// Failure    None of its own: everything that goes wrong becomes a recipient's next step.
//
// A site whose connections fail is paused as a whole, per source: what waits for it, and what comes
// during the pause, parks in the queue's schedule (queue/schedule.h) without a timer or an attempt of
// its own. After the pause one message goes ahead. When it gets an answer the lane starts slowly: one
// connection, and one more for each round of successes (Postfix's feedback, 1/N), until the site's
// limit is reached; parked mail is called for at the pace at which these connections take it. So a site
// with a million messages comes back without a herd, and one timer is all that it costs meanwhile. A
// lane that has more than it can hold parks the rest in the same place.
//
// Fresh mail and retries have shares of their own wherever they wait: here, in the schedule, and of
// the messages that one dispatcher holds, of which retries take half at most.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/stream.h"
#include "dataplane/base/wait.h"
#include "dataplane/delivery/domain.h"
#include "dataplane/delivery/limits.h"
#include "dataplane/delivery/orders.h"
#include "dataplane/delivery/resolver.h"
#include "dataplane/delivery/site.h"
#include "dataplane/delivery/site_ledger.h"
#include "dataplane/message/dkim/message_signer.h"
#include "dataplane/policy/policy.h"
#include "dataplane/policy/transports.h"
#include "dataplane/smtp/client_session.h"
#include "dataplane/telemetry/event.h"
#include "dataplane/telemetry/stats.h"
#include "queue/queue.h"
#include "tls_offload/tls_context.h"

#include <cstdint>
#include <list>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace dataplane::delivery {

struct DeliveryContext { // all outlive the dispatcher
    base::Loop& loop;
    policy::Transports transports;
    queue::MessageQueue& queue;
    const policy::PolicySlot& policy;
    Resolver& resolver;
    tls_offload::ClientContext* tls = nullptr; // serves every level; nullptr: no TLS
    telemetry::Stats& stats;
    telemetry::EventSink& events;
    SiteLedger& ledger;
    message::dkim::SigningDesk* dkim = nullptr; // signs reports; nullptr: they go unsigned
    std::uint64_t seed = 0;
    std::size_t messages_max = ready_messages_max;
};

class Dispatcher final : public queue::ReadySink {
public:
    explicit Dispatcher(const DeliveryContext& context);
    /// \pre  no task of its is left: close() has returned, or the loop has dropped its tasks
    ~Dispatcher() override;
    Dispatcher(const Dispatcher&) = delete;
    Dispatcher& operator=(const Dispatcher&) = delete;

    void message_ready(queue::MessageRef message) override;
    [[nodiscard]] std::size_t room(bool fresh) const noexcept override;

    /// No transaction begins any more: it closes, or the spool cannot write down that something was delivered.
    [[nodiscard]] bool stopped() const noexcept { return closing_ || context_.queue.read_only(); }
    /// Starts no more transactions, waits until the deadline for those that run, and cuts off the
    /// rest. Rounds that are open then end neither way: the queue hands their messages out after
    /// the next start.
    [[nodiscard]] base::Task<void> close(base::Deadline deadline);

    /// In place of those before. What was held is looked at again.
    void set_orders(std::vector<StandingOrder> orders);
    [[nodiscard]] const std::vector<StandingOrder>& orders() const noexcept { return orders_; }
    /// The next time this message is handed out its pending recipients are given up, with a report to
    /// its sender where one is due. Who says so has it handed out.
    void end_message(queue::MessageId id, Ending ending) { endings_[id.value] = ending; }
    [[nodiscard]] std::size_t endings_left() const noexcept { return endings_.size(); }
    /// Tries the site again at once, slowly, whatever has failed before. False: it was not paused.
    bool end_pause(std::string_view parking_key);
    /// Of a domain whose mail was routed lately; "" when it is not known.
    [[nodiscard]] std::string_view site_name(std::string_view domain) const noexcept;

    [[nodiscard]] std::size_t round_count() const noexcept { return rounds_open_; }
    [[nodiscard]] std::size_t connection_count() const noexcept { return connections_open_; }
    [[nodiscard]] std::size_t site_count() const noexcept { return sites_by_key_.size(); }
    [[nodiscard]] std::size_t domain_count() const noexcept { return domains_by_name_.size(); }

private:
    struct Domain;
    struct Connection;
    struct TaskMark;  // counts a task while it runs
    struct SlotGuard; // a connection's slot, given back however its task ends
    struct SourceChoice {
        const policy::SourcePolicy* source;
        std::string_view pool;
    };
    struct SweepTimer : base::Timer {
        using Timer::Timer;
        Dispatcher* dispatcher = nullptr;
    };

    // Routing.
    Domain& domain_of(std::string_view folded);
    void route(Domain& domain);
    base::Task<void> resolve(Domain* domain, TaskMark mark);
    base::Task<void> resolve_smart_hosts(Domain* domain, policy::PolicyPtr policy);
    void settle_domain(Domain& domain, const policy::Policy& policy, std::vector<SiteHost> hosts,
                       base::TimePoint valid_until);
    void fail_domain(Domain& domain, std::uint16_t code, smtp::EnhancedCode enhanced,
                     std::string_view why);
    void fail_domain(Domain& domain, ResolveError error);
    void resume_waiting(Domain& domain);
    Site& site_of(const policy::Policy& policy, const policy::RoutePolicy& route,
                  std::string_view domain, std::vector<SiteHost> hosts);
    Lane& lane_of(Site& site, const SourceChoice& choice);
    [[nodiscard]] static std::string lane_name(const Site& site, std::string_view source);
    [[nodiscard]] SourceChoice choose_source(const policy::Policy& policy, std::string_view wanted);
    void release_site(Domain& domain) noexcept;
    void sweep();
    static void on_sweep(base::Timer& timer) noexcept;

    // Orders.
    [[nodiscard]] bool suspended(const queue::Message& message) const;
    [[nodiscard]] std::string_view ordered_source(const queue::Message& message) const;
    void end_by_order(Round& round, Ending ending);
    static void on_look_at_held(base::Timer& timer) noexcept;

    // Rounds and jobs.
    void place(Round& round, std::uint32_t recipient);
    void enqueue_assembled();
    void enqueue(Job& job);
    void end_job(Job& job);
    void end_round(Round& round);
    base::Task<void> end_with_reports(Round* round, TaskMark mark);
    void conclude(Round& round, bool reports_sent);
    void postpone(Round& round, std::uint32_t recipient, const smtp::Outcome& outcome,
                  base::WallTime due);
    [[nodiscard]] bool expired(const Round& round) const noexcept;
    void park_job(Job& job, const smtp::Outcome& outcome);
    [[nodiscard]] bool wants_notice(const Round& round) const noexcept;
    [[nodiscard]] base::WallTime wake_by(const queue::Envelope& envelope) const noexcept;
    [[nodiscard]] Round& take_round();
    [[nodiscard]] Job& take_job(Round& round, Lane* lane);
    void put_back(Round& round) noexcept;
    void put_back(Job& job) noexcept;
    [[nodiscard]] base::WallTime scatter(base::Duration wait, double share);

    // Connections.
    void kick(Lane& lane);
    void grow(Lane& lane);
    void feed(Lane& lane);
    void succeeded(Lane& lane);
    void failing(Lane& lane, const smtp::Outcome& failure);
    void park_ready(Lane& lane);
    [[nodiscard]] static std::size_t ready_max(const Lane& lane, bool fresh) noexcept;
    [[nodiscard]] bool take_slot(Lane& lane);
    void let_go(Lane& lane) noexcept;
    void look_again(Lane& lane, base::TimePoint when);
    static void on_wake(base::Timer& timer) noexcept;
    base::Task<void> run_connection(Lane* lane, SlotGuard slot, TaskMark mark);
    base::Task<bool> connect(Connection* connection);
    base::Task<bool> try_address(Connection* connection, const SiteHost* host,
                                 base::IpAddress address);
    base::Task<bool> plan(Connection* connection, const SiteHost* host);
    base::Task<bool> dial(Connection* connection, const SiteHost* host, base::SocketAddress remote,
                          bool plain);
    base::Task<bool> wait_for_place(Lane* lane);
    base::Task<bool> idle(Lane* lane);
    void connect_failed(Lane& lane, const smtp::Outcome& failure);
    void expire_job(Job& job);
    void settle_transaction(Connection& connection, Job& job);

    // What became of a recipient. `connection` is null when none was involved.
    void recipient_delivered(Round& round, std::uint32_t recipient, const smtp::Outcome& outcome,
                             const Connection* connection);
    void recipient_failed(Round& round, std::uint32_t recipient, const smtp::Outcome& outcome,
                          NextStep step, const Connection* connection, const Site* site);
    void recipient_deferred(Round& round, std::uint32_t recipient, const smtp::Outcome& outcome,
                            const Connection* connection, const Site* site);
    void emit(telemetry::EventType type, const Round& round, std::uint32_t recipient,
              const smtp::Outcome& outcome, const Connection* connection, const Site* site);

    DeliveryContext context_;
    base::Loop& loop_;
    std::mt19937_64 random_;
    base::CancelSource halt_;
    base::WaitQueue quiet_{"delivery close"};
    bool closing_ = false;

    std::list<Domain> domains_; // most recently used first
    policy::TextMap<std::list<Domain>::iterator> domains_by_name_;
    std::list<Site> sites_; // most recently made first
    policy::TextMap<std::list<Site>::iterator> sites_by_key_;
    SweepTimer sweep_timer_;

    std::vector<StandingOrder> orders_;
    std::unordered_map<std::uint64_t, Ending> endings_; // by message id
    SweepTimer held_timer_;                             // looks at held mail again, in slices
    std::uint64_t held_left_ = 0;

    std::vector<std::unique_ptr<Round>> rounds_;
    std::vector<Round*> free_rounds_;
    std::vector<std::unique_ptr<Job>> jobs_;
    std::vector<Job*> free_jobs_;
    std::vector<Job*> assembled_;      // jobs of the round that is being placed
    std::vector<std::uint32_t> moved_; // recipients of a job that goes to another connection
    std::size_t rounds_open_ = 0;
    std::size_t retries_open_ = 0;     // of them
    mutable bool queue_waits_ = false; // for room
    std::size_t connections_open_ = 0;
    std::size_t tasks_ = 0;
};

} // namespace dataplane::delivery
