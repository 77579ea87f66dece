// mirror_record.h: what each half of a mirrored pool knows about the other.
//
// Scope      One block's content, and which half counts when two are found (settle). Where the blocks lie: in
//            the superblocks' area behind the superblocks, docs/spool-format.md. No I/O.
// Threading  Any.
// Failure    decode: nothing when a block is not a record. settle: a sentence with the remedy.
#pragma once

#include "queue/disk/pool_layout.h"

#include <array>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace queue {

struct MirrorRecord {
    enum class State : std::uint8_t {
        paired = 1, // both halves had all that was acknowledged
        alone = 2,  // this one has; the other has missed something
        stale = 3,  // this one has missed something
    };
    PoolId pair{};                // of both halves, made when they were joined
    std::uint64_t generation = 0; // raised with each change of state: the newest knows best
    State state = State::paired;
    bool clean = false; // paired, and nothing was under way at the end
};

// Each record is written to both, one after the other: a torn write leaves the one before it, and a block that rots
// later takes nothing that had been decided with it.
inline constexpr std::size_t mirror_record_copies = 2;
inline constexpr std::uint64_t mirror_record_begin = 12 * block_bytes; // slot 0 begins at 16
static_assert(mirror_record_begin >= superblock_copies * block_bytes);
static_assert(mirror_record_begin + mirror_record_copies * block_bytes <= superblock_area_bytes);

/// The setting that names this half's folder.
[[nodiscard]] std::string_view side_name(unsigned side) noexcept;

void encode_mirror_record(std::span<std::byte, block_bytes> block,
                          const MirrorRecord& record) noexcept;
[[nodiscard]] std::optional<MirrorRecord>
decode_mirror_record(std::span<const std::byte, block_bytes> block) noexcept;

[[nodiscard]] constexpr std::uint64_t mirror_record_offset(unsigned copy) noexcept {
    return mirror_record_begin + copy * block_bytes;
}
/// The blocks in the order in which a record is written to them: the newest of those before it goes last, and only
/// when the other block has taken the record, or two power cuts could take both.
[[nodiscard]] constexpr std::array<unsigned, mirror_record_copies>
mirror_record_order(unsigned newest) noexcept {
    return {1 - newest, newest};
}

/// One half as it was found.
struct MirrorHalf {
    bool present = false;                     // its device and file are there
    bool created = false;                     // ... made just now: there is no mail in it
    std::optional<MirrorRecord> record;       // the newest
    unsigned newest = 0;                      // which of its blocks holds that
    unsigned records_lost = 0;                // blocks of records that hold neither one nor zeros
    bool blank = false;                       // no superblock was ever written
    std::optional<PoolId> pool;               // which spool it is, by its superblock
    std::optional<std::uint32_t> superblocks; // a checksum of all copies, if all can be read
};

/// One of its blocks of records. \param block  empty: it cannot be read
void take_mirror_record(MirrorHalf& half, unsigned copy, std::span<const std::byte> block) noexcept;

struct MirrorPlan {
    unsigned source = 0;    // the half that counts
    bool usable = true;     // the other is there
    bool copy = false;      // ... and must be given everything
    bool reconcile = false; // ... has everything that was acknowledged, but the end was not clean
    MirrorRecord record;    // what the source says from now on
    std::string notice;     // what an operator must hear of it
};

/// \param told  the operator has said that one half may stand alone, although it may be the older one
[[nodiscard]] std::expected<MirrorPlan, std::string>
settle_mirror(const std::array<MirrorHalf, 2>& halves, const PoolId& fresh_pair, bool told);

/// For a pool that is opened without a mirror: what it must say from now on, so that its old other half is
/// known to be older; nothing when it never was half of one.
[[nodiscard]] std::expected<std::optional<MirrorRecord>, std::string>
settle_alone(const std::optional<MirrorRecord>& record, bool told);

} // namespace queue
