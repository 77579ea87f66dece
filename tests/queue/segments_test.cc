#include "queue/segments.h"

#include <gtest/gtest.h>

namespace {

using queue::SegmentTable;

constexpr std::uint32_t segment_bytes = 256U << 10;

/// Three slots: one that was written and sealed with one record alive, two free.
SegmentTable table_with_one_sealed() {
    SegmentTable table{segment_bytes, 3};
    for (std::uint32_t slot = 0; slot < 3; ++slot)
        table.add_free(slot);
    const auto slot = table.take(0);
    EXPECT_EQ(slot, 0U);
    table.prepared(0, 1, {});
    table.opened(0, 1);
    table.add_live(0, 100);
    table.seal(0);
    return table;
}

TEST(SegmentTable, IsNotTakenBeforeTheRecordsThatFreedItAreDurable) {
    SegmentTable table = table_with_one_sealed();
    EXPECT_EQ(table.take(0), 1U);
    EXPECT_EQ(table.take(0), 2U);
    table.drop_live(0, 100);
    EXPECT_EQ(table.free_dead(7), std::nullopt); // none is bad
    EXPECT_EQ(table.free_count(), 1U);
    EXPECT_EQ(table.take(6), std::nullopt);
    EXPECT_EQ(table.take(7), 0U);
}

// Whatever a damaged checkpoint says, the collector's window holds a record from its block's beginning on.
TEST(SegmentTable, HasRoomForWhatFitsItsBytesAndABatch) {
    SegmentTable table{4U << 20, 2};
    const std::uint32_t end = 4U << 20;
    EXPECT_TRUE(table.has_room_for(1, queue::segment_header_bytes, 0));
    EXPECT_FALSE(table.has_room_for(1, queue::segment_header_bytes - 8, 0));
    EXPECT_TRUE(table.has_room_for(1, end - queue::record_header_bytes, 0));
    EXPECT_FALSE(table.has_room_for(1, end - queue::record_header_bytes, 1));
    EXPECT_FALSE(table.has_room_for(1, end, 0));
    EXPECT_TRUE(table.has_room_for(1, 12'280, queue::record_payload_bytes_max));
    EXPECT_FALSE(table.has_room_for(1, 12'280, queue::record_payload_bytes_max + 1));
    EXPECT_LE(12'280 % queue::block_bytes +
                  queue::record_bytes(queue::record_payload_bytes_max, true),
              queue::collect_window_bytes + queue::block_bytes);
}

// One that is known as bad is not read: what ended its mail must be found instead.
TEST(SegmentTable, LeavesNotBeforeTheRecordsThatEmptiedItAreDurable) {
    SegmentTable table = table_with_one_sealed();
    table.mark_bad(0);
    table.drop_live(0, 100);
    EXPECT_EQ(table.free_dead(7), 0U);
    EXPECT_FALSE(table.gone_for_good(0, 6));
    EXPECT_TRUE(table.gone_for_good(0, 7));
    EXPECT_EQ(table.free_dead(9), 0U) << "it is asked for again";
    EXPECT_TRUE(table.gone_for_good(0, 7)) << "and waits for no more than it did";
    table.free_behind(12); // those records are written again
    EXPECT_FALSE(table.gone_for_good(0, 11));
    EXPECT_TRUE(table.gone_for_good(0, 12));
}

TEST(SegmentTable, IsNotFreeWhileAWriteToItIsInFlight) {
    SegmentTable table = table_with_one_sealed();
    table.write_begun(0);
    table.drop_live(0, 100);
    static_cast<void>(table.free_dead(1));
    EXPECT_EQ(table.free_count(), 2U);
    table.write_ended(0);
    static_cast<void>(table.free_dead(1));
    EXPECT_EQ(table.free_count(), 3U);
}

TEST(SegmentTable, IsFreedOnlyInTheOrderOfWriting) {
    SegmentTable table = table_with_one_sealed();
    EXPECT_EQ(table.take(0), 1U);
    table.prepared(1, 2, {});
    table.opened(1, 1);
    table.seal(
        1); // empty, but a completion record in it may be what keeps the first one's mail ended
    static_cast<void>(table.free_dead(1));
    EXPECT_EQ(table.free_count(), 1U);
    table.drop_live(0, 100);
    static_cast<void>(table.free_dead(1));
    EXPECT_EQ(table.free_count(), 3U);
}

TEST(SegmentTable, ACheckpointFreesWhatItCoversInAnyOrder) {
    SegmentTable table = table_with_one_sealed();
    EXPECT_EQ(table.take(0), 1U);
    table.prepared(1, 2, {});
    table.opened(1, 1);
    table.seal(1);
    table.cover(2);
    static_cast<void>(table.free_dead(1));
    EXPECT_EQ(table.free_count(), 1U); // what the second says of others is not in the checkpoint
    EXPECT_EQ(table.uncovered_dead(), 1U);
    table.cover(3);
    static_cast<void>(table.free_dead(1));
    EXPECT_EQ(table.free_count(), 2U); // although the first still lives
}

TEST(SegmentTable, FreesNothingBeforeItIsKnownWhatLives) {
    SegmentTable table{segment_bytes, 3};
    table.freeze();
    table.add_sealed(0, 7);
    table.add_sealed(1, 3);
    static_cast<void>(table.free_dead(0));
    EXPECT_EQ(table.free_count(), 0U);
    table.add_live(1, 100);
    table.thaw();
    static_cast<void>(table.free_dead(0));
    EXPECT_EQ(table.free_count(), 0U); // the older one lives, and there is no checkpoint
}

TEST(SegmentTable, CollectionPrefersWhatIsNearlyEmptyAndOld) {
    SegmentTable table{segment_bytes, 4};
    for (std::uint32_t slot = 1; slot < 4; ++slot) {
        table.add_sealed(slot, slot);
        table.add_live(slot, slot == 2 ? segment_bytes / 10 : segment_bytes / 2);
    }
    EXPECT_EQ(table.victims(90, 8), (std::vector<std::uint32_t>{2, 1, 3}));
    EXPECT_EQ(table.victims(20, 8), (std::vector<std::uint32_t>{2}));
}

} // namespace
