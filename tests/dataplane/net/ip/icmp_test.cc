#include "frames.h"

#include <algorithm>

namespace dataplane::net::ip::test {
namespace {

const IpAddress us = ip("192.0.2.10"), peer = ip("198.51.100.7"), router = ip("203.0.113.1");
const IpAddress us6 = ip("2001:db8::10"), peer6 = ip("2001:db8:f::7"),
                router6 = ip("2001:db8:e::1");

Frame from_router(const Frame& message) {
    return ethernet(our_mac, peer_mac, 0x0800,
                    ipv4({.from = router, .to = us, .protocol = 1}, icmp(message)));
}
Frame from_router6(const Frame& message) {
    return ethernet(our_mac, peer_mac, 0x86dd,
                    ipv6({.from = router6, .to = us6, .next = 58}, icmp6(router6, us6, message)));
}
/// The first 28 bytes of a packet of ours with 1000 bytes of payload, as a router quotes them.
Frame quoted() {
    Frame packet = ipv4({.from = us, .to = peer, .place = 0x4000},
                        tcp(us, peer, run(1000), 40000, 25, 0xabcd0123));
    packet.resize(28);
    return packet;
}
Frame quoted6() {
    return ipv6({.from = us6, .to = peer6}, tcp(us6, peer6, run(1000), 40000, 25, 0xabcd0123));
}
Frame error(int type, int code, unsigned mtu = 0, const Frame& inner = quoted()) {
    return from_router(bytes({type, code, 0, 0, 0, 0}) + in16(mtu) + inner);
}
Frame error6(int type, int code, std::uint32_t mtu = 0, const Frame& inner = quoted6()) {
    return from_router6(bytes({type, code, 0, 0}) + in32(mtu) + inner);
}

Frame echo_request(std::size_t data) {
    return bytes({8, 0, 0, 0, 0x12, 0x34, 0, 7}) + run(data);
}

TEST(Echo, IsAnsweredWithItsOwnDataWhateverTheLength) {
    for (const std::size_t data : {0U, 1U, 56U, 86U, 87U, 500U, 1471U, 1472U}) {
        Host host{usual_options()};
        const Frame request =
            ethernet(our_mac, peer_mac, 0x0800,
                     ipv4({.from = peer, .to = us, .protocol = 1}, icmp(echo_request(data))));
        EXPECT_FALSE(host.receive(request));
        ASSERT_EQ(host.port.sent.size(), 1U) << data;
        Frame reply = echo_request(data);
        reply[0] = std::byte{0};
        EXPECT_EQ(
            host.take(),
            ethernet(peer_mac, our_mac, 0x0800,
                     ipv4({.from = us, .to = peer, .protocol = 1, .place = 0x4000}, icmp(reply))))
            << data;
        EXPECT_EQ(host.count().echo_answered, 1U);
    }
}

TEST(Echo, IsAnsweredOverIpv6Too) {
    for (const std::size_t data : {0U, 56U, 65U, 66U, 67U, 1452U}) {
        Host host{usual_options()};
        Frame request = echo_request(data);
        request[0] = std::byte{128};
        host.receive(
            ethernet(our_mac, peer_mac, 0x86dd,
                     ipv6({.from = peer6, .to = us6, .next = 58}, icmp6(peer6, us6, request))));
        Frame reply = echo_request(data);
        reply[0] = std::byte{129};
        ASSERT_EQ(host.port.sent.size(), 1U) << data;
        EXPECT_EQ(host.take(),
                  ethernet(peer_mac, our_mac, 0x86dd,
                           ipv6({.from = us6, .to = peer6, .next = 58}, icmp6(us6, peer6, reply))))
            << data;
    }
}

TEST(Echo, AFloodGetsABoundedNumberOfAnswers) {
    Host host{usual_options()};
    const Frame request =
        ethernet(our_mac, peer_mac, 0x0800,
                 ipv4({.from = peer, .to = us, .protocol = 1}, icmp(echo_request(8))));
    for (int i = 0; i < 5000; ++i)
        host.receive(request);
    EXPECT_EQ(host.port.sent.size(), 1000U);
    EXPECT_EQ(host.count().echo_suppressed, 4000U);
    EXPECT_FALSE(host.port.control.front()); // pings have no right to the reserve
    host.pass(1s);
    host.receive(request);
    EXPECT_EQ(host.port.sent.size(), 1001U);
}

TEST(Echo, APortThatTakesNothingCostsNothing) {
    Host host{usual_options()};
    host.port.answer = SendResult::no_buffers;
    for (int i = 0; i < 100; ++i) // more than there are slabs for long answers
        host.receive(
            ethernet(our_mac, peer_mac, 0x0800,
                     ipv4({.from = peer, .to = us, .protocol = 1}, icmp(echo_request(1000)))));
    EXPECT_EQ(host.count().echo_suppressed, 100U);
    host.port.answer = SendResult::queued;
    host.receive(ethernet(our_mac, peer_mac, 0x0800,
                          ipv4({.from = peer, .to = us, .protocol = 1}, icmp(echo_request(1000)))));
    EXPECT_EQ(host.count().echo_answered, 1U);
}

// T61
TEST(Icmp, BrokenChecksumsAreFoundWhateverThePortSays) {
    Host host{usual_options()};
    for (Frame frame : {from_router(echo_request(8)), error(3, 3), error6(1, 4),
                        from_router6(bytes({128, 0, 0, 0, 0, 0, 0, 0}))}) {
        frame.back() ^= std::byte{1};
        host.receive(frame, ChecksumState::good, ChecksumState::good);
        host.receive(frame, ChecksumState::good, ChecksumState::unknown);
    }
    EXPECT_EQ(host.count().bad_checksum, 8U);
    EXPECT_TRUE(host.port.sent.empty());
    EXPECT_EQ(host.count().icmp_errors_in, 0U);
}

// T19, T65
TEST(Icmp, AnErrorAboutOurSegmentSaysWhichAndHowBad) {
    using Kind = TransportError::Kind;
    struct Case {
        int type, code;
        Kind kind;
        base::NetError error;
    };
    const auto refused = base::NetError::refused, unreachable = base::NetError::unreachable;
    Host host{usual_options()};
    for (const Case& c :
         {Case{3, 0, Kind::soft, unreachable}, Case{3, 1, Kind::soft, unreachable},
          Case{3, 2, Kind::hard, unreachable}, Case{3, 3, Kind::hard, refused},
          Case{3, 5, Kind::soft, unreachable}, Case{3, 9, Kind::hard, unreachable},
          Case{3, 11, Kind::soft, unreachable}, Case{3, 13, Kind::hard, unreachable},
          Case{11, 0, Kind::soft, unreachable}, Case{12, 0, Kind::soft, unreachable}}) {
        EXPECT_FALSE(host.receive(error(c.type, c.code)));
        ASSERT_TRUE(host.error) << c.type << " " << c.code;
        EXPECT_EQ(host.error->kind, c.kind) << c.type << " " << c.code;
        EXPECT_EQ(host.error->error, c.error) << c.type << " " << c.code;
        EXPECT_EQ(host.error->source, us);
        EXPECT_EQ(host.error->destination, peer);
        EXPECT_EQ(host.error->source_port, 40000);
        EXPECT_EQ(host.error->destination_port, 25);
        EXPECT_EQ(host.error->seq, tcp::Seq{0xabcd0123});
    }
    for (const Case& c :
         {Case{1, 0, Kind::soft, unreachable}, Case{1, 1, Kind::hard, unreachable},
          Case{1, 3, Kind::soft, unreachable}, Case{1, 4, Kind::hard, refused},
          Case{3, 0, Kind::soft, unreachable}, Case{4, 1, Kind::soft, unreachable}}) {
        EXPECT_FALSE(host.receive(error6(c.type, c.code)));
        ASSERT_TRUE(host.error) << c.type << " " << c.code;
        EXPECT_EQ(host.error->kind, c.kind) << c.type << " " << c.code;
        EXPECT_EQ(host.error->error, c.error) << c.type << " " << c.code;
        EXPECT_EQ(host.error->source, us6);
        EXPECT_EQ(host.error->destination, peer6);
        EXPECT_EQ(host.error->seq, tcp::Seq{0xabcd0123});
    }
    EXPECT_EQ(host.count().icmp_errors_in, 16U);
    EXPECT_EQ(host.count().icmp_errors_ignored, 0U);
    host.receive(
        ethernet(our_mac, peer_mac, 0x0800, ipv4({.from = peer, .to = us}, tcp(peer, us))));
    EXPECT_FALSE(host.error); // never left over from the frame before
}

// T19, T65
TEST(Icmp, WhatCannotBeAboutASegmentOfOursIsIgnored) {
    Host host{usual_options()};
    const auto inner = [](std::size_t at, int value) {
        Frame changed = quoted();
        changed[at] = static_cast<std::byte>(value);
        return changed;
    };
    const auto inner6 = [](std::size_t at, int value) {
        Frame changed = quoted6();
        changed[at] = static_cast<std::byte>(value);
        return changed;
    };
    Frame cut = quoted(), cut6 = quoted6();
    cut.resize(27);
    cut6.resize(47);
    const Frame in_options = inner(0, 0x46); // then the ports are not all there
    Frame others = quoted();
    others[15] = std::byte{11}; // somebody else's packet
    Frame no_port = quoted();
    no_port[20] = no_port[21] = std::byte{0};
    const std::vector<Frame> frames{
        error(3, 3, 0, cut),
        error(3, 3, 0, in_options),
        error(3, 3, 0, others),
        error(3, 3, 0, no_port),
        error(3, 3, 0, inner(0, 0x65)),
        error(3, 3, 0, inner(0, 0x44)),
        error(3, 3, 0, inner(9, 17)),
        error(3, 3, 0, inner(6, 0x20)),
        error(3, 3, 0, inner(7, 1)),
        error(3, 3, 0, inner(2, 0)),
        error(3, 3, 0, inner(16, 224)),
        error(3, 16),
        error6(1, 4, 0, cut6),
        error6(1, 7),
        error6(1, 4, 0, inner6(0, 0x45)),
        error6(1, 4, 0, inner6(6, 17)),
        error6(1, 4, 0, inner6(23, 0x11)),
        error6(1, 4, 0, inner6(24, 0xff)),
        error6(99, 0),
    };
    for (std::size_t i = 0; i < frames.size(); ++i) {
        host.receive(frames[i]);
        EXPECT_FALSE(host.error) << i;
    }
    EXPECT_EQ(host.count().icmp_errors_in, frames.size());
    EXPECT_EQ(host.count().icmp_errors_ignored, frames.size());
}

// T65
TEST(Icmp, PacketTooBigIsClampedAndAZeroMtuMeansTheNextPlateau) {
    Host host{usual_options()};
    const auto mtu_of = [&](const Frame& frame) {
        host.receive(frame);
        EXPECT_TRUE(host.error && host.error->kind == TransportError::Kind::packet_too_big);
        return host.error ? host.error->mtu : 0;
    };
    EXPECT_EQ(mtu_of(error(3, 4, 1400)), 1400);
    EXPECT_EQ(mtu_of(error(3, 4, 68)), 576);
    EXPECT_EQ(mtu_of(error(3, 4, 1)), 576);
    EXPECT_EQ(mtu_of(error(3, 4, 0)), 1006); // the packet had 1040 bytes
    Frame full = quoted();
    full[2] = std::byte{1500 >> 8};
    full[3] = std::byte{1500 & 0xff};
    EXPECT_EQ(mtu_of(error(3, 4, 0, full)), 1492);
    EXPECT_EQ(mtu_of(error6(2, 0, 1400)), 1400);
    EXPECT_EQ(mtu_of(error6(2, 0, 1279)), 1280);
    EXPECT_EQ(mtu_of(error6(2, 0, 0)), 1280);
    // No router can want less than our own link took.
    for (const Frame& frame :
         {error(3, 4, 1500), error(3, 4, 65535), error6(2, 0, 1500), error6(2, 0, 0xffffffff)}) {
        host.receive(frame);
        EXPECT_FALSE(host.error);
    }
    EXPECT_EQ(host.count().icmp_errors_ignored, 4U);
}

TEST(Icmp, RedirectsQuenchesAndAdvertisementsOfRoutersChangeNothing) {
    Host host{usual_options()};
    for (const int type : {4, 5, 9, 13, 0})
        host.receive(from_router(bytes({type, 0, 0, 0, 192, 0, 2, 66}) + quoted()));
    for (const int type : {133, 134, 137, 130, 129})
        host.receive(from_router6(bytes({type, 0, 0, 0, 0, 0, 0, 0}) + Frame(40)));
    EXPECT_EQ(host.count().unknown_protocol, 10U);
    EXPECT_EQ(host.layer.next_hop(peer), ip("192.0.2.1"));
    EXPECT_TRUE(host.port.sent.empty());
}

} // namespace
} // namespace dataplane::net::ip::test
