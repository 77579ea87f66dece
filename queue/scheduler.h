// scheduler.h: wakes deferred messages when they are due.
//
// Scope      A timer wheel with a tick of one second under one timer of the shard's loop. When a
//            message is next due is delivery's decision; that it is woken then is this file's.
// Owns       The wheel; each message's timer lives in the message.
// Threading  Bound to one shard.
// Failure    None. Due times are wall times; they are turned into monotonic ones when scheduled, so a
//            step of the wall clock moves no wake-up that is already set.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/timer_wheel.h"
#include "queue/message.h"

namespace queue {

class RetryScheduler {
public:
    explicit RetryScheduler(base::Loop& loop);
    RetryScheduler(const RetryScheduler&) = delete;
    RetryScheduler& operator=(const RetryScheduler&) = delete;

    /// Calls the owner's due() at the first whole second at or after the message's due time.
    void schedule(Message& message);
    void cancel(Message& message) noexcept;

    static void on_timer(base::Timer& timer) noexcept; // of a message

private:
    struct Driver : base::Timer {
        explicit Driver(RetryScheduler& owner) noexcept
            : Timer(&RetryScheduler::on_driver), scheduler(owner) {}
        RetryScheduler& scheduler;
    };
    static void on_driver(base::Timer& timer) noexcept;
    void arm_driver() noexcept;

    base::Loop& loop_;
    base::TimerWheel wheel_;
    Driver driver_;
    base::TimePoint driver_at_ = base::TimePoint::max();
};

} // namespace queue
