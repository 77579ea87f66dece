// pool_structures.h: where the structures of a pool's image lie, and how the checksums of one are made to fit
// what somebody has put there. For fuzzers that damage a pool as a disk would that holds nonsense of ours.
#pragma once

#include "queue/codec.h"
#include "queue/disk/crc32c.h"
#include "queue/segment_scan.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace tests {

struct PoolStructure {
    enum class Kind : std::uint8_t { superblock, segment_header, frame, record };
    Kind kind = Kind::superblock;
    std::uint64_t begin = 0;   // in the image
    std::uint32_t copy = 0;    // of a superblock or segment header
    std::uint32_t offset = 0;  // in its segment
    std::uint32_t payload = 0; // bytes
    std::uint64_t seq = 0;

    /// Bytes that mean something.
    [[nodiscard]] std::uint32_t length() const noexcept {
        switch (kind) {
        case Kind::superblock:
            return 160;
        case Kind::segment_header:
            return 128;
        case Kind::frame:
            return queue::frame_header_bytes;
        case Kind::record:
            return queue::record_header_bytes + payload;
        }
        return 0;
    }
};

struct PoolStructures {
    queue::Superblock superblock;
    std::uint32_t seed = 0;
    std::vector<PoolStructure> all; // the superblock's copies first
};

[[nodiscard]] inline std::uint64_t slot_begin(const queue::Superblock& superblock,
                                              std::uint32_t slot) noexcept {
    return slot == 0 ? queue::superblock_area_bytes
                     : std::uint64_t{slot} * superblock.segment_bytes;
}

[[nodiscard]] inline std::uint64_t slot_end(const queue::Superblock& superblock,
                                            std::uint32_t slot) noexcept {
    return (std::uint64_t{slot} + 1) * superblock.segment_bytes;
}

[[nodiscard]] inline PoolStructures structures_of(std::span<const std::byte> image) {
    using Kind = PoolStructure::Kind;
    PoolStructures found;
    for (std::uint32_t copy = 0; copy < queue::superblock_copies; ++copy) {
        const std::uint64_t at = copy * queue::block_bytes;
        auto decoded =
            queue::decode_superblock(image.subspan(at).first<queue::block_bytes>(), copy);
        if (decoded) found.superblock = *decoded;
        found.all.push_back({.begin = at, .copy = copy});
    }
    const queue::Superblock& superblock = found.superblock;
    found.seed = queue::pool_seed(superblock.pool, superblock.shard);
    for (std::uint32_t slot = 0; slot < superblock.segment_count; ++slot) {
        const std::uint64_t begin = slot_begin(superblock, slot);
        const queue::SegmentScan scan =
            queue::scan_segment(image.subspan(begin, slot_end(superblock, slot) - begin),
                                superblock.pool, superblock.shard, slot);
        if (scan.segment_seq == 0) continue;
        for (std::uint32_t copy = 0; copy < queue::segment_header_copies; ++copy)
            found.all.push_back({.kind = Kind::segment_header,
                                 .begin = begin + copy * queue::block_bytes,
                                 .copy = copy});
        for (const queue::FoundFrame& frame : scan.frames)
            found.all.push_back({.kind = Kind::frame,
                                 .begin = begin + frame.header.offset,
                                 .offset = frame.header.offset,
                                 .seq = scan.segment_seq});
        for (const queue::FoundRecord& record : scan.records)
            found.all.push_back({.kind = Kind::record,
                                 .begin = begin + record.offset,
                                 .offset = record.offset,
                                 .payload = record.header.payload_bytes,
                                 .seq = scan.segment_seq});
    }
    return found;
}

template <class Value>
void put_number(std::span<std::byte> bytes, std::size_t at, Value value) {
    std::memcpy(bytes.data() + at, &value, sizeof value);
}

/// Makes the checksums of a structure fit what it holds now.
/// \param seed  the pool's
inline void seal(std::uint32_t seed, std::span<std::byte> image, const PoolStructure& structure) {
    using Kind = PoolStructure::Kind;
    const std::span<std::byte> bytes = image.subspan(structure.begin);
    const queue::RecordSeeds seeds = queue::record_seeds(seed, structure.seq, structure.offset);
    switch (structure.kind) {
    case Kind::superblock:
    case Kind::segment_header:
        put_number(
            bytes, 8,
            queue::crc32c(structure.copy + 1, bytes.first<queue::block_bytes>().subspan(12)));
        break;
    case Kind::frame:
        put_number(bytes, 4,
                   queue::crc32c(seeds.header, bytes.subspan(8, queue::frame_header_bytes - 8)));
        break;
    case Kind::record: {
        std::uint32_t payload = 0;
        std::memcpy(&payload, bytes.data() + 12, sizeof payload);
        payload = static_cast<std::uint32_t>(
            std::min<std::size_t>(payload, bytes.size() - queue::record_header_bytes));
        put_number(
            bytes, 4,
            queue::crc32c(seeds.payload, bytes.subspan(queue::record_header_bytes, payload)));
        put_number(bytes, 0,
                   queue::crc32c(seeds.header, bytes.subspan(4, queue::record_header_bytes - 4)));
        break;
    }
    }
}

} // namespace tests
