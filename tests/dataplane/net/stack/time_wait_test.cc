// Goal: what is left of a closed connection answers its peer rightly, and costs a bounded record.
#include "dataplane/net/stack/time_wait.h"

#include <gtest/gtest.h>
#include <vector>

namespace dataplane::net::stack {
namespace {

using namespace std::chrono_literals;
using tcp::Seq;

struct TimeWaitTest : testing::Test {
    std::uint32_t add(std::uint16_t port, bool timestamps = true) {
        return time_wait.add({*base::IpAddress::parse("2001:db8::1"),
                              *base::IpAddress::parse("2001:db8::9"), 25, port},
                             {.snd_nxt = Seq{1000},
                              .rcv_nxt = Seq{2000},
                              .window = 512,
                              .timestamps = timestamps,
                              .ts_recent = 50},
                             now);
    }
    static tcp::Segment segment(std::uint8_t flags, std::uint32_t seq,
                                std::optional<std::uint32_t> stamp = std::nullopt) {
        tcp::Segment one;
        one.flags = flags;
        one.seq = Seq{seq};
        one.ack = Seq{1000};
        if (stamp) one.options.timestamps = tcp::Timestamps{*stamp, 0};
        return one;
    }
    base::TimePoint now{1s};
    TimeWait time_wait{4, 60s, now};
};

TEST_F(TimeWaitTest, KeepsWhatItWasGiven) {
    const std::uint32_t number = add(7);
    EXPECT_EQ(time_wait.key(number).remote, *base::IpAddress::parse("2001:db8::9"));
    EXPECT_EQ(time_wait.key(number).remote_port, 7);
    const tcp::TimeWaitRecord record = time_wait.record(number);
    EXPECT_EQ(record.snd_nxt, Seq{1000});
    EXPECT_EQ(record.rcv_nxt, Seq{2000});
    EXPECT_EQ(record.window, 512);
    EXPECT_EQ(record.ts_recent, 50U);
}

TEST_F(TimeWaitTest, KeepsBothFamiliesAndAnyNumberOfOurAddressesApart) {
    const FlowKey keys[] = {
        {*base::IpAddress::parse("192.0.2.1"), *base::IpAddress::parse("198.51.100.9"), 25, 1},
        {*base::IpAddress::parse("192.0.2.2"), *base::IpAddress::parse("198.51.100.9"), 25, 1},
        {*base::IpAddress::parse("2001:db8::1"), *base::IpAddress::parse("2001:db8::9"), 25, 1},
        {*base::IpAddress::parse("2001:db8::2"), *base::IpAddress::parse("2001:db8::9"), 25, 1}};
    std::vector<std::uint32_t> numbers;
    for (const FlowKey& key : keys)
        numbers.push_back(time_wait.add(key, {}, now));
    for (std::size_t i = 0; i < numbers.size(); ++i)
        EXPECT_EQ(time_wait.key(numbers[i]), keys[i]) << i;
}

TEST_F(TimeWaitTest, LongAndShortPeriodsExpireWhenTheyShould) {
    for (const base::Duration period :
         {base::Duration{1ms}, base::Duration{1s}, base::Duration{240s}, base::Duration{3600s}}) {
        base::TimePoint then{1000h};
        TimeWait one{2, period, base::TimePoint{1s}};
        static_cast<void>(one.add({}, {}, then));
        EXPECT_FALSE(one.due(then + period - period / 1000 - 1ms)) << period.count();
        EXPECT_TRUE(one.due(then + period));
        EXPECT_TRUE(one.due(then + period * 4)); // a machine that slept
        EXPECT_LE(one.deadline(then), then + period);
    }
}

// T54
TEST_F(TimeWaitTest, AFinAgainIsAcknowledgedAndStartsTheWaitAnew) {
    const std::uint32_t first = add(1);
    const std::uint32_t second = add(2);
    now += 50s;
    EXPECT_EQ(time_wait.on_segment(first, segment(tcp::flag::fin | tcp::flag::ack, 1999, 60), now),
              TimeWaitAnswer::acknowledge);
    EXPECT_EQ(time_wait.oldest(), second);
    now += 15s;
    EXPECT_TRUE(time_wait.due(now));
    time_wait.remove(second);
    EXPECT_EQ(time_wait.oldest(), first);
    EXPECT_FALSE(time_wait.due(now));
    EXPECT_EQ(time_wait.deadline(now), now + 45s);
    EXPECT_TRUE(time_wait.due(now + 45s));
}

// T54: RFC 1337
TEST_F(TimeWaitTest, AResetEndsNothing) {
    const std::uint32_t number = add(1);
    EXPECT_EQ(time_wait.on_segment(number, segment(tcp::flag::rst, 2000), now),
              TimeWaitAnswer::nothing);
    EXPECT_EQ(time_wait.size(), 1U);
}

// T54, T18: RFC 6191
TEST_F(TimeWaitTest, ANewerSynReopensAndAnOlderOneIsContradicted) {
    const std::uint32_t stamped = add(1);
    const auto answer = [&](std::uint32_t number, std::uint32_t seq,
                            std::optional<std::uint32_t> stamp) {
        return time_wait.on_segment(number, segment(tcp::flag::syn, seq, stamp), now);
    };
    EXPECT_EQ(answer(stamped, 1500, 51), TimeWaitAnswer::reopen);
    EXPECT_EQ(answer(stamped, 9999, 49), TimeWaitAnswer::acknowledge);
    EXPECT_EQ(answer(stamped, 2001, 50), TimeWaitAnswer::reopen);
    EXPECT_EQ(answer(stamped, 1999, 50), TimeWaitAnswer::acknowledge);
    EXPECT_EQ(answer(stamped, 2001, std::nullopt), TimeWaitAnswer::reopen);
    const std::uint32_t plain = add(2, false);
    EXPECT_EQ(answer(plain, 2001, std::nullopt), TimeWaitAnswer::reopen);
    EXPECT_EQ(answer(plain, 1999, 70), TimeWaitAnswer::acknowledge);
}

TEST_F(TimeWaitTest, AnAckThatSaysNothingNewGetsNoAnswer) {
    const std::uint32_t number = add(1);
    EXPECT_EQ(time_wait.on_segment(number, segment(tcp::flag::ack, 2000, 60), now),
              TimeWaitAnswer::nothing);
    EXPECT_EQ(time_wait.on_segment(number, segment(tcp::flag::ack, 1990, 60), now),
              TimeWaitAnswer::acknowledge);
}

// T55
TEST_F(TimeWaitTest, TheOldestIsTheOneToGoWhenItIsFull) {
    const std::uint32_t first = add(1);
    static_cast<void>(add(2));
    static_cast<void>(add(3));
    EXPECT_FALSE(time_wait.full());
    static_cast<void>(add(4));
    EXPECT_TRUE(time_wait.full());
    EXPECT_EQ(time_wait.oldest(), first);
    time_wait.remove(first);
    static_cast<void>(add(5));
    EXPECT_EQ(time_wait.size(), 4U);
}

TEST_F(TimeWaitTest, ExpiryIsRightAfterItsClockHasWrapped) {
    now += std::chrono::hours{24 * 60}; // 2^32 ms are 49.7 days
    static_cast<void>(add(1));
    EXPECT_FALSE(time_wait.due(now + 59s));
    EXPECT_EQ(time_wait.deadline(now), now + 60s);
    EXPECT_TRUE(time_wait.due(now + 60s));
}

} // namespace
} // namespace dataplane::net::stack
