// Closing: FIN in every order, half-close, TIME_WAIT, resets of our own.
#include "tests/dataplane/net/tcp/connection_fixture.h"

namespace dataplane::net::tcp::test {
namespace {

TEST(Close, EstablishedCloseGoesThroughFinWaitToTimeWait) {
    Talk talk;
    talk.establish();
    talk.c->close(talk.now);
    talk.pump();
    const Sent fin = talk.take();
    EXPECT_EQ(fin.header.flags, flag::fin | flag::ack);
    EXPECT_EQ(talk.c->state(), State::fin_wait_1);
    talk.ack(2);
    EXPECT_EQ(talk.c->state(), State::fin_wait_2);
    talk.give(flag::fin | flag::ack, 1, 2);
    EXPECT_EQ(talk.c->state(), State::time_wait);
    EXPECT_EQ(talk.ack_of(talk.take()), 2U);
    EXPECT_NE(talk.c->take_events() & event::time_wait, 0);
    const TimeWaitRecord record = talk.c->time_wait_record();
    EXPECT_EQ(record.snd_nxt, talk.iss + 2);
    EXPECT_EQ(record.rcv_nxt, talk.irs + 2);
    EXPECT_FALSE(record.timestamps);
    talk.advance(61s);
    EXPECT_EQ(talk.c->state(), State::closed);
    EXPECT_EQ(talk.c->error(), base::NetError::closed);
}

TEST(Close, FinRidesOnTheLastData) {
    Talk talk;
    talk.establish();
    EXPECT_EQ(talk.c->write(base::as_bytes("QUIT")), 4U);
    talk.c->shutdown_write(talk.now);
    talk.pump();
    const Sent last = talk.take();
    EXPECT_EQ(last.payload, "QUIT");
    EXPECT_TRUE(last.has(flag::fin));
    EXPECT_TRUE(talk.quiet());
    talk.ack(6);
    EXPECT_TRUE(talk.c->all_acknowledged());
    EXPECT_EQ(talk.c->state(), State::fin_wait_2);
}

// T49
TEST(Close, LostFinIsSentAgainUntilAcknowledged) {
    Talk talk;
    talk.establish();
    talk.c->shutdown_write(talk.now);
    talk.pump();
    talk.sent.clear();
    talk.advance(5s);
    ASSERT_GE(talk.sent.size(), 2U);
    for (const Sent& again : talk.sent) {
        EXPECT_TRUE(again.has(flag::fin));
        EXPECT_EQ(talk.seq_of(again), 1U);
    }
    talk.ack(2);
    EXPECT_EQ(talk.c->state(), State::fin_wait_2);
}

// T49: FIN and data lost together come again together.
TEST(Close, LostDataWithFinIsSentAgainWithIt) {
    Talk talk;
    talk.establish();
    EXPECT_EQ(talk.c->write(base::as_bytes("QUIT")), 4U);
    talk.c->shutdown_write(talk.now);
    talk.pump();
    talk.sent.clear();
    talk.advance(2s);
    const Sent again = talk.take();
    EXPECT_EQ(again.payload, "QUIT");
    EXPECT_TRUE(again.has(flag::fin));
    talk.ack(5); // the text, not the FIN
    EXPECT_EQ(talk.c->state(), State::fin_wait_1);
    talk.sent.clear();
    talk.advance(5s);
    EXPECT_EQ(talk.seq_of(talk.take()), 5U);
    talk.ack(6);
    EXPECT_EQ(talk.c->state(), State::fin_wait_2);
}

// T49
TEST(Close, FinBeforeMissingDataWaitsForIt) {
    Talk talk;
    talk.establish();
    talk.give(flag::ack | flag::fin, 6, 1, "world");
    EXPECT_EQ(talk.c->state(), State::established);
    EXPECT_EQ(talk.ack_of(talk.take()), 1U);
    talk.give(flag::ack, 1, 1, "hello");
    EXPECT_EQ(talk.c->state(), State::close_wait);
    EXPECT_EQ(talk.ack_of(talk.take()), 12U);
    EXPECT_EQ(talk.read(), "helloworld");
    EXPECT_TRUE(talk.c->at_end());
}

TEST(Close, BareFinBeforeMissingDataWaitsForIt) {
    Talk talk;
    talk.establish();
    talk.give(flag::ack | flag::fin, 6, 1);
    talk.give(flag::ack, 1, 1, "hello");
    EXPECT_EQ(talk.c->state(), State::close_wait);
}

TEST(Close, TextBehindAFinIsIgnored) {
    Talk talk;
    talk.establish();
    talk.give(flag::ack | flag::fin, 6, 1);
    talk.give(flag::ack, 8, 1, "evil");
    talk.give(flag::ack, 1, 1, "helloevil");
    EXPECT_EQ(talk.read(), "hello");
    EXPECT_EQ(talk.c->state(), State::close_wait);
    EXPECT_EQ(talk.c->rcv_nxt(), talk.irs + 7);
    talk.give(flag::ack, 7, 1, "more");
    EXPECT_EQ(talk.read(), "");
}

// T50
TEST(Close, SimultaneousCloseGoesThroughClosing) {
    Talk talk;
    talk.establish();
    talk.c->shutdown_write(talk.now);
    talk.pump();
    talk.sent.clear();
    talk.give(flag::fin | flag::ack, 1, 1); // has not seen ours
    EXPECT_EQ(talk.c->state(), State::closing);
    EXPECT_EQ(talk.ack_of(talk.take()), 2U);
    talk.advance(3s);
    const Sent again = talk.take();
    EXPECT_TRUE(again.has(flag::fin)); // sent again with its FIN
    EXPECT_EQ(talk.seq_of(again), 1U);
    talk.sent.clear();
    talk.ack(2, 2);
    EXPECT_EQ(talk.c->state(), State::time_wait);
    EXPECT_NE(talk.c->take_events() & event::time_wait, 0);
}

// T51
TEST(Close, LastAckEndsOnlyWithTheAckOfTheFin) {
    Talk talk;
    talk.establish();
    talk.give(flag::fin | flag::ack, 1, 1);
    EXPECT_EQ(talk.c->state(), State::close_wait);
    talk.sent.clear();
    talk.write("bye");
    talk.c->close(talk.now);
    talk.pump();
    EXPECT_EQ(talk.c->state(), State::last_ack);
    talk.ack(4, 2); // the text only
    EXPECT_EQ(talk.c->state(), State::last_ack);
    talk.ack(5, 2);
    EXPECT_EQ(talk.c->state(), State::closed);
    EXPECT_EQ(talk.c->error(), base::NetError::closed);
    EXPECT_NE(talk.c->take_events() & event::dead, 0);
}

// T52
TEST(Close, FinWait2StillTakesDataForAReader) {
    Talk talk;
    talk.establish();
    talk.close_from_our_side();
    talk.give(flag::ack, 1, 2, "221 bye");
    EXPECT_EQ(talk.read(), "221 bye");
    EXPECT_EQ(talk.ack_of(talk.take()), 8U);
    talk.advance(10min);                       // the application is there: no end of the wait
    EXPECT_EQ(talk.c->state(), State::closed); // keepalive found nobody
    EXPECT_EQ(talk.c->error(), base::NetError::timed_out);
}

// T52: RFC 9293 §3.6.1
TEST(Close, FinWait2DataForNobodyIsReset) {
    Talk talk;
    talk.establish();
    talk.c->close(talk.now);
    talk.pump();
    talk.sent.clear();
    talk.ack(2);
    talk.give(flag::ack, 1, 2, "221 bye");
    const Sent reset = talk.take();
    EXPECT_TRUE(reset.has(flag::rst));
    EXPECT_EQ(talk.seq_of(reset), 2U);
    EXPECT_NE(talk.c->take_events() & event::dead, 0);
}

// T52
TEST(Close, FinWait2OrphanEndsAfterItsTime) {
    Talk talk;
    talk.establish();
    talk.c->close(talk.now);
    talk.pump();
    talk.ack(2);
    EXPECT_EQ(talk.c->state(), State::fin_wait_2);
    talk.sent.clear();
    const unsigned before = talk.timer_calls;
    talk.advance(59s);
    EXPECT_LE(talk.timer_calls - before, 3U); // no busy loop
    EXPECT_EQ(talk.c->state(), State::fin_wait_2);
    talk.advance(2s);
    EXPECT_EQ(talk.c->state(), State::closed);
}

// T53
TEST(Close, HalfCloseByThePeerLetsUsGoOnSending) {
    Talk talk;
    talk.establish();
    talk.give(flag::fin | flag::ack, 1, 1);
    EXPECT_EQ(talk.c->take_events() & event::end_of_stream, event::end_of_stream);
    talk.sent.clear();
    talk.write("still here");
    EXPECT_EQ(talk.take().payload, "still here");
    talk.advance(2s);
    EXPECT_EQ(talk.take().payload, "still here"); // and its timer works
    talk.ack(11, 2);
    talk.c->shutdown_write(talk.now);
    talk.pump();
    EXPECT_EQ(talk.c->state(), State::last_ack);
}

// T54
TEST(Close, TimeWaitAnswersTheFinAndWaitsAnew) {
    Talk talk;
    talk.establish();
    talk.close_from_our_side();
    talk.give(flag::fin | flag::ack, 1, 2);
    talk.sent.clear();
    talk.advance(50s);
    talk.give(flag::fin | flag::ack, 1, 2);
    EXPECT_EQ(talk.ack_of(talk.take()), 2U);
    talk.advance(50s);
    EXPECT_EQ(talk.c->state(), State::time_wait);
    talk.advance(11s);
    EXPECT_EQ(talk.c->state(), State::closed);
}

// T54: RFC 1337
TEST(Close, TimeWaitIgnoresResets) {
    Talk talk;
    talk.establish();
    talk.close_from_our_side();
    talk.give(flag::fin | flag::ack, 1, 2);
    talk.sent.clear();
    talk.give(flag::rst, 2, 0);
    EXPECT_EQ(talk.c->state(), State::time_wait);
    EXPECT_TRUE(talk.quiet());
}

// T56: RFC 2525 §2.17
TEST(Close, UnreadDataMakesCloseAReset) {
    Talk talk;
    talk.establish();
    talk.give(flag::ack, 1, 1, "unread");
    talk.sent.clear();
    talk.c->close(talk.now);
    talk.pump();
    EXPECT_EQ(talk.take().header.flags, flag::rst | flag::ack);
    EXPECT_EQ(talk.c->state(), State::closed);
    EXPECT_EQ(talk.bench.receive_slabs.free_count(), talk.bench.receive_slabs.slab_count());
}

// T57
TEST(Close, AbortSendsOneResetWithTheRightNumber) {
    Talk talk;
    talk.establish();
    talk.write("lost");
    talk.sent.clear();
    EXPECT_EQ(talk.c->take_events() & event::dead, 0);
    talk.c->abort(talk.now);
    EXPECT_EQ(talk.c->take_events() & event::dead, 0); // the reset first
    talk.pump();
    const Sent reset = talk.take();
    EXPECT_EQ(reset.header.flags, flag::rst | flag::ack);
    EXPECT_EQ(talk.seq_of(reset), 5U);
    EXPECT_EQ(talk.ack_of(reset), 1U);
    EXPECT_TRUE(talk.quiet());
    EXPECT_EQ(talk.c->take_events(), event::dead);
    talk.give(flag::ack, 1, 5, "too late");
    EXPECT_TRUE(talk.quiet());
    EXPECT_EQ(talk.c->take_events(), 0);
}

// T58
TEST(Close, AResetIsAnsweredByNothing) {
    Segment reset;
    reset.flags = flag::rst;
    EXPECT_FALSE(reset_for(reset));
    reset.flags |= flag::ack;
    EXPECT_FALSE(reset_for(reset));
    Talk talk;
    talk.establish();
    for (const std::uint32_t seq : {0U, 1000U, 70000U, 1U, 1U}) {
        talk.give(flag::rst, seq, 0);
        if (seq == 1000U) { // in the window, not exact: a challenge, which is no reset
            EXPECT_EQ(talk.take().header.flags, flag::ack);
        }
        EXPECT_TRUE(talk.quiet());
    }
    EXPECT_EQ(talk.c->state(), State::closed);
}

TEST(Close, ResetForAStrangerFollowsTheRfc) {
    Segment segment;
    segment.source_port = 1;
    segment.destination_port = 2;
    segment.flags = flag::ack;
    segment.ack = Seq{77};
    auto reset = reset_for(segment);
    ASSERT_TRUE(reset);
    EXPECT_EQ(reset->flags, flag::rst);
    EXPECT_EQ(reset->seq, Seq{77});
    EXPECT_EQ(reset->source_port, 2);
    segment.flags = flag::syn | flag::fin;
    segment.seq = Seq{10};
    segment.payload = base::as_bytes("abc");
    reset = reset_for(segment);
    EXPECT_EQ(reset->flags, flag::rst | flag::ack);
    EXPECT_EQ(reset->ack, Seq{15});
}

TEST(Close, BytesThatCameBeforeAResetCanStillBeRead) {
    Talk talk;
    talk.establish();
    talk.give(flag::ack, 1, 1, "550 no");
    talk.give(flag::rst, 7, 0);
    EXPECT_EQ(talk.c->error(), base::NetError::reset);
    EXPECT_EQ(base::as_text(talk.c->unread()), "550 no");
}

} // namespace
} // namespace dataplane::net::tcp::test
