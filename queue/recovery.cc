#include "queue/recovery.h"

#include "dataplane/base/check.h"
#include "queue/seeded_defect.h"
#include "queue/superblock_choice.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <ranges>
#include <utility>

namespace queue {
namespace {

// Numbers a boot may use up; the next one begins behind them without having to know the last.
constexpr std::uint64_t lsns_per_boot = std::uint64_t{1} << 40;
constexpr std::uint64_t segments_per_boot = std::uint64_t{1} << 32;
// Header copies and the first frame's block: zeros there say that a segment was never used.
constexpr std::size_t probe_bytes = segment_header_bytes + block_bytes;

[[nodiscard]] bool all_zero(std::span<const std::byte> bytes) noexcept {
    return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

// Tells this pool from others that its shard may have had; it need not be unguessable.
[[nodiscard]] PoolId make_pool_id(base::WallTime now, std::uint32_t shard,
                                  std::uint64_t pool_bytes) noexcept {
    const std::array<std::uint64_t, 2> words{
        static_cast<std::uint64_t>(now.time_since_epoch().count()),
        (pool_bytes ^ std::uint64_t{shard} << 48) * 0x9E3779B97F4A7C15ULL};
    return std::bit_cast<PoolId>(words);
}

} // namespace

Recovery::Recovery(base::Loop& loop, Disk& disk, const QueueOptions& options)
    : loop_(loop), disk_(disk), options_(options), began_(loop.now()) {}

std::unexpected<SpoolError> Recovery::refuse(SpoolError error, std::string problem) {
    (core_ != nullptr ? core_->recovery_report() : report_).problem = std::move(problem);
    return std::unexpected(error);
}

base::Task<SpoolResult<std::unique_ptr<QueueCore>>>
Recovery::open(base::Loop& loop, Disk& disk, QueueOptions options, RecoveryReport& report) {
    auto owned = std::make_unique<Recovery>(loop, disk, options);
    Recovery& recovery = *owned;
    auto begun = co_await recovery.begin();
    if (!begun) {
        report = recovery.report_;
        co_return std::unexpected(begun.error());
    }
    std::unique_ptr<QueueCore> core = std::move(*begun);
    QueueCore& queue = *core;
    queue.continue_recovery(std::move(owned));
    recovery.task_ = recovery.fold();
    recovery.task_.start();
    const auto wait = base::Deadline::in(loop, options.recovery_wait);
    const auto waited = co_await queue.recovered(wait);
    report = queue.recovery();
    if (waited && recovery.failed_) co_return std::unexpected(recovery.result_.error());
    co_return std::move(core);
}

base::Task<SpoolResult<std::unique_ptr<QueueCore>>> Recovery::begin() {
    // What was written but not synced before a crash may still be only in the device's cache: make it
    // lasting before anything is concluded from it.
    auto flushed = co_await disk_.flush();
    if (SEEDED_DEFECT(retry_failed_flush) && !flushed) flushed = co_await disk_.flush();
    if (!flushed) co_return refuse(SpoolError::write_failed, "cannot flush the pool");
    auto read = co_await read_superblock();
    if (!read) co_return std::unexpected(read.error());

    Superblock next = superblock_;
    next.epoch += SEEDED_DEFECT(reuse_epoch) ? 0 : 1;
    next.clean = false;
    next.lsn_base += SEEDED_DEFECT(reuse_lsn) ? 0 : lsns_per_boot;
    next.segment_seq_base += SEEDED_DEFECT(reuse_generation) ? 0 : segments_per_boot;
    auto core = std::make_unique<QueueCore>(loop_, disk_, options_, next);
    SegmentTable& segments = core->log().segments();
    segments.freeze();
    core->recovery_report() = report_;
    core_ = core.get();
    auto probed = co_await probe_slots();
    // Numbers are given out by the superblock, which is written first.
    if (probed && !used_.empty() && used_.front().seq >= next.segment_seq_base)
        probed = refuse(SpoolError::damaged, "a segment is newer than the superblock");
    if (!probed) {
        report_ = core_->recovery_report();
        co_return std::unexpected(probed.error());
    }
    auto sorted = co_await read_checkpoint_end();
    if (sorted) core_->checkpoint().expect(checkpoint_);
    if (sorted) sorted = sort_slots();
    if (!sorted) {
        report_ = core_->recovery_report();
        co_return std::unexpected(sorted.error());
    }
    if (front_half_only_) core_->log().back_half_first();
    auto started = co_await core_->log().start();
    if (!started) {
        // What it found out holds all the same: the superblock may be on the disk for all that.
        report_ = core_->recovery_report();
        report_.problem = "cannot write the superblock";
        co_return std::unexpected(SpoolError::write_failed);
    }
    core_->recovery_report().took =
        std::chrono::duration_cast<std::chrono::milliseconds>(loop_.now() - began_);
    co_return std::move(core);
}

base::Task<SpoolResult<>> Recovery::read_superblock() {
    if (disk_.size_bytes() < superblock_area_bytes) {
        co_return refuse(SpoolError::full, "the pool is too small for a spool");
    }
    BlockMemory blocks{superblock_copies * block_bytes};
    std::vector<SuperblockChoice> halves; // of a mirror
    bool readable = false;
    for (unsigned copy = 0; copy < disk_.copies(); ++copy) {
        if (SEEDED_DEFECT(mirror_one_superblock) && copy > 0) break;
        bool all = true;
        co_await read_piece(copy, 0, blocks.span(), &all);
        readable = readable || all;
        halves.push_back(choose_superblock(
            std::span<const std::byte>{blocks.span()}.first<superblock_copies * block_bytes>()));
    }
    const SuperblockChoice choice = choose_superblock(halves);
    if (choice.later_version) {
        co_return refuse(SpoolError::damaged,
                         "the pool was written by a later version of this program");
    }
    if (choice.newest) {
        // Whether both of these copies are the newest on one of the halves.
        const auto held = [&](std::uint32_t first) {
            return std::ranges::any_of(halves, [&](const SuperblockChoice& half) {
                const auto holds = [&](const SuperblockChoice::Copy& copy) {
                    return copy && copy->generation == choice.newest->generation;
                };
                return holds(half.copies[first]) && holds(half.copies[first + 1]);
            });
        };
        front_half_only_ = held(0) && !held(2);
        co_return adopt(*choice.newest);
    }
    if (!readable) co_return refuse(SpoolError::read_failed, "cannot read the superblock");

    // Formatting writes copies 0 and 1, then 2 and 3, then segments: zeros in the second half and no
    // segment mean that it never got that far.
    if (!choice.half_blank)
        co_return refuse(SpoolError::damaged, "no two copies of the superblock agree");
    auto used = co_await any_segment_header();
    if (!used) co_return std::unexpected(used.error());
    if (*used)
        co_return refuse(SpoolError::damaged, "the superblock is lost, and there are segments");
    auto formatted = co_await format();
    co_return formatted;
}

SpoolResult<> Recovery::adopt(const Superblock& superblock) {
    if (superblock.pool_bytes > disk_.size_bytes()) {
        return refuse(SpoolError::damaged, "the pool has become smaller than its superblock says");
    }
    if (superblock.shard != loop_.shard()) {
        return refuse(SpoolError::damaged,
                      "the pool belongs to shard " + std::to_string(superblock.shard));
    }
    superblock_ = superblock;
    return {};
}

base::Task<SpoolResult<bool>> Recovery::any_segment_header() {
    BlockMemory block{block_bytes};
    const std::span<const std::byte> bytes = block.span();
    for (std::uint64_t at = superblock_area_bytes; at + block_bytes <= disk_.size_bytes();
         at += segment_granule) {
        bool readable = false;
        for (unsigned copy = 0; copy < disk_.copies(); ++copy) {
            auto read = co_await disk_.read_copy(copy, at, block.span());
            readable = readable || read.has_value();
            if (read && decode_segment_header(bytes.first<block_bytes>(), 0)) co_return true;
        }
        if (!readable) co_return refuse(SpoolError::read_failed, "cannot read the pool");
    }
    co_return false;
}

base::Task<SpoolResult<>> Recovery::format() {
    std::uint32_t segment_bytes = options_.segment_bytes / segment_granule * segment_granule;
    segment_bytes = std::clamp(segment_bytes, segment_bytes_min, segment_bytes_max);
    const std::uint64_t pool_bytes = disk_.size_bytes();
    while (pool_bytes / segment_bytes < segment_count_min &&
           segment_bytes / 2 >= segment_bytes_min) {
        segment_bytes = segment_bytes / 2 / segment_granule * segment_granule;
    }
    if (pool_bytes / segment_bytes < segment_count_min) {
        co_return refuse(SpoolError::full, "the pool must hold at least " +
                                               std::to_string(segment_count_min) + " segments of " +
                                               std::to_string(segment_bytes_min) + " bytes");
    }
    Superblock superblock;
    superblock.pool = make_pool_id(loop_.wall_now(), loop_.shard(), pool_bytes);
    superblock.shard = loop_.shard();
    superblock.clean = true;
    superblock.pool_bytes = pool_bytes;
    superblock.segment_bytes = segment_bytes;
    superblock.segment_count = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(pool_bytes / segment_bytes, segment_count_max));
    superblock_ = superblock; // written by Log::start(), as every boot's
    co_return SpoolResult<>{};
}

base::Task<SpoolResult<>> Recovery::probe_slots() {
    const std::uint32_t count = core_->log().segments().count();
    co_await all_of(count,
                    [this](std::size_t slot) { return probe(static_cast<std::uint32_t>(slot)); });
    if (later_version_) {
        co_return refuse(SpoolError::damaged,
                         "a segment was written by a later version of this program");
    }
    std::ranges::sort(blank_);
    // Newest first: a completion record is then known before the message it ends is built.
    std::ranges::sort(used_, [](const UsedSegment& a, const UsedSegment& b) {
        return a.seq != b.seq ? a.seq > b.seq : a.slot < b.slot;
    });
    co_return SpoolResult<>{};
}

base::Task<void> Recovery::probe(std::uint32_t slot) {
    if (superblock_.bad(slot)) co_return; // out of use: a table entry's first state
    const BlockMemory memory{probe_bytes};
    UsedSegment segment{.slot = slot};
    bool blank = true;
    // Every copy: one may have missed the newest header, or have nothing because the other could not be read.
    for (unsigned copy = 0; copy < disk_.copies(); ++copy) {
        bool readable = true;
        co_await read_piece(copy, core_->log().segments().begin_of(slot), memory.span(), &readable);
        blank = blank && readable && all_zero(memory.span());
        read_headers(memory.span(), segment);
    }
    if (blank && segment.seq == 0) {
        blank_.push_back(slot);
    } else {
        used_.push_back(segment);
    }
}

void Recovery::read_headers(std::span<const std::byte> bytes, UsedSegment& segment) {
    for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
        auto header =
            decode_segment_header(bytes.subspan(copy * block_bytes).first<block_bytes>(), copy);
        if (header && header->pool == superblock_.pool && header->shard == superblock_.shard &&
            header->slot == segment.slot && header->segment_seq >= segment.seq) {
            if (header->segment_seq > segment.seq)
                segment = {.seq = header->segment_seq, .slot = segment.slot};
            if (header->key) unwrap(segment, *header->key);
        }
        if (!header && header.error() == CodecError::unsupported) later_version_ = true;
    }
}

