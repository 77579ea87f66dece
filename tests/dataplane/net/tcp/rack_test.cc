#include "dataplane/net/tcp/rack.h"

#include <gtest/gtest.h>

namespace dataplane::net::tcp {
namespace {

using base::Duration;
using base::TimePoint;
using namespace std::chrono_literals;

class RackTest : public testing::Test {
protected:
    RackTest() {
        board.begin(first);
        rack.begin(first);
    }
    /// Ten segments of 1,000 bytes, a millisecond apart.
    void send_ten() {
        for (int i = 0; i < 10; ++i)
            ASSERT_TRUE(board.push(1000, 1000, start + i * 1ms));
    }
    void deliver(unsigned segment, TimePoint now, std::optional<std::uint32_t> echo = {}) {
        rack.on_delivered(board[segment], now, 100ms, echo);
        board.mark_sacked(segment);
    }
    Seq first{0xffff'f000};
    TimePoint start{100s};
    Scoreboard board;
    Rack rack;
};

TEST_F(RackTest, WhatWasSentBeforeTheDeliveredIsLostAfterTheWindow) {
    send_ten();
    deliver(2, start + 102ms);
    auto found = rack.detect(board, 25ms, start + 102ms);
    EXPECT_FALSE(found.lost);
    EXPECT_EQ(found.wait, 24ms) << "the later of both: sent at 1 + rtt 100 + window 25 - 102";
    found = rack.detect(board, 25ms, start + 125ms);
    EXPECT_TRUE(found.lost);
    EXPECT_TRUE(board[0].lost);
    EXPECT_FALSE(board[1].lost);
    found = rack.detect(board, 25ms, start + 126ms);
    EXPECT_TRUE(board[1].lost);
    EXPECT_EQ(found.wait, 0ms);
    EXPECT_FALSE(board[3].lost) << "sent after";
}

TEST_F(RackTest, SegmentsOfOneBurstAreOrderedBySequence) {
    ASSERT_TRUE(board.push(5000, 1000, start));
    deliver(2, start + 100ms);
    EXPECT_TRUE(rack.detect(board, 0ms, start + 100ms).lost);
    EXPECT_TRUE(board[0].lost && board[1].lost);
    EXPECT_FALSE(board[3].lost || board[4].lost);
}

TEST_F(RackTest, ALostRetransmissionIsFound) {
    send_ten();
    deliver(9, start + 109ms);
    ASSERT_TRUE(rack.detect(board, 0ms, start + 109ms).lost);
    board.sent_again(first, first + 1000, start + 110ms);
    board.sent_again(first + 1000, first + 2000, start + 111ms);
    const auto found = [&] {
        deliver(1, start + 211ms); // the second retransmission came, the first did not
        return rack.detect(board, 0ms, start + 211ms);
    }();
    EXPECT_TRUE(found.lost_again);
    EXPECT_TRUE(board[0].lost);
}

TEST_F(RackTest, AnAcknowledgementOfTheFirstCopyProvesNothingAboutTheSecond) {
    send_ten();
    board.mark_lost(0);
    board.sent_again(first, first + 1000, start + 110ms);
    const auto before_it = timestamp_ticks(start + 50ms);
    rack.on_delivered(board[0], start + 300ms, 100ms, before_it); // by timestamps
    EXPECT_FALSE(rack.detect(board, 0ms, start + 300ms).lost);
    rack.on_delivered(board[0], start + 130ms, 100ms, {}); // sooner than any answer
    EXPECT_FALSE(rack.detect(board, 0ms, start + 300ms).lost);
    rack.on_delivered(board[0], start + 211ms, 100ms, {});
    EXPECT_TRUE(rack.detect(board, 0ms, start + 300ms).lost);
}

// T34
TEST_F(RackTest, TheWindowIsZeroUntilReorderingIsSeen) {
    EXPECT_EQ(rack.window(100ms, 120ms, false, 0), 25ms);
    EXPECT_EQ(rack.window(100ms, 120ms, false, 3), 0ms)
        << "three reports do as three duplicates did";
    EXPECT_EQ(rack.window(100ms, 120ms, true, 0), 0ms);
    send_ten();
    deliver(5, start + 105ms);
    EXPECT_FALSE(rack.reordering_seen());
    deliver(2, start + 106ms);
    EXPECT_TRUE(rack.reordering_seen());
    EXPECT_EQ(rack.window(100ms, 120ms, true, 9), 25ms);
}

TEST_F(RackTest, AFilledHoleIsNoReordering) {
    send_ten();
    deliver(5, start + 105ms);
    board.mark_lost(2);
    board.sent_again(first + 2000, first + 3000, start + 106ms);
    deliver(2, start + 206ms);
    EXPECT_FALSE(rack.reordering_seen());
}

// T34
TEST_F(RackTest, TheWindowGrowsOncePerRoundTripAndForgetsAfterSixteenRecoveries) {
    rack.on_reordering();
    rack.on_duplicate(first, first + 1000);
    rack.on_duplicate(first + 500, first + 2000); // the same round trip
    EXPECT_EQ(rack.window_factor(), 2U);
    rack.on_duplicate(first + 1000, first + 2000);
    EXPECT_EQ(rack.window_factor(), 3U);
    EXPECT_EQ(rack.window(100ms, 500ms, false, 0), 75ms);
    for (int i = 0; i < 15; ++i)
        rack.on_recovery_end();
    EXPECT_EQ(rack.window_factor(), 3U);
    rack.on_recovery_end();
    EXPECT_EQ(rack.window_factor(), 1U);
    for (std::uint32_t i = 0; i < 1000; ++i)
        rack.on_duplicate(first + 3000 * i, first + 3000 * i + 1);
    EXPECT_EQ(rack.window(100ms, 120ms, false, 0), 120ms) << "never beyond SRTT";
}

TEST_F(RackTest, ATimeoutTakesTheFirstAndWhatIsOldEnough) {
    send_ten();
    deliver(5, start + 105ms);
    ASSERT_TRUE(board.push(1000, 1000, start + 250ms));
    rack.detect_on_timeout(board, 0ms, start + 300ms);
    EXPECT_TRUE(board[0].lost && board[9].lost);
    EXPECT_FALSE(board[5].lost);
    EXPECT_FALSE(board[10].lost) << "50 ms ago, with an RTT of 100";
}

} // namespace
} // namespace dataplane::net::tcp
