// wire_bytes.h: numbers in network order, read from and written into headers.
//
// Scope      Unaligned big-endian access with the length checked by the caller. Private to this room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace dataplane::net {

[[nodiscard]] inline std::uint8_t byte_at(std::span<const std::byte> bytes,
                                          std::size_t at) noexcept {
    return std::to_integer<std::uint8_t>(bytes[at]);
}
[[nodiscard]] inline std::uint16_t be16(std::span<const std::byte> bytes, std::size_t at) noexcept {
    return static_cast<std::uint16_t>(byte_at(bytes, at) << 8 | byte_at(bytes, at + 1));
}
[[nodiscard]] inline std::uint32_t be32(std::span<const std::byte> bytes, std::size_t at) noexcept {
    return std::uint32_t{be16(bytes, at)} << 16 | be16(bytes, at + 2);
}
inline void put_be16(std::span<std::byte> bytes, std::size_t at, std::uint16_t value) noexcept {
    bytes[at] = static_cast<std::byte>(value >> 8);
    bytes[at + 1] = static_cast<std::byte>(value);
}
inline void put_be32(std::span<std::byte> bytes, std::size_t at, std::uint32_t value) noexcept {
    put_be16(bytes, at, static_cast<std::uint16_t>(value >> 16));
    put_be16(bytes, at + 2, static_cast<std::uint16_t>(value));
}

inline constexpr std::size_t ethernet_bytes = 14;
inline constexpr std::size_t vlan_tag_bytes = 4;
inline constexpr std::size_t ipv4_bytes_min = 20;
inline constexpr std::size_t ipv6_bytes = 40;
inline constexpr std::uint16_t ethertype_vlan = 0x8100;
inline constexpr std::uint16_t ethertype_ipv4 = 0x0800;
inline constexpr std::uint16_t ethertype_ipv6 = 0x86dd;
inline constexpr std::uint8_t protocol_tcp = 6;
inline constexpr std::uint8_t protocol_udp = 17;
inline constexpr std::uint8_t protocol_icmp6 = 58;

} // namespace dataplane::net
