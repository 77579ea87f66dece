// epoch_test.cc: what is missing among the batches of a boot, by their numbers alone.
#include "queue/epoch.h"

#include <gtest/gtest.h>

namespace {

using queue::Epoch;
using queue::FoundFrame;

FoundFrame frame(std::uint64_t batch_seq, std::uint32_t records = 1, std::uint32_t valid = 1) {
    FoundFrame found;
    found.header.batch_seq = batch_seq;
    found.header.records = records;
    found.records_valid = valid;
    return found;
}

Epoch epoch(std::uint64_t durable, std::initializer_list<std::uint64_t> batches,
            std::set<std::uint64_t> failed = {}) {
    Epoch made{.durable = durable, .frames = {}, .failed = std::move(failed)};
    for (const std::uint64_t batch : batches)
        made.frames.push_back(frame(batch));
    return made;
}

TEST(EpochJudgement, NothingIsMissingInARowOfBatches) {
    Epoch whole = epoch(4, {3, 1, 2, 5, 4});
    const auto judgement = judge(whole);
    EXPECT_EQ(judgement.damaged, 0U);
    EXPECT_EQ(judgement.torn, 0U);
}

TEST(EpochJudgement, ABatchBelowTheWatermarkHasRotted) {
    Epoch holed = epoch(4, {1, 2, 4, 5});
    EXPECT_EQ(judge(holed).damaged, 1U);
}

TEST(EpochJudgement, ABatchAboveTheWatermarkWasTorn) {
    Epoch torn = epoch(2, {1, 2, 3, 5});
    const auto judgement = judge(torn);
    EXPECT_EQ(judgement.damaged, 0U);
    EXPECT_EQ(judgement.torn, 1U);
}

TEST(EpochJudgement, TheEndOfTheLogMayBeMissingBelowTheWatermark) {
    Epoch cut = epoch(0, {1, 2});
    cut.durable = 4;
    EXPECT_EQ(judge(cut).damaged, 2U);
}

TEST(EpochJudgement, ABatchThatWasRefusedIsNotMissed) {
    Epoch failed = epoch(4, {1, 2, 4, 5}, {3});
    const auto judgement = judge(failed);
    EXPECT_EQ(judgement.damaged, 0U);
    EXPECT_EQ(judgement.torn, 0U);
}

TEST(EpochJudgement, ManyRefusedBatchesAboveTheWatermarkAreCountedOnce) {
    // The newest frame lies behind them all, and the watermark before: nothing lies between the two.
    Epoch failed = epoch(10, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 90});
    for (std::uint64_t batch = 11; batch < 90; ++batch)
        failed.failed.insert(batch);
    const auto judgement = judge(failed);
    EXPECT_EQ(judgement.damaged, 0U);
    EXPECT_EQ(judgement.torn, 0U);
}

TEST(EpochJudgement, RecordsThatDoNotCheckOutAreDamageOnlyBelowTheWatermark) {
    Epoch broken = epoch(1, {});
    broken.frames = {frame(1, 5, 3), frame(2, 5, 3)};
    const auto judgement = judge(broken);
    EXPECT_EQ(judgement.damaged, 2U);
    EXPECT_EQ(judgement.torn, 1U);
}

} // namespace
