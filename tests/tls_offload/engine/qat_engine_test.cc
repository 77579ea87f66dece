// The qatengine backend, on an engine of our own with the same control commands (simasync.cc).
#include "tests/tls_offload/engine/contract.h"
#include "tls_offload/engine/qat_engine.h"

#include <algorithm>
#include <list>
#include <openssl/async.h>
#include <openssl/engine.h>

namespace tests {
namespace {

using offload::BackendState;

/// One for the whole run, as in the product.
offload::QatEngine& qat() {
    static const auto engine = [] {
        // The device signs on this core when it completes, so that it may be late on a busy machine.
        auto opened = offload::QatEngine::open(
            {.id = "simasync", .file = SIMASYNC, .operations = 64, .stuck_after = 2s});
        CHECK(opened.has_value());
        return std::move(*opened);
    }();
    return *engine;
}

/// What a thread's end does for a shard: the leak checker looks before the main thread's.
class FreeJobs final : public testing::Environment {
    void TearDown() override { ASYNC_cleanup_thread(); }
};
[[maybe_unused]] const auto* const free_jobs = testing::AddGlobalTestEnvironment(new FreeJobs);

void order(const char* command, long value) {
    CHECK(ENGINE_ctrl_cmd(qat().handle(), command, value, nullptr, nullptr, 0) == 1);
}

void behave() {
    order("SIM_RING", 1024);
    order("SIM_DELAY_US", 200);
    order("SIM_WRONG", 0);
    order("SIM_FAILED", 0);
    order("SIM_LOST", 0);
    order("SIM_DEAD", 0);
}

class Qat : public testing::Test {
protected:
    void SetUp() override {
        behave();
        Rig::Backends backends;
        backends.push_back(qat().backend(0));
        backend = backends.front().get();
        backends.push_back(offload::make_inline_backend());
        rig.emplace(std::move(backends));
    }
    void TearDown() override {
        behave();
        if (rig) rig->turn_for(5ms);
    }
    void sign(unsigned count) {
        for (unsigned i = 0; i < count; ++i)
            rig->sign(key, "message", jobs.emplace_back());
    }
    void expect_all_right() {
        ASSERT_TRUE(rig->turn_until([&] {
            return std::ranges::all_of(jobs,
                                       [](const Rig::Job& job) { return job.result.has_value(); });
        }));
        const auto expected = reference(evp_key(2048), "message");
        for (const Rig::Job& job : jobs)
            EXPECT_TRUE(same(*job.result, expected));
    }

    offload::KeyRef key = engine_key(2048);
    std::list<Rig::Job> jobs;
    std::optional<Rig> rig;
    offload::Backend* backend = nullptr;
};

TEST_F(Qat, FullRingOfTheDeviceIsTriedAgainUntilItTakes) {
    order("SIM_RING", 3);
    sign(40);
    expect_all_right();
    EXPECT_GT(rig->engine.counters().ring_full, 0U);
    EXPECT_GT(rig->engine.report(0).done, 0U);
}

TEST_F(Qat, WrongResultIsRedoneInSoftware) {
    order("SIM_WRONG", 1000);
    sign(1);
    expect_all_right();
    EXPECT_EQ(rig->engine.counters().verify_failures, 1U);
    EXPECT_EQ(rig->engine.report(0).strikes, 1U);
}

TEST_F(Qat, FailureOfTheDeviceIsRedoneInSoftware) {
    order("SIM_FAILED", 1000);
    sign(2);
    expect_all_right();
    EXPECT_EQ(rig->engine.counters().device_errors, 2U);
}

TEST_F(Qat, DeathFinishesInSoftwareAndTheDeviceIsReadmittedWhenItsHeartbeatIsBack) {
    order("SIM_DEAD", 1);
    sign(20);
    expect_all_right();
    EXPECT_EQ(rig->engine.state(), BackendState::down);
    EXPECT_GT(rig->engine.counters().fallbacks, 0U);
    EXPECT_FALSE(backend->revive());
    order("SIM_DEAD", 0);
    ASSERT_TRUE(rig->turn_until([&] { return rig->engine.state() == BackendState::up; }, 10s));
    EXPECT_EQ(rig->engine.counters().readmissions, 1U);
    const std::uint64_t fallbacks = rig->engine.counters().fallbacks;
    sign(10);
    expect_all_right();
    EXPECT_EQ(rig->engine.counters().fallbacks, fallbacks);
}

TEST_F(Qat, LostCompletionThatComesAfterAllIsDropped) {
    order("SIM_LOST", 1000);
    sign(1);
    expect_all_right();
    EXPECT_EQ(rig->engine.counters().lost, 1U);
    EXPECT_EQ(backend->in_flight(), 1U);
    order("SIM_LOST", 0); // and what was lost is found
    ASSERT_TRUE(rig->turn_until([&] { return backend->in_flight() == 0; }));
    EXPECT_EQ(rig->engine.counters().late, 1U);
}

TEST(QatEngineProbe, AbsentEngineIsRefusedWithItsReason) {
    const auto absent = offload::QatEngine::open({});
    ASSERT_FALSE(absent.has_value());
    EXPECT_NE(absent.error().find("no engine \"qatengine\""), std::string::npos) << absent.error();
    const auto no_file = offload::QatEngine::open({.file = "/nowhere/qatengine.so"});
    ASSERT_FALSE(no_file.has_value());
    EXPECT_NE(no_file.error().find("/nowhere/qatengine.so"), std::string::npos) << no_file.error();
}

TEST(QatEngineProbe, EngineWithoutTheCommandsIsNoQatEngine) {
    ENGINE_load_builtin_engines();
    const auto other = offload::QatEngine::open({.id = "dynamic"});
    ASSERT_FALSE(other.has_value());
    EXPECT_NE(other.error().find("no QAT_Engine"), std::string::npos) << other.error();
}

TEST(QatEngineProbe, FewerInstancesThanShardsIsRefused) {
    order("SIM_INSTANCES", 2);
    const auto few = offload::QatEngine::open({.id = "simasync", .shards = 3});
    order("SIM_INSTANCES", 4);
    ASSERT_FALSE(few.has_value());
    EXPECT_NE(few.error().find("2 crypto instances for 3 shards"), std::string::npos)
        << few.error();
}

Subject subject() {
    return {"qatengine", [] {
                behave();
                return qat().backend(0);
            }};
}
INSTANTIATE_TEST_SUITE_P(Qat, BackendContract, testing::Values(subject()),
                         testing::PrintToStringParamName());

} // namespace
} // namespace tests
