#include "dataplane/net/tcp/hystart.h"

#include <algorithm>

namespace dataplane::net::tcp {

void HyStart::begin(Seq nxt) noexcept {
    *this = HyStart{};
    round_end_ = nxt;
}

void HyStart::on_rtt(base::Duration rtt) noexcept {
    const auto us = static_cast<std::uint32_t>(std::clamp(rtt, base::Duration{0}, rtt_max) / 1us);
    current_us_ = std::min(current_us_, us);
    if (samples_ < hystart_samples) ++samples_;
}

HyStart::Phase HyStart::on_acknowledgement(Seq ack, Seq nxt) noexcept {
    if (phase_ == Phase::over) return phase_;
    if (samples_ >= hystart_samples && current_us_ != none) {
        if (phase_ == Phase::slow_start && last_us_ != none) {
            const auto threshold =
                std::clamp<std::uint32_t>(last_us_ / hystart_divisor, hystart_threshold_min / 1us,
                                          hystart_threshold_max / 1us);
            if (current_us_ >= last_us_ + threshold) {
                baseline_us_ = current_us_;
                phase_ = Phase::conservative;
                rounds_ = 0;
            }
        } else if (phase_ == Phase::conservative && current_us_ < baseline_us_) {
            baseline_us_ = none; // the delay was noise
            phase_ = Phase::slow_start;
        }
    }
    if (ack >= round_end_) {
        round_end_ = nxt;
        last_us_ = current_us_;
        current_us_ = none;
        samples_ = 0;
        if (phase_ == Phase::conservative && ++rounds_ >= hystart_rounds) phase_ = Phase::over;
    }
    return phase_;
}

} // namespace dataplane::net::tcp
