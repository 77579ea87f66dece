// spool_probe.h: what the oracle may see of a queue's inside.
#pragma once

#include "queue/core.h"

#include <span>
#include <vector>

namespace queue {

class QueueProbe {
public:
    [[nodiscard]] static QueueCore& core(MessageQueue& queue) noexcept { return *queue.core_; }
    [[nodiscard]] static const std::vector<CheckpointPart>& checkpoint(QueueCore& core) noexcept {
        return core.checkpoint_.current_;
    }
    /// Records of finished messages whose completion has not been written yet.
    template <class Visit>
    static void for_each_mark(QueueCore& core, Visit&& visit) {
        for (std::size_t i = 0; i < core.marks_.size(); ++i) {
            const auto& mark = core.marks_[i];
            if (mark.place.valid()) visit(mark.place, mark.payload_bytes);
            for (const Chunk& chunk : mark.chunks)
                visit(chunk.place, chunk_prefix_bytes + chunk.bytes);
        }
    }
};

} // namespace queue
