// arp.h: ARP for IPv4 over Ethernet (RFC 826) as values, read from the wire and written to it.
//
// Scope      The message only; whom to believe and to answer is layer.cc's.
// Failure    What is no request or reply of IPv4 over Ethernet, or comes from no single host, is not read.
#pragma once

#include "dataplane/net/ip/headers.h"

#include <optional>

namespace dataplane::net::ip {

inline constexpr std::size_t arp_bytes = 28;

struct Arp {
    bool reply = false;
    MacAddress sender_mac{};
    IpAddress sender; // 0.0.0.0 in a probe (RFC 5227)
    MacAddress target_mac{};
    IpAddress target;
};

[[nodiscard]] std::optional<Arp> read_arp(Bytes bytes) noexcept;
void write_arp(std::span<std::byte, arp_bytes> to, const Arp& arp) noexcept;

} // namespace dataplane::net::ip
