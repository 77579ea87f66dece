// pressure_test.cc: what is refused when the spool fills, from whom, and when it is taken again.
#include "queue/limits.h"
#include "queue/pressure.h"
#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

#include <string>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::World;
namespace base = dataplane::base;

constexpr std::uint64_t segment = 64U << 20;

/// A pool of 100 segments, five of them reserved, as the clock goes on.
class PressureOverTime : public testing::Test {
protected:
    void after(base::Duration passed, std::uint32_t free, std::uint64_t dead_bytes = 0) {
        now += passed;
        pressure.sample(now, {.segments_total = 100,
                              .segments_free = free,
                              .segments_reserved = 5,
                              .segment_bytes = segment,
                              .dead_bytes = dead_bytes});
    }
    Pressure pressure;
    base::TimePoint now{1s};
};

TEST_F(PressureOverTime, LevelsComeByPercentAndGoFivePercentLater) {
    const auto at = [&](std::uint32_t free) {
        after(24h, free); // so slowly that time does not matter
        return pressure.level();
    };
    EXPECT_EQ(at(21), SpoolLevel::normal);
    EXPECT_EQ(at(20), SpoolLevel::filling) << "80 % used";
    EXPECT_EQ(at(25), SpoolLevel::filling) << "75 %: not yet";
    EXPECT_EQ(at(26), SpoolLevel::normal);
    EXPECT_EQ(at(10), SpoolLevel::nearly_full) << "90 %";
    EXPECT_EQ(at(15), SpoolLevel::nearly_full);
    EXPECT_EQ(at(16), SpoolLevel::filling);
    EXPECT_EQ(at(5), SpoolLevel::full) << "95 %";
    EXPECT_EQ(at(10), SpoolLevel::full);
    EXPECT_EQ(at(11), SpoolLevel::nearly_full);
    EXPECT_EQ(at(100), SpoolLevel::normal);
}

TEST_F(PressureOverTime, APoolOfFewSegmentsTakesMailDownToTheReserve) {
    const auto at = [&](std::uint32_t free) {
        now += 24h;
        pressure.sample(now, {.segments_total = 8,
                              .segments_free = free,
                              .segments_reserved = 4,
                              .segment_bytes = segment});
        return pressure.level();
    };
    EXPECT_LT(at(5), SpoolLevel::nearly_full);
    EXPECT_EQ(at(4), SpoolLevel::full);
    EXPECT_LT(at(5), SpoolLevel::nearly_full) << "a segment is more than a level apart";
}

TEST_F(PressureOverTime, WhatCollectionWouldWinBackIsNotUsed) {
    after(1s, 15, 10 * segment);
    EXPECT_EQ(pressure.used_percent(), 75U);
    EXPECT_EQ(pressure.level(), SpoolLevel::normal);
    after(1h, 10, 80 * segment);
    EXPECT_EQ(pressure.level(), SpoolLevel::nearly_full)
        << "new mail needs segments that are free now";
}

// 7.68 TB fill in 27 minutes at 4.8 GB/s: the last ten of them begin at 63 %.
TEST_F(PressureOverTime, ASpoolThatWillBeFullInTenMinutesIsFilling) {
    std::uint32_t free = 100;
    for (; free > 50; --free) { // a segment in ten seconds
        after(10s, free);
        EXPECT_EQ(pressure.level(), SpoolLevel::normal) << free << ": a pool half empty has time";
    }
    after(10s, free);
    EXPECT_EQ(pressure.level(), SpoolLevel::filling);
    ASSERT_TRUE(pressure.time_to_full().has_value());
    EXPECT_NEAR(static_cast<double>(pressure.time_to_full()->count()), 45 * 10, 20);
    // It stops growing: the rate goes down, and with it the alarm.
    for (int i = 0; i < 5; ++i)
        after(1min, free);
    EXPECT_EQ(pressure.level(), SpoolLevel::normal);
}

TEST_F(PressureOverTime, ABurstOfASecondIsNoTrend) {
    for (int i = 0; i < 10; ++i)
        after(10s, 45);
    after(1s, 44); // 64 MiB in a second would fill the rest in 40
    EXPECT_EQ(pressure.level(), SpoolLevel::normal);
}

TEST(TenantTally, WhoHasMoreThanTheirShareIsFound) {
    TenantTally tally;
    EXPECT_FALSE(tally.over_share(1)) << "nothing queued";
    tally.add(1, 900);
    EXPECT_TRUE(tally.over_share(1)) << "all of it";
    tally.add(2, 100);
    EXPECT_TRUE(tally.over_share(1));
    EXPECT_FALSE(tally.over_share(2));
    EXPECT_FALSE(tally.over_share(3));
    tally.drop(1, 900);
    EXPECT_FALSE(tally.over_share(1));
    EXPECT_TRUE(tally.over_share(2));
}

