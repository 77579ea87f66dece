// limits.h: every bound of the two SMTP dialogues, with its source.
//
// Scope      What RFC 5321 §4.5.3 and the extensions prescribe, and bounds of our own, marked
//            "ours". What an operator may choose (message size, recipients, time-outs) is in
//            policy.h.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace dataplane::smtp {

inline constexpr std::size_t local_part_bytes_max = 64;     // RFC 5321 §4.5.3.1.1
inline constexpr std::size_t domain_bytes_max = 255;        // §4.5.3.1.2
inline constexpr std::size_t domain_label_bytes_max = 63;   // RFC 1035 §2.3.4
inline constexpr std::size_t path_bytes_max = 256;          // §4.5.3.1.3, with its angle brackets
inline constexpr std::size_t command_line_bytes_base = 512; // §4.5.3.1.4, CRLF included
inline constexpr std::size_t reply_line_bytes_max = 512;    // §4.5.3.1.5, CRLF included
inline constexpr std::size_t text_line_bytes_max = 1000;    // §4.5.3.1.6, CRLF included
inline constexpr std::size_t recipients_min = 100;          // §4.5.3.1.8: fewer must not be refused

// Each extension lengthens MAIL and RCPT: SIZE by 26 (RFC 1870 §3), BODY by 17 (RFC 6152 §2), AUTH
// by 500 (RFC 4954 §3), the DSN parameters by 500 for ORCPT and about 150 for the others (RFC 3461
// §4), SMTPUTF8 by 10 (RFC 6531 §3.1). Ours is above the sum, and holds for every command but AUTH.
inline constexpr std::size_t command_line_bytes_max = 2048;
static_assert(command_line_bytes_max >= command_line_bytes_base + 26 + 17 + 500 + 650 + 10);
inline constexpr std::size_t auth_line_bytes_max = 12'288; // RFC 4954 §4, base64 and CRLF included

inline constexpr std::size_t envid_bytes_max = 100;         // RFC 3461 §4.4, as xtext
inline constexpr std::size_t orcpt_bytes_max = 500;         // RFC 3461 §4.2
inline constexpr std::size_t mail_auth_bytes_max = 500;     // RFC 4954 §5
inline constexpr std::size_t size_digits_max = 20;          // RFC 1870 §3
inline constexpr std::size_t auth_identity_bytes_max = 255; // RFC 4616 §2
inline constexpr std::size_t auth_password_bytes_max = 255; // RFC 4616 §2

// Client side.
inline constexpr std::size_t reply_lines_max = 128; // ours: ends an endless multi-line reply

// Server side, all ours.
inline constexpr std::size_t replies_pending_bytes_max =
    4096; // then they are sent before reading on
inline constexpr std::uint32_t idle_commands_max =
    1000; // commands between two messages that move no mail
inline constexpr std::chrono::seconds auth_answer_time{
    30}; // for the control process to check a password
inline constexpr std::chrono::seconds auth_delay_first{1}; // after a failed AUTH, doubled each time
inline constexpr std::chrono::seconds auth_delay_max{16};
// A commit that takes longer is given up (451 4.4.5), and its record is marked as refused.
inline constexpr std::chrono::seconds commit_time{10}; // well under the 10 minutes of §4.5.3.2.6
inline constexpr std::chrono::seconds room_time{60};    // for the spool to give a slab before 451
inline constexpr std::chrono::seconds farewell_time{5}; // for a last reply to be taken
// A refused message is read to its end so that the dialogue can go on, but not without end.
inline constexpr std::uint64_t swallowed_bytes_max = 256ULL << 20;
inline constexpr std::size_t header_bytes_max = 256U << 10;

} // namespace dataplane::smtp
