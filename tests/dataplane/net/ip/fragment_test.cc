#include "dataplane/net/ip/limits.h"
#include "frames.h"

#include <algorithm>

namespace dataplane::net::ip::test {
namespace {

const IpAddress us = ip("192.0.2.10"), peer = ip("198.51.100.7");
const IpAddress us6 = ip("2001:db8::10"), peer6 = ip("2001:db8:f::7");

Frame piece_of(const Frame& whole, std::size_t from, std::size_t to) {
    return {whole.begin() + static_cast<std::ptrdiff_t>(from),
            whole.begin() + static_cast<std::ptrdiff_t>(std::min(to, whole.size()))};
}

/// One fragment of `whole`, over IPv4 or IPv6.
Frame fragment(bool v6, const Frame& whole, std::size_t from, std::size_t to, std::uint32_t id = 1,
               int ecn = 0) {
    const bool more = to < whole.size();
    const Frame piece = piece_of(whole, from, to);
    if (!v6)
        return ethernet(our_mac, peer_mac, 0x0800,
                        ipv4({.from = peer,
                              .to = us,
                              .place = static_cast<unsigned>(from / 8) | (more ? 0x2000U : 0U),
                              .id = id & 0xffff,
                              .tos = static_cast<unsigned>(ecn)},
                             piece));
    return ethernet(
        our_mac, peer_mac, 0x86dd,
        ipv6({.from = peer6, .to = us6, .next = 44, .traffic_class = static_cast<unsigned>(ecn)},
             bytes({6, 0}) + in16(static_cast<unsigned>(from) | (more ? 1U : 0U)) + in32(id) +
                 piece));
}

class Fragments : public ::testing::TestWithParam<bool> {
protected:
    bool v6 = GetParam();
    Host host{usual_options()};
    Frame whole = v6 ? tcp(peer6, us6, run(1000)) : tcp(peer, us, run(1000)); // 1020 bytes

