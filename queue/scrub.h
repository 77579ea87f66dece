// scrub.h: reads all queued mail once a day, so that rot is found while there is still somebody to tell.
//
// Scope      Every record that the index needs, segment by segment, its checksums compared; no key is needed. What
//            does not check out twice goes to quarantine, and its message is made due, so that delivery meets
//            the damage and answers for it. Of a mirror both halves are read, and what only one has is counted.
// Owns       Its window and what it still has to read of some segments.
// Threading  Bound to one shard, in slices between the loop's turns.
// Failure    A read that fails is counted as the damage it is. Nothing else can.
#pragma once

#include "dataplane/base/task.h"
#include "queue/live_records.h"
#include "queue/log.h"

#include <cstdint>
#include <vector>

namespace queue {

class QueueCore;

class Scrub {
public:
    explicit Scrub(QueueCore& core) noexcept : core_(core) {}
    Scrub(const Scrub&) = delete;
    Scrub& operator=(const Scrub&) = delete;

    /// Once it is known what lives.
    void start();
    void stop() noexcept;
    [[nodiscard]] std::uint64_t bytes_read() const noexcept { return bytes_read_; }
    [[nodiscard]] std::uint64_t passes() const noexcept { return passes_; }
    /// Records that only one half of a mirror had whole, in the last pass that ended.
    [[nodiscard]] std::uint64_t single_copies() const noexcept { return single_copies_; }

private:
    struct Segment {
        std::uint32_t slot = 0;
        std::uint64_t seq = 0;
        std::uint32_t live_records = 0;
    };
    base::Task<void> run();
    base::Task<void> pass();
    base::Task<void> read_records();
    base::Task<void> read_window(std::size_t first, std::size_t last);
    base::Task<std::vector<std::size_t>> suspects(unsigned copy, std::size_t first,
                                                  std::size_t last);

    QueueCore& core_;
    BlockMemory window_;
    std::vector<LiveRecord> records_;
    std::uint64_t rate_ = 0; // bytes a second in this pass
    std::uint64_t bytes_read_ = 0;
    std::uint64_t passes_ = 0;
    std::uint64_t single_copies_ = 0;
    std::uint64_t single_copies_so_far_ = 0; // in this pass
    base::Task<void> task_;
};

} // namespace queue
