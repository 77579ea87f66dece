#include "dataplane/base/timer_wheel.h"

#include "dataplane/base/check.h"

#include <bit>
#include <limits>

namespace dataplane::base {
namespace {

constexpr unsigned slot_bits = 8;
constexpr std::uint64_t slot_mask = 255;
constexpr std::uint64_t no_tick = std::numeric_limits<std::uint64_t>::max();

} // namespace

TimerWheel::TimerWheel(TimePoint start, Duration tick) noexcept
    : tick_(tick), current_(static_cast<std::uint64_t>(start.time_since_epoch() / tick)) {
    CHECK(tick.count() > 0);
    for (Sentinel& sentinel : heads_)
        sentinel.next_ = sentinel.prev_ = &sentinel;
}

TimerWheel::~TimerWheel() {
    // Timers may outlive the wheel at shutdown: leave none of them pointing into it.
    for (Sentinel& sentinel : heads_) {
        while (sentinel.next_ != &sentinel)
            sentinel.next_->cancel();
    }
}

void TimerWheel::arm(Timer& timer, TimePoint when) noexcept {
    timer.cancel();
    if (when == TimePoint::max()) return;
    const auto since = when.time_since_epoch();
    std::uint64_t tick = 0;
    if (since.count() > 0) {
        tick = static_cast<std::uint64_t>(since / tick_);
        if (since % tick_ != Duration::zero()) ++tick;
    }
    if (tick <= current_) tick = current_ + 1;
    timer.tick_ = tick;
    link(timer);
}

void TimerWheel::link(Timer& timer) noexcept {
    constexpr std::uint64_t range = (std::uint64_t{1} << (slot_bits * level_count)) - 1;
    std::uint64_t ahead = timer.tick_ - current_;
    if (ahead > range) {
        timer.tick_ = current_ + range;
        ahead = range;
    }
    unsigned level = 0;
    while ((ahead >> (slot_bits * (level + 1))) != 0)
        ++level;
    const auto slot = static_cast<unsigned>((timer.tick_ >> (slot_bits * level)) & slot_mask);
    Timer& sentinel = head(level, slot);
    timer.next_ = &sentinel;
    timer.prev_ = sentinel.prev_;
    sentinel.prev_->next_ = &timer;
    sentinel.prev_ = &timer;
    bitmaps_[level][slot / 64] |= std::uint64_t{1} << (slot % 64);
}

std::uint64_t TimerWheel::next_tick() noexcept {
    std::uint64_t best = no_tick;
    for (unsigned level = 0; level < level_count; ++level) {
        const std::uint64_t base = current_ >> (slot_bits * level);
        auto& bitmap = bitmaps_[level];
        // Looks at the slots base+1 .. base+256 in order, a bitmap word at a time.
        for (std::uint64_t step = 1; step <= slot_count;) {
            const auto slot = static_cast<unsigned>((base + step) & slot_mask);
            const std::uint64_t word = bitmap[slot / 64] >> (slot % 64);
            if (word == 0) {
                step += 64 - slot % 64;
                continue;
            }
            const auto skip = static_cast<unsigned>(std::countr_zero(word));
            const unsigned found = slot + skip;
            step += skip;
            if (step > slot_count) break;
            Timer& sentinel = head(level, found);
            if (sentinel.next_ == &sentinel) { // all its timers were cancelled
                bitmap[found / 64] &= ~(std::uint64_t{1} << (found % 64));
                continue;
            }
            best = std::min(best, (base + step) << (slot_bits * level));
            break;
        }
    }
    return best;
}

void TimerWheel::drain(unsigned level, unsigned slot) noexcept {
    Timer& sentinel = head(level, slot);
    bitmaps_[level][slot / 64] &= ~(std::uint64_t{1} << (slot % 64));
    if (sentinel.next_ == &sentinel) return;
    // Take the whole list first: what fires may arm timers that land in this very slot.
    Sentinel due;
    due.next_ = sentinel.next_;
    due.prev_ = sentinel.prev_;
    due.next_->prev_ = &due;
    due.prev_->next_ = &due;
    sentinel.next_ = sentinel.prev_ = &sentinel;
    while (due.next_ != &due) {
        Timer& timer = *due.next_;
        timer.cancel();
        if (level == 0) {
            timer.fire_(timer);
        } else {
            link(timer);
        }
    }
    due.next_ = due.prev_ = nullptr;
}

void TimerWheel::advance(TimePoint now) noexcept {
    const auto target = static_cast<std::uint64_t>(now.time_since_epoch() / tick_);
    while (current_ < target) {
        const std::uint64_t next = next_tick();
        if (next > target) {
            current_ = target;
            return;
        }
        current_ = next;
        for (unsigned level = level_count - 1; level > 0; --level) {
            const unsigned shift = slot_bits * level;
            if ((current_ & ((std::uint64_t{1} << shift) - 1)) != 0) continue;
            drain(level, static_cast<unsigned>((current_ >> shift) & slot_mask));
        }
        drain(0, static_cast<unsigned>(current_ & slot_mask));
    }
}

TimePoint TimerWheel::next_due() noexcept {
    const std::uint64_t next = next_tick();
    if (next == no_tick) return TimePoint::max();
    return TimePoint{tick_ * static_cast<std::int64_t>(next)};
}

} // namespace dataplane::base
