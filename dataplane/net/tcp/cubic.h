// cubic.h: CUBIC's window in congestion avoidance.
//
// Scope      RFC 9438: the cubic curve, the Reno-friendly region, fast convergence, what a timeout
//            does to them. Slow start is hystart.h's, recovery prr.h's, and when growth is allowed
//            sender.h's.
// Units      Bytes and seconds; the RFC's segments are bytes / mss.
// Threading  None; a value. Floating point: the curve has a cube root.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/net/tcp/sender_limits.h"

#include <cstdint>

namespace dataplane::net::tcp {

class Cubic {
public:
    /// A loss or a mark: returns ssthresh (§4.6) and remembers W_max (§4.7).
    [[nodiscard]] std::uint32_t on_congestion(std::uint32_t cwnd, std::uint32_t flight_bytes,
                                              std::uint32_t mss) noexcept;
    /// After on_congestion() when it was a timeout: the next curve begins at its plateau (§4.8).
    void on_timeout() noexcept { peak_ = 0; }
    /// cwnd after `acked_bytes` more (§4.2 to §4.5).
    [[nodiscard]] std::uint32_t grown(std::uint32_t cwnd, std::uint32_t acked_bytes,
                                      std::uint32_t mss, base::Duration rtt,
                                      base::TimePoint now) noexcept;
    /// Time in which the application, not the window, was the limit does not count (§5.8): call it
    /// with every acknowledgement that must not grow the window.
    void pause(base::TimePoint now) noexcept;

    [[nodiscard]] float peak() const noexcept { return peak_; } // W_max, bytes
    void restore(float peak) noexcept {                         // §4.9: the congestion was none
        peak_ = peak;
        running_ = false;
    }

    // The RFC's formulas, for the above and for tests.
    [[nodiscard]] static double time_to_peak(double peak_segments,
                                             double cwnd_segments) noexcept; // K
    [[nodiscard]] static double curve(double seconds, double k,
                                      double peak_segments) noexcept; // W_cubic

private:
    double reno_window_ = 0; // W_est, bytes
    base::TimePoint epoch_{};
    base::TimePoint seen_at_{};
    float peak_ = 0;
    float k_ = 0;
    float carry_ = 0;          // growth of less than a byte
    std::uint32_t before_ = 0; // cwnd_prior
    bool running_ = false;
};

} // namespace dataplane::net::tcp
