#include "queue/tool/catalogue.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace queue::tool {
namespace {

/// The pool as its segments' headers describe it: slot 1 and later begin at slot * segment_bytes.
[[nodiscard]] std::optional<Superblock> piece_together(const PoolFile& pool) {
    std::map<std::tuple<PoolId, std::uint32_t, std::uint64_t>, std::uint32_t> votes;
    std::array<std::byte, block_bytes> block;
    std::uint32_t epoch = 0;
    for (std::uint64_t at = segment_granule; at + block_bytes <= pool.size_bytes();
         at += segment_granule) {
        if (!pool.read_file(at, block)) continue;
        const auto header = decode_segment_header(block, 0);
        if (!header || header->slot == 0 || at % header->slot != 0) continue;
        ++votes[{header->pool, header->shard, at / header->slot}];
        epoch = std::max(epoch, header->epoch);
    }
    const auto most =
        std::ranges::max_element(votes, {}, [](const auto& vote) { return vote.second; });
    if (most == votes.end()) return std::nullopt;
    const auto& [id, shard, segment_bytes] = most->first;
    if (segment_bytes < segment_bytes_min || segment_bytes > segment_bytes_max ||
        segment_bytes % segment_granule != 0) {
        return std::nullopt;
    }
    Superblock made;
    made.pool = id;
    made.shard = shard;
    made.epoch = epoch;
    made.pool_bytes = pool.size_bytes();
    made.segment_bytes = static_cast<std::uint32_t>(segment_bytes);
    made.segment_count = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(pool.size_bytes() / segment_bytes, segment_count_max));
    return made;
}

} // namespace

std::expected<PoolGeometry, std::string> read_geometry(const PoolFile& pool) {
    std::array<std::byte, superblock_copies * block_bytes> blocks;
    if (pool.size_bytes() < superblock_area_bytes)
        return std::unexpected(pool.path() + " is too short to be a spool pool");
    static_cast<void>(pool.read_file(0, blocks));
    const SuperblockChoice choice = choose_superblock(blocks);
    PoolGeometry geometry;
    geometry.later_version = choice.later_version;
    geometry.copies_valid = static_cast<unsigned>(std::ranges::count_if(
        choice.copies, [](const SuperblockChoice::Copy& copy) { return copy.has_value(); }));
    if (choice.later_version)
        return std::unexpected(pool.path() + " was written by a later version of this program");
    if (choice.newest) {
        geometry.superblock = *choice.newest;
        return geometry;
    }
    auto made = piece_together(pool);
    if (!made) {
        return std::unexpected(pool.path() + " is no spool pool: no two copies of a superblock "
                                             "agree, and no segment is to be found");
    }
    geometry.superblock = *made;
    geometry.from_segments = true;
    return geometry;
}

Catalogue::Catalogue(const Superblock& superblock, Unlock& unlock)
    : superblock_(superblock), geometry_(superblock.segment_bytes, superblock.segment_count),
      unlock_(&unlock) {}

Catalogue Catalogue::read(const PoolFile& pool, const Superblock& superblock, Unlock& unlock,
                          const Progress& progress) {
    Catalogue catalogue{superblock, unlock};
    for (std::uint32_t slot = 0; slot < superblock.segment_count; ++slot) {
        if (progress) progress(slot, superblock.segment_count);
        catalogue.read_slot(pool, slot);
    }
    if (progress) progress(superblock.segment_count, superblock.segment_count);
    catalogue.judge_damage();
    catalogue.buffer_ = {};
    return catalogue;
}

void Catalogue::read_slot(const PoolFile& pool, std::uint32_t slot) {
    StoredSegment& segment = segments_.emplace_back();
    segment.slot = slot;
    segment.bad = superblock_.bad(slot);
    if (segment.bad) return; // never read nor written again
    const std::uint64_t begin = geometry_.begin_of(slot);
    if (begin >= pool.size_bytes()) return;
    buffer_.resize(geometry_.bytes_of(slot));
    segment.readable = pool.read_file(begin, buffer_);
    if (!segment.readable) {
        damage_.push_back({slot,
                           0,
                           0,
                           geometry_.bytes_of(slot),
                           true,
                           {},
                           "the device does not give back all of this slot"});
    }
    const SegmentScan scan = scan_segment(buffer_, superblock_.pool, superblock_.shard, slot);
    segment.seq = scan.segment_seq;
    if (scan.segment_seq == 0) return;
    learn_header(segment);
    for (const FoundFrame& frame : scan.frames) {
        ++segment.frames;
        segment.frame_bytes += frame.header.bytes;
        std::uint64_t& durable = durable_[frame.header.epoch];
        durable = std::max(durable, frame.header.durable);
    }
    for (const FoundRecord& record : scan.records) {
        ++segment.records[record.header.type];
        segment.record_bytes += record_bytes(record.header);
        take(slot, scan.segment_seq, record, false);
    }
    for (const FoundRecord& record : scan.damaged)
        take(slot, scan.segment_seq, record, true);
    note_damage(slot, scan);
}

void Catalogue::learn_header(StoredSegment& segment) {
    for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
        const auto block = std::span<const std::byte>{buffer_}.subspan(copy * block_bytes);
        const auto header = decode_segment_header(block.first<block_bytes>(), copy);
        if (!header || header->segment_seq != segment.seq || header->slot != segment.slot) continue;
        ++segment.headers;
        segment.encrypted = header->key.has_value();
        unlock_->learn(segment.slot, *header);
    }
}