/// Mail of a tenant until it is refused; returns how much was taken.
std::size_t fill(World& world, std::string_view tenant, std::size_t count_max) {
    const auto one = [](MessageQueue* queue, std::string_view whose) -> base::Task<bool> {
        auto draft = queue->begin(20'000, DraftUse::mail, whose);
        if (!draft) {
            EXPECT_EQ(draft.error(), SpoolError::full);
            co_return false;
        }
        draft->envelope().set_tenant(whose);
        draft->envelope().add_recipient("x@example.net", "", 0);
        const std::string body(20'000, 'b');
        auto appended = co_await draft->append(base::as_bytes(body), base::Deadline::never());
        EXPECT_TRUE(appended.has_value());
        auto committed = co_await draft->commit("", base::Deadline::never());
        if (committed) (*committed)->content.clear(); // this is about the disk
        co_return committed.has_value();
    };
    for (std::size_t count = 0; count < count_max; ++count) {
        if (!world.run(one(world.queue.get(), tenant))) return count;
    }
    return count_max;
}

TEST(SpoolPressure, WhoFillsTheSpoolIsRefusedFirst) {
    World world{{.bytes = 16U << 20}, tests::small_options()};
    ASSERT_TRUE(world.open().value().has_value());
    ASSERT_EQ(fill(world, "small", 20), 20U);
    EXPECT_LT(fill(world, "large", 10'000), 10'000U);
    EXPECT_EQ(world.queue->pressure().level, SpoolLevel::filling);
    EXPECT_EQ(fill(world, "large", 1), 0U);
    EXPECT_EQ(fill(world, "small", 1), 1U) << "has not filled it";
    EXPECT_EQ(fill(world, "new", 1), 1U);
    EXPECT_EQ(fill(world, "", 1), 1U) << "without a tenant";
    EXPECT_GT(fill(world, "small", 10'000), 1U) << "up to 90 % or their share";
}

TEST(SpoolPressure, AtTheEndNobodyIsTakenAndSpaceBringsMailBack) {
    World world{{.bytes = 16U << 20}, tests::small_options()};
    ASSERT_TRUE(world.open().value().has_value());
    world.sink();
    for (int i = 0; i < 400 && world.queue->pressure().level < SpoolLevel::nearly_full; ++i)
        static_cast<void>(fill(world, "tenant" + std::to_string(i % 40), 2));
    EXPECT_EQ(world.queue->pressure().level, SpoolLevel::nearly_full);
    EXPECT_EQ(world.queue->begin(100, DraftUse::mail, "somebody").error(), SpoolError::full);
    EXPECT_TRUE(world.queue->begin(100, DraftUse::report).has_value()) << "reports end mail";
    // All of it is delivered: status and completion records find their room.
    ASSERT_TRUE(world.run_until([&] {
        while (!world.ready.empty()) {
            MessageRef message = std::move(world.ready.front());
            world.ready.pop_front();
            world.deliver(std::move(message));
        }
        return world.queue->counters().queued_messages == 0;
    }));
    ASSERT_TRUE(
        world.run_until([&] { return world.queue->pressure().level == SpoolLevel::normal; }, 10min))
        << "without a restart";
    EXPECT_EQ(fill(world, "tenant0", 1), 1U);
}

TEST(SpoolPressure, AWriteThatDoesNotComeBackIsSaid) {
    World world{{.bytes = 16U << 20}, tests::small_options()};
    ASSERT_TRUE(world.open().value().has_value());
    world.disk.hold(true);
    world.start([](MessageQueue* queue) -> base::Task<void> {
        auto draft = queue->begin(0);
        draft->envelope().add_recipient("x@example.net", "", 0);
        auto committed = co_await draft->commit("", base::Deadline::never());
        static_cast<void>(committed);
    }(world.queue.get()));
    world.loop.turn(); // the write begins
    world.clock.advance(9s);
    world.loop.turn();
    EXPECT_FALSE(world.queue->pressure().stuck);
    world.clock.advance(2s);
    world.loop.turn();
    EXPECT_TRUE(world.queue->pressure().stuck);
    EXPECT_EQ(world.queue->begin(0).error(), SpoolError::overloaded);
    world.disk.hold(false);
    EXPECT_TRUE(world.run_until([&] { return !world.queue->pressure().stuck; }, 10s));
}

} // namespace
