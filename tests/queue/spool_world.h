// spool_world.h: a queue on a simulated disk, with clients, deliveries and a model of what they were told.
//
// Scope      Everything that a crash test needs: a World is one boot; crash() ends it as a power cut
//            would, and the next World begins with the image. The Model outlives them all.
// Threading  One thread, one ManualClock.
#pragma once

#include "queue/queue.h"
#include "tests/support/sim_disk.h"
#include "tests/support/sim_net.h"

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

namespace tests {

/// What clients and deliveries know: the truth that the queue is held against.
struct Model {
    std::map<std::uint64_t, std::string> submitted; // whatever was begun, with its whole content
    std::set<std::uint64_t> acknowledged;
    std::set<std::uint64_t> refused;
    std::set<std::uint64_t> refused_for_good; // and a sync after it succeeded
    std::set<std::uint64_t> settled;
    std::set<std::uint64_t> settled_for_good;        // and a sync after it succeeded
    std::map<std::uint64_t, std::uint32_t> attempts; // of deferred ones whose status was synced
};

class World final : public queue::ReadySink {
public:
    World(SimDiskOptions disk_options, queue::QueueOptions options,
          std::vector<std::byte> image = {});
    ~World() override;

    /// Opens the queue; nothing when the disk stopped meanwhile.
    std::optional<queue::SpoolResult<>> open();
    void sink() { queue->set_sink(*this); }

    // Coroutines of clients and deliveries live here, so that they end before the queue.
    void start(base::Task<void> task);
    bool run_until(const std::function<bool()>& done, base::Duration limit = std::chrono::hours{1});
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

    /// Ends this boot at once, with everything in it.
    std::vector<std::byte> crash();

    void message_ready(queue::MessageRef message) override { ready.push_back(std::move(message)); }

    base::ManualClock clock;
    base::Loop loop{clock};
    SimDisk disk;
    queue::QueueOptions options;
    queue::RecoveryReport report;
    std::unique_ptr<queue::MessageQueue> queue;
    std::deque<queue::MessageRef> ready;

private:
    std::vector<base::Task<void>> tasks_;
};

base::Task<queue::SpoolResult<queue::MessageRef>> submit_task(queue::MessageQueue& queue,
                                                              std::string body, std::string prelude,
                                                              std::size_t recipients, Model* model);
base::Task<queue::SpoolResult<std::string>> content_task(queue::MessageQueue& queue,
                                                         queue::MessageRef message);

[[nodiscard]] std::string random_body(std::mt19937_64& random, std::size_t bytes);
/// Small enough that segments are used again all the time.
[[nodiscard]] queue::QueueOptions small_options();

/// Checks everything that has to hold after a crash, through gtest, and takes into the model what a
/// crash may legitimately have undone.
void check_recovered(World& world, Model& model);

} // namespace tests
