#include "dataplane/net/port/checksum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

namespace dataplane::net {
namespace {

std::vector<std::byte> noise(std::size_t count, unsigned seed) {
    std::minstd_rand random{seed};
    std::vector<std::byte> bytes(count);
    std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random() >> 8); });
    return bytes;
}

/// RFC 1071 §4.1 to the letter, in network order.
std::uint16_t slow_sum(std::span<const std::byte> bytes) {
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i)
        sum += std::to_integer<std::uint64_t>(bytes[i]) << (i % 2 == 0 ? 8 : 0);
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(sum);
}

std::uint16_t network_order(std::uint16_t memory) {
    return __builtin_bswap16(memory);
}

TEST(Checksum, EveryLengthAgreesWithTheRfcsLoop) {
    for (std::size_t count = 0; count < 300; ++count) {
        const auto bytes = noise(count, static_cast<unsigned>(count) + 1);
        EXPECT_EQ(network_order(fold(ones_sum(bytes))), slow_sum(bytes)) << count;
    }
    const std::vector<std::byte> ones(65535, std::byte{0xff}); // the most carries there can be
    EXPECT_EQ(fold(ones_sum(ones)), network_order(slow_sum(ones)));
}

TEST(Checksum, TheRfcsExample) {
    const std::vector<std::byte> bytes{std::byte{0x00}, std::byte{0x01}, std::byte{0xf2},
                                       std::byte{0x03}, std::byte{0xf4}, std::byte{0xf5},
                                       std::byte{0xf6}, std::byte{0xf7}};
    EXPECT_EQ(network_order(fold(ones_sum(bytes))), 0xddf2); // RFC 1071 §3
}

TEST(Checksum, PiecesOfOddLengthsSumLikeTheWhole) {
    const auto bytes = noise(1001, 7);
    std::minstd_rand random{42};
    for (int round = 0; round < 200; ++round) {
        ChecksumSum sum;
        std::span<const std::byte> rest = bytes;
        while (!rest.empty()) {
            const std::size_t count = std::min<std::size_t>(random() % 90, rest.size());
            sum.add(rest.first(count));
            rest = rest.subspan(count);
        }
        ASSERT_EQ(sum.folded(), fold(ones_sum(bytes))) << "round " << round;
    }
}

TEST(Checksum, SeedsChainWithoutLosingCarries) {
    const auto bytes = noise(4000, 3);
    std::uint32_t sum = 0;
    for (std::size_t at = 0; at < bytes.size(); at += 2)
        sum = ones_sum(std::span{bytes}.subspan(at, 2), sum);
    EXPECT_EQ(fold(sum), fold(ones_sum(bytes)));
}

/// An Ethernet frame with an IP header of this version and a TCP header; lengths are right.
std::vector<std::byte> frame_of(bool v6, std::size_t payload_bytes) {
    auto frame = noise(14 + (v6 ? 40U : 20U) + 20U, 5);
    frame[14] = std::byte{v6 ? std::uint8_t{0x60} : std::uint8_t{0x45}};
    const std::size_t length = payload_bytes + (v6 ? 20 : 40);
    const std::size_t at = v6 ? 18 : 16;
    frame[at] = static_cast<std::byte>(length >> 8);
    frame[at + 1] = static_cast<std::byte>(length);
    return frame;
}

class ChecksumOfFrames : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(BothVersions, ChecksumOfFrames, ::testing::Bool());

TEST_P(ChecksumOfFrames, FilledInVerifiesAndAnyChangedBitDoesNot) {
    const bool v6 = GetParam();
    const std::uint16_t l3_bytes = v6 ? 40 : 20;
    base::SlabPool pool{256, 2};
    const auto first = pool.take(), second = pool.take();
    const auto data = noise(151, 9);
    std::ranges::copy(std::span{data}.first(77), first.data() + 3);
    std::ranges::copy(std::span{data}.subspan(77), second.data());
    const FrameSlice slices[] = {{first.get(), 3, 77}, {second.get(), 0, 74}};

    auto header = frame_of(v6, data.size());
    TransmitFrame frame;
    frame.l3_bytes = l3_bytes;
    frame.ipv4_checksum = !v6;
    frame.l4_checksum = L4::tcp;
    fill_checksums(header, frame, slices);
    if (!v6) {
        EXPECT_TRUE(ipv4_checksum_good(std::span{header}.subspan(14, 20)));
    }

    auto whole = header;
    whole.insert(whole.end(), data.begin(), data.end());
    const auto good = [&] {
        return l4_checksum_good(std::span{whole}.subspan(14), 6,
                                std::span{whole}.subspan(14 + l3_bytes));
    };
    ASSERT_TRUE(good());
    for (std::size_t at = 14 + (v6 ? 8 : 12); at < whole.size(); ++at) {
        whole[at] ^= std::byte{0x10};
        EXPECT_FALSE(good()) << "byte " << at;
        whole[at] ^= std::byte{0x10};
    }
}

TEST_P(ChecksumOfFrames, ADeviceThatAddsTheRestToThePseudoHeaderGetsTheSame) {
    const bool v6 = GetParam();
    const std::uint16_t l3_bytes = v6 ? 40 : 20;
    auto whole = frame_of(v6, 0);
    auto expected = whole;
    fill_l4_checksum(expected, 14, l3_bytes, L4::tcp, {});

    fill_pseudo_header_checksum(whole, 14, l3_bytes, L4::tcp, 20);
    const auto l4 = std::span{whole}.subspan(14 + l3_bytes);
    const auto value = static_cast<std::uint16_t>(~fold(ones_sum(l4))); // what a device does
    std::memcpy(l4.data() + checksum_offset(L4::tcp), &value, sizeof value);
    EXPECT_EQ(whole, expected);
}

TEST(Checksum, AUdpSumOfZeroIsWrittenAsOnes) {
    // Two bytes of payload chosen so that everything adds up to 0xffff.
    std::vector<std::byte> frame(14 + 20 + 8 + 2);
    frame[14] = std::byte{0x45};
    fill_l4_checksum(frame, 14, 20, L4::udp, {});
    std::memcpy(frame.data() + 42, frame.data() + 40, 2); // the checksum itself as payload
    fill_l4_checksum(frame, 14, 20, L4::udp, {});
    EXPECT_EQ(std::to_integer<int>(frame[40]), 0xff);
    EXPECT_EQ(std::to_integer<int>(frame[41]), 0xff);
}

} // namespace
} // namespace dataplane::net
