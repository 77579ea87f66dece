// mailbox.h: messages from one other thread to a shard, and the wake-up that goes with them.
//
// Scope      A ring of small messages from one producer. The shard drains it in a coroutine; a shard
//            that sleeps in the kernel is woken through its Wakeup.
// Threading  post(): the one producer. Everything else: the shard that owns the mailbox.
// Failure    A full mailbox refuses; the producer decides.
#pragma once

#include "dataplane/base/spsc_ring.h"

#include <atomic>

namespace dataplane::base {

/// Rouses a shard that sleeps. Signalling one that is awake costs an atomic exchange, and only the
/// first signal of a sleep costs a system call.
class Wakeup {
public:
    Wakeup(); // makes an eventfd; std::system_error when the process is out of descriptors
    ~Wakeup();
    Wakeup(const Wakeup&) = delete;
    Wakeup& operator=(const Wakeup&) = delete;

    void signal() noexcept; // any thread
    [[nodiscard]] int descriptor() const noexcept { return descriptor_; }
    /// Shard: says that it is about to sleep. The shard looks at its mailboxes once more after this.
    /// \note an exchange here and in signal(), not a store and a load between fences: either this
    /// one reads what signal() wrote, and the message before it is seen, or signal() reads `true`.
    void will_sleep() noexcept { asleep_.exchange(true, std::memory_order_acq_rel); }
    void awake() noexcept { asleep_.exchange(false, std::memory_order_acq_rel); }

private:
    int descriptor_;
    std::atomic<bool> asleep_{false};
};

/// What a shard looks into once per turn.
class Inbox {
public:
    virtual ~Inbox() = default;
    /// Handles everything that has come. Returns whether there was anything.
    virtual bool drain() = 0;
    [[nodiscard]] virtual bool pending() const noexcept = 0;
};

template <class Message>
class Mailbox final : public Inbox {
public:
    using Handler = void (*)(void* context, Message&& message);

    Mailbox(Wakeup& wakeup, std::size_t capacity, Handler handler, void* context)
        : ring_(capacity), wakeup_(wakeup), handler_(handler), context_(context) {}

    [[nodiscard]] bool post(Message&& message) {
        if (!ring_.push(std::move(message))) return false;
        wakeup_.signal();
        return true;
    }
    bool drain() override {
        // What was there at the start: a producer that never rests must not hold the turn up.
        const std::size_t count = ring_.size();
        for (std::size_t i = 0; i < count; ++i)
            handler_(context_, std::move(*ring_.pop()));
        return count > 0;
    }
    [[nodiscard]] bool pending() const noexcept override { return ring_.size() != 0; }

private:
    SpscRing<Message> ring_;
    Wakeup& wakeup_;
    Handler handler_;
    void* context_;
};

} // namespace dataplane::base
