// sender_fixture.h: a Sender at its own clock, driven by hand: send, acknowledge, let time pass.
//
// Scope      For the scripted tests. Offsets count from the first byte of data; the sequence
//            number they stand for is chosen so that every longer test crosses 2^32.
#pragma once

#include "dataplane/net/tcp/sender.h"

#include <gtest/gtest.h>

#include <initializer_list>
#include <utility>
#include <vector>

namespace dataplane::net::tcp {

using namespace std::chrono_literals;

struct SenderOptions {
    bool sack = true;
    bool timestamps = false;
    bool ecn = false;
    std::uint32_t mss = 1000;
    Duration rtt = 100ms;
    CongestionKind kind = CongestionKind::cubic;
    std::uint32_t iss = 0xffff'f000; // data wraps after 4,095 bytes
};

class SenderHarness {
public:
    using Options = SenderOptions;

    explicit SenderHarness(Options with = {}) : options(with), config{.congestion = with.kind} {
        sender.begin(Seq{options.iss}, now);
        EXPECT_TRUE(sender.sent(Seq{options.iss}, Seq{options.iss} + 1, now, true));
        pass(options.rtt);
        EXPECT_EQ(ack(0).acked_bytes, 1U);
        sender.established(options.mss, options.sack, options.timestamps, options.ecn, now);
        check();
    }

    [[nodiscard]] Seq at(std::uint32_t offset) const { return Seq{options.iss} + 1 + offset; }
    [[nodiscard]] std::uint32_t offset(Seq seq) const { return distance(at(0), seq); }
    [[nodiscard]] std::uint32_t tick() const { return timestamp_ticks(now); }

    void pass(Duration time) { now += time; }
    void check() const { sender.debug_check(); }

    /// New data, whatever is allowed.
    void send(std::uint32_t bytes, bool application_limited = false) {
        const Seq begin = sender.nxt();
        ASSERT_TRUE(sender.sent(begin, begin + bytes, now, application_limited));
        check();
    }
    /// Segments of new data of one mss, each `gap` after the one before.
    void send_segments(unsigned count, Duration gap = 0ms) {
        for (unsigned i = 0; i < count; ++i) {
            if (i > 0) pass(gap);
            send(options.mss);
        }
    }
    /// New data as far as the sender allows now; returns the segments sent.
    unsigned fill() {
        unsigned segments = 0;
        while (sender.allowance(now) >= options.mss) {
            send(options.mss);
            ++segments;
        }
        return segments;
    }
    Sender::Outcome ack(std::uint32_t offset,
                        std::initializer_list<std::pair<std::uint32_t, std::uint32_t>> sack = {},
                        std::optional<std::uint32_t> ts_echo = {}, bool ece = false) {
        std::vector<SackBlock> blocks;
        for (const auto& [begin, end] : sack)
            blocks.push_back({at(begin), at(end)});
        const Acknowledgement what{
            .ack = at(offset), .sack = blocks, .pure = true, .ece = ece, .ts_echo = ts_echo};
        const auto outcome = sender.on_acknowledgement(what, now);
        check();
        return outcome;
    }
    /// What retransmission() gives, sent; its offsets, or nothing.
    std::optional<std::pair<std::uint32_t, std::uint32_t>>
    resend(bool application_limited = false) {
        const auto range = sender.retransmission(now);
        if (!range) return std::nullopt;
        EXPECT_TRUE(sender.sent(range->begin, range->end, now, application_limited));
        check();
        return std::pair{offset(range->begin), offset(range->end)};
    }
    /// Lets time pass to the deadline, and says what was due.
    SenderTimer fire() {
        EXPECT_NE(sender.deadline(), TimePoint::max());
        now = std::max(now, sender.deadline());
        const SenderTimer due = sender.on_timer(now);
        check();
        return due;
    }
    /// The deadline behind pacing's, which is always soon.
    TimePoint deadline_after_pacing() {
        while (sender.deadline() < now + 20ms)
            if (fire() != SenderTimer::none) ADD_FAILURE() << "something was due";
        return sender.deadline();
    }
    /// Fires until something other than pacing is due.
    SenderTimer fire_real() {
        SenderTimer due = SenderTimer::none;
        for (int i = 0; i < 100 && due == SenderTimer::none; ++i)
            due = fire();
        return due;
    }
    /// Whole windows sent and acknowledged segment by segment until cwnd is at least `bytes`.
    void grow_to(std::uint32_t bytes) {
        for (int round = 0; round < 100 && sender.cwnd() < bytes; ++round) {
            const std::uint32_t first = offset(sender.una());
            while (sender.flight_bytes() + options.mss <= sender.cwnd())
                send(options.mss);
            const std::uint32_t last = offset(sender.nxt());
            pass(options.rtt);
            for (std::uint32_t end = first + options.mss; end <= last; end += options.mss)
                ack(end);
        }
        ASSERT_GE(sender.cwnd(), bytes);
    }

    Options options;
    Config config;
    SenderCounters counters;
    TimePoint now{1000s};
    const SenderEnvironment environment{config, counters};
    Sender sender{environment};
};

} // namespace dataplane::net::tcp
