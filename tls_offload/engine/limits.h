// limits.h: the bounds of the offload engine.
#pragma once

#include "dataplane/base/clock.h"

#include <cstddef>
#include <cstdint>

namespace tls_offload::offload {

namespace base = dataplane::base;

inline constexpr unsigned key_bits_min =
    2048; // RFC 8301 §3.2 wants verifiers to take 1024; nobody should sign so
inline constexpr unsigned key_bits_max = 4096;
inline constexpr std::size_t block_bytes_max = key_bits_max / 8;
inline constexpr std::size_t digest_bytes = 32; // SHA-256

// Signatures that one shard waits for at once: 4096 of 13 ms each at one worker's rate is longer than
// any client waits, so more would only hide an overload.
inline constexpr std::size_t requests_max = 4096;
// Requests that no backend has taken yet; beyond this many the next backend is asked as well.
inline constexpr std::size_t high_water = 256;
// What one call of poll() takes from a backend.
inline constexpr std::size_t poll_budget = 64;
// Signatures of RSA-2048 that software makes on the shard in one turn: each is 0.2 ms, and a turn shall stay
// below 1 ms. A larger key is a turn's work by itself.
inline constexpr std::size_t inline_work_per_poll = 2;
// A larger key than this goes to software on the shard only when nothing else is left: 1.4 ms at 3072 bits.
inline constexpr unsigned overflow_key_bits_max = 2048;

// A request that has waited so long in the queue is offered to the next backend as well.
inline constexpr base::Duration overflow_wait = std::chrono::milliseconds{20};
inline constexpr std::size_t dispatch_scan_max =
    64; // requests looked at behind ones that must wait
inline constexpr base::Duration watch_interval =
    std::chrono::milliseconds{5}; // while anything is under way
inline constexpr base::Duration down_interval =
    std::chrono::milliseconds{100}; // looks at a dead backend
inline constexpr base::Duration heartbeat_interval = std::chrono::seconds{1};

inline constexpr std::size_t lanes = 8;          // of a multi-buffer kernel
inline constexpr std::size_t lanes_worth_it = 3; // fewer are faster one by one
inline constexpr base::Duration lane_wait_max = std::chrono::microseconds{200};

// Under way in Intel's engine at once, of one shard; each is an ASYNC job.
inline constexpr std::size_t qat_operations_max = 256;

inline constexpr unsigned workers_max = 64;
inline constexpr std::size_t worker_ring_entries = 256; // of each pair of shard and worker

} // namespace tls_offload::offload
