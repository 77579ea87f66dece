// options.h: what can be set about a kernel transport, and what it counts.
//
// Scope      Plain values. The reasons of the defaults are in limits.h.
#pragma once

#include "dataplane/net/kernel/limits.h"

namespace dataplane::net::kernel {

struct KernelTransportOptions {
    std::uint32_t receive_buffers = kernel::receive_buffers;
    std::uint32_t receive_buffer_bytes = kernel::receive_buffer_bytes;
    std::uint32_t receive_window = kernel::receive_window;
    std::uint32_t stream_buffers_max = kernel::stream_buffers_max;
    std::uint32_t send_chunks = kernel::send_chunks;
    std::uint32_t send_chunk_bytes = kernel::send_chunk_bytes; // a multiple of 64
    std::size_t send_bytes_max = kernel::send_bytes_max;
    base::Duration close_limit = kernel::close_limit;
    base::Duration proxy_limit = kernel::proxy_limit;
};

struct KernelCounters {
    std::uint64_t accepted = 0;
    std::uint64_t refused_at_max = 0; // closed at once: connections_max
    std::uint64_t accept_errors = 0;  // out of descriptors or memory
    std::uint64_t proxy_refused = 0;  // no good PROXY header in time
    std::uint64_t connected = 0;
    std::uint64_t connect_errors = 0; // deadlines and cancellations included
    std::uint64_t received_bytes = 0;
    std::uint64_t receives = 0;        // completions that brought bytes
    std::uint64_t receive_pauses = 0;  // streams stopped because their reader is behind
    std::uint64_t receive_starved = 0; // -ENOBUFS
    std::uint64_t sent_bytes = 0;
    std::uint64_t sends = 0;
    std::uint64_t sends_partial = 0;
    std::uint64_t chunks_starved = 0; // writers that waited for a send chunk
    std::uint64_t resets_sent = 0;    // abort(), and close() whose bytes did not leave in time
};

} // namespace dataplane::net::kernel
