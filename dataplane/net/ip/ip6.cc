#include "dataplane/net/ip/limits.h"
#include "dataplane/net/ip/packet.h"

namespace dataplane::net::ip {
namespace {

constexpr std::uint8_t header_hop_by_hop = 0, header_routing = 43, header_fragment = 44,
                       header_destination_options = 60;
constexpr std::uint8_t option_pad1 = 0;
constexpr std::size_t fragment_header_bytes = 8;

/// RFC 8200 §4.2: of what we do not know, only options that say so may be skipped; there is none
/// that we need.
bool options_acceptable(Bytes options) noexcept {
    std::size_t at = 0;
    for (unsigned count = 0; at < options.size(); ++count) {
        const std::uint8_t type = read8(options, at);
        if (type == option_pad1) { // not counted: costs its sender a byte too, of 2 KB at most
            ++at;
            continue;
        }
        if (count >= extension_options_max || (type & 0xc0) != 0) return false;
        if (at + 2 > options.size()) return false;
        at += std::size_t{2} + read8(options, at + 1);
    }
    return at == options.size();
}

/// RFC 8200 §4. Ends at a transport header, or at the first fragment's place when it is one of several.
std::expected<void, Drop> walk(Packet& packet, bool first_is_hop_by_hop) noexcept {
    for (unsigned count = 0;; ++count) {
        const Bytes rest = packet.payload;
        switch (packet.protocol) {
        case header_hop_by_hop:
        case header_destination_options:
        case header_routing:
        case header_fragment:
            break;
        default:
            return {};
        }
        if (count >= extension_headers_max || rest.size() < fragment_header_bytes)
            return std::unexpected(Drop::bad_header);
        const std::uint8_t next = read8(rest, 0);
        if (packet.protocol == header_fragment) {
            const std::uint16_t place = read16(rest, 2);
            packet.payload = rest.subspan(fragment_header_bytes);
            packet.protocol = next;
            const auto offset = static_cast<std::uint16_t>(place & 0xfff8);
            const bool more = (place & 1) != 0;
            if (packet.fragment) return std::unexpected(Drop::bad_header); // one is enough
            packet.fragment = {read32(rest, 4), offset, more};
            if (offset != 0 || more) return {};
            continue; // RFC 6946: an atomic fragment is a packet; that it had been one is kept
        }
        const std::size_t header_bytes = (std::size_t{read8(rest, 1)} + 1) * 8;
        if (header_bytes > rest.size()) return std::unexpected(Drop::bad_header);
        if (packet.protocol == header_routing) {
            // RFC 5095: type 0 is refused; of the others, only one that is used up may be passed over.
            if (read8(rest, 2) == 0 || read8(rest, 3) != 0)
                return std::unexpected(Drop::bad_header);
        } else {
            if (packet.protocol == header_hop_by_hop && !(first_is_hop_by_hop && count == 0))
                return std::unexpected(Drop::bad_header);
            if (!options_acceptable(rest.subspan(2, header_bytes - 2)))
                return std::unexpected(Drop::bad_header);
        }
        packet.protocol = next;
        packet.payload = rest.subspan(header_bytes);
    }
}

} // namespace

std::expected<Packet, Drop> read_ipv6(Bytes bytes) noexcept {
    if (bytes.size() < ipv6_bytes || (read8(bytes, 0) >> 4) != 6)
        return std::unexpected(Drop::bad_header);
    const std::size_t payload_bytes = read16(bytes, 4);
    // No payload at all would be a jumbogram (RFC 2675) or nothing.
    if (payload_bytes == 0 || payload_bytes > bytes.size() - ipv6_bytes)
        return std::unexpected(Drop::bad_header);

    Packet packet;
    packet.source = read_v6(bytes, 8);
    packet.destination = read_v6(bytes, 24);
    // A v4-mapped address is none on a wire; it must not pass for the IPv4 host.
    if (!packet.source.is_v6() || is_multicast(packet.source) || packet.source.is_loopback())
        return std::unexpected(Drop::bad_source);
    if (!packet.destination.is_v6()) return std::unexpected(Drop::not_ours);
    packet.ecn = static_cast<tcp::Ecn>((read8(bytes, 1) >> 4) & 3);
    packet.hop_limit = read8(bytes, 7);
    packet.protocol = read8(bytes, 6);
    packet.header = bytes;
    packet.payload = bytes.subspan(ipv6_bytes, payload_bytes);
    if (const auto walked = walk(packet, true); !walked) return std::unexpected(walked.error());
    return packet;
}

std::expected<void, Drop> read_extensions(Packet& packet) noexcept {
    if (!packet.source.is_v6()) return {};
    packet.fragment = FragmentPlace{}; // another Fragment header inside is refused
    return walk(packet, false);
}

} // namespace dataplane::net::ip
