// tcp_info.h: what getsockopt(TCP_INFO) tells, as the kernel lays it out.
//
// Scope      One function. In a file of its own because the kernel's header and libc's do not agree.
// Threading  None.
#pragma once

#include "tests/dataplane/net/packetdrill/sockets.h"

#include <array>
#include <cstddef>

namespace tests::packetdrill {

inline constexpr int tcp_info_option = 11; // TCP_INFO
using TcpInfoBytes = std::array<std::byte, 256>;

/// Fields that the stack does not know stay zero.
[[nodiscard]] TcpInfoBytes tcp_info_of(const SocketTable::Insight& insight);

} // namespace tests::packetdrill
