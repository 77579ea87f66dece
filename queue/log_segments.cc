// log_segments.cc: where the log's segments come from and go to, and the superblock that says so.
#include "queue/log.h"

#include "dataplane/base/check.h"
#include "queue/seeded_defect.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace queue {

void Log::prepare(bool ahead) {
    if (preparing_ || retiring_ || !bad_taken_.empty() || next_.valid()) return;
    if (!started_ || read_only_ || closed_) return;
    if (ahead && current_.valid() && segments_.free_count() <= restart_reserve()) return;
    // A segment is overwritten only once the completion records that freed it are durable: until then
    // a crash brings its messages back, and they must be whole, with all that is known of them. With
    // nowhere left to write them to, it is overwritten before.
    std::uint64_t durable = durable_mark();
    const bool stranded = !current_.valid() && in_flight_ == 0 && !failures_unreported_.empty();
    if (stranded && !segments_.may_take(durable)) {
        // Not the last ones: with none left for a checkpoint the next start could write nothing either.
        if (segments_.free_count() <= checkpoint_reserve_) {
            if (segments_.free_count() == 0) return;
            end_writing();
            return wake();
        }
        durable = std::numeric_limits<std::uint64_t>::max();
    } else if (starving()) {
        return;
    }
    const auto slot = segments_.take(durable);
    if (!slot) return;
    preparing_ = true;
    preparing_since_ = loop_.now();
    preparing_seq_ = next_segment_seq_++;
    prepare_task_ = prepare_segment(*slot, preparing_seq_);
    prepare_task_.start();
}

void Log::encode_header(SideSegment segment, std::span<std::byte> blocks) {
    SegmentHeader header{.pool = superblock_.pool,
                         .shard = superblock_.shard,
                         .slot = segment.slot,
                         .segment_seq = segment.seq,
                         .epoch = superblock_.epoch};
    preparing_key_.reset();
    if (encrypts_) {
        preparing_key_ = keys_->fresh_key();
        header.key = keys_->wrap(*preparing_key_, header.pool, header.shard, header.segment_seq);
    }
    for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy)
        encode_segment_header(blocks.subspan(copy * block_bytes).first<block_bytes>(), header,
                              copy);
}

base::Task<void> Log::prepare_segment(std::uint32_t slot, std::uint64_t seq) {
    encode_header({slot, seq}, header_blocks_.span());
    // Durable before the first frame of this generation, so that no frame is ever without a header.
    const Durable durable = SEEDED_DEFECT(skip_header_barrier) ? Durable::no : Durable::yes;
    const std::uint64_t failures_before = failures();
    auto result = co_await disk_.write(segments_.begin_of(slot), header_blocks_.span(), durable);
    preparing_ = false;
    preparing_seq_ = 0;
    if (result) {
        segments_.prepared(slot, seq, preparing_key_);
        next_ = {slot, segment_header_bytes};
    } else {
        // What the slot held before may still be there, with its completion records soon overwritten
        // elsewhere: nothing may be reused before this slot is written down as bad.
        bad_taken_.push_back(slot);
        count_failure(failures_before);
    }
    wake();
}

bool Log::starving() const noexcept {
    return !checkpoint_tried_ && !next_.valid() && !preparing_ &&
           segments_.free_count() <= restart_reserve() && segments_.uncovered_sealed();
}

std::optional<Log::SideSegment> Log::take_side(bool last_too) {
    if (preparing_ || retiring_ || !bad_taken_.empty()) return std::nullopt;
    if (!started_ || read_only_ || closed_) return std::nullopt;
    // The log leaves this many, the collector one less, and a checkpoint takes even those.
    if (!last_too && segments_.free_count() < restart_reserve()) return std::nullopt;
    const auto slot = segments_.take(durable_mark());
    if (!slot) return std::nullopt;
    preparing_ = true;
    preparing_since_ = loop_.now();
    preparing_seq_ = next_segment_seq_++;
    return SideSegment{*slot, preparing_seq_};
}

void Log::side_prepared(SideSegment side, bool written, std::uint64_t failures_before) {
    preparing_ = false;
    preparing_seq_ = 0;
    if (written) {
        segments_.prepared(side.slot, side.seq, preparing_key_);
        segments_.opened(side.slot, next_lsn_);
        segments_.set_beside(side.slot);
    } else {
        bad_taken_.push_back(side.slot);
        count_failure(failures_before);
    }
    wake();
}

