// live_records.h: which records of some segments the index still needs, and where.
//
// Scope      One walk over the index in slices between the loop's turns; for the collector, which copies them,
//            and the scrub, which reads them. Whether what was read is such a record.
// Owns       Nothing. What was found may die, or be moved, at any turn: alive().
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/task.h"
#include "queue/entry.h"
#include "queue/index.h"
#include "queue/log.h"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace queue {

struct LiveRecord {
    static constexpr std::size_t whole_message = std::numeric_limits<std::size_t>::max();
    MessageId id;
    EntryRef entry;
    Place place;
    std::uint32_t payload_bytes;
    std::size_t chunk; // its index, or whole_message for the MSG or MSG_COMMIT record
};

/// Those in the segments of these slots, in no order.
[[nodiscard]] base::Task<std::vector<LiveRecord>>
find_live_records(base::Loop& loop, const MessageIndex& index, std::vector<std::uint32_t> slots);

/// Where the index has the record now.
[[nodiscard]] Place& place_of(MessageIndex& index, const LiveRecord& record) noexcept;
[[nodiscard]] bool alive(MessageIndex& index, const LiveRecord& record) noexcept;
/// Behind its last byte, in its segment.
[[nodiscard]] std::uint32_t end_of(const Log& log, const LiveRecord& record) noexcept;
/// \param bytes  from the record's first to its last
[[nodiscard]] bool checks_out(const Log& log, const LiveRecord& record,
                              std::span<const std::byte> bytes) noexcept;
/// Reads the record from a further copy of the disk into `bytes`. False when it checks out in none.
[[nodiscard]] base::Task<bool> read_other_copy(const Log& log, Disk& disk, LiveRecord record,
                                               std::span<std::byte> bytes);

} // namespace queue
