// siphash.h: SipHash-2-4, a keyed hash that stays unpredictable to whoever does not know the key.
//
// Scope      64-bit output over a short message. For initial sequence numbers, cookies and offsets.
// Source     Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dataplane::net::tcp {

using SipKey = std::array<std::uint64_t, 2>;

[[nodiscard]] constexpr std::uint64_t siphash(const SipKey& key,
                                              std::span<const std::uint8_t> message) noexcept {
    std::uint64_t v0 = key[0] ^ 0x736f6d6570736575;
    std::uint64_t v1 = key[1] ^ 0x646f72616e646f6d;
    std::uint64_t v2 = key[0] ^ 0x6c7967656e657261;
    std::uint64_t v3 = key[1] ^ 0x7465646279746573;
    const auto round = [&] {
        v0 += v1;
        v2 += v3;
        v1 = std::rotl(v1, 13) ^ v0;
        v3 = std::rotl(v3, 16) ^ v2;
        v0 = std::rotl(v0, 32);
        v2 += v1;
        v0 += v3;
        v1 = std::rotl(v1, 17) ^ v2;
        v3 = std::rotl(v3, 21) ^ v0;
        v2 = std::rotl(v2, 32);
    };
    const auto absorb = [&](std::uint64_t word) {
        v3 ^= word;
        round();
        round();
        v0 ^= word;
    };

    std::size_t at = 0;
    for (; at + 8 <= message.size(); at += 8) {
        std::uint64_t word = 0;
        for (unsigned i = 0; i < 8; ++i)
            word |= std::uint64_t{message[at + i]} << (8 * i);
        absorb(word);
    }
    std::uint64_t last = std::uint64_t{message.size()} << 56;
    for (unsigned i = 0; at + i < message.size(); ++i)
        last |= std::uint64_t{message[at + i]} << (8 * i);
    absorb(last);

    v2 ^= 0xff;
    round();
    round();
    round();
    round();
    return v0 ^ v1 ^ v2 ^ v3;
}

/// A message of a fixed size at most, put together from addresses and numbers.
class SipMessage {
public:
    constexpr void add(std::span<const std::uint8_t> bytes) noexcept {
        for (const std::uint8_t byte : bytes)
            bytes_[length_++] = byte;
    }
    template <class Number>
    constexpr void add_number(Number number) noexcept {
        for (std::size_t i = 0; i < sizeof(Number); ++i)
            bytes_[length_++] = static_cast<std::uint8_t>(number >> (8 * i));
    }
    [[nodiscard]] constexpr std::uint64_t hash(const SipKey& key) const noexcept {
        return siphash(key, {bytes_.data(), length_});
    }

private:
    std::array<std::uint8_t, 64> bytes_{}; // two IPv6 addresses, two ports, and room for a cookie's
    std::size_t length_ = 0;
};

} // namespace dataplane::net::tcp
