// sender_limits.h: every bound and constant of loss recovery and congestion control, with its
// source.
//
// Scope      What is the same for all connections and not worth a setting; settings are in
//            config.h.
#pragma once

#include "dataplane/base/clock.h"

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace dataplane::net::tcp {

using namespace std::chrono_literals;

// Records of sent segments. A connection that sends one command holds 192 bytes of them; 2,048 are
// 48 KiB and carry 2.9 MB in flight at an MSS of 1,448. A peer that announces an MSS of 48 gets 95
// KB in flight, and no acknowledgement makes records (CVE-2019-11477 and its kin).
inline constexpr std::uint16_t records_min = 8;
inline constexpr std::uint16_t records_max = 2048;
// Kept free of new data: a smaller path MTU cuts records in two when they are sent again.
inline constexpr std::uint16_t records_reserved = 64;

inline constexpr std::uint32_t mss_before_handshake = 536; // RFC 9293 §3.7.1
inline constexpr unsigned duplicate_threshold = 3;         // RFC 5681 §3.2, 6675, 8985 §6.2
inline constexpr std::uint32_t cwnd_bytes_max = 1U << 30;  // the largest window of RFC 7323 §2.3
inline constexpr std::uint8_t backoff_max = 16;            // 2^16 times any RTO is beyond rto_max

inline constexpr base::Duration timer_granularity = 1ms; // G of RFC 6298 §2.3: the wheel's tick
inline constexpr base::Duration rto_after_syn_loss = 3s; // RFC 6298 §5.7
inline constexpr base::Duration rtt_max = 60s; // a longer sample says nothing about the path
// The lowest RTT is of the last 10 to 20 s: routes change (RFC 8985 §6.2 step 1 asks for a window).
inline constexpr base::Duration rtt_minimum_window = 10s;

inline constexpr std::uint8_t rack_window_persist = 16; // recoveries, RFC 8985 §6.2 step 4

inline constexpr base::Duration probe_timeout_without_rtt = 1s; // RFC 8985 §7.2
inline constexpr base::Duration probe_ack_delay = 200ms;        // RFC 8985 §7.2, TLP.max_ack_delay
// Ours: two ticks. On a link of 20 us a probe after 40 us would come before any acknowledgement
// of a peer that looks at its queue once in a tick.
inline constexpr base::Duration probe_timeout_min = 2ms;

// A receiver that seems to have dropped what it had reported gets half an RTT, or this, to say so
// again.
inline constexpr base::Duration reneging_wait_min = 10ms;

// RFC 9438
inline constexpr double cubic_c = 0.4;
inline constexpr double cubic_beta = 0.7;

// RFC 9406 §4.3
inline constexpr base::Duration hystart_threshold_min = 4ms;
inline constexpr base::Duration hystart_threshold_max = 16ms;
inline constexpr unsigned hystart_divisor = 8;
inline constexpr unsigned hystart_samples = 8;
inline constexpr unsigned hystart_growth_divisor = 4;
inline constexpr unsigned hystart_rounds = 5;

// Pacing. The wheel ticks once a millisecond, so what a millisecond carries goes at once.
inline constexpr base::Duration pacing_quantum = 1ms;
inline constexpr std::uint32_t pacing_segments_min = 2;

} // namespace dataplane::net::tcp
