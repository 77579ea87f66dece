// site.h: a destination and what is on its way there: sites, their lanes, and the jobs that wait in
// them.
//
// Scope      Plain state and the fair queue. A Site is a rolled-up set of MX hosts, or a route's
//            hosts; a Lane is one source's way to it, with its connections and its ready queue; a
//            Job is one message's recipients for one lane; a Round is one delivery round of a
//            message. What is done with them is in dispatcher.h.
// Owns       A site owns its lanes. Jobs and rounds belong to the dispatcher's pools and are linked
//            here.
// Threading  Bound to one shard; the limits that shards share are in site_ledger.h.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/base/timer_wheel.h"
#include "dataplane/base/wait.h"
#include "dataplane/delivery/dsn.h"
#include "dataplane/delivery/fate.h"
#include "dataplane/delivery/site_ledger.h"
#include "dataplane/policy/policy.h"
#include "queue/message.h"

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::delivery {

struct Job;
struct Lane;
struct Site;
class Dispatcher;

/// One delivery round of one message: from the queue's message_ready() to settle() or defer().
struct Round {
    /// What is to be told to the sender, or done to the status, once the round ends.
    struct Report {
        NextStep step =
            NextStep::bounce;   // bounce, expire, retry_later (a delay), or delivered (relayed)
        std::uint16_t code = 0; // as RecipientStatus::last_code
        DsnRecipient dsn;
    };
    queue::MessageRef message;
    std::uint32_t jobs_open = 0;
    bool progressed = false; // a recipient became final since the queue was last told
    base::WallTime due = base::WallTime::max(); // the earliest that a pending recipient asks for
    std::string why;                            // the last reason for waiting
    std::vector<Report> reports;
    std::vector<Job*> waiting; // its jobs in ready queues, which further recipients may join
};

struct Job {
    Job* next = nullptr; // in its queue
    Round* round = nullptr;
    Lane* lane = nullptr;                  // null while its domain is being resolved
    std::vector<std::uint32_t> recipients; // indices into the envelope
    std::uint8_t moves = 0;                // to another connection or host, in this round
};

/// Jobs that wait for a connection: first in, first out within a tenant, tenants taking turns, so
/// that one tenant's million does not stand in front of another's ten.
class ReadyQueue {
public:
    void push(Job& job, std::string_view tenant);
    /// Back to the front of its tenant, which is next.
    void push_front(Job& job, std::string_view tenant);
    [[nodiscard]] Job* pop() noexcept;
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    [[nodiscard]] bool empty() const noexcept { return size_ == 0; }

private:
    struct Tenant {
        Job* first = nullptr;
        Job* last = nullptr;
        Tenant* next = nullptr; // among those that have jobs
    };
    [[nodiscard]] Tenant& tenant(std::string_view name);

    // Tenants are configured: there are as many as the operator has, and they stay.
    policy::TextMap<std::unique_ptr<Tenant>> tenants_;
    Tenant* first_ = nullptr;
    Tenant* last_ = nullptr;
    std::size_t size_ = 0;
};

/// One source's way to one site.
struct Lane {
    Lane(Site& owner, Dispatcher& manager) : site(owner), dispatcher(manager) {}
    ~Lane() {
        if (waiting_for_slot) slots->add_waiting(-1);
    }
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;

    struct WakeTimer : base::Timer {
        using Timer::Timer;
        Lane* lane = nullptr;
    };

    Site& site;
    Dispatcher& dispatcher;
    policy::SourcePolicy source;
    std::string pool;              // that chose the source the last time; for events
    SiteLedger::Hold slots;        // while there is a connection, or mail that wants one
    bool waiting_for_slot = false; // counted in the ledger
    ReadyQueue ready;

    std::uint32_t open = 0; // connections, those being made included: each holds a slot
    std::uint32_t connecting = 0;
    std::uint32_t established = 0; // open - connecting
    std::uint32_t awaiting_place =
        0; // connections that wait for the rate, each for one of the jobs
    base::WaitQueue idle{"idle connection"};

    std::uint32_t failures = 0;     // of opening a connection, in a row
    base::TimePoint paused_until{}; // after a failure: nothing is attempted before
    std::string pause_reason;       // for those who wait
    base::TimePoint grow_after{};   // no further connection before
    std::optional<WakeTimer> wake;  // looks at the lane again

    [[nodiscard]] bool unused(base::TimePoint now) const noexcept {
        return open == 0 && ready.empty() && paused_until <= now;
    }
};

struct SiteHost {
    std::string name;
    std::uint16_t port = 25;
    std::uint16_t preference = 0;
    std::optional<base::IpAddress> literal;
};

struct Site {
    std::string name; // as people see it
    std::string key;  // as limits are counted: the name, and what sets this use of it apart
    std::vector<SiteHost> hosts; // by preference
    bool own_hosts = false;      // a route's, not a domain's MX
    policy::SitePolicy settings;
    SiteLedger::Hold rate;                        // attached when a rate limit first asks for it
    policy::TextMap<std::unique_ptr<Lane>> lanes; // by source name
    std::uint32_t domains = 0;                    // that point here
    base::TimePoint last_used{};

    /// What is remembered of an address for a while.
    struct HostNote {
        base::SocketAddress address;
        base::TimePoint avoid_until{};
        base::TimePoint plain_until{}; // its TLS does not work
    };
    std::vector<HostNote> notes; // at most host_notes_max

    [[nodiscard]] HostNote* note(const base::SocketAddress& address) noexcept;
    /// The note of this address, made when there is none, in the place of the oldest when full.
    [[nodiscard]] HostNote& make_note(const base::SocketAddress& address);
};

} // namespace dataplane::delivery
