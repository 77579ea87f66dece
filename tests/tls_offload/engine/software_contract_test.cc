// The contract, for the backends that need nothing but this machine's cores, and for the simulated one.
#include "tests/tls_offload/engine/contract.h"
#include "tls_offload/engine/sim_backend.h"
#include "tls_offload/engine/worker_pool.h"

namespace tests {
namespace {

Subject inline_subject() {
    return {"inline", [] { return offload::make_inline_backend(); }};
}

Subject threads_subject(unsigned workers, unsigned helpers = 0) {
    return {"threads" + std::to_string(workers) + (helpers == 0 ? "" : "_helped"),
            [workers, helpers]() -> std::unique_ptr<offload::Backend> {
                static std::array<std::unique_ptr<offload::WorkerPool>, 8> pools;
                auto& pool = pools[workers * 2 + helpers];
                if (!pool)
                    pool = std::make_unique<offload::WorkerPool>(offload::WorkerPoolOptions{
                        .workers = workers, .helpers = helpers, .shards = 2, .ring_entries = 32});
                static unsigned turn = 0;
                return pool->backend(++turn % 2, nullptr);
            }};
}

Subject sim_subject(std::string name, offload::SimFaults faults) {
    return {std::move(name), [faults] {
                return std::make_unique<offload::SimBackend>(
                    offload::SimBackendOptions{.faults = faults, .ring = 32, .stuck_after = 5s});
            }};
}

INSTANTIATE_TEST_SUITE_P(
    Software, BackendContract,
    testing::Values(inline_subject(), threads_subject(1), threads_subject(2), threads_subject(1, 1),
                    sim_subject("sim", {}),
                    sim_subject("sim_unruly",
                                {.seed = 7, .slow = 50, .refuse = 100, .partial = true})),
    testing::PrintToStringParamName());

} // namespace
} // namespace tests