void Log::side_failed(std::uint32_t slot, std::uint64_t failures_before) {
    segments_.mark_bad(slot);
    count_failure(failures_before);
    wake();
}

/// Of the segment that the log opens next. One beside the log may have a higher number and be open already.
std::uint64_t Log::next_log_seq() const noexcept {
    if (next_.valid()) return segments_.seq_of(next_.slot);
    return preparing_seq_ != 0 ? preparing_seq_ : next_segment_seq_;
}

Log::Position Log::position() const noexcept {
    const auto pending = segments_.oldest_pending();
    if (pending && !SEEDED_DEFECT(checkpoint_passes_pending))
        return {segments_.seq_of(*pending), segments_.first_lsn(*pending)};
    if (current_.valid())
        return {segments_.seq_of(current_.slot), segments_.first_lsn(current_.slot)};
    return {next_log_seq(), next_lsn_};
}

base::Task<bool> Log::adopt_checkpoint(CheckpointPointer pointer) {
    CHECK(!retiring_);
    retiring_ = true;
    const CheckpointPointer before = std::exchange(superblock_.checkpoint, pointer);
    auto written = co_await write_superblock();
    retiring_ = false;
    if (written) {
        segments_.cover(pointer.covered);
        checkpoint_tried_ = true;
    } else {
        // Some copies may name the new one, some the old: both stay as they are.
        superblock_.checkpoint = before;
        end_writing();
    }
    wake();
    co_return written.has_value();
}

void Log::retire_bad() {
    if (retiring_ || read_only_) return;
    std::optional<std::uint32_t> slot;
    if (!bad_taken_.empty()) {
        slot = bad_taken_.back();
        bad_taken_.pop_back();
    } else {
        slot = segments_.free_dead(last_batch_seq());
        // A slot that is known as bad is not read: until the completion records are durable a crash brings
        // its messages back. With nowhere left to write those to, it goes before.
        if (slot && !segments_.gone_for_good(*slot, durable_mark()) && free_segments() > 0) return;
    }
    if (!slot) return;
    retiring_ = true;
    superblock_.mark_bad(*slot);
    segments_.retire(*slot);
    retire_task_ = write_bad_slot();
    retire_task_.start();
}

base::Task<void> Log::write_bad_slot() {
    auto result = co_await write_superblock();
    retiring_ = false;
    if (!result) end_writing();
    wake();
}

base::Task<std::expected<void, DiskError>> Log::write_superblock() {
    ++superblock_.generation;
    // Raised together with the bitmap of bad slots: completion records in a slot that nobody will read
    // again are not missed, because the messages they end are below the floor as well.
    if (!keep_floor_) {
        superblock_.segment_floor =
            std::min(segments_.oldest_seq().value_or(next_log_seq()), next_log_seq());
    }
    const std::span<std::byte> blocks = superblock_blocks_.span();
    for (std::uint32_t copy = 0; copy < superblock_copies; ++copy) {
        encode_superblock(blocks.subspan(copy * block_bytes).first<block_bytes>(), superblock_,
                          copy);
    }
    // In two halves, so that a crash always leaves two copies that agree.
    constexpr std::size_t half = superblock_copies / 2 * block_bytes;
    if (SEEDED_DEFECT(superblock_at_once)) co_return co_await disk_.write(0, blocks, Durable::yes);
    // The half that may be in pieces comes first, while the other is whole.
    const std::size_t first = std::exchange(back_half_first_, false) ? half : 0;
    auto result = co_await write_superblock_part(first, blocks.subspan(first, half));
    if (result)
        result = co_await write_superblock_part(half - first, blocks.subspan(half - first, half));
    co_return result;
}

/// There is nowhere else to write it, so that what was refused is written once more, all of it: nothing is believed of
/// the first time, and because the bytes are the same it may land late.
base::Task<std::expected<void, DiskError>>
Log::write_superblock_part(std::uint64_t offset, std::span<const std::byte> blocks) {
    std::uint64_t failures_before = failures();
    auto result = co_await disk_.write(offset, blocks, Durable::yes);
    if (result) co_return result;
    count_failure(failures_before);
    if (read_only_) co_return result;
    failures_before = failures();
    result = co_await disk_.write(offset, blocks, Durable::yes);
    if (!result) count_failure(failures_before);
    co_return result;
}

} // namespace queue
