// mirror_record_test.cc: what the records of two halves decide; what is written of them when stands in mirror_disk_test.cc.
#include "queue/disk/mirror_record.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>

namespace {

using namespace queue;
using State = MirrorRecord::State;

MirrorHalf half(State state, std::uint64_t generation, bool clean = false) {
    return {.present = true,
            .record = MirrorRecord{.generation = generation, .state = state, .clean = clean}};
}

TEST(MirrorRecord, SurvivesItsBlockAndNothingElsePasses) {
    std::array<std::byte, block_bytes> block{};
    EXPECT_FALSE(decode_mirror_record(block));
    encode_mirror_record(block, {.generation = 77, .state = State::alone, .clean = true});
    const auto record = decode_mirror_record(block);
    ASSERT_TRUE(record);
    EXPECT_EQ(record->generation, 77U);
    EXPECT_EQ(record->state, State::alone);
    EXPECT_TRUE(record->clean);
    for (std::size_t at = 0; at < 40; ++at) {
        auto broken = block;
        broken[at] ^= std::byte{1};
        if (at == 34 || at == 35) continue; // zeros that are checksummed as well
        EXPECT_FALSE(decode_mirror_record(broken)) << at;
    }
}

TEST(MirrorRecord, NewestHalfCounts) {
    const auto plan = settle_mirror({half(State::paired, 3), half(State::alone, 4)}, {}, false);
    ASSERT_TRUE(plan);
    EXPECT_EQ(plan->source, 1U);
    EXPECT_TRUE(plan->copy);
    EXPECT_EQ(plan->record.generation, 5U);
    EXPECT_EQ(plan->record.state, State::alone);
}

TEST(MirrorRecord, StaleHalfNeverCountsBesideAnother) {
    const auto plan = settle_mirror({half(State::stale, 9), half(State::alone, 9)}, {}, false);
    ASSERT_TRUE(plan);
    EXPECT_EQ(plan->source, 1U);
    EXPECT_TRUE(plan->copy);
}

TEST(MirrorRecord, OneHalfOfAPairAloneMayBeTheOlderOne) {
    EXPECT_FALSE(settle_mirror({half(State::paired, 3), {}}, {}, false));
    EXPECT_TRUE(settle_mirror({half(State::paired, 3), {}}, {}, true));
    EXPECT_TRUE(settle_mirror({half(State::alone, 3), {}}, {}, false));
    const MirrorHalf without{.present = true}; // its first record never landed
    EXPECT_FALSE(settle_mirror({without, {}}, {}, false));
}

TEST(MirrorRecord, TwoThatTookMailWithoutEachOtherAreRefused) {
    EXPECT_FALSE(settle_mirror({half(State::alone, 3), half(State::alone, 4)}, {}, true));
    EXPECT_FALSE(settle_mirror({half(State::stale, 3), half(State::stale, 4)}, {}, true));
    auto stranger = half(State::paired, 3);
    stranger.record->pair[0] = std::byte{1};
    EXPECT_FALSE(settle_mirror({half(State::paired, 3), stranger}, {}, true));
    const MirrorHalf local{.present = true};
    EXPECT_FALSE(settle_mirror({local, local}, {}, true));
}

TEST(MirrorRecord, HalfWithoutARecordIsACopyOnlyIfItHoldsNothingElse) {
    const auto alone = [] {
        MirrorHalf made = half(State::alone, 2);
        made.pool = PoolId{std::byte{7}};
        return made;
    };
    EXPECT_FALSE(settle_mirror({alone(), {.present = true}}, {}, false));
    EXPECT_FALSE(
        settle_mirror({alone(), {.present = true, .pool = PoolId{std::byte{8}}}}, {}, false));
    EXPECT_TRUE(settle_mirror({alone(), {.present = true, .blank = true}}, {}, false)->copy);
    EXPECT_TRUE(
        settle_mirror({half(State::paired, 3), {.present = true, .blank = true}}, {}, false)->copy);
    EXPECT_FALSE(
        settle_mirror({half(State::stale, 3), {.present = true, .blank = true}}, {}, false));
    EXPECT_TRUE(
        settle_mirror({alone(), {.present = true, .pool = PoolId{std::byte{7}}}}, {}, false)->copy);
}

/// Half of a pool whose superblocks have this checksum.
MirrorHalf pooled(MirrorHalf made, std::uint32_t superblocks) {
    made.pool = PoolId{std::byte{7}};
    made.superblocks = superblocks;
    return made;
}

TEST(MirrorRecord, HalfWhoseRecordsAreDamagedIsGivenEverythingWhereBothEndedTogether) {
    const MirrorHalf rotten{.present = true, .records_lost = 2};
    const auto good = half(State::paired, 6, true);
    for (unsigned side = 0; side < 2; ++side) {
        std::array<MirrorHalf, 2> halves{pooled(good, 1), pooled(rotten, 1)};
        if (side == 1) std::ranges::swap(halves[0], halves[1]);
        const auto plan = settle_mirror(halves, {}, false);
        ASSERT_TRUE(plan) << plan.error();
        EXPECT_EQ(plan->source, side);
        EXPECT_TRUE(plan->copy);
        EXPECT_EQ(plan->record.state, State::alone);
        EXPECT_NE(plan->notice.find(side_name(1 - side)), std::string::npos);
    }
    const auto refused = [&](const MirrorHalf& known, const MirrorHalf& unknown) {
        const auto plan = settle_mirror({known, unknown}, {}, true);
        return plan ? std::string{} : plan.error();
    };
    // It may be the newer one: started since, or left alone by the half that can be read.
    EXPECT_NE(refused(pooled(good, 1), pooled(rotten, 2)).find("event=spool_mirror"),
              std::string::npos);
    EXPECT_NE(
        refused(pooled(half(State::paired, 6), 1), pooled(rotten, 1)).find("spool_dir refused"),
        std::string::npos);
    EXPECT_NE(
        refused(pooled(half(State::alone, 6), 1), pooled(rotten, 1)).find("may have gone on alone"),
        std::string::npos);
    auto doubtful = pooled(good, 1);
    doubtful.records_lost = 1; // a newer record may be the one that is gone
    EXPECT_FALSE(refused(doubtful, pooled(rotten, 1)).empty());
    EXPECT_NE(refused(pooled(half(State::stale, 6), 1), pooled(rotten, 1))
                  .find("Move the pool's file in spool_dir away"),
              std::string::npos);
    auto never = pooled(rotten, 1);
    never.records_lost = 0; // no half, but a copy that somebody has made
    EXPECT_FALSE(refused(pooled(good, 1), never).empty());
    auto unread = pooled(rotten, 1);
    unread.superblocks = std::nullopt;
    EXPECT_FALSE(refused(pooled(good, 1), unread).empty());
}

TEST(MirrorRecord, PoolThatGoesOnAloneSaysSo) {
    EXPECT_FALSE(settle_alone(std::nullopt, false)->has_value());
    const auto next = settle_alone(half(State::paired, 3).record, false);
    ASSERT_TRUE(next && *next);
    EXPECT_EQ((*next)->state, State::alone);
    EXPECT_FALSE(settle_alone(half(State::stale, 3).record, false));
    const auto again = settle_alone(*next, false);
    EXPECT_EQ((*again)->generation, (*next)->generation + 1);
}

TEST(MirrorRecord, WhoGoesOnWithoutTheOtherIsNewerThanWhateverTheOtherHasSaidMeanwhile) {
    // A crash, or several, came when one half had been told more than the other.
    for (const std::uint64_t told : {1U, 4U, 5U, 1000U}) {
        const auto away = half(State::paired, 3 + told, true);
        const auto by_itself = settle_mirror({MirrorHalf{}, half(State::paired, 3)}, {}, true);
        ASSERT_TRUE(by_itself);
        auto alone = half(State::alone, 0);
        alone.record = by_itself->record;
        EXPECT_EQ(settle_mirror({away, alone}, {}, false)->source, 1U) << told;
        alone.record = **settle_alone(half(State::paired, 3).record, false);
        EXPECT_EQ(settle_mirror({away, alone}, {}, false)->source, 1U) << told;
    }
}

TEST(MirrorRecord, GenerationsThatNobodyCanHaveCountedAreNone) {
    std::array<std::byte, block_bytes> block{};
    encode_mirror_record(block, {.generation = ~std::uint64_t{0}});
    EXPECT_FALSE(decode_mirror_record(block));
}

} // namespace
