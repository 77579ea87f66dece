#include "dataplane/net/tcp/congestion.h"

#include <algorithm>

namespace dataplane::net::tcp {

using base::Duration;
using base::TimePoint;

Congestion::Congestion(CongestionKind kind) noexcept : kind_(kind) {}

void Congestion::begin(std::uint32_t cwnd, Seq nxt) noexcept {
    cwnd_ = cwnd;
    ssthresh_ = unknown;
    hystart_.begin(nxt);
}

void Congestion::on_rtt(Duration rtt) noexcept {
    if (first_slow_start()) hystart_.on_rtt(rtt);
}

void Congestion::on_round(Seq ack, Seq nxt) noexcept {
    if (!first_slow_start()) return;
    if (hystart_.on_acknowledgement(ack, nxt) == HyStart::Phase::over) ssthresh_ = cwnd_;
}

void Congestion::grow(std::uint32_t acked_bytes, std::uint32_t mss, bool after_timeout,
                      Duration rtt, TimePoint now) noexcept {
    if (in_slow_start()) {
        std::uint32_t growth = after_timeout ? std::min(acked_bytes, mss) : acked_bytes;
        const bool conservative =
            first_slow_start() && hystart_.phase() == HyStart::Phase::conservative;
        if (conservative) growth /= hystart_growth_divisor;
        // Not beyond ssthresh by one large ACK: the rest counts for congestion avoidance.
        const std::uint32_t room =
            std::min(ssthresh_, cwnd_bytes_max) - std::min(cwnd_, cwnd_bytes_max);
        const std::uint32_t used = std::min(growth, room);
        cwnd_ += used;
        if (in_slow_start() || conservative) return;
        acked_bytes = growth - used;
    }
    if (acked_bytes == 0) return;
    if (is_cubic())
        cwnd_ = cubic_.grown(cwnd_, acked_bytes, mss, rtt, now);
    else
        cwnd_ = reno_.grown(cwnd_, acked_bytes, mss);
}

void Congestion::pause(TimePoint now) noexcept {
    if (is_cubic()) cubic_.pause(now);
}

void Congestion::restart(std::uint32_t window) noexcept {
    if (cwnd_ <= window) return;
    if (!first_slow_start()) ssthresh_ = std::max(ssthresh_, cwnd_ / 4 * 3);
    cwnd_ = window;
}

void Congestion::on_congestion(std::uint32_t flight_bytes, std::uint32_t mss) noexcept {
    // FlightSize grows beyond cwnd while reported segments wait behind a hole that stays.
    flight_bytes = std::min(flight_bytes, cwnd_);
    if (is_cubic())
        ssthresh_ = cubic_.on_congestion(cwnd_, flight_bytes, mss);
    else
        ssthresh_ = reno_.on_congestion(flight_bytes, mss);
}

void Congestion::on_timeout(std::uint32_t flight_bytes, std::uint32_t mss) noexcept {
    on_congestion(flight_bytes, mss);
    if (is_cubic()) cubic_.on_timeout();
}

Congestion::Before Congestion::before() const noexcept {
    return {cwnd_, ssthresh_, is_cubic() ? cubic_.peak() : 0};
}

void Congestion::undo(const Before& before) noexcept {
    cwnd_ = std::max(cwnd_, before.cwnd);
    ssthresh_ = before.ssthresh;
    if (is_cubic()) cubic_.restore(before.peak);
}

} // namespace dataplane::net::tcp
