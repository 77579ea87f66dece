// limits.h: the bounds of TLS over a stream.
#pragma once

#include "dataplane/base/clock.h"

#include <chrono>
#include <cstddef>

namespace tls_offload {

namespace base = dataplane::base;

inline constexpr std::size_t record_bytes_max = 16'384; // RFC 8446 §5.1: plaintext of one record
// A sealed record: header, explicit nonce, tag and the inner content type stay below 64 bytes with
// every suite we offer; the rest of the room takes the records of a peer that asks for small ones.
inline constexpr std::size_t block_bytes = record_bytes_max + 512;
// Sealed records that wait for the lower stream: enough to seal one while another leaves.
inline constexpr std::size_t send_blocks_max = 4;
// Blocks a shard keeps for the next stream (4.2 MiB); more than that go back to the allocator.
inline constexpr std::size_t free_blocks_max = 256;

// Destinations remembered by one client context. A session is about 3 KiB with its peer chain.
inline constexpr std::size_t session_keys_max = 4'096;
// TLS 1.3 tickets are used once (RFC 8446 appendix C.4), so that a destination needs as many as it
// has connections opened at about the same time.
inline constexpr std::size_t sessions_per_key_max = 4;

inline constexpr int verify_depth_max =
    10; // certificates above the leaf; public chains have 2 or 3
// Certificates in one file; public chains have 2 or 3.
inline constexpr std::size_t chain_certificates_max = 16;
inline constexpr std::size_t file_bytes_max = 1U << 20; // of a certificate, key or OCSP response
inline constexpr std::size_t certificates_max = 1'000;  // pairs of one server
inline constexpr std::size_t tlsa_records_max = 32;     // of one host; more are not looked at
// Tickets: keys that are still taken besides the current one, and how long each is current.
inline constexpr std::size_t ticket_keys_previous_max = 6;
inline constexpr std::chrono::hours ticket_rotation{4};
// Handshakes of one shard that wait for their signature at once, each on a stack of 32 KiB. One more is signed by
// the shard itself: with so many before it, it would wait for a tenth of a second at least.
inline constexpr std::size_t signing_handshakes_max = 512;
// Steps of handshakes in one turn. One takes 50 to 300 µs of OpenSSL, and a turn shall stay below 1 ms.
inline constexpr unsigned handshake_steps_per_turn = 3;
// close() may spend this long on handing the last records and the close_notify down.
inline constexpr base::Duration close_flush_max = std::chrono::seconds{10};

} // namespace tls_offload
