// Opening: SYN_SENT, SYN_RECEIVED, simultaneous open, options, refusals.
#include "tests/dataplane/net/tcp/connection_fixture.h"

namespace dataplane::net::tcp::test {
namespace {

// T1
TEST(Open, SynSentIsRepeatedWithBackoffAndGivenUp) {
    Talk talk;
    talk.open();
    const Sent first = talk.take();
    EXPECT_EQ(first.header.flags, flag::syn | flag::ece | flag::cwr);
    EXPECT_EQ(first.header.options.window_scale, 8);
    EXPECT_EQ(first.header.options.mss, 1460);
    EXPECT_TRUE(first.header.options.sack_permitted);
    EXPECT_TRUE(first.header.options.timestamps);
    for (const Duration wait : {1s, 2s, 4s, 8s}) {
        talk.advance(wait - 10ms);
        EXPECT_TRUE(talk.quiet());
        talk.advance(10ms);
        const Sent again = talk.take();
        EXPECT_EQ(again.header.flags, flag::syn); // RFC 3168 §6.1.1.1: perhaps ECN was the trouble
        EXPECT_EQ(talk.seq_of(again), 0U);
    }
    talk.advance(300s);
    EXPECT_EQ(talk.c->state(), State::closed);
    EXPECT_EQ(talk.c->error(), base::NetError::timed_out);
    EXPECT_EQ(talk.c->take_events(), event::dead);
    EXPECT_EQ(talk.c->deadline(), TimePoint::max());
}

TEST(Open, SynSentSynAckGivesEstablished) {
    Talk talk;
    talk.establish();
    EXPECT_EQ(talk.c->mss(), 1460U);
    EXPECT_EQ(talk.bench.counters.established, 1U);
}

// T2
TEST(Open, EstablishedRepeatedSynAckIsAnsweredOnce) {
    Talk talk;
    talk.establish();
    talk.give(flag::syn | flag::ack, 0, 1);
    EXPECT_EQ(talk.take().header.flags, flag::ack);
    EXPECT_TRUE(talk.quiet());
    EXPECT_EQ(talk.c->state(), State::established);
    EXPECT_EQ(talk.c->take_events(), 0);
}

// T3
TEST(Open, SynSentSynGivesSynReceivedThenEstablishedOnce) {
    Talk talk;
    talk.open();
    static_cast<void>(talk.take());
    talk.give(flag::syn, 0, 0, {}, [](Segment& s) { s.options = Talk::plain_options(); });
    EXPECT_EQ(talk.c->state(), State::syn_received);
    const Sent answer = talk.take();
    EXPECT_EQ(answer.header.flags, flag::syn | flag::ack);
    EXPECT_EQ(talk.seq_of(answer), 0U);
    EXPECT_EQ(talk.ack_of(answer), 1U);
    talk.give(flag::syn | flag::ack, 0, 1);
    EXPECT_EQ(talk.c->state(), State::established);
    EXPECT_EQ(talk.bench.counters.established, 1U);
    talk.sent.clear();
    talk.write("hello");
    EXPECT_EQ(talk.take().payload, "hello");
}

// T4
TEST(Open, SynSentResetCountsOnlyWithTheRightAck) {
    Talk talk;
    talk.open();
    static_cast<void>(talk.take());
    talk.give(flag::rst, 0, 0);
    talk.give(flag::rst | flag::ack, 0, 0);
    talk.give(flag::rst | flag::ack, 0, 2);
    EXPECT_EQ(talk.c->state(), State::syn_sent);
    EXPECT_TRUE(talk.quiet()); // T58: a reset is never answered
    talk.give(flag::rst | flag::ack, 0, 1);
    EXPECT_EQ(talk.c->state(), State::closed);
    EXPECT_EQ(talk.c->error(), base::NetError::refused); // T19
    EXPECT_EQ(talk.c->take_events(), event::dead);
    EXPECT_EQ(talk.c->take_events(), 0);
}

// T4, T18: a peer that still has the old connection answers with a challenge ACK; our reset ends it there,
// and the next SYN opens the new one.
TEST(Open, SynSentChallengeAckIsResetAndTheSynRepeated) {
    Talk talk;
    talk.open();
    static_cast<void>(talk.take());
    talk.give(flag::ack, 700, 12345);
    const Sent reset = talk.take();
    EXPECT_EQ(reset.header.flags, flag::rst);
    EXPECT_EQ(talk.seq_of(reset), 12345U);
    EXPECT_EQ(talk.c->state(), State::syn_sent);
    talk.advance(1s);
    EXPECT_EQ(talk.take().header.flags, flag::syn);
    talk.give(flag::syn | flag::ack, 0, 1);
    EXPECT_EQ(talk.c->state(), State::established);
}

// T5
TEST(Open, PeerMssIsClampedAndDefaulted) {
    const std::pair<std::optional<std::uint16_t>, std::uint32_t> cases[] = {
        {std::nullopt, 536}, {0, 48}, {1, 48}, {48, 48}, {536, 536}, {1400, 1400}, {65535, 1460}};
    for (const auto& [announced, used] : cases) {
        Talk talk;
        Options options;
        options.mss = announced;
        talk.establish(options);
        EXPECT_EQ(talk.c->mss(), used);
    }
}

// T5
TEST(Open, WindowScaleAboveFourteenCountsAsFourteen) {
    Talk talk;
    Options options = Talk::plain_options();
    options.window_scale = 15;
    talk.window = 3;
    talk.establish(options);
    talk.ack(1);
    talk.write_bytes(100'000);
    talk.advance(0s);
    std::uint32_t sent = 0;
    for (int round = 0; round < 10; ++round) {
        while (!talk.quiet())
            sent = talk.seq_of(talk.sent.front()) - 1 + talk.take().header.payload_bytes;
        if (sent > 40'000) break;
        talk.advance(20ms);
        talk.ack(1 + sent);
    }
    EXPECT_GT(sent, 40'000U); // 3 << 14, twice: with a shift of 15 & 7 or none it would be less
}

// T5: each option is used only when both sides offered it.
TEST(Open, WhatThePeerDidNotOfferIsNotUsed) {
    Talk talk;
    talk.establish(Talk::plain_options());
    talk.give(flag::ack, 3, 1, "late", [](Segment& s) { s.options.sack_permitted = true; });
    const Sent ack = talk.take();
    EXPECT_EQ(ack.header.options.sack_count, 0);
    EXPECT_FALSE(ack.header.options.timestamps);
    EXPECT_GE(ack.header.window, 65000U); // not scaled
}

TEST(Open, TimestampsAreEchoedAndTakeTwelveBytes) {
    Talk talk;
    talk.ts_offset = 0xffff'0000;
    talk.establish(Talk::full_options());
    EXPECT_EQ(talk.c->mss(), 1448U);
    talk.write("x");
    const Sent data = talk.take();
    EXPECT_EQ(data.header.options.timestamps->value,
              0xffff'0000U + static_cast<std::uint32_t>(talk.now.time_since_epoch() / 1ms));
    EXPECT_EQ(data.header.options.timestamps->echo,
              5000U + static_cast<std::uint32_t>(talk.now.time_since_epoch() / 1ms));
}

// T6
TEST(Open, MissingTimestampDropsDataButNotTheHandshake) {
    Talk talk;
    Options options = Talk::full_options();
    talk.accept(options);
    static_cast<void>(talk.take());
    talk.ack(1);
    EXPECT_EQ(talk.c->state(), State::established);
    static_cast<void>(talk.c->take_events());
    talk.give(flag::ack, 1, 1, "no stamp");
    EXPECT_TRUE(talk.c->unread().empty());
    talk.stamps = true;
    talk.give(flag::ack, 1, 1, "with stamp");
    EXPECT_EQ(base::as_text(talk.c->unread()), "with stamp");
    talk.give(flag::rst, 11, 0, {}, [](Segment& s) { s.options.timestamps.reset(); });
    EXPECT_EQ(talk.c->error(), base::NetError::reset); // a reset needs none
}

// T7
TEST(Open, DataAndFinInTheSynAckAreKept) {
    Talk talk;
    talk.open();
    static_cast<void>(talk.take());
    talk.give(flag::syn | flag::ack | flag::fin, 0, 1, "220 hi");
    EXPECT_EQ(talk.c->state(), State::close_wait);
    EXPECT_EQ(base::as_text(talk.c->unread()), "220 hi");
    EXPECT_EQ(talk.ack_of(talk.take()), 8U);
}

TEST(Open, DataInASynIsLeftToBeSentAgain) {
    Talk talk;
    Segment syn;
    syn.flags = flag::syn;
    syn.seq = talk.irs;
    syn.payload = base::as_bytes("early");
    syn.window = 1000;
    talk.c->accept(syn, talk.iss, Talk::our_mss, 0, talk.now);
    talk.pump();
    EXPECT_EQ(talk.ack_of(talk.take()), 1U);
    talk.give(flag::ack, 1, 1, "early");
    EXPECT_EQ(base::as_text(talk.c->unread()), "early");
}

// T8: a SYN that took 5 s gives an RTO that fits, not the backed-off one for ever.
TEST(Open, SlowHandshakeDoesNotLeaveALongTimeout) {
    Talk talk;
    talk.open();
    talk.advance(5s);
    talk.sent.clear();
    talk.give(flag::syn | flag::ack, 0, 1);
    ASSERT_EQ(talk.c->state(), State::established);
    EXPECT_LE(talk.c->sender().rto(), 3s); // RFC 6298 §5.7
    for (int round = 0; round < 10; ++round) {
        talk.write("x");
        talk.advance(50ms);
        talk.ack(2 + static_cast<std::uint32_t>(round));
    }
    EXPECT_LT(talk.c->sender().rto(), 1s);
}

TEST(Open, SynReceivedSynAckIsRepeatedAndGivenUp) {
    Talk talk;
    talk.accept();
    EXPECT_EQ(talk.take().header.flags, flag::syn | flag::ack);
    talk.advance(1s);
    EXPECT_EQ(talk.take().header.flags, flag::syn | flag::ack);
    talk.advance(300s);
    EXPECT_EQ(talk.c->error(), base::NetError::timed_out);
    EXPECT_EQ(talk.c->state(), State::closed);
}

TEST(Open, SynReceivedRepeatedSynIsAnsweredAtOnce) {
    Talk talk;
    talk.accept();
    static_cast<void>(talk.take());
    talk.give(flag::syn, 0, 0);
    EXPECT_EQ(talk.take().header.flags, flag::syn | flag::ack);
    talk.ack(1);
    EXPECT_EQ(talk.c->state(), State::established);
}

TEST(Open, SynReceivedWrongAckIsReset) {
    Talk talk;
    talk.accept();
    static_cast<void>(talk.take());
    for (const std::uint32_t wrong : {0U, 2U, 0x8000'0000U}) {
        talk.ack(wrong);
        const Sent reset = talk.take();
        EXPECT_EQ(reset.header.flags, flag::rst);
        EXPECT_EQ(talk.seq_of(reset), wrong);
        EXPECT_EQ(talk.c->state(), State::syn_received);
    }
}

TEST(Open, SynReceivedResetEndsIt) {
    Talk talk;
    talk.accept();
    static_cast<void>(talk.take());
    talk.give(flag::rst, 1, 0);
    EXPECT_EQ(talk.c->state(), State::closed);
    EXPECT_EQ(talk.c->error(), base::NetError::reset);
}

TEST(Open, SynReceivedFinWithTheAckGivesCloseWait) {
    Talk talk;
    talk.accept();
    static_cast<void>(talk.take());
    talk.give(flag::ack | flag::fin, 1, 1, "QUIT");
    EXPECT_EQ(talk.c->state(), State::close_wait);
    EXPECT_EQ(talk.read(), "QUIT");
    EXPECT_TRUE(talk.c->at_end());
}

TEST(Open, WhatIsWrittenBeforeTheHandshakeLeavesBehindIt) {
    Talk talk;
    talk.open();
    static_cast<void>(talk.take());
    talk.write("EHLO");
    talk.c->shutdown_write(talk.now);
    talk.pump();
    EXPECT_TRUE(talk.quiet());
    talk.give(flag::syn | flag::ack, 0, 1);
    const Sent data = talk.take();
    EXPECT_EQ(data.payload, "EHLO");
    EXPECT_EQ(data.header.flags, flag::ack | flag::psh | flag::fin);
    EXPECT_EQ(talk.c->state(), State::fin_wait_1);
}

// T19
TEST(Open, IcmpEndsAHandshakeOnlyWhenHardAndAboutIt) {
    using Kind = Connection::Unreachable;
    Talk talk;
    talk.open();
    talk.c->on_unreachable(Kind::hard, base::NetError::refused, talk.iss + 1, talk.now);
    talk.c->on_unreachable(Kind::hard, base::NetError::refused, talk.iss - 1, talk.now);
    EXPECT_EQ(talk.c->state(), State::syn_sent); // forged: not the number of our SYN
    talk.c->on_unreachable(Kind::hard, base::NetError::refused, talk.iss, talk.now);
    EXPECT_EQ(talk.c->error(), base::NetError::refused);
    EXPECT_EQ(talk.c->take_events(), event::dead);
}

// T19
TEST(Open, SoftErrorIsTheReasonWhenNothingElseComes) {
    Talk talk;
    talk.open();
    talk.c->on_unreachable(Connection::Unreachable::soft, base::NetError::unreachable, talk.iss,
                           talk.now);
    EXPECT_EQ(talk.c->state(), State::syn_sent);
    talk.advance(300s);
    EXPECT_EQ(talk.c->error(), base::NetError::unreachable);
}

// T19
TEST(Open, EstablishedOutlivesHardErrors) {
    Talk talk;
    talk.establish();
    talk.write("hello");
    talk.c->on_unreachable(Connection::Unreachable::hard, base::NetError::refused, talk.iss + 1,
                           talk.now);
    EXPECT_EQ(talk.c->state(), State::established);
    talk.ack(6);
    EXPECT_TRUE(talk.c->all_acknowledged());
}

TEST(Open, CloseOrAbortInSynSentEndsWithoutAWord) {
    for (const bool abort : {false, true}) {
        Talk talk;
        talk.open();
        static_cast<void>(talk.take());
        if (abort) {
            talk.c->abort(talk.now);
        } else {
            talk.c->close(talk.now);
        }
        talk.pump();
        EXPECT_TRUE(talk.quiet());
        EXPECT_EQ(talk.c->take_events(), event::dead);
    }
}

// RFC 3168 §6.1.1
TEST(Open, EcnIsUsedWhenBothSidesAskForIt) {
    Talk active;
    active.open();
    static_cast<void>(active.take());
    active.give(flag::syn | flag::ack | flag::ece, 0, 1);
    static_cast<void>(active.take());
    active.write("x");
    EXPECT_EQ(active.take().header.ecn, Ecn::ect0);

    Talk passive;
    passive.accept(Talk::plain_options(), flag::syn | flag::ece | flag::cwr);
    EXPECT_EQ(passive.take().header.flags, flag::syn | flag::ack | flag::ece);

    Talk without;
    without.establish();
    without.write("x");
    EXPECT_EQ(without.take().header.ecn, Ecn::not_ect);
}

TEST(Open, CongestionMarkIsEchoedUntilThePeerHasReduced) {
    Talk talk;
    talk.open();
    talk.sent.clear();
    talk.give(flag::syn | flag::ack | flag::ece, 0, 1);
    talk.sent.clear();
    talk.give(flag::ack, 1, 1, "a", [](Segment& s) { s.ecn = Ecn::ce; });
    EXPECT_TRUE(talk.take().has(flag::ece));
    talk.give(flag::ack, 2, 1, "b");
    EXPECT_TRUE(talk.take().has(flag::ece));
    talk.give(flag::ack | flag::cwr, 3, 1, "c");
    EXPECT_FALSE(talk.take().has(flag::ece));
}

TEST(Open, EchoedMarkSetsCwrOnTheNextNewSegmentOnce) {
    Talk talk;
    talk.open();
    talk.sent.clear();
    talk.give(flag::syn | flag::ack | flag::ece, 0, 1);
    talk.sent.clear();
    talk.write_bytes(536 * 4);
    talk.sent.clear();
    talk.give(flag::ack | flag::ece, 1, 1 + 536 * 4);
    talk.write_bytes(536 * 2);
    EXPECT_TRUE(talk.take().has(flag::cwr));
    talk.advance(1ms);
    for (const Sent& later : talk.sent)
        EXPECT_FALSE(later.has(flag::cwr));
}

} // namespace
} // namespace dataplane::net::tcp::test
