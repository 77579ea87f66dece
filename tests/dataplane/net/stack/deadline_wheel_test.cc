// Goal: nothing is handed out early, nothing is lost, and a turn's work is bounded whatever is due.
#include "dataplane/net/stack/deadline_wheel.h"

#include <ctime>
#include <deque>
#include <gtest/gtest.h>
#include <random>

namespace dataplane::net::stack {
namespace {

using namespace std::chrono_literals;

constexpr base::Duration slack = 132us; // one near bucket

TEST(DeadlineWheel, HandsEverythingOutInItsTimeAndNothingEarly) {
    std::mt19937_64 random{1};
    base::TimePoint now{5s};
    DeadlineWheel wheel{now};
    std::deque<DeadlineWheel::Node> nodes(3000);
    const base::Duration spans[] = {1ms, 100ms, 3s, 100s, 3h};
    std::size_t armed = 0;
    const auto arm = [&](DeadlineWheel::Node& node) {
        const auto span = static_cast<std::uint64_t>(spans[random() % 5].count());
        wheel.arm(node, now + base::Duration{static_cast<std::int64_t>(random() % span)});
    };
    for (DeadlineWheel::Node& node : nodes) {
        arm(node);
        ++armed;
    }
    for (int i = 0; i < 1000; ++i)
        arm(nodes[random() % nodes.size()]); // moved
    for (int i = 0; i < 300; ++i) {
        DeadlineWheel::Node& node = nodes[random() % nodes.size()];
        if (node.armed()) --armed;
        node.cancel();
    }
    int rounds = 0;
    while (armed > 0) {
        ASSERT_LT(++rounds, 100'000);
        ASSERT_NE(wheel.next_due(), base::TimePoint::max());
        // Sometimes straight to what is next, sometimes late by a while.
        now = std::max(now, wheel.next_due()) + (rounds % 7 == 0 ? 700ms : 0ms);
        const bool late = rounds % 7 == 0;
        unsigned budget = 100'000;
        while (DeadlineWheel::Node* node = wheel.take(now, budget)) {
            ASSERT_LE(node->when(), now);
            if (!late) {
                ASSERT_LT(now - node->when(), 700ms + slack);
            }
            --armed;
        }
        for (const DeadlineWheel::Node& node : nodes) {
            ASSERT_TRUE(!node.armed() || node.when() + slack > now);
        }
    }
    EXPECT_EQ(armed, 0U);
}

TEST(DeadlineWheel, ANodeArmedForThePastComesWithTheNextTick) {
    DeadlineWheel wheel{base::TimePoint{5s}};
    DeadlineWheel::Node node;
    base::TimePoint now{6s};
    unsigned budget = 10;
    EXPECT_EQ(wheel.take(now, budget), nullptr);
    wheel.arm(node, base::TimePoint{3s});
    now += slack;
    EXPECT_LE(wheel.next_due(), now);
    EXPECT_EQ(wheel.take(now, budget), &node);
    EXPECT_FALSE(node.armed());
    EXPECT_EQ(wheel.take(now, budget), nullptr);
    EXPECT_EQ(wheel.next_due(), base::TimePoint::max());
}

/// The thread's own: a machine that is busy with other things is not the wheel's doing.
base::Duration own_time() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return std::chrono::seconds{time.tv_sec} + std::chrono::nanoseconds{time.tv_nsec};
}

// T70
TEST(DeadlineWheel, AMillionDueAtOnceAreHandedOutABudgetAtATime) {
    base::TimePoint now{1s};
    DeadlineWheel wheel{now};
    constexpr std::size_t count = 1'000'000;
    std::deque<DeadlineWheel::Node> nodes(count);
    for (DeadlineWheel::Node& node : nodes)
        wheel.arm(node, base::TimePoint{121s});
    // Getting closer costs a budget too: nothing that takes a million steps happens in one turn.
    std::size_t out = 0;
    std::size_t turns = 0;
    base::Duration longest{};
    for (now = base::TimePoint{118s}; out < count; now += 1ms) {
        ++turns;
        unsigned budget = 1024;
        const auto before = own_time();
        while (wheel.take(now, budget) != nullptr)
            ++out;
        longest = std::max<base::Duration>(longest, own_time() - before);
        ASSERT_LT(turns, 10'000U);
        if (now < base::TimePoint{121s}) {
            ASSERT_EQ(out, 0U);
        }
    }
    EXPECT_LT(longest, 5ms); // about 0.1 ms; more where a sanitizer looks on
    EXPECT_LE(turns, 4'200U);
}

} // namespace
} // namespace dataplane::net::stack
