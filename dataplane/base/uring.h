// uring.h: one io_uring per shard, shared by its sockets and its spool.
//
// Scope      Staging, submission and completion. What an operation means is with whoever staged it.
// Owns       The ring (SINGLE_ISSUER, DEFER_TASKRUN), its provided-buffer groups' registration, and
//            the eventfd read that ends a sleep.
// Threading  Bound to the thread that constructs it.
// Failure    Construction throws std::system_error (start-up). Afterwards a full submission queue is
//            submitted and retried; every operation completes exactly once, or, when multishot, once
//            per completion until one without IORING_CQE_F_MORE.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/mailbox.h"

#include <cstdint>
#include <liburing.h>
#include <memory>
#include <vector>

namespace dataplane::base {

/// An operation in flight. It must live until its last completion; cancel it and wait for that.
class UringOp {
public:
    virtual ~UringOp() = default;
    /// \param result  as the kernel gave it: >= 0, or -errno
    /// \param flags   IORING_CQE_F_*
    virtual void complete(int result, std::uint32_t flags) noexcept = 0;
};

struct UringOptions {
    unsigned entries = 4096;
    unsigned completion_entries = 32768;
};

class Uring final : public Driver {
public:
    explicit Uring(UringOptions options = {});
    ~Uring() override;
    Uring(const Uring&) = delete;
    Uring& operator=(const Uring&) = delete;

    /// A blank entry bound to `op`, to fill with an io_uring_prep_* call followed by nothing else;
    /// the entry's user data is set here. It is submitted with the next poll(), or by submit().
    /// Usage: auto* sqe = ring.stage(); io_uring_prep_send(sqe, ...); ring.bind(sqe, op);
    [[nodiscard]] io_uring_sqe* stage();
    void bind(io_uring_sqe* sqe, UringOp& op) noexcept { io_uring_sqe_set_data(sqe, &op); }
    /// Hands what is staged to the kernel now, for what is worth an entry by itself: a device can work on a
    /// large write while the turn goes on.
    void submit();
    /// Asks the kernel to end `op` early; its completion still comes.
    void cancel(UringOp& op);

    void poll() override;
    void sleep_until(TimePoint now, TimePoint until) override;

    /// Rings of other threads that this shard drains before each turn.
    void add_inbox(Inbox& inbox) { inboxes_.push_back(&inbox); }
    void remove_inbox(Inbox& inbox) { std::erase(inboxes_, &inbox); }
    [[nodiscard]] Wakeup& wakeup() noexcept { return wakeup_; }

    /// A number for a group of provided buffers that no other user of this ring has.
    [[nodiscard]] std::uint16_t take_buffer_group() noexcept { return next_buffer_group_++; }
    /// Submits, waits for a completion for at most `limit`, and handles what has come: for an owner
    /// of operations that is being destroyed and must see their end.
    void settle(Duration limit);
    /// The kernel ring itself, for registering buffers and files.
    [[nodiscard]] io_uring& raw() noexcept { return ring_; }
    [[nodiscard]] std::uint64_t enter_count() const noexcept { return enter_count_; }

private:
    struct WakeRead final : UringOp {
        void complete(int result, std::uint32_t flags) noexcept override;
        bool armed = false;
    };

    void reap() noexcept;
    void wait_kernel(Duration limit) noexcept;
    void drain_inboxes();
    void arm_wakeup();

    io_uring ring_{};
    Wakeup wakeup_;
    WakeRead wake_read_;
    std::uint64_t wake_value_ = 0;
    std::vector<Inbox*> inboxes_;
    std::uint64_t enter_count_ = 0;
    std::uint16_t next_buffer_group_ = 0;
};

} // namespace dataplane::base
