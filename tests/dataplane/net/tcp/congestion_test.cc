#include "dataplane/net/tcp/congestion.h"
#include "dataplane/net/tcp/pacer.h"
#include "dataplane/net/tcp/prr.h"

#include <gtest/gtest.h>

#include <cmath>

namespace dataplane::net::tcp {
namespace {

using base::Duration;
using base::TimePoint;
using namespace std::chrono_literals;

constexpr std::uint32_t mss = 1000;

// T37
TEST(Cubic, TimeToPeakAndCurveAreTheClosedForms) {
    // K = cbrt((W_max - cwnd) / C): from 70 to 100 segments cbrt(75) seconds.
    EXPECT_NEAR(Cubic::time_to_peak(100, 70), std::cbrt(75.0), 1e-9);
    EXPECT_NEAR(Cubic::curve(0, std::cbrt(75.0), 100), 70, 1e-9);
    EXPECT_NEAR(Cubic::curve(std::cbrt(75.0), std::cbrt(75.0), 100), 100, 1e-9);
    EXPECT_NEAR(Cubic::curve(std::cbrt(75.0) + 2, std::cbrt(75.0), 100), 103.2, 1e-9);
}

/// One window's ACKs, one for each segment, spread over the round trip.
std::uint32_t one_round(Cubic& cubic, std::uint32_t cwnd, TimePoint& now, Duration rtt) {
    const std::uint32_t segments = cwnd / mss;
    for (std::uint32_t i = 0; i < segments; ++i) {
        now += rtt / segments;
        cwnd = cubic.grown(cwnd, mss, mss, rtt, now);
    }
    return cwnd;
}

// T37
TEST(Cubic, TheWindowFollowsTheCurveOnALongPath) {
    Cubic cubic;
    const std::uint32_t before = 1000 * mss;
    std::uint32_t cwnd = cubic.on_congestion(before, before, mss);
    EXPECT_EQ(cwnd, 700 * mss);
    TimePoint now{50s};
    const TimePoint begin = now;
    const double k = Cubic::time_to_peak(1000, 700);
    const Duration rtt = 200ms;
    for (int round = 0; round < 80; ++round) {
        cwnd = one_round(cubic, cwnd, now, rtt);
        const double elapsed = std::chrono::duration<double>(now - begin).count();
        const double expected = Cubic::curve(elapsed, k, 1000);
        EXPECT_NEAR(cwnd / 1000.0, expected, 0.03 * expected) << "after " << elapsed << " s";
    }
    EXPECT_GT(cwnd, before) << "beyond the peak it probes on";
}

TEST(Cubic, IsAsFastAsRenoWhereRenoWouldBeFaster) {
    Cubic cubic;
    const std::uint32_t before = 20 * mss;
    std::uint32_t cwnd = cubic.on_congestion(before, before, mss);
    TimePoint now{50s};
    const Duration rtt = 10ms;
    // §4.3: AIMD with alpha 3 (1 - 0.7) / (1 + 0.7) up to cwnd_prior: 0.529 segments in each round
    // trip.
    const double expected = 14 + 10 * 3 * 0.3 / 1.7;
    for (int round = 0; round < 10; ++round)
        cwnd = one_round(cubic, cwnd, now, rtt);
    EXPECT_NEAR(cwnd / 1000.0, expected, 0.4);
    // Behind cwnd_prior alpha is 1.
    while (cwnd < 21 * mss)
        cwnd = one_round(cubic, cwnd, now, rtt);
    const std::uint32_t from = cwnd;
    for (int round = 0; round < 5; ++round)
        cwnd = one_round(cubic, cwnd, now, rtt);
    EXPECT_NEAR((cwnd - from) / 1000.0, 5, 0.5);
}

TEST(Cubic, FastConvergenceLowersThePeak) {
    Cubic cubic;
    std::ignore = cubic.on_congestion(100 * mss, 100 * mss, mss);
    EXPECT_FLOAT_EQ(cubic.peak(), 100'000);
    std::ignore = cubic.on_congestion(80 * mss, 80 * mss, mss); // before it got back there
    EXPECT_FLOAT_EQ(cubic.peak(), 80'000 * 1.7F / 2);
}

TEST(Cubic, ReducesByWhatWasInFlightAndNeverBelowTwoSegments) {
    Cubic cubic;
    EXPECT_EQ(cubic.on_congestion(100 * mss, 40 * mss, mss), 28 * mss);
    EXPECT_EQ(cubic.on_congestion(2 * mss, 1, mss), 2 * mss);
}

TEST(Cubic, GrowsNoFasterThanByHalfInARoundTrip) {
    Cubic cubic;
    std::ignore = cubic.on_congestion(1000 * mss, 1000 * mss, mss);
    TimePoint now{50s};
    std::uint32_t cwnd = cubic.grown(10 * mss, mss, mss, 100ms, now); // the curve begins at 10
    now += 1h;                                                        // and is at the moon now
    cwnd = 10 * mss;
    for (int i = 0; i < 10; ++i)
        cwnd = cubic.grown(cwnd, mss, mss, 100ms, now);
    EXPECT_LE(cwnd, 16'300U);
    EXPECT_GE(cwnd, 14'500U);
}

// T37
TEST(Cubic, TimeWithoutUseOfTheWindowDoesNotCount) {
    Cubic busy;
    Cubic paused;
    TimePoint now{50s};
    std::ignore = busy.on_congestion(1000 * mss, 1000 * mss, mss);
    std::ignore = paused.on_congestion(1000 * mss, 1000 * mss, mss);
    EXPECT_EQ(busy.grown(700 * mss, mss, mss, 200ms, now),
              paused.grown(700 * mss, mss, mss, 200ms, now));
    paused.pause(now + 30s);
    paused.pause(now + 60s);
    EXPECT_EQ(busy.grown(700 * mss, mss, mss, 200ms, now + 1s),
              paused.grown(700 * mss, mss, mss, 200ms, now + 61s));
}

TEST(NewReno, GrowsByOneSegmentForEachWindow) {
    NewReno reno;
    EXPECT_EQ(reno.on_congestion(20 * mss, mss), 10 * mss);
    std::uint32_t cwnd = 10 * mss;
    for (int i = 0; i < 9; ++i)
        cwnd = reno.grown(cwnd, mss, mss);
    EXPECT_EQ(cwnd, 10 * mss);
    EXPECT_EQ(reno.grown(cwnd, mss, mss), 11 * mss);
    EXPECT_EQ(reno.on_congestion(mss, mss), 2 * mss);
}

// T38
TEST(Congestion, DividedAcknowledgementsGainNothing) {
    for (const auto kind : {CongestionKind::cubic, CongestionKind::new_reno}) {
        Congestion whole{kind};
        Congestion divided{kind};
        whole.begin(10 * mss, Seq{0});
        divided.begin(10 * mss, Seq{0});
        const TimePoint now{10s};
        whole.grow(10 * mss, mss, false, 100ms, now);
        for (std::uint32_t i = 0; i < 10 * mss; ++i)
            divided.grow(1, mss, false, 100ms, now);
        EXPECT_EQ(divided.cwnd(), whole.cwnd());
        EXPECT_EQ(whole.cwnd(), 20 * mss);

        // And in congestion avoidance.
        whole.on_congestion(20 * mss, mss);
        divided.on_congestion(20 * mss, mss);
        whole.set_cwnd(whole.ssthresh());
        divided.set_cwnd(divided.ssthresh());
        const std::uint32_t cwnd = whole.cwnd();
        for (std::uint32_t i = 0; i < cwnd / mss; ++i)
            whole.grow(mss, mss, false, 100ms, now + 10ms * i);
        for (std::uint32_t i = 0; i < cwnd; i += 10)
            divided.grow(10, mss, false, 100ms, now + 10us * i);
        EXPECT_LE(divided.cwnd(), whole.cwnd() + mss / 10);
    }
}

TEST(Congestion, AfterATimeoutOneAckIsOneSegmentAtMost) { // RFC 3465 §2.3
    Congestion congestion{CongestionKind::new_reno};
    congestion.begin(20 * mss, Seq{0});
    congestion.on_timeout(20 * mss, mss);
    congestion.set_cwnd(mss);
    congestion.grow(15 * mss, mss, true, 100ms, TimePoint{1s});
    EXPECT_EQ(congestion.cwnd(), 2 * mss);
}

TEST(Congestion, SlowStartEndsAtTheThreshold) {
    Congestion congestion{CongestionKind::new_reno};
    congestion.begin(20 * mss, Seq{0});
    congestion.on_timeout(20 * mss, mss);
    EXPECT_EQ(congestion.ssthresh(), 10 * mss);
    congestion.set_cwnd(9 * mss);
    congestion.grow(5 * mss, mss, false, 100ms, TimePoint{1s});
    EXPECT_EQ(congestion.cwnd(), 10 * mss);
}

TEST(Congestion, UndoPutsEverythingBack) {
    Congestion congestion{CongestionKind::cubic};
    congestion.begin(50 * mss, Seq{0});
    const auto before = congestion.before();
    congestion.on_timeout(50 * mss, mss);
    congestion.set_cwnd(mss);
    congestion.undo(before);
    EXPECT_EQ(congestion.cwnd(), 50 * mss);
    EXPECT_EQ(congestion.ssthresh(), UINT32_MAX);
}

/// A round of HyStart++: `samples` RTTs, then the ACK of its end.
HyStart::Phase round(HyStart& hystart, Seq& end, Duration rtt, unsigned samples = 10) {
    const Seq next = end + 10'000;
    HyStart::Phase phase = hystart.phase();
    for (unsigned i = 0; i < samples; ++i) {
        hystart.on_rtt(rtt);
        phase = hystart.on_acknowledgement(i + 1 == samples ? end : end - 1, next);
    }
    end = next;
    return phase;
}

TEST(HyStart, LeavesAfterFiveConservativeRounds) {
    HyStart hystart;
    Seq end{0xffff'fff0};
    hystart.begin(end);
    EXPECT_EQ(round(hystart, end, 100ms), HyStart::Phase::slow_start);
    EXPECT_EQ(round(hystart, end, 112ms), HyStart::Phase::slow_start)
        << "threshold 100/8 = 12.5 ms";
    EXPECT_EQ(round(hystart, end, 127ms), HyStart::Phase::conservative);
    for (int i = 0; i < 3; ++i)
        EXPECT_EQ(round(hystart, end, 130ms), HyStart::Phase::conservative);
    EXPECT_EQ(round(hystart, end, 130ms), HyStart::Phase::over);
}

TEST(HyStart, GoesBackWhenTheDelayWasNoise) {
    HyStart hystart;
    Seq end{1000};
    hystart.begin(end);
    round(hystart, end, 100ms);
    EXPECT_EQ(round(hystart, end, 120ms), HyStart::Phase::conservative);
    EXPECT_EQ(round(hystart, end, 101ms), HyStart::Phase::slow_start);
}

TEST(HyStart, ThresholdIsBoundedOnBothSides) {
    HyStart near;
    Seq end{1000};
    near.begin(end);
    round(near, end, 1ms);
    EXPECT_EQ(round(near, end, 4900us), HyStart::Phase::slow_start) << "at least 4 ms";
    EXPECT_EQ(round(near, end, 8901us), HyStart::Phase::conservative);
    HyStart far;
    end = Seq{1000};
    far.begin(end);
    round(far, end, 400ms);
    EXPECT_EQ(round(far, end, 417ms), HyStart::Phase::conservative) << "at most 16 ms";
}

TEST(HyStart, NeedsEightSamples) {
    HyStart hystart;
    Seq end{1000};
    hystart.begin(end);
    round(hystart, end, 100ms);
    EXPECT_EQ(round(hystart, end, 200ms, 7), HyStart::Phase::slow_start);
}

TEST(HyStart, ConservativeSlowStartGrowsByAQuarter) {
    Congestion congestion{CongestionKind::cubic};
    Seq end{1000};
    congestion.begin(100 * mss, end);
    const auto play = [&](Duration rtt) {
        for (unsigned i = 0; i < 10; ++i) {
            congestion.on_rtt(rtt);
            congestion.on_round(i == 9 ? end : end - 1, end + 1000);
        }
        end += 1000;
    };
    play(100ms);
    play(120ms);
    ASSERT_EQ(congestion.hystart_phase(), HyStart::Phase::conservative);
    congestion.grow(8 * mss, mss, false, 100ms, TimePoint{1s});
    EXPECT_EQ(congestion.cwnd(), 102 * mss);
    for (int i = 0; i < 4; ++i)
        play(120ms);
    EXPECT_EQ(congestion.ssthresh(), 102 * mss) << "HyStart++ ends slow start without a loss";
}

// T36. RFC 6937 §4, the first example: FlightSize 20, the first segment lost, Reno. After the
// third duplicate, one segment for every second acknowledgement.
TEST(Prr, SpreadsTheReductionOverTheRoundTrip) {
    Prr prr;
    prr.begin(20 * mss);
    const std::uint32_t ssthresh = 10 * mss;
    std::uint32_t pipe = 19 * mss; // one lost, one reported
    unsigned sent = 0;
    for (int ack = 0; ack < 19; ++ack) {
        pipe -= mss;
        const std::uint32_t cwnd = prr.on_acknowledgement(mss, pipe, ssthresh, mss, true);
        unsigned now = 0;
        while (pipe + mss <= cwnd) {
            pipe += mss;
            prr.on_sent(mss);
            ++now;
        }
        EXPECT_LE(now, 1U) << "no burst";
        sent += now;
        EXPECT_GE(pipe, ssthresh - mss);
    }
    EXPECT_NEAR(sent, 10, 1);
    EXPECT_NEAR(pipe / 1000.0, 10, 1);
}

// RFC 6937 §4, the second example: most of the window is lost, and the pipe is below ssthresh at
// once: slow start's bound sends two for each delivered segment, until ssthresh is reached.
TEST(Prr, RebuildsThePipeWhenTooMuchWasLost) {
    Prr prr;
    prr.begin(20 * mss);
    std::uint32_t pipe = 4 * mss;
    const std::uint32_t ssthresh = 10 * mss;
    for (int ack = 0; ack < 4; ++ack) {
        pipe -= mss;
        const std::uint32_t cwnd = prr.on_acknowledgement(mss, pipe, ssthresh, mss, true);
        EXPECT_EQ(cwnd, pipe + 2 * mss);
        prr.on_sent(2 * mss);
        pipe += 2 * mss;
    }
    Prr conservative;
    conservative.begin(20 * mss);
    EXPECT_EQ(conservative.on_acknowledgement(mss, 4 * mss, ssthresh, mss, false), 5 * mss)
        << "packet conservation while losses go on";
}

TEST(Prr, NeverStopsAnEmptyPipe) {
    Prr prr;
    prr.begin(20 * mss);
    prr.on_sent(50 * mss);
    EXPECT_GE(prr.on_acknowledgement(0, 0, 10 * mss, mss, false), mss);
}

TEST(Pacer, LetsOneTicksWorthGoAtOnceAndKeepsTheRate) {
    Pacer pacer;
    const std::uint64_t rate = 10'000'000; // 10 KB in each tick
    TimePoint now{1s};
    std::uint64_t sent = 0;
    for (int tick = 0; tick < 1000; ++tick) {
        while (const std::uint32_t bytes = pacer.allowance(rate, mss, now)) {
            ASSERT_LE(bytes, 20'000U);
            pacer.on_sent(mss, rate, now);
            sent += mss;
        }
        ASSERT_GT(pacer.free_at(), now);
        now += 1ms;
    }
    EXPECT_NEAR(static_cast<double>(sent), 1e7, 3e4);
}

TEST(Pacer, AllowsTwoSegmentsHoweverSlow) {
    Pacer pacer;
    EXPECT_EQ(pacer.allowance(1000, mss, TimePoint{1s}), 2 * mss);
    pacer.on_sent(2 * mss, 1000, TimePoint{1s});
    EXPECT_EQ(pacer.allowance(1000, mss, TimePoint{2s}), 0U);
    EXPECT_GT(pacer.allowance(1000, mss, TimePoint{3s}), 0U);
}

} // namespace
} // namespace dataplane::net::tcp
