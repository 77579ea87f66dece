// Goal: addresses that mean the same compare the same, and text that is not an address is refused.
#include "dataplane/base/address.h"

#include <gtest/gtest.h>

namespace dataplane::base {
namespace {

using namespace std::string_view_literals;

TEST(IpAddress, PrintsWhatItParsed) {
    for (const auto text :
         {"0.0.0.0", "192.0.2.1", "255.255.255.255", "::", "::1", "2001:db8::1", "fe80::1:2:3:4"}) {
        const auto ip = IpAddress::parse(text);
        ASSERT_TRUE(ip) << text;
        EXPECT_EQ(ip->to_string(), text);
    }
    EXPECT_EQ(IpAddress::parse("2001:DB8:0:0::0:1")->to_string(), "2001:db8::1");
}

TEST(IpAddress, RefusesWhatIsNoAddress) {
    for (const auto text :
         {""sv, "1.2.3"sv, "1.2.3.4.5"sv, "256.1.1.1"sv, "1.2.3.4 "sv, " 1.2.3.4"sv, "1.2.3.4\0"sv,
          "1.2.3.4\0x"sv, "::1\0"sv, ":::"sv, "1::2::3"sv, "g::1"sv, "fe80::1%eth0"sv, "[::1]"sv,
          "localhost"sv, "2001:0db8:0000:0000:0000:0000:0000:0001:0002:0003:0004"sv}) {
        EXPECT_FALSE(IpAddress::parse(text)) << text;
    }
}

TEST(IpAddress, AMappedAddressIsTheIpv4AddressItMaps) {
    const auto mapped = IpAddress::parse("::ffff:10.1.2.3");
    ASSERT_TRUE(mapped);
    EXPECT_FALSE(mapped->is_v6());
    EXPECT_EQ(*mapped, *IpAddress::parse("10.1.2.3"));
    EXPECT_TRUE(Network::parse("10.0.0.0/8")->contains(*mapped));
    EXPECT_NE(*IpAddress::parse("::10.1.2.3"), *mapped);
}

TEST(IpAddress, WritesAnSmtpLiteral) {
    EXPECT_EQ(IpAddress::parse("192.0.2.1")->to_literal(), "[192.0.2.1]");
    EXPECT_EQ(IpAddress::parse("2001:db8::1")->to_literal(), "[IPv6:2001:db8::1]");
}

TEST(IpAddress, KnowsLoopback) {
    EXPECT_TRUE(IpAddress::parse("127.0.0.1")->is_loopback());
    EXPECT_TRUE(IpAddress::parse("127.255.1.1")->is_loopback());
    EXPECT_TRUE(IpAddress::parse("::1")->is_loopback());
    EXPECT_FALSE(IpAddress::parse("128.0.0.1")->is_loopback());
    EXPECT_FALSE(IpAddress::parse("::2")->is_loopback());
}

TEST(SocketAddress, PrintsWhatItParsed) {
    for (const auto text : {"192.0.2.1:25", "[2001:db8::1]:587", "0.0.0.0:0", "[::]:65535"}) {
        const auto address = SocketAddress::parse(text);
        ASSERT_TRUE(address) << text;
        EXPECT_EQ(address->to_string(), text);
    }
}

TEST(SocketAddress, RefusesWhatIsAmbiguousOrOutOfRange) {
    for (const auto text : {"192.0.2.1", "192.0.2.1:", ":25", "192.0.2.1:65536", "192.0.2.1:-1",
                            "192.0.2.1:+1", "192.0.2.1:25x", "2001:db8::1:25", "[2001:db8::1]",
                            "[192.0.2.1]:25", "[]:25", "[::1:25"}) {
        EXPECT_FALSE(SocketAddress::parse(text)) << text;
    }
}

struct Membership {
    const char* network;
    const char* inside;
    const char* outside;
};

TEST(Network, ContainsExactlyItsAddresses) {
    for (const Membership& c : {Membership{"10.0.0.0/8", "10.255.255.255", "11.0.0.0"},
                                Membership{"192.0.2.128/25", "192.0.2.128", "192.0.2.127"},
                                Membership{"192.0.2.4/30", "192.0.2.7", "192.0.2.8"},
                                Membership{"192.0.2.1", "192.0.2.1", "192.0.2.2"},
                                Membership{"0.0.0.0/0", "203.0.113.9", "::"},
                                Membership{"::/0", "2001:db8::1", "0.0.0.0"},
                                Membership{"2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"},
                                Membership{"::1", "::1", "::2"}}) {
        const auto network = Network::parse(c.network);
        ASSERT_TRUE(network) << c.network;
        EXPECT_TRUE(network->contains(*IpAddress::parse(c.inside))) << c.network;
        EXPECT_FALSE(network->contains(*IpAddress::parse(c.outside))) << c.network;
    }
}

TEST(Network, RefusesHostBitsAndBadLengths) {
    for (const auto text : {"10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/8x", "10.0.0.0/-1",
                            "/8", "2001:db8::1/64", "2001:db8::/129", "10.0.0.0/8/8"}) {
        EXPECT_FALSE(Network::parse(text)) << text;
    }
}

} // namespace
} // namespace dataplane::base
