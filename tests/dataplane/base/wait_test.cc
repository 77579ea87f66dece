// Goal: each wait ends exactly once, for the first of event, deadline and cancellation, and a frame
// may be destroyed at any point of its wait.
#include "dataplane/base/wait.h"

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

} // namespace
} // namespace dataplane::base
