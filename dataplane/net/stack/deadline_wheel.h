// deadline_wheel.h: the deadlines of all connections of a shard, a million of them if need be.
//
// Scope      Like base/timer_wheel.h, but with a bound on the work of a turn: two levels of buckets, and
//            whoever is due is handed out a few at a time. Coarser far out (a second) and finer near (131 us),
//            where pacing needs it. A deadline that is due late by a turn's budget is late, never lost.
// Owns       Nothing: a Node lives in its connection.
// Threading  One shard. Sans-I/O.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/base/link.h"

#include <array>
#include <cstdint>
#include <memory>

namespace dataplane::net::stack {

namespace base = dataplane::base;

class DeadlineWheel {
public:
    struct Node : private base::detail::Link {
        ~Node() { unlink(); }
        [[nodiscard]] bool armed() const noexcept { return linked(); }
        /// When it was armed for; meaningless when it is not armed.
        [[nodiscard]] base::TimePoint when() const noexcept { return when_; }
        void cancel() noexcept { unlink(); }

    private:
        friend class DeadlineWheel;
        base::TimePoint when_;
    };

    explicit DeadlineWheel(base::TimePoint start);

    /// Arms or moves. Handed out by the first take() at a time >= when, never earlier.
    void arm(Node& node, base::TimePoint when) noexcept;
    /// The next node that is due, disarmed; nullptr when there is none. `budget` counts down with each
    /// node handed out or moved closer; at zero it gives nullptr, and next_due() says to come again.
    [[nodiscard]] Node* take(base::TimePoint now, unsigned& budget) noexcept;
    /// A lower bound of the next time at which take() has something to do; max() when empty.
    [[nodiscard]] base::TimePoint next_due() const noexcept { return next_due_; }

private:
    static constexpr unsigned near_shift = 17; // 131 us
    static constexpr unsigned far_shift = 30;  // 1.07 s
    static constexpr unsigned near_count =
        1U << 14; // 2.1 s: a far bucket is emptied into the second half
    static constexpr unsigned far_count = 1U
                                          << 12; // 73 minutes; what is later comes back in between

    template <unsigned count>
    struct Level {
        std::array<base::detail::Link, count> heads;
        std::array<std::uint64_t, count / 64> bits{}; // a set bit may be stale, a clear one is not
        Level() noexcept {
            for (base::detail::Link& head : heads)
                head.make_head();
        }
        /// The first bucket at or behind `from`, going round, whose bit is set; count when none.
        [[nodiscard]] unsigned next_set(unsigned from) const noexcept;
    };
    struct Levels {
        Level<near_count> near;
        Level<far_count> far;
    };

    void file(Node& node) noexcept;
    void file_near(Node& node, std::uint64_t bucket) noexcept;
    [[nodiscard]] base::TimePoint look_for_next() const noexcept;

    std::unique_ptr<Levels> levels_;
    std::uint64_t near_now_; // the bucket that take() looks at; those before are empty
    std::uint64_t far_now_;  // the first far bucket that has not been emptied into the near level
    base::TimePoint next_due_ = base::TimePoint::max(); // not later than the truth
};

} // namespace dataplane::net::stack
