// wait.h: how a coroutine waits: for an event, until a deadline, or until it is cancelled.
//
// Scope      Waiter is the one leaf every await in the relay ends in. An event that nobody waits for
//            is not remembered: look at the condition first, wait, look again.
// Owns       Nothing but its links; a Waiter or WaitQueue must outlive the coroutines waiting on it.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/base/link.h"
#include "dataplane/base/loop.h"
#include "dataplane/base/timer_wheel.h"

#include <coroutine>
#include <cstdint>

namespace dataplane::base {

class CancelSource;

/// How long an await may take, and who may end it before that.
struct Deadline {
    TimePoint at = TimePoint::max();
    CancelSource* cancel = nullptr; // borrowed; outlives the wait

    [[nodiscard]] static Deadline never() noexcept { return {}; }
    [[nodiscard]] static Deadline in(const Loop& loop, Duration limit,
                                     CancelSource* cancel = nullptr) noexcept {
        const TimePoint now = loop.now();
        return {limit < TimePoint::max() - now ? now + limit : TimePoint::max(), cancel};
    }
    /// The same cancellation with the earlier of the two times.
    [[nodiscard]] Deadline sooner(TimePoint other) const noexcept {
        return {other < at ? other : at, cancel};
    }
};

enum class Wake : std::uint8_t { event, timed_out, cancelled };

/// One suspended coroutine. Lives in the awaiting frame.
class WaitNode {
public:
    WaitNode(Loop& loop, const char* label, Deadline deadline) noexcept
        : loop_(loop), label_(label), deadline_(deadline), timer_(&WaitNode::on_timer) {}
    ~WaitNode() {
        unlink();
        if (queued_) loop_.forget(queued_); // destroyed between its wake-up and its resumption
    }
    WaitNode(const WaitNode&) = delete;
    WaitNode& operator=(const WaitNode&) = delete;

    /// Parks `waiting`; returns false when the deadline's owner has cancelled already.
    bool park(std::coroutine_handle<> waiting) noexcept;
    /// Ends the wait and queues the coroutine on its loop. Harmless when it has ended already.
    void wake(Wake reason) noexcept;
    /// For await_resume(): why the wait ended.
    [[nodiscard]] Wake reason() const noexcept {
        queued_ = nullptr;
        return reason_;
    }

    struct QueueLink : detail::Link {
        WaitNode* node = nullptr;
    };
    QueueLink queue_link; // the list of whoever may wake this node with an event

private:
    friend class CancelSource;
    static void on_timer(Timer& timer) noexcept;
    void unlink() noexcept;

    struct NodeTimer : Timer {
        explicit NodeTimer(Fire fire) noexcept : Timer(fire) {}
        WaitNode* node = nullptr;
    };
    struct CancelLink : detail::Link {
        WaitNode* node = nullptr;
    };

    Loop& loop_;
    const char* label_;
    Deadline deadline_;
    NodeTimer timer_;
    CancelLink cancel_link_;
    Room room_ = Room::loop; // that waits
    std::coroutine_handle<> waiting_;
    mutable std::coroutine_handle<> queued_; // on the loop, not resumed yet
    Wake reason_ = Wake::event;
};

/// Ends every wait that carries it, now and later: there is no way back.
class CancelSource {
public:
    CancelSource() noexcept { head_.make_head(); }
    ~CancelSource();
    CancelSource(const CancelSource&) = delete;
    CancelSource& operator=(const CancelSource&) = delete;
    void cancel() noexcept;
    [[nodiscard]] bool cancelled() const noexcept { return cancelled_; }

private:
    friend class WaitNode;
    detail::Link head_;
    bool cancelled_ = false;
};

/// Coroutines that wait for the same thing, woken in the order they came.
class WaitQueue {
public:
    /// \param label  names the wait to the loop's watchdog; a string literal
    explicit WaitQueue(const char* label) noexcept : label_(label) { head_.make_head(); }
    ~WaitQueue();
    WaitQueue(const WaitQueue&) = delete;
    WaitQueue& operator=(const WaitQueue&) = delete;

    class Awaiter {
    public:
        Awaiter(WaitQueue& queue, Loop& loop, Deadline deadline) noexcept
            : queue_(queue), node_(loop, queue.label_, deadline) {}
        [[nodiscard]] bool await_ready() const noexcept { return false; }
        bool await_suspend(std::coroutine_handle<> waiting) noexcept {
            if (!node_.park(waiting)) return false;
            node_.queue_link.node = &node_;
            node_.queue_link.link_before(queue_.head_);
            return true;
        }
        [[nodiscard]] Wake await_resume() const noexcept { return node_.reason(); }

    private:
        WaitQueue& queue_;
        WaitNode node_;
    };

    [[nodiscard]] Awaiter wait(Loop& loop, Deadline deadline) noexcept {
        return Awaiter{*this, loop, deadline};
    }
    void wake_one() noexcept;
    void wake_all() noexcept;
    [[nodiscard]] bool empty() const noexcept { return head_.alone(); }

private:
    const char* label_;
    detail::Link head_;
};

/// Coroutines that want the same thing and get it one after another, in the order they came. Only the first asks for
/// it and waits for it, so that a change wakes one of them and not all to find that one can go on.
/// Usage: WaitLine::Place place{line}; while (!place.first()) co_await place.called(loop, deadline); then ask.
class WaitLine {
public:
    /// \param label  names the wait to the loop's watchdog; a string literal
    explicit WaitLine(const char* label) noexcept : label_(label) { head_.make_head(); }
    ~WaitLine();
    WaitLine(const WaitLine&) = delete;
    WaitLine& operator=(const WaitLine&) = delete;

    /// One coroutine's, in its frame: whichever way that ends, the next is called.
    class Place : detail::Link {
    public:
        explicit Place(WaitLine& line) noexcept : line_(line), called_(line.label_) {
            link_before(line.head_);
        }
        ~Place();
        Place(const Place&) = delete;
        Place& operator=(const Place&) = delete;
        [[nodiscard]] bool first() const noexcept { return prev == &line_.head_; }
        /// Wakes when this place may have become the first.
        [[nodiscard]] WaitQueue::Awaiter called(Loop& loop, Deadline deadline) noexcept {
            return called_.wait(loop, deadline);
        }

    private:
        WaitLine& line_;
        WaitQueue called_;
    };

private:
    const char* label_;
    detail::Link head_;
};

/// Sleeps until the deadline (Wake::timed_out) or cancellation.
class Sleep {
public:
    Sleep(Loop& loop, Deadline deadline) noexcept : node_(loop, "sleep", deadline) {}
    [[nodiscard]] bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> waiting) noexcept { return node_.park(waiting); }
    [[nodiscard]] Wake await_resume() const noexcept { return node_.reason(); }

private:
    WaitNode node_;
};

[[nodiscard]] inline Sleep sleep_until(Loop& loop, Deadline deadline) noexcept {
    return Sleep{loop, deadline};
}
[[nodiscard]] inline Sleep sleep_for(Loop& loop, Duration time,
                                     CancelSource* cancel = nullptr) noexcept {
    return Sleep{loop, Deadline::in(loop, time, cancel)};
}

} // namespace dataplane::base
