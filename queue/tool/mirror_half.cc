#include "queue/tool/mirror_half.h"

#include "queue/disk/crc32c.h"
#include "queue/superblock_choice.h"

#include <algorithm>
#include <array>

namespace queue::tool {
namespace {

using State = MirrorStanding::State;

[[nodiscard]] MirrorHalf read_half(const PoolFile& pool) {
    MirrorHalf half{.present = true};
    for (unsigned copy = 0; copy < mirror_record_copies; ++copy) {
        std::array<std::byte, block_bytes> block;
        const bool read = pool.read_file(mirror_record_offset(copy), block);
        take_mirror_record(half, copy,
                           read ? std::span<const std::byte>{block} : std::span<const std::byte>{});
    }
    std::array<std::byte, superblock_copies * block_bytes> blocks;
    const bool read = pool.read_file(0, blocks);
    half.blank =
        read && std::ranges::all_of(blocks, [](std::byte byte) { return byte == std::byte{0}; });
    if (read) half.superblocks = crc32c(0, blocks);
    const SuperblockChoice choice = choose_superblock(blocks);
    for (const SuperblockChoice::Copy& copy : choice.copies) {
        if (copy) half.pool = copy->pool;
    }
    return half;
}

[[nodiscard]] State state_of(const MirrorHalf& half) noexcept {
    if (!half.record) return half.records_lost != 0 ? State::unreadable : State::none;
    switch (half.record->state) {
    case MirrorRecord::State::paired:
        return State::paired;
    case MirrorRecord::State::alone:
        return State::alone;
    case MirrorRecord::State::stale:
        return State::stale;
    }
    return State::unreadable;
}

} // namespace

std::string_view to_string(State state) noexcept {
    switch (state) {
    case State::none:
        return "none";
    case State::paired:
        return "paired";
    case State::alone:
        return "alone";
    case State::stale:
        return "stale";
    case State::unreadable:
        return "unreadable";
    case State::undecided:
        return "undecided";
    }
    return "none";
}

MirrorStanding standing_of(const PoolFile& pool) {
    MirrorStanding standing{.half = read_half(pool), .text = {}};
    standing.state = state_of(standing.half);
    switch (standing.state) {
    case State::none:
    case State::undecided:
        break;
    case State::paired:
        standing.text =
            standing.half.record->clean
                ? "half of a mirror, closed together with the other half; that one counts "
                  "more only if it was started alone since (give it with --mirror)"
                : "half of a mirror; the other half may have gone on without it since, and "
                  "then counts more (give it with --mirror)";
        break;
    case State::alone:
        standing.text = "half of a mirror, and the one that counts: the other half has missed mail";
        break;
    case State::stale:
        standing.text = "half of a mirror, and it has missed mail: use the other half";
        break;
    case State::unreadable:
        standing.text =
            "half of a mirror whose records of it are damaged: whether it has missed mail "
            "is not known (give the other half with --mirror)";
        break;
    }
    return standing;
}

MirrorStanding standing_of(const PoolFile& pool, const PoolFile& other) {
    MirrorStanding standing{.half = read_half(pool), .text = {}};
    const MirrorHalf second = read_half(other);
    const auto plan = settle_mirror({standing.half, second}, {}, false);
    if (!plan) {
        const bool stale = state_of(standing.half) == State::stale;
        standing.state = stale ? State::stale : State::undecided;
        standing.text = (stale ? "it has missed mail, and with " : "with ") + other.path() +
                        " as its other half a relay would not start (spool_dir is the first, "
                        "mirror_dir the second): " +
                        plan.error();
        return standing;
    }
    if (!plan->copy) {
        standing.state = State::paired;
        standing.text =
            "half of a mirror, as is " + other.path() +
            (plan->reconcile ? ": both count, and may differ in what was under way at the last end"
                             : ": both have everything");
    } else if (plan->source == 0) {
        standing.state = State::alone;
        standing.text =
            plan->notice.empty()
                ? "half of a mirror, and the one that counts: " + other.path() + " has missed mail"
                : "half of a mirror: the records of " + other.path() +
                      " are damaged, and both ended together";
    } else {
        standing.state = plan->notice.empty() ? State::stale : State::unreadable;
        standing.text = plan->notice.empty()
                            ? "half of a mirror, and it has missed mail: use " + other.path()
                            : "half of a mirror whose records of it are damaged; it ended together "
                              "with " +
                                  other.path();
    }
    return standing;
}

} // namespace queue::tool
