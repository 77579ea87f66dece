// epoch.h: the batches of one boot as they are found, and what is missing among them.
//
// Scope      Sans-I/O. Below the watermark everything had been acknowledged, so what is missing there has
//            rotted. Above it a crash may have cut writes short that nobody was told of.
// Threading  Any.
#pragma once

#include "queue/segment_scan.h"

#include <cstdint>
#include <set>
#include <vector>

namespace queue {

struct Epoch {
    std::uint64_t durable = 0; // the watermark: batches up to this one were acknowledged
    std::vector<FoundFrame> frames;
    std::set<std::uint64_t> failed; // batches that were refused, and written again elsewhere
};

struct EpochJudgement {
    std::uint64_t damaged = 0; // batches and records that had been acknowledged
    std::uint64_t torn = 0;    // batches that nobody was told of
};

/// Sorts the frames.
[[nodiscard]] EpochJudgement judge(Epoch& epoch);

} // namespace queue
