// Goal: the wheel fires each timer once, never early, at the first advance past its time, whatever
// is armed, moved and cancelled meanwhile. Method: a naive list beside it, and random operations.
#include "dataplane/base/timer_wheel.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <gtest/gtest.h>
#include <memory>
#include <random>
#include <vector>

namespace dataplane::base {
namespace {

using namespace std::chrono_literals;

struct Probe : Timer {
    Probe() : Timer(&Probe::on_fire) {}
    static void on_fire(Timer& timer) noexcept {
        auto& probe = static_cast<Probe&>(timer);
        ++probe.fired;
        if (probe.then) probe.then();
    }
    unsigned fired = 0;
    std::function<void()> then;
};

constexpr TimePoint start{1s};

std::uint64_t seed_of_run() {
    const char* given = std::getenv("MILLRACE_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
}

struct Model {
    Probe timer;
    bool armed = false;
    TimePoint when;
    unsigned fired = 0;
};

TimePoint rounded_up(TimePoint when) {
    return TimePoint{std::chrono::ceil<std::chrono::milliseconds>(when.time_since_epoch())};
}

void run_against_model(std::uint64_t seed) {
    SCOPED_TRACE("MILLRACE_SEED=" + std::to_string(seed));
    std::mt19937_64 random{seed};
    TimerWheel wheel{start, 1ms};
    TimePoint now = start;
    std::vector<Model> models(300);
    const auto any_duration = [&] {
        // Every level of the wheel: up to 200 ms, 50 s, 3.5 h and 40 days.
        const std::int64_t ranges[] = {200, 50'000, 12'000'000, 3'400'000'000};
        const auto milliseconds =
            static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(ranges[random() % 4]));
        return Duration{std::chrono::milliseconds{milliseconds}} + Duration{random() % 1'000'000};
    };
    for (int round = 0; round < 4000; ++round) {
        Model& model = models[random() % models.size()];
        switch (random() % 8) {
        case 0:
            model.timer.cancel();
            model.armed = false;
            break;
        case 1:
        case 2:
        case 3:
        case 4:
            model.when = now + any_duration();
            model.armed = true;
            wheel.arm(model.timer, model.when);
            break;
        default: {
            const TimePoint due = wheel.next_due();
            for (const Model& other : models) {
                if (!other.armed) continue;
                ASSERT_LE(due, rounded_up(std::max(other.when, now + 1ns)) + 1ms);
            }
            now += random() % 3 == 0 ? any_duration() : any_duration() / 1000;
            // Half of the time exactly to where the wheel says that something may be due.
            if (random() % 2 == 0 && due != TimePoint::max()) now = std::max(now - 1ns, due);
            wheel.advance(now);
            for (Model& other : models) {
                const bool late_enough = rounded_up(other.when) + 1ms <= now;
                if (other.armed && other.timer.fired > other.fired) {
                    ASSERT_LE(other.when, now) << "fired early";
                    other.armed = false;
                    ++other.fired;
                } else if (other.armed && late_enough) {
                    FAIL() << "did not fire";
                }
                ASSERT_EQ(other.timer.fired, other.fired) << "fired when not armed, or twice";
                ASSERT_EQ(other.timer.armed(), other.armed);
            }
        }
        }
    }
}

TEST(TimerWheel, AgreesWithANaiveListUnderRandomOperations) {
    const std::uint64_t first = seed_of_run();
    for (std::uint64_t seed = first; seed < first + 20 && !testing::Test::HasFailure(); ++seed) {
        run_against_model(seed);
    }
}

TEST(TimerWheel, ATimerMayArmItselfAgainWhileItFires) {
    TimerWheel wheel{start, 1ms};
    Probe timer;
    TimePoint when = start + 5ms;
    timer.then = [&] {
        when += 300ms; // crosses into the next level
        if (timer.fired < 10) wheel.arm(timer, when);
    };
    wheel.arm(timer, when);
    wheel.advance(start + 10s);
    EXPECT_EQ(timer.fired, 10U);
    EXPECT_EQ(wheel.next_due(), TimePoint::max());
}

TEST(TimerWheel, ATimerMayCancelItsNeighbourWhileItFires) {
    TimerWheel wheel{start, 1ms};
    Probe first;
    Probe second;
    first.then = [&] { second.cancel(); };
    wheel.arm(first, start + 5ms);
    wheel.arm(second, start + 5ms);
    wheel.advance(start + 1s);
    EXPECT_EQ(first.fired, 1U);
    EXPECT_EQ(second.fired, 0U);
}

TEST(TimerWheel, ATimeThatHasPassedFiresAtTheNextTick) {
    TimerWheel wheel{start, 1ms};
    Probe timer;
    wheel.arm(timer, start - 1h);
    wheel.advance(start);
    EXPECT_EQ(timer.fired, 0U);
    wheel.advance(start + 1ms);
    EXPECT_EQ(timer.fired, 1U);
}

TEST(TimerWheel, TheFarthestTimesDoNotOverflow) {
    TimerWheel wheel{start, 1ms};
    Probe never;
    Probe almost_never;
    wheel.arm(never, TimePoint::max());
    wheel.arm(almost_never, TimePoint::max() - 1ns);
    EXPECT_FALSE(never.armed());
    EXPECT_TRUE(almost_never.armed());
    wheel.advance(start + 24h * 49);
    EXPECT_EQ(almost_never.fired, 0U);
}

TEST(TimerWheel, DestroyingATimerTakesItOffTheWheel) {
    TimerWheel wheel{start, 1ms};
    auto timer = std::make_unique<Probe>();
    wheel.arm(*timer, start + 1ms);
    timer.reset();
    wheel.advance(start + 1s);
    EXPECT_EQ(wheel.next_due(), TimePoint::max());
}

TEST(TimerWheel, ATimerOutlivesItsWheel) {
    Probe timer;
    {
        TimerWheel wheel{start, 1ms};
        wheel.arm(timer, start + 1s);
    }
    EXPECT_FALSE(timer.armed());
}

} // namespace
} // namespace dataplane::base
