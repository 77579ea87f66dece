#include "dataplane/net/ip/arp.h"

namespace dataplane::net::ip {
namespace {

constexpr std::uint16_t hardware_ethernet = 1, operation_request = 1, operation_reply = 2;

} // namespace

std::optional<Arp> read_arp(Bytes bytes) noexcept {
    if (bytes.size() < arp_bytes) return std::nullopt;
    if (read16(bytes, 0) != hardware_ethernet || read16(bytes, 2) != ethertype_ipv4 ||
        read8(bytes, 4) != MacAddress{}.size() || read8(bytes, 5) != 4)
        return std::nullopt;
    const std::uint16_t operation = read16(bytes, 6);
    if (operation != operation_request && operation != operation_reply) return std::nullopt;

    Arp arp;
    arp.reply = operation == operation_reply;
    arp.sender_mac = read_mac(bytes, 8);
    arp.sender = read_v4(bytes, 14);
    arp.target_mac = read_mac(bytes, 18);
    arp.target = read_v4(bytes, 24);
    if (!is_unicast(arp.sender_mac)) return std::nullopt;
    return arp;
}

void write_arp(std::span<std::byte, arp_bytes> to, const Arp& arp) noexcept {
    std::byte* at = to.data();
    write16(at, hardware_ethernet);
    write16(at + 2, ethertype_ipv4);
    write8(at + 4, 6);
    write8(at + 5, 4);
    write16(at + 6, arp.reply ? operation_reply : operation_request);
    write_mac(at + 8, arp.sender_mac);
    write_ip(at + 14, arp.sender);
    write_mac(at + 18, arp.target_mac);
    write_ip(at + 24, arp.target);
}

} // namespace dataplane::net::ip
