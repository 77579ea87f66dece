// worker_pool.h: the `threads` backend: crypto workers on cores that are not shards.
//
// Scope      N threads that all shards share, and helpers: threads of the lowest priority that live on what shards
//            leave of their cores, and are given little, and only when the workers have a queue. Between each shard and each worker there is one channel: a
//            ring of jobs one way and a ring of results the other. No lock anywhere on the shard's side: a
//            hand-over is a copy, a ring slot, and, when the worker sleeps, a system call for a whole burst.
// Owns       The threads and the channels; backends are one shard's view of them and go first.
// Threading  Made and destroyed by main. A backend belongs to its shard.
// Failure    Construction throws std::system_error (start-up). A worker cannot fail but by our own bug.
#pragma once

#include "dataplane/base/mailbox.h"
#include "tls_offload/engine/backend.h"
#include "tls_offload/engine/kernel.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

namespace tls_offload::offload {

struct WorkerPoolOptions {
    unsigned workers = 1;
    unsigned helpers = 0;
    unsigned shards = 1;
    std::vector<int> cores;                          // for the first workers; the others float
    std::function<std::unique_ptr<Kernel>()> kernel; // empty: OpenSSL's own
    std::string_view name = "threads";               // a literal; what reports call the backend
    std::size_t ring_entries = worker_ring_entries;  // of each channel
};

class WorkerPool {
public:
    explicit WorkerPool(WorkerPoolOptions options);
    ~WorkerPool();
    WorkerPool(const WorkerPool&) = delete;
    WorkerPool& operator=(const WorkerPool&) = delete;

    /// A shard's backend; each shard has at most one at a time.
    /// \param wakeup  rouses the shard when something completes; null: the shard must poll
    [[nodiscard]] std::unique_ptr<Backend> backend(unsigned shard, base::Wakeup* wakeup);
    [[nodiscard]] std::string_view name() const noexcept { return options_.name; }

private:
    class ShardBackend;
    struct Channel;
    struct Worker;

    WorkerPoolOptions options_;
    std::vector<std::unique_ptr<Worker>> workers_;
};

} // namespace tls_offload::offload
