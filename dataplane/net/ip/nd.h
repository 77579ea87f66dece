// nd.h: Neighbour Solicitation and Advertisement (RFC 4861 §4.3, §4.4) as values.
//
// Scope      The message and the checks of §7.1; whom to believe and to answer is layer.cc's.
// Failure    A message that fails one check is not read.
#pragma once

#include "dataplane/net/ip/packet.h"

#include <optional>

namespace dataplane::net::ip {

inline constexpr std::uint8_t icmp6_neighbour_solicitation = 135,
                              icmp6_neighbour_advertisement = 136;
inline constexpr std::size_t nd_bytes = 32;       // with the one option we send
inline constexpr std::uint8_t nd_hop_limit = 255; // a router would have taken one off

struct NeighbourMessage {
    bool advertisement = false;
    bool solicited = false; // advertisement only
    bool overrides = false; // advertisement only
    IpAddress target;
    std::optional<MacAddress> link; // the sender's or the target's MAC, as the type has it
};

/// \param packet  an ICMPv6 packet of one of the two types whose checksum is right
[[nodiscard]] std::optional<NeighbourMessage> read_neighbour(const Packet& packet) noexcept;
/// With a zero checksum.
void write_neighbour(std::span<std::byte, nd_bytes> to, const NeighbourMessage& message) noexcept;

} // namespace dataplane::net::ip
