// Losses that acknowledgements show: fast recovery with and without SACK, tail probes, reordering,
// undo.
#include "sender_fixture.h"

namespace dataplane::net::tcp {
namespace {

// T36
TEST(SenderRecovery, OneLossIsRepairedAndTheWindowEndsAtTheThreshold) {
    SenderHarness h{{.kind = CongestionKind::new_reno}};
    h.grow_to(20'000);
    ASSERT_EQ(h.sender.cwnd(), 20'000U);
    const std::uint32_t base = h.offset(h.sender.una());
    h.send(20'000);
    h.pass(100ms);
    h.ack(base, {{base + 1000, base + 2000}});
    EXPECT_FALSE(h.sender.in_recovery());
    h.ack(base, {{base + 1000, base + 3000}});
    EXPECT_FALSE(h.sender.in_recovery());
    h.ack(base, {{base + 1000, base + 4000}}); // the third
    ASSERT_TRUE(h.sender.in_recovery());
    EXPECT_EQ(h.sender.ssthresh(), 10'000U);
}

TEST(SenderRecovery, PrrSendsOneForTwoAndExitsAtTheThreshold) {
    SenderHarness h{{.kind = CongestionKind::new_reno}};
    h.grow_to(20'000);
    const std::uint32_t base = h.offset(h.sender.una());
    h.send(20'000);
    h.pass(100ms);
    unsigned fresh = 0;
    unsigned again = 0;
    for (std::uint32_t i = 2; i <= 20; ++i) {
        h.pass(5ms);
        h.ack(base, {{base + 1000, base + i * 1000}});
        unsigned now = 0;
        while (h.resend()) {
            ++again;
            ++now;
        }
        now += h.fill();
        fresh += now;
        if (h.sender.in_recovery()) {
            EXPECT_LE(now, 1U) << "no burst";
        }
        EXPECT_LE(h.sender.pipe_bytes(), std::max(h.sender.cwnd(), 20'000U));
    }
    EXPECT_EQ(again, 1U);
    EXPECT_NEAR(fresh, 12, 2);
    h.pass(100ms);
    h.ack(base + 20'000 + 3000); // RecoveryPoint is two segments of limited transmit behind
    EXPECT_FALSE(h.sender.in_recovery());
    EXPECT_EQ(h.sender.cwnd(), h.sender.ssthresh());
    EXPECT_EQ(h.counters.recoveries, 1U);
    EXPECT_EQ(h.counters.timeouts, 0U);
}

// T36
TEST(SenderRecovery, ManyLossesOfOneWindowAreOneReduction) {
    SenderHarness h{{.kind = CongestionKind::new_reno}};
    h.grow_to(20'000);
    const std::uint32_t base = h.offset(h.sender.una());
    h.send(20'000);
    h.pass(100ms);
    // Every other segment is lost, and all reports come at once.
    for (std::uint32_t i = 1; i < 20; i += 2)
        h.ack(base, {{base + i * 1000, base + (i + 1) * 1000}});
    std::uint32_t acked = base;
    for (int round = 0; round < 20 && acked < base + 20'000; ++round) {
        unsigned sent = 0;
        while (const auto range = h.resend()) {
            EXPECT_EQ((range->first - base) / 1000 % 2, 0U) << "only what was lost";
            ++sent;
        }
        EXPECT_LE(h.sender.pipe_bytes(), h.sender.cwnd());
        h.pass(100ms);
        for (unsigned i = 0; i < sent; ++i) {
            acked += 2000;
            h.ack(std::min(acked, base + 20'000));
        }
    }
    EXPECT_EQ(acked, base + 20'000);
    EXPECT_EQ(h.counters.recoveries, 1U);
    EXPECT_EQ(h.counters.timeouts, 0U);
    EXPECT_EQ(h.counters.retransmits_fast, 10U);
    EXPECT_EQ(h.sender.cwnd(), h.sender.ssthresh());
}

TEST(SenderRecovery, ALostRetransmissionIsSentAThirdTimeAndCountsTwice) {
    SenderHarness h{{.kind = CongestionKind::new_reno}};
    h.grow_to(40'000);
    const std::uint32_t base = h.offset(h.sender.una());
    h.send(40'000);
    h.pass(100ms);
    h.ack(base, {{base + 1000, base + 20'000}});
    ASSERT_EQ(h.resend(), std::pair(base, base + 1000));
    const std::uint32_t ssthresh = h.sender.ssthresh();
    h.pass(1ms);
    for (std::uint32_t i = 21; i <= 40; ++i) { // their ACKs let new data out
        h.ack(base, {{base + 1000, base + i * 1000}});
        h.fill();
        h.pass(1ms);
    }
    const std::uint32_t nxt = h.offset(h.sender.nxt());
    ASSERT_GT(nxt, base + 40'000);
    h.pass(100ms);
    h.ack(base, {{base + 1000, nxt}}); // sent after the retransmission, and arrived
    EXPECT_EQ(h.resend(), std::pair(base, base + 1000));
    EXPECT_LT(h.sender.ssthresh(), ssthresh);
    EXPECT_EQ(h.counters.timeouts, 0U);
}

// T22, T24
TEST(SenderRecovery, OnlyProgressRestartsTheTimeout) {
    SenderHarness h{{.sack = false}};
    h.send(5000);
    const TimePoint first = h.sender.deadline();
    EXPECT_EQ(first, h.now + 300ms);
    h.pass(50ms);
    h.ack(0);
    EXPECT_EQ(h.sender.deadline(), first) << "a stray ACK";
    h.ack(1500); // part of it, in mid-segment
    EXPECT_EQ(h.sender.deadline(), h.now + h.sender.rto());
    const TimePoint second = h.sender.deadline();
    h.pass(50ms);
    h.ack(1500);
    EXPECT_EQ(h.sender.deadline(), second);
}

// T25
TEST(SenderRecovery, DuplicatesWithoutEndDoNoMore) {
    SenderHarness h{{.sack = false}};
    h.send(10'000);
    h.pass(100ms);
    for (int i = 0; i < 70'000; ++i)
        h.ack(0);
    EXPECT_EQ(h.counters.recoveries, 1U);
    EXPECT_LE(h.sender.scoreboard().sacked_bytes(), 9000U);
    EXPECT_LE(h.sender.pipe_bytes(), h.sender.flight_bytes());
    SenderHarness sack;
    sack.send(10'000);
    sack.pass(100ms);
    for (int i = 0; i < 70'000; ++i)
        sack.ack(0);
    EXPECT_EQ(sack.counters.recoveries, 0U) << "without a report a duplicate says nothing";
}

// T26: the harness begins 4,095 bytes before the wrap.
TEST(SenderRecovery, FastRetransmitCrossesTheWrap) {
    for (std::uint32_t before = 0; before < 16'000; before += 512) {
        const std::uint32_t iss = 0U - before;
        SenderHarness h{{.sack = false, .iss = iss}};
        h.send(10'000);
        h.pass(100ms);
        h.ack(0);
        h.ack(0);
        EXPECT_FALSE(h.resend());
        h.ack(0);
        ASSERT_EQ(h.resend(), std::pair(0U, 1000U));
        EXPECT_FALSE(h.resend());
        h.pass(100ms);
        h.ack(10'000);
        EXPECT_FALSE(h.sender.in_recovery());
        EXPECT_EQ(h.counters.timeouts, 0U);
    }
}

TEST(SenderRecovery, WithoutSackPartialAcksRepairOneHoleInARoundTrip) { // RFC 6582
    SenderHarness h{{.sack = false, .kind = CongestionKind::new_reno}};
    h.grow_to(20'000);
    const std::uint32_t base = h.offset(h.sender.una());
    h.send(20'000); // 1st, 6th and 11th are lost
    h.pass(100ms);
    for (int i = 0; i < 17; ++i)
        h.ack(base);
    ASSERT_EQ(h.resend(), std::pair(base, base + 1000));
    const std::uint32_t ssthresh = h.sender.ssthresh();
    while (h.fill() > 0) {
    }
    h.pass(100ms);
    h.ack(base + 5000);
    EXPECT_TRUE(h.sender.in_recovery());
    EXPECT_EQ(h.resend(), std::pair(base + 5000, base + 6000));
    h.pass(100ms);
    h.ack(base + 10'000);
    EXPECT_EQ(h.resend(), std::pair(base + 10'000, base + 11'000));
    EXPECT_EQ(h.sender.ssthresh(), ssthresh) << "one window, one reduction";
    h.pass(100ms);
    h.ack(h.offset(h.sender.nxt()));
    EXPECT_FALSE(h.sender.in_recovery());
    EXPECT_EQ(h.sender.cwnd(), h.sender.ssthresh());
    EXPECT_EQ(h.counters.recoveries, 1U);
}

TEST(SenderRecovery, WithoutSackDuplicatesOfTheRepairStartNoOther) { // RFC 6582 §3.2 step 2
    SenderHarness h{{.sack = false}};
    h.send(10'000);
    h.pass(100ms);
    for (int i = 0; i < 3; ++i)
        h.ack(0);
    ASSERT_TRUE(h.resend());
    h.send(1000);
    h.pass(100ms);
    h.ack(10'000);
    ASSERT_FALSE(h.sender.in_recovery());
    h.send(5000);
    for (int i = 0; i < 5; ++i)
        h.ack(10'000);
    EXPECT_FALSE(h.sender.in_recovery());
    EXPECT_EQ(h.counters.recoveries, 1U);
}

// T33
TEST(SenderRecovery, ALostTailIsProbedAndTheProbesReportRepairsTheRest) { // RFC 8985 §7
    SenderHarness h;
    h.send(10'000, true);
    h.pass(100ms);
    h.ack(7000); // the last three are lost
    ASSERT_EQ(h.fire_real(), SenderTimer::probe);
    const auto probe = h.sender.probe();
    ASSERT_TRUE(probe);
    EXPECT_EQ(h.offset(probe->begin), 9000U);
    ASSERT_TRUE(h.sender.sent(probe->begin, probe->end, h.now, true));
    const TimePoint sent_at = h.now;
    EXPECT_EQ(h.deadline_after_pacing(), sent_at + h.sender.rto())
        << "the timeout counts from the probe";
    h.pass(100ms);
    h.ack(7000, {{9000, 10'000}});
    EXPECT_TRUE(h.sender.in_recovery()) << "the probe left 200 ms after the others";
    EXPECT_EQ(h.resend(), std::pair(7000U, 8000U));
    EXPECT_EQ(h.counters.timeouts, 0U);
    EXPECT_EQ(h.counters.retransmits_probe, 1U);
    EXPECT_EQ(h.counters.recoveries, 1U);
}

// T33
TEST(SenderRecovery, TheProbesTimeIsTwoRoundTripsAndTheDelayedAckForOneSegment) {
    SenderHarness h;
    h.grow_to(20'000); // settles the variation
    h.send(2000);
    const TimePoint sent_at = h.now;
    EXPECT_EQ(h.deadline_after_pacing(), sent_at + 2 * h.sender.smoothed_rtt());
    SenderHarness slow{{.rtt = 20ms}};
    for (std::uint32_t i = 1; i <= 3; ++i) { // variation up, so that the RTO lies behind
        slow.send(1000);
        slow.pass(i == 2 ? 300ms : 20ms);
        slow.ack(i * 1000);
    }
    slow.send(1000);
    EXPECT_EQ(slow.sender.deadline(), slow.now + 2 * slow.sender.smoothed_rtt() + 200ms);
}

// T33
TEST(SenderRecovery, AProbeThatRepairedTheOnlyLossCostsAReduction) { // RFC 8985 §7.4
    SenderHarness h{{.kind = CongestionKind::new_reno}};
    h.send(10'000, true);
    h.pass(100ms);
    h.ack(9000);
    const std::uint32_t cwnd = h.sender.cwnd();
    ASSERT_EQ(h.fire_real(), SenderTimer::timeout)
        << "one segment: its probe would come after the RTO";
    SenderHarness two{{.kind = CongestionKind::new_reno}};
    two.grow_to(20'000);
    two.send(10'000, true);
    const std::uint32_t base = two.offset(two.sender.una());
    two.pass(100ms);
    two.ack(base + 8000);
    ASSERT_EQ(two.fire_real(), SenderTimer::probe);
    const auto probe = two.sender.probe();
    ASSERT_TRUE(two.sender.sent(probe->begin, probe->end, two.now, true));
    two.pass(100ms);
    two.ack(base + 10'000); // both are there: either was lost or both are late
    EXPECT_FALSE(two.sender.in_recovery());
    two.send(5000);
    two.pass(100ms);
    two.ack(base + 15'000);
    EXPECT_LT(two.sender.ssthresh(), cwnd + 20'000) << "no D-SACK came: it was lost";
}

// T33
TEST(SenderRecovery, AProbeThatWasReceivedTwiceCostsNothing) {
    SenderHarness h;
    h.grow_to(20'000);
    const std::uint32_t base = h.offset(h.sender.una());
    h.send(10'000, true);
    ASSERT_EQ(h.fire_real(), SenderTimer::probe); // the ACKs are late
    const auto probe = h.sender.probe();
    ASSERT_TRUE(h.sender.sent(probe->begin, probe->end, h.now, true));
    h.pass(10ms);
    h.ack(base + 10'000);
    h.pass(100ms);
    h.ack(base + 10'000, {{base + 9000, base + 10'000}}); // D-SACK
    h.send(5000);
    h.pass(100ms);
    h.ack(base + 15'000);
    EXPECT_EQ(h.sender.ssthresh(), UINT32_MAX);
    EXPECT_EQ(h.counters.dsacks, 1U);
}

TEST(SenderRecovery, AProbeOfNewDataIsOneSegmentWhateverCwndSays) {
    SenderHarness h;
    ASSERT_EQ(h.fill(), 10U);
    ASSERT_EQ(h.sender.allowance(h.now), 0U);
    ASSERT_EQ(h.fire_real(), SenderTimer::probe);
    EXPECT_EQ(h.sender.allowance(h.now), 1000U);
    h.send(1000);
    EXPECT_EQ(h.sender.allowance(h.now), 0U);
    EXPECT_EQ(h.fire_real(), SenderTimer::timeout) << "one probe, then the timeout";
}

// T34
TEST(SenderRecovery, ReorderingWithinTheWindowIsNoLoss) {
    SenderHarness h;
    h.grow_to(20'000);
    std::uint32_t base = h.offset(h.sender.una());
    // Once: two late segments teach that the path reorders.
    h.send_segments(4, 1ms);
    h.pass(97ms);
    h.ack(base, {{base + 2000, base + 3000}});
    h.pass(5ms);
    h.ack(base, {{base + 1000, base + 3000}});
    h.ack(base + 4000);
    ASSERT_EQ(h.counters.recoveries, 0U);
    // From now on even ten reports wait a quarter of the RTT.
    for (int round = 0; round < 5; ++round) {
        base = h.offset(h.sender.una());
        h.send(12'000);
        h.pass(100ms);
        for (std::uint32_t i = 2; i <= 12; ++i)
            h.ack(base, {{base + 1000, base + i * 1000}});
        h.pass(20ms); // < 25 ms
        h.ack(base + 12'000);
    }
    EXPECT_EQ(h.counters.recoveries, 0U);
    EXPECT_EQ(h.counters.retransmits_fast, 0U);
}

// T34
TEST(SenderRecovery, DSacksWidenTheWindowUntilReorderingOfARoundTripIsNoLoss) {
    SenderHarness h;
    h.grow_to(20'000);
    std::uint64_t recoveries = 0;
    for (int round = 0; round < 12; ++round) {
        recoveries = h.counters.recoveries;
        const std::uint32_t base = h.offset(h.sender.una());
        h.send(8000);
        h.pass(100ms);
        h.ack(base, {{base + 1000, base + 8000}});
        h.pass(70ms); // the first is that late
        while (h.sender.deadline() <= h.now)
            std::ignore = h.sender.on_timer(h.now);
        const bool again = h.resend().has_value();
        h.pass(10ms);
        h.ack(base + 8000);
        h.pass(90ms);
        if (again) h.ack(base + 8000, {{base, base + 1000}});
        h.send(1000); // what ends a round trip of D-SACKs
        h.pass(100ms);
        h.ack(base + 9000);
    }
    EXPECT_EQ(h.counters.recoveries, recoveries) << "the last round found no loss";
    EXPECT_GE(h.counters.recoveries, 1U) << "the first did";
    EXPECT_EQ(h.counters.recoveries, h.counters.recoveries_undone) << "and each was undone";
}

// T35
TEST(SenderRecovery, EifelUndoesARecoveryWhoseSegmentWasOnlyLate) { // RFC 3522
    SenderHarness h{{.timestamps = true}};
    h.grow_to(20'000);
    const std::uint32_t cwnd = h.sender.cwnd();
    const std::uint32_t base = h.offset(h.sender.una());
    const std::uint32_t echo = h.tick();
    h.send(10'000);
    h.pass(100ms);
    h.ack(base, {{base + 1000, base + 5000}}, echo);
    ASSERT_TRUE(h.sender.in_recovery());
    h.pass(3ms);
    ASSERT_TRUE(h.resend());
    h.pass(5ms);
    h.ack(base + 5000, {}, echo); // filled by what had left before
    EXPECT_FALSE(h.sender.in_recovery());
    EXPECT_GE(h.sender.cwnd(), cwnd);
    EXPECT_EQ(h.sender.ssthresh(), UINT32_MAX);
    EXPECT_EQ(h.counters.recoveries_undone, 1U);
}

TEST(SenderRecovery, ARealLossIsNotUndoneByTimestamps) {
    SenderHarness h{{.timestamps = true}};
    h.send(10'000);
    const std::uint32_t echo = h.tick();
    h.pass(100ms);
    h.ack(0, {{1000, 5000}}, echo);
    ASSERT_TRUE(h.resend());
    const std::uint32_t again = h.tick();
    h.pass(100ms);
    h.ack(10'000, {}, again);
    EXPECT_EQ(h.counters.recoveries_undone, 0U);
    EXPECT_EQ(h.sender.cwnd(), h.sender.ssthresh());
}

// T35
TEST(SenderRecovery, DSacksOfEveryRetransmissionUndoARecovery) { // RFC 2883, without timestamps
    SenderHarness h;
    h.grow_to(20'000);
    const std::uint32_t cwnd = h.sender.cwnd();
    const std::uint32_t base = h.offset(h.sender.una());
    h.send(10'000);
    h.pass(100ms);
    h.ack(base, {{base + 2000, base + 6000}});
    ASSERT_EQ(h.resend(), std::pair(base, base + 1000));
    h.ack(base, {{base + 2000, base + 8000}});
    ASSERT_EQ(h.resend(), std::pair(base + 1000, base + 2000));
    h.pass(10ms);
    h.ack(base + 10'000); // both were late
    EXPECT_LT(h.sender.cwnd(), cwnd);
    h.pass(90ms);
    h.ack(base + 10'000, {{base, base + 1000}});
    EXPECT_LT(h.sender.cwnd(), cwnd) << "the other may have been lost";
    h.ack(base + 10'000, {{base + 1000, base + 2000}});
    EXPECT_GE(h.sender.cwnd(), cwnd);
    EXPECT_EQ(h.counters.recoveries_undone, 1U);
}

TEST(SenderRecovery, DSacksOfWhatWasNeverSentTwiceUndoNothing) {
    SenderHarness h;
    h.grow_to(20'000);
    const std::uint32_t base = h.offset(h.sender.una());
    h.send(10'000);
    h.pass(100ms);
    h.ack(base, {{base + 1000, base + 8000}});
    ASSERT_TRUE(h.resend());
    const std::uint32_t ssthresh = h.sender.ssthresh();
    for (std::uint32_t i = 1; i <= 20; ++i)
        h.ack(base, {{base - i * 1000, base - i * 1000 + 1000}});          // before this recovery
    h.ack(base, {{base + 2000, base + 2500}, {base + 1000, base + 8000}}); // half a segment, within
    EXPECT_EQ(h.sender.ssthresh(), ssthresh);
    EXPECT_TRUE(h.sender.in_recovery());
    EXPECT_EQ(h.counters.dsacks, 21U);
}

// T28
TEST(SenderRecovery, AfterAPartialAckInMidSegmentTheRestIsSent) {
    SenderHarness h;
    h.send(10'000);
    h.pass(100ms);
    h.ack(400, {{1000, 9000}});
    EXPECT_EQ(h.resend(), std::pair(400U, 1000U));
    h.pass(100ms);
    h.ack(700, {{1000, 9000}});
    h.ack(9000);
    EXPECT_EQ(h.sender.flight_bytes(), 1000U);
}

// T39
TEST(SenderRecovery, RetransmissionsKeepToTheWindow) {
    SenderHarness h;
    h.grow_to(100'000);
    const std::uint32_t base = h.offset(h.sender.una());
    h.send(100'000);
    h.pass(100ms);
    h.ack(base, {{base + 97'000, base + 100'000}}); // 97 segments are lost at once
    ASSERT_TRUE(h.sender.in_recovery());
    unsigned burst = 0;
    while (h.resend())
        ++burst;
    EXPECT_LE(burst, 5U);
}

} // namespace
} // namespace dataplane::net::tcp
