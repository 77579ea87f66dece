#include "queue/quarantine.h"

namespace queue {

bool Quarantine::take(MessageId id, Place place, std::uint32_t payload_bytes,
                      std::string_view found_by) {
    const std::uint64_t seq = log_.segments().seq_of(place.slot);
    if (known_.size() >= known_max) known_.clear(); // told once more is better than not
    if (!known_.insert({seq, place.offset}).second) return false;
    if (!sink_ || waiting_.size() >= waiting_max) return true;
    waiting_.push_back({.pool = log_.superblock().pool,
                        .shard = log_.superblock().shard,
                        .slot = place.slot,
                        .segment_seq = seq,
                        .offset = place.offset,
                        .payload_bytes = payload_bytes,
                        .id = id,
                        .found_by = found_by});
    if (busy_) return true;
    busy_ = true;
    task_ = run();
    task_.start();
    return true;
}

base::Task<void> Quarantine::run() {
    while (!waiting_.empty()) {
        DamagedRecord record = std::move(waiting_.front());
        waiting_.pop_front();
        co_await read(&record);
        // Its message may have ended meanwhile, and its slot hold something else.
        if (log_.segments().seq_of(record.slot) == record.segment_seq) sink_(std::move(record));
    }
    busy_ = false;
}

base::Task<void> Quarantine::read(DamagedRecord* record) {
    const SegmentTable& segments = log_.segments();
    const std::uint64_t begin = segments.begin_of(record->slot);
    const std::uint32_t from = record->offset / block_bytes * block_bytes;
    record->offset_in_bytes = record->offset - from;
    const std::uint32_t wanted =
        record->offset_in_bytes + segments.record_bytes_in(record->slot, record->payload_bytes);
    const std::uint32_t bytes =
        std::min<std::uint32_t>((wanted + block_bytes - 1) / block_bytes * block_bytes,
                                segments.bytes_of(record->slot) - from);
    co_await read_blocks(begin, segment_header_bytes, &record->header);
    co_await read_blocks(begin + from, bytes, &record->bytes);
}

/// One bad block must not cost the others.
base::Task<void> Quarantine::read_blocks(std::uint64_t offset, std::uint32_t bytes,
                                         std::vector<std::byte>* to) {
    const BlockMemory memory{block_bytes};
    for (std::uint32_t at = 0; at < bytes; at += block_bytes) {
        auto read = co_await disk_.read(offset + at, memory.span());
        if (read) {
            to->insert(to->end(), memory.span().begin(), memory.span().end());
        } else {
            to->resize(to->size() + block_bytes);
        }
    }
}

} // namespace queue
