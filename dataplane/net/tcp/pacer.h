// pacer.h: spreads a window over its round trip.
//
// Scope      When the next bytes may leave, and how many at once: what one tick of the timer wheel
//            carries, at least two segments. The rate comes in (sender.h: cwnd over SRTT, times 2
//            in slow start, 1.2 after).
// Threading  None; a value.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/net/tcp/sender_limits.h"

#include <algorithm>
#include <cstdint>

namespace dataplane::net::tcp {

class Pacer {
public:
    void on_sent(std::uint32_t bytes, std::uint64_t bytes_per_second,
                 base::TimePoint now) noexcept {
        // What was not used for more than a tick is gone; within a tick the timer may be late.
        const auto cost =
            static_cast<std::int64_t>(std::uint64_t{bytes} * 1'000'000'000 / bytes_per_second);
        free_at_ = std::max(free_at_, now - pacing_quantum) + base::Duration{cost};
    }
    [[nodiscard]] std::uint32_t allowance(std::uint64_t bytes_per_second, std::uint32_t mss,
                                          base::TimePoint now) const noexcept {
        if (free_at_ > now) return 0;
        const base::Duration late = std::min(now - free_at_, pacing_quantum);
        const std::uint64_t bytes = bytes_per_second *
                                    static_cast<std::uint64_t>((late + pacing_quantum).count()) /
                                    1'000'000'000;
        return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(
            bytes, std::uint64_t{pacing_segments_min} * mss, cwnd_bytes_max));
    }
    [[nodiscard]] base::TimePoint free_at() const noexcept { return free_at_; }

private:
    base::TimePoint free_at_{};
};

} // namespace dataplane::net::tcp