void Catalogue::take(std::uint32_t slot, std::uint64_t seq, FoundRecord record, bool damaged) {
    const RecordHeader& header = record.header;
    if (!known(header.type)) return;
    if (header.encrypted() && !damaged) {
        const std::span<std::byte> stored =
            std::span{buffer_}.subspan(record.offset + record_header_bytes, header.stored_bytes());
        if (const auto opened = unlock_->open(slot, seq, record.offset, header, stored)) {
            record.payload = *opened;
        } else {
            ++locked_records_;
            damaged = true;
        }
    }
    const auto type = static_cast<RecordType>(header.type);
    if (type == RecordType::batch_failed && !damaged) {
        if (const auto failed = decode_batch_failed(record.payload))
            failed_[failed->epoch].push_back(failed->batch_seq);
    }
    const CheckpointPointer& pointer = superblock_.checkpoint;
    if (type == RecordType::checkpoint_end && !damaged && pointer.valid() &&
        pointer.segment_seq == seq && pointer.offset == record.offset) {
        if (auto end = decode_checkpoint_end(record.payload)) checkpoint_ = std::move(*end);
    }
    if (header.id.value == 0) return;
    const StoredRecord stored{.lsn = header.lsn,
                              .segment_seq = seq,
                              .place = {slot, record.offset},
                              .payload_bytes = header.payload_bytes,
                              .type = type,
                              .encrypted = header.encrypted(),
                              .damaged = damaged};
    switch (type) {
    case RecordType::message:
    case RecordType::message_commit: {
        auto& kept = messages_[header.id.value].record;
        const bool better = !kept || (kept->damaged && !damaged) ||
                            (kept->damaged == damaged && kept->lsn < stored.lsn);
        if (better) kept = stored;
        break;
    }
    case RecordType::body_chunk:
        if (damaged) break;
        if (const auto prefix = decode_chunk_prefix(record.payload))
            messages_[header.id.value].chunks.push_back({stored, *prefix});
        break;
    case RecordType::status: {
        if (damaged) break;
        StoredMessage& message = messages_[header.id.value];
        if (message.status_lsn > header.lsn) break;
        std::vector<RecipientStatus> recipients;
        const auto status = decode_status(record.payload, recipients);
        if (!status) break;
        message.status_lsn = header.lsn;
        message.status = *status;
        message.last_error = status->last_error;
        message.status.last_error = {};
        message.recipients = std::move(recipients);
        break;
    }
    case RecordType::tomb:
        if (!damaged) messages_[header.id.value].done = true;
        break;
    case RecordType::abort:
        if (!damaged) messages_[header.id.value].refused = true;
        break;
    default:
        break;
    }
}

void Catalogue::note_damage(std::uint32_t slot, const SegmentScan& scan) {
    const auto frame_of = [&](std::uint32_t offset) -> const FrameHeader* {
        const auto after = std::ranges::upper_bound(
            scan.frames, offset, {}, [](const FoundFrame& frame) { return frame.header.offset; });
        if (after == scan.frames.begin()) return nullptr;
        const FrameHeader& frame = std::prev(after)->header;
        return offset < frame.offset + frame.bytes ? &frame : nullptr;
    };
    for (const FoundRecord& record : scan.damaged) {
        const FrameHeader* frame = frame_of(record.offset);
        if (frame != nullptr) suspects_.push_back({damage_.size(), frame->epoch, frame->batch_seq});
        damage_.push_back({slot, scan.segment_seq, record.offset, record_bytes(record.header),
                           false, record.header.id,
                           "a record's payload does not match its checksum"});
    }
    for (const FoundGap& gap : scan.gaps) {
        suspects_.push_back({damage_.size(), gap.epoch, gap.batch_seq});
        damage_.push_back({slot,
                           scan.segment_seq,
                           gap.offset,
                           gap.bytes,
                           false,
                           {},
                           "no record where the frame says that there is one"});
    }
    std::ranges::for_each(scan.frameless, [&](std::uint32_t offset) {
        damage_.push_back({slot,
                           scan.segment_seq,
                           offset,
                           record_header_bytes,
                           false,
                           {},
                           "a record outside of any frame: the frame's header is damaged"});
    });
    StoredSegment& segment = segments_.back();
    segment.damaged_places = scan.damaged.size() + scan.gaps.size() + scan.frameless.size();
}

/// What is missing at or below a watermark had been acknowledged.
void Catalogue::judge_damage() {
    for (const Suspect& suspect : suspects_) {
        const bool failed = std::ranges::find(failed_[suspect.epoch], suspect.batch_seq) !=
                            failed_[suspect.epoch].end();
        const bool ended_well = superblock_.clean && suspect.epoch == superblock_.epoch;
        const bool durable =
            suspect.batch_seq != 0 && (suspect.batch_seq <= durable_[suspect.epoch] || ended_well);
        damage_[suspect.index].acknowledged = durable && !failed;
    }
    suspects_.clear();
}

const StoredMessage* Catalogue::find(MessageId id) const noexcept {
    const auto found = messages_.find(id.value);
    return found == messages_.end() ? nullptr : &found->second;
}

std::vector<MessageId> Catalogue::ids() const {
    std::vector<MessageId> ids;
    ids.reserve(messages_.size());
    for (const auto& [id, message] : messages_)
        ids.push_back(MessageId{id});
    std::ranges::sort(ids);
    return ids;
}

} // namespace queue::tool
