// loop.h: the turn of a shard: time, timers, ready coroutines, and work put off to the turn's end.
//
// Scope      Runs what is ready. Where events come from is a Driver's business: io_uring in the
//            product (uring.h), the simulator's world in tests.
// Owns       Spawned tasks, until they finish or the Loop is destroyed.
// Threading  Bound to one thread; other threads reach a shard through mailbox.h.
// Failure    None. A turn longer than turn_limit is counted and its longest step named.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/base/link.h"
#include "dataplane/base/room.h"
#include "dataplane/base/task.h"
#include "dataplane/base/timer_wheel.h"

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

namespace dataplane::base {

/// Where a shard's events come from.
class Driver {
public:
    virtual ~Driver() = default;
    /// Submits what was staged and handles what has completed, without blocking.
    virtual void poll() = 0;
    /// Sleeps until an event or `until`, whichever is first; may return early.
    virtual void sleep_until(TimePoint now, TimePoint until) = 0;
};

/// Work that runs once at the end of the turn in which it was put off, however often it was asked
/// for: a stream's staged bytes become one send, a spool's records one batch.
class TurnEnd : private detail::Link {
public:
    /// \param room  whose work it is
    explicit TurnEnd(Room room = Room::loop) noexcept : room_(room) {}
    virtual ~TurnEnd() { unlink(); }
    virtual void turn_end() noexcept = 0;

private:
    friend class Loop;
    Room room_;
};

struct SlowTurn {
    Duration turn;
    Duration longest_step;
    const char* step; // the label of the wait that the longest step resumed from
};

struct LoopCounters {
    std::uint64_t turns = 0;
    std::uint64_t steps = 0;
    std::uint64_t slow_turns = 0;
};

class Loop {
public:
    explicit Loop(const Clock& clock, unsigned shard = 0);
    ~Loop();
    Loop(const Loop&) = delete;
    Loop& operator=(const Loop&) = delete;

    [[nodiscard]] unsigned shard() const noexcept { return shard_; }
    /// The time at which this turn began; all of a turn happens at one instant.
    [[nodiscard]] TimePoint now() const noexcept { return now_; }
    [[nodiscard]] WallTime wall_now() const noexcept { return wall_now_; }

    void arm(Timer& timer, TimePoint when) noexcept { wheel_.arm(timer, when); }
    /// \param room  whose work the step is
    void make_ready(std::coroutine_handle<> handle, const char* label, Room room);
    /// Takes back a make_ready() that has not run yet: the coroutine is being destroyed. Walks the
    /// queue, which is fine for what happens only when a task is torn down between two steps.
    void forget(std::coroutine_handle<> handle) noexcept;
    void at_turn_end(TurnEnd& work) noexcept;

    /// Runs a task that nobody awaits. It starts in the next step, not inside this call.
    /// \param label  names it to the watchdog; a string literal
    /// \param room   whose work its steps are; unless said, that of the room that spawns it
    void spawn(Task<void> task, const char* label) {
        spawn(std::move(task), label, RoomMeter::here().current());
    }
    void spawn(Task<void> task, const char* label, Room room);
    [[nodiscard]] std::size_t spawned_count() const noexcept { return spawned_count_; }
    /// Destroys every spawned task where it waits: for shutting down, before the things that the
    /// tasks use are destroyed. Not from inside a task.
    void drop_tasks() noexcept;

    /// Reads the clock between two turns: for a Driver whose events are handled as they come in, so that
    /// what arrived during a sleep does not count as having arrived before it.
    void refresh_time() noexcept;

    /// One turn: reads the clock, fires timers, runs what was ready when the turn began and what
    /// that made ready, up to a bound, then the put-off work. Returns whether more is ready now.
    bool turn();
    [[nodiscard]] bool idle() const noexcept { return ready_count() == 0; }
    [[nodiscard]] TimePoint next_due() noexcept { return wheel_.next_due(); }

    /// Turns until stop(). `busy_poll` keeps the core spinning instead of sleeping when idle.
    void run(Driver& driver, bool busy_poll = false);
    void stop() noexcept { stopped_ = true; }
    [[nodiscard]] bool stopped() const noexcept { return stopped_; }

    /// Names turns over `limit` to `report`. Costs one clock read per step, so it is off until asked; the
    /// thread's RoomMeter, when it is on, shares that read.
    void watch(Duration limit, std::function<void(const SlowTurn&)> report);
    [[nodiscard]] const LoopCounters& counters() const noexcept { return counters_; }

private:
    struct Ready {
        std::coroutine_handle<> handle;
        const char* label;
        Room room;
    };
    struct Spawned;
    static Spawned run_spawned(Loop& loop, Task<void> task);

    [[nodiscard]] std::size_t ready_count() const noexcept { return ready_.size() - ready_first_; }
    void run_ready();
    void run_turn_end() noexcept;

    const Clock& clock_;
    unsigned shard_;
    TimePoint now_;
    WallTime wall_now_;
    TimerWheel wheel_;
    std::vector<Ready> ready_;
    std::size_t ready_first_ = 0;
    detail::Link turn_end_;
    detail::Link spawned_;
    std::size_t spawned_count_ = 0;
    bool stopped_ = false;
    Duration turn_limit_ = Duration::max();
    std::function<void(const SlowTurn&)> report_slow_;
    Duration longest_step_{};
    const char* longest_label_ = "";
    LoopCounters counters_;
};

} // namespace dataplane::base
