#include "dataplane/base/loop.h"

#include <utility>

namespace dataplane::base {
namespace {

constexpr Duration wheel_tick = std::chrono::milliseconds{1};
// A turn also runs what its own steps made ready, so that a message crosses several rooms in one
// turn; the bound keeps sockets and disk from waiting behind an endless conversation.
constexpr std::size_t steps_per_turn_max = 4096;

} // namespace

/// The frame that owns a spawned task: it destroys itself when the task ends.
struct Loop::Spawned {
    struct promise_type : detail::Link {
        explicit promise_type(Loop& owner, Task<void>&) noexcept : loop(owner) {
            link_before(loop.spawned_);
            ++loop.spawned_count_;
        }
        ~promise_type() {
            unlink();
            --loop.spawned_count_;
        }
        static void* operator new(std::size_t bytes) { return allocate_frame(bytes); }
        static void operator delete(void* frame, std::size_t bytes) { release_frame(frame, bytes); }
        Spawned get_return_object() noexcept {
            return {std::coroutine_handle<promise_type>::from_promise(*this)};
        }
        [[nodiscard]] std::suspend_always initial_suspend() const noexcept { return {}; }
        [[nodiscard]] std::suspend_never final_suspend() const noexcept { return {}; }
        void return_void() const noexcept {}
        [[noreturn]] void unhandled_exception() const noexcept {
            check_failed("no exception escapes a spawned task", __FILE__, __LINE__);
        }
        Loop& loop;
    };
    std::coroutine_handle<promise_type> handle;
};

Loop::Spawned Loop::run_spawned([[maybe_unused]] Loop& loop, Task<void> task) {
    co_await std::move(task);
}

Loop::Loop(const Clock& clock, unsigned shard)
    : clock_(clock), shard_(shard), now_(clock.now()), wall_now_(clock.wall_now()),
      wheel_(now_, wheel_tick) {
    turn_end_.make_head();
    spawned_.make_head();
    ready_.reserve(1024);
}

Loop::~Loop() {
    drop_tasks();
    while (!turn_end_.alone())
        turn_end_.next->unlink();
}

void Loop::drop_tasks() noexcept {
    while (!spawned_.alone()) {
        auto& promise = static_cast<Spawned::promise_type&>(*spawned_.next);
        const auto handle = std::coroutine_handle<Spawned::promise_type>::from_promise(promise);
        forget(handle); // it may not have started yet
        handle.destroy();
    }
}

void Loop::forget(std::coroutine_handle<> handle) noexcept {
    for (std::size_t i = ready_first_; i < ready_.size(); ++i) {
        if (ready_[i].handle == handle) ready_[i].handle = nullptr;
    }
}

void Loop::make_ready(std::coroutine_handle<> handle, const char* label, Room room) {
    ready_.push_back({handle, label, room});
}

void Loop::at_turn_end(TurnEnd& work) noexcept {
    if (!work.linked()) work.link_before(turn_end_);
}

void Loop::spawn(Task<void> task, const char* label, Room room) {
    make_ready(run_spawned(*this, std::move(task)).handle, label, room);
}

void Loop::refresh_time() noexcept {
    now_ = clock_.now();
    wall_now_ = clock_.wall_now();
}

void Loop::run_ready() {
    RoomMeter& rooms = RoomMeter::here();
    const bool metered = rooms.on();
    const bool timed = metered || report_slow_ != nullptr;
    TimePoint before = metered && !idle() ? clock_.now() : now_;
    std::size_t steps = 0;
    while (ready_first_ < ready_.size() && steps < steps_per_turn_max) {
        const Ready next = ready_[ready_first_++];
        if (!next.handle) continue; // forgotten
        ++steps;
        if (metered)
            rooms.enter_at(next.room, before); // one reading ends a step and begins the next
        next.handle.resume();
        if (!timed) continue;
        const TimePoint after = clock_.now();
        if (after - before > longest_step_) {
            longest_step_ = after - before;
            longest_label_ = next.label;
        }
        before = after;
    }
    if (metered && steps != 0) rooms.enter_at(Room::loop, before);
    counters_.steps += steps;
    if (ready_first_ == ready_.size()) {
        ready_.clear();
        ready_first_ = 0;
    } else if (ready_first_ > 65536) { // a long backlog: give the spent front back
        ready_.erase(ready_.begin(), ready_.begin() + static_cast<std::ptrdiff_t>(ready_first_));
        ready_first_ = 0;
    }
}

void Loop::run_turn_end() noexcept {
    detail::Link batch; // work put off by turn-end work waits for the next turn
    if (turn_end_.alone()) return;
    batch.next = turn_end_.next;
    batch.prev = turn_end_.prev;
    batch.next->prev = &batch;
    batch.prev->next = &batch;
    turn_end_.make_head();
    RoomMeter& rooms = RoomMeter::here();
    while (!batch.alone()) {
        auto& work = static_cast<TurnEnd&>(*batch.next);
        work.unlink();
        rooms.enter(work.room_);
        work.turn_end();
    }
    rooms.enter(Room::loop);
}

bool Loop::turn() {
    refresh_time();
    RoomMeter& rooms = RoomMeter::here();
    if (rooms.on()) rooms.enter_at(Room::loop, now_);
    ++counters_.turns;
    longest_step_ = Duration::zero();
    wheel_.advance(now_);
    run_ready();
    run_turn_end();
    rooms.enter(Room::net); // between turns the driver polls, and what comes is the net's mostly
    rooms.settle_when_due();
    if (report_slow_) {
        const Duration took = clock_.now() - now_;
        if (took > turn_limit_) {
            ++counters_.slow_turns;
            report_slow_({took, longest_step_, longest_label_});
        }
    }
    return !idle() || !turn_end_.alone();
}

void Loop::run(Driver& driver, bool busy_poll) {
    while (!stopped_) {
        driver.poll();
        const bool more = turn();
        if (more || busy_poll || stopped_) continue;
        driver.sleep_until(now_, wheel_.next_due());
    }
}

void Loop::watch(Duration limit, std::function<void(const SlowTurn&)> report) {
    turn_limit_ = limit;
    report_slow_ = std::move(report);
}

} // namespace dataplane::base
