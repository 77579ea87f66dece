// clock.h: the only two times there are, and where they come from.
//
// Scope      TimePoint is monotonic and drives every timer; WallTime is what headers, events and
//            expiry print. Code takes `now` from its Loop; nothing else reads a clock.
// Threading  RealClock may be read from any thread. ManualClock belongs to one thread.
#pragma once

#include <chrono>
#include <cstdint>

namespace dataplane::base {

using Duration = std::chrono::nanoseconds;

/// Tag clock: it has no now(), so no code can read time behind the Loop's back.
struct Monotonic {
    using duration = Duration;
    using rep = duration::rep;
    using period = duration::period;
    using time_point = std::chrono::time_point<Monotonic, duration>;
    static constexpr bool is_steady = true;
};
using TimePoint = Monotonic::time_point;
using WallTime = std::chrono::sys_time<std::chrono::milliseconds>;

class Clock {
public:
    virtual ~Clock() = default;
    [[nodiscard]] virtual TimePoint now() const noexcept = 0;
    [[nodiscard]] virtual WallTime wall_now() const noexcept = 0;
    /// CPU time that the calling thread has had, for room.h. Under a clock that tests move, all time is.
    [[nodiscard]] virtual Duration thread_cpu() const noexcept { return now().time_since_epoch(); }
};

class RealClock final : public Clock {
public:
    [[nodiscard]] TimePoint now() const noexcept override;
    [[nodiscard]] WallTime wall_now() const noexcept override;
    [[nodiscard]] Duration thread_cpu() const noexcept override;
};

/// Moves only when told to; wall time moves in step with it.
class ManualClock final : public Clock {
public:
    explicit ManualClock(WallTime start = WallTime{std::chrono::milliseconds{1'767'225'600'000}})
        : wall_(start) {}
    [[nodiscard]] TimePoint now() const noexcept override { return now_; }
    [[nodiscard]] WallTime wall_now() const noexcept override {
        return wall_ + std::chrono::duration_cast<std::chrono::milliseconds>(
                           now_.time_since_epoch() - start_);
    }
    void advance(Duration by) noexcept { now_ += by; }
    void advance_to(TimePoint when) noexcept {
        if (when > now_) now_ = when;
    }
    /// A step of the wall clock alone, as NTP or an operator makes.
    void step_wall(std::chrono::milliseconds by) noexcept { wall_ += by; }

private:
    static constexpr Duration start_ = std::chrono::seconds{1};
    TimePoint now_{start_};
    WallTime wall_;
};

} // namespace dataplane::base
