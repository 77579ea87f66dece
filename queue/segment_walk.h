// segment_walk.h: which records of some segments still live, found by reading the segments.
//
// Scope      Goes from frame to frame and from header to header and asks the index about each record, so that
//            the price is the segments', however many millions are queued elsewhere. What a damaged frame
//            hides is looked for in the index (live_records.h).
// Owns       The window it reads through, while it does.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/task.h"
#include "queue/live_records.h"

#include <cstdint>
#include <vector>

namespace queue {

class QueueCore;

/// Those in the sealed segments of these slots, in no order.
[[nodiscard]] base::Task<std::vector<LiveRecord>>
read_live_records(QueueCore& core, std::vector<std::uint32_t> slots);

} // namespace queue
