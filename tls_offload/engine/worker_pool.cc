#include "tls_offload/engine/worker_pool.h"

#include "dataplane/base/check.h"
#include "dataplane/base/clock.h"
#include "dataplane/base/spsc_ring.h"
#include "tls_offload/engine/key_state.h"
#include "tls_offload/engine/lane_batcher.h"

#include <algorithm>
#include <cstring>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string>
#include <sys/resource.h>
#include <thread>
#include <time.h>
#include <unistd.h>

namespace tls_offload::offload {
namespace {

// What a busy worker looks for between two sleeps: a wake-up costs both sides more than this.
constexpr unsigned idle_rounds = 64;
constexpr int lowest_priority = 19;
// A helper may not get to a job for long: it has few, and none before the workers have this many each.
constexpr std::size_t helper_jobs_max = 2;
constexpr std::size_t queue_for_helpers = 4;
// A worker with a queue tells a shard of several results at once: each wake-up costs the shard a turn.
constexpr base::Duration results_gap = std::chrono::milliseconds{1};

} // namespace

/// Between one shard and one worker. Jobs live here: a worker never sees a shard's own memory.
struct WorkerPool::Channel {
    explicit Channel(std::size_t entries) : jobs(entries), requests(entries), results(entries) {}

    std::vector<Job> jobs;
    base::SpscRing<Job*> requests; // shard to worker
    base::SpscRing<Job*> results; // worker to shard; as large as all jobs, so that it never refuses
    std::atomic<base::Wakeup*> wakeup{nullptr};
    std::atomic<bool> signalling{false};
    std::atomic<bool> abandoned{false}; // its shard ends: jobs come back unsigned
    bool untold = false;                // the worker's: there are results that the shard was not woken for
    base::TimePoint told_at{};

    void wake_shard() noexcept {
        // Both orders matter: the shard takes `wakeup` away first and then waits for `signalling`.
        signalling.store(true, std::memory_order_seq_cst);
        if (base::Wakeup* shard = wakeup.load(std::memory_order_seq_cst)) shard->signal();
        signalling.store(false, std::memory_order_seq_cst);
    }
};

struct WorkerPool::Worker {
    Worker(const WorkerPoolOptions& options, unsigned number)
        : helper(number >= options.workers),
          kernel(options.kernel ? options.kernel() : make_scalar_kernel()),
          batcher(kernel->width()) {
        for (unsigned shard = 0; shard < options.shards; ++shard)
            channels.push_back(std::make_unique<Channel>(options.ring_entries));
        const int core = number < options.cores.size() && !helper ? options.cores[number] : -1;
        thread = std::thread([this, core, number] { run(core, number); });
    }
    ~Worker() {
        stop.store(true, std::memory_order_seq_cst);
        wakeup.signal();
        thread.join();
    }

    void run(int core, unsigned number) {
        pthread_setname_np(pthread_self(), ("crypto-" + std::to_string(number)).c_str());
        if (helper) setpriority(PRIO_PROCESS, 0, lowest_priority); // on Linux, of this thread
        if (core >= 0) {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(static_cast<unsigned>(core), &set);
            pthread_setaffinity_np(pthread_self(), sizeof set, &set);
        }
        unsigned idle = 0;
        while (!stop.load(std::memory_order_relaxed)) {
            const bool collected = collect();
            idle = work() || collected ? 0 : idle + 1;
            tell_shards();
            if (idle > idle_rounds) sleep();
        }
    }

    /// Takes jobs from every channel in turn, so that no shard waits behind another one's burst.
    bool collect() {
        bool any = false;
        for (bool more = true; more && !batcher.full();) {
            more = false;
            for (const auto& channel : channels) {
                if (batcher.full()) break;
                const std::optional<Job*> job = channel->requests.pop();
                if (!job) continue;
                any = more = true;
                if (channel->abandoned.load(std::memory_order_relaxed)) {
                    (*job)->outcome = Outcome::failed;
                    give_back(*job);
                    continue;
                }
                batcher.add(**job, clock.now());
            }
        }
        return any;
    }

    bool work() {
        const std::span<Job* const> batch = batcher.take(clock.now());
        if (batch.empty()) return false;
        kernel->run(batch);
        for (Job* job : batch)
            give_back(job);
        return true;
    }

    void give_back(Job* job) {
        Channel& channel = *channels[job->owner];
        CHECK(channel.results.push(std::move(job)));
        channel.untold = true;
    }

    void tell_shards() {
        const bool more = has_requests() || batcher.size() != 0;
        for (const auto& channel : channels) {
            if (!channel->untold) continue;
            const base::TimePoint now = clock.now();
            if (more && now - channel->told_at < results_gap) continue;
            channel->untold = false;
            channel->told_at = now;
            channel->wake_shard();
        }
    }

    [[nodiscard]] bool has_requests() const noexcept {
        return std::any_of(channels.begin(), channels.end(),
                           [](const auto& channel) { return channel->requests.size() != 0; });
    }

    void sleep() {
        wakeup.will_sleep();
        if (!has_requests() && !stop.load(std::memory_order_seq_cst)) {
            const base::TimePoint due = batcher.due();
            timespec limit{};
            if (due != base::TimePoint::max()) {
                const auto left = std::max((due - clock.now()).count(), base::Duration::rep{0});
                limit = {left / 1'000'000'000, left % 1'000'000'000};
            }
            pollfd event{.fd = wakeup.descriptor(), .events = POLLIN, .revents = 0};
            if (ppoll(&event, 1, due == base::TimePoint::max() ? nullptr : &limit, nullptr) > 0) {
                std::uint64_t count = 0; // the eventfd is ready: this does not block
                static_cast<void>(read(wakeup.descriptor(), &count, sizeof count));
            }
        }
        wakeup.awake();
    }

