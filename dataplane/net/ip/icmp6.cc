#include "dataplane/net/ip/icmp.h"
#include "dataplane/net/ip/limits.h"

namespace dataplane::net::ip {
namespace {

constexpr std::uint8_t type_unreachable = 1, type_too_big = 2, type_time_exceeded = 3,
                       type_parameter_problem = 4;
constexpr std::uint8_t code_prohibited = 1, code_port = 4, code_policy = 5, code_reject_route = 6;

} // namespace

bool is_icmp6_error(std::uint8_t type) noexcept {
    return type < 128;
}

std::optional<TransportError> read_icmp6_error(const Packet& packet, std::uint16_t mtu) noexcept {
    if (packet.payload.size() < icmp_error_bytes + ipv6_bytes + 8) return std::nullopt;
    const std::uint8_t type = read8(packet.payload, 0);
    const std::uint8_t code = read8(packet.payload, 1);

    const Bytes quoted = packet.payload.subspan(icmp_error_bytes);
    // We send no extension headers: TCP follows at once, or it was not ours.
    if ((read8(quoted, 0) >> 4) != 6 || read8(quoted, 6) != protocol_tcp ||
        read16(quoted, 4) < tcp_bytes_min)
        return std::nullopt;

    TransportError error;
    error.source = read_v6(quoted, 8);
    error.destination = read_v6(quoted, 24);
    error.source_port = read16(quoted, ipv6_bytes);
    error.destination_port = read16(quoted, ipv6_bytes + 2);
    error.seq = tcp::Seq{read32(quoted, ipv6_bytes + 4)};
    switch (type) {
    case type_unreachable:
        if (code > code_reject_route) return std::nullopt;
        if (code == code_port) error.error = base::NetError::refused;
        if (code == code_prohibited || code == code_port || code == code_policy ||
            code == code_reject_route)
            error.kind = TransportError::Kind::hard;
        return error;
    case type_too_big: {
        error.kind = TransportError::Kind::packet_too_big;
        const std::uint32_t said = read32(packet.payload, 4);
        // RFC 8201 §4 discards what is below the minimum; taking the minimum gives a forger no more
        // than saying 1280 outright, and a translator to IPv4 that says less is heard (RFC 6145).
        error.mtu =
            static_cast<std::uint16_t>(std::clamp<std::uint32_t>(said, ipv6_path_mtu_min, 0xffff));
        if (error.mtu >= mtu) return std::nullopt;
        return error;
    }
    case type_time_exceeded:
    case type_parameter_problem:
        return error; // soft
    default:
        return std::nullopt;
    }
}

} // namespace dataplane::net::ip
