// verify.cc: reads everything, checks every checksum and every rule that ties records together.
#include "queue/tool/verify.h"

#include "queue/tool/message_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ostream>

namespace queue::tool {
namespace {

using Json = nlohmann::ordered_json;

void judge_superblock(const OpenedPool& pool, Verdict& verdict) {
    const PoolGeometry& geometry = pool.geometry;
    if (geometry.copies_valid < superblock_copies) {
        verdict.problems.push_back("only " + std::to_string(geometry.copies_valid) + " of " +
                                   std::to_string(superblock_copies) +
                                   " copies of the superblock check out");
    }
    if (geometry.superblock.pool_bytes > pool.file->size_bytes())
        verdict.problems.emplace_back("the file is shorter than its superblock says");
    if (geometry.superblock.checkpoint.valid() && !pool.catalogue.checkpoint())
        verdict.problems.emplace_back("the checkpoint cannot be read");
}

void judge_recovery(const RecoveryReport& report, Verdict& verdict) {
    if (report.records_damaged != 0) {
        verdict.problems.push_back(std::to_string(report.records_damaged) +
                                   " acknowledged records did not check out in recovery");
    }
    if (report.checkpoint_lost) verdict.problems.emplace_back("parts of the checkpoint are lost");
    if (report.torn_tails != 0) {
        verdict.remarks.push_back(std::to_string(report.torn_tails) +
                                  " writes were cut short by a crash; nothing of them had been "
                                  "acknowledged");
    }
}

void judge_places(const OpenedPool& pool, Verdict& verdict) {
    std::uint64_t doubtful = 0;
    for (const DamagedPlace& place : pool.catalogue.damage()) {
        if (!place.acknowledged) {
            ++doubtful;
            continue;
        }
        verdict.problems.push_back(
            "slot " + std::to_string(place.slot) + " at " + std::to_string(place.offset) + ": " +
            place.what + (place.id.value != 0 ? " (message " + place.id.to_string() + ")" : ""));
    }
    for (const StoredSegment& segment : pool.catalogue.segments()) {
        if (segment.live_records == 0 || segment.headers == segment_header_copies) continue;
        verdict.problems.push_back("slot " + std::to_string(segment.slot) + ": " +
                                   std::to_string(segment_header_copies - segment.headers) +
                                   " copies of its header do not check out");
    }
    if (doubtful != 0) {
        verdict.remarks.push_back(std::to_string(doubtful) +
                                  " damaged places that may only be writes a crash cut short");
    }
}

/// What the index says must be on the disk, at the very place that it says.
void judge_messages(const OpenedPool& pool, const Console& console, Verdict& verdict) {
    MessageSource source = pool.source();
    const MessageIndex& index = pool.live->index();
    std::vector<EntryRef> entries;
    for (EntryRef ref = 0; ref < index.slot_count(); ++ref) {
        if (index[ref].id.value != 0) entries.push_back(ref);
    }
    std::ranges::sort(entries, {}, [&](EntryRef ref) { return index[ref].place; }); // as they lie
    std::size_t done = 0;
    for (const EntryRef ref : entries) {
        if (console.terminal && done++ % 1024 == 0)
            console.err << "\rchecking message " << done << " of " << entries.size() << std::flush;
        const Entry& entry = index[ref];
        const StoredMessage* stored = pool.catalogue.find(entry.id);
        if (stored == nullptr || !stored->record) continue; // told by LiveView::compare()
        StoredMessage there = *stored;
        there.record->place = entry.place;
        there.record->payload_bytes = entry.payload_bytes;
        there.record->segment_seq = pool.catalogue.segments()[entry.place.slot].seq;
        there.record->encrypted = pool.catalogue.segments()[entry.place.slot].encrypted;
        there.record->damaged = false; // read() finds out
        std::uint32_t number = 0;
        there.chunks.clear();
        for (const Chunk& chunk : index.chunks(entry)) {
            there.chunks.push_back(
                {{.segment_seq = pool.catalogue.segments()[chunk.place.slot].seq,
                  .place = chunk.place,
                  .payload_bytes = chunk_prefix_bytes + chunk.bytes,
                  .type = RecordType::body_chunk,
                  .encrypted = pool.catalogue.segments()[chunk.place.slot].encrypted},
                 {.index = number++}});
        }
        const ReadMessage message = source.read(entry.id, there, false);
        if (!message.good()) {
            verdict.problems.push_back("message " + entry.id.to_string() + ": " + message.problem);
            continue;
        }
        if (message.prefix.content_bytes != entry.content_bytes ||
            message.envelope.recipient_count() != index.status(entry).size()) {
            verdict.problems.push_back("message " + entry.id.to_string() +
                                       ": the index and its envelope disagree");
        }
        ++verdict.messages;
        verdict.content_bytes += message.prefix.content_bytes;
    }
    if (console.terminal) console.err << "\r\033[K" << std::flush;
}

void judge_mirror(const MirrorStanding& mirror, Verdict& verdict) {
    using State = MirrorStanding::State;
    if (mirror.text.empty()) return;
    const bool sound = mirror.state == State::paired || mirror.state == State::alone;
    (sound ? verdict.remarks : verdict.problems).push_back(mirror.text);
}

} // namespace

Verdict judge(const OpenedPool& pool, const Console& console) {
    Verdict verdict;
    judge_mirror(pool.mirror, verdict);
    judge_superblock(pool, verdict);
    judge_places(pool, verdict);
    if (pool.catalogue.locked_records() != 0) {
        verdict.problems.push_back(std::to_string(pool.catalogue.locked_records()) +
                                   " encrypted records do not open with the keys at hand");
    }
    if (pool.live == nullptr) {
        verdict.problems.push_back(pool.why_dead);
        return verdict;
    }
    judge_recovery(pool.live->report(), verdict);
    for (std::string& problem : pool.live->compare(pool.catalogue))
        verdict.problems.push_back(std::move(problem));
    judge_messages(pool, console, verdict);
    return verdict;
}

int verify(const VerifyOptions& options, const Console& console) {
    auto pool =
        open_pool({options.pool, options.mirror, options.key}, PoolFile::Lock::exclusive, console);
    if (!pool) {
        console.err << "millrace-spool: " << pool.error() << '\n';
        return exit_no_pool;
    }
    const Verdict verdict = judge(*pool, console);
    const bool sound = verdict.problems.empty();
    if (options.json) {
        console.out << dump(Json{{"pool", options.pool},
                                 {"sound", sound},
                                 {"messages", verdict.messages},
                                 {"content_bytes", verdict.content_bytes},
                                 {"problems", verdict.problems},
                                 {"remarks", verdict.remarks}})
                    << '\n';
        return sound ? exit_ok : exit_damage;
    }
    for (const std::string& remark : verdict.remarks)
        console.out << "remark: " << remark << '\n';
    for (const std::string& problem : verdict.problems)
        console.out << "damage: " << problem << '\n';
    console.out << options.pool << ": "
                << (sound ? "sound"
                          : std::to_string(verdict.problems.size()) + " problems; what can be read "
                                                                      "is saved by export")
                << ", " << verdict.messages << " queued messages with "
                << human(verdict.content_bytes) << " of content read and checked\n";
    return sound ? exit_ok : exit_damage;
}

} // namespace queue::tool
