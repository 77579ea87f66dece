#include "tls_offload/engine/health.h"

#include <algorithm>

namespace tls_offload::offload {

std::string_view to_string(BackendState state) noexcept {
    switch (state) {
    case BackendState::up:
        return "up";
    case BackendState::degraded:
        return "degraded";
    case BackendState::down:
        return "down";
    }
    return "unknown";
}

Health::Verdict Health::go_down(base::TimePoint now) noexcept {
    if (state_ == BackendState::down) return Verdict::none;
    state_ = BackendState::down;
    seen_ = score_ = right_ = 0;
    probing_ = false;
    revive_at_ = now + revive_after_;
    return Verdict::down;
}

Health::Verdict Health::note(base::TimePoint now, unsigned weight) noexcept {
    if (state_ == BackendState::down) return Verdict::none; // probe_ended() judges then
    score_ += weight;
    if (score_ >= down_errors) return go_down(now);
    Verdict verdict = Verdict::none;
    if (score_ >= degraded_errors && state_ == BackendState::up) {
        state_ = BackendState::degraded;
        verdict = Verdict::degraded;
    }
    if (++seen_ < health_window) return verdict;
    if (state_ == BackendState::degraded && score_ < degraded_errors) {
        state_ = BackendState::up;
        verdict = Verdict::recovered;
    }
    if (state_ == BackendState::up)
        revive_after_ = revive_after_min; // it has earned a short pause again
    seen_ = score_ = 0;
    return verdict;
}

Health::Verdict Health::on_good() noexcept {
    return note({}, 0); // weight 0 never takes it down, so the time is not looked at
}

Health::Verdict Health::on_error(base::TimePoint now) noexcept {
    ++errors_;
    return note(now, 1);
}

Health::Verdict Health::on_wrong(base::TimePoint now) noexcept {
    ++errors_;
    ++strikes_;
    return note(now, wrong_weight);
}

Health::Verdict Health::on_stuck(base::TimePoint now, bool silent) noexcept {
    ++errors_;
    return silent ? go_down(now) : note(now, 1);
}

Health::Verdict Health::on_heartbeat(base::TimePoint now, bool alive) noexcept {
    if (alive) return Verdict::none;
    ++errors_;
    return go_down(now);
}

bool Health::admits() noexcept {
    if (state_ == BackendState::up) return true;
    if (state_ == BackendState::down) return false;
    return turn_++ % degraded_share == 0;
}

Health::Verdict Health::probe_ended(base::TimePoint now, bool right) noexcept {
    if (state_ != BackendState::down) return Verdict::none;
    probing_ = false;
    if (!right) {
        right_ = 0;
        revive_after_ = std::min(2 * revive_after_, revive_after_max);
        revive_at_ = now + revive_after_;
        return Verdict::none;
    }
    if (++right_ < known_answers_wanted) return Verdict::none;
    state_ = BackendState::up;
    seen_ = score_ = right_ = 0;
    revive_after_ =
        std::min(2 * revive_after_, revive_after_max); // until a clean window shortens it
    return Verdict::recovered;
}

} // namespace tls_offload::offload
