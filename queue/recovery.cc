#include "queue/recovery.h"

#include "dataplane/base/check.h"
#include "queue/disk/crc32c.h"
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
constexpr std::size_t piece_bytes = 1U << 20;
constexpr std::size_t rotten_max = 65536; // damaged records looked after one by one
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

// --- In the foreground -------------------------------------------------------------------------

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
    if (sorted) sorted = sort_slots();
    if (!sorted) {
        report_ = core_->recovery_report();
        co_return std::unexpected(sorted.error());
    }
    if (front_half_only_) core_->log().back_half_first();
    auto started = co_await core_->log().start();
    if (!started) {
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
    auto read = co_await disk_.read(0, blocks.span());
    if (!read) co_return refuse(SpoolError::read_failed, "cannot read the superblock");

    const SuperblockChoice choice = choose_superblock(
        std::span<const std::byte>{blocks.span()}.first<superblock_copies * block_bytes>());
    if (choice.later_version) {
        co_return refuse(SpoolError::damaged,
                         "the pool was written by a later version of this program");
    }
    if (choice.newest) {
        const auto holds = [&](std::uint32_t copy) {
            const SuperblockChoice::Copy& found = choice.copies[copy];
            return found && found->generation == choice.newest->generation;
        };
        front_half_only_ = holds(0) && holds(1) && !(holds(2) && holds(3));
        co_return adopt(*choice.newest);
    }

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
    for (std::uint64_t at = superblock_area_bytes; at + block_bytes <= disk_.size_bytes();
         at += segment_granule) {
        auto read = co_await disk_.read(at, block.span());
        if (!read) co_return refuse(SpoolError::read_failed, "cannot read the pool");
        const std::span<const std::byte> bytes = block.span();
        if (decode_segment_header(bytes.first<block_bytes>(), 0)) co_return true;
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
    bool readable = true;
    co_await read_piece(core_->log().segments().begin_of(slot), memory.span(), &readable);
    const std::span<const std::byte> bytes = memory.span();
    if (readable && all_zero(bytes)) {
        blank_.push_back(slot);
        co_return;
    }
    UsedSegment segment{.slot = slot};
    for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
        auto header =
            decode_segment_header(bytes.subspan(copy * block_bytes).first<block_bytes>(), copy);
        if (header && header->pool == superblock_.pool && header->shard == superblock_.shard &&
            header->slot == slot && header->segment_seq >= segment.seq) {
            if (header->segment_seq > segment.seq)
                segment = {.seq = header->segment_seq, .slot = slot};
            if (header->key) unwrap(segment, *header->key);
        }
        if (!header && header.error() == CodecError::unsupported) later_version_ = true;
    }
    used_.push_back(segment);
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
    SegmentTable& segments = core_->log().segments();
    const std::uint32_t skew = pointer.offset % block_bytes;
    const std::size_t wanted = skew + record_bytes(pointer.payload_bytes, segment.encrypted);
    const std::size_t bytes = (wanted + block_bytes - 1) / block_bytes * block_bytes;
    core_->recovery_report().checkpoint_lost = true;
    if (pointer.offset - skew + bytes > segments.bytes_of(pointer.slot)) co_return SpoolResult<>{};
    const BlockMemory memory{bytes};
    bool readable = true;
    co_await read_piece(segments.begin_of(pointer.slot) + pointer.offset - skew, memory.span(),
                        &readable);
    if (!readable) co_return SpoolResult<>{};
    const std::span<std::byte> record = memory.span().subspan(skew);
    const RecordSeeds seeds =
        record_seeds(core_->log().seed(), pointer.segment_seq, pointer.offset);
    auto header = decode_record_header(record, record.size(), seeds);
    if (!header || header->type != static_cast<std::uint16_t>(RecordType::checkpoint_end) ||
        header->payload_bytes != pointer.payload_bytes ||
        header->encrypted() != segment.encrypted) {
        co_return SpoolResult<>{};
    }
    const auto stored = record.subspan(record_header_bytes, header->stored_bytes());
    if (!payload_valid(*header, stored, seeds) && !SEEDED_DEFECT(skip_checkpoint_end))
        co_return SpoolResult<>{};
    if (segment.encrypted) {
        RecordCipher& cipher = core_->log().cipher();
        if (!segment.key ||
            !cipher.open_record({*segment.key, segment.seq, pointer.offset, *header}, stored)) {
            co_return SpoolResult<>{};
        }
    }
    auto decoded = decode_checkpoint_end(stored.first(header->payload_bytes));
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

// --- Reading -----------------------------------------------------------------------------------

base::Task<void> Recovery::all_of(std::size_t count,
                                  std::function<base::Task<void>(std::size_t)> work) {
    struct Shared {
        std::size_t next = 0;
        std::size_t running = 0;
        base::WaitQueue done{"spool recovery"};
    } shared;
    const auto worker =
        [](Shared* state, std::size_t total,
           const std::function<base::Task<void>(std::size_t)>* one) -> base::Task<void> {
        while (state->next < total) {
            const std::size_t number = state->next++;
            base::Task<void> task = (*one)(number);
            co_await std::move(task);
        }
        if (--state->running == 0) state->done.wake_all();
    };
    std::vector<base::Task<void>> workers;
    shared.running = std::min(count, recovery_reads_in_flight);
    for (std::size_t i = shared.running; i > 0; --i)
        workers.push_back(worker(&shared, count, &work));
    for (base::Task<void>& task : workers)
        task.start();
    while (shared.running > 0)
        static_cast<void>(co_await shared.done.wait(loop_, base::Deadline::never()));
}

/// Makes zeros of what the device does not give back.
base::Task<void> Recovery::read_piece(std::uint64_t offset, std::span<std::byte> bytes,
                                      bool* readable) {
    auto read = co_await disk_.read(offset, bytes);
    // One bad block must not cost the rest: go through the piece block by block.
    for (std::size_t at = 0; !read && at < bytes.size(); at += block_bytes) {
        auto block = co_await disk_.read(offset + at, bytes.subspan(at, block_bytes));
        if (block) continue;
        *readable = false;
        std::ranges::fill(bytes.subspan(at, block_bytes), std::byte{0});
    }
}

base::Task<bool> Recovery::read_bytes(std::uint64_t offset, std::span<std::byte> bytes) {
    bool readable = true;
    co_await all_of((bytes.size() + piece_bytes - 1) / piece_bytes, [&](std::size_t piece) {
        const std::size_t at = piece * piece_bytes;
        return read_piece(offset + at, bytes.subspan(at, std::min(piece_bytes, bytes.size() - at)),
                          &readable);
    });
    co_return readable;
}

base::Task<SpoolResult<>> Recovery::read_log(std::vector<UsedSegment> read) {
    SegmentTable& segments = core_->log().segments();
    if (!read.empty()) buffer_ = BlockMemory{superblock_.segment_bytes};
    for (const UsedSegment& segment : read) {
        const std::span<std::byte> bytes = buffer_.span().first(segments.bytes_of(segment.slot));
        const bool readable = co_await read_bytes(segments.begin_of(segment.slot), bytes);
        log_bytes_ += bytes.size();
        auto taken = take_segment(segment, readable);
        if (!taken) co_return taken;
        static_cast<void>(co_await base::sleep_for(loop_, std::chrono::milliseconds{0}));
    }
    buffer_ = {};
    co_return SpoolResult<>{};
}

SpoolResult<> Recovery::take_segment(UsedSegment segment, bool readable) {
    SegmentTable& segments = core_->log().segments();
    RecoveryReport& report = core_->recovery_report();
    SegmentScan scan = scan_segment(buffer_.span().first(segments.bytes_of(segment.slot)),
                                    superblock_.pool, superblock_.shard, segment.slot);
    ++report.segments_read;
    report.records_read += scan.records.size();
    if (!readable) ++report.records_damaged;
    if (segment.seq == 0) { // its header is lost: what was found in it says what it is
        const bool useless = scan.records.empty() || scan.segment_seq < superblock_.segment_floor;
        if (useless && readable) segments.add_free(segment.slot);
        if (useless) return {};
        if (segments.slot_of(scan.segment_seq)) { // a write that went astray: the slot stays unused
            ++report.records_damaged;
            return {};
        }
        segments.add_sealed(segment.slot, scan.segment_seq);
        std::ranges::find(used_, segment.slot, &UsedSegment::slot)->seq = scan.segment_seq;
        // Mostly one that was about to be used again: what it held before is in the checkpoint.
        if (scan.segment_seq < read_from_) return {};
    }
    for (const FoundFrame& frame : scan.frames) {
        if (frame.header.batch_seq == 0) continue; // beside the log: nobody waited for it
        Epoch& epoch = epochs_[frame.header.epoch];
        epoch.durable = std::max(epoch.durable, frame.header.durable);
        epoch.frames.push_back(frame);
    }
    std::erase_if(scan.records, [&](FoundRecord& record) {
        if (open_record(segment.slot, record)) return false;
        ++report.records_damaged;
        return true;
    });
    for (const FoundRecord& record : scan.records) {
        auto taken = take_record(segment.slot, record);
        if (!taken) return taken;
    }
    for (const FoundRecord& record : scan.records) {
        const auto type = static_cast<RecordType>(record.header.type);
        if (type == RecordType::message || type == RecordType::message_commit)
            take_message(segment.slot, record);
    }
    for (FoundRecord& record : scan.damaged)
        take_rotten(segment.slot, record, scan);
    // A row of crashes must not use up the pool by segments that were only made ready.
    if (readable && segment.seq != 0 && says_nothing(scan)) {
        segments.retire(segment.slot);
        segments.add_free(segment.slot, segment.seq);
    } else if (readable && segment.seq != 0 && !scan.frames.empty() && !logged(scan)) {
        segments.set_beside(segment.slot);
    }
    return {};
}

/// Whether a segment of the log, not one beside it.
bool Recovery::logged(const SegmentScan& scan) noexcept {
    return std::ranges::any_of(scan.frames,
                               [](const FoundFrame& frame) { return frame.header.batch_seq != 0; });
}

/// Whether a segment was made ready and never used, or only for a checkpoint that was not finished.
bool Recovery::says_nothing(const SegmentScan& scan) const {
    if (core_->recovery_report().checkpoint_lost || !scan.damaged.empty()) return false;
    const std::uint64_t seq = scan.segment_seq;
    const bool named = superblock_.checkpoint.segment_seq == seq ||
                       std::ranges::find(checkpoint_.parts, seq, &CheckpointPart::segment_seq) !=
                           checkpoint_.parts.end();
    return !named && !logged(scan) &&
           std::ranges::all_of(scan.records, [](const FoundRecord& record) {
               const auto type = static_cast<RecordType>(record.header.type);
               return type == RecordType::checkpoint_part || type == RecordType::checkpoint_end;
           });
}

/// Makes a payload readable where it lies. Of mail only the head, which is all that is looked at here; that
/// all of it is genuine is checked when it is read for delivery, as its checksum is once more.
bool Recovery::open_record(std::uint32_t slot, FoundRecord& record) {
    const RecordHeader& header = record.header;
    const auto type = static_cast<RecordType>(header.type);
    const std::span<std::byte> stored =
        buffer_.span().subspan(record.offset + record_header_bytes, header.stored_bytes());
    record.payload = stored.first(header.payload_bytes);
    Log& log = core_->log();
    const bool message = type == RecordType::message || type == RecordType::message_commit;
    const std::uint32_t head_bytes = message ? message_prefix_bytes : chunk_prefix_bytes;
    if (!header.encrypted() || (!message && type != RecordType::body_chunk) ||
        header.payload_bytes < head_bytes) {
        return log.open_record({slot, record.offset}, header, stored);
    }
    const std::optional<DataKey>& key = log.segments().key_of(slot);
    if (!key) return false;
    RecordCipher& cipher = log.cipher();
    cipher.begin_open({*key, log.segments().seq_of(slot), record.offset, header});
    cipher.open(stored.first(head_bytes), stored.data());
    if (!message) return true;
    auto prefix = decode_message_prefix(type, record.payload);
    if (!prefix) return false;
    const std::span<std::byte> envelope = stored.subspan(head_bytes, prefix->envelope_bytes);
    cipher.open(envelope, envelope.data());
    return true;
}

SpoolResult<> Recovery::take_record(std::uint32_t slot, const FoundRecord& record) {
    const RecordHeader& header = record.header;
    if (!known(header.type)) {
        if ((header.flags & record_skippable) != 0) return {};
        return refuse(SpoolError::damaged, "a record of unknown type " +
                                               std::to_string(header.type) +
                                               ": written by a later version of this program");
    }
    switch (static_cast<RecordType>(header.type)) {
    case RecordType::tomb:
    case RecordType::abort:
        finished_.insert(header.id.value);
        break;
    case RecordType::status:
        take_status(record);
        break;
    case RecordType::body_chunk:
        if (auto prefix = decode_chunk_prefix(record.payload)) {
            chunks_[header.id.value].push_back({header.lsn, *prefix, Place{slot, record.offset},
                                                header.payload_bytes - chunk_prefix_bytes});
        } else {
            ++core_->recovery_report().records_damaged;
        }
        break;
    case RecordType::batch_failed:
        if (auto failed = decode_batch_failed(record.payload)) {
            epochs_[failed->epoch].failed.insert(failed->batch_seq);
        }
        break;
    case RecordType::message:
    case RecordType::message_commit:
    case RecordType::checkpoint_part:
    case RecordType::checkpoint_end:
    case RecordType::watermark:
        break;
    }
    return {};
}

void Recovery::take_status(const FoundRecord& record) {
    if (finished_.contains(record.header.id.value)) return;
    Status status;
    auto view = decode_status(record.payload, status.recipients);
    if (!view) {
        ++core_->recovery_report().records_damaged;
        return;
    }
    Status& kept = statuses_[record.header.id.value];
    if (kept.lsn > record.header.lsn && !SEEDED_DEFECT(older_status_wins)) return;
    status.lsn = record.header.lsn;
    status.last_error = view->last_error;
    status.view = *view;
    status.view.last_error = {};
    kept = std::move(status);
}

/// Of several copies the newest counts, as it did before the crash: an older one would bring segments back
/// to life that the collector had emptied.
void Recovery::take_message(std::uint32_t slot, const FoundRecord& record) {
    if (record.header.lsn < messages_from_ || finished_.contains(record.header.id.value)) return;
    auto prefix =
        decode_message_prefix(static_cast<RecordType>(record.header.type), record.payload);
    if (!prefix || prefix->content_bytes > std::numeric_limits<std::uint32_t>::max() ||
        record.header.id.value == 0) {
        ++core_->recovery_report().records_damaged;
        return;
    }
    Found& found = found_[record.header.id.value];
    if (found.lsn > record.header.lsn) return;
    const auto envelope = record.payload.subspan(message_prefix_bytes, prefix->envelope_bytes);
    found = {.lsn = record.header.lsn,
             .place = {slot, record.offset},
             .prefix = *prefix,
             .payload_bytes = record.header.payload_bytes,
             .envelope = {envelope.begin(), envelope.end()}};
}

void Recovery::take_rotten(std::uint32_t slot, FoundRecord& record, const SegmentScan& scan) {
    const RecordHeader& header = record.header;
    const auto frame = std::ranges::find_if(scan.frames, [&](const FoundFrame& found) {
        return record.offset > found.header.offset &&
               record.offset < found.header.offset + found.header.bytes;
    });
    if (frame == scan.frames.end() || header.id.value == 0 || rotten_.size() == rotten_max) return;
    Rotten rotten{.id = header.id,
                  .place = {slot, record.offset},
                  .payload_bytes = header.payload_bytes,
                  .epoch = frame->header.epoch,
                  .batch_seq = frame->header.batch_seq};
    const auto type = static_cast<RecordType>(header.type);
    const bool message = type == RecordType::message || type == RecordType::message_commit;
    if (message && open_record(slot, record)) {
        auto prefix = decode_message_prefix(type, record.payload);
        const auto envelope =
            record.payload.subspan(message_prefix_bytes, prefix ? prefix->envelope_bytes : 0);
        if (prefix && prefix->envelope_crc != 0 && prefix->envelope_crc == crc32c(0, envelope) &&
            prefix->content_bytes <= std::numeric_limits<std::uint32_t>::max()) {
            rotten.mail = Found{.lsn = header.lsn,
                                .place = rotten.place,
                                .prefix = *prefix,
                                .payload_bytes = header.payload_bytes,
                                .envelope = {envelope.begin(), envelope.end()}};
        }
    }
    rotten_.push_back(std::move(rotten));
}

/// What had been acknowledged goes to quarantine, and mail of which nothing else is left is queued all the
/// same: delivery meets the damage and tells the sender. What a crash cut short was never anybody's.
void Recovery::enter_rotten() {
    for (Rotten& rotten : rotten_) {
        const std::uint64_t id = rotten.id.value;
        const Epoch& epoch = epochs_[rotten.epoch];
        const bool acknowledged =
            rotten.batch_seq <= epoch.durable && !epoch.failed.contains(rotten.batch_seq);
        if (!acknowledged || finished_.contains(id)) continue;
        const bool other_copy = core_->index().find(rotten.id) != no_entry || found_.contains(id);
        if (rotten.batch_seq == 0 && other_copy) continue; // a copy that was being made
        if (!core_->log().segments().slot_of(core_->log().segments().seq_of(rotten.place.slot)))
            continue;
        core_->damaged(rotten.id, rotten.place, rotten.payload_bytes, "recovery");
        if (other_copy || !rotten.mail) continue;
        const std::uint64_t recovered = core_->recovery_report().messages_recovered;
        enter_message(rotten.id, *rotten.mail);
        core_->recovery_report().messages_recovered = recovered;
    }
}

// --- In the background -------------------------------------------------------------------------

base::Task<void> Recovery::fold() {
    std::vector<UsedSegment> log;
    std::set<std::uint64_t> parts; // segments with nothing but the checkpoint
    if (superblock_.segment_count >= side_segments_apart_min) {
        for (const CheckpointPart& part : checkpoint_.parts)
            parts.insert(part.segment_seq);
    }
    for (const UsedSegment& segment : used_) {
        const bool newer = segment.seq >= read_from_ || segment.seq == 0;
        const bool also =
            std::ranges::find(checkpoint_.also, segment.seq) != checkpoint_.also.end();
        if ((newer || also) && !parts.contains(segment.seq)) log.push_back(segment);
    }
    auto read = co_await read_log(std::move(log));
    if (!read) co_return end(read);
    // Without the checkpoint there are gaps where segments had been freed.
    if (!core_->recovery_report().checkpoint_lost) judge_frames();
    if (with_checkpoint_) {
        co_await read_checkpoint();
        auto rest = co_await read_rest();
        if (!rest) co_return end(rest);
        core_->checkpoint().adopt(superblock_.checkpoint, checkpoint_, log_bytes_);
    }
    enter_rest();
    enter_rotten();
    end({});
}

base::Task<void> Recovery::read_checkpoint() {
    return all_of(checkpoint_.parts.size(),
                  [this](std::size_t number) { return read_part(number); });
}

base::Task<void> Recovery::read_part(std::size_t number) {
    const CheckpointPart part = checkpoint_.parts[number];
    SegmentTable& segments = core_->log().segments();
    RecoveryReport& report = core_->recovery_report();
    const std::uint32_t skew = part.offset % block_bytes;
    const auto slot = segments.slot_of(part.segment_seq);
    const std::size_t wanted =
        skew + std::size_t{record_bytes(part.payload_bytes, slot && segments.encrypted(*slot))};
    const std::size_t bytes = (wanted + block_bytes - 1) / block_bytes * block_bytes;
    if (!slot || part.payload_bytes > batch_bytes_max ||
        part.offset - skew + bytes > segments.bytes_of(*slot)) {
        report.checkpoint_lost = true;
        co_return;
    }
    const BlockMemory memory{bytes};
    bool readable = true;
    co_await read_piece(segments.begin_of(*slot) + part.offset - skew, memory.span(), &readable);
    const std::span<std::byte> record = memory.span().subspan(skew);
    const RecordSeeds seeds = record_seeds(core_->log().seed(), part.segment_seq, part.offset);
    auto header = decode_record_header(record, record.size(), seeds);
    const bool ours = header &&
                      header->type == static_cast<std::uint16_t>(RecordType::checkpoint_part) &&
                      header->payload_bytes == part.payload_bytes;
    const auto stored = record.subspan(record_header_bytes, ours ? header->stored_bytes() : 0);
    if (!ours || !payload_valid(*header, stored, seeds) ||
        !core_->log().open_record({*slot, part.offset}, *header, stored)) {
        report.checkpoint_lost = true;
        co_return;
    }
    auto reader = CheckpointReader::open(stored.first(part.payload_bytes));
    CheckpointEntry entry;
    while (reader && reader->next(entry))
        enter_entry(entry);
    if (!reader || !reader->good()) report.checkpoint_lost = true;
}

/// What a damaged checkpoint did not tell, the segments do: the older ones, and once more those that were read
/// already. One beside the log may be newer than where the checkpoint begins and hold copies that are older.
base::Task<SpoolResult<>> Recovery::read_rest() {
    if (!core_->recovery_report().checkpoint_lost) co_return SpoolResult<>{};
    std::vector<UsedSegment> log;
    for (const UsedSegment& segment : used_) {
        if (segment.seq != 0) log.push_back(segment);
    }
    messages_from_ = 0;
    auto read = co_await read_log(std::move(log));
    co_return read;
}

std::optional<Place> Recovery::place_of(const CheckpointPart& part) const {
    const SegmentTable& segments = core_->log().segments();
    const auto slot = segments.slot_of(part.segment_seq);
    if (!slot || part.offset >= segments.bytes_of(*slot)) return std::nullopt;
    return Place{*slot, part.offset};
}

/// Where a checkpoint's chunk is now: copies that were made afterwards are in the log, and what they were
/// made of may be overwritten.
std::optional<Place> Recovery::place_of_chunk(MessageId id, std::size_t number,
                                              const CheckpointPart& part) const {
    std::uint64_t newest = 0;
    std::optional<Place> place = place_of(part);
    const auto found = chunks_.find(id.value);
    if (found == chunks_.end()) return place;
    for (const ChunkFound& copy : found->second) {
        if (copy.lsn < std::max(messages_from_, newest) || copy.prefix.index != number ||
            copy.bytes != part.payload_bytes) {
            continue;
        }
        newest = copy.lsn;
        place = copy.place;
    }
    return place;
}

void Recovery::enter_entry(const CheckpointEntry& found) {
    MessageIndex& index = core_->index();
    RecoveryReport& report = core_->recovery_report();
    const std::uint64_t id = found.id.value;
    if (finished_.contains(id) || index.find(found.id) != no_entry) return;
    const auto copy = found_.find(id);
    std::optional<Place> place =
        copy != found_.end() ? std::optional{copy->second.place} : place_of(found.place);
    std::vector<Chunk> chunks;
    for (std::size_t i = 0; i < found.chunks.size(); ++i) {
        const auto at = place_of_chunk(found.id, i, found.chunks[i]);
        if (!at) place = std::nullopt;
        chunks.push_back({at.value_or(Place{}), found.chunks[i].payload_bytes});
    }
    if (!place) {
        ++report.records_damaged;
        return;
    }
    TextTable& texts = index.texts();
    const EntryRef ref = index.insert(found.id);
    Entry& entry = index[ref];
    entry.place = *place;
    entry.payload_bytes = found.place.payload_bytes;
    entry.content_bytes = found.content_bytes;
    entry.arrival_s = found.arrival_s;
    entry.expiry_s = found.expiry_s;
    entry.sender_hash = found.sender_hash;
    entry.recipient_hash = found.recipient_hash;
    entry.lsn = found.lsn;
    entry.due = found.due;
    entry.attempts = found.attempts;
    entry.flags = found.flags & Entry::delay_notified;
    entry.tenant = texts.take(found.tenant);
    entry.account = texts.take(found.account);
    entry.source = texts.take(found.source);
    std::vector<TextId> domains;
    for (const std::string_view domain : found.domains)
        domains.push_back(texts.take(domain));
    index.set_recipients(ref, domains);
    for (const TextId domain : domains)
        texts.drop(domain);
    index.set_status(ref, found.status);
    index.set_error(ref, found.error);
    index.set_chunks(ref, chunks);
    ++report.checkpoint_entries;
    const std::uint64_t copy_lsn = copy != found_.end() ? copy->second.lsn : 0;
    if (copy != found_.end()) found_.erase(copy);
    finish_entry(ref, copy_lsn);
}

void Recovery::enter_message(MessageId id, const Found& found) {
    MessageIndex& index = core_->index();
    RecoveryReport& report = core_->recovery_report();
    if (finished_.contains(id.value) || index.find(id) != no_entry) return;
    if (!decode_envelope(found.envelope, envelope_)) {
        ++report.records_damaged;
        return;
    }
    std::vector<Chunk> chunks;
    if (found.prefix.chunk_count != 0) {
        std::vector<ChunkFound>& parts = chunks_[id.value];
        std::ranges::sort(parts, [](const ChunkFound& a, const ChunkFound& b) {
            return a.prefix.index != b.prefix.index ? a.prefix.index < b.prefix.index
                                                    : a.lsn > b.lsn;
        });
        std::uint64_t body_bytes = 0;
        for (const ChunkFound& part : parts) {
            if (part.prefix.index < chunks.size()) continue; // an earlier copy of the same
            if (part.prefix.index != chunks.size() || part.prefix.body_offset != body_bytes) break;
            chunks.push_back({part.place, part.bytes});
            body_bytes += part.bytes;
        }
        if (chunks.size() != found.prefix.chunk_count ||
            found.prefix.content_bytes != found.prefix.prelude_bytes + body_bytes) {
            ++report
                  .records_damaged; // chunks are durable before the record that needs them is written
            return;
        }
    }
    const EntryRef ref = index.insert(id);
    index.describe(ref, envelope_);
    index.set_chunks(ref, chunks);
    Entry& entry = index[ref];
    entry.place = found.place;
    entry.payload_bytes = found.payload_bytes;
    entry.content_bytes = static_cast<std::uint32_t>(found.prefix.content_bytes);
    finish_entry(ref, found.lsn);
}

/// The newest status, what lives where, and its turn.
void Recovery::finish_entry(EntryRef ref, std::uint64_t copy_lsn) {
    MessageIndex& index = core_->index();
    RecoveryReport& report = core_->recovery_report();
    Entry& entry = index[ref];
    const auto status = statuses_.find(entry.id.value);
    if (status != statuses_.end() && status->second.lsn > entry.lsn &&
        status->second.recipients.size() == index.status(entry).size()) {
        index.set_status(ref, status->second.recipients);
        index.set_error(ref, status->second.last_error);
        const std::uint32_t before = SEEDED_DEFECT(status_delta) ? entry.attempts : 0;
        entry.attempts =
            static_cast<std::uint16_t>(std::min(before + status->second.view.attempts, 0xFFFFU));
        entry.due = status->second.view.due;
        entry.lsn = status->second.lsn;
        if (status->second.view.delay_notified) entry.flags |= Entry::delay_notified;
    }
    SegmentTable& segments = core_->log().segments();
    const auto add_live = [&](Place place, std::uint32_t payload_bytes) {
        segments.add_live(place.slot, segments.record_bytes_in(place.slot, payload_bytes));
    };
    add_live(entry.place, entry.payload_bytes);
    for (const Chunk& chunk : index.chunks(entry))
        add_live(chunk.place, chunk_prefix_bytes + chunk.bytes);
    if (index.pending_count(entry) == 0) { // all that is missing is its completion record
        core_->count_in(entry);
        core_->schedule().admit(ref, entry.tenant, 0, Schedule::Share::retry);
        return core_->finish(ref);
    }
    ++report.messages_recovered;
    if (entry.due <= loop_.wall_now() && !superblock_.clean)
        ++report.possible_duplicates; // it may have been on its way
    core_->admit(ref, Schedule::Share::retry);
    // A copy that was just being made lies behind its status: that must not go before the message.
    if (entry.lsn != 0 && entry.lsn < copy_lsn) core_->mark_dirty(ref);
}

void Recovery::enter_rest() {
    std::vector<std::uint64_t> ids;
    ids.reserve(found_.size());
    for (const auto& [id, found] : found_)
        ids.push_back(id);
    std::ranges::sort(ids);
    for (const std::uint64_t id : ids)
        enter_message(MessageId{id}, found_.at(id));
}

void Recovery::end(SpoolResult<> result) {
    RecoveryReport& report = core_->recovery_report();
    report.complete = true;
    report.took_all = std::chrono::duration_cast<std::chrono::milliseconds>(loop_.now() - began_);
    failed_ = !result.has_value();
    result_ = result;
    found_.clear();
    finished_.clear();
    statuses_.clear();
    chunks_.clear();
    rotten_.clear();
    epochs_.clear();
    core_->recovery_ended(!failed_);
}

void Recovery::judge_frames() {
    for (auto& [number, epoch] : epochs_)
        judge_epoch(epoch, number == superblock_.epoch);
}

/// Below the watermark everything had been acknowledged, so what is missing there has rotted. Above
/// it, a crash may have cut writes short that nobody was told of; only the last boot's are news.
void Recovery::judge_epoch(Epoch& epoch, bool last) {
    std::ranges::sort(epoch.frames, {},
                      [](const FoundFrame& frame) { return frame.header.batch_seq; });
    const auto count_missing = [&](std::uint64_t from, std::uint64_t to) { // batches in [from, to)
        const auto failed =
            std::distance(epoch.failed.lower_bound(from), epoch.failed.lower_bound(to));
        return to > from ? to - from - static_cast<std::uint64_t>(failed) : 0;
    };
    std::uint64_t expected = epoch.frames.empty() ? 1 : epoch.frames.front().header.batch_seq;
    for (const FoundFrame& frame : epoch.frames) {
        const std::uint64_t seq = frame.header.batch_seq;
        const std::uint64_t acknowledged = std::min(seq, std::max(expected, epoch.durable + 1));
        core_->recovery_report().records_damaged += count_missing(expected, acknowledged);
        if (last) core_->recovery_report().torn_tails += count_missing(acknowledged, seq);
        if (frame.header.records > frame.records_valid && !epoch.failed.contains(seq)) {
            if (seq <= epoch.durable) {
                core_->recovery_report().records_damaged +=
                    frame.header.records - frame.records_valid;
            } else if (last) {
                ++core_->recovery_report().torn_tails;
            }
        }
        expected = std::max(expected, seq + 1);
    }
    core_->recovery_report().records_damaged += count_missing(expected, epoch.durable + 1);
}

} // namespace queue
