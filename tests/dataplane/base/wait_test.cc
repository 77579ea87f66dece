// Goal: each wait ends exactly once, for the first of event, deadline and cancellation, and a frame
// may be destroyed at any point of its wait. Who waits in line is served in order, and one wake-up wakes one.
#include "dataplane/base/wait.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <random>
#include <vector>

namespace dataplane::base {
namespace {

using namespace std::chrono_literals;

struct WaitTest : testing::Test {
    ManualClock clock;
    Loop loop{clock};
    WaitQueue queue{"test"};

    void pass(Duration time) {
        clock.advance(time);
        while (loop.turn()) {
        }
    }
};

Task<void> wait_once(Loop& loop, WaitQueue& queue, Deadline deadline, std::optional<Wake>& reason) {
    reason = co_await queue.wait(loop, deadline);
}

TEST_F(WaitTest, AnEventEndsTheWaitAndItsTimer) {
    std::optional<Wake> reason;
    loop.spawn(wait_once(loop, queue, Deadline::in(loop, 1s), reason), "wait");
    pass(0s);
    queue.wake_one();
    EXPECT_FALSE(reason); // it runs in a step of its own, not inside the wake-up
    pass(0s);
    EXPECT_EQ(reason, Wake::event);
    EXPECT_EQ(loop.next_due(), TimePoint::max());
}

TEST_F(WaitTest, TheDeadlineEndsTheWaitAndLeavesTheQueue) {
    std::optional<Wake> reason;
    loop.spawn(wait_once(loop, queue, Deadline::in(loop, 1s), reason), "wait");
    pass(0s);
    pass(999ms);
    EXPECT_FALSE(reason);
    pass(2ms);
    EXPECT_EQ(reason, Wake::timed_out);
    EXPECT_TRUE(queue.empty());
}

TEST_F(WaitTest, CancellationEndsTheWaitAndLeavesTheQueue) {
    CancelSource cancel;
    std::optional<Wake> reason;
    loop.spawn(wait_once(loop, queue, Deadline::in(loop, 1s, &cancel), reason), "wait");
    pass(0s);
    cancel.cancel();
    pass(0s);
    EXPECT_EQ(reason, Wake::cancelled);
    EXPECT_TRUE(queue.empty());
    EXPECT_EQ(loop.next_due(), TimePoint::max());
}

TEST_F(WaitTest, AWaitAfterTheCancellationDoesNotSuspend) {
    CancelSource cancel;
    cancel.cancel();
    std::optional<Wake> reason;
    auto task = wait_once(loop, queue, Deadline::in(loop, 1s, &cancel), reason);
    task.start();
    EXPECT_TRUE(task.done());
    EXPECT_EQ(reason, Wake::cancelled);
}

TEST_F(WaitTest, TheFirstOfTwoReasonsInOneTurnCounts) {
    CancelSource cancel;
    std::optional<Wake> event_first;
    std::optional<Wake> cancel_first;
    WaitQueue other{"other"};
    CancelSource other_cancel;
    loop.spawn(wait_once(loop, queue, Deadline::in(loop, 1s, &cancel), event_first), "a");
    loop.spawn(wait_once(loop, other, Deadline::in(loop, 1s, &other_cancel), cancel_first), "b");
    pass(0s);
    queue.wake_all();
    cancel.cancel();
    other_cancel.cancel();
    other.wake_all();
    pass(2s);
    EXPECT_EQ(event_first, Wake::event);
    EXPECT_EQ(cancel_first, Wake::cancelled);
}

TEST_F(WaitTest, WaitersWakeInTheOrderTheyCame) {
    std::vector<int> order;
    const auto waiter = [](Loop& shard, WaitQueue& on, std::vector<int>& log,
                           int name) -> Task<void> {
        co_await on.wait(shard, Deadline::never());
        log.push_back(name);
    };
    for (int i = 0; i < 5; ++i)
        loop.spawn(waiter(loop, queue, order, i), "waiter");
    pass(0s);
    queue.wake_one();
    pass(0s);
    EXPECT_EQ(order, (std::vector<int>{0}));
    queue.wake_all();
    pass(0s);
    EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST_F(WaitTest, ATaskDestroyedWhileItWaitsIsForgottenByAll) {
    CancelSource cancel;
    std::optional<Wake> reason;
    {
        auto task = wait_once(loop, queue, Deadline::in(loop, 1s, &cancel), reason);
        task.start();
        EXPECT_FALSE(queue.empty());
    }
    EXPECT_TRUE(queue.empty());
    queue.wake_all();
    cancel.cancel();
    pass(2s);
    EXPECT_FALSE(reason);
}

// The wake-up has put the frame on the loop already when its owner destroys it.
TEST_F(WaitTest, ATaskDestroyedBetweenItsWakeUpAndItsTurnDoesNotRun) {
    std::optional<Wake> reason;
    std::optional<Wake> other_reason;
    auto other = wait_once(loop, queue, Deadline::never(), other_reason);
    {
        auto task = wait_once(loop, queue, Deadline::never(), reason);
        task.start();
        other.start();
        queue.wake_all();
    }
    pass(0s);
    EXPECT_FALSE(reason);
    EXPECT_EQ(other_reason, Wake::event);
}

TEST_F(WaitTest, ADeadlineThatHasPassedStillEndsTheWait) {
    std::optional<Wake> reason;
    loop.spawn(wait_once(loop, queue, Deadline{loop.now() - 1s}, reason), "wait");
    pass(0s);
    pass(1ms);
    EXPECT_EQ(reason, Wake::timed_out);
}

TEST_F(WaitTest, AnEndlessLimitIsNoLimit) {
    EXPECT_EQ(Deadline::in(loop, Duration::max()).at, TimePoint::max());
    EXPECT_EQ(Deadline::in(loop, 1s).at, loop.now() + 1s);
}

// Random events, deadlines, cancellations and destructions: every wait that is not destroyed ends
// once, and the loop is clean afterwards.
TEST_F(WaitTest, RandomEndingsOfManyWaitsAllEndOnce) {
    std::mt19937_64 random{20'251'122};
    for (int round = 0; round < 300; ++round) {
        std::vector<std::unique_ptr<CancelSource>> cancels;
        std::vector<std::optional<Wake>> reasons(40);
        std::vector<Task<void>> tasks;
        for (auto& reason : reasons) {
            cancels.push_back(std::make_unique<CancelSource>());
            const Duration limit = std::chrono::milliseconds{random() % 20};
            tasks.push_back(
                wait_once(loop, queue, Deadline::in(loop, limit, cancels.back().get()), reason));
            tasks.back().start();
        }
        for (int step = 0; step < 60; ++step) {
            const std::size_t i = random() % tasks.size();
            switch (random() % 5) {
            case 0:
                queue.wake_one();
                break;
            case 1:
                cancels[i]->cancel();
                break;
            case 2:
                pass(std::chrono::milliseconds{random() % 3});
                break;
            case 3:
                tasks[i] = Task<void>{};
                break;
            default:
                loop.turn();
                break;
            }
        }
        pass(1s);
        for (const auto& task : tasks)
            EXPECT_TRUE(task.done());
        EXPECT_TRUE(queue.empty());
        EXPECT_EQ(loop.next_due(), TimePoint::max());
    }
}

// One thing that many want: give() hands out one piece, to whoever has asked for it.
struct WaitLineTest : WaitTest {
    WaitLine line{"test line"};
    int pieces = 0;
    int asked = 0; // how often anybody looked
    std::vector<int> got;
    std::vector<int> left; // without a piece

    Task<void> take(int name, Deadline deadline) {
        WaitLine::Place place{line};
        while (!place.first()) {
            const Wake woken = co_await place.called(loop, deadline);
            if (woken != Wake::event) co_return left.push_back(name);
        }
        for (; ++asked, pieces == 0;) {
            const Wake woken = co_await queue.wait(loop, deadline);
            if (woken != Wake::event) co_return left.push_back(name);
        }
        --pieces;
        got.push_back(name);
    }
    void give(int count) {
        pieces += count;
        queue.wake_all();
    }
};

TEST_F(WaitLineTest, OnlyTheFirstOfManyAsksAndAllAreServedInOrder) {
    constexpr int takers = 100;
    for (int i = 0; i < takers; ++i)
        loop.spawn(take(i, Deadline::never()), "taker");
    pass(0s);
    EXPECT_EQ(asked, 1);
    for (int round = 0; round < takers / 2; ++round) {
        give(2);
        pass(0s);
    }
    ASSERT_EQ(got.size(), takers);
    EXPECT_TRUE(std::ranges::is_sorted(got));
    EXPECT_EQ(asked,
              1 + 3 * takers / 2 - 1); // each round two that find one, and the next that finds none
}

TEST_F(WaitLineTest, WhoeverLeavesLetsTheNextAsk) {
    CancelSource cancel;
    auto first = take(0, Deadline::never());
    auto second = take(1, Deadline::never());
    auto third = take(2, Deadline::in(loop, 1s));
    auto fourth = take(3, Deadline::in(loop, 2s, &cancel));
    auto last = take(4, Deadline::never());
    for (Task<void>* task : {&first, &second, &third, &fourth, &last})
        task->start();
    first = Task<void>{};  // the second is called by it
    second = Task<void>{}; // between its wake-up and its turn
    pass(0s);
    EXPECT_EQ(asked, 2); // the first and now the third
    pass(1001ms);
    EXPECT_EQ(left, std::vector<int>{2});
    EXPECT_EQ(asked, 3);
    cancel.cancel();
    pass(0s);
    EXPECT_EQ(left, (std::vector<int>{2, 3}));
    EXPECT_EQ(asked, 4);
    give(1);
    pass(0s);
    EXPECT_EQ(got, std::vector<int>{4});
}

TEST_F(WaitLineTest, LeavingFromTheMiddleDisturbsNobody) {
    auto first = take(0, Deadline::never());
    auto second = take(1, Deadline::in(loop, 1s));
    auto third = take(2, Deadline::never());
    for (Task<void>* task : {&first, &second, &third})
        task->start();
    pass(1001ms);
    EXPECT_EQ(left, std::vector<int>{1});
    EXPECT_EQ(asked, 1);
    give(2);
    pass(0s);
    EXPECT_EQ(got, (std::vector<int>{0, 2}));
}

// Whatever ends the places, nobody is left asleep while there is something to be had.
TEST_F(WaitLineTest, RandomEndingsLeaveNobodyBehind) {
    std::mt19937_64 random{20'261'123};
    for (int round = 0; round < 300; ++round) {
        std::vector<std::unique_ptr<CancelSource>> cancels;
        std::vector<Task<void>> tasks;
        for (int step = 0; step < 100; ++step) {
            switch (random() % 6) {
            case 0:
            case 1: {
                cancels.push_back(std::make_unique<CancelSource>());
                const Duration limit = random() % 2 == 0
                                           ? Duration::max()
                                           : Duration{std::chrono::milliseconds{random() % 20}};
                tasks.push_back(take(static_cast<int>(tasks.size()),
                                     Deadline::in(loop, limit, cancels.back().get())));
                tasks.back().start();
                break;
            }
            case 2:
                if (!cancels.empty()) cancels[random() % cancels.size()]->cancel();
                break;
            case 3:
                if (!tasks.empty()) tasks[random() % tasks.size()] = Task<void>{};
                break;
            case 4:
                give(static_cast<int>(random() % 3));
                break;
            default:
                loop.turn();
                clock.advance(std::chrono::milliseconds{random() % 3});
                break;
            }
        }
        give(static_cast<int>(tasks.size()));
        pass(0s);
        for (const auto& task : tasks)
            EXPECT_TRUE(task.done());
        pieces = 0;
    }
}

} // namespace
} // namespace dataplane::base
