#include "queue/side_writer.h"

#include "dataplane/base/check.h"
#include "queue/disk/crc32c.h"
#include "queue/seeded_defect.h"

#include <algorithm>

namespace queue {
std::uint32_t SideWriter::room() const noexcept {
    const std::uint32_t left = log_.segments().bytes_of(segment_.slot) - write_offset_;
    return std::min(left, static_cast<std::uint32_t>(memory_.bytes));
}

base::Task<bool> SideWriter::begin(std::uint32_t payload_bytes, bool last_too) {
    CHECK(payload_bytes <= log_.payload_bytes_max());
    if (memory_.bytes == 0) {
        memory_ = BlockMemory{log_.payload_bytes_max() + frame_header_bytes + record_header_bytes +
                              record_tag_bytes};
    }
    used_ = frame_header_bytes;
    records_ = 0;
    if (open_ && fits(payload_bytes)) co_return true;
    end_segment();
    // A slot may be under preparation for the log, or the records that freed it not be durable yet.
    const base::Deadline deadline = base::Deadline::in(loop_, side_segment_wait);
    auto taken = log_.take_side(last_too);
    while (!taken && !log_.read_only()) {
        log_.urge();
        const base::Wake woken = co_await log_.room_wait().wait(loop_, deadline);
        taken = log_.take_side(last_too);
        if (woken != base::Wake::event) break;
    }
    if (!taken) co_return false;
    segment_ = *taken;
    log_.encode_header(segment_, memory_.span());
    // Durable before the first frame of this generation, so that no frame is ever without a header.
    const std::uint64_t failures_before = log_.failures();
    auto written = co_await disk_.write(log_.segments().begin_of(segment_.slot),
                                        memory_.span().first(segment_header_bytes), Durable::yes);
    log_.side_prepared(segment_, written.has_value(), failures_before);
    if (!written) co_return false;
    open_ = true;
    write_offset_ = segment_header_bytes;
    co_return true;
}

bool SideWriter::fits(std::uint32_t payload_bytes) const noexcept {
    return used_ + log_.new_record_bytes(payload_bytes) <= room();
}

std::span<std::byte> SideWriter::add(RecordType type, MessageId id, std::uint32_t payload_bytes,
                                     std::uint64_t lsn) {
    CHECK(open_);
    CHECK(fits(payload_bytes));
    const bool encrypted = log_.encrypts() && payload_bytes != 0;
    header_ = {.type = static_cast<std::uint16_t>(type),
               .flags = encrypted ? record_encrypted : std::uint16_t{0},
               .payload_bytes = payload_bytes,
               .lsn = lsn,
               .id = id};
    return memory_.span().subspan(used_ + record_header_bytes, payload_bytes);
}

Place SideWriter::seal_record() noexcept {
    const std::uint32_t bytes = record_bytes(header_);
    const std::span<std::byte> record = memory_.span().subspan(used_, bytes);
    const std::span<std::byte> stored = record.subspan(record_header_bytes, header_.stored_bytes());
    const Place place{segment_.slot, write_offset_ + used_};
    if (header_.encrypted()) {
        const std::optional<DataKey>& key = log_.segments().key_of(segment_.slot);
        log_.cipher().seal_record({*key, segment_.seq, place.offset, header_}, stored);
    }
    std::ranges::fill(record.subspan(record_header_bytes + stored.size()), std::byte{0});
    const RecordSeeds seeds = record_seeds(log_.seed(), segment_.seq, place.offset);
    header_.payload_crc = crc32c(seeds.payload, stored);
    encode_record_header(record.first<record_header_bytes>(), header_, seeds);
    used_ += bytes;
    ++records_;
    return place;
}

base::Task<bool> SideWriter::write() {
    CHECK(open_);
    CHECK(records_ > 0);
    const std::uint32_t bytes = whole_blocks(used_);
    const std::span<std::byte> frame = memory_.span().first(bytes);
    std::ranges::fill(frame.subspan(used_), std::byte{0});
    encode_frame_header(frame.first<frame_header_bytes>(),
                        FrameHeader{.shard = log_.superblock().shard,
                                    .segment_seq = segment_.seq,
                                    .epoch = log_.superblock().epoch,
                                    .offset = write_offset_,
                                    .bytes = bytes,
                                    .used = used_,
                                    .records = records_},
                        log_.seed());
    SegmentTable& segments = log_.segments();
    segments.write_begun(segment_.slot);
    const std::uint64_t failures_before = log_.failures();
    auto written =
        co_await disk_.write(segments.begin_of(segment_.slot) + write_offset_, frame,
                             SEEDED_DEFECT(recycle_under_copy) ? Durable::no : Durable::yes);
    segments.write_ended(segment_.slot);
    write_offset_ += bytes;
    bytes_written_ += bytes;
    if (!written) {
        log_.side_failed(segment_.slot, failures_before);
        end_segment();
        co_return false;
    }
    if (log_.segments().bytes_of(segment_.slot) - write_offset_ < block_bytes) end_segment();
    co_return true;
}

void SideWriter::end_segment() noexcept {
    if (!open_) return;
    open_ = false;
    log_.segments().seal(segment_.slot);
}

} // namespace queue
