#include "dataplane/base/check.h"
#include "queue/disk/crc32c.h"
#include "queue/recovery.h"
#include "queue/seeded_defect.h"

#include <algorithm>
#include <utility>

// What the pool holds, read and taken apart: segments, and the records in them.

namespace queue {
namespace {

constexpr std::size_t piece_bytes = 1U << 20;
constexpr std::size_t rotten_max = 65536; // damaged records looked after one by one

} // namespace

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
base::Task<void> Recovery::read_piece(unsigned copy, std::uint64_t offset,
                                      std::span<std::byte> bytes, bool* readable) {
    auto read = co_await disk_.read_copy(copy, offset, bytes);
    // One bad block must not cost the rest: go through the piece block by block.
    for (std::size_t at = 0; !read && at < bytes.size(); at += block_bytes) {
        auto block = co_await disk_.read_copy(copy, offset + at, bytes.subspan(at, block_bytes));
        if (block) continue;
        *readable = false;
        std::ranges::fill(bytes.subspan(at, block_bytes), std::byte{0});
    }
}

base::Task<bool> Recovery::read_bytes(unsigned copy, std::uint64_t offset,
                                      std::span<std::byte> bytes) {
    bool readable = true;
    co_await all_of((bytes.size() + piece_bytes - 1) / piece_bytes, [&](std::size_t piece) {
        const std::size_t at = piece * piece_bytes;
        return read_piece(copy, offset + at,
                          bytes.subspan(at, std::min(piece_bytes, bytes.size() - at)), &readable);
    });
    co_return readable;
}

/// The payload of a record, from the first copy of the disk in which it checks out; empty when there is none.
base::Task<std::span<const std::byte>> Recovery::read_record(const RecordAt* at,
                                                             BlockMemory* memory) {
    const SegmentTable& segments = core_->log().segments();
    const std::uint32_t skew = at->offset % block_bytes;
    const std::size_t wanted = skew + std::size_t{record_bytes(at->payload_bytes, at->encrypted)};
    const std::size_t bytes = (wanted + block_bytes - 1) / block_bytes * block_bytes;
    if (at->payload_bytes > record_payload_bytes_max ||
        at->offset - skew + bytes > segments.bytes_of(at->slot))
        co_return std::span<const std::byte>{};
    *memory = BlockMemory{bytes};
    const RecordSeeds seeds = record_seeds(core_->log().seed(), at->seq, at->offset);
    for (unsigned copy = 0; copy < disk_.copies(); ++copy) {
        bool readable = true;
        co_await read_piece(copy, segments.begin_of(at->slot) + at->offset - skew, memory->span(),
                            &readable);
        const std::span<std::byte> record = memory->span().subspan(skew);
        auto header = decode_record_header(record, record.size(), seeds);
        if (!header || header->type != static_cast<std::uint16_t>(at->type) ||
            header->payload_bytes != at->payload_bytes || header->encrypted() != at->encrypted) {
            continue;
        }
        const auto stored = record.subspan(record_header_bytes, header->stored_bytes());
        const bool unchecked =
            at->type == RecordType::checkpoint_end && SEEDED_DEFECT(skip_checkpoint_end);
        if (!payload_valid(*header, stored, seeds) && !unchecked) continue;
        if (at->encrypted) {
            RecordCipher& cipher = core_->log().cipher();
            if (!at->key || !cipher.open_record({*at->key, at->seq, at->offset, *header}, stored))
                continue;
        }
        co_return stored.first(at->payload_bytes);
    }
    co_return std::span<const std::byte>{};
}

base::Task<SpoolResult<>> Recovery::read_log(std::vector<UsedSegment> read) {
    SegmentTable& segments = core_->log().segments();
    if (!read.empty()) buffer_ = BlockMemory{superblock_.segment_bytes};
    for (const UsedSegment& segment : read) {
        const std::uint64_t begin = segments.begin_of(segment.slot);
        const std::span<std::byte> bytes = buffer_.span().first(segments.bytes_of(segment.slot));
        // What was under way may be on one copy alone, and what is concluded from it must outlive that one. A copy
        // that comes back in this moment has not been made like the first.
        const unsigned copies = disk_.copies();
        auto alike = co_await disk_.make_alike(begin, bytes.size());
        if (!alike)
            co_return refuse(SpoolError::write_failed, "cannot make the copies of a segment alike");
        bool readable = co_await read_bytes(0, begin, bytes);
        for (unsigned copy = 1; copy < std::min(copies, disk_.copies()); ++copy) {
            const bool all = co_await mend(copy, segment.slot, bytes);
            readable = readable || all;
        }
        log_bytes_ += bytes.size();
        auto taken = take_segment(segment, readable);
        if (!taken) co_return taken;
        static_cast<void>(co_await base::sleep_for(loop_, std::chrono::milliseconds{0}));
    }
    buffer_ = {};
    other_ = {};
    co_return SpoolResult<>{};
}

/// Takes from another copy of a segment what checks out there only. Its frames cannot tell that one of them is
/// missing, so that the copy is always looked at. \return whether all of the copy could be read
base::Task<bool> Recovery::mend(unsigned copy, std::uint32_t slot, std::span<std::byte> segment) {
    if (other_.bytes == 0) other_ = BlockMemory{superblock_.segment_bytes};
    const std::span<std::byte> other = other_.span().first(segment.size());
    const bool readable = co_await read_bytes(copy, core_->log().segments().begin_of(slot), other);
    core_->recovery_report().records_mended +=
        mend_segment(segment, other, superblock_.pool, superblock_.shard, slot);
    co_return readable;
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
        if (segment.seq == 0) {
            locked_.push_back({record.header.id, record.header.lsn, record.header.type});
        } else {
            ++report.records_damaged;
        }
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
    } else if (readable && !scan.frames.empty() && !logged(scan)) {
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

} // namespace queue
