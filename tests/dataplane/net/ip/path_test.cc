#include "dataplane/net/ip/path_mtu.h"
#include "frames.h"

#include <algorithm>

namespace dataplane::net::ip::test {
namespace {

const IpAddress us = ip("192.0.2.10"), gateway = ip("192.0.2.1"), far_away = ip("198.51.100.7");
const IpAddress us6 = ip("2001:db8::10"), gateway6 = ip("2001:db8::1"),
                far_away6 = ip("2001:db8:f::7");

LayerOptions peer_options() {
    LayerOptions options;
    options.addresses = {{ip("192.0.2.11"), 24}, {ip("2001:db8::11"), 64}};
    return options;
}

/// Hands frames over until both are silent; gives the last datagram that `to` received.
std::optional<Datagram> exchange(Host& from, Host& to) {
    std::optional<Datagram> last;
    for (int rounds = 0; rounds < 10; ++rounds) {
        for (Frame& frame : std::exchange(from.port.sent, {})) {
            if (auto datagram = to.receive(std::move(frame))) last = datagram;
        }
        for (Frame& frame : std::exchange(to.port.sent, {}))
            from.receive(std::move(frame));
    }
    return last;
}

TEST(Send, TwoHostsFindEachOtherAndADatagramArrivesAsItWasSent) {
    for (const std::optional<std::uint16_t> vlan : {std::optional<std::uint16_t>{}, {42}}) {
        for (const bool v6 : {false, true}) {
            LayerOptions a_options = usual_options(), b_options = peer_options();
            a_options.vlan = b_options.vlan = vlan;
            Host a{a_options, our_mac}, b{b_options, peer_mac, 2};
            const IpAddress to = v6 ? ip("2001:db8::11") : ip("192.0.2.11");
            Path path;
            EXPECT_EQ(a.send(to, path, run(999)), Sent::unresolved);
            exchange(a, b);
            ASSERT_EQ(a.settled.size(), 1U);
            EXPECT_EQ(a.send(to, path, run(999)), Sent::sent);
            const auto datagram = exchange(a, b);
            ASSERT_TRUE(datagram); // so its checksums were right
            EXPECT_EQ(datagram->source, v6 ? us6 : us);
            EXPECT_EQ(datagram->destination, to);
            EXPECT_EQ(datagram->ecn, tcp::Ecn::ect0);
            EXPECT_TRUE(std::ranges::equal(datagram->payload.subspan(20), run(999)));
            Path back; // who was asked knows who asked
            EXPECT_EQ(b.send(v6 ? us6 : us, back), Sent::sent);
        }
    }
}

TEST(Send, TheIpv4HeaderForbidsFragmentationAndLeaksNoCounter) {
    Host host{usual_options()};
    host.layer.learn(gateway, peer_mac, host.now);
    Path path;
    for (int i = 0; i < 2; ++i) {
        ASSERT_EQ(host.send(far_away, path, run(100)), Sent::sent);
        const Frame frame = host.take();
        EXPECT_EQ(frame.size(), 14U + 20 + 20 + 100);
        EXPECT_EQ(get16(frame, 14), 0x4502);
        EXPECT_EQ(get16(frame, 16), 140);
        EXPECT_EQ(get16(frame, 18), 0);
        EXPECT_EQ(get16(frame, 20), 0x4000);
        EXPECT_EQ(get16(frame, 22), 64 << 8 | 6);
        EXPECT_EQ(get_v4(frame, 26), us);
        EXPECT_EQ(get_v4(frame, 30), far_away);
    }
}

TEST(Send, TheIpv6HeaderIsPlain) {
    Host host{usual_options()};
    host.layer.learn(gateway6, peer_mac, host.now);
    Path path;
    ASSERT_EQ(host.send(far_away6, path, run(100)), Sent::sent);
    const Frame frame = host.take();
    EXPECT_EQ(frame.size(), 14U + 40 + 20 + 100);
    EXPECT_EQ(get32(frame, 14), 0x6020'0000U); // ECT(0)
    EXPECT_EQ(get16(frame, 18), 120);
    EXPECT_EQ(get16(frame, 20), 6 << 8 | 64);
    EXPECT_EQ(get_v6(frame, 22), us6);
    EXPECT_EQ(get_v6(frame, 38), far_away6);
}

// T68
TEST(Send, WhatThePortRefusesIsSaidAndThePathStaysGood) {
    Host host{usual_options()};
    host.layer.learn(gateway, peer_mac, host.now);
    Path path;
    host.port.answer = SendResult::no_buffers;
    EXPECT_EQ(host.send(far_away, path), Sent::no_buffers);
    host.port.answer = SendResult::ring_full;
    EXPECT_EQ(host.send(far_away, path), Sent::ring_full);
    host.port.answer = SendResult::queued;
    EXPECT_EQ(host.send(far_away, path), Sent::sent);
}

// T68
TEST(Send, AQuestionThatThePortRefusedIsAskedAgain) {
    Host host{usual_options()};
    host.port.answer = SendResult::no_buffers;
    EXPECT_EQ(host.send(far_away), Sent::unresolved);
    host.port.answer = SendResult::queued;
    host.pass(1100ms);
    EXPECT_EQ(host.port.sent.size(), 1U);
}

TEST(Send, TheLongestHeaderFits) {
    LayerOptions options = usual_options();
    options.vlan = 4095;
    Host host{options};
    host.layer.learn(gateway6, peer_mac, host.now);
    Frame header(60);
    header[12] = std::byte{0xf0};
    Path path;
    EXPECT_EQ(
        host.layer.send(path, us6, far_away6, tcp::Ecn::not_ect, header, {}, 1220, true, host.now),
        Sent::sent);
    EXPECT_EQ(host.port.sent.at(0).size(), 118U);
    EXPECT_EQ(host.port.last_segment_bytes, 1220);
    EXPECT_TRUE(host.port.control.at(0));
}

TEST(Route, TheLongestPrefixWinsAndTheLinkNeedsNoGateway) {
    LayerOptions options = usual_options();
    options.routes.push_back({{ip("198.51.100.0"), 24}, ip("192.0.2.2")});
    options.routes.push_back({{ip("198.51.0.0"), 16}, ip("192.0.2.3")});
    options.routes.push_back({{ip("192.0.2.128"), 25}, ip("192.0.2.4")});
    const Host host{options};
    EXPECT_EQ(host.layer.next_hop(ip("203.0.113.1")), gateway);
    EXPECT_EQ(host.layer.next_hop(far_away), ip("192.0.2.2"));
    EXPECT_EQ(host.layer.next_hop(ip("198.51.7.1")), ip("192.0.2.3"));
    EXPECT_EQ(host.layer.next_hop(ip("192.0.2.77")), ip("192.0.2.77"));
    EXPECT_EQ(host.layer.next_hop(ip("192.0.2.200")),
              ip("192.0.2.4")); // longer than the link's own
    EXPECT_EQ(host.layer.next_hop(far_away6), gateway6);
    EXPECT_EQ(host.layer.next_hop(ip("fe80::5")), ip("fe80::5"));
}

TEST(Route, WhatCannotBeSentToHasNone) {
    Host host{usual_options()};
    std::uint64_t asked = 0;
    for (const char* to : {"0.0.0.0", "127.0.0.1", "224.0.0.5", "255.255.255.255", "192.0.2.255",
                           "192.0.2.10" /* ours */, "::", "::1", "ff02::1", "2001:db8::10"}) {
        EXPECT_EQ(host.layer.next_hop(ip(to)), std::nullopt) << to;
        EXPECT_FALSE(host.layer.path(ip(to), host.now)) << to;
        EXPECT_EQ(host.send(ip(to)), Sent::unreachable) << to;
        EXPECT_EQ(host.count().no_route, ++asked);
    }
    Host island{peer_options()};
    EXPECT_EQ(island.send(far_away), Sent::unreachable);
    EXPECT_TRUE(host.port.sent.empty());
}

TEST(Route, OurAddressIsOneOnTheWayThere) {
    LayerOptions options = usual_options();
    options.addresses.push_back({ip("10.0.0.10"), 8});
    options.addresses.push_back({ip("10.0.0.11"), 8});
    options.routes.push_back({{ip("172.16.0.0"), 12}, ip("10.0.0.1")});
    options.routes.push_back({{ip("2001:db8:1::"), 48}, ip("fe80::1")});
    const Host host{options};
    EXPECT_EQ(host.layer.source_for(ip("10.3.4.5")), ip("10.0.0.10"));
    EXPECT_EQ(host.layer.source_for(ip("172.16.3.4")), ip("10.0.0.10"));
    EXPECT_EQ(host.layer.source_for(far_away), us);
    EXPECT_EQ(host.layer.source_for(ip("2001:db8:1::7")), us6); // not the link-local one
    const Host island{LayerOptions{}};
    EXPECT_EQ(island.layer.source_for(far_away), std::nullopt);
}

TransportError too_big(const IpAddress& to, std::uint16_t mtu) {
    TransportError error;
    error.kind = TransportError::Kind::packet_too_big;
    error.mtu = mtu;
    error.destination = to;
    return error;
}

// T65
TEST(PathMtu, IsLoweredOnlyWhenTheConnectionAgreesAndThenForThatDestination) {
    Host host{usual_options()};
    host.layer.learn(gateway, peer_mac, host.now);
    Path path, other;
    EXPECT_EQ(host.send(far_away, path), Sent::sent);
    EXPECT_EQ(host.send(ip("198.51.100.8"), other), Sent::sent);
    EXPECT_EQ(path.mtu, 1500);

    Frame quoted = ipv4({.from = us, .to = far_away}, tcp(us, far_away, run(1000), 40000, 25));
    host.receive(ethernet(our_mac, peer_mac, 0x0800,
                          ipv4({.from = ip("203.0.113.1"), .to = us, .protocol = 1},
                               icmp(bytes({3, 4, 0, 0, 0, 0}) + in16(1400) + quoted))));
    ASSERT_TRUE(host.error);
    EXPECT_EQ(host.layer.path(far_away, host.now)->mtu, 1500); // anybody could have sent it
    host.layer.accept_path_mtu(*host.error, host.now);
    EXPECT_EQ(host.layer.path(far_away, host.now)->mtu, 1400);
    EXPECT_EQ(host.count().path_mtu_lowered, 1U);
    EXPECT_EQ(host.send(far_away, path), Sent::sent);
    EXPECT_EQ(path.mtu, 1400); // open paths hear of it too
    EXPECT_EQ(host.send(ip("198.51.100.8"), other), Sent::sent);
    EXPECT_EQ(other.mtu, 1500);
}

// T65
TEST(PathMtu, IsNeverRaisedByAnError) {
    Host host{usual_options()};
    host.layer.accept_path_mtu(too_big(far_away, 1300), host.now);
    host.layer.accept_path_mtu(too_big(far_away, 1400), host.now);
    host.layer.accept_path_mtu(too_big(far_away, 1300), host.now);
    EXPECT_EQ(host.layer.path(far_away, host.now)->mtu, 1300);
    host.layer.accept_path_mtu(too_big(far_away, 1200), host.now);
    EXPECT_EQ(host.layer.path(far_away, host.now)->mtu, 1200);
    EXPECT_EQ(host.count().path_mtu_lowered, 2U);
    host.layer.accept_path_mtu(too_big(far_away, 9000), host.now);
    auto not_about_size = too_big(ip("198.51.100.8"), 1000);
    not_about_size.kind = TransportError::Kind::soft;
    host.layer.accept_path_mtu(not_about_size, host.now);
    EXPECT_EQ(host.count().path_mtu_lowered, 2U);
}

// T65
TEST(PathMtu, IsTriedAgainAfterTenMinutes) {
    Host host{usual_options()};
    host.layer.learn(gateway, peer_mac, host.now);
    host.layer.accept_path_mtu(too_big(far_away, 1300), host.now);
    host.pass(5min);
    host.layer.accept_path_mtu(too_big(far_away6, 1280), host.now);
    Path path;
    EXPECT_EQ(host.send(far_away, path), Sent::sent);
    EXPECT_EQ(path.mtu, 1300);
    host.pass(5min + 1s);
    host.layer.learn(gateway, peer_mac, host.now);
    EXPECT_EQ(host.send(far_away, path), Sent::sent);
    EXPECT_EQ(path.mtu, 1500);
    EXPECT_EQ(host.layer.path(far_away6, host.now)->mtu, 1280);
    host.pass(5min);
    EXPECT_EQ(host.layer.path(far_away6, host.now)->mtu, 1500);
}

// T65
TEST(PathMtu, TheTableIsBoundedAndTheOldestGoes) {
    LayerOptions options = usual_options();
    options.path_mtus_max = 100;
    Host host{options};
    const auto at = [](int i) {
        return IpAddress::v4(
            {100, 0, static_cast<std::uint8_t>(i >> 8), static_cast<std::uint8_t>(i)});
    };
    for (int i = 0; i < 1000; ++i)
        host.layer.accept_path_mtu(too_big(at(i), 1300), host.now);
    EXPECT_EQ(host.layer.path(at(899), host.now)->mtu, 1500);
    for (int i = 900; i < 1000; ++i)
        EXPECT_EQ(host.layer.path(at(i), host.now)->mtu, 1300);
    host.pass(11min);
    EXPECT_EQ(host.layer.deadline(), TimePoint::max());
}

TEST(PathMtu, PlateausAreBelowThePacketThatWasTooBig) {
    EXPECT_EQ(plateau_below(65535), 32000);
    EXPECT_EQ(plateau_below(1500), 1492);
    EXPECT_EQ(plateau_below(1492), 1280);
    EXPECT_EQ(plateau_below(577), 576);
    EXPECT_EQ(plateau_below(40), 576);
}

TEST(PathMtu, IsThePortsWhereTheOptionsAllowMore) {
    LayerOptions options = usual_options();
    options.mtu = 9000;
    Host host{options};
    EXPECT_EQ(host.layer.path(far_away, host.now)->mtu, 1500);
    options.mtu = 1400;
    Host smaller{options};
    EXPECT_EQ(smaller.layer.path(far_away, smaller.now)->mtu, 1400);
}

} // namespace
} // namespace dataplane::net::ip::test
