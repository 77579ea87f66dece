// lane_batcher.h: which jobs a kernel runs together, and how long the first of them waits for company.
//
// Scope      Jobs are grouped by key size: a kernel's lanes all have the same. A full group runs at once;
//            one that is not full when its first job has waited lane_wait_max, or at once when the kernel
//            has one lane. No clock: time comes with each call.
// Owns       Nothing: jobs belong to the backend.
// Threading  One thread.
// Failure    None. Full at jobs_max: the caller takes no more jobs until some have run.
#pragma once

#include "tls_offload/engine/kernel.h"

#include <array>
#include <cstddef>
#include <deque>
#include <span>

namespace tls_offload::offload {

class LaneBatcher {
public:
    static constexpr std::size_t jobs_max = 8 * lanes;

    /// \param width  of the kernel, at most `lanes`
    explicit LaneBatcher(std::size_t width) noexcept;

    [[nodiscard]] bool full() const noexcept { return count_ == jobs_max; }
    [[nodiscard]] std::size_t size() const noexcept { return count_; }
    /// \pre  !full()
    void add(Job& job, base::TimePoint now);
    /// The jobs to run now, or none. Valid until the next call.
    [[nodiscard]] std::span<Job* const> take(base::TimePoint now);
    /// When take() will give something without another add(); the maximum when there is nothing.
    [[nodiscard]] base::TimePoint due() const noexcept;

private:
    static constexpr std::size_t sizes = (key_bits_max - key_bits_min) / 64 + 1;

    std::size_t width_;
    std::size_t count_ = 0;
    std::array<std::deque<Job*>, sizes> groups_; // by key size; few are ever used
    std::array<std::uint8_t, jobs_max> used_{};  // groups that have jobs, oldest first job first
    std::size_t used_count_ = 0;
    std::array<Job*, lanes> batch_{};
};

} // namespace tls_offload::offload
