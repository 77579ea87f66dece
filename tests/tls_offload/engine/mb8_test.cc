// Eight lanes: which jobs run together, when, and what becomes of a lane that fails. On a stand-in for
// libcrypto_mb (fake_crypto_mb.cc).
#include "tests/tls_offload/engine/contract.h"
#include "tls_offload/engine/key_state.h"
#include "tls_offload/engine/lane_batcher.h"
#include "tls_offload/engine/mb8_kernel.h"
#include "tls_offload/engine/worker_pool.h"

#include <algorithm>
#include <deque>
#include <dlfcn.h>
#include <list>

namespace tests {
namespace {

std::shared_ptr<const offload::Mb8Library> library() {
    static const auto opened = offload::Mb8Library::open(FAKE_CRYPTO_MB);
    CHECK(opened.has_value());
    return *opened;
}

template <class Function>
Function* fake(const char* name) {
    static void* handle = dlopen(FAKE_CRYPTO_MB, RTLD_NOW);
    auto* found = reinterpret_cast<Function*>(dlsym(handle, name));
    CHECK(found != nullptr);
    return found;
}
unsigned batches_of(unsigned used) {
    return fake<unsigned(unsigned)>("fake_crypto_mb_batches_of")(used);
}
void break_lanes(unsigned wrong, unsigned failing) {
    fake<void(unsigned, unsigned)>("fake_crypto_mb_break")(wrong, failing);
}
constexpr unsigned none = 8;

class Lanes : public testing::Test {
protected:
    void SetUp() override {
        fake<void()>("fake_crypto_mb_forget")();
        break_lanes(none, none);
    }
    void TearDown() override { break_lanes(none, none); }

    std::vector<offload::Job*> jobs(unsigned count, unsigned bits = 2048) {
        const offload::KeyRef& key = keys.emplace_back(engine_key(bits));
        std::vector<offload::Job*> out;
        for (unsigned i = 0; i < count; ++i) {
            offload::Job& job = all.emplace_back();
            job.key = offload::local_rsa(*key);
            job.bits = bits;
            offload::pad_pkcs1_sha256(digest_of("job " + std::to_string(i)),
                                      std::span{job.block}.first(job.bytes()));
            out.push_back(&job);
        }
        return out;
    }
    bool right(const offload::Job& job, unsigned number) {
        const auto expected = reference(evp_key(job.bits), "job " + std::to_string(number));
        return job.outcome == offload::Outcome::signed_verified &&
               std::memcmp(expected.data(), job.signature.data(), expected.size()) == 0;
    }

