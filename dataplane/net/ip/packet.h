// packet.h: an IPv4 or IPv6 packet after its headers were read and found right.
//
// Scope      What ip4.cc and ip6.cc have in common, and what reassembly needs.
// Owns       Nothing: views of the frame.
// Failure    A packet that contradicts itself or comes from nobody is dropped whole, with the reason.
#pragma once

#include "dataplane/net/ip/headers.h"
#include "dataplane/net/tcp/segment.h"

#include <cstdint>
#include <expected>
#include <optional>

namespace dataplane::net::ip {

enum class Drop : std::uint8_t { not_ours, bad_checksum, bad_header, bad_source, unknown_protocol };

struct FragmentPlace {
    std::uint32_t id = 0;
    std::uint16_t offset = 0; // bytes
    bool more = false;
};

struct Packet {
    IpAddress source;
    IpAddress destination;
    std::uint8_t protocol = 0; // of what `payload` begins with
    std::uint8_t hop_limit = 0;
    tcp::Ecn ecn = tcp::Ecn::not_ect;
    Bytes header;  // from the IP header on, for the pseudo-header's addresses
    Bytes payload; // padding cut off
    std::optional<FragmentPlace> fragment;
};

/// Whether the addresses are ours or others' is not looked at, only whether they may be on a wire.
/// \param bytes     from the IP header to the end of the frame
/// \param checksum  what the port found
[[nodiscard]] std::expected<Packet, Drop> read_ipv4(Bytes bytes, ChecksumState checksum) noexcept;

/// Walks the extension headers up to the transport header, or to a Fragment header that leaves some
/// out. The unspecified source of duplicate address detection is let through.
[[nodiscard]] std::expected<Packet, Drop> read_ipv6(Bytes bytes) noexcept;

/// Goes on where a Fragment header had been, in the reassembled payload; sets protocol and payload.
[[nodiscard]] std::expected<void, Drop> read_extensions(Packet& packet) noexcept;

} // namespace dataplane::net::ip
