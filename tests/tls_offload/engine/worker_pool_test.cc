// worker_pool_test.cc: which thread is given a job. What the threads do with it is the contract's.
#include "tests/tls_offload/engine/rig.h"
#include "tls_offload/engine/worker_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <sys/resource.h>
#include <thread>
#include <vector>

namespace tests {
namespace {

/// Signs nothing, and not before the gate is open.
class GatedKernel final : public offload::Kernel {
public:
    struct Shared {
        std::atomic<bool> open{false};
        std::atomic<unsigned> made{0};
        std::array<std::atomic<int>, 4> jobs{};
        std::array<std::atomic<int>, 4> priority{};
    };
    explicit GatedKernel(Shared& shared) : shared_(shared), number_(shared.made++) {}
    [[nodiscard]] std::string_view name() const noexcept override { return "gated"; }
    [[nodiscard]] std::size_t width() const noexcept override { return 1; }
    void run(std::span<offload::Job* const> jobs) noexcept override {
        shared_.priority[number_] = getpriority(PRIO_PROCESS, 0);
        while (!shared_.open)
            std::this_thread::yield();
        shared_.jobs[number_] += static_cast<int>(jobs.size());
    }

private:
    Shared& shared_;
    unsigned number_;
};

struct Count final : offload::CompletionSink {
    std::size_t count = 0;
    void completed(const offload::Completion&) override { ++count; }
};

/// Submits so many at once and waits for all; then the kernels' counts say who had them.
void run_jobs(GatedKernel::Shared& shared, unsigned workers, unsigned helpers, std::size_t jobs) {
    offload::WorkerPool pool({.workers = workers, .helpers = helpers, .kernel = [&shared] {
                                  return std::make_unique<GatedKernel>(shared);
                              }});
    const auto backend = pool.backend(0, nullptr);
    const offload::KeyRef key = engine_key(2048);
    const std::vector<std::byte> block(256);
    for (std::size_t i = 0; i < jobs; ++i)
        ASSERT_EQ(backend->submit({.token = i, .key = key, .block = block}), offload::Taken::yes);
    backend->flush({});
    shared.open = true;
    Count sink;
    const base::RealClock clock;
    const base::TimePoint limit = clock.now() + 20s;
    while (sink.count < jobs && clock.now() < limit)
        backend->poll(clock.now(), 64, sink);
    EXPECT_EQ(sink.count, jobs);
}

TEST(WorkerPool, AHelperHasNothingToDoWhileTheWorkersHaveNoQueue) {
    GatedKernel::Shared shared;
    run_jobs(shared, 1, 1, 4);
    EXPECT_EQ(shared.jobs[0], 4);
    EXPECT_EQ(shared.jobs[1], 0);
}

TEST(WorkerPool, AHelperTakesFewJobsAtTheLowestPriorityWhenTheyHaveOne) {
    GatedKernel::Shared shared;
    run_jobs(shared, 1, 1, 30);
    EXPECT_EQ(shared.jobs[0], 28);
    EXPECT_EQ(shared.jobs[1], 2) << "more would wait for a core that may have no time";
    EXPECT_EQ(shared.priority[1], 19);
    EXPECT_LT(shared.priority[0], 19);
}

TEST(WorkerPool, WithoutHelpersJobsAreSpreadEvenly) {
    GatedKernel::Shared shared;
    run_jobs(shared, 2, 0, 30);
    EXPECT_EQ(shared.jobs[0], 15);
    EXPECT_EQ(shared.jobs[1], 15);
}

} // namespace
} // namespace tests
