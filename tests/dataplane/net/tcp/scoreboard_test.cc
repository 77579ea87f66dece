#include "dataplane/net/tcp/scoreboard.h"

#include <gtest/gtest.h>

#include <random>

namespace dataplane::net::tcp {
namespace {

using base::TimePoint;
using namespace std::chrono_literals;

const auto ignore = [](const SentRecord&) {};
const TimePoint now{100s};

class ScoreboardTest : public testing::TestWithParam<std::uint32_t> {
protected:
    void SetUp() override { board.begin(Seq{GetParam()}); }
    void TearDown() override { board.debug_check(); }
    [[nodiscard]] Seq at(std::uint32_t offset) const { return Seq{GetParam()} + offset; }
    [[nodiscard]] SackBlock block(std::uint32_t begin, std::uint32_t end) const {
        return {at(begin), at(end)};
    }
    Scoreboard board;
};

TEST_P(ScoreboardTest, OneRecordForEachSegment) {
    ASSERT_TRUE(board.push(2500, 1000, now));
    ASSERT_EQ(board.size(), 3U);
    EXPECT_EQ(board[2].bytes(), 500U);
    EXPECT_EQ(board.pipe_bytes(), 2500U);
    EXPECT_EQ(board.find(at(0)), 0U);
    EXPECT_EQ(board.find(at(999)), 0U);
    EXPECT_EQ(board.find(at(1000)), 1U);
    EXPECT_EQ(board.find(at(2499)), 2U);
}

TEST_P(ScoreboardTest, AReportCountsOnlyWholeSegments) {
    ASSERT_TRUE(board.push(10'000, 1000, now));
    board.report(block(1500, 3999), ignore); // holds 2000 to 3000 whole, no other
    EXPECT_EQ(board.sacked_bytes(), 1000U);
    EXPECT_TRUE(board[2].sacked);
    board.report(block(1000, 4000), ignore);
    EXPECT_EQ(board.sacked_bytes(), 3000U);
    board.report(block(1000, 4000), [](const SentRecord&) { FAIL() << "reported once"; });
    EXPECT_EQ(board.pipe_bytes(), 7000U);
    EXPECT_EQ(board.size(), 10U);
}

// T28
TEST_P(ScoreboardTest, AnAckWithinASegmentCutsItOff) {
    ASSERT_TRUE(board.push(3000, 1000, now));
    board.mark_lost(0);
    board.acknowledge(at(400), ignore);
    EXPECT_EQ(board.una(), at(400));
    EXPECT_EQ(board[0].bytes(), 600U);
    EXPECT_EQ(board.lost_bytes(), 600U);
    EXPECT_EQ(board.pipe_bytes(), 2000U);
    EXPECT_EQ(board.first_lost(), 0U);
}

TEST_P(ScoreboardTest, SentAgainInPiecesCutsRecords) {
    ASSERT_TRUE(board.push(3000, 1000, now));
    for (std::size_t i = 0; i < 3; ++i)
        board.mark_lost(i);
    board.sent_again(at(0), at(400), now + 5ms);
    EXPECT_EQ(board.size(), 4U);
    EXPECT_EQ(board.lost_bytes(), 2600U);
    EXPECT_TRUE(board[0].retransmitted);
    EXPECT_FALSE(board[1].retransmitted);
    EXPECT_EQ(board[0].first_sent_at(), now);
    EXPECT_EQ(board[0].sent_at, now + 5ms);
    EXPECT_EQ(board.first_lost(), 1U);
    board.sent_again(at(400), at(2200), now + 6ms);
    EXPECT_EQ(board.lost_bytes(), 800U);
    EXPECT_EQ(board[board.first_lost()].begin, at(2200));
}

TEST_P(ScoreboardTest, TheLowestLostIsFoundAfterLowerOnesComeBack) {
    ASSERT_TRUE(board.push(5000, 1000, now));
    board.mark_lost(3);
    EXPECT_EQ(board.first_lost(), 3U);
    board.sent_again(at(3000), at(4000), now);
    board.mark_lost(1);
    EXPECT_EQ(board.first_lost(), 1U);
    board.mark_sacked(1);
    EXPECT_EQ(board.first_lost(), board.size());
}

TEST_P(ScoreboardTest, IsBoundedAndLeavesRoomForCuts) {
    std::size_t pushed = 0;
    while (board.push(1, 1, now))
        ++pushed;
    EXPECT_EQ(pushed, std::size_t{records_max} - records_reserved);
    EXPECT_EQ(board.capacity(), records_max);
    board.acknowledge(at(static_cast<std::uint32_t>(pushed)), ignore);
    EXPECT_EQ(board.size(), 0U);
    board.release();
    EXPECT_EQ(board.capacity(), 0U);
    EXPECT_TRUE(board.push(1, 1, now));
    EXPECT_EQ(board.capacity(), records_min);
}

TEST_P(ScoreboardTest, AFullRingIsSentAgainWhole) {
    ASSERT_TRUE(board.push(1900 * 10, 10, now));
    for (std::size_t i = 0; i < 1900; ++i)
        board.mark_lost(i);
    for (std::uint32_t i = 0; i < 1900; ++i) { // every record in two pieces, while there is room
        board.sent_again(at(i * 10), at(i * 10 + 5), now);
        board.debug_check();
    }
    EXPECT_EQ(board.size(), std::size_t{records_max});
    EXPECT_LT(board.lost_bytes(), 1900U * 5);
}

TEST_P(ScoreboardTest, SumsHoldUnderRandomUse) {
    std::minstd_rand random{GetParam() + 1};
    std::uint32_t sent = 0;
    std::uint32_t acked = 0;
    for (int step = 0; step < 20'000; ++step) {
        const std::uint32_t flight = sent - acked;
        const auto pick = [&](std::uint32_t below) {
            return below == 0 ? 0U : static_cast<std::uint32_t>(random() % below);
        };
        switch (random() % 6) {
        case 0:
        case 1: {
            const std::uint32_t bytes = 1 + pick(3000);
            if (board.push(bytes, 1 + pick(1500), now)) sent += bytes;
            break;
        }
        case 2:
            acked += pick(flight / 2 + 2) % (flight + 1);
            board.acknowledge(at(acked), ignore);
            break;
        case 3:
            if (flight > 2) {
                const std::uint32_t begin = acked + 1 + pick(flight - 2);
                board.report(block(begin, begin + 1 + pick(sent - begin)), ignore);
            }
            break;
        case 4:
            if (board.size() > 0) board.mark_lost(pick(static_cast<std::uint32_t>(board.size())));
            break;
        case 5:
            if (const std::size_t lost = board.first_lost(); lost < board.size()) {
                for (std::size_t i = 0; i < lost; ++i)
                    ASSERT_FALSE(board[i].lost);
                const Seq begin = board[lost].begin;
                board.sent_again(begin, begin + 1 + pick(board[lost].bytes()), now);
            }
            break;
        }
        board.debug_check();
        ASSERT_EQ(board.una(), at(acked));
        ASSERT_EQ(board.nxt(), at(sent));
    }
}

INSTANTIATE_TEST_SUITE_P(AtEveryPlace, ScoreboardTest,
                         testing::Values(0U, 0x7fff'f000U, 0xffff'f000U));

} // namespace
} // namespace dataplane::net::tcp
