// collector.h: copies the survivors of the oldest segment to the log's end, so that one message that
// waits for days does not keep every segment behind it from being used again.
//
// Scope      One segment at a time, only when space is short and there are dead bytes to win. A copy
//            is a new record of the same message with its present status; the old one dies when the
//            new one is durable. What cannot be read stays, and its message is made due, so that
//            delivery meets the damage and answers for it.
// Owns       The read window and the tickets of the copies under way.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/task.h"
#include "queue/log.h"
#include "queue/message.h"

#include <array>
#include <cstdint>
#include <limits>
#include <vector>

namespace queue {

class QueueCore;

class Collector {
public:
    explicit Collector(QueueCore& core) noexcept : core_(core) {}
    Collector(const Collector&) = delete;
    Collector& operator=(const Collector&) = delete;

    /// Starts on the oldest segment when that is worth it and nothing is under way.
    void consider();
    /// Lets go of everything; the log is about to go.
    void stop() noexcept;

private:
    static constexpr std::size_t whole_message = std::numeric_limits<std::size_t>::max();
    struct Survivor {
        MessageRef message;
        Place place;
        std::uint32_t payload_bytes;
        std::size_t chunk; // its index, or whole_message for the MSG or MSG_COMMIT record
    };
    struct Copy {
        Ticket ticket;
        const Survivor* survivor = nullptr;
    };

    base::Task<void> collect(std::uint32_t slot);
    base::Task<void> gather(std::uint32_t slot);
    base::Task<void> copy_window(std::size_t first, std::size_t last, std::uint64_t window_offset,
                                 std::uint32_t slot);
    base::Task<bool> append(const Survivor& survivor, std::span<const std::byte> payload,
                            RecordType type);
    base::Task<void> finish_copies();
    [[nodiscard]] static Place& place_of(const Survivor& survivor) noexcept;
    [[nodiscard]] static bool alive(const Survivor& survivor) noexcept;
    void give_up(const Survivor& survivor);

    QueueCore& core_;
    bool busy_ = false;
    base::TimePoint not_before_{};
    BlockMemory window_;
    std::vector<Survivor> survivors_;
    std::array<Copy, collect_records_max> copies_;
    std::size_t copy_count_ = 0;
    base::Task<void> task_;
};

} // namespace queue
