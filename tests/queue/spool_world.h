// spool_world.h: one boot of a queue on a simulated disk.
//
// Scope      Loop, clock, disk and queue of one boot, and the coroutines that use them. crash() ends it as a
//            power cut would, kill() as the end of the process; the next World begins with what is left.
//            With a Twin the disk is one half of a mirror. Who sends and delivers stands in spool_crew.h, what
//            must hold in spool_oracle.h.
// Threading  One thread, one ManualClock.
#pragma once

#include "queue/disk/flush_disk.h"
#include "queue/disk/mirror_disk.h"
#include "queue/queue.h"
#include "tests/support/sim_disk.h"
#include "tests/support/sim_net.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace tests {

/// The second half of a mirror, and how the two of them are found.
struct Twin {
    SimDiskOptions disk;
    SimMedium medium;
    std::array<bool, 2> present{true, true};
    std::array<bool, 2> created{};
    std::optional<unsigned>
        rotten; // the half whose device damages what it has; the other one never does
    std::chrono::seconds retry{30};
    std::uint64_t copy_bytes_per_s = 100U << 20;
    std::chrono::milliseconds answer_limit = queue::MirrorOptions{}.answer_limit;
    std::chrono::milliseconds read_limit = queue::MirrorOptions{}.read_limit;
};

class World : public queue::ReadySink {
public:
    World(SimDiskOptions disk_options, queue::QueueOptions options, SimMedium medium = {},
          base::WallTime start = base::ManualClock{}.wall_now());
    ~World() override;

    /// Before open(), and before add_twin(): writes are made safe by one flush for many, strategy B.
    void commit_by_flush();
    /// Before open().
    void add_twin(Twin twin);
    /// Opens the queue and waits until all mail is found; nothing when the disk stopped meanwhile.
    std::optional<queue::SpoolResult<>> open();
    /// The two halves of it: new mail may come between them.
    std::optional<queue::SpoolResult<>> open_early();
    std::optional<queue::SpoolResult<>> recover();
    void sink() {
        sinking_ = true;
        queue->set_sink(*this);
    }

    // Coroutines of clients and deliveries live here, so that they end before the queue.
    void start(base::Task<void> task);
    bool run_until(const std::function<bool()>& done, base::Duration limit = std::chrono::hours{1});
    void run_for(base::Duration time) {
        static_cast<void>(run_until([] { return false; }, time));
    }
    template <class T>
    T run(base::Task<T> task) {
        return tests::run(loop, clock, std::move(task));
    }

    queue::SpoolResult<queue::MessageRef>
    submit(std::string_view body, std::string_view prelude = "", std::size_t recipients = 1);
    queue::SpoolResult<std::string> content(const queue::MessageRef& message);
    /// Finishes every recipient and the message.
    void deliver(queue::MessageRef message);
    queue::SpoolResult<> sync();

    /// Clients and deliveries go; what they held goes back.
    void stop();
    /// Ends this boot at once, with everything in it.
    std::vector<std::byte> crash();
    SimMedium kill();
    std::array<SimMedium, 2> end_both(bool kill);

    // Of both halves, where there are two.
    void stop_after_events(std::uint64_t events);
    void fail_flushes(std::uint64_t count);
    [[nodiscard]] std::uint64_t operation_count() const noexcept;
    [[nodiscard]] SimDisk& half(unsigned side) noexcept { return side == 0 ? disk : *second; }
    /// Faults that left the only copy of something wrong.
    [[nodiscard]] std::uint64_t damage_count() const noexcept {
        return second ? 0 : disk.damage_count();
    }
    /// What they should have made safe may be gone, and can be read until the power goes.
    [[nodiscard]] std::uint64_t refused_flush_count() const noexcept {
        return disk.refused_flush_count() + (second ? second->refused_flush_count() : 0);
    }
    /// Spawned on the loop: the half completes nothing from then on, for so long.
    static base::Task<void> hang(base::Loop* loop, SimDisk* half, base::Duration after,
                                 base::Duration time);
    /// Halves that have everything, and were asked at the start; one that rots comes last.
    [[nodiscard]] std::vector<unsigned> copies() const;
    [[nodiscard]] bool rots(unsigned side) const noexcept { return rotten_ == side; }
    /// What lies there would be there after a power cut, on every copy that can be relied on.
    [[nodiscard]] bool safe(std::uint64_t offset, std::uint64_t bytes);

    void message_ready(queue::MessageRef message) override {
        ready.push_back(std::move(message));
        ready_wait.wake_one();
    }
    [[nodiscard]] std::size_t room(bool) const noexcept override {
        return sinking_ ? ready_max - std::min(ready_max, ready.size()) : 0;
    }

    base::ManualClock clock;
    base::Loop loop{clock};
    SimDisk disk;
    std::unique_ptr<SimDisk> second;
    std::array<std::unique_ptr<queue::FlushDisk>, 2> flushing; // before them: strategy B
    std::unique_ptr<queue::Disk> careless; // before the second, with a seeded defect
    std::unique_ptr<queue::MirrorDisk> mirror;
    bool mirror_refused = false;  // report.problem says why
    std::uint64_t unanswered = 0; // times that a half was left behind because it did not answer
    queue::Disk* top = &disk;     // what the queue is opened on
    queue::QueueOptions options;
    queue::RecoveryReport report;
    std::unique_ptr<queue::MessageQueue> queue;
    std::deque<queue::MessageRef> ready;
    base::WaitQueue ready_wait{"ready mail"};
    std::size_t ready_max = std::numeric_limits<std::size_t>::max();

private:
    void end() noexcept;
    std::optional<queue::SpoolResult<>> open_mirror();

    bool sinking_ = true;
    std::array<queue::MirrorSide, 2> sides_{};
    queue::MirrorOptions mirror_options_;
    std::optional<unsigned> rotten_;
    std::array<bool, 2> counted_{}; // at the start

    std::vector<base::Task<void>> tasks_;
};

base::Task<queue::SpoolResult<std::string>> content_task(queue::MessageQueue& queue,
                                                         queue::MessageRef message);

[[nodiscard]] std::string random_body(std::mt19937_64& random, std::size_t bytes);
/// Small enough that segments are used again all the time.
[[nodiscard]] queue::QueueOptions small_options();

/// Queues one message of `body` with that many recipients.
base::Task<queue::SpoolResult<queue::MessageRef>> submit_task(queue::MessageQueue& queue,
                                                              std::string body, std::string prelude,
                                                              std::size_t recipients);

} // namespace tests
