#include "dataplane/net/ip/packet.h"

#include "dataplane/net/port/checksum.h"

namespace dataplane::net::ip {
namespace {

constexpr std::uint8_t option_end = 0, option_nop = 1, option_loose_route = 131,
                       option_strict_route = 137;

/// RFC 791 §3.1. Source routes are refused (RFC 7126 §4.3); the rest is skipped.
bool options_acceptable(Bytes options) noexcept {
    std::size_t at = 0;
    while (at < options.size()) {
        const std::uint8_t type = read8(options, at);
        if (type == option_end) return true;
        if (type == option_nop) {
            ++at;
            continue;
        }
        if (type == option_loose_route || type == option_strict_route) return false;
        if (at + 2 > options.size()) return false;
        const std::uint8_t length = read8(options, at + 1);
        if (length < 2 || at + length > options.size()) return false;
        at += length;
    }
    return true;
}

} // namespace

std::expected<Packet, Drop> read_ipv4(Bytes bytes, ChecksumState checksum) noexcept {
    if (bytes.size() < ipv4_bytes || (read8(bytes, 0) >> 4) != 4)
        return std::unexpected(Drop::bad_header);
    const std::size_t header_bytes = std::size_t{read8(bytes, 0) & 0x0fU} * 4;
    const std::size_t total_bytes = read16(bytes, 2);
    if (header_bytes < ipv4_bytes || total_bytes < header_bytes || total_bytes > bytes.size())
        return std::unexpected(Drop::bad_header);
    if (checksum == ChecksumState::bad ||
        (checksum == ChecksumState::unknown && !ipv4_checksum_good(bytes.first(header_bytes))))
        return std::unexpected(Drop::bad_checksum);
    if (header_bytes > ipv4_bytes &&
        !options_acceptable(bytes.subspan(ipv4_bytes, header_bytes - ipv4_bytes)))
        return std::unexpected(Drop::bad_header);

    Packet packet;
    packet.source = read_v4(bytes, 12);
    packet.destination = read_v4(bytes, 16);
    if (!is_host_address(packet.source)) return std::unexpected(Drop::bad_source);
    packet.ecn = static_cast<tcp::Ecn>(read8(bytes, 1) & 3);
    packet.hop_limit = read8(bytes, 8);
    packet.protocol = read8(bytes, 9);
    packet.header = bytes;
    packet.payload = bytes.subspan(header_bytes, total_bytes - header_bytes);

    const std::uint16_t place = read16(bytes, 6);
    const auto offset = static_cast<std::uint16_t>((place & 0x1fff) * 8);
    const bool more = (place & 0x2000) != 0;
    if (offset != 0 || more) packet.fragment = {read16(bytes, 4), offset, more};
    return packet;
}

} // namespace dataplane::net::ip
