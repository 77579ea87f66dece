// socket_address.h: our addresses as the kernel writes them, and errno as NetError.
//
// Scope      Conversions only.
#pragma once

#include "dataplane/base/stream.h"

#include <netinet/in.h>
#include <sys/socket.h>

namespace dataplane::net::kernel {

namespace base = dataplane::base;

/// A socket address in the kernel's form, large enough for either family.
struct KernelAddress {
    union {
        sockaddr any;
        sockaddr_in v4;
        sockaddr_in6 v6;
    };
    socklen_t bytes = 0;

    KernelAddress() noexcept : v6{} {}
    explicit KernelAddress(const base::SocketAddress& address) noexcept;
    [[nodiscard]] base::SocketAddress address() const noexcept;
};

/// The two ends of a socket; unspecified addresses when the connection is gone already.
[[nodiscard]] base::SocketAddress local_address(int socket) noexcept;
[[nodiscard]] base::SocketAddress peer_address(int socket) noexcept;

/// What an errno of a socket call means to its user. An unforeseen one counts as a reset: the
/// connection is of no use, and trying again is right.
[[nodiscard]] base::NetError to_net_error(int error) noexcept;
/// The same for connect(), where "address not available" says that no source port is left.
[[nodiscard]] base::NetError connect_error(int error) noexcept;

} // namespace dataplane::net::kernel
