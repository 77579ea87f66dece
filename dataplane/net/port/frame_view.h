// frame_view.h: where in a frame the headers lie, read only.
//
// Scope      Ethernet with one 802.1Q tag, IPv4, IPv6 with its extension headers, the ports of TCP and
//            UDP. For the ports' own needs: software RSS, ECN marks, capture filters, checking what a
//            device says. The IP layer has its own, stricter parsing.
// Owns       Nothing.
// Threading  None; pure functions.
// Failure    What is no IP, or shorter than it says, gives nullopt; nothing beyond the span is read.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/net/port/port.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace dataplane::net {

struct FrameView {
    std::size_t l3_at = 0; // of the IP header
    bool v6 = false;
    bool fragment = false; // any fragment, the first too
    std::uint8_t protocol = 0;
    std::size_t l4_at = 0;
    std::size_t l4_bytes = 0; // header and payload, padding cut off
    base::IpAddress source;
    base::IpAddress destination;
    std::uint16_t source_port = 0; // TCP and UDP, unless a fragment
    std::uint16_t destination_port = 0;
};

[[nodiscard]] std::optional<FrameView> view_frame(std::span<const std::byte> frame) noexcept;
/// The same of a frame's beginning: the headers are there, what follows may be cut off, so l4_bytes
/// may reach beyond the span.
[[nodiscard]] std::optional<FrameView> view_headers(std::span<const std::byte> beginning) noexcept;

struct ChecksumVerdict {
    ChecksumState ip = ChecksumState::unknown;
    ChecksumState l4 = ChecksumState::unknown;
};
/// What hardware that verifies checksums would say of the frame. Fragments' payloads stay unknown.
[[nodiscard]] ChecksumVerdict verify_checksums(std::span<const std::byte> frame) noexcept;

/// Marks the IP packet in the frame "congestion experienced" when it is ECN-capable (RFC 3168 §5),
/// IPv4's checksum included; false when it is not.
bool mark_congestion(std::span<std::byte> frame) noexcept;

/// The Toeplitz hash over addresses and ports, as NICs compute it for RSS; over the addresses alone
/// when there are no ports. nullopt for what is no IP.
/// \param key  40 bytes at least
[[nodiscard]] std::optional<std::uint32_t> rss_hash(std::span<const std::byte> frame,
                                                    std::span<const std::uint8_t> key) noexcept;

/// The key that Microsoft's RSS document verifies with, and many drivers use.
inline constexpr std::array<std::uint8_t, 40> rss_key_default{
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
    0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
    0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

} // namespace dataplane::net
