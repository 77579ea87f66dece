// flow_key.h: the four-tuple that names a connection, and its hash.
//
// Scope      Values. "Local" is always us, whichever side opened.
// Threading  None.
#pragma once

#include "dataplane/base/address.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

namespace dataplane::net::stack {

namespace base = dataplane::base;

[[nodiscard]] inline bool is_unspecified(const base::IpAddress& ip) noexcept {
    return std::ranges::all_of(ip.bytes(), [](std::uint8_t byte) { return byte == 0; });
}
[[nodiscard]] inline bool is_multicast(const base::IpAddress& ip) noexcept {
    return ip.is_v6() ? ip.bytes()[0] == 0xff : ip.bytes()[0] >= 224; // broadcast included
}

struct FlowKey {
    base::IpAddress local;
    base::IpAddress remote;
    std::uint16_t local_port = 0;
    std::uint16_t remote_port = 0;

    /// Compared for every segment: words, and no call.
    friend bool operator==(const FlowKey& a, const FlowKey& b) noexcept {
        const auto differ = [](const base::IpAddress& x, const base::IpAddress& y) {
            std::array<std::uint64_t, 2> left;
            std::array<std::uint64_t, 2> right;
            std::memcpy(left.data(), x.bytes().data(), sizeof left);
            std::memcpy(right.data(), y.bytes().data(), sizeof right);
            return (left[0] ^ right[0]) | (left[1] ^ right[1]);
        };
        return (differ(a.local, b.local) | differ(a.remote, b.remote)) == 0 &&
               a.local.is_v6() == b.local.is_v6() && a.remote.is_v6() == b.remote.is_v6() &&
               a.local_port == b.local_port && a.remote_port == b.remote_port;
    }
};

namespace detail {

/// Both halves of the 128-bit product, folded: each input bit reaches each output bit.
[[nodiscard]] inline std::uint64_t fold(std::uint64_t a, std::uint64_t b) noexcept {
    __extension__ using Wide = unsigned __int128;
    const Wide product = static_cast<Wide>(a) * b;
    return static_cast<std::uint64_t>(product) ^ static_cast<std::uint64_t>(product >> 64);
}
[[nodiscard]] inline std::uint64_t eight_bytes(const std::uint8_t* at) noexcept {
    std::uint64_t value = 0;
    std::memcpy(&value, at, sizeof value);
    return value;
}

} // namespace detail

/// Spreads keys over a table. Seeded, so that a peer that chooses its addresses and ports cannot make
/// them collide. Not for anything that a peer gets to see: that is SipHash's (base/siphash.h).
[[nodiscard]] inline std::uint64_t flow_hash(const FlowKey& key,
                                             const std::array<std::uint64_t, 2>& seed) noexcept {
    using detail::eight_bytes;
    using detail::fold;
    const std::uint8_t* local = key.local.bytes().data();
    const std::uint8_t* remote = key.remote.bytes().data();
    const std::uint64_t ports = static_cast<std::uint64_t>(key.local_port) << 16 | key.remote_port;
    std::uint64_t hash = seed[0] ^ 0x9e3779b97f4a7c15ULL;
    // An IPv4 address is the first four bytes, the other twelve are zero.
    hash = fold(eight_bytes(local) ^ hash, eight_bytes(remote) ^ seed[1]);
    if (key.local.is_v6()) {
        hash = fold(eight_bytes(local + 8) ^ hash, eight_bytes(remote + 8) ^ seed[1]);
        hash ^= 0xd6e8feb86659fd93ULL;
    }
    return fold(hash ^ ports ^ seed[0], seed[1] ^ 0xa0761d6478bd642fULL);
}

} // namespace dataplane::net::stack
