// siphash.h: SipHash-2-4, a keyed hash that stays unpredictable to whoever does not know the key.
//
// Scope      64 bits of output for sequence numbers, cookies and offsets; 128 bits for digests of secrets, where
//            the key is random per process, so that a digest says nothing to whoever does not also hold this
//            process's memory. For tables there are cheaper hashes.
// Threading  None; values.
// Source     Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012, and its 128-bit variant; checked
//            against the published vectors in the tests.
#pragma once

#include <array>
#include <bit>
#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace dataplane::base {

using SipKey = std::array<std::uint64_t, 2>;

/// 128 bits of output.
struct SipDigest {
    std::uint64_t low = 0, high = 0;
    auto operator<=>(const SipDigest&) const noexcept = default;
};

namespace detail {

/// The hash while bytes go in. `output_bits` is 64 or 128: the two differ from the first step on.
template <unsigned output_bits>
    requires(output_bits == 64 || output_bits == 128)
class SipState {
public:
    constexpr explicit SipState(const SipKey& key) noexcept
        : v0_(0x736f6d6570736575U ^ key[0]),
          v1_(0x646f72616e646f6dU ^ key[1] ^ (output_bits == 128 ? 0xeeU : 0U)),
          v2_(0x6c7967656e657261U ^ key[0]), v3_(0x7465646279746573U ^ key[1]) {}

    /// The low `count` bytes of a number whose other bytes are zero, the lowest first. \pre  1 <= count <= 8
    constexpr void feed_number(std::uint64_t number, unsigned count) noexcept {
        const auto at = static_cast<unsigned>(bytes_ % 8);
        word_ |= number << (8 * at);
        bytes_ += count;
        if (at + count < 8) return;
        compress(word_);
        word_ = at == 0 ? 0 : number >> (8 * (8 - at));
    }
    template <class Byte>
    constexpr void feed(const Byte* bytes, std::size_t count) noexcept {
        while (count > 0) {
            const auto step = static_cast<unsigned>(count < 8 ? count : 8);
            std::uint64_t number = 0;
            for (unsigned i = 0; i < step; ++i)
                number |= std::uint64_t{static_cast<std::uint8_t>(bytes[i])} << (8 * i);
            feed_number(number, step);
            bytes += step;
            count -= step;
        }
    }
    [[nodiscard]] constexpr std::uint64_t finish_64() noexcept
        requires(output_bits == 64)
    {
        return finish(0xff);
    }
    [[nodiscard]] constexpr SipDigest finish_128() noexcept
        requires(output_bits == 128)
    {
        const std::uint64_t low = finish(0xee);
        v1_ ^= 0xdd;
        rounds(4);
        return {low, v0_ ^ v1_ ^ v2_ ^ v3_};
    }

private:
    constexpr std::uint64_t finish(std::uint64_t mark) noexcept {
        compress(word_ | (bytes_ & 0xff) << 56);
        v2_ ^= mark;
        rounds(4);
        return v0_ ^ v1_ ^ v2_ ^ v3_;
    }
    constexpr void compress(std::uint64_t word) noexcept {
        v3_ ^= word;
        rounds(2);
        v0_ ^= word;
    }
    constexpr void rounds(int count) noexcept {
        for (int round = 0; round < count; ++round) {
            v0_ += v1_;
            v2_ += v3_;
            v1_ = std::rotl(v1_, 13) ^ v0_;
            v3_ = std::rotl(v3_, 16) ^ v2_;
            v0_ = std::rotl(v0_, 32);
            v2_ += v1_;
            v0_ += v3_;
            v1_ = std::rotl(v1_, 17) ^ v2_;
            v3_ = std::rotl(v3_, 21) ^ v0_;
            v2_ = std::rotl(v2_, 32);
        }
    }

    std::uint64_t v0_, v1_, v2_, v3_;
    std::uint64_t word_ = 0;
    std::uint64_t bytes_ = 0;
};

} // namespace detail

/// 64 bits over addresses and numbers, fed one after the other. Whoever has several uses for one key
/// feeds a byte first that tells them apart.
class SipMessage {
public:
    constexpr explicit SipMessage(const SipKey& key) noexcept : state_(key) {}
    constexpr void add(std::span<const std::uint8_t> bytes) noexcept {
        state_.feed(bytes.data(), bytes.size());
    }
    template <std::unsigned_integral Number>
    constexpr void add_number(Number number) noexcept {
        state_.feed_number(number, sizeof number);
    }
    /// \pre  called once
    [[nodiscard]] constexpr std::uint64_t hash() noexcept { return state_.finish_64(); }

private:
    detail::SipState<64> state_;
};

/// The digest of the bytes of `text`.
[[nodiscard]] constexpr SipDigest sip_digest(const SipKey& key, std::string_view text) noexcept {
    detail::SipState<128> state(key);
    state.feed(text.data(), text.size());
    return state.finish_128();
}

/// The digest of two texts; where one ends and the other begins matters.
[[nodiscard]] constexpr SipDigest sip_digest(const SipKey& key, std::string_view first,
                                             std::string_view second) noexcept {
    detail::SipState<128> state(key);
    state.feed_number(first.size(), 8); // so that "ab"+"c" is not "a"+"bc"
    state.feed(first.data(), first.size());
    state.feed(second.data(), second.size());
    return state.finish_128();
}

} // namespace dataplane::base
