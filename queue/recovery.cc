#include "queue/recovery.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <bit>
#include <optional>
#include <ranges>

namespace queue {
namespace {

// Numbers a boot may use up; the next one begins behind them without having to know the last.
constexpr std::uint64_t lsns_per_boot = std::uint64_t{1} << 40;
constexpr std::uint64_t segments_per_boot = std::uint64_t{1} << 32;
constexpr std::size_t read_bytes_max = 1U << 20;
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

Recovery::Recovery(base::Loop& loop, Disk& disk, const QueueOptions& options,
                   RecoveryReport& report)
    : loop_(loop), disk_(disk), options_(options), report_(report) {}

std::unexpected<SpoolError> Recovery::refuse(SpoolError error, std::string problem) {
    report_.problem = std::move(problem);
    return std::unexpected(error);
}

base::Task<SpoolResult<std::unique_ptr<QueueCore>>> Recovery::run() {
    const base::TimePoint began = loop_.now();
    // What was written but not synced before a crash may still be only in the device's cache: make it
    // lasting before anything is concluded from it.
    auto flushed = co_await disk_.flush();
    if (!flushed) co_return refuse(SpoolError::write_failed, "cannot flush the pool");
    auto read = co_await read_superblock();
    if (!read) co_return std::unexpected(read.error());

    Superblock next = superblock_;
    ++next.epoch;
    next.clean = false;
    next.lsn_base += lsns_per_boot;
    next.segment_seq_base += segments_per_boot;
    core_ = std::make_unique<QueueCore>(loop_, disk_, options_, next);
    auto ordered = co_await order_segments();
    if (!ordered) co_return std::unexpected(ordered.error());
    auto taken = co_await read_segments();
    if (!taken) co_return std::unexpected(taken.error());
    judge_frames();
    enter_segments();
    enter_messages();
    auto started = co_await core_->log().start();
    if (!started) co_return refuse(SpoolError::write_failed, "cannot write the superblock");
    report_.took = std::chrono::duration_cast<std::chrono::milliseconds>(loop_.now() - began);
    co_return std::move(core_);
}

base::Task<SpoolResult<>> Recovery::read_superblock() {
    if (disk_.size_bytes() < superblock_area_bytes) {
        co_return refuse(SpoolError::full, "the pool is too small for a spool");
    }
    BlockMemory blocks{superblock_copies * block_bytes};
    auto read = co_await disk_.read(0, blocks.span());
    if (!read) co_return refuse(SpoolError::read_failed, "cannot read the superblock");

    std::vector<Superblock> valid;
    bool unsupported = false;
    for (std::uint32_t copy = 0; copy < superblock_copies; ++copy) {
        auto superblock = decode_superblock(std::span<const std::byte>{blocks.span()}
                                                .subspan(copy * block_bytes)
                                                .first<block_bytes>(),
                                            copy);
        if (superblock) valid.push_back(*superblock);
        if (!superblock && superblock.error() == CodecError::unsupported) unsupported = true;
    }
    if (unsupported) {
        co_return refuse(SpoolError::damaged,
                         "the pool was written by a later version of this program");
    }
    // The newest generation that two copies agree on: one copy alone may be half of an update.
    const Superblock* newest = nullptr;
    for (const Superblock& candidate : valid) {
        const auto same = std::ranges::count(valid, candidate.generation, &Superblock::generation);
        if (same >= 2 && (newest == nullptr || candidate.generation > newest->generation))
            newest = &candidate;
    }
    if (newest != nullptr) co_return adopt(*newest);

    // Formatting writes copies 0 and 1, then 2 and 3, then segments: zeros in the second half and no
    // segment mean that it never got that far.
    const bool second_half_blank =
        all_zero(std::span<const std::byte>{blocks.span()}.last(2 * block_bytes));
    if (!second_half_blank)
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

base::Task<bool> Recovery::read_bytes(std::uint64_t offset, std::span<std::byte> bytes) {
    bool readable = true;
    while (!bytes.empty()) {
        const std::span<std::byte> part = bytes.first(std::min(bytes.size(), read_bytes_max));
        auto read = co_await disk_.read(offset, part);
        // One bad block must not cost the rest: go through the part block by block.
        for (std::size_t at = 0; !read && at < part.size(); at += block_bytes) {
            auto block = co_await disk_.read(offset + at, part.subspan(at, block_bytes));
            if (block) continue;
            readable = false;
            std::ranges::fill(part.subspan(at, block_bytes), std::byte{0});
        }
        offset += part.size();
        bytes = bytes.subspan(part.size());
    }
    co_return readable;
}

base::Task<SpoolResult<>> Recovery::order_segments() {
    SegmentTable& segments = core_->log().segments();
    BlockMemory probe{probe_bytes};
    for (std::uint32_t slot = 0; slot < segments.count(); ++slot) {
        if (superblock_.bad(slot)) continue; // out of use: a table entry's first state
        const bool readable = co_await read_bytes(segments.begin_of(slot), probe.span());
        const std::span<const std::byte> bytes = probe.span();
        if (readable && all_zero(bytes)) {
            free_.push_back(slot);
            continue;
        }
        std::uint64_t seq = 0;
        for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
            auto header =
                decode_segment_header(bytes.subspan(copy * block_bytes).first<block_bytes>(), copy);
            if (header) seq = std::max(seq, header->segment_seq);
            if (!header && header.error() == CodecError::unsupported) {
                co_return refuse(SpoolError::damaged,
                                 "a segment was written by a later version of this program");
            }
        }
        if (seq != 0 && seq < superblock_.segment_floor) {
            free_.push_back(slot);
            continue;
        }
        order_.push_back({seq, slot});
    }
    // Newest first: a completion record is then known before the message it ends is built.
    std::ranges::sort(order_, std::ranges::greater{}, &UsedSegment::seq);
    co_return SpoolResult<>{};
}

base::Task<SpoolResult<>> Recovery::read_segments() {
    SegmentTable& segments = core_->log().segments();
    if (!order_.empty()) buffer_ = BlockMemory{superblock_.segment_bytes};
    for (const UsedSegment& segment : order_) {
        const std::span<std::byte> bytes = buffer_.span().first(segments.bytes_of(segment.slot));
        const bool readable = co_await read_bytes(segments.begin_of(segment.slot), bytes);
        auto taken = take_segment(segment.slot, readable);
        if (!taken) co_return taken;
    }
    buffer_ = {};
    co_return SpoolResult<>{};
}

SpoolResult<> Recovery::take_segment(std::uint32_t slot, bool readable) {
    const std::uint32_t bytes = core_->log().segments().bytes_of(slot);
    SegmentScan scan =
        scan_segment(buffer_.span().first(bytes), superblock_.pool, superblock_.shard, slot);
    ++report_.segments_read;
    report_.records_read += scan.records.size();
    if (!readable) ++report_.records_damaged;
    if (scan.records.empty() || scan.segment_seq < superblock_.segment_floor) {
        // Nothing in it can be of use or do harm; one that cannot be read stays out of use, though.
        if (readable) free_.push_back(slot);
        return {};
    }
    if (std::ranges::find(used_, scan.segment_seq, &UsedSegment::seq) != used_.end()) {
        // Those with a good header came first: this is a write that went astray. Its slot stays unused.
        ++report_.records_damaged;
        return {};
    }
    used_.push_back({scan.segment_seq, slot});
    for (const FoundFrame& frame : scan.frames) {
        Epoch& epoch = epochs_[frame.header.epoch];
        epoch.durable = std::max(epoch.durable, frame.header.durable);
        epoch.frames.push_back(frame);
    }
    for (const FoundRecord& record : scan.records) {
        auto taken = take_record(slot, record);
        if (!taken) return taken;
    }
    for (const FoundRecord& record : std::views::reverse(scan.records)) {
        const auto type = static_cast<RecordType>(record.header.type);
        if (type == RecordType::message || type == RecordType::message_commit)
            take_message(slot, record);
    }
    return {};
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
            ++report_.records_damaged;
        }
        break;
    case RecordType::batch_failed:
        if (auto failed = decode_batch_failed(record.payload)) {
            epochs_[failed->epoch].failed.insert(failed->batch_seq);
        }
        break;
    case RecordType::message:
    case RecordType::message_commit:
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
        ++report_.records_damaged;
        return;
    }
    Status& kept = statuses_[record.header.id.value];
    if (kept.lsn > record.header.lsn) return;
    status.lsn = record.header.lsn;
    status.last_error = view->last_error;
    status.view = *view;
    status.view.last_error = {};
    kept = std::move(status);
}

