// limits.h: every bound of the kernel transport, with its reason.
//
// Scope      Defaults of KernelTransportOptions and what is not worth an option.
#pragma once

#include "dataplane/base/clock.h"

#include <cstddef>
#include <cstdint>

namespace dataplane::net::kernel {

namespace base = dataplane::base;

// A message of the common 4 KB arrives with its commands in one piece, 32 KB in four or five.
inline constexpr std::uint32_t receive_buffer_bytes = 8192;
// 32 MiB for unread bytes on a shard, touched only as far as load needs it. When all are held, the
// sockets keep their bytes and the peers are held back by TCP.
inline constexpr std::uint32_t receive_buffers = 4096;
// How many of them the kernel holds at a time: it takes them in turn, so this is the memory that
// receiving keeps walking through. 4 MiB stays in cache, and 512 arrivals between two looks at the
// ring are more than a turn sees; beyond that the receive is armed again (-ENOBUFS), nothing is
// lost.
inline constexpr std::uint32_t receive_window = 512;
// Unread buffers of one stream (128 KiB) before its receive is stopped. The stop takes effect at
// the next submission, so a burst may overshoot by what the kernel reads in one go (32 buffers).
inline constexpr std::uint32_t stream_buffers_max = 16;
// An arrival up to this size is copied behind the one before, when there is room: a peer that sends
// byte by byte must not hold a buffer for each, and a dribbled line ends up in one piece.
inline constexpr std::uint32_t coalesce_bytes_max = 1024;

// Staged bytes of one stream before its writer waits: above the usual socket buffer's first steps,
// and little enough that 1,000 stuck readers hold no more than 256 MiB.
inline constexpr std::size_t send_bytes_max = std::size_t{256} * 1024;
// Copies of staged bytes live in chunks that only streams with something staged hold. One TLS
// record fits a chunk but for its header.
inline constexpr std::uint32_t send_chunk_bytes = 16384;
inline constexpr std::uint32_t send_chunks = 4096;
// Pieces staged on one stream, a power of two. A full SlabChain is 24.
inline constexpr std::uint32_t segments_max = 32;
// Pieces handed to the kernel with one send.
inline constexpr std::uint32_t send_pieces_max = 16;

// How long a closed stream's staged bytes may take to leave, with the wait for the peer's FIN
// behind them: without that wait the peer's last bytes would make our kernel answer with a reset,
// which may take our last reply away from the peer.
inline constexpr base::Duration close_limit = std::chrono::seconds{5};
// What is still read and dropped in that time.
inline constexpr std::size_t linger_bytes_max = std::size_t{256} * 1024;
// A PROXY header comes from a balancer next door and is its first packet.
inline constexpr base::Duration proxy_limit = std::chrono::seconds{5};
// Accepting failed for want of descriptors or memory: how long until the next try.
inline constexpr base::Duration accept_retry = std::chrono::milliseconds{100};

} // namespace dataplane::net::kernel
