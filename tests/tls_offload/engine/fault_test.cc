// What the engine does when an accelerator misbehaves: on the simulated one, in virtual time.
#include "tests/tls_offload/engine/rig.h"
#include "tls_offload/engine/sim_backend.h"

#include <cstdlib>
#include <gtest/gtest.h>
#include <list>

namespace tests {
namespace {

using offload::BackendState;
using offload::SimBackend;

class Fault : public testing::Test {
protected:
    void start(offload::SimBackendOptions options, offload::EngineOptions engine_options = {}) {
        auto backend = std::make_unique<SimBackend>(options);
        sim = backend.get();
        Rig::Backends backends;
        backends.push_back(std::move(backend));
        backends.push_back(offload::make_inline_backend());
        rig.emplace(std::move(backends), engine_options, true);
    }
    void sign(unsigned count, base::Duration gap = {}) {
        for (unsigned i = 0; i < count; ++i) {
            rig->sign(key, "message", jobs.emplace_back());
            if (gap != base::Duration::zero()) rig->turn_for(gap);
        }
    }
    bool all_done() {
        return rig->turn_until([&] {
            for (const Rig::Job& job : jobs) {
                if (!job.result) return false;
            }
            return true;
        });
    }
    void expect_all_right() {
        ASSERT_TRUE(all_done());
        const auto expected = reference(evp_key(2048), "message");
        for (const Rig::Job& job : jobs)
            EXPECT_TRUE(same(*job.result, expected));
        EXPECT_EQ(rig->engine.in_flight(), 0U);
    }
    [[nodiscard]] const offload::EngineCounters& counters() const { return rig->engine.counters(); }