/// One of the two copies of a header is enough: while keys change they may name different ones.
void Recovery::unwrap(UsedSegment& segment, const WrappedKey& wrapped) const {
    segment.encrypted = true;
    auto key = std::expected<DataKey, KeyError>{std::unexpected(KeyError::unknown)};
    if (options_.keys != nullptr) {
        if (!options_.keys->current(wrapped.wrapper)) segment.old_wrapper = true;
        key = options_.keys->unwrap(wrapped, superblock_.pool, superblock_.shard, segment.seq);
    }
    if (key) {
        segment.key = *key;
    } else if (segment.no_key != KeyError::unknown) {
        segment.no_key = key.error();
        segment.wrapper = wrapped.wrapper;
    }
}

SpoolResult<> Recovery::need_key(const UsedSegment& segment) {
    if (!segment.encrypted || segment.key || segment.no_key != KeyError::unknown) return {};
    const std::string id = to_string(segment.wrapper);
    const std::string keys =
        options_.keys != nullptr
            ? "which " + options_.keys->source() + " does not hold; add that key there"
            : "and there are none; name their file in server.spool_key";
    return refuse(SpoolError::no_key,
                  "mail is encrypted under key " + id + ", " + keys +
                      " and start again, or give that mail up with a line 'lost " + id +
                      "' among the keys; nothing was changed");
}

