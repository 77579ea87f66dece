// Losses that silence shows: RTO, its backoff, whether it was one, reneging, unreachable hosts.
#include "sender_fixture.h"

namespace dataplane::net::tcp {
namespace {

// T27
TEST(SenderTimeout, AWholeLostWindowIsSentAgainInOrder) {
    for (const bool sack : {true, false}) {
        SenderHarness h{{.sack = sack, .kind = CongestionKind::new_reno}};
        h.send(10'000, true);
        SenderTimer due = SenderTimer::none;
        while (due != SenderTimer::timeout)
            due = h.fire(); // a probe is due before; it does not leave
        EXPECT_EQ(h.sender.cwnd(), 1000U);
        EXPECT_EQ(h.sender.ssthresh(), 5000U);
        std::uint32_t next = 0;
        std::uint32_t acked = 0;
        while (acked < 10'000) {
            while (const auto range = h.resend(true)) {
                EXPECT_EQ(range->first, next);
                next = range->second;
            }
            ASSERT_GT(next, acked);
            EXPECT_LE(next - acked, std::max(h.sender.cwnd(), 1000U));
            h.pass(100ms);
            while (acked < next) {
                acked += 1000;
                h.ack(acked);
            }
        }
        EXPECT_EQ(h.counters.timeouts, 1U);
        EXPECT_FALSE(h.sender.in_recovery());
        EXPECT_EQ(h.counters.retransmits_timeout, 10U);
    }
}

// T23
TEST(SenderTimeout, BackoffLastsUntilASegmentThatWasSentOnceIsAcknowledged) {
    SenderHarness h{{.sack = false}};
    h.send(3000);
    for (const Duration wait : {300ms, 600ms, 1200ms, 2400ms}) {
        EXPECT_EQ(h.sender.deadline(), h.now + wait);
        ASSERT_EQ(h.fire(), SenderTimer::timeout);
        ASSERT_EQ(h.resend(), std::pair(0U, 1000U));
    }
    EXPECT_EQ(h.sender.backoff_count(), 4U);
    h.pass(100ms);
    h.ack(1000); // of a segment sent five times
    EXPECT_EQ(h.sender.rto(), 4800ms);
    EXPECT_EQ(h.sender.backoff_count(), 0U) << "in a row";
    ASSERT_TRUE(h.resend());
    h.pass(100ms);
    h.ack(3000);
    EXPECT_EQ(h.sender.rto(), 4800ms) << "these were sent twice as well";
    h.send(1000);
    h.pass(100ms);
    h.ack(4000);
    EXPECT_EQ(h.sender.rto(), 300ms);
}

TEST(SenderTimeout, TheThresholdFallsOnceForASegment) { // RFC 5681 equation 4
    SenderHarness h{{.kind = CongestionKind::new_reno}};
    h.grow_to(40'000);
    h.send(40'000);
    while (h.sender.backoff_count() < 4)
        std::ignore = h.fire();
    EXPECT_EQ(h.sender.ssthresh(), 20'000U);
    EXPECT_EQ(h.sender.cwnd(), 1000U);
}

TEST(SenderTimeout, TheDelayStaysWithinTheMaximum) {
    SenderHarness h;
    h.send(1000);
    for (int i = 0; i < 300; ++i) {
        const TimePoint before = h.now;
        std::ignore = h.fire();
        ASSERT_LE(h.now - before, 60s);
        std::ignore = h.resend();
    }
    EXPECT_EQ(h.sender.rto(), 60s);
    EXPECT_EQ(h.sender.oldest_sent_at().value(), TimePoint{1000s} + 100ms);
}

// T71
TEST(SenderTimeout, AClockThatLeapsCostsOneStep) {
    SenderHarness h;
    h.send(5000);
    h.pass(5s);
    EXPECT_EQ(h.sender.on_timer(h.now), SenderTimer::timeout);
    EXPECT_EQ(h.sender.backoff_count(), 1U);
    EXPECT_GT(h.sender.deadline(), h.now);
}

// T26
TEST(SenderTimeout, CrossesTheWrap) {
    for (std::uint32_t before = 0; before < 16'000; before += 512) {
        const std::uint32_t iss = 0U - before;
        SenderHarness h{{.iss = iss}};
        h.send(10'000);
        while (h.sender.backoff_count() == 0)
            std::ignore = h.fire();
        ASSERT_EQ(h.resend(), std::pair(0U, 1000U));
        h.pass(100ms);
        h.ack(1000);
        ASSERT_TRUE(h.fire_real() == SenderTimer::loss); // no new data came: the doubt ends
        EXPECT_EQ(h.resend(), std::pair(1000U, 2000U));
        EXPECT_EQ(h.resend(), std::pair(2000U, 3000U));
        h.pass(100ms);
        h.ack(10'000);
        EXPECT_EQ(h.sender.flight_bytes(), 0U);
    }
}

// T35
TEST(SenderTimeout, EifelUndoesATimeoutOfADelaySpike) {
    SenderHarness h{{.timestamps = true}};
    h.grow_to(20'000);
    const std::uint32_t cwnd = h.sender.cwnd();
    const std::uint32_t base = h.offset(h.sender.una());
    const std::uint32_t echo = h.tick();
    h.send(20'000);
    while (h.sender.backoff_count() == 0)
        std::ignore = h.fire();
    ASSERT_TRUE(h.resend());
    h.pass(50ms);
    h.ack(base + 1000, {}, echo); // of the first copy
    EXPECT_FALSE(h.sender.in_recovery());
    EXPECT_GE(h.sender.cwnd(), cwnd);
    EXPECT_FALSE(h.resend()) << "nothing else is sent again";
    for (std::uint32_t i = 2; i <= 20; ++i)
        h.ack(base + i * 1000, {}, echo);
    EXPECT_EQ(h.counters.timeouts_undone, 1U);
    EXPECT_EQ(h.counters.retransmits_timeout, 1U);
    EXPECT_EQ(h.counters.recoveries, 0U);
}

// T35
TEST(SenderTimeout, FRtoUndoesATimeoutWithoutTimestamps) { // RFC 5682 §3
    SenderHarness h;
    h.grow_to(20'000);
    const std::uint32_t cwnd = h.sender.cwnd();
    const std::uint32_t base = h.offset(h.sender.una());
    h.send(20'000);
    while (h.sender.backoff_count() == 0)
        std::ignore = h.fire();
    ASSERT_TRUE(h.resend());
    EXPECT_FALSE(h.resend());
    h.pass(150ms); // longer than an RTT: which copy it was nobody knows
    h.ack(base + 1000);
    EXPECT_TRUE(h.sender.in_recovery());
    EXPECT_FALSE(h.resend()) << "step 2: new data first";
    EXPECT_EQ(h.fill(), 2U);
    h.pass(1ms);
    h.ack(base + 2000); // never sent again, so it was on its way all the time
    EXPECT_FALSE(h.sender.in_recovery());
    EXPECT_GE(h.sender.cwnd(), cwnd);
    EXPECT_EQ(h.counters.timeouts_undone, 1U);
    for (std::uint32_t i = 3; i <= 20; ++i)
        h.ack(base + i * 1000);
    EXPECT_EQ(h.counters.retransmits_timeout + h.counters.retransmits_fast, 1U);
}

TEST(SenderTimeout, FRtoBelievesInALossWhenTheSecondAckShowsOnlyNewData) {
    SenderHarness h;
    h.send(10'000);
    while (h.sender.backoff_count() == 0)
        std::ignore = h.fire();
    ASSERT_TRUE(h.resend());
    h.pass(100ms);
    h.ack(1000);
    ASSERT_EQ(h.fill(), 2U);
    h.pass(100ms);
    h.ack(1000, {{10'000, 12'000}});
    EXPECT_TRUE(h.sender.in_recovery());
    EXPECT_EQ(h.resend(), std::pair(1000U, 2000U));
    EXPECT_EQ(h.counters.timeouts_undone, 0U);
}

TEST(SenderTimeout, FRtoAsksNothingOfAnApplicationWithoutData) {
    SenderHarness h;
    h.send(10'000, true);
    while (h.sender.backoff_count() == 0)
        std::ignore = h.fire();
    const auto range = h.sender.retransmission(h.now);
    ASSERT_TRUE(h.sender.sent(range->begin, range->end, h.now, true));
    h.pass(100ms);
    h.ack(1000);
    EXPECT_EQ(h.resend(), std::pair(1000U, 2000U)) << "at once";
}

// T32
TEST(SenderTimeout, AReceiverThatRenegesIsSentEverythingAgain) { // RFC 2018 §8
    SenderHarness h;
    h.send(10'000);
    h.pass(100ms);
    h.ack(0, {{1000, 10'000}});
    ASSERT_EQ(h.resend(), std::pair(0U, 1000U));
    h.pass(100ms);
    h.ack(1000); // and not 10,000: it has thrown them away
    EXPECT_LE(h.sender.deadline(), h.now + 60ms);
    ASSERT_EQ(h.fire_real(), SenderTimer::timeout);
    EXPECT_EQ(h.counters.reneging, 1U);
    EXPECT_EQ(h.sender.scoreboard().sacked_bytes(), 0U);
    std::uint32_t acked = 1000;
    for (int i = 0; i < 50 && acked < 10'000; ++i) {
        while (const auto range = h.resend())
            acked = std::max(acked, range->second);
        h.pass(100ms);
        h.ack(acked);
        if (h.sender.flight_bytes() > 0 && h.sender.deadline() < h.now + 150ms)
            std::ignore = h.fire();
    }
    EXPECT_EQ(h.sender.flight_bytes(), 0U);
}

// T32
TEST(SenderTimeout, ReportsOutliveOneTimeoutButNotTwo) {
    SenderHarness h;
    h.send(10'000);
    h.pass(100ms);
    h.ack(0, {{5000, 8000}});
    while (h.sender.backoff_count() < 1)
        std::ignore = h.fire();
    EXPECT_EQ(h.sender.scoreboard().sacked_bytes(), 3000U);
    while (h.sender.backoff_count() < 2)
        std::ignore = h.fire();
    EXPECT_EQ(h.sender.scoreboard().sacked_bytes(), 0U);
    EXPECT_EQ(h.resend(), std::pair(0U, 1000U)) << "the left edge, whatever was said of it";
}

TEST(SenderTimeout, AnUnreachableHostTakesABackoffBack) { // RFC 6069
    SenderHarness h{{.sack = false}};
    h.send(3000);
    for (int i = 0; i < 3; ++i) {
        ASSERT_EQ(h.fire(), SenderTimer::timeout);
        ASSERT_TRUE(h.resend());
    }
    ASSERT_EQ(h.sender.rto(), 2400ms);
    const TimePoint before = h.sender.deadline();
    h.sender.on_unreachable(h.at(5000)); // not what was sent
    h.sender.on_unreachable(h.at(1000)); // nor what the timeout sent
    EXPECT_EQ(h.sender.deadline(), before);
    h.sender.on_unreachable(h.at(0));
    EXPECT_EQ(h.sender.rto(), 1200ms);
    EXPECT_EQ(h.sender.deadline(), before - 1200ms);
    for (int i = 0; i < 10; ++i)
        h.sender.on_unreachable(h.at(0));
    EXPECT_EQ(h.sender.rto(), 300ms);
    h.check();
}

TEST(SenderTimeout, WithoutATimeoutAnUnreachableHostChangesNothing) {
    SenderHarness h;
    h.send(3000);
    const TimePoint before = h.sender.deadline();
    h.sender.on_unreachable(h.at(0));
    EXPECT_EQ(h.sender.deadline(), before);
}

} // namespace
} // namespace dataplane::net::tcp