    offload::KeyRef key = engine_key(2048);
    std::list<Rig::Job> jobs;
    std::optional<Rig> rig;
    SimBackend* sim = nullptr;
};

TEST_F(Fault, WrongResultIsNeverGivenOutButRedoneInSoftwareWithAStrike) {
    start({.faults = {.wrong = 1000}});
    sign(1);
    expect_all_right();
    EXPECT_EQ(sim->counts().wrong, 1U);
    EXPECT_EQ(counters().verify_failures, 1U);
    EXPECT_EQ(counters().fallbacks, 1U);
    EXPECT_EQ(rig->engine.report(0).strikes, 1U);
    EXPECT_EQ(rig->engine.state(), BackendState::degraded);
}

TEST_F(Fault, BackendThatVerifiesItselfIsBelievedWhenItSaysWrong) {
    start({.faults = {.wrong = 1000}, .verified = true});
    sign(3);
    expect_all_right();
    EXPECT_EQ(counters().verify_failures, 3U);
}

TEST_F(Fault, ThreeWrongResultsTakeABackendDownAndWrongKnownAnswersKeepItThere) {
    start({.faults = {.wrong = 1000}});
    sign(8);
    expect_all_right();
    EXPECT_EQ(rig->engine.state(), BackendState::down);
    const std::uint64_t taken = sim->counts().taken;
    sign(5);
    expect_all_right();
    EXPECT_EQ(sim->counts().taken, taken)
        << "mail's signatures were tried on a backend that is down";
    rig->turn_for(5s, 1ms);
    EXPECT_EQ(rig->engine.state(), BackendState::down);
    EXPECT_GT(sim->counts().taken, taken) << "no known-answer signature was tried";
    sim->set_faults({});
    rig->turn_for(60s, 5ms);
    EXPECT_EQ(rig->engine.state(), BackendState::up);
    EXPECT_EQ(counters().readmissions, 1U);
}

TEST_F(Fault, FailedOperationsAreRedone) {
    start({.faults = {.failed = 1000}});
    sign(2);
    expect_all_right();
    EXPECT_EQ(counters().device_errors, 2U);
    EXPECT_EQ(counters().fallbacks, 2U);
    EXPECT_EQ(rig->engine.state(), BackendState::up);
}

TEST_F(Fault, LostCompletionIsRedoneWhenItIsTooOld) {
    start({.faults = {.delay_max = 50us}});
    sign(20);
    expect_all_right();
    sim->set_faults({.delay_max = 50us, .lost = 1000});
    sign(1, 200us);
    sim->set_faults({.delay_max = 50us});
    const base::TimePoint begin = rig->loop.now();
    rig->turn_for(10ms);
    sign(20, 1ms); // it is not silent meanwhile
    expect_all_right();
    EXPECT_EQ(counters().lost, 1U);
    EXPECT_EQ(counters().fallbacks, 1U);
    EXPECT_LT(rig->loop.now() - begin, 60ms);
    EXPECT_EQ(rig->engine.state(), BackendState::up);
}

TEST_F(Fault, DeviceDeathFinishesEverythingInSoftwareAndKnownAnswersReadmitIt) {
    start({.faults = {.delay_max = 1ms}});
    sign(30);
    rig->turn_for(300us);
    sim->die();
    expect_all_right();
    EXPECT_EQ(rig->engine.state(), BackendState::down);
    EXPECT_EQ(counters().downs, 1U);
    EXPECT_GT(counters().lost, 0U);
    const std::uint64_t fallbacks = counters().fallbacks;
    EXPECT_GT(fallbacks, 0U);

    sim->come_back();
    ASSERT_TRUE(rig->turn_until([&] { return rig->engine.state() == BackendState::up; }, 5s, 1ms));
    EXPECT_EQ(counters().readmissions, 1U);
    sign(10);
    expect_all_right();
    EXPECT_EQ(counters().fallbacks, fallbacks) << "it is up, but gets no work";
}

TEST_F(Fault, LostHeartbeatTakesItDownWithoutAnyRequest) {
    start({});
    sim->set_heartbeat(false);
    sim->die();
    rig->turn_for(1500ms, 1ms);
    EXPECT_EQ(rig->engine.state(), BackendState::down);
    sign(3);
    expect_all_right();
    EXPECT_EQ(counters().fallbacks, 3U);
}

TEST_F(Fault, FullRingQueuesAndEveryTurnTriesAgain) {
    start({.faults = {.delay_min = 100us, .delay_max = 100us}, .ring = 4});
    sign(40);
    expect_all_right();
    EXPECT_GT(counters().ring_full, 0U);
    EXPECT_EQ(counters().fallbacks, 0U) << "no need: all was done within the overflow's patience";
}

TEST_F(Fault, AboveHighWaterTheNextBackendHelps) {
    start({.faults = {.delay_min = 5ms, .delay_max = 5ms}, .ring = 4}, {.high_water = 10});
    sign(60);
    expect_all_right();
    EXPECT_GT(counters().fallbacks, 0U);
    EXPECT_GT(rig->engine.report(0).done, 0U);
}

TEST_F(Fault, LargeKeysDoNotOverflowOntoTheShard) {
    start({.faults = {.delay_min = 5ms, .delay_max = 5ms}, .ring = 4}, {.high_water = 2});
    key = engine_key(4096);
    sign(20);
    ASSERT_TRUE(all_done());
    EXPECT_EQ(counters().fallbacks, 0U);
    EXPECT_EQ(counters().completed, 20U);
}

TEST_F(Fault, LateCompletionAfterCancelAndAfterDeathIsCountedAndDropped) {
    start({.faults = {.lost = 1000}});
    {
        FlagRequest request;
        ASSERT_EQ(rig->engine.submit(request.request, key, padded(key, "x")),
                  offload::Submit::queued);
        rig->turn_for(1ms);
    }
    EXPECT_EQ(counters().cancelled, 1U);
    sim->give_up_the_lost();
    rig->turn_for(20ms);
    EXPECT_EQ(counters().late, 1U);
    sign(1);
    expect_all_right(); // lost, then silent, then down, then software
    sim->give_up_the_lost();
    rig->turn_for(200ms);
    EXPECT_EQ(counters().late, 2U);
    EXPECT_EQ(sim->in_flight(), 0U);
}

// The backend claims to have verified, so that nothing but the token tells the late signature from the right one.
TEST_F(Fault, LateCompletionIsNotTakenForTheRequestThatHasItsPlaceNow) {
    start({.faults = {.delay_min = 5ms, .delay_max = 5ms}, .verified = true}, {.requests = 1});
    for (unsigned i = 0; i < 3; ++i) { // as many places as there are with one request at a time
        FlagRequest dropped;
        ASSERT_EQ(rig->engine.submit(dropped.request, key, padded(key, "dropped")),
                  offload::Submit::queued);
        rig->turn_for(500us);
    }
    FlagRequest kept;
    ASSERT_EQ(rig->engine.submit(kept.request, key, padded(key, "kept")), offload::Submit::queued);
    ASSERT_TRUE(rig->turn_until([&] { return kept.request.done(); }));
    EXPECT_TRUE(same(kept.request.result(), reference(evp_key(2048), "kept")));
    EXPECT_EQ(counters().late, 3U);
}

TEST_F(Fault, DegradedBackendGetsItsShareUntilItHasProvedItself) {
    start({.faults = {.delay_max = 50us, .failed = 1000}});
    for (unsigned i = 0; i < 4; ++i)
        sign(1, 1ms);
    EXPECT_EQ(rig->engine.state(), BackendState::degraded);
    sim->set_faults({.delay_max = 50us});
    const std::uint64_t taken = sim->counts().taken;
    sign(80, 1ms);
    expect_all_right();
    EXPECT_EQ(sim->counts().taken - taken, 10U) << "one in eight";
    sign(1100, 1ms);
    expect_all_right();
    EXPECT_EQ(rig->engine.state(), BackendState::up);
}

TEST_F(Fault, DeadlineEndsTheWaitWhileTheDeviceWorksOn) {
    start({.faults = {.delay_min = 10ms, .delay_max = 10ms}});
    Rig::Job hasty;
    rig->sign(key, "x", hasty, base::Deadline::in(rig->loop, 2ms));
    ASSERT_TRUE(rig->turn_until([&] { return hasty.result.has_value(); }));
    ASSERT_FALSE(hasty.result->has_value());
    EXPECT_EQ(hasty.result->error(), offload::SignError::timed_out);
    EXPECT_EQ(rig->engine.in_flight(), 0U);
    rig->turn_for(20ms);
    EXPECT_EQ(counters().late, 1U);
    EXPECT_EQ(rig->engine.state(), BackendState::up)
        << "late for the caller is not late for a device";
}

TEST_F(Fault, DeadlineBeforeThereIsRoomIsOverload) {
    start({.faults = {.delay_min = 10ms, .delay_max = 10ms}}, {.requests = 2});
    sign(2);
    rig->turn_for(1ms);
    Rig::Job hasty;
    rig->sign(key, "x", hasty, base::Deadline::in(rig->loop, 2ms));
    ASSERT_TRUE(rig->turn_until([&] { return hasty.result.has_value(); }));
    ASSERT_FALSE(hasty.result->has_value());
    EXPECT_EQ(hasty.result->error(), offload::SignError::overloaded);
    expect_all_right();
}

// A key whose numbers no backend can sign with must end the wait, not go round for ever.
TEST_F(Fault, BlockThatNothingCanSignFails) {
    start({});
    FlagRequest request;
    const std::vector<std::byte> too_large(key->modulus_bytes(), std::byte{0xff});
    ASSERT_EQ(rig->engine.submit(request.request, key, too_large), offload::Submit::queued);
    ASSERT_TRUE(rig->turn_until([&] { return request.request.done(); }));
    ASSERT_FALSE(request.request.result());
    EXPECT_EQ(request.request.result().error(), offload::SignError::failed);
}

TEST_F(Fault, IdleEngineLetsTheLoopSleep) {
    start({});
    sign(3);
    expect_all_right();
    rig->turn_for(50ms, 1ms);
    EXPECT_FALSE(rig->loop.turn());
    EXPECT_GT(rig->loop.next_due() - rig->loop.now(), 100ms);
}

// Everything at once, from seeds: nothing lost, nothing twice, nothing wrong. MILLRACE_OFFLOAD_SEEDS=N for more.
TEST_F(Fault, AnyScheduleOfFaultsLosesAndDoublesNothing) {
    const char* wanted = std::getenv("MILLRACE_OFFLOAD_SEEDS");
    const unsigned seeds =
        wanted == nullptr ? 12 : static_cast<unsigned>(std::strtoul(wanted, nullptr, 10));
    const auto expected = reference(evp_key(2048), "x");
    const std::vector<std::byte> block = padded(key, "x");
    for (unsigned seed = 1; seed <= seeds; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        std::mt19937_64 random(seed);
        const auto faults = [&] {
            return offload::SimFaults{.seed = seed,
                                      .delay_max = std::chrono::microseconds{100 + random() % 5000},
                                      .wrong = static_cast<unsigned>(random() % 20),
                                      .failed = static_cast<unsigned>(random() % 20),
                                      .lost = static_cast<unsigned>(random() % 20),
                                      .slow = static_cast<unsigned>(random() % 20),
                                      .refuse = static_cast<unsigned>(random() % 100),
                                      .partial = random() % 2 == 0};
        };
        start({.faults = faults(), .ring = 1 + random() % 40}, {.requests = 64, .high_water = 16});
        std::list<FlagRequest> requests;
        std::uint64_t submitted = 0, done = 0, dropped = 0;
        for (unsigned step = 0; step < 400; ++step) {
            for (unsigned i = 0; i < random() % 3; ++i) {
                FlagRequest& request = requests.emplace_back();
                if (rig->engine.submit(request.request, key, block) == offload::Submit::queued) {
                    ++submitted;
                } else {
                    requests.pop_back();
                }
            }
            switch (random() % 200) {
            case 0:
                sim->die();
                break;
            case 1:
                sim->come_back();
                break;
            case 2:
                sim->set_faults(faults());
                break;
            case 3:
                sim->give_up_the_lost();
                break;
            default:
                break;
            }
            if (!requests.empty() && random() % 20 == 0) {
                auto victim = requests.begin();
                std::advance(victim, random() % requests.size());
                dropped += victim->request.done() ? 0U : 1U;
                done += victim->request.done() ? 1U : 0U;
                requests.erase(victim);
            }
            rig->clock.manual_clock.advance(std::chrono::microseconds{random() % 3000});
            rig->loop.turn();
        }
        ASSERT_TRUE(rig->turn_until([&] { return rig->engine.in_flight() == 0; }));
        for (const FlagRequest& request : requests) {
            ASSERT_EQ(request.calls, 1);
            ASSERT_TRUE(same(request.request.result(), expected));
        }
        done += requests.size();
        EXPECT_EQ(submitted, done + dropped);
        EXPECT_EQ(counters().submitted, submitted);
        EXPECT_EQ(counters().cancelled, dropped);
        EXPECT_EQ(counters().failed, 0U);
    }
}

} // namespace
} // namespace tests
