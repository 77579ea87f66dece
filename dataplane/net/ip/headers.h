// headers.h: the wire's byte order, and where the fields of each header lie.
//
// Scope      Reading and writing at an offset; numbers of protocols and types. What the fields mean is
//            in ip4.h, ip6.h, arp.h, nd.h, icmp.h.
// Failure    The caller has checked the length.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/net/port/port.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace dataplane::net::ip {

using base::IpAddress;
using Bytes = std::span<const std::byte>;

inline constexpr std::uint16_t ethertype_ipv4 = 0x0800, ethertype_arp = 0x0806,
                               ethertype_vlan = 0x8100, ethertype_ipv6 = 0x86dd;
inline constexpr std::size_t ethernet_bytes = 14, vlan_tag_bytes = 4;
inline constexpr std::size_t ipv4_bytes = 20, ipv6_bytes = 40;
inline constexpr std::size_t tcp_bytes_min = 20, icmp_bytes = 8, icmp_error_bytes = 8;

inline constexpr std::uint8_t protocol_icmp = 1, protocol_tcp = 6, protocol_icmp6 = 58;

inline constexpr MacAddress broadcast_mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

[[nodiscard]] inline std::uint8_t read8(Bytes from, std::size_t at) noexcept {
    return std::to_integer<std::uint8_t>(from[at]);
}
[[nodiscard]] inline std::uint16_t read16(Bytes from, std::size_t at) noexcept {
    std::uint16_t raw;
    std::memcpy(&raw, from.data() + at, sizeof raw);
    return __builtin_bswap16(raw);
}
[[nodiscard]] inline std::uint32_t read32(Bytes from, std::size_t at) noexcept {
    std::uint32_t raw;
    std::memcpy(&raw, from.data() + at, sizeof raw);
    return __builtin_bswap32(raw);
}
[[nodiscard]] inline MacAddress read_mac(Bytes from, std::size_t at) noexcept {
    MacAddress mac;
    std::memcpy(mac.data(), from.data() + at, mac.size());
    return mac;
}
[[nodiscard]] inline IpAddress read_v4(Bytes from, std::size_t at) noexcept {
    std::array<std::uint8_t, 4> raw;
    std::memcpy(raw.data(), from.data() + at, raw.size());
    return IpAddress::v4(raw);
}
/// A v4-mapped address comes back as IPv4, which no IPv6 header may hold: callers look at is_v6().
[[nodiscard]] inline IpAddress read_v6(Bytes from, std::size_t at) noexcept {
    std::array<std::uint8_t, 16> raw;
    std::memcpy(raw.data(), from.data() + at, raw.size());
    return IpAddress::v6(raw);
}

inline void write8(std::byte* to, std::uint8_t value) noexcept {
    *to = std::byte{value};
}
inline void write16(std::byte* to, std::uint16_t value) noexcept {
    const std::uint16_t raw = __builtin_bswap16(value);
    std::memcpy(to, &raw, sizeof raw);
}
inline void write32(std::byte* to, std::uint32_t value) noexcept {
    const std::uint32_t raw = __builtin_bswap32(value);
    std::memcpy(to, &raw, sizeof raw);
}
inline void write_mac(std::byte* to, const MacAddress& mac) noexcept {
    std::memcpy(to, mac.data(), mac.size());
}
/// 4 or 16 bytes.
inline void write_ip(std::byte* to, const IpAddress& ip) noexcept {
    std::memcpy(to, ip.bytes().data(), ip.is_v6() ? 16 : 4);
}

[[nodiscard]] inline bool is_unicast(const MacAddress& mac) noexcept {
    return (mac[0] & 1) == 0 && mac != MacAddress{};
}
[[nodiscard]] inline bool is_multicast(const IpAddress& ip) noexcept {
    return ip.is_v6() ? ip.bytes()[0] == 0xff : (ip.bytes()[0] & 0xf0) == 0xe0;
}
[[nodiscard]] inline bool is_link_local_v6(const IpAddress& ip) noexcept {
    return ip.is_v6() && ip.bytes()[0] == 0xfe && (ip.bytes()[1] & 0xc0) == 0x80;
}
/// Whether one host may have this address, on a wire. The networks' broadcast addresses are not
/// known here.
[[nodiscard]] inline bool is_host_address(const IpAddress& ip) noexcept {
    const auto& bytes = ip.bytes();
    if (!ip.is_v6()) return bytes[0] != 0 && bytes[0] != 127 && bytes[0] < 224;
    return bytes[0] != 0xff && ip != IpAddress::v6({}) && !ip.is_loopback();
}

/// ff02::1:ffXX:XXXX of an address (RFC 4291 §2.7.1).
[[nodiscard]] inline IpAddress solicited_node(const IpAddress& ip) noexcept {
    std::array<std::uint8_t, 16> raw{0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0xff};
    std::copy(ip.bytes().begin() + 13, ip.bytes().end(), raw.begin() + 13);
    return IpAddress::v6(raw);
}
[[nodiscard]] inline IpAddress all_nodes() noexcept {
    return IpAddress::v6({0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01});
}
/// 33:33 and the last four bytes (RFC 2464 §7).
[[nodiscard]] inline MacAddress multicast_mac(const IpAddress& ip) noexcept {
    const auto& bytes = ip.bytes();
    return {0x33, 0x33, bytes[12], bytes[13], bytes[14], bytes[15]};
}
/// fe80:: with the modified EUI-64 of the MAC (RFC 4291, appendix A).
[[nodiscard]] inline IpAddress link_local(const MacAddress& mac) noexcept {
    return IpAddress::v6({0xfe, 0x80, 0, 0, 0, 0, 0, 0, static_cast<std::uint8_t>(mac[0] ^ 0x02),
                          mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]});
}

} // namespace dataplane::net::ip
