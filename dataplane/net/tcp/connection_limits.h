// connection_limits.h: the connection's bounds and constants that are not worth an option.
#pragma once

#include "dataplane/base/clock.h"

#include <chrono>
#include <cstdint>

namespace dataplane::net::tcp {

inline constexpr std::uint16_t peer_mss_default = 536; // RFC 9293 §3.7.1, no MSS option
// A peer that announces less gets this all the same: 36 bytes beside the timestamps. Smaller ones serve
// only to make us send a header per byte (CVE-2019-11479); Linux draws the line here too.
inline constexpr std::uint16_t peer_mss_min = 48;
// No path of the internet carries less (IPv4's 576 less headers and options), whatever an ICMP says.
inline constexpr std::uint16_t path_mss_min = 512;
inline constexpr std::uint16_t path_mss_middle = 1024; // the step between: tunnels within tunnels
inline constexpr unsigned black_hole_timeouts = 2;     // of full segments in a row
// What looked like a black hole may have been an outage of seconds: the first try comes soon.
inline constexpr base::Duration black_hole_doubt = std::chrono::seconds{30};
inline constexpr base::Duration path_raise_after = std::chrono::minutes{10}; // RFC 1191 §6.3

inline constexpr std::uint32_t syn_window = 65535;     // all that a SYN can say
inline constexpr std::uint32_t window_initial = 65536; // grows to receive_bytes_max
// A window that is scaled cannot say every right edge, and ours never moves back: it is rounded up.
// What that lets in beyond receive_bytes_max ends here.
inline constexpr std::uint32_t receive_slack_bytes = 4096;

inline constexpr std::uint8_t quick_acks_initial =
    16; // the peer is in slow start: every ACK counts
inline constexpr base::Duration paws_idle_max = std::chrono::days{24}; // RFC 7323 §5.5
// The "second" that challenge ACKs are counted in, jittered (RFC 5961 §7, CVE-2016-5696).
inline constexpr std::uint32_t challenge_ticks_min = 1000;
inline constexpr std::uint32_t challenge_ticks_max = 1255;
inline constexpr base::Duration shrink_after = std::chrono::seconds{1};
inline constexpr unsigned persist_shift_max = 16;

} // namespace dataplane::net::tcp
