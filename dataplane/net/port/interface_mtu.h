// interface_mtu.h: what a kernel interface under a virtual device can carry.
//
// Scope      The MTU of an interface, and of the other end of a veth, also in another network namespace. A
//            frame that the other end refuses would stop an AF_PACKET ring for good: the kernel then offers the
//            same slot again and again. So nobody may send one.
// Owns       Nothing.
// Threading  Any; asks the kernel by netlink, which takes microseconds. For the start.
// Failure    bytes is 0 when the kernel does not answer.
#pragma once

#include <cstdint>

namespace dataplane::net {

struct InterfaceMtu {
    std::uint16_t bytes = 0;  // the least of both ends
    bool of_peer = false;     // it is the other end's
    bool peer_hidden = false; // a veth whose other end cannot be asked
};

[[nodiscard]] InterfaceMtu interface_mtu(unsigned index) noexcept;

} // namespace dataplane::net
