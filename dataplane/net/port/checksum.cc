#include "dataplane/net/port/checksum.h"

#include "dataplane/base/check.h"

#include <array>
#include <bit>
#include <cstring>

namespace dataplane::net {
namespace {

// Two 64-bit lanes: one vector register on every x86-64, and plain integers elsewhere.
using Lanes = std::uint64_t __attribute__((vector_size(16)));

constexpr std::size_t ipv4_header_bytes_min = 20;
constexpr std::size_t ipv6_header_bytes = 40;
constexpr std::size_t ipv4_checksum_at = 10;
constexpr std::size_t ipv4_source_at = 12;
constexpr std::size_t ipv6_source_at = 8;

template <class Word>
Word load(const std::byte* from) noexcept {
    Word word;
    std::memcpy(&word, from, sizeof word);
    return word;
}

void store(std::span<std::byte> to, std::size_t at, std::uint16_t value) noexcept {
    CHECK(at + sizeof value <= to.size());
    std::memcpy(to.data() + at, &value, sizeof value);
}

/// The sum of two bytes as the two would lie in memory.
constexpr std::uint32_t word_of(std::uint32_t host) noexcept {
    if constexpr (std::endian::native == std::endian::little) {
        return ((host & 0xff) << 8) | ((host >> 8) & 0xff);
    }
    return host & 0xffff;
}

constexpr std::uint32_t reduce(std::uint64_t sum) noexcept {
    sum = (sum & 0xffff'ffff) + (sum >> 32);
    sum = (sum & 0xffff'ffff) + (sum >> 32);
    return static_cast<std::uint32_t>((sum & 0xffff) + (sum >> 16)); // room for more seeds
}

std::uint32_t length_and_protocol(std::uint8_t protocol, std::uint32_t l4_bytes) noexcept {
    return word_of(protocol) + word_of(l4_bytes >> 16) + word_of(l4_bytes & 0xffff);
}

} // namespace

std::uint32_t ones_sum(std::span<const std::byte> bytes, std::uint32_t seed) noexcept {
    const std::byte* at = bytes.data();
    std::size_t left = bytes.size();
    std::uint64_t sum = seed;
    // A one's complement sum does not mind the width of the words, so add 32-bit ones in 64 bits:
    // no carry is lost before 2^32 of them.
    if (left >= 64) {
        const Lanes low_half = {0xffff'ffff, 0xffff'ffff};
        Lanes low{};
        Lanes high{};
        do {
            Lanes words[4];
            std::memcpy(words, at, sizeof words);
            for (const Lanes& word : words) {
                low += word & low_half;
                high += word >> 32;
            }
            at += sizeof words;
            left -= sizeof words;
        } while (left >= 64);
        sum += (low[0] & 0xffff'ffff) + (low[0] >> 32) + (low[1] & 0xffff'ffff) + (low[1] >> 32);
        sum +=
            (high[0] & 0xffff'ffff) + (high[0] >> 32) + (high[1] & 0xffff'ffff) + (high[1] >> 32);
    }
    for (; left >= 4; left -= 4, at += 4)
        sum += load<std::uint32_t>(at);
    if (left >= 2) {
        sum += load<std::uint16_t>(at);
        at += 2;
        left -= 2;
    }
    if (left != 0) sum += word_of(std::to_integer<std::uint32_t>(*at) << 8);
    return reduce(sum);
}

void ChecksumSum::add(std::span<const std::byte> bytes) noexcept {
    if (bytes.empty()) return;
    const std::uint32_t piece = fold(ones_sum(bytes));
    // Behind an odd byte every word is the other way round, and swapping commutes with the sum.
    sum_ = fold(sum_) + (odd_ ? ((piece & 0xff) << 8 | piece >> 8) : piece);
    odd_ = odd_ != (bytes.size() % 2 != 0);
}

std::uint32_t pseudo_header_sum_v4(std::span<const std::byte> ip_header, std::uint8_t protocol,
                                   std::uint32_t l4_bytes) noexcept {
    CHECK(ip_header.size() >= ipv4_header_bytes_min);
    return ones_sum(ip_header.subspan(ipv4_source_at, 8), length_and_protocol(protocol, l4_bytes));
}

std::uint32_t pseudo_header_sum_v6(std::span<const std::byte> ip_header, std::uint8_t protocol,
                                   std::uint32_t l4_bytes) noexcept {
    CHECK(ip_header.size() >= ipv6_header_bytes);
    return ones_sum(ip_header.subspan(ipv6_source_at, 32), length_and_protocol(protocol, l4_bytes));
}

std::uint32_t pseudo_header_sum(std::span<const std::byte> ip_header, std::uint8_t protocol,
                                std::uint32_t l4_bytes) noexcept {
    const bool v6 = (std::to_integer<unsigned>(ip_header.front()) >> 4) == 6;
    return v6 ? pseudo_header_sum_v6(ip_header, protocol, l4_bytes)
              : pseudo_header_sum_v4(ip_header, protocol, l4_bytes);
}

std::uint8_t protocol_number(L4 protocol) noexcept {
    switch (protocol) {
    case L4::none:
        return 0;
    case L4::tcp:
        return 6;
    case L4::udp:
        return 17;
    case L4::icmp6:
        return 58;
    }
    return 0;
}

std::size_t checksum_offset(L4 protocol) noexcept {
    switch (protocol) {
    case L4::none:
        return 0;
    case L4::tcp:
        return 16;
    case L4::udp:
        return 6;
    case L4::icmp6:
        return 2;
    }
    return 0;
}

void fill_ipv4_checksum(std::span<std::byte> ip_header) noexcept {
    store(ip_header, ipv4_checksum_at, 0);
    store(ip_header, ipv4_checksum_at, static_cast<std::uint16_t>(~fold(ones_sum(ip_header))));
}

void fill_l4_checksum(std::span<std::byte> header, std::uint16_t l2_bytes, std::uint16_t l3_bytes,
                      L4 protocol, std::span<const FrameSlice> payload) noexcept {
    if (protocol == L4::none) return;
    const std::size_t l4_at = std::size_t{l2_bytes} + l3_bytes;
    CHECK(header.size() > l4_at);
    const std::span<std::byte> l4 = header.subspan(l4_at);
    std::size_t l4_bytes = l4.size();
    for (const FrameSlice& slice : payload)
        l4_bytes += slice.bytes;

    store(l4, checksum_offset(protocol), 0);
    ChecksumSum sum{pseudo_header_sum(header.subspan(l2_bytes), protocol_number(protocol),
                                      static_cast<std::uint32_t>(l4_bytes))};
    sum.add(l4);
    for (const FrameSlice& slice : payload)
        sum.add({slice.slab->data + slice.offset, slice.bytes});
    std::uint16_t value = sum.checksum();
    if (protocol == L4::udp && value == 0) value = 0xffff;
    store(l4, checksum_offset(protocol), value);
}

void fill_pseudo_header_checksum(std::span<std::byte> header, std::uint16_t l2_bytes,
                                 std::uint16_t l3_bytes, L4 protocol,
                                 std::uint32_t l4_bytes) noexcept {
    if (protocol == L4::none) return;
    const std::uint32_t sum =
        pseudo_header_sum(header.subspan(l2_bytes), protocol_number(protocol), l4_bytes);
    store(header, std::size_t{l2_bytes} + l3_bytes + checksum_offset(protocol), fold(sum));
}

void fill_checksums(std::span<std::byte> header, const TransmitFrame& frame,
                    std::span<const FrameSlice> payload) noexcept {
    if (frame.ipv4_checksum) fill_ipv4_checksum(header.subspan(frame.l2_bytes, frame.l3_bytes));
    fill_l4_checksum(header, frame.l2_bytes, frame.l3_bytes, frame.l4_checksum, payload);
}

bool ipv4_checksum_good(std::span<const std::byte> ip_header) noexcept {
    return fold(ones_sum(ip_header)) == 0xffff;
}

bool l4_checksum_good(std::span<const std::byte> ip_header, std::uint8_t protocol,
                      std::span<const std::byte> l4) noexcept {
    const std::uint32_t seed =
        pseudo_header_sum(ip_header, protocol, static_cast<std::uint32_t>(l4.size()));
    return fold(ones_sum(l4, seed)) == 0xffff;
}

} // namespace dataplane::net
