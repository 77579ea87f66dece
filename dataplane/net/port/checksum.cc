#include "dataplane/net/port/checksum.h"

#include "dataplane/base/check.h"

#include <array>
#include <bit>
#include <cstring>

namespace dataplane::net {
namespace {

constexpr std::size_t block_bytes = 64;
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

/// The sum of whole blocks as 32-bit words: a one's complement sum does not mind the width of the words,
/// and in 64 bits no carry is lost before 2^32 of them. `Lanes` is one vector register.
template <class Lanes>
[[gnu::always_inline]] inline std::uint64_t sum_lanes(const std::byte* at,
                                                      std::size_t bytes) noexcept {
    constexpr std::size_t lane_count = sizeof(Lanes) / sizeof(std::uint64_t);
    Lanes low{};
    Lanes high{};
    for (; bytes > 0; at += block_bytes, bytes -= block_bytes) {
        for (std::size_t offset = 0; offset < block_bytes; offset += sizeof(Lanes)) {
            Lanes words;
            std::memcpy(&words, at + offset, sizeof words);
            low += words & 0xffff'ffff;
            high += words >> 32;
        }
    }
    std::uint64_t sum = 0;
    for (std::size_t i = 0; i < lane_count; ++i) {
        sum += (low[i] & 0xffff'ffff) + (low[i] >> 32);
        sum += (high[i] & 0xffff'ffff) + (high[i] >> 32);
    }
    return sum;
}

using TwoLanes = std::uint64_t __attribute__((vector_size(16))); // every x86-64 has these
using FourLanes = std::uint64_t __attribute__((vector_size(32)));

std::uint64_t sum_two(const std::byte* at, std::size_t bytes) noexcept {
    return sum_lanes<TwoLanes>(at, bytes);
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] std::uint64_t sum_four(const std::byte* at, std::size_t bytes) noexcept {
    return sum_lanes<FourLanes>(at, bytes);
}

std::uint64_t sum_blocks(const std::byte* at, std::size_t bytes) noexcept {
    static const bool wide = __builtin_cpu_supports("avx2") != 0;
    return wide ? sum_four(at, bytes) : sum_two(at, bytes);
}
#else
std::uint64_t sum_blocks(const std::byte* at, std::size_t bytes) noexcept {
    return sum_two(at, bytes);
}
#endif

} // namespace

std::uint32_t ones_sum(std::span<const std::byte> bytes, std::uint32_t seed) noexcept {
    const std::byte* at = bytes.data();
    std::size_t left = bytes.size();
    std::uint64_t sum = seed;
    if (const std::size_t whole = left - left % block_bytes; whole != 0) {
        sum += sum_blocks(at, whole);
        at += whole;
        left -= whole;
    }
    for (; left >= 8; left -= 8, at += 8) {
        const auto word = load<std::uint64_t>(at);
        sum += (word & 0xffff'ffff) + (word >> 32);
    }
    if (left >= 4) {
        sum += load<std::uint32_t>(at);
        at += 4;
        left -= 4;
    }
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
