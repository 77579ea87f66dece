#include "queue/segment_scan.h"
#include "queue/seeded_defect.h"

#include <algorithm>
#include <cstring>

namespace queue {
namespace {

class Scanner {
public:
    Scanner(std::span<const std::byte> segment, std::uint32_t seed, std::uint32_t shard,
            SegmentScan& scan) noexcept
        : segment_(segment), seed_(seed), shard_(shard), scan_(scan) {}

    void run() {
        std::uint32_t at = segment_header_bytes;
        std::uint32_t until = 0;
        while (at < size()) {
            if (at % block == 0) { // frames begin on blocks
                if (const auto frame = frame_at(at)) {
                    if (SEEDED_DEFECT(truncate_tail) && frame->durable + 1 < frame->batch_seq)
                        return;
                    read_frame(*frame);
                    at += frame->bytes;
                    continue;
                }
                if (blank(at)) {
                    at += block;
                    continue;
                }
            }
            if (SEEDED_DEFECT(stop_at_first_hole)) return;
            // Whatever a record without a frame says of its length, it ends where a frame begins.
            if (at >= until) until = next_frame(at);
            const std::uint32_t next = record_at(at, until, nullptr);
            at = next != 0 ? next : at + record_alignment;
        }
    }

private:
    static constexpr auto block = static_cast<std::uint32_t>(block_bytes);

    [[nodiscard]] std::uint32_t size() const noexcept {
        return static_cast<std::uint32_t>(segment_.size());
    }

    [[nodiscard]] std::optional<FrameHeader> frame_at(std::uint32_t at) const noexcept {
        auto frame = decode_frame_header(segment_.subspan(at), seed_, at);
        if (!frame || frame->segment_seq != scan_.segment_seq || frame->shard != shard_ ||
            frame->bytes == 0) {
            return std::nullopt;
        }
        return *frame;
    }

    /// The end, when there is none.
    [[nodiscard]] std::uint32_t next_frame(std::uint32_t behind) const noexcept {
        std::uint32_t at = (behind / block + 1) * block;
        while (at < size() && !frame_at(at))
            at += block;
        return at;
    }

    [[nodiscard]] bool blank(std::uint32_t at) const noexcept {
        const auto bytes = segment_.subspan(at, block);
        return bytes[0] == std::byte{0} &&
               std::memcmp(bytes.data(), bytes.data() + 1, block - 1) == 0;
    }

    void read_frame(const FrameHeader& header) {
        FoundFrame frame{header, 0};
        const std::size_t records_before = scan_.records.size();
        std::uint32_t at = header.offset + frame_header_bytes;
        const std::uint32_t end = header.offset + header.used;
        while (at < end) {
            const std::uint32_t next = record_at(at, end, &frame);
            if (next == 0) note_gap(header, at);
            at = next != 0 ? next : at + record_alignment;
        }
        if (SEEDED_DEFECT(drop_damaged_batch) && frame.records_valid < header.records)
            scan_.records.resize(records_before);
        scan_.frames.push_back(frame);
    }

    void note_gap(const FrameHeader& frame, std::uint32_t at) {
        if (!scan_.gaps.empty()) {
            FoundGap& last = scan_.gaps.back();
            if (last.offset + last.bytes == at) {
                last.bytes += record_alignment;
                return;
            }
        }
        scan_.gaps.push_back({frame.batch_seq, frame.epoch, at, record_alignment});
    }

    /// Takes the record at `at`. Returns where it ends, or 0 when there is no valid header.
    std::uint32_t record_at(std::uint32_t at, std::uint32_t end, FoundFrame* frame) {
        if (at > end || end - at < record_header_bytes) return 0;
        const RecordSeeds seeds = record_seeds(seed_, scan_.segment_seq, at);
        auto header =
            decode_record_header(segment_.subspan(at, record_header_bytes), end - at, seeds);
        if (!header) return 0;
        const auto payload = segment_.subspan(at + record_header_bytes, header->stored_bytes());
        if (payload_valid(*header, payload, seeds)) {
            scan_.records.push_back({*header, at, payload});
            if (frame != nullptr) ++frame->records_valid;
        } else {
            scan_.damaged.push_back({*header, at, payload});
        }
        if (frame == nullptr) scan_.frameless.push_back(at);
        return at + record_bytes(*header);
    }

