#include "frames.h"

#include <algorithm>

namespace dataplane::net::ip::test {
namespace {

const IpAddress us = ip("192.0.2.10"), gateway = ip("192.0.2.1"), peer = ip("192.0.2.11"),
                far_away = ip("198.51.100.7");
const IpAddress us6 = ip("2001:db8::10"), gateway6 = ip("2001:db8::1"), peer6 = ip("2001:db8::11");
const IpAddress nobody6 = ip("::");

Frame arp_reply(const IpAddress& from, const MacAddress& mac) {
    return ethernet(our_mac, mac, 0x0806, arp(true, mac, from, our_mac, us));
}
Frame arp_request(const IpAddress& from, const MacAddress& mac, const IpAddress& target) {
    return ethernet(everybody, mac, 0x0806, arp(false, mac, from, {}, target));
}
bool is_arp_request(const Frame& frame, const IpAddress& target) {
    return get16(frame, 12) == 0x0806 && get16(frame, 20) == 1 && get_v4(frame, 38) == target;
}

Frame link_option(int type, const MacAddress& mac) {
    return bytes({type, 1}) + in_mac(mac);
}
Frame advertisement(const IpAddress& target, int flags, const Frame& options) {
    return bytes({136, 0, 0, 0, flags, 0, 0, 0}) + in_ip(target) + options;
}
Frame solicitation(const IpAddress& target, const Frame& options) {
    return bytes({135, 0, 0, 0, 0, 0, 0, 0}) + in_ip(target) + options;
}
Frame nd(const IpAddress& from, const IpAddress& to, const MacAddress& mac, const Frame& message,
         unsigned hop_limit = 255, const MacAddress& to_mac = our_mac) {
    return ethernet(to_mac, mac, 0x86dd, ipv6({from, to, 58, hop_limit}, icmp6(from, to, message)));
}
constexpr int solicited = 0x40, override_flag = 0x20;
MacAddress group_mac(const IpAddress& group) {
    const auto& raw = group.bytes();
    return {0x33, 0x33, raw[12], raw[13], raw[14], raw[15]};
}

// T9
TEST(Neighbours, ManyDatagramsToOneUnresolvedNextHopProceedAfterTheReply) {
    Host host{usual_options()};
    std::vector<Path> paths(100);
    for (Path& path : paths)
        EXPECT_EQ(host.send(far_away, path), Sent::unresolved);
    ASSERT_EQ(host.port.sent.size(), 1U); // one question, not a hundred
    EXPECT_TRUE(is_arp_request(host.port.sent[0], gateway));
    EXPECT_EQ(get_mac(host.port.sent[0], 0), everybody);
    EXPECT_EQ(get_v4(host.port.sent[0], 28), us);
    EXPECT_TRUE(host.port.control[0]);
    EXPECT_TRUE(host.settled.empty());

    host.receive(arp_reply(gateway, peer_mac));
    ASSERT_EQ(host.settled.size(), 1U);
    EXPECT_EQ(host.settled[0], std::pair(gateway, true));
    host.take();
    for (Path& path : paths)
        EXPECT_EQ(host.send(far_away, path), Sent::sent);
    ASSERT_EQ(host.port.sent.size(), 100U);
    for (const Frame& frame : host.port.sent) {
        EXPECT_EQ(get_mac(frame, 0), peer_mac);
        EXPECT_EQ(get_v4(frame, 30), far_away);
    }
    EXPECT_EQ(host.settled.size(), 1U);
}

// T9
TEST(Neighbours, WhoNeverAnswersIsUnreachableAfterThreeTriesAndAskedAgainLater) {
    Host host{usual_options()};
    EXPECT_EQ(host.send(peer), Sent::unresolved);
    host.pass(2900ms);
    EXPECT_EQ(host.port.sent.size(), 3U);
    EXPECT_TRUE(host.settled.empty());
    host.pass(200ms);
    ASSERT_EQ(host.settled.size(), 1U);
    EXPECT_EQ(host.settled[0], std::pair(peer, false));
    EXPECT_EQ(host.count().neighbours_failed, 1U);
    EXPECT_EQ(host.send(peer), Sent::unreachable);
    EXPECT_EQ(host.port.sent.size(), 3U);

    host.pass(4s);
    EXPECT_EQ(host.layer.deadline(), TimePoint::max()); // forgotten: nothing is left behind
    EXPECT_EQ(host.send(peer), Sent::unresolved);
    EXPECT_EQ(host.port.sent.size(), 4U);
    host.receive(arp_reply(peer, peer_mac));
    EXPECT_EQ(host.send(peer), Sent::sent);
}

// T9
TEST(Neighbours, OneThatComesBackDuringTheHoldIsUsedAtOnce) {
    Host host{usual_options()};
    EXPECT_EQ(host.send(gateway), Sent::unresolved);
    host.pass(3100ms);
    EXPECT_EQ(host.send(gateway), Sent::unreachable);
    host.receive(arp_request(gateway, peer_mac, gateway)); // gratuitous, at its start
    EXPECT_EQ(host.send(gateway), Sent::sent);
}

// T10
TEST(Neighbours, WhatAnotherShardHeardResolvesOurs) {
    Host asks{usual_options()}, hears{usual_options()};
    EXPECT_EQ(asks.send(peer), Sent::unresolved);
    hears.receive(arp_reply(peer, peer_mac)); // it had not asked itself
    ASSERT_EQ(hears.learned.size(), 1U);
    EXPECT_EQ(hears.learned[0], std::pair(peer, peer_mac));

    asks.layer.learn(peer, peer_mac, asks.now);
    ASSERT_EQ(asks.settled.size(), 1U);
    EXPECT_TRUE(asks.settled[0].second);
    EXPECT_EQ(asks.send(peer), Sent::sent);
    EXPECT_TRUE(asks.learned.empty()); // else shards would tell each other for ever
}

// T10
TEST(Neighbours, ALearnedOneIsThereBeforeAnybodyAsks) {
    Host host{usual_options()};
    host.layer.learn(peer, peer_mac, host.now);
    EXPECT_EQ(host.send(peer), Sent::sent);
    host.layer.learn(us, other_mac,
                     host.now); // never ours, never off the link, never a group's MAC
    host.layer.learn(far_away, other_mac, host.now);
    host.layer.learn(gateway, everybody, host.now);
    EXPECT_EQ(host.count().neighbours_learned, 1U);
}

// T11
TEST(Neighbours, AGratuitousArpMovesAnOpenPathToTheNewMac) {
    Host host{usual_options()};
    EXPECT_EQ(host.send(peer), Sent::unresolved);
    host.receive(arp_reply(peer, peer_mac));
    Path path;
    EXPECT_EQ(host.send(peer, path), Sent::sent);
    host.receive(
        ethernet(everybody, other_mac, 0x0806, arp(true, other_mac, peer, everybody, peer)));
    host.port.sent.clear();
    EXPECT_EQ(host.send(peer, path), Sent::sent);
    const auto data = std::ranges::find_if(
        host.port.sent, [](const Frame& frame) { return get16(frame, 12) == 0x0800; });
    ASSERT_NE(data, host.port.sent.end());
    EXPECT_EQ(get_mac(*data, 0), other_mac);
    ASSERT_FALSE(host.learned.empty());
    EXPECT_EQ(host.learned.back(), std::pair(peer, other_mac)); // other shards move too
}

// T11
TEST(Neighbours, AGratuitousArpAboutAStrangerAddsNothing) {
    Host host{usual_options()};
    host.receive(
        ethernet(everybody, other_mac, 0x0806, arp(true, other_mac, peer, everybody, peer)));
    host.receive(arp_request(peer, other_mac, peer));
    EXPECT_EQ(host.count().neighbours_learned, 0U);
    EXPECT_TRUE(host.learned.empty());
}

// T12
TEST(Neighbours, OneInUseIsRefreshedByUnicastBeforeItExpiresAndNothingWaits) {
    Host host{usual_options()};
    EXPECT_EQ(host.send(peer), Sent::unresolved);
    host.receive(arp_reply(peer, peer_mac));
    host.port.sent.clear();
    Path path;
    unsigned probes = 0;
    for (int tenth = 0; tenth < 3000; ++tenth) { // five minutes
        host.pass(100ms);
        ASSERT_EQ(host.send(peer, path), Sent::sent) << "after " << tenth << " tenths";
        for (const Frame& frame : std::exchange(host.port.sent, {})) {
            if (!is_arp_request(frame, peer)) continue;
            EXPECT_EQ(get_mac(frame, 0), peer_mac);
            ++probes;
            host.receive(arp_reply(peer, peer_mac));
        }
    }
    EXPECT_GE(probes, 10U); // at least once in 30 s
    EXPECT_LE(probes, 15U);
}

// T12
TEST(Neighbours, AProbeThatIsLostIsRepeatedAndThenTheWholeLinkIsAsked) {
    Host host{usual_options()};
    host.layer.learn(peer, peer_mac, host.now);
    Path path;
    std::vector<MacAddress> asked;
    std::vector<TimePoint> at;
    while (asked.size() < 6) {
        host.pass(100ms);
        ASSERT_EQ(host.send(peer, path), Sent::sent); // the old MAC is good all the time
        for (const Frame& frame : std::exchange(host.port.sent, {})) {
            if (!is_arp_request(frame, peer)) continue;
            asked.push_back(get_mac(frame, 0));
            at.push_back(host.now);
        }
        ASSERT_LT(host.now, TimePoint{1040s});
    }
    EXPECT_EQ(asked, (std::vector{peer_mac, peer_mac, peer_mac, everybody, everybody, everybody}));
    EXPECT_LT(at[0], TimePoint{1030s});
    // Its new card answers the last question.
    host.receive(arp_reply(peer, other_mac));
    EXPECT_EQ(host.send(peer, path), Sent::sent);
    EXPECT_EQ(get_mac(host.port.sent.back(), 0), other_mac);
}

// T12
TEST(Neighbours, OneThatIsGoneBecomesUnreachableAndRecovers) {
    Host host{usual_options()};
    host.layer.learn(peer, peer_mac, host.now);
    Path path;
    Sent sent = Sent::sent;
    while (sent == Sent::sent && host.now < TimePoint{1100s}) {
        host.pass(100ms);
        sent = host.send(peer, path);
    }
    EXPECT_EQ(sent, Sent::unreachable);
    host.pass(3100ms);
    EXPECT_EQ(host.send(peer, path), Sent::unresolved);
    host.receive(arp_reply(peer, peer_mac));
    EXPECT_EQ(host.send(peer, path), Sent::sent);
}

// T12
TEST(Neighbours, OneThatNobodyUsesIsNotAskedAndStillGoodWhenNeeded) {
    Host host{usual_options()};
    host.layer.learn(peer, peer_mac, host.now);
    host.pass(1h);
    EXPECT_TRUE(host.port.sent.empty());
    Path path;
    EXPECT_EQ(host.send(peer, path), Sent::sent); // at once, with a probe beside it
    EXPECT_EQ(host.port.sent.size(), 2U);
}

// T13
TEST(Neighbours, AFloodOfRequestsFillsTheTableAndEstablishedOnesSurvive) {
    LayerOptions options = usual_options();
    options.addresses[0] = {ip("10.0.0.10"), 8};
    options.routes[0].gateway = ip("10.0.0.1");
    options.neighbours_max = 64;
    Host host{options};
    std::vector<Path> paths(40);
    const auto established = [](int i) {
        return IpAddress::v4({10, 0, 1, static_cast<std::uint8_t>(i)});
    };
    for (int i = 0; i < 40; ++i) {
        host.layer.learn(established(i), peer_mac, host.now);
        ASSERT_EQ(host.send(established(i), paths[static_cast<std::size_t>(i)]), Sent::sent);
    }
    for (int i = 0; i < 20'000; ++i) {
        const auto who =
            IpAddress::v4({10, 9, static_cast<std::uint8_t>(i >> 8), static_cast<std::uint8_t>(i)});
        host.receive(ethernet(everybody, other_mac, 0x0806,
                              arp(false, other_mac, who, {}, ip("10.0.0.10"))));
    }
    host.port.sent.clear();
    for (int i = 0; i < 40; ++i)
        EXPECT_EQ(host.send(established(i), paths[static_cast<std::size_t>(i)]), Sent::sent);
    for (const Frame& frame : host.port.sent)
        EXPECT_EQ(get_mac(frame, 0), peer_mac);
    // And there is room for one that we want ourselves.
    EXPECT_EQ(host.send(ip("10.0.2.1")), Sent::unresolved);
}

// T13
TEST(Neighbours, WhenAllAreInUseANewOneIsRefusedAndCounted) {
    LayerOptions options = usual_options();
    options.neighbours_max = 4;
    Host host{options};
    for (int i = 20; i < 24; ++i)
        EXPECT_EQ(host.send(IpAddress::v4({192, 0, 2, static_cast<std::uint8_t>(i)})),
                  Sent::unresolved);
    EXPECT_EQ(host.send(peer), Sent::unreachable);
    EXPECT_EQ(host.count().neighbours_full, 1U);
    host.pass(7s); // they failed, and were forgotten
    EXPECT_EQ(host.settled.size(), 4U);
    EXPECT_EQ(host.send(peer), Sent::unresolved);
}

TEST(Neighbours, APathDoesNotOutliveItsEntry) {
    LayerOptions options = usual_options();
    options.neighbours_max = 1;
    Host host{options};
    host.layer.learn(peer, peer_mac, host.now);
    Path path;
    EXPECT_EQ(host.send(peer, path), Sent::sent);
    host.pass(1min); // unused: somebody else may have its place
    host.layer.learn(ip("192.0.2.12"), other_mac, host.now + 10min);
    host.now += 10min;
    host.port.sent.clear();
    Path other;
    EXPECT_EQ(host.send(ip("192.0.2.12"), other), Sent::sent);
    EXPECT_EQ(host.send(peer, path), Sent::unreachable); // the table is full of one in use
    EXPECT_EQ(get_mac(host.port.sent.back(), 0), other_mac);
}

TEST(Arp, RequestsForOurAddressesAloneAreAnswered) {
    Host host{usual_options()};
    host.receive(arp_request(peer, peer_mac, us));
    ASSERT_EQ(host.port.sent.size(), 1U);
    const Frame answer = host.take();
    EXPECT_EQ(answer, ethernet(peer_mac, our_mac, 0x0806, arp(true, our_mac, us, peer_mac, peer)));

    host.receive(arp_request(peer, peer_mac, ip("192.0.2.99")));
    host.receive(arp_request(far_away, other_mac, gateway));
    EXPECT_TRUE(host.port.sent.empty());
    EXPECT_EQ(host.count().arp_in, 3U);
    EXPECT_EQ(host.count().not_ours, 1U);
    EXPECT_EQ(host.send(peer), Sent::sent); // who asks will be answered: it is known now
}

TEST(Arp, AProbeForOurAddressIsDefendedAndNotLearned) {
    Host host{usual_options()};
    host.receive(arp_request(ip("0.0.0.0"), other_mac, us));
    EXPECT_EQ(host.port.sent.size(), 1U);
    EXPECT_EQ(host.count().neighbours_learned, 0U);
}

TEST(Arp, SendersThatCannotBeAreNotBelieved) {
    Host host{usual_options()};
    EXPECT_EQ(host.send(peer), Sent::unresolved);
    host.port.sent.clear();
    host.receive(arp_reply(peer, everybody)); // a group's MAC
    host.receive(ethernet(our_mac, peer_mac, 0x0806, arp(true, {}, peer, our_mac, us))); // none
    host.receive(
        ethernet(our_mac, peer_mac, 0x0806, arp(true, {3, 0, 0, 0, 0, 1}, peer, our_mac, us)));
    host.receive(arp_request(ip("224.0.0.1"), peer_mac, us));
    host.receive(arp_request(ip("127.0.0.1"), peer_mac, us));
    host.receive(arp_request(ip("192.0.2.255"), peer_mac, us));
    EXPECT_EQ(host.count().bad_source, 4U); // one by its Ethernet header already
    EXPECT_EQ(host.count().bad_header, 2U);
    EXPECT_TRUE(host.port.sent.empty());
    EXPECT_EQ(host.send(peer), Sent::unresolved);
    EXPECT_EQ(host.count().neighbours_learned, 0U);
}

TEST(Arp, SomebodyElseWithOurAddressIsAConflictAndChangesNothing) {
    Host host{usual_options()};
    host.receive(arp_request(us, other_mac, us));
    host.receive(arp_reply(us, other_mac));
    EXPECT_EQ(host.count().address_conflicts, 2U);
    host.receive(arp_request(us, our_mac, gateway)); // our own frame, come back
    EXPECT_EQ(host.count().address_conflicts, 2U);
    EXPECT_TRUE(host.port.sent.empty());
}

TEST(Arp, MessagesOfOtherKindsAndShortOnesAreDropped) {
    Host host{usual_options()};
    const Frame good = arp(false, peer_mac, peer, {}, us);
    for (const std::size_t at : {1U, 2U, 4U, 5U, 7U}) { // hardware, protocol, lengths, operation
        Frame broken = good;
        broken[at] ^= std::byte{0x40};
        host.receive(ethernet(everybody, peer_mac, 0x0806, broken));
    }
    host.receive(ethernet(everybody, peer_mac, 0x0806, {good.begin(), good.end() - 1}));
    EXPECT_EQ(host.count().bad_header, 6U);
    EXPECT_TRUE(host.port.sent.empty());
    host.receive(ethernet(everybody, peer_mac, 0x0806, good + run(18))); // padding is no fault
    EXPECT_EQ(host.port.sent.size(), 1U);
}

TEST(Discovery, ANextHopIsAskedForByItsSolicitedNodeGroup) {
    Host host{usual_options()};
    EXPECT_EQ(host.send(ip("2001:db8:f::1")), Sent::unresolved);
    const Frame question = host.take();
    EXPECT_EQ(get_mac(question, 0), (MacAddress{0x33, 0x33, 0xff, 0, 0, 1}));
    EXPECT_EQ(get_v6(question, 22), us6);
    EXPECT_EQ(get_v6(question, 38), ip("ff02::1:ff00:1"));
    EXPECT_EQ(std::to_integer<int>(question[21]), 255);
    EXPECT_EQ(question, ethernet(get_mac(question, 0), our_mac, 0x86dd,
                                 ipv6({us6, ip("ff02::1:ff00:1"), 58, 255},
                                      icmp6(us6, ip("ff02::1:ff00:1"),
                                            solicitation(gateway6, link_option(1, our_mac))))));

    host.receive(nd(gateway6, us6, peer_mac,
                    advertisement(gateway6, solicited | override_flag, link_option(2, peer_mac))));
    ASSERT_EQ(host.settled.size(), 1U);
    EXPECT_EQ(host.settled[0], std::pair(gateway6, true));
    EXPECT_EQ(host.learned.back(), std::pair(gateway6, peer_mac));
    EXPECT_EQ(host.send(ip("2001:db8:f::1")), Sent::sent);
    EXPECT_EQ(get_mac(host.take(), 0), peer_mac);
}

TEST(Discovery, SolicitationsForOurAddressesAloneAreAnswered) {
    Host host{usual_options()};
    const IpAddress group = ip("ff02::1:ff00:10");
    host.receive(nd(peer6, group, peer_mac, solicitation(us6, link_option(1, peer_mac)), 255,
                    group_mac(group)));
    ASSERT_EQ(host.port.sent.size(), 1U);
    EXPECT_EQ(host.take(),
              nd(us6, peer6, our_mac,
                 advertisement(us6, solicited | override_flag, link_option(2, our_mac)), 255,
                 peer_mac));
    EXPECT_EQ(host.send(peer6), Sent::sent); // its own address came with the question
    host.port.sent.clear();

    const IpAddress other_group = ip("ff02::1:ff01:10"); // ours differs in one byte
    host.receive(nd(peer6, other_group, peer_mac, solicitation(ip("2001:db8::1:10"), {}), 255,
                    group_mac(other_group)));
    EXPECT_TRUE(host.port.sent.empty());
}

TEST(Discovery, OurLinkLocalAddressIsMadeOfTheMacAndAnswers) {
    Host host{usual_options()};
    const IpAddress ours = ip("fe80::ff:fe00:1");
    EXPECT_TRUE(host.layer.is_ours(ours));
    host.receive(nd(ip("fe80::2"), ours, peer_mac, solicitation(ours, link_option(1, peer_mac))));
    EXPECT_EQ(host.port.sent.size(), 1U);
    EXPECT_EQ(host.layer.source_for(ip("fe80::2")), ours);
    EXPECT_EQ(host.send(ip("fe80::2")), Sent::sent);
}

TEST(Discovery, SomebodysDuplicateAddressDetectionIsToldOff) {
    Host host{usual_options()};
    const IpAddress group = ip("ff02::1:ff00:10");
    host.receive(nd(nobody6, group, other_mac, solicitation(us6, {}), 255, group_mac(group)));
    ASSERT_EQ(host.port.sent.size(), 1U);
    const Frame answer = host.take();
    EXPECT_EQ(get_v6(answer, 38), ip("ff02::1"));
    EXPECT_EQ(get_mac(answer, 0), (MacAddress{0x33, 0x33, 0, 0, 0, 1}));
    EXPECT_EQ(std::to_integer<int>(answer[58]) & solicited, 0);
    EXPECT_EQ(host.count().address_conflicts, 1U);
}

TEST(Discovery, WhatARouterHasPassedOnOrContradictsItselfIsNotRead) {
    Host host{usual_options()};
    EXPECT_EQ(host.send(peer6), Sent::unresolved);
    host.port.sent.clear();
    const Frame link = link_option(2, peer_mac);
    const Frame good = advertisement(peer6, solicited | override_flag, link);
    Frame with_code = good;
    with_code[1] = std::byte{1};
    const std::vector<Frame> wrong{
        nd(peer6, us6, peer_mac, good, 254),
        nd(peer6, us6, peer_mac, with_code),
        nd(peer6, us6, peer_mac, advertisement(ip("ff02::1"), solicited, link)),
        nd(peer6, us6, peer_mac, {good.begin(), good.begin() + 20}),
        nd(peer6, us6, peer_mac,
           advertisement(peer6, solicited, bytes({2, 0, 0, 0, 0, 0, 0, 0}))), // endless
        nd(peer6, us6, peer_mac,
           advertisement(peer6, solicited, bytes({2, 2, 0, 0, 0, 0, 0, 0}))), // too long
        nd(peer6, us6, peer_mac, advertisement(peer6, solicited, link_option(2, everybody))),
        nd(peer6, ip("ff02::1"), peer_mac, good, 255,
           {0x33, 0x33, 0, 0, 0, 1}), // solicited by all?
        nd(nobody6, ip("ff02::1:ff00:10"), peer_mac, solicitation(us6, link_option(1, peer_mac)),
           255, group_mac(ip("ff02::1:ff00:10"))),
    };
    for (const Frame& frame : wrong)
        host.receive(frame);
    EXPECT_EQ(host.count().bad_header, wrong.size());
    EXPECT_EQ(host.count().nd_in, wrong.size());
    EXPECT_EQ(host.count().neighbours_learned, 0U);
    EXPECT_TRUE(host.port.sent.empty());
    host.receive(nd(peer6, us6, peer_mac, good));
    EXPECT_EQ(host.send(peer6), Sent::sent);
}

// T11
TEST(Discovery, OnlyAnOverridingAdvertisementReplacesTheMac) {
    Host host{usual_options()};
    host.layer.learn(peer6, peer_mac, host.now);
    Path path;
    EXPECT_EQ(host.send(peer6, path), Sent::sent);
    const IpAddress all = ip("ff02::1");
    host.receive(nd(peer6, all, other_mac, advertisement(peer6, 0, link_option(2, other_mac)), 255,
                    {0x33, 0x33, 0, 0, 0, 1}));
    host.port.sent.clear();
    EXPECT_EQ(host.send(peer6, path), Sent::sent); // doubtful now: a probe goes beside it
    ASSERT_EQ(host.port.sent.size(), 2U);
    EXPECT_EQ(get_mac(host.port.sent[0], 0), peer_mac);
    EXPECT_EQ(get_mac(host.port.sent[1], 0), peer_mac);

    host.receive(nd(peer6, all, other_mac,
                    advertisement(peer6, override_flag, link_option(2, other_mac)), 255,
                    {0x33, 0x33, 0, 0, 0, 1}));
    EXPECT_EQ(host.send(peer6, path), Sent::sent);
    EXPECT_EQ(get_mac(host.port.sent.back(), 0), other_mac);
}

// T12
TEST(Discovery, AnAnswerToAProbeNeedsNoLinkOption) {
    Host host{usual_options()};
    host.layer.learn(peer6, peer_mac, host.now);
    Path path;
    for (int tenth = 0; tenth < 1200; ++tenth) {
        host.pass(100ms);
        ASSERT_EQ(host.send(peer6, path), Sent::sent);
        for (const Frame& frame : std::exchange(host.port.sent, {})) {
            if (std::to_integer<int>(frame[20]) != 58) continue;
            EXPECT_EQ(get_mac(frame, 0), peer_mac);
            host.receive(nd(peer6, us6, peer_mac, advertisement(peer6, solicited, {})));
        }
    }
    EXPECT_EQ(host.count().neighbours_failed, 0U);
    EXPECT_EQ(host.settled.size(), 0U);
}

} // namespace
} // namespace dataplane::net::ip::test
