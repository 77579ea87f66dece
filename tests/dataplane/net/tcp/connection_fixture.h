// connection_fixture.h: one Connection with its environment, and a peer that a test plays by hand.
//
// Scope      Numbers are relative: our SYN is 0, our first byte 1; the same for the peer. Time is virtual
//            and moves with advance(), which fires the timers on the way.
#pragma once

#include "dataplane/net/tcp/connection.h"

#include <gtest/gtest.h>

#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace dataplane::net::tcp::test {

using namespace std::chrono_literals;

/// What a Connection needs, with pools of its own: they must be full again when it dies.
struct Bench {
    explicit Bench(Config wanted = {}, std::uint32_t slabs = 512, unsigned seed = 1)
        : config(wanted), receive_slabs(4096, slabs), send_slabs(4096, slabs), random(seed),
          environment{config, receive_slabs, send_slabs, counters, random} {}
    [[nodiscard]] bool slabs_are_back() const {
        return receive_slabs.free_count() == receive_slabs.slab_count() &&
               send_slabs.free_count() == send_slabs.slab_count();
    }

    Config config;
    base::SlabPool receive_slabs;
    base::SlabPool send_slabs;
    ConnectionCounters counters;
    std::minstd_rand random;
    Environment environment;
};

/// A segment that the connection sent, with its bytes.
struct Sent {
    Outgoing header;
    std::string payload;

    [[nodiscard]] bool has(std::uint8_t flags) const { return (header.flags & flags) != 0; }
};

[[nodiscard]] inline std::string collect(const Connection& connection, const Outgoing& segment) {
    std::array<base::SlabView, 64> slices;
    const std::size_t count = connection.payload(segment, slices);
    std::string bytes;
    for (std::size_t i = 0; i < count; ++i)
        bytes += base::as_text(slices[i].bytes());
    return bytes;
}

class Talk {
public:
    static constexpr std::uint16_t our_mss = 1460;

    explicit Talk(Config config = {}, Seq our_iss = Seq{1000}, Seq peer_iss = Seq{50000})
        : bench(config), c(std::in_place, bench.environment), iss(our_iss), irs(peer_iss) {}
    ~Talk() {
        c.reset();
        EXPECT_TRUE(bench.slabs_are_back());
    }