/// Newest first. Of several copies the newest counts, as it did before the crash: an older one would bring
/// segments back to life that the collector had emptied. But a copy that it was still making may lie behind
/// its message's status; the older one stands until there is a status behind the newer.
void Recovery::take_message(std::uint32_t slot, const FoundRecord& record) {
    const std::uint64_t id = record.header.id.value;
    if (finished_.contains(id)) return;
    auto prefix =
        decode_message_prefix(static_cast<RecordType>(record.header.type), record.payload);
    if (!prefix) {
        ++report_.records_damaged;
        return;
    }
    Found& found = found_[id];
    if (found.message) {
        const auto status = statuses_.find(id);
        if (status == statuses_.end() || found.lsn < status->second.lsn) return;
    }
    if (!found.message) {
        Message& message = core_->fresh_message();
        found.message = MessageRef{&message};
        message.id = {id};
        if (!decode_envelope(record.payload.subspan(message_prefix_bytes, prefix->envelope_bytes),
                             message.envelope)) {
            ++report_.records_damaged;
            found_.erase(id);
            return;
        }
        message.status.assign(message.envelope.recipient_count(), RecipientStatus{});
    }
    found.lsn = record.header.lsn;
    found.chunk_count = prefix->chunk_count;
    Message& message = *found.message;
    message.content_bytes = prefix->content_bytes;
    message.prelude_bytes_ = prefix->prelude_bytes;
    message.place_ = {slot, record.offset};
    message.payload_bytes_ = record.header.payload_bytes;
    message.content_at_ = message_prefix_bytes + prefix->envelope_bytes;
}

