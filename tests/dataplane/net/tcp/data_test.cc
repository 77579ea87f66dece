// Data both ways: sending, retransmission, acknowledging. Windows and probes are in window_test.cc.
#include "tests/dataplane/net/tcp/connection_fixture.h"

namespace dataplane::net::tcp::test {
namespace {

std::string stream(std::size_t from, std::size_t count) {
    std::string text(count, ' ');
    for (std::size_t i = 0; i < count; ++i)
        text[i] = Talk::byte_at(from + i);
    return text;
}

// --- sending again

// T22
TEST(Retransmit, AckOfAPartStartsTheTimeoutAnew) {
    Talk talk;
    talk.establish();
    talk.write_bytes(1460 * 2);
    talk.sent.clear();
    const TimePoint first = talk.c->deadline();
    talk.advance(100ms);
    talk.ack(1461);
    EXPECT_GT(talk.c->deadline(), first);
}

// T23
TEST(Retransmit, BackoffStaysUntilSomethingSentOnceIsAcknowledged) {
    Talk talk;
    talk.establish();
    talk.write_bytes(1460);
    talk.advance(4s);
    ASSERT_GE(talk.c->sender().backoff_count(), 2U);
    const Duration backed_off = talk.c->sender().rto();
    talk.ack(1461); // of which transmission, nobody can tell (Karn)
    talk.write_bytes(400);
    EXPECT_EQ(talk.c->sender().rto(), backed_off);
    talk.advance(20ms);
    talk.ack(1861);
    EXPECT_LT(talk.c->sender().rto(), backed_off);
}

// T24
TEST(Retransmit, StrayAcksDoNotPutOffTheTimeout) {
    Talk talk;
    talk.establish();
    talk.write_bytes(1460);
    talk.sent.clear();
    for (int i = 0; i < 100 && talk.sent.empty(); ++i) {
        talk.advance(50ms);
        talk.ack(1);
    }
    ASSERT_FALSE(talk.quiet());
    EXPECT_LT(talk.now - TimePoint{1000s}, 2s);
    EXPECT_EQ(talk.take().payload, stream(1, 1460));
}

// T25
TEST(Retransmit, ThousandsOfDuplicateAcksCauseOneRetransmission) {
    Talk talk;
    talk.establish();
    talk.write_bytes(1460 * 4);
    talk.sent.clear();
    for (int i = 0; i < 70'000; ++i)
        talk.ack(1);
    unsigned again = 0;
    for (const Sent& segment : talk.sent)
        again += segment.header.retransmission ? 1U : 0U;
    EXPECT_EQ(again, 1U);
}

// T26
TEST(Retransmit, LossAcrossTheSequenceWrapIsRepaired) {
    for (const std::uint32_t before : {1U, 100U, 1460U, 3000U, 5000U}) {
        Talk talk({}, Seq{0U - before});
        talk.establish();
        talk.write_bytes(1460 * 4);
        ASSERT_EQ(talk.sent.size(), 4U);
        talk.sent.clear();
        for (int i = 0; i < 3; ++i)
            talk.ack(1);
        const Sent fast = talk.take();
        EXPECT_EQ(talk.seq_of(fast), 1U);
        EXPECT_EQ(fast.payload, stream(1, 1460));
        talk.sent.clear();
        talk.advance(3s);
        EXPECT_EQ(talk.take_last().payload.substr(0, 536), stream(1, 536));
        talk.ack(1 + 1460 * 4);
        EXPECT_TRUE(talk.c->all_acknowledged());
    }
}

// T27
TEST(Retransmit, AWholeLostWindowComesAgain) {
    Talk talk;
    talk.establish(Talk::full_options());
    talk.write_bytes(1448 * 10);
    ASSERT_EQ(talk.sent.size(), 10U);
    talk.sent.clear();
    std::uint32_t have = 1;
    for (int round = 0; round < 100 && have < 1 + 14480; ++round) {
        talk.advance(300ms);
        bool fresh = false;
        while (!talk.quiet()) {
            const Sent segment = talk.take();
            if (talk.seq_of(segment) > have) continue;
            EXPECT_EQ(segment.payload, stream(talk.seq_of(segment), segment.payload.size()));
            const auto end =
                talk.seq_of(segment) + static_cast<std::uint32_t>(segment.payload.size());
            if (end > have) {
                have = end;
                fresh = true;
            }
        }
        if (fresh) talk.ack(have);
    }
    EXPECT_TRUE(talk.c->all_acknowledged());
}

// T28
TEST(Retransmit, AckInMidSegmentLeavesTheRestIntact) {
    Talk talk;
    talk.establish();
    talk.write_bytes(3000);
    talk.sent.clear();
    talk.ack(701);
    talk.sent.clear();
    talk.advance(2s);
    const Sent again = talk.take();
    EXPECT_EQ(talk.seq_of(again), 701U);
    EXPECT_EQ(again.payload, stream(701, again.payload.size()));
    EXPECT_GE(again.payload.size(), 760U);
}

// T40
TEST(Retransmit, UserTimeoutClosesAndTellsWhy) {
    Talk talk;
    talk.establish();
    talk.c->set_user_timeout(30s);
    talk.write_bytes(100);
    talk.advance(29s);
    EXPECT_EQ(talk.c->state(), State::established);
    talk.advance(2s);
    EXPECT_EQ(talk.c->state(), State::closed);
    EXPECT_EQ(talk.c->error(), base::NetError::timed_out);
    EXPECT_NE(talk.c->take_events() & event::dead, 0);
}

TEST(Retransmit, ProgressKeepsTheUserTimeoutAway) {
    Talk talk;
    talk.establish();
    talk.c->set_user_timeout(30s);
    talk.write_bytes(1000);
    for (std::uint32_t upto = 101; upto <= 1001; upto += 100) {
        talk.advance(20s);
        talk.ack(upto);
    }
    EXPECT_EQ(talk.c->state(), State::established);
}

// --- what leaves

// T42
TEST(Send, WritesOfOneTurnLeaveTogether) {
    Talk talk;
    talk.establish();
    EXPECT_EQ(talk.c->write(base::as_bytes("MAIL\r\n")), 6U);
    EXPECT_EQ(talk.c->write(base::as_bytes("RCPT\r\n")), 6U);
    EXPECT_EQ(talk.c->write(base::as_bytes("DATA\r\n")), 6U);
    talk.pump();
    const Sent segment = talk.take();
    EXPECT_EQ(segment.payload, "MAIL\r\nRCPT\r\nDATA\r\n");
    EXPECT_TRUE(segment.has(flag::psh));
    talk.write("NOOP\r\n"); // Nagle is off
    EXPECT_EQ(talk.take().payload, "NOOP\r\n");
}

TEST(Send, LargePayloadsAreToBeCutAtTheMss) {
    Talk talk;
    talk.payload_max = 16'000;
    talk.establish(Talk::full_options());
    talk.write_bytes(10'000);
    const Sent large = talk.take();
    EXPECT_EQ(large.header.payload_bytes, 10'000U);
    EXPECT_EQ(large.header.segment_bytes, 1448);
    talk.ack(10'001);
    talk.write_bytes(1448 * 2 + 10);
    EXPECT_EQ(talk.take().header.payload_bytes, 1448U * 2 + 10);
    talk.advance(3s); // sent again one by one
    EXPECT_LE(talk.take().header.payload_bytes, 1448U);
}

TEST(Send, WritableAndRoomComeBackWithTheAck) {
    Config config;
    config.send_bytes_max = 1000;
    Talk talk(config);
    talk.establish();
    EXPECT_EQ(talk.c->write(base::as_bytes(std::string(1500, 'x'))), 1000U);
    EXPECT_EQ(talk.c->send_room(), 0U);
    talk.pump();
    EXPECT_EQ(talk.c->take_events() & event::writable, 0);
    talk.ack(1001);
    EXPECT_EQ(talk.c->take_events() & event::writable, event::writable);
    EXPECT_EQ(talk.c->send_room(), 1000U);
}

TEST(Send, ARefusedAckIsOfferedAgain) {
    Talk talk;
    talk.establish();
    talk.give(flag::ack, 1, 1, "hello");
    const Sent ack = talk.take();
    talk.c->not_sent(ack.header, talk.now);
    EXPECT_TRUE(talk.c->wants_output(talk.now));
    talk.pump();
    EXPECT_EQ(talk.ack_of(talk.take()), 6U);
}

// T41
TEST(Send, PeerWithAWindowBelowTheMssIsServedWithoutAStall) {
    Talk talk;
    Options options;
    options.mss = 536;
    talk.window = 400;
    talk.establish(options);
    talk.write_bytes(2000);
    std::uint32_t have = 1;
    for (int round = 0; round < 20 && have < 2001; ++round) {
        while (!talk.quiet()) {
            const Sent segment = talk.take();
            EXPECT_LE(segment.payload.size(), 400U);
            have = talk.seq_of(segment) + segment.header.payload_bytes;
        }
        talk.advance(20ms);
        talk.ack(have);
    }
    EXPECT_TRUE(talk.c->all_acknowledged());
    EXPECT_LT(talk.now - TimePoint{1000s}, 1s);
}

// T41
TEST(Send, ASillyWindowIsNotTakenAtOnce) {
    Talk talk;
    talk.window = 10'000;
    talk.establish();
    talk.write_bytes(1460);
    talk.sent.clear();
    talk.window = 200;
    talk.ack(1461);
    talk.write_bytes(1460);
    EXPECT_TRUE(talk.quiet());
    talk.advance(2s); // RFC 9293 §3.8.6.2.1 (4): but not never
    EXPECT_EQ(talk.take().payload.size(), 200U);
}

// --- acknowledging

TEST(Ack, EverySecondFullSegmentOrAfterADelay) {
    Talk talk;
    talk.establish();
    std::uint32_t at = 1;
    for (int i = 0; i < 20; ++i, at += 1460) // the quick ones of the start
        talk.give(flag::ack, at, 1, std::string(1460, 'x'));
    static_cast<void>(talk.read());
    talk.advance(1s);
    talk.sent.clear();

    talk.give(flag::ack, at, 1, std::string(1460, 'x'));
    EXPECT_TRUE(talk.quiet());
    talk.give(flag::ack, at + 1460, 1, std::string(1460, 'x'));
    EXPECT_EQ(talk.take().header.flags, flag::ack);
    static_cast<void>(talk.read());
    talk.sent.clear();
    talk.give(flag::ack, at + 2920, 1, "short");
    EXPECT_TRUE(talk.quiet());
    talk.advance(39ms);
    talk.advance(1ms);
    EXPECT_EQ(talk.ack_of(talk.take()), at + 2925);
}

TEST(Ack, ABatchGivesOneAck) {
    Talk talk;
    talk.establish();
    for (std::uint32_t i = 0; i < 8; ++i) {
        Segment segment;
        segment.flags = flag::ack;
        segment.seq = talk.irs + 1 + i * 100;
        segment.ack = talk.iss + 1;
        segment.window = 1000;
        const std::string text(100, 'x');
        segment.payload = base::as_bytes(text);
        talk.c->receive(segment, talk.now);
    }
    talk.pump();
    EXPECT_EQ(talk.ack_of(talk.take()), 801U);
    EXPECT_TRUE(talk.quiet());
}

TEST(Ack, AnAnswerCarriesIt) {
    Talk talk;
    talk.establish();
    Segment segment;
    segment.flags = flag::ack;
    segment.seq = talk.irs + 1;
    segment.ack = talk.iss + 1;
    segment.window = 1000;
    segment.payload = base::as_bytes("EHLO");
    talk.c->receive(segment, talk.now);
    talk.write("250 ok");
    EXPECT_EQ(talk.ack_of(talk.take()), 5U);
    EXPECT_TRUE(talk.quiet());
    talk.advance(100ms);
    for (const Sent& later : talk.sent)
        EXPECT_TRUE(later.header.retransmission);
}

TEST(Ack, OutOfOrderIsReportedAtOnceNewestFirst) {
    Talk talk;
    talk.establish(Talk::full_options());
    talk.give(flag::ack, 101, 1, std::string(100, 'b'));
    Sent ack = talk.take();
    EXPECT_EQ(talk.ack_of(ack), 1U);
    ASSERT_EQ(ack.header.options.sack_count, 1);
    EXPECT_EQ(ack.header.options.sack[0], (SackBlock{talk.irs + 101, talk.irs + 201}));
    talk.give(flag::ack, 301, 1, std::string(100, 'd'));
    ack = talk.take();
    ASSERT_EQ(ack.header.options.sack_count, 2);
    EXPECT_EQ(ack.header.options.sack[0].begin, talk.irs + 301);
    talk.give(flag::ack, 1, 1, std::string(100, 'a'));
    ack = talk.take(); // a hole filled: at once as well
    EXPECT_EQ(talk.ack_of(ack), 201U);
    EXPECT_EQ(ack.header.options.sack_count, 1);
    talk.give(flag::ack, 201, 1, std::string(100, 'c'));
    EXPECT_EQ(talk.ack_of(talk.take()), 401U);
    EXPECT_EQ(talk.read(), std::string(100, 'a') + std::string(100, 'b') + std::string(100, 'c') +
                               std::string(100, 'd'));
}

// RFC 2883
TEST(Ack, DuplicatesAreReportedFirstAndOnce) {
    Talk talk;
    talk.establish(Talk::full_options());
    talk.give(flag::ack, 1, 1, "hello");
    talk.sent.clear();
    talk.give(flag::ack, 1, 1, "hello");
    Sent ack = talk.take();
    ASSERT_EQ(ack.header.options.sack_count, 1);
    EXPECT_EQ(ack.header.options.sack[0], (SackBlock{talk.irs + 1, talk.irs + 6}));
    talk.give(flag::ack, 20, 1, "later");
    ack = talk.take();
    ASSERT_EQ(ack.header.options.sack_count, 1); // the duplicate is not said again
    EXPECT_EQ(ack.header.options.sack[0].begin, talk.irs + 20);
    talk.give(flag::ack, 21, 1, "ate"); // inside what is there: duplicate, then its block (§4.1.2)
    ack = talk.take();
    ASSERT_EQ(ack.header.options.sack_count, 2);
    EXPECT_EQ(ack.header.options.sack[0], (SackBlock{talk.irs + 21, talk.irs + 24}));
    EXPECT_EQ(ack.header.options.sack[1], (SackBlock{talk.irs + 20, talk.irs + 25}));
}

// RFC 2883 §4: where the port cuts a large segment, each frame gets its options.
TEST(Ack, ADuplicateIsReportedInOneFrameAlsoWhereThePortCuts) {
    Talk talk;
    talk.establish(Talk::full_options());
    talk.give(flag::ack, 1, 1, "hello");
    talk.payload_max = 60'000;
    EXPECT_EQ(talk.c->write(base::as_bytes(std::string(8 * 1460, 'x'))), 8U * 1460);
    talk.sent.clear();
    talk.give(flag::ack, 1, 1, "hello");
    std::size_t reports = 0;
    std::size_t cut = 0;
    for (const Sent& segment : talk.sent) {
        if (segment.header.options.sack_count > 0) {
            ++reports;
            EXPECT_LE(segment.payload.size(), talk.c->mss());
        }
        if (segment.payload.size() > talk.c->mss()) ++cut;
    }
    EXPECT_EQ(reports, 1U);
    EXPECT_GE(cut, 1U);
    talk.sent.clear();
}

TEST(Ack, SegmentThatBeginsBeforeTheWindowGivesItsNewPart) {
    Talk talk;
    talk.establish();
    talk.give(flag::ack, 1, 1, "hello");
    talk.give(flag::ack, 3, 1, "llo world");
    EXPECT_EQ(talk.read(), "hello world");
}

// T31
TEST(Ack, OneByteSegmentsOutOfOrderAreBounded) {
    Talk talk;
    talk.establish(Talk::full_options());
    const std::uint32_t before = talk.bench.receive_slabs.free_count();
    for (std::uint32_t at = 3; at < 40'000; at += 2)
        talk.give(flag::ack, at, 1, "x");
    EXPECT_GT(talk.bench.counters.out_of_order_dropped, 10'000U);
    EXPECT_LE(before - talk.bench.receive_slabs.free_count(), 1U);
    talk.sent.clear();
    talk.give(flag::ack, 1, 1, "ab");
    EXPECT_EQ(talk.ack_of(talk.take_last()), 4U);
}

// T30
TEST(Ack, SmallestMssWithSackStormsStaysBounded) {
    Talk talk;
    Options options = Talk::full_options();
    options.mss = 48;
    talk.establish(options);
    EXPECT_EQ(talk.c->mss(), 36U);
    talk.write_bytes(20'000);
    for (std::uint32_t i = 0; i < 5000; ++i) {
        talk.sack(1, 1 + (i * 37) % 300, 1 + (i * 37) % 300 + 1 + i % 40);
        talk.sent.clear();
        if (i % 100 == 0) talk.advance(1ms);
        talk.give(flag::ack, 200 + i % 7 * 10, 1,
                  "hole"); // our own SACK beside the smallest segments
    }
    for (const Sent& segment : talk.sent)
        EXPECT_LE(segment.payload.size(), 36U);
    talk.c->abort(talk.now);
    talk.pump();
}

// T68: no slab for what arrives.
TEST(Ack, WithoutSlabsNothingIsAcknowledgedAndItRecovers) {
    Talk talk;
    talk.establish();
    {
        std::vector<base::SlabRef> held;
        while (talk.bench.receive_slabs.free_count() > 0)
            held.push_back(talk.bench.receive_slabs.take());
        talk.give(flag::ack, 1, 1, "hello");
        EXPECT_TRUE(talk.quiet());
        EXPECT_EQ(talk.bench.counters.no_receive_slabs, 1U);
        talk.advance(1s);
        EXPECT_TRUE(talk.quiet());
    }
    talk.give(flag::ack, 1, 1, "hello");
    EXPECT_EQ(talk.ack_of(talk.take()), 6U);
    EXPECT_EQ(talk.read(), "hello");
}

} // namespace
} // namespace dataplane::net::tcp::test
