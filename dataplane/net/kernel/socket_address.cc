#include "dataplane/net/kernel/socket_address.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>

namespace dataplane::net::kernel {

KernelAddress::KernelAddress(const base::SocketAddress& address) noexcept : v6{} {
    const auto& from = address.ip.bytes();
    if (address.ip.is_v6()) {
        v6.sin6_family = AF_INET6;
        v6.sin6_port = htons(address.port);
        std::copy(from.begin(), from.end(), std::begin(v6.sin6_addr.s6_addr));
        bytes = sizeof v6;
    } else {
        v4 = {};
        v4.sin_family = AF_INET;
        v4.sin_port = htons(address.port);
        v4.sin_addr.s_addr = std::bit_cast<in_addr_t>(
            std::array<std::uint8_t, 4>{from[0], from[1], from[2], from[3]});
        bytes = sizeof v4;
    }
}

base::SocketAddress KernelAddress::address() const noexcept {
    if (any.sa_family == AF_INET6) {
        std::array<std::uint8_t, 16> ip{};
        std::copy(std::begin(v6.sin6_addr.s6_addr), std::end(v6.sin6_addr.s6_addr), ip.begin());
        return {base::IpAddress::v6(ip), ntohs(v6.sin6_port)};
    }
    if (any.sa_family == AF_INET) {
        const auto ip = std::bit_cast<std::array<std::uint8_t, 4>>(v4.sin_addr.s_addr);
        return {base::IpAddress::v4(ip), ntohs(v4.sin_port)};
    }
    return {};
}

base::SocketAddress local_address(int socket) noexcept {
    KernelAddress local;
    local.bytes = sizeof local.v6;
    if (getsockname(socket, &local.any, &local.bytes) != 0) return {};
    return local.address();
}

base::SocketAddress peer_address(int socket) noexcept {
    KernelAddress peer;
    peer.bytes = sizeof peer.v6;
    if (getpeername(socket, &peer.any, &peer.bytes) != 0) return {};
    return peer.address();
}

base::NetError to_net_error(int error) noexcept {
    switch (error) {
    case ECONNREFUSED:
        return base::NetError::refused;
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETUNREACH:
    case ENETDOWN:
    case EAFNOSUPPORT:
        return base::NetError::unreachable;
    case ETIMEDOUT:
        return base::NetError::timed_out;
    case EADDRNOTAVAIL:
        return base::NetError::address_not_available;
    case EADDRINUSE:
        return base::NetError::address_in_use;
    case EACCES:
    case EPERM:
        return base::NetError::permission;
    case ENOBUFS:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
        return base::NetError::no_buffers;
    case ECANCELED:
        return base::NetError::cancelled;
    default:
        return base::NetError::reset; // ECONNRESET, EPIPE, ECONNABORTED, ENOTCONN
    }
}

base::NetError connect_error(int error) noexcept {
    if (error == EADDRNOTAVAIL || error == EADDRINUSE) return base::NetError::no_port;
    return to_net_error(error);
}

} // namespace dataplane::net::kernel
