// contract.cc: what every backend of the offload engine must do, whatever it is made of.
#include "tests/tls_offload/engine/contract.h"

#include <list>

namespace tests {
namespace {

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(BackendContract);

TEST_P(BackendContract, SignsBitForBitAsOpenSslDoes) {
    for (const unsigned bits : GetParam().sizes) {
        const offload::KeyRef key = engine_key(bits);
        Rig::Job job;
        rig->sign(key, "a message", job);
        ASSERT_TRUE(rig->turn_until([&] { return job.result.has_value(); })) << bits;
        EXPECT_TRUE(same(*job.result, reference(evp_key(bits), "a message"))) << bits;
    }
    EXPECT_EQ(rig->engine.report(0).done, GetParam().sizes.size()) << "somebody else did the work";
    EXPECT_EQ(rig->engine.counters().fallbacks, 0U);
    EXPECT_EQ(rig->engine.counters().verify_failures, 0U);
}

TEST_P(BackendContract, ManyAtOnceAndEachGetsItsOwnSignature) {
    struct One {
        Rig::Job job;
        std::string text;
        unsigned number;
    };
    std::list<One> all;
    for (unsigned i = 0; i < 120; ++i) {
        One& one = all.emplace_back();
        one.text = "message " + std::to_string(i);
        one.number = i % 3;
    }
    const std::array keys{engine_key(2048, 0), engine_key(2048, 1), engine_key(2048, 2)};
    for (One& one : all)
        rig->sign(keys[one.number], one.text, one.job);
    std::size_t done = 0;
    ASSERT_TRUE(rig->turn_until(
        [&] {
            done = 0;
            for (const One& one : all)
                done += one.job.result.has_value() ? 1U : 0U;
            return done == all.size();
        },
        60s))
        << done;
    for (const One& one : all)
        EXPECT_TRUE(same(*one.job.result, reference(evp_key(2048, one.number), one.text)))
            << one.text;
    EXPECT_EQ(rig->engine.in_flight(), 0U);
    EXPECT_EQ(rig->engine.counters().completed, 120U);
    EXPECT_EQ(rig->engine.counters().lost, 0U);
}

TEST_P(BackendContract, SubmitOnlyQueuesAndCompletionComesFromPoll) {
    const offload::KeyRef key = engine_key(2048);
    FlagRequest one;
    ASSERT_EQ(rig->engine.submit(one.request, key, padded(key, "x")), offload::Submit::queued);
    EXPECT_EQ(one.calls, 0);
    EXPECT_EQ(backend->in_flight(), 0U) << "handed over inside submit(), which may run on a fibre";
    ASSERT_TRUE(rig->turn_until([&] { return one.request.done(); }));
    EXPECT_EQ(one.calls, 1);
    EXPECT_TRUE(same(one.request.result(), reference(evp_key(2048), "x")));
    rig->turn_for(5ms);
    EXPECT_EQ(one.calls, 1) << "completed twice";
}

// The request is dropped after 0, 1, 2 ... turns; whatever the backend still does must hurt nobody.
TEST_P(BackendContract, CancelledAtAnyMomentItCallsNobodyAndTheBackendRecovers) {
    const offload::KeyRef key = engine_key(2048);
    for (unsigned turns = 0; turns < 8; ++turns) {
        int calls = 0;
        {
            std::array<std::optional<FlagRequest>, 12> requests;
            for (auto& request : requests) {
                request.emplace();
                ASSERT_EQ(rig->engine.submit(request->request, key, padded(key, "x")),
                          offload::Submit::queued);
            }
            for (unsigned i = 0; i < turns; ++i) {
                rig->loop.turn();
            }
            for (std::size_t i = 0; i < requests.size(); i += 2)
                requests[i].reset();
            rig->turn_for(1ms);
            for (const auto& request : requests)
                calls += request ? request->calls : 0;
        }
        EXPECT_EQ(rig->engine.in_flight(), 0U);
        EXPECT_LE(calls, 6);
    }
    ASSERT_TRUE(rig->turn_until([&] {
        rig->engine.poll();
        return backend->in_flight() == 0;
    })) << "operations that nobody waited for were never given back";
    Rig::Job job;
    rig->sign(key, "after it", job);
    ASSERT_TRUE(rig->turn_until([&] { return job.result.has_value(); }));
    EXPECT_TRUE(same(*job.result, reference(evp_key(2048), "after it")));
}

TEST_P(BackendContract, PassedDeadlineEndsTheWaitAndTheLateResultIsDropped) {
    const offload::KeyRef key = engine_key(4096);
    std::list<Rig::Job> jobs;
    for (unsigned i = 0; i < 16; ++i) {
        Rig::Job& job = jobs.emplace_back();
        rig->sign(key, "late", job, base::Deadline::in(rig->loop, 1ms));
    }
    ASSERT_TRUE(rig->turn_until([&] {
        for (const Rig::Job& job : jobs) {
            if (!job.result) return false;
        }
        return true;
    }));
    for (const Rig::Job& job : jobs) { // some may have been made in time: that is no fault
        if (*job.result) {
            EXPECT_TRUE(same(*job.result, reference(evp_key(4096), "late")));
        } else {
            EXPECT_EQ(job.result->error(), offload::SignError::timed_out);
        }
    }
    EXPECT_EQ(rig->engine.in_flight(), 0U);
    ASSERT_TRUE(rig->turn_until([&] {
        rig->engine.poll();
        return backend->in_flight() == 0;
    }));
}

TEST_P(BackendContract, CancelSourceEndsTheWait) {
    const offload::KeyRef key = engine_key(4096);
    base::CancelSource cancel;
    Rig::Job job;
    rig->sign(key, "x", job, {.cancel = &cancel});
    rig->loop.turn();
    cancel.cancel();
    ASSERT_TRUE(rig->turn_until([&] { return job.result.has_value(); }));
    if (!*job.result) {
        EXPECT_EQ(job.result->error(), offload::SignError::cancelled);
    }
    EXPECT_EQ(rig->engine.in_flight(), 0U);
}

TEST_P(BackendContract, MayBeDestroyedWithWorkUnderWay) {
    const offload::KeyRef key = engine_key(2048);
    std::array<FlagRequest, 40> requests;
    for (FlagRequest& one : requests)
        ASSERT_EQ(rig->engine.submit(one.request, key, padded(key, "x")), offload::Submit::queued);
    rig->loop.turn();
    rig.reset();
    std::size_t cancelled = 0;
    for (const FlagRequest& one : requests) {
        ASSERT_TRUE(one.request.done());
        cancelled += one.request.result() ? 0U : 1U;
    }
    EXPECT_GT(cancelled, 0U);
}

// Beyond what the engine holds, a coroutine waits for room, and a TLS handshake is told so at once.
TEST_P(BackendContract, AtTheBoundItPushesBack) {
    auto made = GetParam().make();
    ASSERT_TRUE(made.has_value());
    Rig::Backends backends;
    const bool software = (*made)->traits().software;
    rig.reset();
    backends.push_back(std::move(*made));
    if (!software) backends.push_back(offload::make_inline_backend());
    Rig small{std::move(backends), {.requests = 8}};
    const offload::KeyRef key = engine_key(2048);
    std::array<FlagRequest, 8> requests;
    for (FlagRequest& one : requests)
        ASSERT_EQ(small.engine.submit(one.request, key, padded(key, "x")), offload::Submit::queued);
    FlagRequest ninth;
    EXPECT_EQ(small.engine.submit(ninth.request, key, padded(key, "x")), offload::Submit::full);
    Rig::Job patient, hasty;
    small.sign(key, "patient", patient);
    small.sign(key, "hasty", hasty, {.at = small.loop.now()});
    ASSERT_TRUE(small.turn_until([&] { return patient.result && hasty.result; }));
    EXPECT_TRUE(same(*patient.result, reference(evp_key(2048), "patient")));
    if (!*hasty.result) {
        EXPECT_NE(hasty.result->error(), offload::SignError::failed);
    }
    EXPECT_GE(small.engine.counters().refused, 3U);
    EXPECT_TRUE(small.turn_until([&] { return small.engine.in_flight() == 0; }));
}

} // namespace
} // namespace tests
