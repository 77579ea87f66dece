// digest.h: the 64-bit digest by which the sink knows a body that was altered.
//
// Scope      Detects accidents, not forgery: four multiply-rotate lanes over 32-byte stripes, so
//            that hashing costs far less than receiving (measured: see tests/dataplane/loadgen).
//            The same bytes give the same digest however they were cut into updates.
// Owns       At most one stripe of bytes between updates.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dataplane::loadgen {

class BodyDigest {
public:
    void update(std::span<const std::byte> bytes) noexcept;
    [[nodiscard]] std::uint64_t finish() const noexcept;
    void reset() noexcept { *this = BodyDigest{}; }
    [[nodiscard]] std::uint64_t bytes_seen() const noexcept { return total_bytes_; }

private:
    static constexpr std::size_t stripe_bytes = 32;
    void mix_stripe(const std::byte* stripe) noexcept;

    // Odd constants from the fractional bits of square roots, so that all-zero input moves the
    // state.
    std::array<std::uint64_t, 4> lanes_{0x6A09E667F3BCC909, 0xBB67AE8584CAA73B, 0x3C6EF372FE94F82B,
                                        0xA54FF53A5F1D36F1};
    std::array<std::byte, stripe_bytes> held_{};
    std::size_t held_bytes_ = 0;
    std::uint64_t total_bytes_ = 0;
};

[[nodiscard]] std::uint64_t digest_of(std::span<const std::byte> bytes) noexcept;

/// Spreads all bits of a key over all bits of the result: for hash tables and seeds.
[[nodiscard]] constexpr std::uint64_t scramble(std::uint64_t key) noexcept {
    key = (key ^ (key >> 32)) * 0xD6E8FEB86659FD93;
    key = (key ^ (key >> 29)) * 0xC2B2AE3D27D4EB4F;
    return key ^ (key >> 32);
}

} // namespace dataplane::loadgen
