// collector.h: copies what lives in nearly empty segments into segments of its own, so that one message
// that waits for days does not keep a segment from being used again.
//
// Scope      Only when space is short and there are dead bytes to win. A copy is a new record of the same
//            message, with its present status behind it; the old one dies when both are durable. What
//            cannot be read stays, and its message is made due, so that delivery meets the damage and
//            answers for it.
// Owns       The read window and the copies under way.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/task.h"
#include "queue/entry.h"
#include "queue/live_records.h"
#include "queue/log.h"
#include "queue/side_writer.h"

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace queue {

class QueueCore;

class Collector {
public:
    Collector(QueueCore& core, SideWriter& writer) noexcept : core_(core), writer_(writer) {}
    Collector(const Collector&) = delete;
    Collector& operator=(const Collector&) = delete;

    /// Starts when that is worth it and nothing is under way.
    void consider();
    /// Lets go of everything; the log is about to go.
    void stop() noexcept;
    [[nodiscard]] bool busy() const noexcept { return busy_; }
    [[nodiscard]] std::uint64_t bytes_copied() const noexcept { return bytes_copied_; }

private:
    struct Copy { // in the frame that is being built
        LiveRecord survivor;
        Place place;
    };

    void rest() noexcept;
    base::Task<void> collect(std::vector<std::uint32_t> slots);
    base::Task<bool> copy_window(std::size_t first, std::size_t last);
    base::Task<bool> copy(const LiveRecord& survivor, std::span<const std::byte> payload,
                          RecordType type);
    void copy_status(EntryRef ref);
    base::Task<bool> write_frame();
    void give_up(const LiveRecord& survivor);

    QueueCore& core_;
    SideWriter& writer_;
    bool busy_ = false;
    bool ended_ = false; // and what it won has not been looked at yet
    std::uint32_t free_before_ = 0;
    unsigned fruitless_ = 0; // in a row
    bool frame_begun_ = false;
    base::TimePoint not_before_{};
    BlockMemory window_;
    std::vector<LiveRecord> survivors_;
    std::vector<Copy> copies_;
    std::uint64_t bytes_copied_ = 0;
    base::Task<void> task_;
};

} // namespace queue
