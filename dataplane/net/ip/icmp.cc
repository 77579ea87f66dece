#include "dataplane/net/ip/icmp.h"

#include "dataplane/net/ip/limits.h"
#include "dataplane/net/ip/path_mtu.h"

namespace dataplane::net::ip {
namespace {

constexpr std::uint8_t type_unreachable = 3, type_time_exceeded = 11, type_parameter_problem = 12;
constexpr std::uint8_t code_protocol = 2, code_port = 3, code_too_big = 4, code_source_route = 5,
                       code_unknown_last = 10, code_tos_last = 12, code_last = 15;

/// RFC 1122 §3.2.2.1, and Linux's reading of the codes that it does not name: what an administrator
/// forbids will not change while a handshake waits.
TransportError::Kind kind_of_unreachable(std::uint8_t code) noexcept {
    if (code == code_protocol || code == code_port) return TransportError::Kind::hard;
    if (code <= code_source_route) return TransportError::Kind::soft;
    if (code <= code_unknown_last) return TransportError::Kind::hard;
    if (code <= code_tos_last) return TransportError::Kind::soft;
    return TransportError::Kind::hard;
}

} // namespace

bool is_icmp_error(std::uint8_t type) noexcept {
    return type == type_unreachable || type == type_time_exceeded || type == type_parameter_problem;
}

std::optional<TransportError> read_icmp_error(const Packet& packet, std::uint16_t mtu) noexcept {
    if (packet.payload.size() < icmp_error_bytes + ipv4_bytes + 8) return std::nullopt;
    const std::uint8_t type = read8(packet.payload, 0);
    const std::uint8_t code = read8(packet.payload, 1);

    const Bytes quoted = packet.payload.subspan(icmp_error_bytes);
    const std::size_t header_bytes = std::size_t{read8(quoted, 0) & 0x0fU} * 4;
    const std::uint16_t total_bytes = read16(quoted, 2);
    if ((read8(quoted, 0) >> 4) != 4 || header_bytes < ipv4_bytes ||
        quoted.size() < header_bytes + 8 || total_bytes < header_bytes + tcp_bytes_min)
        return std::nullopt;
    // We set no options and never fragment, and routers change neither.
    if (read8(quoted, 9) != protocol_tcp || (read16(quoted, 6) & 0x3fff) != 0) return std::nullopt;

    TransportError error;
    error.source = read_v4(quoted, 12);
    error.destination = read_v4(quoted, 16);
    error.source_port = read16(quoted, header_bytes);
    error.destination_port = read16(quoted, header_bytes + 2);
    error.seq = tcp::Seq{read32(quoted, header_bytes + 4)};
    if (type != type_unreachable) return error; // both are soft
    if (code > code_last) return std::nullopt;
    if (code != code_too_big) {
        error.kind = kind_of_unreachable(code);
        if (code == code_port) error.error = base::NetError::refused;
        return error;
    }
    error.kind = TransportError::Kind::packet_too_big;
    std::uint16_t said = read16(packet.payload, 6);
    // RFC 1191 §5. With TSO the quoted length is that of a cut segment, as the wire had it.
    if (said == 0) said = plateau_below(std::min(total_bytes, mtu));
    error.mtu = std::max(said, ipv4_path_mtu_min);
    if (error.mtu >= mtu) return std::nullopt;
    return error;
}

} // namespace dataplane::net::ip
