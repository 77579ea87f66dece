// spool_load.h: a queue on a real disk with writers that fill it.
//
// Scope      The pool file, the queue on it, writers in a closed loop or at a rate, and the CPU they took.
// Owns       Everything of it, the file's name excepted.
// Threading  One thread.
// Failure    Throws std::runtime_error: no room, a file system that cannot do it, a spool that refuses.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/uring.h"
#include "dataplane/loadgen/histogram.h"
#include "queue/disk/flush_disk.h"
#include "queue/queue.h"
#include "queue/disk/uring_file.h"

#include <chrono>
#include <functional>
#include <memory>
#include <string>

namespace dataplane::loadgen {

struct SpoolFlow {
    std::uint32_t body_bytes = 0;
    std::size_t writers = 1;
    std::uint32_t rate_per_s = 0; // 0: each writer begins when its last one is safe
    std::chrono::milliseconds time{5000};
};

struct SpoolFigures {
    std::uint64_t messages = 0;
    std::uint64_t refused = 0;
    double seconds = 0;
    double cpu_seconds = 0; // user and system, of the whole process
    std::uint64_t batches = 0;
    std::uint64_t written_bytes = 0; // by the log, with its headers and padding
    Histogram latency; // ns, from begin to the safe end; at a rate: from when it was due
};

class SpoolLoad {
public:
    SpoolLoad(const std::string& path, std::uint64_t pool_bytes, queue::CommitStrategy commit);
    ~SpoolLoad();
    SpoolLoad(const SpoolLoad&) = delete;
    SpoolLoad& operator=(const SpoolLoad&) = delete;

    /// Opens the queue; returns what recovery found. `keep` messages instead of settling them: a day from now.
    /// `keys`: encrypted under the first of them.
    queue::RecoveryReport open(bool keep, std::shared_ptr<const queue::KeyRing> keys);
    [[nodiscard]] SpoolFigures run(const SpoolFlow& flow);
    /// Commits `count` small messages to `destinations` domains, many at a time, and keeps them.
    void fill(std::uint64_t count, std::uint32_t destinations);
    /// One small message; how long until it was safe.
    [[nodiscard]] std::chrono::nanoseconds one();
    /// Turns until `done` says so; false after `limit`.
    bool turn_until(const std::function<bool()>& done, std::chrono::seconds limit);
    [[nodiscard]] queue::QueueCounters counters() const { return queue_->counters(); }
    void close();

private:
    class Sink;
    struct Writers;
    void turn();
    static base::Task<void> write_mail(Writers* all);
    static base::Task<void> write_kept(Writers* all, std::uint32_t destinations);
    static base::Task<void> write_one(Writers* all, bool* done);

    base::RealClock clock_;
    base::Uring ring_;
    base::Loop loop_{clock_};
    std::unique_ptr<queue::FlushCoordinator> coordinator_; // strategy B
    std::unique_ptr<queue::UringFile> file_;
    std::unique_ptr<queue::FlushDisk> flush_disk_;
    queue::Disk* disk_ = nullptr;
    std::unique_ptr<queue::MessageQueue> queue_;
    std::unique_ptr<Sink> sink_;
};

} // namespace dataplane::loadgen
