// Initial sequence numbers, timestamp offsets and SYN cookies.
#include "dataplane/net/tcp/isn.h"
#include "dataplane/net/tcp/syn_cookie.h"
#include "tests/dataplane/net/tcp/connection_fixture.h"

#include <set>

namespace dataplane::net::tcp::test {
namespace {

constexpr base::SipKey key{0x0706050403020100, 0x0f0e0d0c0b0a0908};

base::SocketAddress address(const char* text) {
    return *base::SocketAddress::parse(text);
}
const base::SocketAddress local = address("192.0.2.1:25");
const base::SocketAddress remote = address("198.51.100.7:40000");

TEST(InitialSequence, GrowsWithTimeForOneTupleAndDiffersForOthers) {
    const TimePoint now{1000s};
    const Seq first = initial_sequence(key, local, remote, now);
    EXPECT_EQ(distance(first, initial_sequence(key, local, remote, now + 4ms)), 1000U);
    std::set<std::uint32_t> numbers;
    for (std::uint16_t port = 1; port < 1000; ++port) {
        base::SocketAddress other = remote;
        other.port = port;
        numbers.insert(initial_sequence(key, local, other, now).raw());
    }
    EXPECT_EQ(numbers.size(), 999U);
    EXPECT_NE(first, initial_sequence({1, 2}, local, remote, now));
    EXPECT_NE(first, initial_sequence(key, remote, local, now));
}

TEST(TimestampOffset, IsOnePerPairOfHosts) {
    const auto offset = timestamp_offset(key, local.ip, remote.ip);
    EXPECT_EQ(offset, timestamp_offset(key, local.ip, remote.ip));
    EXPECT_NE(offset, timestamp_offset(key, local.ip, address("198.51.100.8:1").ip));
}

class Cookies : public ::testing::Test {
protected:
    Segment syn(const Options& options) {
        Segment segment;
        segment.source_port = remote.port;
        segment.destination_port = local.port;
        segment.seq = Seq{777};
        segment.flags = flag::syn;
        segment.window = 1000;
        segment.options = options;
        return segment;
    }
    /// The ACK that an honest peer sends to `answer`.
    Segment ack(const Header& answer) {
        Segment segment;
        segment.seq = answer.ack;
        segment.ack = answer.seq + 1;
        segment.flags = flag::ack;
        segment.window = 1000;
        if (answer.options.timestamps) {
            segment.options.timestamps = Timestamps{10, answer.options.timestamps->value};
        }
        return segment;
    }
    Config config;
    SynCookies cookies{key};
    TimePoint now{1000s};
    std::uint32_t offset = 0x9000'0001;
};

TEST_F(Cookies, OptionsComeBackThroughTheTimestamp) {
    Options options;
    options.mss = 1452;
    options.window_scale = 7;
    options.sack_permitted = true;
    options.timestamps = Timestamps{9, 0};
    const Header answer = cookies.answer(syn(options), local, remote, config, 1460, offset, now);
    EXPECT_EQ(answer.flags, flag::syn | flag::ack);
    EXPECT_EQ(answer.ack, Seq{778});
    EXPECT_EQ(answer.options.timestamps->echo, 9U);
    EXPECT_LE(answer.options.timestamps->value - offset, timestamp_ticks(now));
    EXPECT_LT(timestamp_ticks(now) - (answer.options.timestamps->value - offset), 128U);
    const auto accepted = cookies.check(ack(answer), local, remote, offset, now + 60s);
    ASSERT_TRUE(accepted.has_value());
    EXPECT_EQ(accepted->iss, answer.seq);
    EXPECT_EQ(accepted->syn_options.mss, 1440);
    EXPECT_EQ(accepted->syn_options.window_scale, 7);
    EXPECT_TRUE(accepted->syn_options.sack_permitted);
}

TEST_F(Cookies, WithoutTimestampsOnlyTheMssIsKept) {
    Options options;
    options.mss = 1460;
    options.window_scale = 7;
    options.sack_permitted = true;
    const Header answer = cookies.answer(syn(options), local, remote, config, 1460, offset, now);
    EXPECT_FALSE(answer.options.window_scale); // what we could not remember is not agreed to
    EXPECT_FALSE(answer.options.sack_permitted);
    const auto accepted = cookies.check(ack(answer), local, remote, offset, now);
    ASSERT_TRUE(accepted.has_value());
    EXPECT_EQ(accepted->syn_options.mss, 1460);
    EXPECT_FALSE(accepted->syn_options.window_scale);
}

TEST_F(Cookies, OldForgedOrForeignOnesAreRefused) {
    Options options;
    options.mss = 1460;
    options.timestamps = Timestamps{9, 0};
    const Header answer = cookies.answer(syn(options), local, remote, config, 1460, offset, now);
    const Segment good = ack(answer);
    ASSERT_TRUE(cookies.check(good, local, remote, offset, now));
    EXPECT_FALSE(cookies.check(good, local, remote, offset, now + 129s));
    EXPECT_FALSE(cookies.check(good, local, address("198.51.100.7:40001"), offset, now));
    EXPECT_FALSE(SynCookies({1, 2}).check(good, local, remote, offset, now));
    for (unsigned bit = 0; bit < 32; ++bit) {
        Segment forged = good;
        forged.ack = Seq{((forged.ack - 1).raw() ^ (1U << bit)) + 1};
        EXPECT_FALSE(cookies.check(forged, local, remote, offset, now)) << bit;
        forged = good;
        forged.seq = Seq{forged.seq.raw() ^ (1U << bit)};
        EXPECT_FALSE(cookies.check(forged, local, remote, offset, now)) << bit;
    }
    for (unsigned bit = 0; bit < 6; ++bit) { // options that the SYN did not have
        Segment forged = good;
        forged.options.timestamps->echo =
            (((forged.options.timestamps->echo - offset) ^ (1U << bit)) + offset);
        EXPECT_FALSE(cookies.check(forged, local, remote, offset, now)) << bit;
    }
}

TEST_F(Cookies, ConnectionFromACookieTalksAtOnce) {
    Options options;
    options.mss = 1460;
    options.window_scale = 2;
    options.sack_permitted = true;
    options.timestamps = Timestamps{9, 0};
    const Header answer = cookies.answer(syn(options), local, remote, config, 1460, offset, now);
    Segment first = ack(answer);
    first.payload = base::as_bytes("EHLO");
    first.flags |= flag::psh;
    const auto accepted = cookies.check(first, local, remote, offset, now);
    ASSERT_TRUE(accepted.has_value());

    Bench bench;
    {
        Connection c(bench.environment);
        c.accept_cookie(first, accepted->iss, accepted->syn_options, 1460, offset, now);
        EXPECT_EQ(c.state(), State::established);
        EXPECT_EQ(base::as_text(c.unread()), "EHLO");
        EXPECT_EQ(c.mss(), 1448U);
        EXPECT_EQ(c.write(base::as_bytes(std::string(5000, 'x'))), 5000U);
        Outgoing out;
        std::uint32_t sent = 0;
        while (c.next_segment(out, 1460, now))
            sent += out.payload_bytes;
        EXPECT_EQ(sent, 2896U); // whole segments of the 4,000 that the ACK says, scaled by 2
        EXPECT_EQ(out.options.timestamps->echo, 10U);
        c.abort(now);
        EXPECT_TRUE(c.next_segment(out, 1460, now));
    }
    EXPECT_TRUE(bench.slabs_are_back());
}

} // namespace
} // namespace dataplane::net::tcp::test
