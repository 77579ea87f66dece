// Goal: a turn happens at one instant, runs what is ready up to its bound, then what was put off;
// slow turns are counted and named; and what was spawned does not outlive its loop.
#include "dataplane/base/loop.h"
#include "dataplane/base/wait.h"

#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace dataplane::base {
namespace {

using namespace std::chrono_literals;

struct CountingWork : TurnEnd {
    void turn_end() noexcept override {
        ++runs;
        if (again != nullptr) again->at_turn_end(*this);
    }
    int runs = 0;
    Loop* again = nullptr;
};

TEST(LoopTurnEnd, RunsOncePerTurnHoweverOftenItWasAskedFor) {
    ManualClock clock;
    Loop loop{clock};
    CountingWork work;
    loop.at_turn_end(work);
    loop.at_turn_end(work);
    EXPECT_FALSE(loop.turn());
    EXPECT_EQ(work.runs, 1);
    loop.turn();
    EXPECT_EQ(work.runs, 1);
}

TEST(LoopTurnEnd, WorkPutOffByPutOffWorkWaitsForTheNextTurn) {
    ManualClock clock;
    Loop loop{clock};
    CountingWork work;
    work.again = &loop;
    loop.at_turn_end(work);
    EXPECT_TRUE(loop.turn()); // more to do: the driver must not sleep
    EXPECT_EQ(work.runs, 1);
    work.again = nullptr;
    EXPECT_FALSE(loop.turn());
    EXPECT_EQ(work.runs, 2);
}

TEST(LoopTurnEnd, WorkThatIsDestroyedIsNotRun) {
    ManualClock clock;
    Loop loop{clock};
    {
        CountingWork work;
        loop.at_turn_end(work);
    }
    EXPECT_FALSE(loop.turn());
}

Task<void> spin(Loop& loop, WaitQueue& queue, const bool& stop) {
    while (!stop) {
        queue.wake_all();
        co_await queue.wait(loop, Deadline::never());
    }
}

TEST(Loop, AnEndlessConversationDoesNotKeepATurnFromEnding) {
    ManualClock clock;
    Loop loop{clock};
    WaitQueue queue{"endless"};
    bool stop = false;
    loop.spawn(spin(loop, queue, stop), "a");
    loop.spawn(spin(loop, queue, stop), "b");
    EXPECT_TRUE(loop.turn());
    EXPECT_LE(loop.counters().steps, 10'000U);
    stop = true;
    while (loop.turn()) {
    }
}

Task<void> note_time(Loop& loop, std::vector<TimePoint>& times) {
    times.push_back(loop.now());
    co_await sleep_for(loop, 5ms);
    times.push_back(loop.now());
}

TEST(Loop, ASpawnedTaskStartsInTheNextStepAndSleepsAsLongAsItSaid) {
    ManualClock clock;
    Loop loop{clock};
    std::vector<TimePoint> times;
    loop.spawn(note_time(loop, times), "note");
    EXPECT_TRUE(times.empty());
    const TimePoint start = clock.now();
    loop.turn();
    EXPECT_EQ(loop.next_due(), start + 5ms);
    clock.advance(4ms);
    loop.turn();
    EXPECT_EQ(times.size(), 1U);
    clock.advance(1ms);
    loop.turn();
    EXPECT_EQ(times, (std::vector{start, start + 5ms}));
}

struct Counted {
    explicit Counted(int& counter) : alive(counter) { ++alive; }
    ~Counted() { --alive; }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;
    int& alive;
};

Task<void> linger(Loop& loop, int& alive) {
    const Counted counted{alive};
    co_await sleep_until(loop, Deadline::never());
}

TEST(Loop, DroppingTasksDestroysThemAllStartedOrNot) {
    ManualClock clock;
    Loop loop{clock};
    int alive = 0;
    for (int i = 0; i < 10; ++i)
        loop.spawn(linger(loop, alive), "linger");
    loop.turn();
    EXPECT_EQ(alive, 10);
    loop.spawn(linger(loop, alive), "never started");
    loop.drop_tasks();
    EXPECT_EQ(alive, 0);
    EXPECT_EQ(loop.spawned_count(), 0U);
    EXPECT_FALSE(loop.turn());
}

// A clock that moves by itself, as far as a step says that it took.
struct SteppedClock final : Clock {
    [[nodiscard]] TimePoint now() const noexcept override { return time; }
    [[nodiscard]] WallTime wall_now() const noexcept override { return {}; }
    TimePoint time{1s};
};

Task<void> take_time(Loop& loop, SteppedClock& clock, WaitQueue& queue, Duration time) {
    co_await queue.wait(loop, Deadline::never());
    clock.time += time;
}

TEST(LoopWatchdog, NamesTheLongestStepOfASlowTurn) {
    SteppedClock clock;
    Loop loop{clock};
    std::vector<SlowTurn> slow;
    loop.watch(1ms, [&](const SlowTurn& turn) { slow.push_back(turn); });
    WaitQueue quick{"quick wait"};
    WaitQueue slow_queue{"slow wait"};
    loop.spawn(take_time(loop, clock, quick, 400us), "first");
    loop.spawn(take_time(loop, clock, slow_queue, 3ms), "second");
    loop.spawn(take_time(loop, clock, quick, 300us), "third");
    loop.turn();
    EXPECT_TRUE(slow.empty());
    quick.wake_all();
    slow_queue.wake_all();
    loop.turn();
    ASSERT_EQ(slow.size(), 1U);
    EXPECT_STREQ(slow[0].step, "slow wait");
    EXPECT_EQ(slow[0].longest_step, 3ms);
    EXPECT_EQ(slow[0].turn, 3700us);
    EXPECT_EQ(loop.counters().slow_turns, 1U);
}

TEST(LoopWatchdog, ATurnWithinTheLimitIsNotReported) {
    SteppedClock clock;
    Loop loop{clock};
    int reports = 0;
    loop.watch(1ms, [&](const SlowTurn&) { ++reports; });
    WaitQueue queue{"wait"};
    loop.spawn(take_time(loop, clock, queue, 900us), "task");
    loop.turn();
    queue.wake_all();
    loop.turn();
    EXPECT_EQ(reports, 0);
    EXPECT_EQ(loop.counters().slow_turns, 0U);
}

} // namespace
} // namespace dataplane::base
