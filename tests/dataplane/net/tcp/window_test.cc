// Windows of both sides, their probes, and keepalive.
#include "tests/dataplane/net/tcp/connection_fixture.h"

namespace dataplane::net::tcp::test {
namespace {

// --- the peer's window

// T43
TEST(Window, ZeroWindowIsProbedWithBackoffAsLongAsThePeerAnswers) {
    Talk talk;
    talk.window = 1000;
    talk.establish();
    talk.write_bytes(1000);
    talk.sent.clear();
    talk.window = 0;
    talk.ack(1001);
    talk.write_bytes(500);
    Duration last = 0s;
    TimePoint before = talk.now;
    for (int probe = 0; probe < 40; ++probe) {
        while (talk.quiet()) {
            talk.advance(100ms);
            ASSERT_LT(talk.now - before, 130s);
        }
        const Sent sent = talk.take();
        EXPECT_EQ(talk.seq_of(sent), 1000U); // an old number: it is answered
        EXPECT_TRUE(sent.payload.empty());
        const Duration wait = talk.now - before;
        if (probe > 1) {
            EXPECT_GE(wait, last - 100ms);
        }
        EXPECT_LE(wait, 61s);
        last = wait;
        before = talk.now;
        talk.ack(1001);
    }
    EXPECT_GE(last, 59s);
    EXPECT_EQ(talk.c->state(), State::established); // half an hour, MUST-37
    talk.window = 5000;
    talk.ack(1001);
    EXPECT_EQ(talk.take().payload.size(), 500U);
}

// T43
TEST(Window, UnansweredProbesEndAtTheUserTimeout) {
    Talk talk;
    talk.window = 1000;
    talk.establish();
    talk.window = 0;
    talk.ack(1);
    talk.write_bytes(500);
    talk.advance(290s);
    EXPECT_EQ(talk.c->state(), State::established);
    talk.advance(15s);
    EXPECT_EQ(talk.c->state(), State::closed);
    EXPECT_EQ(talk.c->error(), base::NetError::timed_out);
}

// T43: an application that set a limit of its own means it.
TEST(Window, ItsOwnUserTimeoutEndsAnsweredProbesToo) {
    Talk talk;
    talk.establish();
    talk.c->set_user_timeout(20s);
    talk.window = 0;
    talk.ack(1);
    talk.write_bytes(500);
    for (int second = 0; second < 30 && talk.c->state() == State::established; ++second) {
        talk.advance(1s);
        talk.ack(1);
    }
    EXPECT_EQ(talk.c->state(), State::closed);
    EXPECT_LT(talk.now - TimePoint{1000s}, 25s);
}

// T43: the update that opened the window was lost.
TEST(Window, ALostWindowUpdateIsFoundByTheProbe) {
    Talk talk;
    talk.establish();
    talk.window = 0;
    talk.ack(1);
    talk.write_bytes(500);
    talk.window = 65535;
    for (int i = 0; i < 30 && talk.quiet(); ++i)
        talk.advance(100ms);
    static_cast<void>(talk.take());
    talk.ack(1); // the answer to the probe says it
    EXPECT_EQ(talk.take().payload.size(), 500U);
}

// T47
TEST(Window, AShrunkWindowIsNotOverrun) {
    Talk talk;
    talk.window = 10'000;
    talk.establish();
    talk.write_bytes(20'000);
    std::uint32_t right = 0;
    while (!talk.quiet()) {
        const Sent segment = talk.take();
        right = talk.seq_of(segment) + segment.header.payload_bytes;
    }
    EXPECT_LE(right, 10'001U);
    talk.window = 100;
    talk.ack(1461); // the right edge goes back to 1561
    EXPECT_TRUE(talk.quiet());
    talk.advance(3s);
    while (!talk.quiet()) {
        const Sent again = talk.take();
        EXPECT_LE(talk.seq_of(again) + again.header.payload_bytes, 1561U);
    }
    talk.window = 20'000;
    talk.ack(1461);
    talk.advance(5s);
    EXPECT_FALSE(talk.quiet());
}

// T48
TEST(Window, CloseWithAZeroWindowWaitsButNotForEver) {
    Talk talk;
    talk.establish();
    talk.window = 0;
    talk.ack(1);
    talk.write_bytes(10);
    talk.c->close(talk.now);
    talk.pump();
    EXPECT_EQ(talk.c->state(), State::fin_wait_1);
    for (int second = 0; second < 310 && talk.c->state() != State::closed; ++second) {
        talk.advance(1s);
        while (!talk.quiet())
            EXPECT_FALSE(talk.take().has(flag::fin));
        talk.ack(1);
    }
    EXPECT_EQ(talk.c->state(), State::closed);
}

TEST(Window, TheFinWaitsForRoomOfItsOwn) {
    Talk talk;
    talk.window = 10;
    talk.establish();
    talk.ack(1);
    EXPECT_EQ(talk.c->write(base::as_bytes("0123456789")), 10U);
    talk.c->shutdown_write(talk.now);
    talk.pump();
    const Sent data = talk.take();
    EXPECT_EQ(data.payload.size(), 10U);
    EXPECT_FALSE(data.has(flag::fin));
    talk.ack(11);
    EXPECT_TRUE(talk.take().has(flag::fin));
}

TEST(Window, AnOldSegmentDoesNotBringBackAnOldWindow) {
    Talk talk;
    talk.window = 5000;
    talk.establish();
    talk.give(flag::ack, 1, 1, "hello");
    talk.sent.clear();
    talk.window = 1;
    talk.give(flag::ack, 1, 1, {}); // SEG.SEQ below SND.WL1, delivered late
    talk.window = 5000;
    talk.sent.clear();
    talk.write_bytes(3000);
    EXPECT_EQ(talk.sent.size(), 3U);
}

// --- our window

// T44, T47
TEST(Window, OursClosesAndOpensInStepsAndItsEdgeNeverMovesBack) {
    Config config;
    config.receive_bytes_max = 8192;
    Talk talk(config);
    Options options = Talk::plain_options();
    options.window_scale = 0;
    talk.establish(options);
    std::uint32_t edge = 0;
    const auto look = [&] {
        while (!talk.quiet()) {
            const Sent ack = talk.take();
            const std::uint32_t right = talk.ack_of(ack) + (std::uint32_t{ack.header.window} << 8);
            EXPECT_GE(right, edge);
            edge = std::max(edge, right);
        }
    };
    std::uint32_t at = 1;
    edge = 8193; // as the SYN said
    while (at < edge) {
        const std::uint32_t bytes = std::min(1000U, edge - at);
        talk.give(flag::ack, at, 1, std::string(bytes, 'x'));
        at += bytes;
        look();
    }
    EXPECT_LE(edge, 8193U + 4096); // rounded up with each ACK, by less than a scale step
    talk.advance(1s);
    talk.sent.clear();
    talk.give(flag::ack, at, 1, "y"); // a probe of the closed window
    ASSERT_FALSE(talk.quiet());
    EXPECT_EQ(talk.sent.front().header.window, 0);
    look();
    const std::uint32_t surplus = at - 1 - 8192;
    talk.c->consume(surplus + 1400, talk.now); // too little to tell (SWS)
    talk.pump();
    EXPECT_TRUE(talk.quiet());
    talk.c->consume(100, talk.now);
    talk.pump();
    EXPECT_FALSE(talk.quiet());
    look();
    EXPECT_GE(edge, at + 1460);
}

TEST(Window, OursGrowsWithAReaderThatKeepsUp) {
    Talk talk;
    Options options = Talk::plain_options();
    options.window_scale = 0;
    talk.establish(options);
    std::uint32_t at = 1;
    std::uint32_t widest = 0;
    for (int i = 0; i < 600; ++i, at += 1460) {
        talk.give(flag::ack, at, 1, std::string(1460, 'x'));
        static_cast<void>(talk.read());
        while (!talk.quiet())
            widest = std::max(widest, std::uint32_t{talk.take().header.window} << 8);
    }
    EXPECT_GE(widest, 500'000U);
    EXPECT_LE(widest, (512U << 10) + 256);
    EXPECT_EQ(talk.bench.receive_slabs.free_count(), talk.bench.receive_slabs.slab_count());
}

TEST(Window, TextBehindOurEdgeIsNotTaken) {
    Config config;
    config.receive_bytes_max = 1000;
    Talk talk(config);
    talk.establish();
    talk.give(flag::ack, 1, 1, std::string(1500, 'x'));
    EXPECT_EQ(talk.ack_of(talk.take()), 1001U);
    EXPECT_EQ(talk.read().size(), 1000U);
}

// T45
TEST(Window, ProbesOfThePeerAreAnsweredWhateverTheyCarry) {
    Config config;
    config.receive_bytes_max = 1000;
    Talk talk(config);
    talk.establish();
    talk.give(flag::ack, 1, 1, std::string(1000, 'x'));
    talk.sent.clear();
    talk.give(flag::ack, 1000, 1); // zero-length, one below
    EXPECT_EQ(talk.take().header.window, 0);
    talk.give(flag::ack, 1001, 1, "p"); // one byte beyond the closed window
    EXPECT_EQ(talk.ack_of(talk.take()), 1001U);
    talk.give(flag::ack, 1000, 1, "q");
    EXPECT_EQ(talk.ack_of(talk.take()), 1001U);
    EXPECT_EQ(talk.read().size(), 1000U);
}

// T45: an ACK that comes with text which a closed window cannot take still counts.
TEST(Window, AckBesideTextForAClosedWindowCounts) {
    Config config;
    config.receive_bytes_max = 1000;
    Talk talk(config);
    talk.establish();
    talk.write("hello");
    talk.give(flag::ack, 1, 1, std::string(1000, 'x'));
    talk.give(flag::ack, 1001, 6, "p");
    EXPECT_TRUE(talk.c->all_acknowledged());
    static_cast<void>(talk.read());
}

// T46
TEST(Window, TwoClosedWindowsDoNotPlayPingPong) {
    Config config;
    config.receive_bytes_max = 1000;
    Talk talk(config);
    talk.establish();
    talk.window = 0;
    talk.give(flag::ack, 1, 1, std::string(1000, 'x'));
    talk.write_bytes(10);
    talk.sent.clear();
    talk.ack(1, 1001); // what a peer in our place says
    EXPECT_TRUE(talk.quiet());
    unsigned answers = 0;
    for (int i = 0; i < 1000; ++i) { // and one that says it wrongly, as fast as it can
        talk.ack(1, 1);
        answers += static_cast<unsigned>(talk.sent.size());
        talk.sent.clear();
    }
    EXPECT_LE(answers, 10U);
    static_cast<void>(talk.read());
}

// --- keepalive

TEST(Keepalive, SilentPeerIsAskedAndThenGivenUp) {
    Talk talk;
    talk.establish();
    talk.advance(121s);
    const Sent probe = talk.take();
    EXPECT_EQ(talk.seq_of(probe), 0U);
    EXPECT_TRUE(probe.payload.empty());
    talk.ack(1);
    talk.advance(100s);
    EXPECT_TRUE(talk.quiet());
    talk.advance(200s);
    EXPECT_EQ(talk.c->state(), State::closed);
    EXPECT_EQ(talk.c->error(), base::NetError::timed_out);
    EXPECT_EQ(talk.sent.size(), 5U);
    EXPECT_TRUE(talk.take_last().has(flag::rst));
}

TEST(Keepalive, IdleConnectionGivesItsRecordsBackAndSleeps) {
    Talk talk;
    talk.establish();
    talk.write("x");
    talk.ack(2);
    talk.advance(2s);
    talk.sent.clear();
    EXPECT_GT(talk.c->deadline(), talk.now + 100s);
    EXPECT_TRUE(talk.bench.slabs_are_back());
}

} // namespace
} // namespace dataplane::net::tcp::test
