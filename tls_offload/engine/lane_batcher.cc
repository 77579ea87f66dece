#include "tls_offload/engine/lane_batcher.h"

#include "dataplane/base/check.h"

#include <algorithm>

namespace tls_offload::offload {

LaneBatcher::LaneBatcher(std::size_t width) noexcept : width_(width) {
    CHECK(width >= 1 && width <= lanes);
}

void LaneBatcher::add(Job& job, base::TimePoint now) {
    CHECK(!full() && job.bits >= key_bits_min && job.bits <= key_bits_max);
    job.since = now;
    const std::size_t group = (job.bits - key_bits_min) / 64;
    if (groups_[group].empty()) used_[used_count_++] = static_cast<std::uint8_t>(group);
    groups_[group].push_back(&job);
    ++count_;
}

base::TimePoint LaneBatcher::due() const noexcept {
    base::TimePoint earliest = base::TimePoint::max();
    for (std::size_t i = 0; i < used_count_; ++i) {
        const std::deque<Job*>& group = groups_[used_[i]];
        const base::Duration wait = group.size() >= width_ ? base::Duration::zero() : lane_wait_max;
        earliest = std::min(earliest, group.front()->since + wait);
    }
    return earliest;
}

std::span<Job* const> LaneBatcher::take(base::TimePoint now) {
    for (std::size_t i = 0; i < used_count_; ++i) {
        const std::uint8_t number = used_[i];
        std::deque<Job*>& group = groups_[number];
        if (group.size() < width_ && now - group.front()->since < lane_wait_max) continue;
        const std::size_t count = std::min(group.size(), width_);
        std::copy_n(group.begin(), count, batch_.begin());
        group.erase(group.begin(), group.begin() + static_cast<std::ptrdiff_t>(count));
        count_ -= count;
        // A group with jobs left goes behind the others, so that no key size starves another.
        std::copy(used_.begin() + i + 1, used_.begin() + used_count_, used_.begin() + i);
        --used_count_;
        if (!group.empty()) used_[used_count_++] = number;
        return std::span{batch_}.first(count);
    }
    return {};
}

} // namespace tls_offload::offload
