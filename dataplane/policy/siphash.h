// siphash.h: SipHash-2-4 with 128 bits of output: a keyed digest without OpenSSL on the shard.
//
// Scope      One function over a few pieces of text. The key is random per process, so a digest
//            says nothing to whoever does not also hold this process's memory. Source     Aumasson,
//            Bernstein: "SipHash: a fast short-input PRF" (2012), 128-bit variant; checked against
//            the published vectors in the tests.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <span>
#include <string_view>

namespace dataplane::policy {

using SipKey = std::array<std::uint64_t, 2>;

struct Digest {
    std::uint64_t low = 0, high = 0;
    auto operator<=>(const Digest&) const noexcept = default;
};

/// The digest of the bytes of `text`.
[[nodiscard]] Digest sip_digest(const SipKey& key, std::string_view text) noexcept;
/// The digest of two texts; where one ends and the other begins matters.
[[nodiscard]] Digest sip_digest(const SipKey& key, std::string_view first,
                                std::string_view second) noexcept;

} // namespace dataplane::policy
