// segment_scan.h: finds every record in the bytes of one segment, whatever has happened to them.
//
// Scope      Sans-I/O. A frame that is damaged does not hide what lies behind it, and a record that is
//            damaged does not hide its neighbours: where lengths cannot be trusted the scan feels its
//            way forward in steps of the record alignment until a header checks out again.
// Threading  Any.
// Failure    None: what does not check out is left out. That frames or records of theirs are missing
//            shows in their numbers, and what it means is recovery.h's business.
#pragma once

#include "queue/codec.h"

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace queue {

struct FoundRecord {
    RecordHeader header;
    std::uint32_t offset = 0;           // of the header, in the segment
    std::span<const std::byte> payload; // as stored: with its tag when it is encrypted
};

struct FoundFrame {
    FrameHeader header;
    std::uint32_t records_valid = 0;
};

/// A place inside a frame where there is no record header.
struct FoundGap {
    std::uint64_t batch_seq = 0; // of the frame
    std::uint32_t epoch = 0;
    std::uint32_t offset = 0;
    std::uint32_t bytes = 0;
};

struct SegmentScan {
    std::uint64_t segment_seq = 0; // 0: nothing was ever written here that can be recognised
    std::vector<FoundRecord> records;
    std::vector<FoundFrame> frames;
    // For who looks at damage; recovery counts it by the frames.
    std::vector<FoundRecord> damaged; // the header checks out, the payload does not
    std::vector<FoundGap> gaps;
    std::vector<std::uint32_t> frameless; // offsets of records whose frame does not check out
};

/// \param segment  the whole segment; the spans in the result point into it
/// \param pool     its identity; a header of another pool is no header
[[nodiscard]] SegmentScan scan_segment(std::span<const std::byte> segment, const PoolId& pool,
                                       std::uint32_t shard, std::uint32_t slot);

/// Puts into one copy of a segment what checks out in the other only, of the newer generation of the two.
/// \return  how many records that were
std::size_t mend_segment(std::span<std::byte> segment, std::span<const std::byte> other,
                         const PoolId& pool, std::uint32_t shard, std::uint32_t slot);

} // namespace queue
