#include "queue/scheduler.h"

#include "queue/core.h"

#include <algorithm>

namespace queue {

RetryScheduler::RetryScheduler(base::Loop& loop)
    : loop_(loop), wheel_(loop.now(), std::chrono::seconds{1}), driver_(*this) {}

void RetryScheduler::schedule(Message& message) {
    message.retry_.message = &message;
    const auto ahead = std::max(message.due - loop_.wall_now(), std::chrono::milliseconds{0});
    const base::TimePoint when = loop_.now() + ahead;
    wheel_.arm(message.retry_, when);
    if (when < driver_at_) arm_driver();
}

void RetryScheduler::cancel(Message& message) noexcept {
    message.retry_.cancel();
}

void RetryScheduler::arm_driver() noexcept {
    driver_at_ = wheel_.next_due();
    loop_.arm(driver_, driver_at_);
}

void RetryScheduler::on_driver(base::Timer& timer) noexcept {
    RetryScheduler& scheduler = static_cast<Driver&>(timer).scheduler;
    scheduler.wheel_.advance(scheduler.loop_.now());
    scheduler.arm_driver();
}

void RetryScheduler::on_timer(base::Timer& timer) noexcept {
    Message& message = *static_cast<Message::RetryTimer&>(timer).message;
    message.owner_->due(message);
}

} // namespace queue
