// kernel.h: how a core does private-key operations: one by one, or eight at a time.
//
// Scope      A job and what runs it; lane_batcher.h decides which jobs run together. Kernels run inside a
//            crypto worker or on the shard itself.
// Owns       Nothing: a job belongs to the backend that took it.
// Threading  One kernel per thread.
// Failure    In the job's outcome. What a kernel gives out as signed is verified.
#pragma once

#include "dataplane/base/clock.h"
#include "tls_offload/engine/backend.h"
#include "tls_offload/engine/limits.h"

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

struct rsa_st; // OpenSSL's RSA

namespace tls_offload::offload {

struct Job {
    rsa_st* key = nullptr; // with the private numbers; of the thread that runs the kernel
    unsigned bits = 0;
    std::uint64_t token = 0;
    std::uint32_t owner = 0; // the backend's own mark
    Outcome outcome = Outcome::failed;
    base::TimePoint since{}; // set by the batcher
    std::array<std::byte, block_bytes_max> block{};
    std::array<std::byte, block_bytes_max> signature{};

    [[nodiscard]] std::size_t bytes() const noexcept { return bits / 8; }
};

class Kernel {
public:
    virtual ~Kernel() = default;
    [[nodiscard]] virtual std::string_view name() const noexcept = 0;
    /// Jobs of one key size that one run() takes.
    [[nodiscard]] virtual std::size_t width() const noexcept = 0;
    /// \param jobs  1 to width(), all of one key size
    virtual void run(std::span<Job* const> jobs) noexcept = 0;
};

/// OpenSSL's own implementation, one job after the other.
[[nodiscard]] std::unique_ptr<Kernel> make_scalar_kernel();
/// One job in software: what every kernel falls back to.
void run_scalar(Job& job) noexcept;

} // namespace tls_offload::offload
