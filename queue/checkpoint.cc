#include "queue/checkpoint.h"

#include "dataplane/base/check.h"
#include "queue/checkpoint_encoder.h"
#include "queue/core.h"
#include "queue/seeded_defect.h"

#include <algorithm>
#include <cstring>

namespace queue {
namespace {

constexpr std::chrono::milliseconds retry_after{100};

} // namespace

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

void Checkpoint::expect(const CheckpointEnd& end) noexcept {
    expected_ = end.entries;
    std::uint64_t bytes = 0;
    for (const CheckpointPart& part : end.parts)
        bytes += part.payload_bytes;
    if (expected_ > 0) learn_size(bytes, expected_);
    core_.log().keep_for_checkpoint(segments_needed());
}

/// Parts are padded, and the next messages may have longer names.
void Checkpoint::learn_size(std::uint64_t bytes, std::uint64_t entries) noexcept {
    const std::uint64_t each = bytes / entries + 1;
    entry_bytes_ = each + each / 16;
}

/// For the next one, or the rest of the one that is being written; and for the one after that, as far as what comes
/// back of the last one is too small for it. A part does not span segments.
std::uint32_t Checkpoint::segments_needed() const noexcept {
    std::uint64_t entries = core_.index().size();
    if (!core_.recovery().complete) entries = std::max(entries, expected_);
    const std::uint64_t whole = entries * entry_bytes_ + checkpoint_end_bytes;
    const auto above = [whole](std::uint64_t there) { return whole - std::min(whole, there); };
    const std::uint64_t last = core_.recovery().complete ? size() : whole;
    const std::uint64_t bytes = above(writing_bytes_) + above(last);
    constexpr std::uint64_t part_in_segment = checkpoint_part_bytes_max + 2 * block_bytes;
    static_assert(segment_bytes_min - superblock_area_bytes > part_in_segment);
    const std::uint64_t usable =
        core_.log().segments().bytes_min() / part_in_segment * checkpoint_part_bytes_max;
    return static_cast<std::uint32_t>((bytes + usable - 1) / usable);
}

void Checkpoint::consider() {
    Log& log = core_.log();
    log.keep_for_checkpoint(segments_needed());
    if (busy_ || log.segments().frozen() || log.read_only() || core_.side_busy()) return;
    if (core_.closing() && !log.starving()) return; // write_last() will
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
    writing_bytes_ = 0;
    if (!written) {
        if (core_.log().free_segments() == 0) core_.log().checkpoint_failed();
        drop(writing_);
        // One that failed for want of space may succeed soon.
        not_before_ = core_.loop().now() + retry_after;
    }
    busy_ = false;
    core_.loop().at_turn_end(core_);
    if (written) co_return;
    static_cast<void>(co_await base::sleep_for(core_.loop(), retry_after));
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
    // When space is short, so that the segment of the one before comes back for sure.
    const bool apart = log.segments().count() >= side_segments_apart_min ||
                       log.free_segments() <= log.accept_reserve();
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
            writing_bytes_ += payload.size();
            learn_size(writing_bytes_, end.entries);
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