    std::span<const std::byte> segment_;
    std::uint32_t seed_;
    std::uint32_t shard_;
    SegmentScan& scan_;
};

/// Without a header the frames themselves say which generation is the last.
[[nodiscard]] std::uint64_t newest_frame_seq(std::span<const std::byte> segment, std::uint32_t seed,
                                             std::uint32_t shard) noexcept {
    std::uint64_t newest = 0;
    for (std::size_t at = segment_header_bytes; at < segment.size(); at += block_bytes) {
        auto frame = decode_frame_header(segment.subspan(at), seed, static_cast<std::uint32_t>(at));
        if (frame && frame->shard == shard) newest = std::max(newest, frame->segment_seq);
    }
    return newest;
}

/// The generation that a copy of the header names; 0: it is no header of this slot.
[[nodiscard]] std::uint64_t header_seq_of(std::span<const std::byte> segment, std::uint32_t copy,
                                          const PoolId& pool, std::uint32_t shard,
                                          std::uint32_t slot) noexcept {
    auto header =
        decode_segment_header(segment.subspan(copy * block_bytes).first<block_bytes>(), copy);
    const bool ours =
        header && header->pool == pool && header->shard == shard && header->slot == slot;
    return ours ? header->segment_seq : 0;
}

[[nodiscard]] std::uint64_t header_seq(std::span<const std::byte> segment, const PoolId& pool,
                                       std::uint32_t shard, std::uint32_t slot) noexcept {
    std::uint64_t newest = 0;
    for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy)
        newest = std::max(newest, header_seq_of(segment, copy, pool, shard, slot));
    return newest;
}

/// Of one generation.
[[nodiscard]] SegmentScan scan_as(std::span<const std::byte> segment, std::uint64_t seq,
                                  std::uint32_t seed, std::uint32_t shard) {
    SegmentScan scan;
    scan.segment_seq = seq;
    Scanner{segment, seed, shard, scan}.run();
    return scan;
}

} // namespace

SegmentScan scan_segment(std::span<const std::byte> segment, const PoolId& pool,
                         std::uint32_t shard, std::uint32_t slot) {
    if (segment.size() < segment_header_bytes || segment.size() % block_bytes != 0) return {};
    const std::uint32_t seed = pool_seed(pool, shard);
    std::uint64_t seq = header_seq(segment, pool, shard, slot);
    if (seq == 0) seq = newest_frame_seq(segment, seed, shard);
    if (seq == 0) return {};
    return scan_as(segment, seq, seed, shard);
}

std::size_t mend_segment(std::span<std::byte> segment, std::span<const std::byte> other,
                         const PoolId& pool, std::uint32_t shard, std::uint32_t slot) {
    const std::uint32_t seed = pool_seed(pool, shard);
    // Of two generations the newer counts: a slot is used again when nothing in it is wanted any more, and the
    // copy that has the older one has missed that. Headers before frames: they name their slot, frames do not.
    std::uint64_t seq =
        std::max(header_seq(segment, pool, shard, slot), header_seq(other, pool, shard, slot));
    if (SEEDED_DEFECT(mirror_first_generation)) seq = header_seq(segment, pool, shard, slot);
    if (seq == 0) {
        seq =
            std::max(newest_frame_seq(segment, seed, shard), newest_frame_seq(other, seed, shard));
    }
    if (seq == 0) return 0;
    const SegmentScan good = scan_as(other, seq, seed, shard);
    const SegmentScan scan = scan_as(segment, seq, seed, shard);
    for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
        const std::size_t at = copy * block_bytes;
        const bool had = header_seq_of(segment, copy, pool, shard, slot) == seq;
        if (!had && header_seq_of(other, copy, pool, shard, slot) == seq)
            std::ranges::copy(other.subspan(at, block_bytes), segment.subspan(at).begin());
    }
    const auto take = [&](std::uint32_t offset, std::size_t bytes) {
        std::ranges::copy(other.subspan(offset, bytes), segment.begin() + offset);
    };
    const auto offset_of = [](const FoundFrame& frame) { return frame.header.offset; };
    for (const FoundFrame& frame : good.frames) { // both lists are in the order of the segment
        if (!std::ranges::binary_search(scan.frames, frame.header.offset, {}, offset_of))
            take(frame.header.offset, frame_header_bytes);
    }
    std::size_t mended = 0;
    for (const FoundRecord& record : good.records) {
        if (std::ranges::binary_search(scan.records, record.offset, {}, &FoundRecord::offset))
            continue;
        take(record.offset, record_header_bytes + record.payload.size());
        ++mended;
    }
    return mended;
}

} // namespace queue
