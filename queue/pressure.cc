#include "queue/pressure.h"

#include "dataplane/base/check.h"
#include "queue/limits.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace queue {
namespace {

/// A level is reached at its mark, and left only a hysteresis below it, so that it does not flutter.
[[nodiscard]] bool with_hysteresis(bool before, bool reached, bool left) noexcept {
    return reached || (before && !left);
}

} // namespace

std::string_view to_string(SpoolLevel level) noexcept {
    switch (level) {
    case SpoolLevel::normal:
        return "normal";
    case SpoolLevel::filling:
        return "filling";
    case SpoolLevel::nearly_full:
        return "nearly full";
    case SpoolLevel::full:
        return "full";
    }
    return "unknown";
}

void Pressure::sample(base::TimePoint now, const Space& space) noexcept {
    const auto total =
        static_cast<double>(space.segments_total) * static_cast<double>(space.segment_bytes);
    if (total <= 0) return;
    const double free =
        static_cast<double>(space.segments_free) * static_cast<double>(space.segment_bytes) +
        static_cast<double>(space.dead_bytes);
    const double occupied = std::max(0.0, total - free);
    const double reserve =
        static_cast<double>(space.segments_reserved) * static_cast<double>(space.segment_bytes);
    measure(now, occupied);
    room_ = std::max(0.0, free - reserve);
    used_percent_ = static_cast<unsigned>(std::min(100.0, occupied * 100 / total));

    // What new mail must have is segments that are free now, not what collection may win one day.
    // A pool of few segments has no steps: one of them is more than five percent, and a spool that is empty
    // must never refuse.
    const std::uint32_t step = space.segments_total * pressure_step_percent / 100;
    const std::uint32_t full_at = space.segments_reserved;
    const std::uint32_t nearly_at = full_at + step;
    full_ = with_hysteresis(full_, space.segments_free <= full_at,
                            space.segments_free > full_at + step);
    nearly_full_ = with_hysteresis(nearly_full_, space.segments_free <= nearly_at,
                                   space.segments_free > nearly_at + step);
    const auto left = time_to_full();
    const bool soon = left && *left < pressure_time_min && used_percent_ >= pressure_time_used_min;
    const bool far = !left || *left >= pressure_time_min + pressure_time_min / 20;
    filling_ = with_hysteresis(
        filling_, used_percent_ >= pressure_used_percent || soon,
        used_percent_ + pressure_step_percent < pressure_used_percent &&
            (far || used_percent_ + pressure_step_percent < pressure_time_used_min));
}

void Pressure::measure(base::TimePoint now, double occupied) noexcept {
    if (!begun_) {
        begun_ = true;
        measured_at_ = now;
        occupied_ = occupied;
        return;
    }
    const base::Duration passed = now - measured_at_;
    if (passed < pressure_sample_min) return;
    const double seconds = std::chrono::duration<double>(passed).count();
    const double smoothing = std::chrono::duration<double>(pressure_rate_over).count();
    rate_ += ((occupied - occupied_) / seconds - rate_) * (1 - std::exp(-seconds / smoothing));
    occupied_ = occupied;
    measured_at_ = now;
}

std::optional<std::chrono::seconds> Pressure::time_to_full() const noexcept {
    // Slower than that it is a matter of weeks, and may be noise.
    constexpr double rate_min = 1;
    if (rate_ < rate_min) return std::nullopt;
    constexpr double longest = 1e9;
    return std::chrono::seconds{static_cast<std::int64_t>(std::min(room_ / rate_, longest))};
}

SpoolLevel Pressure::level() const noexcept {
    if (full_) return SpoolLevel::full;
    if (nearly_full_) return SpoolLevel::nearly_full;
    return filling_ ? SpoolLevel::filling : SpoolLevel::normal;
}

void TenantTally::add(TextId tenant, std::uint64_t bytes) {
    auto place = held_.find(tenant);
    if (place == held_.end() && !spare_.empty()) {
        HeldBy::node_type node = std::move(spare_.back());
        spare_.pop_back();
        node.key() = tenant;
        node.mapped() = {};
        place = held_.insert(std::move(node)).position;
    } else if (place == held_.end()) {
        place = held_.try_emplace(tenant).first;
    }
    place->second.bytes += bytes;
    ++place->second.messages;
    bytes_ += bytes;
}

void TenantTally::drop(TextId tenant, std::uint64_t bytes) noexcept {
    const auto found = held_.find(tenant);
    CHECK(found != held_.end());
    CHECK(found->second.bytes >= bytes);
    found->second.bytes -= bytes;
    bytes_ -= bytes;
    if (--found->second.messages > 0) return;
    HeldBy::node_type node = held_.extract(found);
    if (spare_.size() < spare_max) spare_.push_back(std::move(node));
}

bool TenantTally::over_share(TextId tenant) const noexcept {
    const auto found = held_.find(tenant);
    if (found == held_.end()) return false;
    if (held_.size() == 1) return true;
    // Bytes of one times the number of all, without overflow.
    return static_cast<double>(found->second.bytes) * static_cast<double>(held_.size()) >
           static_cast<double>(bytes_);
}

} // namespace queue
