#include "dataplane/net/tcp/rtt_estimator.h"

#include <algorithm>

namespace dataplane::net::tcp {

using base::Duration;
using base::TimePoint;

void RttEstimator::begin(Duration initial_rto) noexcept {
    initial_rto_ms_ = static_cast<std::uint32_t>(initial_rto / 1ms);
    backoff_ = 0;
}

void RttEstimator::on_sample(Duration rtt, std::uint32_t samples_per_rtt) noexcept {
    rtt = std::clamp(rtt, Duration{1}, rtt_max);
    backoff_ = 0;
    if (smoothed_ == Duration::zero()) { // §2.2
        smoothed_ = rtt;
        variation_ = rtt / 2;
        return;
    }
    const Duration error = rtt - smoothed_; // §2.3, RTTVAR first
    const auto samples = static_cast<std::int64_t>(std::max(samples_per_rtt, 1U));
    variation_ += (std::chrono::abs(error) - variation_) / (4 * samples);
    smoothed_ += error / (8 * samples);
}

void RttEstimator::on_minimum(Duration rtt, TimePoint now) noexcept {
    const auto us =
        static_cast<std::uint32_t>(std::clamp(rtt, Duration{1us}, rtt_max) / Duration{1us});
    if (minimum_us_ == 0 || now - minimum_since_ >= rtt_minimum_window) {
        minimum_before_us_ = minimum_us_ == 0 ? us : minimum_us_;
        minimum_us_ = us;
        minimum_since_ = now;
        return;
    }
    minimum_us_ = std::min(minimum_us_, us);
}

Duration RttEstimator::minimum() const noexcept {
    return std::chrono::microseconds{std::min(minimum_us_, minimum_before_us_)};
}

void RttEstimator::back_off() noexcept {
    if (backoff_ < backoff_max) ++backoff_;
}

void RttEstimator::take_back_one() noexcept {
    if (backoff_ > 0) --backoff_;
}

Duration RttEstimator::rto(const Config& config) const noexcept {
    Duration once = std::chrono::milliseconds{initial_rto_ms_};
    if (smoothed_ != Duration::zero())
        once = smoothed_ + std::max({config.rto_min, 4 * variation_, timer_granularity});
    once = std::clamp(once, std::min(config.rto_min, config.rto_max), config.rto_max);
    return std::min(once * (std::int64_t{1} << backoff_), config.rto_max);
}

} // namespace dataplane::net::tcp
