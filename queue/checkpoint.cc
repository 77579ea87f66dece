#include "queue/checkpoint.h"

#include "dataplane/base/check.h"
#include "queue/checkpoint_encoder.h"
#include "queue/core.h"
#include "queue/seeded_defect.h"

#include <algorithm>
#include <cstring>

namespace queue {

void Checkpoint::adopt(const CheckpointPointer& pointer, const CheckpointEnd& end,
                       std::uint64_t log_bytes) {
    SegmentTable& segments = core_.log().segments();
    current_ = end.parts;
    current_.push_back({pointer.segment_seq, pointer.slot, pointer.offset, pointer.payload_bytes});
    std::erase_if(current_, [&](const CheckpointPart& part) { // in a segment that is lost
        return segments.slot_of(part.segment_seq) != part.slot;
    });
    for (const CheckpointPart& part : current_)
        segments.add_live(part.slot, segments.record_bytes_in(part.slot, part.payload_bytes));
    log_bytes_before_ = 0 - log_bytes; // what recovery had to read counts as written since
}

void Checkpoint::drop(std::vector<CheckpointPart>& parts) noexcept {
    for (const CheckpointPart& part : parts)
        core_.drop_record({part.slot, part.offset}, part.payload_bytes);
    parts.clear();
}

std::uint32_t Checkpoint::records_in(std::uint32_t slot) const noexcept {
    return static_cast<std::uint32_t>(std::ranges::count(current_, slot, &CheckpointPart::slot));
}

std::uint64_t Checkpoint::size() const noexcept {
    std::uint64_t bytes = 0;
    for (const CheckpointPart& part : current_)
        bytes += part.payload_bytes;
    return bytes;
}

/// Segments that only wait for one are worth its price.
bool Checkpoint::frees_segments() const noexcept {
    const SegmentTable& segments = core_.log().segments();
    const std::uint64_t waiting = std::uint64_t{segments.uncovered_dead()} * segments.bytes_min();
    return waiting > 0 && waiting >= size() * 2;
}

void Checkpoint::consider() {
    Log& log = core_.log();
    if (busy_ || core_.closing() || log.segments().frozen() || log.read_only() || core_.side_busy())
        return;
    if (core_.loop().now() < not_before_) return;
    const SegmentTable& segments = log.segments();
    const std::uint64_t pool_bytes = std::uint64_t{segments.count()} * segments.bytes_min();
    const std::uint64_t wanted = std::min(core_.options().checkpoint_bytes, pool_bytes / 8);
    const std::uint64_t grown = log.counters().batch_bytes - log_bytes_before_;
    const bool due = grown >= std::max(wanted, size() * checkpoint_log_factor);
    const bool short_of_space =
        log.free_segments() <= log.accept_reserve() + segments.count() / 4 && frees_segments();
    if (!due && !short_of_space && !log.starving()) return;
    task_ = run();
    task_.start();
}

base::Task<void> Checkpoint::run() {
    busy_ = true;
    const bool written = co_await write_all();
    if (!written) drop(writing_);
    // One that failed for want of space may succeed soon.
    if (!written) not_before_ = core_.loop().now() + std::chrono::milliseconds{100};
    busy_ = false;
    core_.loop().at_turn_end(core_);
}

base::Task<bool> Checkpoint::write_last(base::Deadline deadline) {
    Log& log = core_.log();
    bool written = false;
    for (;;) {
        if (log.read_only() || log.segments().frozen()) co_return true;
        if (!core_.side_busy()) {
            const bool current =
                !current_.empty() && log.counters().batch_bytes == log_bytes_before_;
            if (written || current) co_return true;
            written = true;
            task_ = run();
            task_.start();
            continue;
        }
        if (core_.loop().now() >= deadline.at) co_return false;
        const auto next = std::min(deadline.at, core_.loop().now() + std::chrono::milliseconds{1});
        const base::Wake woken =
            co_await base::sleep_until(core_.loop(), {.at = next, .cancel = deadline.cancel});
        if (woken == base::Wake::cancelled) co_return false;
    }
}

base::Task<bool> Checkpoint::write_all() {
    Log& log = core_.log();
    const bool apart = log.segments().count() >= side_segments_apart_min;
    if (apart) writer_.end_segment();
    CheckpointEnd end;
    // Whatever is not in the index at this moment has its record from here on.
    end.from = log.position();
    if (writer_.open() && writer_.segment().seq < end.from.segment_seq)
        end.also.push_back(writer_.segment().seq);
    const std::uint64_t log_bytes = log.counters().batch_bytes;
    const bool parts = co_await write_parts(end);
    if (!parts) co_return false;
    if (SEEDED_DEFECT(checkpoint_position_late)) end.from = log.position();
    for (std::uint32_t slot = 0; slot < log.segments().count(); ++slot) {
        if (log.free_for_good(slot)) end.free.push_back(slot);
    }
    end.parts = writing_;
    const std::vector<std::byte> payload = encode_checkpoint_end(end);
    if (payload.size() > log.payload_bytes_max()) co_return false;
    CheckpointPart place;
    const bool ended = co_await write_record(RecordType::checkpoint_end, payload, place);
    if (!ended) co_return false;
    writing_.push_back(place);
    if (apart) writer_.end_segment();
    // Completion records that the parts reflect may not be durable yet; what they freed is not
    // overwritten before they are. The superblock has one writer at a time.
    while (log.busy_with_superblock() && !log.read_only())
        static_cast<void>(co_await base::sleep_for(core_.loop(), std::chrono::milliseconds{1}));
    if (log.read_only()) co_return false;
    const bool adopted = co_await log.adopt_checkpoint(
        {.segment_seq = place.segment_seq,
         .slot = place.slot,
         .offset = place.offset,
         .payload_bytes = place.payload_bytes,
         .covered = SEEDED_DEFECT(checkpoint_covers_all) ? UINT64_MAX : end.from.segment_seq});
    if (!adopted) {
        writing_.clear(); // which of the two counts is not certain: both stay
        co_return false;
    }
    drop(current_);
    current_ = std::exchange(writing_, {});
    log_bytes_before_ = log_bytes;
    ++count_;
    co_return true;
}

base::Task<bool> Checkpoint::write_parts(CheckpointEnd& end) {
    CheckpointEncoder encoder;
    const MessageIndex& index = core_.index();
    for (EntryRef ref = 0; ref < index.slot_count();) {
        const EntryRef limit = std::min<EntryRef>(
            index.slot_count(), ref + static_cast<EntryRef>(index_slots_per_turn_max));
        for (; ref < limit && encoder.count() < checkpoint_entries_per_part &&
               encoder.bytes() < checkpoint_part_bytes_max;
             ++ref) {
            if (index[ref].id.value != 0) encoder.add(index, core_.log().segments(), index[ref]);
        }
        if (encoder.count() > 0) {
            end.entries += encoder.count();
            const std::vector<std::byte> payload = encoder.finish();
            if (payload.size() > core_.log().payload_bytes_max()) co_return false;
            CheckpointPart part;
            const bool written = co_await write_record(RecordType::checkpoint_part, payload, part);
            if (!written) co_return false;
            writing_.push_back(part);
        }
        static_cast<void>(co_await base::sleep_for(core_.loop(), std::chrono::milliseconds{0}));
    }
    co_return true;
}

base::Task<bool> Checkpoint::write_record(RecordType type, std::span<const std::byte> payload,
                                          CheckpointPart& part) {
    const auto bytes = static_cast<std::uint32_t>(payload.size());
    const bool begun = co_await writer_.begin(bytes, true);
    if (!begun) co_return false;
    const std::span<std::byte> to = writer_.add(type, MessageId{}, bytes, core_.log().take_lsn());
    std::memcpy(to.data(), payload.data(), payload.size());
    const Place place = writer_.seal_record();
    part = {writer_.segment().seq, place.slot, place.offset, bytes};
    core_.log().segments().add_live(place.slot, core_.log().new_record_bytes(bytes));
    const bool written = co_await writer_.write();
    bytes_written_ += core_.log().new_record_bytes(bytes);
    if (!written) core_.drop_record(place, bytes);
    co_return written;
}

} // namespace queue