    bool helper;
    base::RealClock clock;
    std::unique_ptr<Kernel> kernel;
    LaneBatcher batcher;
    std::vector<std::unique_ptr<Channel>> channels; // one for each shard
    base::Wakeup wakeup;
    std::atomic<bool> stop{false};
    std::thread thread; // last: it uses the rest
};

class WorkerPool::ShardBackend final : public Backend {
public:
    ShardBackend(WorkerPool& pool, unsigned shard, base::Wakeup* wakeup)
        : traits_{.name = pool.options_.name,
                  .must_poll = wakeup == nullptr,
                  // A worker on a core that is busy elsewhere may take long; it is never dead.
                  .stuck_after = std::chrono::seconds{10}} {
        for (const auto& worker : pool.workers_) {
            Side& side = sides_.emplace_back();
            side.worker = worker.get();
            side.channel = worker->channels[shard].get();
            side.keys.resize(side.channel->jobs.size());
            for (Job& job : side.channel->jobs) {
                job.owner = shard;
                side.free.push_back(&job);
            }
            side.channel->abandoned.store(false, std::memory_order_relaxed);
            side.channel->wakeup.store(wakeup, std::memory_order_seq_cst);
        }
        batch_width_ = pool.workers_.front()->kernel->width();
    }

    ~ShardBackend() override {
        for (Side& side : sides_) {
            side.channel->abandoned.store(true, std::memory_order_relaxed);
            side.worker->wakeup.signal();
        }
        for (Side& side : sides_) { // keys must live until no worker reads them: at most one batch
            while (side.free.size() < side.channel->jobs.size()) {
                if (const std::optional<Job*> job = side.channel->results.pop()) {
                    side.free.push_back(*job);
                } else {
                    std::this_thread::yield();
                }
            }
            side.channel->wakeup.store(nullptr, std::memory_order_seq_cst);
            while (side.channel->signalling.load(std::memory_order_seq_cst))
                std::this_thread::yield();
        }
    }

    [[nodiscard]] const BackendTraits& traits() const noexcept override { return traits_; }

    [[nodiscard]] Taken submit(const Operation& operation) override {
        Side* side = choose();
        if (side == nullptr) return Taken::full;
        if (!prepare_for_workers(*operation.key)) return Taken::unsupported; // out of memory
        Job* job = side->free.back();
        side->free.pop_back();
        job->key = operation.key->state().worker.get();
        job->bits = operation.key->bits();
        job->token = operation.token;
        std::memcpy(job->block.data(), operation.block.data(), operation.block.size());
        side->keys[static_cast<std::size_t>(job - side->channel->jobs.data())] = operation.key;
        CHECK(side->channel->requests.push(std::move(job))); // as many places as jobs
        side->touched = true;
        ++in_flight_;
        return Taken::yes;
    }

    void flush(base::TimePoint) override {
        for (Side& side : sides_) {
            if (!side.touched) continue;
            side.touched = false;
            side.worker->wakeup.signal();
        }
    }

    std::size_t poll(base::TimePoint, std::size_t budget, CompletionSink& sink) override {
        std::size_t count = 0;
        for (Side& side : sides_) {
            while (count < budget) {
                const std::optional<Job*> popped = side.channel->results.pop();
                if (!popped) break;
                Job* job = *popped;
                ++count;
                --in_flight_;
                sink.completed({.token = job->token,
                                .outcome = job->outcome,
                                .signature = std::span{job->signature}.first(job->bytes())});
                side.keys[static_cast<std::size_t>(job - side.channel->jobs.data())].reset();
                side.free.push_back(job);
            }
        }
        return count;
    }

    [[nodiscard]] bool pending() const noexcept override {
        return std::any_of(sides_.begin(), sides_.end(),
                           [](const Side& side) { return side.channel->results.size() != 0; });
    }
    [[nodiscard]] std::size_t in_flight() const noexcept override { return in_flight_; }

private:
    struct Side {
        Worker* worker = nullptr;
        Channel* channel = nullptr;
        std::vector<Job*> free;
        std::vector<KeyRef> keys; // of jobs under way, by job
        bool touched = false;
        [[nodiscard]] std::size_t busy() const noexcept { return keys.size() - free.size(); }
    };

    /// The least busy worker; but a batch that is open is filled first, where workers batch.
    Side* choose() {
        Side* best = nullptr;
        Side* helper = nullptr;
        for (Side& side : sides_) {
            if (side.worker->helper) {
                if (side.busy() < helper_jobs_max) helper = &side;
                continue;
            }
            if (side.free.empty()) continue;
            if (side.busy() % batch_width_ != 0 && side.touched) return &side;
            if (best == nullptr || side.busy() < best->busy()) best = &side;
        }
        const bool queue = best == nullptr || best->busy() >= queue_for_helpers;
        return helper != nullptr && queue ? helper : best;
    }

    BackendTraits traits_;
    std::vector<Side> sides_; // one for each worker
    std::size_t batch_width_ = 1;
    std::size_t in_flight_ = 0;
};

WorkerPool::WorkerPool(WorkerPoolOptions options) : options_(std::move(options)) {
    CHECK(options_.workers >= 1 && options_.workers <= workers_max && options_.shards >= 1);
    for (unsigned number = 0; number < options_.workers + options_.helpers; ++number)
        workers_.push_back(std::make_unique<Worker>(options_, number));
}

WorkerPool::~WorkerPool() = default;

std::unique_ptr<Backend> WorkerPool::backend(unsigned shard, base::Wakeup* wakeup) {
    CHECK(shard < options_.shards);
    return std::make_unique<ShardBackend>(*this, shard, wakeup);
}

} // namespace tls_offload::offload
