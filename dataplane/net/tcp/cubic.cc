#include "dataplane/net/tcp/cubic.h"

#include <algorithm>
#include <cmath>

namespace dataplane::net::tcp {

using base::Duration;
using base::TimePoint;

namespace {
double seconds(Duration duration) noexcept {
    return std::chrono::duration<double>(duration).count();
}
} // namespace

double Cubic::time_to_peak(double peak_segments, double cwnd_segments) noexcept {
    return std::cbrt((peak_segments - cwnd_segments) / cubic_c);
}

double Cubic::curve(double seconds, double k, double peak_segments) noexcept {
    const double distance = seconds - k;
    return cubic_c * distance * distance * distance + peak_segments;
}

std::uint32_t Cubic::on_congestion(std::uint32_t cwnd, std::uint32_t flight_bytes,
                                   std::uint32_t mss) noexcept {
    running_ = false;
    before_ = cwnd;
    // Fast convergence: this peak is below the last one, so somebody else needs room.
    const auto window = static_cast<double>(cwnd);
    peak_ = static_cast<float>(window < static_cast<double>(peak_) ? window * (1 + cubic_beta) / 2
                                                                   : window);
    // The window may be larger than what was in flight, and says nothing of the path then.
    const auto reduced = static_cast<std::uint32_t>(std::min(cwnd, flight_bytes) * cubic_beta);
    return std::max(reduced, 2 * mss);
}

std::uint32_t Cubic::grown(std::uint32_t cwnd, std::uint32_t acked_bytes, std::uint32_t mss,
                           Duration rtt, TimePoint now) noexcept {
    const auto window = static_cast<double>(cwnd);
    const auto segment = static_cast<double>(mss);
    if (!running_) {
        running_ = true;
        epoch_ = now;
        carry_ = 0;
        reno_window_ = window;
        if (static_cast<double>(peak_) <= window) { // slow start went beyond it, or there was none
            peak_ = static_cast<float>(window);
            k_ = 0;
        } else {
            k_ = static_cast<float>(
                time_to_peak(static_cast<double>(peak_) / segment, window / segment));
        }
    }
    seen_at_ = now;

    const double share = std::min(1.0, acked_bytes / window); // of a window, so of a round trip
    const double alpha =
        reno_window_ < before_ ? 3 * (1 - cubic_beta) / (1 + cubic_beta) : 1; // §4.3
    reno_window_ += alpha * segment * share;

    const double peak = static_cast<double>(peak_) / segment;
    const double elapsed = seconds(now - epoch_);
    const auto k = static_cast<double>(k_);
    double next = window + static_cast<double>(carry_);
    if (curve(elapsed, k, peak) * segment < reno_window_) {
        next = std::max(next, reno_window_);
    } else {
        const double target =
            std::clamp(curve(elapsed + seconds(rtt), k, peak) * segment, window, 1.5 * window);
        next += (target - window) * share;
    }
    next = std::min(next, static_cast<double>(cwnd_bytes_max));
    const auto whole = static_cast<std::uint32_t>(next);
    carry_ = static_cast<float>(next - whole);
    return whole;
}

void Cubic::pause(TimePoint now) noexcept {
    if (running_ && now > seen_at_) epoch_ += now - seen_at_;
    seen_at_ = now;
}

} // namespace dataplane::net::tcp