/// Without it everything is scanned, which takes longer and may bring finished mail back.
base::Task<SpoolResult<>> Recovery::read_checkpoint_end() {
    const CheckpointPointer& pointer = superblock_.checkpoint;
    if (!pointer.valid()) co_return SpoolResult<>{};
    UsedSegment segment{.seq = pointer.segment_seq, .slot = pointer.slot};
    for (const UsedSegment& used : used_) {
        if (used.seq == segment.seq && used.slot == segment.slot) segment = used;
    }
    if (auto needed = need_key(segment); !needed) co_return needed;
    core_->recovery_report().checkpoint_lost = true;
    BlockMemory memory;
    const RecordAt at{.type = RecordType::checkpoint_end,
                      .slot = pointer.slot,
                      .seq = pointer.segment_seq,
                      .offset = pointer.offset,
                      .payload_bytes = pointer.payload_bytes,
                      .encrypted = segment.encrypted,
                      .key = segment.key};
    const std::span<const std::byte> payload = co_await read_record(&at, &memory);
    if (payload.empty()) co_return SpoolResult<>{};
    auto decoded = decode_checkpoint_end(payload);
    if (!decoded) co_return SpoolResult<>{};
    checkpoint_ = std::move(*decoded);
    with_checkpoint_ = true;
    read_from_ = checkpoint_.from.segment_seq;
    messages_from_ = checkpoint_.from.lsn;
    core_->recovery_report().checkpoint_lost = false;
    co_return SpoolResult<>{};
}

