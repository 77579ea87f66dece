#include "dataplane/net/stack/driver.h"

#include <algorithm>
#include <sched.h>

namespace dataplane::net::stack {

void StackDriver::poll() {
    ring_.poll();
    for (Stack* stack : stacks_)
        if (stack->poll() > 0) frames_came_ = true;
}

void StackDriver::sleep_until(base::TimePoint now, base::TimePoint until) {
    if (frames_came_) {
        frames_came_ = false;
        last_frame_ = now;
        nap_ = nap_min;
    }
    if (now - last_frame_ < options_.spin) return;
    if (options_.idle_sleep.count() == 0) {
        sched_yield();
        return;
    }
    base::TimePoint next = until;
    for (const Stack* stack : stacks_)
        next = std::min(next, stack->next_due());
    ring_.sleep_until(now, std::min(next, now + nap_));
    nap_ = std::min(nap_ * 2, options_.idle_sleep);
}

} // namespace dataplane::net::stack