bool Recovery::gather_chunks(const Found& found) {
    Message& message = *found.message;
    if (found.chunk_count == 0) return true;
    std::vector<ChunkFound>& chunks = chunks_[message.id.value];
    std::ranges::sort(chunks, [](const ChunkFound& a, const ChunkFound& b) {
        return a.prefix.index != b.prefix.index ? a.prefix.index < b.prefix.index : a.lsn > b.lsn;
    });
    std::uint64_t body_bytes = 0;
    for (const ChunkFound& chunk : chunks) {
        if (chunk.prefix.index < message.chunks_.size()) continue; // an earlier copy of the same
        if (chunk.prefix.index != message.chunks_.size() || chunk.prefix.body_offset != body_bytes)
            return false;
        message.chunks_.push_back({chunk.place, chunk.bytes});
        body_bytes += chunk.bytes;
    }
    message.chunk_body_bytes_ = body_bytes;
    return message.chunks_.size() == found.chunk_count &&
           message.content_bytes == message.prelude_bytes_ + body_bytes;
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
        report_.records_damaged += count_missing(expected, acknowledged);
        if (last) report_.torn_tails += count_missing(acknowledged, seq);
        if (frame.header.records > frame.records_valid && !epoch.failed.contains(seq)) {
            if (seq <= epoch.durable) {
                report_.records_damaged += frame.header.records - frame.records_valid;
            } else if (last) {
                ++report_.torn_tails;
            }
        }
        expected = std::max(expected, seq + 1);
    }
    report_.records_damaged += count_missing(expected, epoch.durable + 1);
}

void Recovery::enter_segments() {
    SegmentTable& segments = core_->log().segments();
    std::ranges::sort(used_, {}, &UsedSegment::seq);
    for (const UsedSegment& segment : used_)
        segments.add_sealed(segment.slot, segment.seq);
    for (const std::uint32_t slot : free_)
        segments.add_free(slot);
}

void Recovery::enter_messages() {
    std::vector<Found*> ordered;
    ordered.reserve(found_.size());
    for (auto& [id, found] : found_) {
        if (!finished_.contains(id)) ordered.push_back(&found);
    }
    std::ranges::sort(ordered, {}, [](const Found* found) { return found->message->id; });
    for (Found* found : ordered)
        enter(*found);
    found_.clear();
}

void Recovery::enter(Found& found) {
    Message& message = *found.message;
    if (!gather_chunks(found)) {
        ++report_
              .records_damaged; // chunks are durable before the record that needs them is written
        message.chunks_.clear();
        return;
    }
    bool deferred = false;
    if (const auto status = statuses_.find(message.id.value);
        status != statuses_.end() && status->second.recipients.size() == message.status.size()) {
        message.status = std::move(status->second.recipients);
        message.attempts = status->second.view.attempts;
        message.due = status->second.view.due;
        message.envelope.delay_notified |= status->second.view.delay_notified;
        message.last_error = status->second.last_error;
        deferred = message.due > loop_.wall_now();
    }
    SegmentTable& segments = core_->log().segments();
    segments.add_live(message.place_.slot, record_bytes(message.payload_bytes_));
    for (const Message::Chunk& chunk : message.chunks_) {
        segments.add_live(chunk.place.slot, record_bytes(chunk_prefix_bytes + chunk.bytes));
    }
    message.submitted_ = true;
    if (message.settled()) { // all that is missing is its completion record
        message.phase_ = Message::Phase::done;
        core_->mark(RecordType::tomb, found.message);
        return;
    }
    core_->index_.insert(found.message);
    ++report_.messages_recovered;
    if (deferred) {
        message.phase_ = Message::Phase::deferred;
        ++core_->deferred_;
        core_->scheduler_.schedule(message);
        return;
    }
    if (!superblock_.clean) ++report_.possible_duplicates; // it may have been on its way
    core_->make_ready(message);
}

} // namespace queue
