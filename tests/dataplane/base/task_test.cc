// Goal: values travel up, frames are freed, and completions that did not suspend cost no stack.
#include "dataplane/base/loop.h"
#include "dataplane/base/wait.h"

#include <cstdint>
#include <gtest/gtest.h>
#include <memory>
#include <string>

namespace dataplane::base {
namespace {

using namespace std::chrono_literals;

Task<int> at_once(int value) {
    co_return value;
}

std::uintptr_t stack_now() {
    return reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
}

Task<void> await_many(int count, std::int64_t& sum, std::uintptr_t& lowest) {
    for (int i = 0; i < count; ++i) {
        const int value = co_await at_once(i);
        sum += value;
        lowest = std::min(lowest, stack_now());
    }
}

TEST(Task, AMillionAwaitsThatDoNotSuspendDoNotGrowTheStack) {
    std::int64_t sum = 0;
    std::uintptr_t lowest = stack_now();
    const std::uintptr_t before = lowest;
    auto task = await_many(1'000'000, sum, lowest);
    task.start();
    EXPECT_TRUE(task.done());
    EXPECT_EQ(sum, 499'999'500'000);
    EXPECT_LT(before - lowest, 64U * 1024);
}

Task<void> yield(Loop& loop) {
    const Wake reason = co_await sleep_for(loop, 1ms);
    EXPECT_EQ(reason, Wake::timed_out);
}

Task<void> mix(Loop& loop, int count, std::uintptr_t& lowest) {
    for (int i = 0; i < count; ++i) {
        if (i % 3 == 0) co_await yield(loop);
        const int value = co_await at_once(i);
        EXPECT_EQ(value, i);
        lowest = std::min(lowest, stack_now());
    }
}

TEST(Task, AwaitsThatSuspendAndThoseThatDoNotMixWithoutGrowingTheStack) {
    ManualClock clock;
    Loop loop{clock};
    std::uintptr_t lowest = stack_now();
    const std::uintptr_t before = lowest;
    loop.spawn(mix(loop, 9000, lowest), "mix");
    while (loop.spawned_count() > 0) {
        loop.turn();
        clock.advance(1ms);
    }
    EXPECT_LT(before - lowest, 64U * 1024);
}

Task<int> nested(Loop& loop, int depth) {
    if (depth == 0) {
        co_await sleep_for(loop, 1ms);
        co_return 0;
    }
    const int below = co_await nested(loop, depth - 1);
    co_return below + 1;
}

Task<void> keep_result(Loop& loop, int depth, int& result) {
    result = co_await nested(loop, depth);
}

TEST(Task, ValuesComeUpThroughNestedTasksAfterASuspension) {
    ManualClock clock;
    Loop loop{clock};
    int result = -1;
    loop.spawn(keep_result(loop, 200, result), "nested");
    loop.turn();
    EXPECT_EQ(result, -1);
    clock.advance(2ms);
    loop.turn();
    EXPECT_EQ(result, 200);
    EXPECT_EQ(loop.spawned_count(), 0U);
}

Task<std::unique_ptr<std::string>> make_text(std::string text) {
    co_return std::make_unique<std::string>(std::move(text));
}

Task<void> take_text(std::string& out) {
    auto text = co_await make_text("a value that can only be moved");
    out = *text;
}

TEST(Task, MovesAValueThatCannotBeCopied) {
    std::string out;
    auto task = take_text(out);
    task.start();
    EXPECT_EQ(out, "a value that can only be moved");
}

struct Counted {
    explicit Counted(int& counter) : alive(counter) { ++alive; }
    ~Counted() { --alive; }
    Counted(const Counted&) = delete;
    Counted& operator=(const Counted&) = delete;
    int& alive;
};

Task<void> hold(Loop& loop, int& alive, int depth) {
    const Counted counted{alive};
    if (depth > 0) {
        co_await hold(loop, alive, depth - 1);
    } else {
        co_await sleep_until(loop, Deadline::never());
    }
}

TEST(Task, DestroyingASuspendedTaskDestroysEverythingBelowIt) {
    ManualClock clock;
    Loop loop{clock};
    int alive = 0;
    {
        auto task = hold(loop, alive, 10);
        task.start();
        EXPECT_EQ(alive, 11);
    }
    EXPECT_EQ(alive, 0);
    EXPECT_FALSE(loop.turn());
}

TEST(Task, ATaskThatNeverStartedFreesItsArguments) {
    int alive = 0;
    ManualClock clock;
    Loop loop{clock};
    {
        const auto task = hold(loop, alive, 3);
    }
    EXPECT_EQ(alive, 0);
}

} // namespace
} // namespace dataplane::base
