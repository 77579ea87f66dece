#include "frames.h"

#include <algorithm>

namespace dataplane::net::ip::test {
namespace {

const IpAddress us = ip("192.0.2.10"), peer = ip("198.51.100.7");
const IpAddress us6 = ip("2001:db8::10"), peer6 = ip("2001:db8:f::7");

Frame frame4(const Frame& packet, const MacAddress& to = our_mac) {
    return ethernet(to, peer_mac, 0x0800, packet);
}
Frame frame6(const Frame& packet, const MacAddress& to = our_mac) {
    return ethernet(to, peer_mac, 0x86dd, packet);
}
Frame payload_of(const Datagram& datagram) {
    return {datagram.payload.begin(), datagram.payload.end()};
}

TEST(Receive, ATcpDatagramComesWithItsAddressesAndEcn) {
    Host host{usual_options()};
    const Frame segment = tcp(peer, us, run(33));
    const auto datagram =
        host.receive(frame4(ipv4({.from = peer, .to = us, .tos = 0xb8 | 3}, segment)));
    ASSERT_TRUE(datagram);
    EXPECT_EQ(datagram->source, peer);
    EXPECT_EQ(datagram->destination, us);
    EXPECT_EQ(datagram->ecn, tcp::Ecn::ce);
    EXPECT_EQ(payload_of(*datagram), segment);

    const Frame segment6 = tcp(peer6, us6, run(34));
    const auto datagram6 =
        host.receive(frame6(ipv6({.from = peer6, .to = us6, .traffic_class = 2}, segment6)));
    ASSERT_TRUE(datagram6);
    EXPECT_EQ(datagram6->source, peer6);
    EXPECT_EQ(datagram6->ecn, tcp::Ecn::ect0);
    EXPECT_EQ(payload_of(*datagram6), segment6);
    EXPECT_EQ(host.count().frames, 2U);
}

// T61
TEST(Receive, EveryBrokenBitIsFoundWhenThePortDoesNotLook) {
    Host host{usual_options()};
    const Frame good4 = frame4(ipv4({.from = peer, .to = us}, tcp(peer, us, run(7))));
    const Frame good6 = frame6(ipv6({.from = peer6, .to = us6}, tcp(peer6, us6, run(7))));
    for (const Frame& good : {good4, good6}) {
        ASSERT_TRUE(host.receive(good));
        const bool v6 = get16(good, 12) == 0x86dd;
        // IPv6's own header has no checksum: only its addresses are under TCP's.
        for (std::size_t at = v6 ? 22 : 14; at < good.size(); ++at) {
            Frame broken = good;
            broken[at] ^= std::byte{0x04};
            EXPECT_FALSE(host.receive(broken)) << at;
        }
    }
    const std::uint64_t before = host.count().bad_checksum;
    Frame broken = good4;
    broken.back() ^= std::byte{1};
    EXPECT_FALSE(host.receive(broken));
    EXPECT_EQ(host.count().bad_checksum, before + 1);
}

// T61
TEST(Receive, WhatThePortSaysAboutChecksumsCounts) {
    Host host{usual_options()};
    const Frame good = frame4(ipv4({.from = peer, .to = us}, tcp(peer, us)));
    EXPECT_FALSE(host.receive(good, ChecksumState::bad, ChecksumState::good));
    EXPECT_FALSE(host.receive(good, ChecksumState::good, ChecksumState::bad));
    EXPECT_EQ(host.count().bad_checksum, 2U);
    Frame partial = good; // a neighbour on the same host left the sums to a device that never was
    partial[24] ^= std::byte{1};
    partial[14 + 20 + 16] ^= std::byte{1};
    EXPECT_TRUE(host.receive(partial, ChecksumState::good, ChecksumState::good));
    EXPECT_FALSE(host.receive(partial, ChecksumState::good, ChecksumState::unknown));
    EXPECT_FALSE(host.receive(partial, ChecksumState::unknown, ChecksumState::good));
}

// T62
TEST(Receive, ThePaddingOfAShortFrameIsNoData) {
    Host host{usual_options()};
    const Frame segment = tcp(peer, us, run(1));
    const auto datagram =
        host.receive(frame4(ipv4({.from = peer, .to = us}, segment) + run(5, 99)));
    ASSERT_TRUE(datagram);
    EXPECT_EQ(payload_of(*datagram), segment);
    const Frame segment6 = tcp(peer6, us6);
    const auto datagram6 =
        host.receive(frame6(ipv6({.from = peer6, .to = us6}, segment6) + run(9, 99)));
    ASSERT_TRUE(datagram6);
    EXPECT_EQ(payload_of(*datagram6), segment6);
}

// T62
TEST(Receive, LengthsThatContradictEachOtherAreDropped) {
    Host host{usual_options()};
    const Frame packet = ipv4({.from = peer, .to = us}, tcp(peer, us));
    const auto with = [&](std::size_t at, int value) {
        Frame changed = packet;
        changed[at] = static_cast<std::byte>(value);
        return frame4(changed);
    };
    const auto good = ChecksumState::good;
    EXPECT_FALSE(host.receive(with(0, 0x44), good, good)); // a header of 16 bytes
    EXPECT_FALSE(host.receive(with(0, 0x4f), good, good)); // one longer than the packet
    EXPECT_FALSE(host.receive(with(0, 0x65), good, good)); // IPv6 in an IPv4 frame
    EXPECT_FALSE(host.receive(with(3, 19), good, good));   // total shorter than the header
    EXPECT_FALSE(host.receive(with(3, 41), good, good));   // total longer than the frame
    EXPECT_FALSE(host.receive(with(3, 39), good, good));   // no whole TCP header
    EXPECT_FALSE(host.receive({packet.begin(), packet.begin() + 13}));
    EXPECT_EQ(host.count().bad_header, 7U);
    for (std::size_t bytes = 0; bytes < packet.size(); ++bytes) {
        Frame cut = frame4(packet);
        cut.resize(14 + bytes);
        EXPECT_FALSE(host.receive(cut, good, good)) << bytes;
    }
    const Frame packet6 = ipv6({.from = peer6, .to = us6}, tcp(peer6, us6));
    for (std::size_t bytes = 0; bytes < packet6.size(); ++bytes) {
        Frame cut = frame6(packet6);
        cut.resize(14 + bytes);
        EXPECT_FALSE(host.receive(cut, good, good)) << bytes;
    }
    Frame jumbo = packet6;
    jumbo[4] = jumbo[5] = std::byte{0};
    EXPECT_FALSE(host.receive(frame6(jumbo), good, good));
    EXPECT_TRUE(host.receive(frame4(packet)));
    EXPECT_TRUE(host.receive(frame6(packet6)));
}

// T63
TEST(Receive, SourcesThatNoHostCanHaveAreDropped) {
    Host host{usual_options()};
    const auto good = ChecksumState::good;
    std::uint64_t dropped = 0;
    for (const char* source : {"192.0.2.10" /* LAND */, "0.0.0.0", "0.1.2.3", "127.0.0.1",
                               "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
                               "192.0.2.255" /* our network's broadcast */, "192.0.2.0"}) {
        const IpAddress from = ip(source);
        EXPECT_FALSE(
            host.receive(frame4(ipv4({.from = from, .to = us}, tcp(from, us))), good, good))
            << source;
        EXPECT_EQ(host.count().bad_source, ++dropped) << source;
    }
    for (const char* source : {"2001:db8::10", "::", "::1", "ff02::1", "fe80::ff:fe00:1"}) {
        const IpAddress from = ip(source);
        EXPECT_FALSE(
            host.receive(frame6(ipv6({.from = from, .to = us6}, tcp(from, us6))), good, good))
            << source;
        EXPECT_EQ(host.count().bad_source, ++dropped) << source;
    }
    // A v4-mapped source must not pass for the IPv4 host.
    Frame mapped = ipv6({.from = peer6, .to = us6}, tcp(peer6, us6));
    const Frame raw = Frame(10) + bytes({0xff, 0xff, 198, 51, 100, 7});
    std::ranges::copy(raw, mapped.begin() + 8);
    EXPECT_FALSE(host.receive(frame6(mapped), good, good));
    EXPECT_EQ(host.count().bad_source, ++dropped);
    Frame from_group = frame4(ipv4({.from = peer, .to = us}, tcp(peer, us)));
    from_group[6] |= std::byte{1};
    EXPECT_FALSE(host.receive(from_group));
    EXPECT_EQ(host.count().bad_source, ++dropped);
}

// T63
TEST(Receive, WhatIsNotToUsAloneIsNotOurs) {
    Host host{usual_options()};
    const Frame good = ipv4({.from = peer, .to = us}, tcp(peer, us));
    EXPECT_FALSE(host.receive(frame4(good, other_mac)));
    EXPECT_FALSE(host.receive(frame4(good, everybody)));
    EXPECT_FALSE(host.receive(frame4(good, {0x01, 0, 0x5e, 0, 0, 1})));
    std::uint64_t expected = 3;
    for (const char* destination :
         {"192.0.2.11", "192.0.2.255", "255.255.255.255", "224.0.0.1", "127.0.0.1"}) {
        const IpAddress to = ip(destination);
        EXPECT_FALSE(host.receive(frame4(ipv4({.from = peer, .to = to}, tcp(peer, to)))))
            << destination;
        EXPECT_EQ(host.count().not_ours, ++expected) << destination;
    }
    const Frame good6 = ipv6({.from = peer6, .to = us6}, tcp(peer6, us6));
    EXPECT_FALSE(host.receive(frame6(good6, other_mac)));
    EXPECT_FALSE(host.receive(frame6(good6, {0x33, 0x33, 0xff, 0, 0, 0x10})));
    for (const char* destination : {"2001:db8::11", "ff02::1", "ff02::1:ff00:10", "ff02::2"}) {
        const IpAddress to = ip(destination);
        const MacAddress mac = destination[0] == 'f' ? MacAddress{0x33, 0x33, 0, 0, 0, 1} : our_mac;
        EXPECT_FALSE(host.receive(frame6(ipv6({.from = peer6, .to = to}, tcp(peer6, to)), mac)))
            << destination;
    }
    EXPECT_EQ(host.count().not_ours, expected + 6);
}

TEST(Receive, OtherProtocolsAndEthertypesAreCounted) {
    Host host{usual_options()};
    host.receive(frame4(ipv4({.from = peer, .to = us, .protocol = 17}, run(20))));
    host.receive(frame4(ipv4({.from = peer, .to = us, .protocol = 58}, run(20))));
    host.receive(frame6(ipv6({.from = peer6, .to = us6, .next = 1}, run(20))));
    host.receive(frame6(ipv6({.from = peer6, .to = us6, .next = 59}, run(20))));
    host.receive(ethernet(our_mac, peer_mac, 0x88cc, run(46)));
    host.receive(ethernet(our_mac, peer_mac, 0x0026, run(46))); // 802.3 with a length
    EXPECT_EQ(host.count().unknown_protocol, 6U);
}

TEST(Receive, Ipv4OptionsAreSkippedButSourceRoutesAreRefused) {
    Host host{usual_options()};
    const auto with = [&](const Frame& options) {
        return host.receive(
            frame4(ipv4({.from = peer, .to = us, .options = options}, tcp(peer, us, run(5)))));
    };
    const auto datagram =
        with(bytes({1, 1, 7, 7, 4, 0, 0, 0, 0, 0, 0, 0})); // nop, nop, record route, end
    ASSERT_TRUE(datagram);
    EXPECT_EQ(datagram->payload.size(), 25U);
    EXPECT_TRUE(with(bytes({0, 131, 7, 4}))); // behind the end of the list nothing counts
    EXPECT_FALSE(with(bytes({131, 7, 4, 10, 0, 0, 1, 0})));
    EXPECT_FALSE(with(bytes({1, 137, 7, 4, 10, 0, 0, 1})));
    EXPECT_FALSE(with(bytes({7, 0, 0, 0})));
    EXPECT_FALSE(with(bytes({7, 1, 0, 0})));
    EXPECT_FALSE(with(bytes({7, 5, 0, 0})));
    EXPECT_FALSE(with(bytes({1, 1, 1, 7})));
    EXPECT_EQ(host.count().bad_header, 6U);
}

Frame options_header(int next, const Frame& options) { // options fill up 6 bytes, or 14, ...
    return bytes({next, static_cast<int>((options.size() + 2) / 8 - 1)}) + options;
}

TEST(Receive, Ipv6ExtensionHeadersThatMayBeSkippedAreSkipped) {
    Host host{usual_options()};
    const Frame segment = tcp(peer6, us6, run(11));
    const Frame pad = bytes({1, 4, 0, 0, 0, 0});
    const auto with = [&](unsigned next, const Frame& headers) {
        return host.receive(
            frame6(ipv6({.from = peer6, .to = us6, .next = next}, headers + segment)));
    };
    const auto datagram =
        with(0, options_header(60, bytes({5, 2, 0, 0, 0, 0})) + options_header(6, pad));
    ASSERT_TRUE(datagram);
    EXPECT_EQ(payload_of(*datagram), segment);
    EXPECT_TRUE(
        with(60, options_header(6, bytes({0x1e, 4, 9, 9, 9, 9})))); // unknown, may be skipped
    EXPECT_TRUE(with(43, bytes({6, 0, 4, 0, 0, 0, 0, 0})));         // routing, used up
    EXPECT_TRUE(with(44, bytes({6, 0, 0, 0, 1, 2, 3, 4})));         // an atomic fragment
    EXPECT_EQ(host.count().fragments, 0U);

    EXPECT_FALSE(
        with(60, options_header(6, bytes({0x5e, 4, 9, 9, 9, 9})))); // unknown, must discard
    EXPECT_FALSE(with(60, options_header(6, bytes({0x9e, 4, 9, 9, 9, 9}))));
    EXPECT_FALSE(with(60, options_header(6, bytes({1, 5, 0, 0, 0, 0}))));    // runs over the end
    EXPECT_FALSE(with(43, bytes({6, 0, 0, 0, 0, 0, 0, 0})));                 // RFC 5095
    EXPECT_FALSE(with(43, bytes({6, 0, 4, 1, 0, 0, 0, 0})));                 // somewhere else to go
    EXPECT_FALSE(with(60, options_header(0, pad) + options_header(6, pad))); // hop-by-hop not first
    EXPECT_FALSE(with(60, bytes({6, 200, 0, 0, 0, 0, 0, 0}))); // longer than the packet
    EXPECT_FALSE(with(44, bytes({44, 0, 0, 0, 1, 2, 3, 4}) + bytes({6, 0, 0, 0, 1, 2, 3, 4})));
    Frame many;
    for (int i = 0; i < 20; ++i)
        many = many + options_header(i == 19 ? 6 : 60, pad);
    EXPECT_FALSE(with(60, many));
    EXPECT_EQ(host.count().bad_header, 9U);
}

TEST(Receive, OnlyOurVlanIsHeard) {
    LayerOptions options = usual_options();
    options.vlan = 42;
    Host tagged{options}, plain{usual_options()};
    const Frame packet = ipv4({.from = peer, .to = us}, tcp(peer, us));
    const auto in_vlan = [&](unsigned tag) {
        return ethernet(our_mac, peer_mac, 0x8100, in16(tag) + in16(0x0800) + packet);
    };
    EXPECT_TRUE(tagged.receive(in_vlan(42)));
    EXPECT_TRUE(tagged.receive(in_vlan(0xe000 | 42))); // whatever its priority
    EXPECT_FALSE(tagged.receive(in_vlan(43)));
    EXPECT_FALSE(tagged.receive(in_vlan(0)));
    EXPECT_FALSE(tagged.receive(frame4(packet)));
    EXPECT_EQ(tagged.count().not_ours, 3U);
    EXPECT_TRUE(plain.receive(in_vlan(0xe000))); // a priority only
    EXPECT_FALSE(plain.receive(in_vlan(42)));
    EXPECT_FALSE(plain.receive(ethernet(our_mac, peer_mac, 0x8100, bytes({0, 0}))));
    EXPECT_EQ(plain.count().bad_header, 1U);
}

TEST(Receive, ThousandsOfAddressesAreAllOurs) {
    LayerOptions options;
    for (int i = 0; i < 8000; ++i) {
        const auto high = static_cast<std::uint8_t>(i >> 8), low = static_cast<std::uint8_t>(i);
        options.addresses.push_back({IpAddress::v4({10, 1, high, low}), 32});
        options.addresses.push_back(
            {IpAddress::v6({0x20, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low}), 64});
    }
    Host host{options};
    for (const auto& address : options.addresses)
        ASSERT_TRUE(host.layer.is_ours(address.ip)) << address.ip.to_string();
    EXPECT_FALSE(host.layer.is_ours(ip("10.2.0.0")));
    EXPECT_TRUE(host.receive(
        frame4(ipv4({.from = peer, .to = ip("10.1.30.64")}, tcp(peer, ip("10.1.30.64"))))));
    EXPECT_EQ(host.layer.source_for(ip("2001:1::ffff:1")), ip("2001:1::"));
}

// T64
TEST(Receive, RandomFramesAreDroppedWithoutHarm) {
    Host host{usual_options()};
    std::minstd_rand random{20'261'122};
    const std::vector<Frame> seeds{
        frame4(ipv4({.from = peer, .to = us}, tcp(peer, us, run(40)))),
        frame6(ipv6({.from = peer6, .to = us6}, tcp(peer6, us6, run(40)))),
        frame4(ipv4({.from = peer, .to = us, .place = 0x2000}, run(64))),
        frame6(ipv6({.from = peer6, .to = us6, .next = 44},
                    bytes({6, 0, 0, 1, 1, 2, 3, 4}) + run(64))),
        ethernet(everybody, peer_mac, 0x0806, arp(false, peer_mac, ip("192.0.2.11"), {}, us)),
        frame4(ipv4({.from = peer, .to = us, .protocol = 1},
                    icmp(bytes({8, 0, 0, 0, 1, 1, 1, 1}) + run(9)))),
    };
    for (int round = 0; round < 200'000; ++round) {
        Frame frame = seeds[random() % seeds.size()];
        for (unsigned change = 0; change < 1 + random() % 4; ++change)
            frame[random() % frame.size()] = static_cast<std::byte>(random() >> 8);
        if (random() % 4 == 0) frame.resize(random() % (frame.size() + 1));
        host.receive(frame, ChecksumState::good,
                     random() % 2 ? ChecksumState::good : ChecksumState::unknown);
        host.now += 1ms;
        host.layer.on_timer(host.now);
        host.port.sent.clear();
        host.port.control.clear();
        host.learned.clear();
    }
    EXPECT_EQ(host.count().frames, 200'000U);
    EXPECT_TRUE(host.receive(seeds[0]));
    EXPECT_TRUE(host.receive(seeds[1]));
}

} // namespace
} // namespace dataplane::net::ip::test
