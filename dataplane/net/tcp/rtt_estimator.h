// rtt_estimator.h: how long an answer takes, and how long to wait for one.
//
// Scope      RFC 6298: SRTT, RTTVAR, RTO and its backoff; RFC 7323 appendix G for many samples in
//            one round trip; the lowest RTT of late, for RACK. Which samples count (Karn) is
//            sender.h's.
// Deviation  RTO is SRTT + max(rto_min, 4 * RTTVAR), not max(rto_min, SRTT + 4 * RTTVAR): on a
//            steady path RTTVAR goes to zero, and a floor below SRTT would make each delayed ACK a
//            timeout.
// Threading  None; a value.
#pragma once

#include "dataplane/net/tcp/config.h"
#include "dataplane/net/tcp/sender_limits.h"

namespace dataplane::net::tcp {

class RttEstimator {
public:
    void begin(base::Duration initial_rto) noexcept;
    /// One sample of a segment that was sent once, or that timestamps told apart. Ends the backoff
    /// (§5.7, Karn).
    /// \param samples_per_rtt  how many such samples one window makes, at least 1
    void on_sample(base::Duration rtt, std::uint32_t samples_per_rtt) noexcept;
    void on_minimum(base::Duration rtt, base::TimePoint now) noexcept;

    void back_off() noexcept;
    void take_back_one() noexcept; // RFC 6069
    void end_backoff() noexcept { backoff_ = 0; }

    [[nodiscard]] base::Duration smoothed() const noexcept { return smoothed_; }
    [[nodiscard]] base::Duration variation() const noexcept { return variation_; }
    [[nodiscard]] base::Duration minimum() const noexcept; // zero before the first sample
    [[nodiscard]] base::Duration rto(const Config& config) const noexcept;
    [[nodiscard]] unsigned backoff() const noexcept { return backoff_; }

private:
    base::Duration smoothed_{};
    base::Duration variation_{};
    base::TimePoint minimum_since_{};
    // Nanoseconds would be 16 bytes; the largest RTT that counts is 60 s.
    std::uint32_t minimum_us_ = 0; // of the window that runs
    std::uint32_t minimum_before_us_ = 0;
    std::uint32_t initial_rto_ms_ = 0;
    std::uint8_t backoff_ = 0;
};

} // namespace dataplane::net::tcp
