// Goal: each room is charged what ran for it, whoever resumed it; and the rooms' sum is the thread's CPU time, also
// when it was not always on its core.
#include "dataplane/base/loop.h"
#include "dataplane/base/room.h"
#include "dataplane/base/wait.h"

#include <gtest/gtest.h>

namespace dataplane::base {
namespace {

using namespace std::chrono_literals;

/// Time passes when work is done; of it, the thread has as much as the test says.
struct WorkClock final : Clock {
    TimePoint time{1s};
    Duration cpu{7s}; // what the thread had before is nobody's
    [[nodiscard]] TimePoint now() const noexcept override { return time; }
    [[nodiscard]] WallTime wall_now() const noexcept override { return {}; }
    [[nodiscard]] Duration thread_cpu() const noexcept override { return cpu; }
    void work(Duration took) noexcept {
        time += took;
        cpu += took;
    }
    void lose_core(Duration gone) noexcept { time += gone; }
};

struct Rooms : testing::Test {
    Rooms() { meter.start(clock); }
    ~Rooms() override { meter.stop(); }
    [[nodiscard]] Duration sum() const {
        Duration all{};
        for (std::size_t i = 0; i < room_count; ++i)
            all += meter.cpu(static_cast<Room>(i));
        return all;
    }
    WorkClock clock;
    RoomMeter& meter = RoomMeter::here();
};

TEST_F(Rooms, AGuardChargesItsScopeAndGivesTheRoomBack) {
    const InRoom outer{Room::smtp};
    clock.work(10us);
    {
        const InRoom inner{Room::tls};
        clock.work(30us);
    }
    EXPECT_EQ(meter.current(), Room::smtp);
    clock.work(5us);
    meter.settle();
    EXPECT_EQ(meter.cpu(Room::smtp), 15us);
    EXPECT_EQ(meter.cpu(Room::tls), 30us);
    EXPECT_EQ(sum(), 45us);
}

TEST_F(Rooms, TimeWithoutTheCoreIsNobodys) {
    meter.enter(Room::spool);
    clock.work(100us);
    clock.lose_core(4ms);
    meter.enter(Room::smtp);
    clock.work(100us);
    meter.settle();
    EXPECT_EQ(sum(), 200us); // though 4.2 ms have passed
    clock.work(50us);        // and what comes after is charged in full again
    meter.settle();
    EXPECT_EQ(sum(), 250us);
    EXPECT_GE(meter.cpu(Room::smtp), 50us);
}

TEST_F(Rooms, AShareThatDoesNotDivideIsNotLost) {
    for (const Room room : {Room::smtp, Room::spool, Room::tls}) {
        meter.enter(room);
        clock.lose_core(1us);
    }
    clock.cpu += 1000ns; // a third each: 333 and a rest
    meter.settle();
    EXPECT_EQ(sum(), 1000ns);
    EXPECT_GE(meter.cpu(Room::spool), 333ns);
}

TEST_F(Rooms, WorkWhileAsleepIsTheKernels) {
    meter.settle();
    meter.enter(Room::kernel); // as the ring's wait does
    clock.lose_core(250ms);
    clock.cpu += 20us;
    meter.settle();
    meter.enter(Room::smtp);
    clock.work(10us);
    meter.settle();
    EXPECT_EQ(meter.cpu(Room::kernel), 20us);
    EXPECT_EQ(meter.cpu(Room::smtp), 10us);
}

Task<void> work_twice(Loop& loop, WorkClock& clock, WaitQueue& queue, Duration first,
                      Duration second) {
    clock.work(first);
    co_await queue.wait(loop, Deadline::never());
    clock.work(second);
}

TEST_F(Rooms, AStepIsTheWorkOfTheRoomThatBeganTheWait) {
    Loop loop{clock};
    WaitQueue queue{"wait"}; // one label, two rooms
    loop.spawn(work_twice(loop, clock, queue, 3us, 20us), "a", Room::smtp);
    loop.spawn(work_twice(loop, clock, queue, 5us, 40us), "b", Room::delivery);
    loop.turn();
    {
        const InRoom waker{Room::spool};
        queue.wake_all();
    }
    loop.turn();
    meter.settle();
    EXPECT_EQ(meter.cpu(Room::smtp), 23us);
    EXPECT_EQ(meter.cpu(Room::delivery), 45us);
    EXPECT_EQ(meter.cpu(Room::spool), 0us);
    EXPECT_EQ(sum(), 68us);
}

TEST_F(Rooms, WhatIsSpawnedBelongsToTheSpawnerUnlessSaid) {
    Loop loop{clock};
    WaitQueue queue{"wait"};
    {
        const InRoom in{Room::control};
        loop.spawn(work_twice(loop, clock, queue, 3us, 0us), "inherits");
        loop.spawn(work_twice(loop, clock, queue, 5us, 0us), "said", Room::net);
    }
    loop.turn();
    meter.settle();
    EXPECT_EQ(meter.cpu(Room::control), 3us);
    EXPECT_EQ(meter.cpu(Room::net), 5us);
}

Task<void> into_another_and_back(Loop& loop, WorkClock& clock, WaitQueue& queue) {
    RoomMeter::here().enter(Room::message);
    co_await queue.wait(loop, Deadline::never());
    clock.work(9us);
    RoomMeter::here().enter(Room::smtp);
    clock.work(1us);
}

TEST_F(Rooms, ARoomThatWasEnteredLastsThroughAWait) {
    Loop loop{clock};
    WaitQueue queue{"wait"};
    loop.spawn(into_another_and_back(loop, clock, queue), "task", Room::smtp);
    loop.turn();
    queue.wake_all();
    loop.turn();
    meter.settle();
    EXPECT_EQ(meter.cpu(Room::message), 9us);
    EXPECT_EQ(meter.cpu(Room::smtp), 1us);
}

struct PutOff final : TurnEnd {
    explicit PutOff(WorkClock& its_clock) noexcept : TurnEnd(Room::spool), clock(its_clock) {}
    void turn_end() noexcept override { clock.work(6us); }
    WorkClock& clock;
};

TEST_F(Rooms, PutOffWorkIsOfTheRoomThatOwnsIt) {
    Loop loop{clock};
    PutOff work{clock};
    loop.at_turn_end(work);
    loop.turn();
    clock.work(2us); // between turns the driver polls
    meter.settle();
    EXPECT_EQ(meter.cpu(Room::spool), 6us);
    EXPECT_EQ(meter.cpu(Room::net), 2us);
}

TEST_F(Rooms, ALoopThatNeverSleepsSettlesByItself) {
    Loop loop{clock};
    PutOff work{clock};
    for (int turn = 0; turn < 100; ++turn) {
        loop.at_turn_end(work);
        loop.turn();
    }
    EXPECT_GE(meter.cpu(Room::spool), 600us - RoomMeter::settle_every);
}

TEST(RoomsOff, MarksAreFollowedOnlyWhileTheMeterIsOn) {
    RoomMeter& meter = RoomMeter::here();
    ASSERT_FALSE(meter.on());
    const InRoom in{Room::tls};
    EXPECT_EQ(meter.current(), Room::loop);
    meter.settle();
}

} // namespace
} // namespace dataplane::base