    Frame part(std::size_t from, std::size_t to, std::uint32_t id = 1, int ecn = 0) {
        return fragment(v6, whole, from, to, id, ecn);
    }
    bool completes(const Frame& frame, ChecksumState l4 = ChecksumState::unknown) {
        const auto datagram = host.receive(frame, ChecksumState::unknown, l4);
        return datagram && Frame{datagram->payload.begin(), datagram->payload.end()} == whole;
    }
};
INSTANTIATE_TEST_SUITE_P(BothVersions, Fragments, ::testing::Bool());

// T67
TEST_P(Fragments, AnyOrderMakesTheDatagram) {
    std::vector<std::pair<std::size_t, std::size_t>> parts{
        {0, 400}, {400, 496}, {496, 904}, {904, 1020}};
    std::uint32_t id = 1;
    do {
        for (std::size_t i = 0; i < parts.size(); ++i)
            EXPECT_EQ(completes(part(parts[i].first, parts[i].second, id)), i + 1 == parts.size());
        ++id;
    } while (std::ranges::next_permutation(parts).found);
    EXPECT_EQ(host.count().reassembled, 24U);
    EXPECT_EQ(host.count().fragments, 96U);
    EXPECT_EQ(host.count().fragments_dropped, 0U);
    EXPECT_EQ(host.layer.deadline(), TimePoint::max());
}

// T61, T67
TEST_P(Fragments, TheChecksumOfTheWholeIsLookedAtWhateverThePortSays) {
    whole.back() ^= std::byte{1};
    EXPECT_FALSE(completes(part(0, 512), ChecksumState::good));
    EXPECT_FALSE(completes(part(512, 1020), ChecksumState::good));
    EXPECT_EQ(host.count().bad_checksum, 1U);
}

// T67
TEST_P(Fragments, AnOverlapRefusesTheWholeDatagramForGood) {
    const std::vector<std::pair<std::size_t, std::size_t>> overlapping{
        {504, 800}, {512, 520 + 64}, {440, 800}, {0, 64}, {0, 520}, {448, 512}};
    std::uint32_t id = 1;
    for (const auto& [from, to] : overlapping) {
        EXPECT_FALSE(completes(part(0, 512, id)));
        EXPECT_FALSE(completes(part(512, 1016, id)));
        EXPECT_FALSE(completes(part(from, to, id))) << from;
        EXPECT_FALSE(completes(part(1016, 1020, id))) << from; // what was missing comes too late
        EXPECT_FALSE(completes(part(0, 512, id))) << from;
        ++id;
    }
    EXPECT_EQ(host.count().reassembled, 0U);
    EXPECT_EQ(host.count().fragments_dropped, 5U * overlapping.size());
}

// T67
TEST_P(Fragments, AnOverlapWithWhatComesBehindRefusesToo) {
    EXPECT_FALSE(completes(part(512, 1020)));
    EXPECT_FALSE(completes(part(448, 576)));
    EXPECT_FALSE(completes(part(0, 384))); // now the bytes add up, over a hole
    EXPECT_EQ(host.count().reassembled, 0U);
    EXPECT_EQ(host.count().fragments_dropped, 3U);
}

// T67
TEST_P(Fragments, AnExactDuplicateDoesNoHarmButAChangedOneDoes) {
    EXPECT_FALSE(completes(part(0, 512)));
    EXPECT_FALSE(completes(part(0, 512)));
    EXPECT_TRUE(completes(part(512, 1020)));

    EXPECT_FALSE(completes(part(0, 512, 2)));
    Frame changed = part(0, 512, 2);
    changed.back() ^= std::byte{1};
    EXPECT_FALSE(completes(changed));
    EXPECT_FALSE(completes(part(512, 1020, 2)));
    EXPECT_EQ(host.count().reassembled, 1U);
}

// T67
TEST_P(Fragments, TwoEndsOrDataBehindTheEndRefuseIt) {
    EXPECT_FALSE(completes(part(512, 1020, 1)));
    whole.resize(900);
    EXPECT_FALSE(completes(part(512 + 256, 900, 1))); // another last one, before the first's
    whole = v6 ? tcp(peer6, us6, run(1000)) : tcp(peer, us, run(1000));
    EXPECT_FALSE(completes(part(0, 512, 1)));

    Frame longer = whole + run(500);
    EXPECT_FALSE(completes(part(512, 1020, 2)));
    EXPECT_FALSE(host.receive(fragment(v6, longer, 1024, 1200, 2)));
    EXPECT_FALSE(completes(part(0, 512, 2)));
    EXPECT_EQ(host.count().reassembled, 0U);
}

// T67
TEST_P(Fragments, TinyOnesAreRefused) {
    EXPECT_FALSE(completes(part(0, 56)));
    EXPECT_FALSE(completes(part(56, 1020)));
    EXPECT_FALSE(host.receive(part(0, 516, 2))); // no multiple of eight
    EXPECT_EQ(host.count().fragments_dropped, 2U);
    EXPECT_FALSE(completes(part(0, 64, 3)));
    EXPECT_TRUE(completes(part(64, 1020, 3)));
}

// T67
TEST_P(Fragments, ADatagramBeyond64KilobytesIsRefused) {
    Frame huge(65528 + 8);
    EXPECT_FALSE(host.receive(fragment(v6, huge, 65528, 65536)));
    EXPECT_EQ(host.count().fragments_dropped, 1U);
}

// T67
TEST_P(Fragments, OneThatIsNeverCompletedIsForgottenAfterThirtySeconds) {
    EXPECT_FALSE(completes(part(0, 512)));
    host.pass(29s);
    EXPECT_NE(host.layer.deadline(), TimePoint::max());
    host.pass(2s);
    EXPECT_EQ(host.layer.deadline(), TimePoint::max());
    EXPECT_EQ(host.count().fragments_dropped, 1U);
    EXPECT_FALSE(completes(part(512, 1020)));
    EXPECT_TRUE(completes(part(0, 512))); // and a new beginning is one
}

// T67
TEST_P(Fragments, AFloodIsBoundedAndTheNewestStillComeThrough) {
    for (std::uint32_t id = 100; id < 20'100; ++id)
        host.receive(part(0, 512, id));
    EXPECT_EQ(host.count().fragments_dropped, 20'000U - 64);
    EXPECT_FALSE(completes(part(0, 512, 1)));
    EXPECT_TRUE(completes(part(512, 1020, 1)));
}

// T67
TEST_P(Fragments, BytesAreBoundedBeforeTheTableIsFull) {
    whole = Frame(60'000);
    for (std::uint32_t id = 0; id < 40; ++id) // 40 datagrams but for their ends: 2 MB
        for (std::size_t from = 0; from + 1400 <= 56'000; from += 1400)
            host.receive(part(from, from + 1400, id));
    const auto held = host.count().fragments - host.count().fragments_dropped;
    EXPECT_LE(held * 1400, reassembly_bytes_max);
    EXPECT_GE(held * 1400, reassembly_bytes_max / 2);
}

// T67
TEST_P(Fragments, TooManyPiecesRefuseIt) {
    whole = Frame(20'000);
    for (std::size_t from = 0; from < 128 * 64; from += 64)
        host.receive(part(from, from + 64));
    EXPECT_EQ(host.count().fragments_dropped, 128U);
}

TEST_P(Fragments, ADatagramThatGoesWithItsOldestMayBeTheNextToFill) {
    // Filling the last bytes pushes out older ones, which lie before it in the table.
    const Frame good = whole;
    whole = Frame(60'000);
    for (std::uint32_t id = 0; id < 18; ++id)
        for (std::size_t from = 0; from + 1400 <= 56'000; from += 1400)
            host.receive(part(from, from + 1400, id));
    whole = good;
    EXPECT_FALSE(completes(part(0, 512, 77)));
    const Frame filler(60'000);
    for (std::size_t from = 0; from + 1400 <= 56'000; from += 1400)
        host.receive(fragment(v6, filler, from, from + 1400, 78));
    EXPECT_TRUE(completes(part(512, 1020, 77)));
}

TEST_P(Fragments, CongestionMarksSurviveAndMixedOnesRefuse) {
    host.receive(part(0, 512, 1, 2));
    const auto datagram = host.receive(part(512, 1020, 1, 3));
    ASSERT_TRUE(datagram);
    EXPECT_EQ(datagram->ecn, tcp::Ecn::ce);
    host.receive(part(0, 512, 2, 0));
    EXPECT_FALSE(host.receive(part(512, 1020, 2, 3))); // RFC 3168 §5.3
    EXPECT_EQ(host.count().reassembled, 1U);
    EXPECT_EQ(host.count().fragments_dropped, 2U);
}

TEST_P(Fragments, DatagramsOfDifferentPeersDoNotMix) {
    EXPECT_FALSE(completes(part(0, 512)));
    Frame others = part(512, 1020);
    others[v6 ? 14 + 23 : 14 + 15] ^= std::byte{3}; // source
    EXPECT_FALSE(host.receive(others, ChecksumState::good));
    Frame other_id = part(512, 1020, 2);
    EXPECT_FALSE(host.receive(other_id));
    EXPECT_TRUE(completes(part(512, 1020)));
}

TEST(Fragments6, ExtensionHeadersInTheFragmentedPartAreRead) {
    Host host{usual_options()};
    const Frame segment = tcp(peer6, us6, run(300));
    const Frame whole = bytes({6, 0, 1, 4, 0, 0, 0, 0}) + segment; // destination options
    const auto part = [&](std::size_t from, std::size_t to) {
        const bool more = to < whole.size();
        return ethernet(our_mac, peer_mac, 0x86dd,
                        ipv6({.from = peer6, .to = us6, .next = 44},
                             bytes({60, 0}) + in16(static_cast<unsigned>(from) | (more ? 1U : 0U)) +
                                 in32(9) + piece_of(whole, from, to)));
    };
    EXPECT_FALSE(host.receive(part(0, 160)));
    const auto datagram = host.receive(part(160, 400));
    ASSERT_TRUE(datagram);
    EXPECT_TRUE(std::ranges::equal(datagram->payload, segment));
}

TEST(Fragments6, NeighbourDiscoveryInFragmentsIsRefused) { // RFC 6980
    Host host{usual_options()};
    const IpAddress target = ip("2001:db8::11");
    const Frame message = icmp6(target, us6,
                                bytes({136, 0, 0, 0, 0x60, 0, 0, 0}) + in_ip(target) +
                                    bytes({2, 1}) + in_mac(peer_mac));
    host.send(target);
    host.receive(ethernet(our_mac, peer_mac, 0x86dd,
                          ipv6({.from = target, .to = us6, .next = 44, .hop_limit = 255},
                               bytes({58, 0, 0, 0, 0, 0, 0, 9}) + message)));
    EXPECT_EQ(host.count().bad_header, 1U);
    EXPECT_EQ(host.send(target), Sent::unresolved);
}

} // namespace
} // namespace dataplane::net::ip::test
