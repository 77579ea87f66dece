// Goal: a message from another thread reaches a shard that sleeps in the kernel, at once and every
// time; and a shard with nothing to do sleeps.
#include "dataplane/base/mailbox.h"

#include "dataplane/base/loop.h"
#include "dataplane/base/uring.h"

#include <atomic>
#include <gtest/gtest.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace dataplane::base {
namespace {

using namespace std::chrono_literals;

struct Count {
    std::uint64_t messages = 0;
    std::uint64_t sum = 0;
    std::atomic<std::uint64_t> seen{0};
    static void handle(void* context, std::uint64_t&& message) {
        auto& self = *static_cast<Count*>(context);
        ++self.messages;
        self.sum += message;
        self.seen.store(self.messages, std::memory_order_release);
    }
};

TEST(Mailbox, WakesAShardThatSleepsForEveryMessage) {
    constexpr std::uint64_t count = 2000;
    RealClock clock;
    Uring ring;
    Loop loop{clock};
    Count seen;
    Mailbox<std::uint64_t> mailbox{ring.wakeup(), 16, &Count::handle, &seen};
    ring.add_inbox(mailbox);
    std::atomic<bool> given_up{false};
    std::thread producer{[&] {
        for (std::uint64_t i = 1; i <= count && !given_up.load(); ++i) {
            while (!mailbox.post(std::uint64_t{i}) && !given_up.load())
                std::this_thread::yield();
            // Mostly one by one, so that the shard falls asleep between two messages.
            while (i % 8 != 0 && seen.seen.load(std::memory_order_acquire) < i &&
                   !given_up.load()) {
                std::this_thread::yield();
            }
        }
    }};
    const TimePoint end = clock.now() + 5s; // a lost wake-up sleeps until then
    while (seen.messages < count && clock.now() < end) {
        ring.poll();
        loop.turn();
        if (seen.messages < count) ring.sleep_until(loop.now(), end);
    }
    given_up.store(true);
    EXPECT_LT(clock.now(), end);
    EXPECT_EQ(seen.messages, count);
    EXPECT_EQ(seen.sum, count * (count + 1) / 2);
    producer.join();
    ring.remove_inbox(mailbox);
}

TEST(Uring, SleepsUntilTheTimeItWasGivenWithoutSpinning) {
    RealClock clock;
    Uring ring;
    ring.sleep_until(clock.now(), clock.now() + 1ms);
    const std::uint64_t enters = ring.enter_count();
    const TimePoint start = clock.now();
    const TimePoint until = start + 50ms;
    while (clock.now() < until)
        ring.sleep_until(clock.now(), until);
    EXPECT_LE(ring.enter_count() - enters, 4U);
    EXPECT_LT(clock.now() - start, 5s);
}

struct Once final : UringOp {
    void complete(int result, std::uint32_t) noexcept override {
        ++completions;
        last = result;
    }
    int completions = 0;
    int last = 0;
};

TEST(Uring, MoreOperationsThanItsQueueHoldsAllComplete) {
    Uring ring{{.entries = 8, .completion_entries = 64}};
    std::vector<Once> ops(200);
    for (Once& op : ops) {
        io_uring_sqe* entry = ring.stage();
        io_uring_prep_nop(entry);
        ring.bind(entry, op);
    }
    for (int i = 0; i < 100; ++i)
        ring.poll();
    for (const Once& op : ops)
        EXPECT_EQ(op.completions, 1);
}

TEST(Uring, ACancelledOperationStillCompletesOnce) {
    Uring ring;
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    char byte = 0;
    Once op;
    io_uring_sqe* entry = ring.stage();
    io_uring_prep_read(entry, ends[0], &byte, 1, 0);
    ring.bind(entry, op);
    ring.poll();
    EXPECT_EQ(op.completions, 0);
    ring.cancel(op);
    ring.settle(1s);
    ring.settle(10ms);
    EXPECT_EQ(op.completions, 1);
    EXPECT_EQ(op.last, -ECANCELED);
    close(ends[0]);
    close(ends[1]);
}

} // namespace
} // namespace dataplane::base
