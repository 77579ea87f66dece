// timer_wheel.h: hierarchical timer wheel, four levels of 256 slots.
//
// Scope      Arms, cancels and fires intrusive timers in O(1); 2^32 ticks of range. Sans-I/O: the
//            caller says what time it is. A shard's Loop has one with a 1 ms tick.
// Owns       Nothing: a Timer lives in the object that waits, and unlinks itself when destroyed.
// Threading  Bound to one shard.
// Failure    None. A timer beyond the range fires at the end of the range and its owner re-arms it.
#pragma once

#include "dataplane/base/clock.h"

#include <array>
#include <cstdint>

namespace dataplane::base {

class TimerWheel;

class Timer {
public:
    using Fire = void (*)(Timer&) noexcept;
    explicit Timer(Fire fire) noexcept : fire_(fire) {}
    ~Timer() { cancel(); }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

    [[nodiscard]] bool armed() const noexcept { return next_ != nullptr; }
    void cancel() noexcept {
        if (next_ == nullptr) return;
        next_->prev_ = prev_;
        prev_->next_ = next_;
        next_ = prev_ = nullptr;
    }

private:
    friend class TimerWheel;
    Timer* next_ = nullptr;
    Timer* prev_ = nullptr;
    std::uint64_t tick_ = 0;
    Fire fire_;
};

class TimerWheel {
public:
    TimerWheel(TimePoint start, Duration tick) noexcept;
    ~TimerWheel();
    TimerWheel(const TimerWheel&) = delete;
    TimerWheel& operator=(const TimerWheel&) = delete;

    /// Arms (or moves) the timer. It fires at the first advance() to a time >= when, never earlier.
    void arm(Timer& timer, TimePoint when) noexcept;
    /// Fires everything due. A timer may arm or cancel any timer, itself included, while it fires.
    void advance(TimePoint now) noexcept;
    /// A lower bound of the next due time, or TimePoint::max() when nothing is armed.
    [[nodiscard]] TimePoint next_due() noexcept;

private:
    static constexpr unsigned level_count = 4;
    static constexpr unsigned slot_count = 256;

    void link(Timer& timer) noexcept;
    void drain(unsigned level, unsigned slot) noexcept;
    [[nodiscard]] std::uint64_t next_tick() noexcept;
    [[nodiscard]] Timer& head(unsigned level, unsigned slot) noexcept {
        return heads_[level * slot_count + slot];
    }

    Duration tick_;
    std::uint64_t current_;
    std::array<std::array<std::uint64_t, slot_count / 64>, level_count> bitmaps_{};
    // A sentinel per slot: an empty slot points at itself.
    struct Sentinel : Timer {
        Sentinel() noexcept : Timer(nullptr) {}
    };
    std::array<Sentinel, level_count * slot_count> heads_;
};

} // namespace dataplane::base
