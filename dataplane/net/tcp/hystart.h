// hystart.h: leaves slow start when round trips get longer, before the queue overflows.
//
// Scope      HyStart++, RFC 9406 §4.2: rounds, the delay threshold, conservative slow start and
//            the way back. Used only in the first slow start (§4.3).
// Threading  None; a value.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/net/tcp/sender_limits.h"
#include "dataplane/net/tcp/seq.h"

#include <cstdint>

namespace dataplane::net::tcp {

class HyStart {
public:
    enum class Phase : std::uint8_t {
        slow_start,
        conservative, // CSS: a quarter of slow start's growth
        over,         // congestion avoidance begins: ssthresh is cwnd
    };

    void begin(Seq nxt) noexcept;
    void on_rtt(base::Duration rtt) noexcept;
    /// \param nxt  SND.NXT, where the next round ends
    Phase on_acknowledgement(Seq ack, Seq nxt) noexcept;
    [[nodiscard]] Phase phase() const noexcept { return phase_; }

private:
    static constexpr std::uint32_t none = UINT32_MAX; // the RFC's infinity

    Seq round_end_;
    std::uint32_t last_us_ = none;
    std::uint32_t current_us_ = none;
    std::uint32_t baseline_us_ = none;
    std::uint8_t samples_ = 0;
    std::uint8_t rounds_ = 0; // in CSS
    Phase phase_ = Phase::slow_start;
};

} // namespace dataplane::net::tcp
