#include "tls_offload/engine/kernel.h"

#include "tls_offload/engine/key_state.h"

namespace tls_offload::offload {
namespace {

class ScalarKernel final : public Kernel {
public:
    [[nodiscard]] std::string_view name() const noexcept override { return "openssl"; }
    [[nodiscard]] std::size_t width() const noexcept override { return 1; }
    void run(std::span<Job* const> jobs) noexcept override {
        for (Job* job : jobs)
            run_scalar(*job);
    }
};

} // namespace

void run_scalar(Job& job) noexcept {
    const bool made = sign_block(*job.key, std::span{job.block}.first(job.bytes()),
                                 std::span{job.signature}.first(job.bytes()));
    job.outcome = made ? Outcome::signed_verified : Outcome::failed;
}

std::unique_ptr<Kernel> make_scalar_kernel() {
    return std::make_unique<ScalarKernel>();
}

} // namespace tls_offload::offload