/// Every slot is free for certain, or counts as used until it is known what lives there.
SpoolResult<> Recovery::sort_slots() {
    SegmentTable& segments = core_->log().segments();
    std::vector<UsedSegment> kept;
    for (const std::uint32_t slot : blank_)
        segments.add_free(slot);
    for (const UsedSegment& segment : used_) {
        const bool dead = segment.seq != 0 && segment.seq < superblock_.segment_floor;
        const bool was_free = with_checkpoint_ && segment.seq != 0 && segment.seq < read_from_ &&
                              std::ranges::binary_search(checkpoint_.free, segment.slot);
        if (dead || was_free) {
            segments.add_free(segment.slot, segment.seq);
            if (was_free && segment.old_wrapper && segment.key)
                core_->rotation().add(segment.slot, segment.seq);
        } else if (segment.seq != 0 && segments.slot_of(segment.seq)) {
            ++core_->recovery_report().records_damaged; // a write that went astray: stays unused
        } else {
            if (auto needed = need_key(segment); !needed) return needed;
            if (segment.seq != 0) segments.add_sealed(segment.slot, segment.seq);
            if (segment.encrypted) {
                segments.add_key(segment.slot, segment.key);
                core_->log().note_encrypted();
                if (segment.old_wrapper) core_->rotation().add(segment.slot, segment.seq);
            }
            if (segment.seq == 0) core_->log().keep_floor();
            kept.push_back(segment);
        }
    }
    used_ = std::move(kept);
    if (with_checkpoint_) {
        segments.cover(read_from_);
    } else {
        core_->log().forget_checkpoint();
    }
    return {};
}

} // namespace queue
