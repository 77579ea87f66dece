// config.h: what is the same for all connections of a stack, with the reason for each value.
#pragma once

#include "dataplane/base/clock.h"

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace dataplane::net::tcp {

enum class CongestionKind : std::uint8_t { cubic, new_reno };

struct Config {
    // Offered on SYN, used when the peer does too.
    bool timestamps = true; // RFC 7323
    bool sack = true;       // RFC 2018
    bool ecn = true;        // RFC 3168
    bool ecn_request =
        true; // on our own SYNs too; otherwise only the peer's are answered, as Linux
    std::uint8_t window_scale = 8;
    CongestionKind congestion = CongestionKind::cubic;
    std::uint32_t initial_window_segments = 10; // RFC 6928
    bool pacing =
        true; // spreads a large window over the round trip; off: bursts, as Linux without fq

    // Memory of one connection at most.
    std::uint32_t receive_bytes_max = 512U << 10;
    std::uint32_t receive_ranges_max = 32; // out-of-order holes remembered; beyond, data is dropped
    std::uint32_t send_bytes_max = 256U << 10;

    base::Duration syn_rto = std::chrono::seconds{1}; // RFC 6298 §2.1
    base::Duration rto_min =
        std::chrono::milliseconds{200};                // ours: RFC 6298 says 1 s, Linux 200 ms
    base::Duration rto_max = std::chrono::seconds{60}; // RFC 6298 §2.5
    base::Duration delayed_ack_min = std::chrono::milliseconds{5}; // 2 RTT lie between the two
    base::Duration delayed_ack_max =
        std::chrono::milliseconds{40}; // RFC 9293 §3.8.6.3 allows 500 ms
    base::Duration persist_max = std::chrono::seconds{60};
    base::Duration user_timeout = std::chrono::seconds{300}; // unacknowledged data, RFC 5482
    base::Duration keepalive_idle = std::chrono::seconds{120};
    base::Duration keepalive_interval = std::chrono::seconds{15};
    unsigned keepalive_probes = 4;
    base::Duration fin_wait_2 = std::chrono::seconds{60}; // an orphan's, RFC 9293 leaves it open
    base::Duration time_wait = std::chrono::seconds{60};  // 2 MSL with an MSL of 30 s, as Linux
    unsigned syn_retries = 6;
    unsigned challenge_acks_per_second = 10; // RFC 5961 §7, per connection, jittered
};

} // namespace dataplane::net::tcp
