// health.h: what the engine thinks of a backend: up, degraded or down.
//
// Scope      Counts outcomes and judges. Doing something about it is the engine's.
// Owns       Nothing. No clock: time comes with each call.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/clock.h"

#include <cstdint>
#include <string_view>

namespace tls_offload::offload {

namespace base = dataplane::base;

enum class BackendState : std::uint8_t {
    up,
    degraded, // makes mistakes or is late: gets one request in degraded_share
    down,     // gets none but known-answer signatures, and those only when it is time
};
[[nodiscard]] std::string_view to_string(BackendState state) noexcept;

inline constexpr unsigned health_window = 64;  // outcomes judged together
inline constexpr unsigned degraded_errors = 4; // of those
inline constexpr unsigned down_errors = 16;    // of those
inline constexpr unsigned wrong_weight = 6;    // a wrong result counts as so many errors
inline constexpr unsigned degraded_share = 8;  // one request in so many still goes there
inline constexpr unsigned known_answers_wanted = 3;
inline constexpr base::Duration revive_after_min = std::chrono::seconds{1};
inline constexpr base::Duration revive_after_max = std::chrono::seconds{60};

class Health {
public:
    /// What changed, if anything: the engine acts on it.
    enum class Verdict : std::uint8_t { none, degraded, down, recovered };

    [[nodiscard]] BackendState state() const noexcept { return state_; }
    [[nodiscard]] std::uint64_t errors() const noexcept { return errors_; }
    [[nodiscard]] std::uint64_t strikes() const noexcept { return strikes_; }

    Verdict on_good() noexcept;
    Verdict on_error(base::TimePoint now) noexcept;
    Verdict on_wrong(base::TimePoint now) noexcept;
    /// An operation is older than it may be. \param silent  and nothing came back since it was handed over
    Verdict on_stuck(base::TimePoint now, bool silent) noexcept;
    Verdict on_heartbeat(base::TimePoint now, bool alive) noexcept;

    /// Whether a request may go there now; a degraded backend gets its share.
    [[nodiscard]] bool admits() noexcept;
    /// Whether a backend that is down should be tried with a known-answer signature.
    [[nodiscard]] bool probe_due(base::TimePoint now) const noexcept {
        return state_ == BackendState::down && !probing_ && now >= revive_at_;
    }
    void probe_started() noexcept { probing_ = true; }
    /// A known-answer signature came back right, or it did not (wrong, failed, late, not even taken).
    Verdict probe_ended(base::TimePoint now, bool right) noexcept;

private:
    Verdict note(base::TimePoint now, unsigned weight) noexcept;
    Verdict go_down(base::TimePoint now) noexcept;

    BackendState state_ = BackendState::up;
    std::uint64_t errors_ = 0;
    std::uint64_t strikes_ = 0;
    unsigned seen_ = 0;  // in this window
    unsigned score_ = 0; // of this window
    unsigned turn_ = 0;  // of the degraded share
    unsigned right_ = 0; // known answers in a row
    bool probing_ = false;
    base::TimePoint revive_at_{};
    base::Duration revive_after_ = revive_after_min;
};

} // namespace tls_offload::offload
