#include "queue/recovery.h"
#include "queue/seeded_defect.h"

#include <algorithm>
#include <ranges>
#include <utility>

// What was read becomes the index, in the background, and is judged: what is missing, and who was told of it.

namespace queue {

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
    judge_locked();
    end({});
}

base::Task<void> Recovery::read_checkpoint() {
    return all_of(checkpoint_.parts.size(),
                  [this](std::size_t number) { return read_part(number); });
}

base::Task<void> Recovery::read_part(std::size_t number) {
    const CheckpointPart part = checkpoint_.parts[number];
    const SegmentTable& segments = core_->log().segments();
    RecoveryReport& report = core_->recovery_report();
    const auto slot = segments.slot_of(part.segment_seq);
    BlockMemory memory;
    std::span<const std::byte> payload;
    if (slot) {
        const RecordAt at{.type = RecordType::checkpoint_part,
                          .slot = *slot,
                          .seq = part.segment_seq,
                          .offset = part.offset,
                          .payload_bytes = part.payload_bytes,
                          .encrypted = segments.encrypted(*slot),
                          .key = segments.key_of(*slot)};
        payload = co_await read_record(&at, &memory);
    }
    auto reader = CheckpointReader::open(payload);
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

/// \param prefix_bytes  of the record's payload, that the part does not count
std::optional<Place> Recovery::place_of(const CheckpointPart& part,
                                        std::uint32_t prefix_bytes) const {
    const SegmentTable& segments = core_->log().segments();
    const auto slot = segments.slot_of(part.segment_seq);
    if (!slot || part.payload_bytes > record_payload_bytes_max) return std::nullopt;
    if (!segments.has_room_for(*slot, part.offset, prefix_bytes + part.payload_bytes))
        return std::nullopt;
    return Place{*slot, part.offset};
}

/// Where a checkpoint's chunk is now: copies that were made afterwards are in the log, and what they were
/// made of may be overwritten.
std::optional<Place> Recovery::place_of_chunk(MessageId id, std::size_t number,
                                              const CheckpointPart& part) const {
    std::uint64_t newest = 0;
    std::optional<Place> place = place_of(part, chunk_prefix_bytes);
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

/// Nothing below the floor was wanted any more, and all of a message lies where it is wanted: it had ended, even if
/// the record that says so was not durable yet.
bool Recovery::ended(const CheckpointPart& part) const noexcept {
    return part.segment_seq < superblock_.segment_floor;
}

void Recovery::enter_entry(const CheckpointEntry& found) {
    MessageIndex& index = core_->index();
    RecoveryReport& report = core_->recovery_report();
    const std::uint64_t id = found.id.value;
    if (finished_.contains(id) || index.find(found.id) != no_entry) return;
    const auto copy = found_.find(id);
    std::optional<Place> place =
        copy != found_.end() ? std::optional{copy->second.place} : place_of(found.place, 0);
    if (!place && ended(found.place)) return;
    std::vector<Chunk> chunks;
    for (std::size_t i = 0; i < found.chunks.size(); ++i) {
        const auto at = place_of_chunk(found.id, i, found.chunks[i]);
        if (!at && ended(found.chunks[i])) return;
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
    entry.payload_bytes =
        copy != found_.end() ? copy->second.payload_bytes : found.place.payload_bytes;
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

/// The key went with the header of a segment, mostly of one that was about to be used again. Only what is missed counts.
void Recovery::judge_locked() {
    const MessageIndex& index = core_->index();
    for (const Locked& record : locked_) {
        if (finished_.contains(record.id.value)) continue;
        const EntryRef ref = index.find(record.id);
        const auto type = static_cast<RecordType>(record.type);
        const bool mail = type == RecordType::message || type == RecordType::message_commit;
        // Of a message whose content cannot be had its delivery tells.
        const bool missed =
            mail ? ref == no_entry && record.lsn >= messages_from_
                 : type == RecordType::status && ref != no_entry && record.lsn > index[ref].lsn;
        if (missed) ++core_->recovery_report().records_damaged;
    }
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
    locked_.clear();
    epochs_.clear();
    core_->recovery_ended(!failed_);
}

/// Of what a crash cut short only the last boot's is news.
void Recovery::judge_frames() {
    RecoveryReport& report = core_->recovery_report();
    for (auto& [number, epoch] : epochs_) {
        const EpochJudgement judgement = judge(epoch);
        report.records_damaged += judgement.damaged;
        if (number == superblock_.epoch) report.torn_tails += judgement.torn;
    }
}

} // namespace queue