    // --- time
    void advance(Duration by) {
        const TimePoint until = now + by;
        while (c->deadline() <= until) {
            const TimePoint due = c->deadline();
            now = std::max(now, due);
            c->on_timer(now);
            pump();
            ASSERT_GT(c->deadline(), now - 1ns) << "a deadline in the past stays";
            ASSERT_LT(++timer_calls, 200'000);
        }
        now = until;
    }

    // --- the peer's side
    struct Tweak {
        std::optional<std::uint16_t> window{};
        std::function<void(Segment&)> change{};
    };
    void give(std::uint8_t flags, std::uint32_t seq, std::uint32_t ack, std::string_view text = {},
              const std::function<void(Segment&)>& change = {}) {
        Segment segment;
        segment.flags = flags;
        segment.seq = irs + seq;
        segment.ack = iss + ack;
        segment.window = window;
        segment.payload = base::as_bytes(text);
        if (stamps) {
            segment.options.timestamps = Timestamps{
                5000 + static_cast<std::uint32_t>(now.time_since_epoch() / 1ms), last_stamp};
        }
        if (change) change(segment);
        c->receive(segment, now);
        pump();
    }
    void ack(std::uint32_t ack, std::uint32_t seq = 1) { give(flag::ack, seq, ack); }
    void sack(std::uint32_t upto, std::uint32_t begin, std::uint32_t end) {
        give(flag::ack, 1, upto, {}, [&](Segment& s) {
            s.options.sack[0] = {iss + begin, iss + end};
            s.options.sack_count = 1;
        });
    }

    static Options full_options() {
        Options options;
        options.mss = our_mss;
        options.window_scale = 0; // so that window fields are bytes
        options.sack_permitted = true;
        options.timestamps.emplace();
        return options;
    }
    static Options plain_options() {
        Options options;
        options.mss = our_mss;
        return options;
    }

    // --- getting there
    void open() {
        c->open(iss, our_mss, ts_offset, now);
        pump();
    }
    /// Active, up to ESTABLISHED, everything so far looked at.
    void establish(const Options& options = plain_options()) {
        open();
        const Sent syn = take();
        EXPECT_EQ(syn.header.flags & ~(flag::ece | flag::cwr), flag::syn);
        stamps = options.timestamps.has_value();
        if (stamps) last_stamp = syn.header.options.timestamps->value;
        advance(rtt);
        give(flag::syn | flag::ack, 0, 1, {}, [&](Segment& s) {
            const auto timestamps = s.options.timestamps;
            s.options = options;
            if (stamps) s.options.timestamps = timestamps;
        });
        EXPECT_EQ(c->state(), State::established);
        EXPECT_EQ(c->take_events() & event::established, event::established);
        const Sent last = take();
        EXPECT_EQ(last.header.flags, flag::ack);
        EXPECT_TRUE(quiet());
    }
    void accept(const Options& options = plain_options(), std::uint8_t flags = flag::syn) {
        Segment syn;
        syn.flags = flags;
        syn.seq = irs;
        syn.window = window;
        syn.options = options;
        c->accept(syn, iss, our_mss, ts_offset, now);
        pump();
    }
    void establish_passively(const Options& options = plain_options()) {
        accept(options);
        static_cast<void>(take());
        advance(rtt);
        stamps = options.timestamps.has_value();
        ack(1);
        EXPECT_EQ(c->state(), State::established);
        static_cast<void>(c->take_events());
        sent.clear();
    }
    void close_from_our_side() { // up to FIN_WAIT_2
        c->shutdown_write(now);
        pump();
        EXPECT_TRUE(take().has(flag::fin));
        ack(2);
        EXPECT_EQ(c->state(), State::fin_wait_2);
    }

    // --- our side
    void write(std::string_view text) {
        EXPECT_EQ(c->write(base::as_bytes(text)), text.size());
        pump();
    }
    void write_bytes(std::size_t count) {
        std::string text(count, ' ');
        for (std::size_t i = 0; i < count; ++i)
            text[i] = byte_at(1 + written + i);
        written += count;
        write(text);
    }
    /// What write_bytes() puts at stream position `seq`.
    static char byte_at(std::size_t seq) { return static_cast<char>('a' + seq * 7 % 26); }
    [[nodiscard]] std::string read() {
        std::string text;
        for (auto front = c->unread(); !front.empty(); front = c->unread()) {
            text += base::as_text(front);
            c->consume(front.size(), now);
        }
        pump();
        return text;
    }

    // --- what came out
    void pump() {
        Outgoing out;
        unsigned count = 0;
        while (c->next_segment(out, payload_max, now)) {
            Sent segment{out, collect(*c, out)};
            EXPECT_EQ(segment.payload.size(), out.payload_bytes);
            if (out.options.timestamps) last_stamp = out.options.timestamps->value;
            sent.push_back(std::move(segment));
            ASSERT_LT(++count, 10'000U) << "next_segment() does not end";
        }
        EXPECT_FALSE(c->wants_output(now)) << "wants_output() and next_segment() disagree";
    }
    Sent take() {
        if (sent.empty()) {
            ADD_FAILURE() << "nothing was sent";
            return {};
        }
        Sent first = std::move(sent.front());
        sent.pop_front();
        return first;
    }
    Sent take_last() {
        while (sent.size() > 1)
            sent.pop_front();
        return take();
    }
    [[nodiscard]] bool quiet() const { return sent.empty(); }
    /// Our number as the peer counts, relative to our SYN.
    [[nodiscard]] std::uint32_t seq_of(const Sent& segment) const {
        return segment.header.seq.raw() - iss.raw();
    }
    [[nodiscard]] std::uint32_t ack_of(const Sent& segment) const {
        return segment.header.ack.raw() - irs.raw();
    }

    Bench bench;
    std::optional<Connection> c;
    Seq iss;
    Seq irs;
    TimePoint now{1000s};
    std::deque<Sent> sent;
    std::uint32_t payload_max = our_mss;
    std::uint16_t window = 65535;
    std::uint32_t ts_offset = 0;
    Duration rtt = 20ms;
    bool stamps = false;
    std::uint32_t last_stamp = 0;
    std::size_t written = 0;
    unsigned timer_calls = 0;
};

} // namespace dataplane::net::tcp::test
