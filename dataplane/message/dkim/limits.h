// limits.h: the bounds of signing.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace dataplane::message::dkim {

inline constexpr std::size_t header_bytes_max = 256U
                                                << 10; // as HeaderScan reads; kept until signed
// A larger header's buffer is given back after its message instead of waiting for the next one.
inline constexpr std::size_t header_bytes_kept = 16U << 10;
inline constexpr std::size_t signatures_max = 8; // on one message
// What the signatures may take of a prelude: eight of RSA-2048, or five of RSA-4096.
inline constexpr std::size_t signatures_bytes_max = 10U << 10;
inline constexpr std::size_t signed_fields_max = 200; // of one message; beyond it is no mail
inline constexpr std::size_t header_names_max = 100;  // in a table's list
// Empty lines in a row within a body: what is held back is put out at once when text follows, and that
// must not take a turn's time. A body with more is not signed.
inline constexpr std::uint32_t line_ends_max = 65'536;
inline constexpr std::size_t key_file_bytes_max = 64U << 10;
inline constexpr int rsa_bits_min = 2048; // RFC 8301 §3.2 asks signers for it
inline constexpr int rsa_bits_max = 4096; // what verifiers must take (RFC 8301 §3.2)
inline constexpr std::size_t signature_bytes_max = rsa_bits_max / 8;
inline constexpr std::size_t folder_keys_max = 100'000; // found by one "%d" pattern
inline constexpr std::size_t fold_columns = 78;         // RFC 5322 §2.1.1, without CRLF
// A key operation takes 0.2 to 4 ms; one that has not come back after this will not.
inline constexpr std::chrono::seconds sign_time{5};
inline constexpr std::size_t idle_signers_max = 256; // kept by a shard for the next message

} // namespace dataplane::message::dkim
