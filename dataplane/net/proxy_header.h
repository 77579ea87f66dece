// proxy_header.h: reads the PROXY protocol header that a balancer puts in front of a connection.
//
// Scope      Versions 1 and 2 of HAProxy's proxy-protocol.txt, TCP over IPv4 and IPv6. Sans-I/O:
//            bytes in, header out; who asks for a header, and how long it may take, is elsewhere.
// Failure    need_more while the bytes could still become a header; bad as soon as they cannot.
//            There is no guessing: where a header is expected, a connection without one is refused,
//            or anybody could claim any address by sending one himself.
#pragma once

#include "dataplane/base/address.h"

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>

namespace dataplane::net {

namespace base = dataplane::base;

inline constexpr std::size_t proxy_v1_bytes_max = 107; // §2.1, CRLF included
// As many bytes from the start as the parser ever looks at. Version 2 needs less: its fixed part
// and two IPv6 addresses are 52, and what lies behind them is skipped.
inline constexpr std::size_t proxy_header_look_bytes = proxy_v1_bytes_max;

enum class ProxyHeaderError : std::uint8_t { need_more, bad };

struct ProxyHeader {
    base::SocketAddress source;
    base::SocketAddress destination;
    // Whether addresses were told. Not so for version 1's UNKNOWN, version 2's LOCAL (the
    // balancer's own health check) and address families other than IP: the connection's own ends
    // hold then.
    bool told = false;
    // The header's length. May be more than was given to the parser: skip the rest as it comes.
    std::size_t bytes = 0;
};

/// \param bytes  everything received so far, from the first byte on; what lies beyond
///               proxy_header_look_bytes is not looked at
[[nodiscard]] std::expected<ProxyHeader, ProxyHeaderError>
parse_proxy_header(std::span<const std::byte> bytes) noexcept;

} // namespace dataplane::net