    std::deque<offload::Job> all;
    std::list<offload::KeyRef> keys;
    std::unique_ptr<offload::Kernel> kernel = library()->make_kernel();
};

TEST_F(Lanes, FullAndPartBatchesSignBitForBit) {
    for (const unsigned count : {3U, 5U, 8U}) {
        const auto batch = jobs(count);
        kernel->run(batch);
        for (unsigned i = 0; i < count; ++i)
            EXPECT_TRUE(right(*batch[i], i)) << i << " of " << count;
        EXPECT_EQ(batches_of(count), 1U);
    }
}

TEST_F(Lanes, BelowThreeLanesTheScalarPathIsTaken) {
    for (const unsigned count : {1U, 2U}) {
        const auto batch = jobs(count);
        kernel->run(batch);
        for (unsigned i = 0; i < count; ++i)
            EXPECT_TRUE(right(*batch[i], i));
        EXPECT_EQ(batches_of(count), 0U);
    }
}

TEST_F(Lanes, SizeThatTheLibraryHasNoKernelForIsScalar) {
    const auto batch = jobs(4, 2304);
    kernel->run(batch);
    for (unsigned i = 0; i < 4; ++i)
        EXPECT_TRUE(right(*batch[i], i));
    EXPECT_EQ(batches_of(4), 0U);
}

TEST_F(Lanes, WrongAndFailedLanesAreToldApartAndSpareTheOthers) {
    break_lanes(2, 5);
    const auto batch = jobs(8);
    kernel->run(batch);
    for (unsigned i = 0; i < 8; ++i) {
        if (i == 2) {
            EXPECT_EQ(batch[i]->outcome, offload::Outcome::wrong);
        } else if (i == 5) {
            EXPECT_EQ(batch[i]->outcome, offload::Outcome::failed);
        } else {
            EXPECT_TRUE(right(*batch[i], i)) << i;
        }
    }
}

TEST_F(Lanes, BatchWaitsForCompanyButNotLongerThanItsLimit) {
    offload::LaneBatcher batcher(8);
    const base::TimePoint start{1s};
    const auto five = jobs(5);
    for (offload::Job* job : five)
        batcher.add(*job, start);
    EXPECT_TRUE(batcher.take(start + offload::lane_wait_max - 1ns).empty());
    EXPECT_EQ(batcher.due(), start + offload::lane_wait_max);
    EXPECT_EQ(batcher.take(start + offload::lane_wait_max).size(), 5U);
    EXPECT_EQ(batcher.due(), base::TimePoint::max());
}

TEST_F(Lanes, EightOfASizeRunAtOnceAndSizesDoNotMix) {
    offload::LaneBatcher batcher(8);
    const base::TimePoint now{1s};
    for (offload::Job* job : jobs(7, 2048))
        batcher.add(*job, now);
    for (offload::Job* job : jobs(9, 4096))
        batcher.add(*job, now);
    const auto first = batcher.take(now);
    ASSERT_EQ(first.size(), 8U);
    for (const offload::Job* job : first)
        EXPECT_EQ(job->bits, 4096U);
    EXPECT_TRUE(batcher.take(now).empty());
    EXPECT_EQ(batcher.size(), 8U);
    EXPECT_EQ(batcher.take(now + offload::lane_wait_max).size(), 7U);
    EXPECT_EQ(batcher.take(now + offload::lane_wait_max).size(), 1U);
    EXPECT_EQ(batcher.size(), 0U);
}

TEST_F(Lanes, OneLaneNeverWaits) {
    offload::LaneBatcher batcher(1);
    const auto two = jobs(2);
    for (offload::Job* job : two)
        batcher.add(*job, base::TimePoint{1s});
    EXPECT_EQ(batcher.take(base::TimePoint{1s}).size(), 1U);
    EXPECT_EQ(batcher.take(base::TimePoint{1s}).size(), 1U);
}

TEST_F(Lanes, WrongLaneInAWorkerIsRedoneInSoftware) {
    offload::WorkerPool pool({.kernel = [] { return library()->make_kernel(); }, .name = "mb8"});
    {
        Rig::Backends backends;
        backends.push_back(pool.backend(0, nullptr));
        backends.push_back(offload::make_inline_backend());
        Rig rig(std::move(backends));
        break_lanes(0, none);
        const offload::KeyRef key = engine_key(2048);
        std::array<Rig::Job, 8> waiting;
        for (Rig::Job& job : waiting)
            rig.sign(key, "x", job);
        ASSERT_TRUE(rig.turn_until([&] {
            return std::ranges::all_of(waiting,
                                       [](const Rig::Job& job) { return job.result.has_value(); });
        }));
        for (const Rig::Job& job : waiting)
            EXPECT_TRUE(same(*job.result, reference(evp_key(2048), "x")));
        EXPECT_GE(rig.engine.counters().verify_failures, 1U);
    }
}

TEST(Mb8Library, AbsentLibraryIsRefusedWithItsReason) {
    const auto opened = offload::Mb8Library::open("/nowhere/libcrypto_mb.so");
    ASSERT_FALSE(opened.has_value());
    EXPECT_NE(opened.error().find("not installed"), std::string::npos) << opened.error();
    const auto other = offload::Mb8Library::open("libcrypto.so.3");
    ASSERT_FALSE(other.has_value());
    EXPECT_NE(other.error().find("lacks"), std::string::npos) << other.error();
}

Subject in_workers() {
    return {"mb8_in_workers", [] {
                static offload::WorkerPool pool({.workers = 1,
                                                 .shards = 2,
                                                 .kernel = [] { return library()->make_kernel(); },
                                                 .name = "mb8",
                                                 .ring_entries = 64});
                static unsigned turn = 0;
                return pool.backend(++turn % 2, nullptr);
            }};
}
Subject on_the_shard() {
    return {"mb8_on_the_shard",
            [] { return offload::make_inline_backend(library()->make_kernel(), "mb8"); }};
}

INSTANTIATE_TEST_SUITE_P(Mb8, BackendContract, testing::Values(in_workers(), on_the_shard()),
                         testing::PrintToStringParamName());

} // namespace
} // namespace tests
