#include "dataplane/base/room.h"

#include <numeric>

namespace dataplane::base {

void RoomMeter::start(const Clock& clock) noexcept {
    clock_ = &clock;
    current_ = Room::loop;
    since_ = settled_ = clock.now();
    thread_cpu_ = clock.thread_cpu();
    marked_.fill(Duration::zero());
    cpu_.fill(Duration::zero());
}

void RoomMeter::settle() noexcept {
    if (clock_ == nullptr) return;
    enter_at(current_, clock_->now());
    settled_ = since_;
    const Duration thread_cpu = clock_->thread_cpu();
    Duration left = thread_cpu - thread_cpu_;
    thread_cpu_ = thread_cpu;
    const Duration marked = std::accumulate(marked_.begin(), marked_.end(), Duration::zero());
    const double share = marked > Duration::zero() ? static_cast<double>(left.count()) /
                                                         static_cast<double>(marked.count())
                                                   : 0;
    for (std::size_t i = 0; i < room_count; ++i) {
        const Duration part{
            static_cast<Duration::rep>(static_cast<double>(marked_[i].count()) * share)};
        cpu_[i] += part;
        left -= part;
        marked_[i] = Duration::zero();
    }
    cpu_[static_cast<std::size_t>(current_)] += left; // what rounding left: nothing is lost
}

} // namespace dataplane::base
