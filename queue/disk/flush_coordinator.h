// flush_coordinator.h: one flush of a device for all shards that write to it.
//
// Scope      A thread beside the shards. Whoever asks while a flush is under way is covered by the next; the
//            flush of an epoch is an fdatasync of every pool that asked, at the same time, which the
//            kernel's block layer joins into one or two commands to the device.
// Owns       The thread, its ring, its end of each Port.
// Threading  attach() and a Port's destruction: any thread, and may wait for the flush under way (start and
//            end of a shard only). Port::flush(): its shard, without blocking.
// Failure    One pool's failed flush fails all that asked in that epoch, and those that have asked since: they
//            share a cache, and nobody knows whose bytes it has dropped.
#pragma once

#include "dataplane/base/mailbox.h"
#include "dataplane/base/task.h"
#include "dataplane/base/uring.h"
#include "dataplane/base/wait.h"
#include "queue/disk/disk.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace queue {

class FlushCoordinator {
public:
    /// Flushes these descriptors; false when one of them failed. For tests; the product's is fdatasync.
    using Flush = std::function<bool(const std::vector<int>& descriptors)>;

    FlushCoordinator();
    explicit FlushCoordinator(Flush flush);
    ~FlushCoordinator();
    FlushCoordinator(const FlushCoordinator&) = delete;
    FlushCoordinator& operator=(const FlushCoordinator&) = delete;

    /// One pool's end, on its shard. Must not outlive the coordinator, nor the descriptor it.
    class Port {
    public:
        ~Port();
        Port(const Port&) = delete;
        Port& operator=(const Port&) = delete;
        /// \pre  the last one has ended: FlushDisk sees to it
        [[nodiscard]] base::Task<std::expected<void, DiskError>> flush();

    private:
        friend class FlushCoordinator;
        enum class Answer : std::uint8_t { good, failed };
        Port(FlushCoordinator& owner, base::Loop& loop, base::Uring& ring, int descriptor);
        FlushCoordinator& owner_;
        base::Loop& loop_;
        base::Uring& ring_;
        int descriptor_;
        std::atomic<bool> wanted_{false};
        base::Mailbox<Answer> answers_;
        bool waiting_ = false;           // for an answer
        Answer answer_ = Answer::failed; // the last
        base::WaitQueue answered_{"spool flush epoch"};
    };
    [[nodiscard]] std::unique_ptr<Port> attach(base::Loop& loop, base::Uring& ring, int descriptor);

    /// Whether there is a Port: then it must not be destroyed.
    [[nodiscard]] bool attached() const noexcept { return attached_ != 0; }
    [[nodiscard]] std::uint64_t epoch_count() const noexcept {
        return epochs_.load(std::memory_order_relaxed);
    }

private:
    void run();
    void detach(Port& port);
    [[nodiscard]] std::vector<Port*> take_wanting();
    [[nodiscard]] bool epoch();

    Flush flush_;
    std::mutex mutex_; // ports_, and their lives: held while their descriptors are in use
    std::vector<Port*> ports_;
    std::atomic<std::size_t> attached_{0}; // how many: mutex_ is held as long as a flush takes
    base::Wakeup wakeup_;
    std::atomic<bool> stop_{false};
    std::atomic<std::uint64_t> epochs_{0};
    std::thread thread_; // last: it uses all of the above
};

} // namespace queue
