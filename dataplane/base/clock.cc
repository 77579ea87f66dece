#include "dataplane/base/clock.h"

#include <ctime>

namespace dataplane::base {

TimePoint RealClock::now() const noexcept {
    timespec ts{};
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return TimePoint{std::chrono::seconds{ts.tv_sec} + std::chrono::nanoseconds{ts.tv_nsec}};
}

WallTime RealClock::wall_now() const noexcept {
    // Every turn asks, and nothing that is printed needs it finer than the kernel's tick: the coarse
    // clock is a fifth of the price.
    timespec ts{};
    clock_gettime(CLOCK_REALTIME_COARSE, &ts);
    return WallTime{std::chrono::seconds{ts.tv_sec} + std::chrono::floor<std::chrono::milliseconds>(
                                                          std::chrono::nanoseconds{ts.tv_nsec})};
}

Duration RealClock::thread_cpu() const noexcept {
    timespec ts{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return std::chrono::seconds{ts.tv_sec} + std::chrono::nanoseconds{ts.tv_nsec};
}

} // namespace dataplane::base
