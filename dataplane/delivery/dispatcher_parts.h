// dispatcher_parts.h: what the dispatcher's source files share and nobody else needs.
//
// Scope      Domain, Connection and the guards of Dispatcher. dispatcher.cc has rounds and jobs,
//            routing.cc domains and sites, connections.cc connections, pacing.cc how fast
//            they go, standing.cc an operator's orders.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/delivery/dispatcher.h"
#include "dataplane/delivery/tls_plan.h"

#include <memory>
#include <string>
#include <utility>

namespace dataplane::delivery {

struct Dispatcher::Domain {
    enum class State : std::uint8_t { unknown, resolving, ready, failed, discard };
    std::string name; // as recipients write it, ASCII folded
    State state = State::unknown;
    Site* site = nullptr;  // counted in its `domains`
    smtp::Outcome failure; // what its recipients get when it is failed
    std::string source;    // the route's
    base::TimePoint valid_until{};
    std::uint64_t policy_version = 0;
    Job* waiting_first = nullptr; // jobs that wait for its resolution
    Job* waiting_last = nullptr;
};

/// Counts a task from the making of its frame to the frame's end, however it ends.
struct Dispatcher::TaskMark {
    explicit TaskMark(Dispatcher& owner) noexcept : dispatcher(&owner) { ++dispatcher->tasks_; }
    TaskMark(TaskMark&& other) noexcept : dispatcher(std::exchange(other.dispatcher, nullptr)) {}
    TaskMark& operator=(TaskMark&&) = delete;
    ~TaskMark() {
        if (dispatcher != nullptr && --dispatcher->tasks_ == 0) dispatcher->quiet_.wake_all();
    }
    Dispatcher* dispatcher;
};

/// A connection's slot and its place in the lane's counts, given back however its task ends.
struct Dispatcher::SlotGuard {
    explicit SlotGuard(Lane& owner) noexcept : lane(&owner) {
        ++lane->open;
        ++lane->connecting;
        ++lane->dispatcher.connections_open_;
        lane->dispatcher.context_.stats.adjust(telemetry::Gauge::open_out, 1);
    }
    SlotGuard(SlotGuard&& other) noexcept
        : lane(std::exchange(other.lane, nullptr)), established(other.established) {}
    SlotGuard& operator=(SlotGuard&&) = delete;
    ~SlotGuard() { release(); }
    void establish() noexcept {
        established = true;
        --lane->connecting;
        ++lane->established;
    }
    void release() noexcept {
        Lane* held = std::exchange(lane, nullptr);
        if (held == nullptr) return;
        --held->open;
        --(established ? held->established : held->connecting);
        --held->dispatcher.connections_open_;
        held->dispatcher.context_.stats.adjust(telemetry::Gauge::open_out, -1);
        held->slots->close_connection();
    }
    Lane* lane;
    bool established = false;
};

/// One connection as its task knows it.
struct Dispatcher::Connection {
    explicit Connection(Lane& owner, policy::PolicyPtr current)
        : lane(owner), policy(std::move(current)) {}
    Lane& lane;
    policy::PolicyPtr policy; // of when it was begun
    std::unique_ptr<smtp::ClientSession> session;
    base::SocketAddress remote;
    std::string host;          // name of the MX, for people
    std::uint32_t tried = 0;   // addresses, the present one included
    bool alternatives = false; // other addresses of the site have not been tried
    std::uint32_t served = 0;  // transactions
    smtp::Outcome failure;     // of opening it
    TlsPlan plan;              // for the host that is tried, or reached
};

} // namespace dataplane::delivery
