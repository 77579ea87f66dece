// icmp.h: what ICMP and ICMPv6 messages say about TCP segments of ours.
//
// Scope      Reading errors and the packet quoted in them (RFC 792, 1122 §3.2.2, 4443). That the sequence
//            number is in flight, only the connection knows (RFC 5927). Echo is layer.cc's.
// Failure    An error about something else, or one that contradicts itself, is not read.
#pragma once

#include "dataplane/net/ip/layer.h"
#include "dataplane/net/ip/packet.h"

#include <optional>

namespace dataplane::net::ip {

inline constexpr std::uint8_t icmp_echo_reply = 0, icmp_echo_request = 8;
inline constexpr std::uint8_t icmp6_echo_request = 128, icmp6_echo_reply = 129;

/// Whether the type is an error at all: those are counted, whatever comes of them.
[[nodiscard]] bool is_icmp_error(std::uint8_t type) noexcept;
[[nodiscard]] bool is_icmp6_error(std::uint8_t type) noexcept;

/// \param packet  an ICMP error to us whose checksum is right
/// \param mtu     of our link: a router that claims to be unable to take less is wrong. What is known
///                of the path does not count here: another connection may still send more than that
[[nodiscard]] std::optional<TransportError> read_icmp_error(const Packet& packet,
                                                            std::uint16_t mtu) noexcept;
[[nodiscard]] std::optional<TransportError> read_icmp6_error(const Packet& packet,
                                                             std::uint16_t mtu) noexcept;

} // namespace dataplane::net::ip
