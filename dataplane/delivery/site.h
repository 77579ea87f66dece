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
#include "queue/queue.h"
#include "queue/schedule.h"

#include <array>
#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
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
    bool fresh = true;       // its first round: counted apart, see Dispatcher::room()
    bool progressed = false; // a recipient became final since the queue was last told
    base::WallTime due = base::WallTime::max(); // the earliest that a pending recipient asks for
    std::string why;                            // the last reason for waiting
    Lane* parking =
        nullptr; // a lane that takes nothing now: where the message waits if that is all
    base::WallTime park_until =
        base::WallTime::max(); // when it is looked at again if it is not all
    std::vector<Report> reports;
    std::vector<Job*> waiting; // its jobs in ready queues, which further recipients may join
};

struct Job {
    Job* next = nullptr; // in its queue
    Round* round = nullptr;
    Lane* lane = nullptr;                  // null while its domain is being resolved
    std::vector<std::uint32_t> recipients; // indices into the envelope
    std::uint8_t moves = 0;                // to another connection or host, in this round
    bool fresh = true;                     // of a message that has not been attempted before
    std::uint32_t cost = 1;                // what it takes of its tenant's turn
};

/// Jobs that wait for a connection: first in, first out within a tenant. Tenants take turns by deficit
/// round robin over bytes, so that one tenant's million does not stand in front of another's ten. Fresh
/// mail and retries wait apart and share 3 to 1 while there is both.
class ReadyQueue {
public:
    void push(Job& job, std::string_view tenant);
    /// Back to the front of its tenant, which is next.
    void push_front(Job& job, std::string_view tenant);
    [[nodiscard]] Job* pop() noexcept;
    [[nodiscard]] std::size_t size() const noexcept { return rings_[0].size + rings_[1].size; }
    [[nodiscard]] bool empty() const noexcept { return size() == 0; }

    /// What a job of so many bytes costs; a turn is worth one.
    [[nodiscard]] static std::uint32_t cost_of(std::uint64_t bytes) noexcept;

private:
    struct Tenant {
        Job* first = nullptr;
        Job* last = nullptr;
        Tenant* next = nullptr; // among those that have jobs
        std::uint32_t deficit = 0;
    };
    struct Ring {
        Tenant* first = nullptr;
        Tenant* last = nullptr;
        std::size_t size = 0;
    };
    [[nodiscard]] Tenant& tenant(const Job& job, std::string_view name);
    [[nodiscard]] Ring& ring(const Job& job) noexcept { return rings_[job.fresh ? 0 : 1]; }
    [[nodiscard]] static Job* pop(Ring& ring) noexcept;

    // Tenants are configured: there are as many as the operator has, and they stay.
    std::array<policy::TextMap<std::unique_ptr<Tenant>>, 2> tenants_;
    std::array<Ring, 2> rings_;
    unsigned turn_ = 0; // of the shares
};

/// One source's way to one site.
struct Lane {
    Lane(Site& owner, Dispatcher& manager, queue::MessageQueue& spool)
        : site(owner), dispatcher(manager), queue(spool) {}
    ~Lane();
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;

    struct WakeTimer : base::Timer {
        using Timer::Timer;
        Lane* lane = nullptr;
        base::TimePoint at{}; // when it fires, while it is armed
    };

    Site& site;
    Dispatcher& dispatcher;
    queue::MessageQueue& queue;
    policy::SourcePolicy source;
    std::string pool;       // that chose the source the last time; for events
    SiteLedger::Hold slots; // while there is a connection, or mail that wants one
    SiteLedger::Entry::Want wanted = SiteLedger::Entry::Want::nothing; // as the ledger counts it
    ReadyQueue ready;

    std::uint32_t open = 0; // connections, those being made included: each holds a slot
    std::uint32_t connecting = 0;
    std::uint32_t established = 0; // open - connecting
    std::uint32_t awaiting_place =
        0; // connections that wait for the rate, each for one of the jobs
    base::WaitQueue idle{"idle connection"};

    // Mail that waits for this lane outside of the dispatcher, and the memory of its failures, which
    // outlives the lane.
    queue::SiteRef parking = queue::no_site;
    std::uint32_t rounds_parking = 0; // rounds that will park here when they end
    base::TimePoint fed{};            // when parked mail was last asked for

    // Slow start after a failure: so many connections, one more for each round of successes, until it
    // reaches the site's limit. 0: not recovering.
    double window = 0;
    bool proven = false;            // has taken a message since it was made or last failed
    std::uint32_t lost = 0;         // transactions in a row that ended without an answer
    base::TimePoint paused_until{}; // after a failure: nothing is attempted before
    std::string pause_reason;       // for those who wait
    base::TimePoint grow_after{};   // no further connection before
    std::optional<WakeTimer> wake;  // looks at the lane again

    /// Tells the ledger what could not be had. \pre  `slots` is held
    void want(SiteLedger::Entry::Want what) noexcept {
        slots->change_want(std::exchange(wanted, what), what);
    }
    [[nodiscard]] bool unused(base::TimePoint now) const noexcept {
        return open == 0 && ready.empty() && rounds_parking == 0 && paused_until <= now;
    }
};

struct SiteHost {
    std::string name;
    std::uint16_t port = 25;
    std::uint16_t preference = 0;
    std::optional<base::IpAddress> literal;
    bool secure = false; // DNSSEC vouches for its name, or the operator does
};

struct Site {
    std::string name; // as people see it
    std::string key;  // as limits are counted: the name, and what sets this use of it apart
    std::vector<SiteHost> hosts; // by preference
    bool own_hosts = false;      // a route's, not a domain's MX
    std::string domain;          // the recipients' only one, where it decides whom TLS accepts
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
