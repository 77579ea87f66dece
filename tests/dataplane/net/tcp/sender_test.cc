// What Sender does when nothing is lost, and what hostile acknowledgements cannot make it do.
#include "sender_fixture.h"

#include <random>

namespace dataplane::net::tcp {
namespace {

TEST(Sender, BeginsWithTenSegments) { // RFC 6928
    SenderHarness h;
    EXPECT_EQ(h.sender.cwnd(), 10'000U);
    EXPECT_EQ(h.fill(), 10U);
    EXPECT_EQ(h.sender.allowance(h.now), 0U);
    SenderHarness jumbo{{.mss = 9000}};
    EXPECT_EQ(jumbo.sender.cwnd(), 18'000U);
}

TEST(Sender, TheHandshakeGivesTheFirstSample) {
    SenderHarness h;
    EXPECT_EQ(h.sender.smoothed_rtt(), 100ms);
    EXPECT_EQ(h.sender.rto(), 300ms);
}

// T8
TEST(Sender, ALostSynLeavesThreeSecondsAndOneSegment) {
    Config config;
    SenderCounters counters;
    const SenderEnvironment environment{config, counters};
    Sender sender{environment};
    TimePoint now{1000s};
    const Seq iss{0xffff'ffff};
    sender.begin(iss, now);
    ASSERT_TRUE(sender.sent(iss, iss + 1, now, true));
    for (const Duration wait : {1s, 2s, 4s}) { // T1
        ASSERT_EQ(sender.deadline(), now + wait);
        now = sender.deadline();
        ASSERT_EQ(sender.on_timer(now), SenderTimer::timeout);
        const auto range = sender.retransmission(now);
        ASSERT_TRUE(range && range->begin == iss && range->end == iss + 1);
        ASSERT_TRUE(sender.sent(range->begin, range->end, now, true));
        sender.debug_check();
    }
    now += 5s;
    const Acknowledgement ack{.ack = iss + 1, .sack = {}, .ts_echo = timestamp_ticks(now - 5s)};
    EXPECT_EQ(sender.on_acknowledgement(ack, now).acked_bytes, 1U);
    sender.established(1000, true, true, false, now);
    EXPECT_EQ(sender.rto(), 3s) << "neither backed off nor from the slow handshake";
    EXPECT_EQ(sender.cwnd(), 1000U);
    EXPECT_EQ(counters.rtt_samples, 0U);
    // The first real sample ends it.
    ASSERT_TRUE(sender.sent(iss + 1, iss + 1001, now, true));
    now += 50ms;
    std::ignore = sender.on_acknowledgement({.ack = iss + 1001, .sack = {}, .ts_echo = {}}, now);
    EXPECT_EQ(sender.rto(), 250ms);
}

TEST(Sender, TheOrderOfHandshakeCallsDoesNotMatter) {
    Config config;
    SenderCounters counters;
    const SenderEnvironment environment{config, counters};
    Sender sender{environment};
    const TimePoint now{1000s};
    sender.begin(Seq{7}, now);
    ASSERT_TRUE(sender.sent(Seq{7}, Seq{8}, now, true));
    sender.established(1000, true, false, true, now);
    const auto outcome = sender.on_acknowledgement(
        {.ack = Seq{8}, .sack = {}, .ece = true, .ts_echo = {}}, now + 10ms);
    EXPECT_FALSE(outcome.reduced) << "ECE on a SYN-ACK is negotiation";
    EXPECT_EQ(sender.cwnd(), 10'000U);
    EXPECT_EQ(sender.deadline(), TimePoint::max());
}

TEST(Sender, SlowStartDoublesInARoundTrip) {
    SenderHarness h;
    ASSERT_EQ(h.fill(), 10U);
    h.pass(100ms);
    for (std::uint32_t i = 1; i <= 10; ++i)
        h.ack(i * 1000);
    EXPECT_EQ(h.sender.cwnd(), 20'000U);
}

// T38
TEST(Sender, DividedAcknowledgementsGainNothing) {
    SenderHarness h;
    h.fill();
    h.pass(100ms);
    for (std::uint32_t i = 1; i <= 1000; ++i)
        h.ack(i * 10);
    EXPECT_EQ(h.sender.cwnd(), 20'000U);
}

// T38
TEST(Sender, AcknowledgementsOfWhatWasNotSentAreNothing) {
    SenderHarness h;
    h.send(5000);
    EXPECT_EQ(h.ack(5001).acked_bytes, 0U);
    EXPECT_EQ(h.ack(0x7fff'0000).acked_bytes, 0U);
    EXPECT_EQ(h.ack(0x8000'1000).acked_bytes, 0U);
    EXPECT_EQ(h.sender.flight_bytes(), 5000U);
    EXPECT_EQ(h.sender.cwnd(), 10'000U);
}

// T37
TEST(Sender, TheWindowDoesNotGrowWhileTheApplicationIsTheLimit) {
    SenderHarness h;
    for (std::uint32_t i = 1; i <= 200; ++i) { // a command and a reply
        h.send(1000, true);
        h.pass(100ms);
        h.ack(i * 1000);
    }
    EXPECT_EQ(h.sender.cwnd(), 10'000U);
}

// T37
TEST(Sender, AfterIdlenessItBeginsAgainWithTheInitialWindow) {
    SenderHarness h;
    h.grow_to(60'000);
    const std::uint32_t before = h.sender.cwnd();
    ASSERT_EQ(h.sender.flight_bytes(), 0U);
    h.pass(h.sender.rto() / 2);
    EXPECT_GT(h.sender.allowance(h.now), 0U);
    h.pass(h.sender.rto());
    EXPECT_EQ(h.sender.allowance(h.now), 10'000U);
    h.send(1000);
    EXPECT_EQ(h.sender.cwnd(), 10'000U);
    EXPECT_EQ(h.fill(), 9U);
    EXPECT_GT(before, 10'000U);
}

TEST(Sender, ALongIdleTimeDoesNotLetCubicLeap) {
    SenderHarness h{{.rtt = 50ms}};
    h.grow_to(40'000);
    // A loss, so that CUBIC is at work.
    h.send_segments(20);
    h.pass(50ms);
    const std::uint32_t base = h.offset(h.sender.una());
    h.ack(base, {{base + 1000, base + 20'000}});
    ASSERT_TRUE(h.resend());
    h.pass(50ms);
    h.ack(base + 20'000);
    h.grow_to(h.sender.cwnd() + 1000);
    const std::uint32_t cwnd = h.sender.cwnd();
    h.pass(h.sender.rto() - 10ms); // not long enough for a restart
    for (int round = 0; round < 3; ++round) {
        h.pass(h.sender.rto() - 100ms);
        h.grow_to(h.sender.cwnd() + 1);
    }
    EXPECT_LT(h.sender.cwnd(), cwnd + 8000);
}

TEST(Sender, SpreadsALargeWindowOverTheRoundTrip) {
    SenderHarness h;
    EXPECT_EQ(h.sender.pacing_bytes_per_second(), 0U) << "the initial window goes at once";
    h.grow_to(80'000);
    const std::uint32_t cwnd = h.sender.cwnd();
    EXPECT_NEAR(static_cast<double>(h.sender.pacing_bytes_per_second()), 2.0 * cwnd / 0.1,
                1.0 * cwnd);
    h.pass(10ms);
    unsigned most = 0;
    const TimePoint begin = h.now;
    while (h.sender.flight_bytes() + 1000 <= cwnd) {
        most = std::max(most, h.fill());
        if (h.sender.flight_bytes() + 1000 > cwnd) break;
        ASSERT_EQ(h.fire(), SenderTimer::none);
    }
    EXPECT_LE(most, 6U);
    EXPECT_GT(h.now - begin, 35ms);
    EXPECT_LT(h.now - begin, 60ms);
}

TEST(Sender, PacingsDeadlineIsAnsweredOnce) {
    SenderHarness h;
    h.grow_to(80'000);
    h.fill();
    ASSERT_EQ(h.fire(), SenderTimer::none);
    EXPECT_GT(h.sender.deadline(), h.now) << "though nothing was sent: else the loop spins";
}

TEST(Sender, TheRttComesFromTimestampsWhenSegmentsWereSentTwice) {
    SenderHarness h{{.timestamps = true}};
    h.send(1000);
    ASSERT_EQ(h.fire_real(),
              SenderTimer::timeout); // a single segment: RTO 300 ms comes before the probe
    ASSERT_TRUE(h.resend());
    const auto samples = h.counters.rtt_samples;
    const std::uint32_t echo = h.tick();
    h.pass(140ms);
    h.ack(1000, {}, echo);
    EXPECT_EQ(h.counters.rtt_samples, samples + 1);
    EXPECT_EQ(h.sender.smoothed_rtt(), 105ms);
    EXPECT_EQ(h.sender.rto(), 105ms + 200ms) << "and the backoff is over";
}

TEST(Sender, AnEchoThatCannotBeIsNoSample) {
    SenderHarness h{{.timestamps = true}};
    h.send(1000);
    ASSERT_EQ(h.fire_real(), SenderTimer::timeout);
    ASSERT_TRUE(h.resend());
    const auto samples = h.counters.rtt_samples;
    h.pass(100ms);
    h.ack(1000, {}, h.tick() + 5); // from the future
    EXPECT_EQ(h.counters.rtt_samples, samples);
    h.send(1000);
    while (h.fire_real() != SenderTimer::timeout) { // a probe first: the backoff has lasted
    }
    ASSERT_TRUE(h.resend());
    h.pass(100ms);
    h.ack(2000, {}, h.tick() - 100'000); // from before it was sent
    EXPECT_EQ(h.counters.rtt_samples, samples);
}

// T32
TEST(Sender, SackBlocksThatCannotBeAreIgnored) {
    SenderHarness h;
    h.send(10'000);
    h.pass(100ms);
    h.ack(0, {{9000, 11'000}});                 // beyond SND.NXT
    h.ack(0, {{5000, 4000}});                   // inverted
    h.ack(0, {{3000, 3000}});                   // empty
    h.ack(0, {{0, 2000}});                      // would have been acknowledged
    h.ack(0, {{0x9000'0000, 0x9000'1000}});     // far away
    h.ack(0, {{1000, 2000}, {0x7000'0000, 5}}); // one good, one not
    h.ack(0, {{0x6000'0000, 0xd000'0000}});     // each comparison of neighbours holds
    EXPECT_EQ(h.sender.scoreboard().sacked_bytes(), 1000U);
    h.ack(0, {{1000, 4000}, {2000, 3000}, {1500, 5000}}); // overlapping
    EXPECT_EQ(h.sender.scoreboard().sacked_bytes(), 4000U);
    h.ack(0, {{1500, 1999}}); // part of a segment, again
    EXPECT_EQ(h.sender.scoreboard().sacked_bytes(), 4000U);
}

TEST(Sender, SackFromAPeerThatDidNotOfferItIsIgnored) {
    SenderHarness h{{.sack = false}};
    h.send(10'000);
    h.pass(100ms);
    h.ack(2000, {{5000, 9000}});
    EXPECT_EQ(h.sender.pipe_bytes(), 8000U);
}

// T30: CVE-2019-11477 to 11479.
TEST(Sender, SackStormsAtTheSmallestMssMakeNoRecords) {
    SenderHarness h{{.mss = 48}};
    std::minstd_rand random{1};
    h.grow_to(48 * 1500);
    const Seq begin = h.sender.nxt();
    ASSERT_TRUE(h.sender.sent(begin, begin + 48 * 1500, h.now, false));
    const std::uint32_t base = h.offset(begin);
    const std::size_t records = h.sender.scoreboard().size();
    ASSERT_EQ(records, 1500U);
    h.pass(100ms);
    for (int i = 0; i < 30'000; ++i) {
        std::vector<SackBlock> blocks;
        for (int j = 0; j < 4; ++j) {
            const auto from = base + static_cast<std::uint32_t>(random() % (48 * 1500));
            blocks.push_back(
                {h.at(from), h.at(from + 1 + static_cast<std::uint32_t>(random() % 100))});
        }
        std::ignore = h.sender.on_acknowledgement(
            {.ack = h.at(base), .sack = blocks, .pure = true, .ts_echo = {}}, h.now);
        while (h.resend()) {
        }
        ASSERT_EQ(h.sender.scoreboard().size(), records);
    }
    EXPECT_LE(h.sender.scoreboard().capacity(), records_max);
}

TEST(Sender, AFullRingRefusesAndGoesOnAfterAnAck) {
    SenderHarness h;
    h.grow_to(400'000);
    std::uint32_t sent = 0;
    while (h.sender.sent(h.sender.nxt(), h.sender.nxt() + 1, h.now, false))
        ++sent;
    EXPECT_EQ(sent, static_cast<std::uint32_t>(records_max - records_reserved));
    h.sender.debug_check();
    h.pass(100ms);
    h.ack(h.offset(h.sender.una()) + 10);
    EXPECT_TRUE(h.sender.sent(h.sender.nxt(), h.sender.nxt() + 1, h.now, false));
}

TEST(Sender, GivesItsRingBackWhenNothingIsInFlight) {
    SenderHarness h;
    h.send(10'000);
    h.sender.shrink();
    EXPECT_GT(h.sender.scoreboard().capacity(), 0U);
    h.pass(100ms);
    h.ack(10'000);
    h.sender.shrink();
    EXPECT_EQ(h.sender.scoreboard().capacity(), 0U);
    EXPECT_EQ(h.sender.deadline(), TimePoint::max());
    h.send(1000);
    EXPECT_LT(h.sender.deadline(), TimePoint::max());
}

TEST(Sender, ALargeSendBecomesARecordForEachSegment) {
    SenderHarness h;
    h.send(7001); // seven and a FIN
    EXPECT_EQ(h.sender.scoreboard().size(), 8U);
    h.pass(100ms);
    h.ack(2500);
    EXPECT_EQ(h.sender.flight_bytes(), 4501U);
    h.ack(7001);
    EXPECT_EQ(h.sender.flight_bytes(), 0U);
}

TEST(Sender, ASmallerMssAppliesToWhatIsSentAgainAndLeavesCwndAlone) { // T65
    SenderHarness h;
    h.send(5000);
    h.sender.set_mss(400);
    h.sender.resend_all(h.now);
    EXPECT_EQ(h.sender.cwnd(), 10'000U);
    std::uint32_t at = 0;
    while (at < 5000) {
        const auto range = h.resend();
        if (!range) {
            ASSERT_EQ(h.fire(), SenderTimer::none)
                << "pacing, for 10,000 are a large window at this MSS";
            continue;
        }
        EXPECT_EQ(range->first, at);
        EXPECT_LE(range->second - range->first, 400U);
        at = range->second;
    }
    EXPECT_EQ(at, 5000U);
    EXPECT_EQ(h.sender.pipe_bytes(), 5000U);
    EXPECT_FALSE(h.sender.in_recovery());
    h.pass(100ms);
    h.ack(5000);
    EXPECT_EQ(h.counters.recoveries, 0U);
}

TEST(Sender, AMarkReducesOncePerWindow) { // RFC 3168 §6.1.2
    SenderHarness h{{.ecn = true, .kind = CongestionKind::new_reno}};
    h.grow_to(40'000);
    const std::uint32_t cwnd = h.sender.cwnd();
    const std::uint32_t base = h.offset(h.sender.una());
    const std::uint32_t segments = cwnd / 1000;
    h.send(segments * 1000);
    h.pass(100ms);
    EXPECT_TRUE(h.ack(base + 1000, {}, {}, true).reduced);
    EXPECT_EQ(h.sender.ssthresh(), segments * 1000 / 2);
    unsigned more = 0;
    for (std::uint32_t i = 2; i <= segments; ++i) {
        h.pass(2500us);
        EXPECT_FALSE(h.ack(base + i * 1000, {}, {}, true).reduced);
        const unsigned now = h.fill();
        EXPECT_LE(now, 1U) << "the reduction is spread by PRR";
        more += now;
    }
    EXPECT_EQ(h.sender.cwnd(), h.sender.ssthresh());
    EXPECT_NEAR(more, segments / 2, 2);
    EXPECT_EQ(h.counters.ecn_reductions, 1U);
    h.pass(100ms);
    EXPECT_TRUE(h.ack(base + segments * 1000 + 1000, {}, {}, true).reduced) << "the next window's";
}

TEST(Sender, SizesAreWhatTheBudgetSays) {
    EXPECT_LE(sizeof(Sender), 320U);
    EXPECT_EQ(sizeof(SentRecord), 24U);
}

} // namespace
} // namespace dataplane::net::tcp
