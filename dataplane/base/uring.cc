#include "dataplane/base/uring.h"

#include "dataplane/base/room.h"

#include <algorithm>
#include <cerrno>
#include <system_error>

namespace dataplane::base {

Uring::Uring(UringOptions options) {
    io_uring_params params{};
    params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                   IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE | IORING_SETUP_TASKRUN_FLAG;
    params.cq_entries = options.completion_entries;
    const int result = io_uring_queue_init_params(options.entries, &ring_, &params);
    if (result < 0)
        throw std::system_error(-result, std::generic_category(), "io_uring_queue_init");
    // Spares each entry into the kernel the look-up of the ring's descriptor; works without as well.
    static_cast<void>(io_uring_register_ring_fd(&ring_));
}

Uring::~Uring() {
    io_uring_queue_exit(&ring_);
}

io_uring_sqe* Uring::stage() {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    while (sqe == nullptr) { // more staged in one turn than the queue holds: hand it over now
        submit();
        sqe = io_uring_get_sqe(&ring_);
    }
    return sqe;
}

void Uring::submit() {
    const InRoom in{Room::kernel};
    ++enter_count_;
    const int submitted = io_uring_submit(&ring_);
    CHECK(submitted >= 0 || submitted == -EBUSY || submitted == -EAGAIN || submitted == -EINTR);
}

void Uring::cancel(UringOp& op) {
    io_uring_sqe* sqe = stage();
    io_uring_prep_cancel(sqe, &op, 0);
    io_uring_sqe_set_data(sqe, nullptr); // nobody waits for the cancellation itself
}

void Uring::WakeRead::complete(int, std::uint32_t) noexcept {
    armed = false;
}

void Uring::arm_wakeup() {
    if (wake_read_.armed) return;
    wake_read_.armed = true;
    io_uring_sqe* sqe = stage();
    io_uring_prep_read(sqe, wakeup_.descriptor(), &wake_value_, sizeof wake_value_, 0);
    bind(sqe, wake_read_);
}

void Uring::reap() noexcept {
    // A bound: completions that handlers cause right away wait for the next turn.
    for (unsigned rounds = 0; rounds < 4; ++rounds) {
        unsigned head = 0;
        unsigned count = 0;
        io_uring_cqe* cqe = nullptr;
        io_uring_for_each_cqe(&ring_, head, cqe) {
            ++count;
            if (auto* op = static_cast<UringOp*>(io_uring_cqe_get_data(cqe)); op != nullptr) {
                op->complete(cqe->res, cqe->flags);
            }
        }
        if (count == 0) return;
        io_uring_cq_advance(&ring_, count);
    }
}

void Uring::drain_inboxes() {
    for (std::size_t i = 0; i < inboxes_.size(); ++i)
        inboxes_[i]->drain(); // a handler may add one
}

void Uring::poll() {
    const bool staged = io_uring_sq_ready(&ring_) != 0;
    const bool kernel_work =
        (IO_URING_READ_ONCE(*ring_.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
    if (staged || kernel_work) {
        const InRoom in{Room::kernel};
        ++enter_count_;
        const int result = io_uring_submit_and_get_events(&ring_);
        CHECK(result >= 0 || result == -EBUSY || result == -EAGAIN || result == -EINTR);
    }
    reap();
    drain_inboxes();
}

void Uring::wait_kernel(Duration limit) noexcept {
    // Most of this time is sleep. What is work in it, such as sending what the turn has staged, only the
    // thread's CPU time tells: so it is settled by itself.
    struct Apart {
        Apart() noexcept { RoomMeter::here().settle(); }
        ~Apart() { RoomMeter::here().settle(); }
    };
    const InRoom in{Room::kernel};
    const Apart apart;
    ++enter_count_;
    if (limit == Duration::max()) {
        static_cast<void>(io_uring_submit_and_wait(&ring_, 1));
        return;
    }
    const auto nanoseconds = limit.count();
    __kernel_timespec timeout{nanoseconds / 1'000'000'000, nanoseconds % 1'000'000'000};
    io_uring_cqe* cqe = nullptr;
    static_cast<void>(io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &timeout, nullptr));
}

void Uring::settle(Duration limit) {
    wait_kernel(limit);
    reap();
}

void Uring::sleep_until(TimePoint now, TimePoint until) {
    arm_wakeup();
    wakeup_.will_sleep();
    const bool mail = std::any_of(inboxes_.begin(), inboxes_.end(),
                                  [](const Inbox* inbox) { return inbox->pending(); });
    if (!mail && until > now) {
        wait_kernel(until == TimePoint::max() ? Duration::max() : until - now);
    }
    wakeup_.awake();
    reap();
    drain_inboxes();
}

} // namespace dataplane::base
