#include "queue/epoch.h"

#include "queue/seeded_defect.h"

#include <algorithm>
#include <iterator>

namespace queue {

EpochJudgement judge(Epoch& epoch) {
    EpochJudgement judgement;
    std::ranges::sort(epoch.frames, {},
                      [](const FoundFrame& frame) { return frame.header.batch_seq; });
    const auto count_missing = [&](std::uint64_t from, std::uint64_t to) { // batches in [from, to)
        if (from >= to) return std::uint64_t{0};
        const auto failed =
            std::distance(epoch.failed.lower_bound(from), epoch.failed.lower_bound(to));
        return to - from - static_cast<std::uint64_t>(failed);
    };
    std::uint64_t expected = epoch.frames.empty() ? 1 : epoch.frames.front().header.batch_seq;
    for (const FoundFrame& frame : epoch.frames) {
        const std::uint64_t seq = frame.header.batch_seq;
        const std::uint64_t acknowledged = std::min(seq, std::max(expected, epoch.durable + 1));
        judgement.damaged += count_missing(expected, acknowledged);
        judgement.torn += count_missing(acknowledged, seq);
        if (frame.header.records > frame.records_valid && !epoch.failed.contains(seq)) {
            if (seq <= epoch.durable) {
                judgement.damaged += frame.header.records - frame.records_valid;
            } else {
                ++judgement.torn;
            }
        }
        expected = std::max(expected, seq + 1);
    }
    judgement.damaged += count_missing(expected, epoch.durable + 1);
    if (SEEDED_DEFECT(tell_nothing)) judgement = {};
    return judgement;
}

} // namespace queue
