// Blind attacks, PAWS, path MTU.
#include "tests/dataplane/net/tcp/connection_fixture.h"

namespace dataplane::net::tcp::test {
namespace {

// T60: RFC 5961 §3
TEST(Blind, ResetInTheWindowIsChallengedAndTheExactOneTaken) {
    Talk talk;
    talk.establish();
    talk.give(flag::rst, 2, 0);
    const Sent challenge = talk.take();
    EXPECT_EQ(challenge.header.flags, flag::ack);
    EXPECT_EQ(talk.ack_of(challenge), 1U);
    EXPECT_EQ(talk.c->state(), State::established);
    talk.give(flag::rst, 0x7000'0000, 0);
    talk.give(flag::rst, 0, 0);
    EXPECT_TRUE(talk.quiet());
    talk.give(flag::rst, 1, 0);
    EXPECT_EQ(talk.c->error(), base::NetError::reset);
}

// T60: RFC 5961 §4
TEST(Blind, SynIsChallengedWhereverItPoints) {
    Talk talk;
    talk.establish();
    for (const std::uint32_t seq : {1U, 100U, 0x7000'0000U, 0xf000'0000U}) {
        talk.give(flag::syn, seq, 0);
        EXPECT_EQ(talk.take().header.flags, flag::ack);
        EXPECT_EQ(talk.c->state(), State::established);
    }
}

// T60: RFC 5961 §5
TEST(Blind, AckOutsideTheSendersPastIsChallengedAndItsTextDropped) {
    Talk talk;
    talk.window = 1000;
    talk.establish();
    talk.write_bytes(100);
    talk.ack(101);
    talk.sent.clear();
    for (const std::uint32_t ack : {102U, 0x7000'0000U, 0xf000'0000U}) {
        talk.give(flag::ack, 1, ack, "evil");
        EXPECT_EQ(talk.take().header.flags, flag::ack);
        EXPECT_TRUE(talk.c->unread().empty());
    }
    talk.give(flag::ack, 1, 1, "late"); // an old one within the window we had is honest
    EXPECT_EQ(talk.read(), "late");
}

// T60
TEST(Blind, ChallengesAreLimitedPerConnectionAndTheLimitVaries) {
    std::vector<unsigned> counts;
    Talk talk;
    talk.establish();
    for (int second = 0; second < 20; ++second) {
        unsigned answers = 0;
        for (int i = 0; i < 100; ++i) {
            talk.give(flag::syn, 5, 0);
            answers += static_cast<unsigned>(talk.sent.size());
            talk.sent.clear();
        }
        EXPECT_GE(answers, 1U);
        EXPECT_LE(answers, 10U);
        counts.push_back(answers);
        talk.advance(1300ms);
        talk.sent.clear();
    }
    EXPECT_NE(*std::min_element(counts.begin(), counts.end()),
              *std::max_element(counts.begin(), counts.end()));
    EXPECT_GT(talk.bench.counters.challenge_acks_suppressed, 1000U);
}

// T60: what one side takes for an attack the other takes too, and both fall silent.
TEST(Blind, TwoPeersThatDisagreeDoNotFightForEver) {
    Bench bench_a;
    Bench bench_b;
    Connection a(bench_a.environment);
    Connection b(bench_b.environment);
    TimePoint now{1000s};
    const auto establish = [&](Connection& c, Seq iss, Seq irs) {
        c.open(iss, 1460, 0, now);
        Outgoing out;
        static_cast<void>(c.next_segment(out, 1460, now));
        Segment answer;
        answer.flags = flag::syn | flag::ack;
        answer.seq = irs;
        answer.ack = iss + 1;
        answer.window = 1000;
        c.receive(answer, now);
        while (c.next_segment(out, 1460, now)) {
        }
    };
    establish(a, Seq{1000}, Seq{50'000});
    establish(b, Seq{9'000'000}, Seq{7'000'000}); // knows nothing of a's numbers
    unsigned exchanged = 0;
    Segment from_a;
    from_a.flags = flag::ack;
    from_a.seq = Seq{1001};
    from_a.ack = Seq{50'001};
    b.receive(from_a, now);
    for (int round = 0; round < 1000; ++round) {
        Outgoing out;
        const auto carry = [&](Connection& from, Connection& to) {
            while (from.next_segment(out, 1460, now)) {
                Segment segment;
                segment.flags = out.flags;
                segment.seq = out.seq;
                segment.ack = out.ack;
                segment.window = out.window;
                to.receive(segment, now);
                ++exchanged;
            }
        };
        carry(b, a);
        carry(a, b);
    }
    EXPECT_LE(exchanged, 25U);
}

TEST(Blind, UrgentPointerIsIgnoredAndItsByteStays) {
    Talk talk;
    talk.establish();
    talk.give(flag::ack | flag::urg, 1, 1, "in line");
    EXPECT_EQ(talk.read(), "in line");
}

TEST(Blind, SegmentWithoutAckIsDropped) {
    Talk talk;
    talk.establish();
    talk.give(flag::psh, 1, 1, "no ack");
    EXPECT_TRUE(talk.c->unread().empty());
    EXPECT_TRUE(talk.quiet());
}

// RFC 7323 §5
TEST(Paws, AnOldStampIsRefusedAndAnswered) {
    Talk talk;
    talk.establish(Talk::full_options());
    talk.give(flag::ack, 1, 1, "now");
    talk.sent.clear();
    talk.give(flag::ack, 4, 1, "old", [](Segment& s) { s.options.timestamps->value -= 1000; });
    EXPECT_EQ(talk.read(), "now");
    EXPECT_EQ(talk.bench.counters.paws_dropped, 1U);
    EXPECT_EQ(talk.take().header.flags, flag::ack);
    talk.give(flag::ack, 4, 1, "new");
    EXPECT_EQ(talk.read(), "new");
}

// RFC 7323 §5.5
TEST(Paws, AfterMoreThanTwentyFourDaysAnyStampIsTaken) {
    for (const auto days : {23, 25}) {
        Config config;
        config.keepalive_idle = 0s;
        Talk talk(config);
        talk.establish(Talk::full_options());
        talk.give(flag::ack, 1, 1, "a");
        talk.advance(std::chrono::days{days});
        talk.give(flag::ack, 2, 1, "b", [](Segment& s) { s.options.timestamps->value = 5000; });
        EXPECT_EQ(talk.read(), days > 24 ? "ab" : "a");
    }
}

TEST(Paws, RecentStampMovesOnlyWithWhatWasAcknowledged) {
    Talk talk;
    talk.establish(Talk::full_options());
    const auto at = [](std::uint32_t value) {
        return [value](Segment& s) { s.options.timestamps->value = 6'000'000 + value; };
    };
    talk.give(flag::ack, 1, 1, "a", at(1));
    EXPECT_EQ(talk.take().header.options.timestamps->echo, 6'000'001U);
    talk.give(flag::ack, 10, 1, "z", at(5)); // ahead of a hole
    EXPECT_EQ(talk.take().header.options.timestamps->echo, 6'000'001U);
    talk.give(flag::ack, 2, 1, "bcdefghi", at(6));
    EXPECT_EQ(talk.take().header.options.timestamps->echo, 6'000'006U);
    static_cast<void>(talk.read());
}

// T65
TEST(PathMtu, TooBigIsSentAgainSmallerAtOnceWithoutASlowdown) {
    Talk talk;
    talk.establish(Talk::full_options());
    talk.write_bytes(1448 * 4);
    talk.sent.clear();
    const std::uint32_t cwnd = talk.c->sender().cwnd();
    talk.c->on_path_mtu(1240, talk.iss + 1, talk.now);
    EXPECT_EQ(talk.c->mss(), 1228U);
    talk.pump();
    ASSERT_FALSE(talk.quiet()); // at once
    talk.advance(40ms);         // the rest is paced
    EXPECT_EQ(talk.c->sender().cwnd(), cwnd);
    std::uint32_t next = 1;
    while (!talk.quiet()) {
        const Sent again = talk.take();
        EXPECT_EQ(talk.seq_of(again), next);
        EXPECT_LE(again.payload.size(), 1228U);
        next += again.header.payload_bytes;
    }
    EXPECT_EQ(next, 1448U * 4 + 1);
    talk.ack(next);
    EXPECT_TRUE(talk.c->all_acknowledged());
}

// T65
TEST(PathMtu, ForgedOrAbsurdErrorsAreIgnoredOrClamped) {
    Talk talk;
    talk.establish();
    talk.write_bytes(1460);
    talk.c->on_path_mtu(1000, talk.iss + 1461, talk.now); // not sent yet
    talk.c->on_path_mtu(1000, talk.iss, talk.now);        // long acknowledged
    talk.c->on_path_mtu(1460, talk.iss + 1, talk.now);    // no news
    talk.c->on_path_mtu(9000, talk.iss + 1, talk.now);
    EXPECT_EQ(talk.c->mss(), 1460U);
    talk.c->on_path_mtu(28, talk.iss + 1, talk.now);
    EXPECT_EQ(talk.c->mss(), 512U);
}

// T65: told while the SYN was out, believed once the peer's MSS is known.
TEST(PathMtu, LearntDuringTheHandshakeHolds) {
    Talk talk;
    talk.open();
    talk.c->on_path_mtu(1300, talk.iss, talk.now);
    talk.sent.clear();
    talk.give(flag::syn | flag::ack, 0, 1, {},
              [](Segment& s) { s.options = Talk::plain_options(); });
    EXPECT_EQ(talk.c->mss(), 1300U);
}

// T66
TEST(PathMtu, BlackHoleIsPassedInStepsAndTriedAgainLater) {
    Talk talk;
    talk.establish();
    talk.write_bytes(1460 * 3);
    talk.sent.clear();
    while (talk.c->mss() == 1460) {
        talk.advance(100ms);
        ASSERT_LT(talk.now - TimePoint{1000s}, 10s);
    }
    EXPECT_EQ(talk.c->mss(), 1024U);
    EXPECT_EQ(talk.c->sender().backoff_count(), 2U);
    while (talk.c->mss() == 1024) {
        talk.advance(100ms);
        ASSERT_LT(talk.now - TimePoint{1000s}, 60s);
    }
    EXPECT_EQ(talk.c->mss(), 512U);
    talk.sent.clear();
    talk.advance(60s);
    EXPECT_LE(talk.take().payload.size(), 512U);
    talk.ack(1 + 1460 * 3);
    EXPECT_TRUE(talk.c->all_acknowledged());

    // Later one larger segment is tried; it gets through, and the next step is tried at once.
    for (int minute = 0; minute < 11; ++minute) {
        talk.advance(1min);
        talk.ack(1 + 1460 * 3);
    }
    talk.sent.clear();
    std::uint32_t upto = 1 + 1460 * 3;
    for (int round = 0; round < 6; ++round) {
        talk.write_bytes(4000);
        upto += 4000;
        for (int i = 0; i < 20 && !talk.c->all_acknowledged(); ++i) {
            std::uint32_t have = upto - 4000;
            while (!talk.quiet()) {
                const Sent segment = talk.take();
                have = std::max(have, talk.seq_of(segment) + segment.header.payload_bytes);
            }
            talk.advance(10ms);
            talk.ack(have);
        }
    }
    EXPECT_EQ(talk.c->mss(), 1460U);
}

// T66: what was tried and did not get through does not slow down what does.
TEST(PathMtu, FailedTryFallsBackToWhatWorks) {
    Talk talk;
    talk.establish(Talk::full_options());
    talk.write_bytes(1448);
    talk.c->on_path_mtu(1240, talk.iss + 1, talk.now);
    talk.pump();
    talk.ack(1449);
    for (int minute = 0; minute < 11; ++minute) {
        talk.advance(1min);
        talk.ack(1449);
    }
    talk.sent.clear();
    talk.write_bytes(6000);
    const Sent tried = talk.take();
    EXPECT_EQ(tried.payload.size(), 1448U);
    talk.sent.clear();
    talk.sack(1449, 1449 + 1448, 1449 + 6000); // all but the large one
    talk.advance(100ms);
    std::uint32_t have = 1449;
    while (!talk.quiet()) {
        const Sent again = talk.take();
        EXPECT_LE(again.payload.size(), 1228U);
        have = std::max(have, talk.seq_of(again) + again.header.payload_bytes);
    }
    EXPECT_GE(have, 1449U + 1228U);
    talk.ack(1449 + 6000);
    EXPECT_TRUE(talk.c->all_acknowledged());
    EXPECT_EQ(talk.c->mss(), 1228U);
}

} // namespace
} // namespace dataplane::net::tcp::test
