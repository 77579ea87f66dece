#include "dataplane/base/wait.h"

namespace dataplane::base {

bool WaitNode::park(std::coroutine_handle<> waiting) noexcept {
    CHECK(!waiting_);
    if (deadline_.cancel != nullptr && deadline_.cancel->cancelled()) {
        reason_ = Wake::cancelled;
        return false;
    }
    waiting_ = waiting;
    room_ = RoomMeter::here().current();
    if (deadline_.at != TimePoint::max()) {
        timer_.node = this;
        loop_.arm(timer_, deadline_.at);
    }
    if (deadline_.cancel != nullptr) {
        cancel_link_.node = this;
        cancel_link_.link_before(deadline_.cancel->head_);
    }
    return true;
}

void WaitNode::wake(Wake reason) noexcept {
    if (!waiting_) return;
    unlink();
    reason_ = reason;
    queued_ = std::exchange(waiting_, nullptr);
    loop_.make_ready(queued_, label_, room_);
}

void WaitNode::unlink() noexcept {
    timer_.cancel();
    cancel_link_.unlink();
    queue_link.unlink();
}

void WaitNode::on_timer(Timer& timer) noexcept {
    static_cast<NodeTimer&>(timer).node->wake(Wake::timed_out);
}

CancelSource::~CancelSource() {
    while (!head_.alone())
        head_.next->unlink();
}

void CancelSource::cancel() noexcept {
    cancelled_ = true;
    while (!head_.alone()) {
        static_cast<WaitNode::CancelLink*>(head_.next)->node->wake(Wake::cancelled);
    }
}

WaitQueue::~WaitQueue() {
    while (!head_.alone())
        head_.next->unlink();
}

void WaitQueue::wake_one() noexcept {
    if (empty()) return;
    static_cast<WaitNode::QueueLink*>(head_.next)->node->wake(Wake::event);
}

void WaitQueue::wake_all() noexcept {
    while (!empty())
        wake_one();
}

WaitLine::~WaitLine() {
    while (!head_.alone())
        head_.next->unlink();
}

WaitLine::Place::~Place() {
    if (!linked()) return; // the line is gone
    unlink();
    detail::Link* first = line_.head_.next;
    if (first != &line_.head_) static_cast<Place*>(first)->called_.wake_all();
}

} // namespace dataplane::base
