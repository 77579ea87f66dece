#include "tests/queue/spool_oracle.h"

#include "queue/disk/crc32c.h"
#include "queue/segment_scan.h"
#include "tests/queue/spool_probe.h"

#include <algorithm>
#include <utility>

namespace tests {

using queue::MessageId;
using queue::RecipientState;

namespace {

constexpr std::size_t violations_max = 20;
// Places in the index that a start takes for messages of which only the completion is missing.
constexpr std::size_t finished_at_start_max = 64;

/// Ended or refused, and the record of that may not be durable.
bool over_in_doubt(const Mail& mail) {
    const bool over = mail.settled || mail.refused || !mail.acknowledged;
    return over && !mail.settled_for_good && !mail.refused_for_good;
}

std::string name(std::uint64_t id) {
    return MessageId{id}.to_string();
}

} // namespace

std::string_view to_string(Invariant invariant) noexcept {
    switch (invariant) {
    case Invariant::acknowledged_survives:
        return "1 acknowledged_survives";
    case Invariant::nothing_false_is_handed_out:
        return "2 nothing_false_is_handed_out";
    case Invariant::no_promise_without_durability:
        return "3 no_promise_without_durability";
    case Invariant::done_stays_done:
        return "4 done_stays_done";
    case Invariant::duplicates_bounded:
        return "5 duplicates_bounded";
    case Invariant::index_is_the_log:
        return "6 index_is_the_log";
    case Invariant::recovery_converges:
        return "7 recovery_converges";
    case Invariant::accounting_agrees:
        return "8 accounting_agrees";
    case Invariant::numbers_never_repeat:
        return "9 numbers_never_repeat";
    case Invariant::status_is_monotonic:
        return "10 status_is_monotonic";
    case Invariant::damage_stays_local:
        return "11 damage_stays_local";
    case Invariant::full_disk_goes_on:
        return "12 full_disk_goes_on";
    case Invariant::memory_is_bounded:
        return "13 memory_is_bounded";
    case Invariant::everything_ends:
        return "14 everything_ends";
    case Invariant::any_image_opens_or_refuses:
        return "15 any_image_opens_or_refuses";
    }
    return "?";
}

Digest digest(std::string_view bytes) noexcept {
    const auto span = base::as_bytes(bytes);
    const std::uint64_t high = queue::crc32c(0x9E3779B9, span);
    return {high << 32 | queue::crc32c(0x7F4A7C15, span), bytes.size()};
}

Digest digest(const queue::Envelope& envelope) {
    queue::Envelope copy = envelope;
    copy.delay_notified = false; // the only thing that changes
    const auto bytes = queue::encoded_envelope_bytes(copy);
    if (!bytes) return {};
    std::string encoded(*bytes, '\0');
    queue::encode_envelope(std::as_writable_bytes(std::span{encoded}), copy);
    return digest(encoded);
}

void Oracle::violate(Invariant invariant, std::string what) {
    if (violations_.size() == violations_max) return;
    violations_.push_back(std::string{to_string(invariant)} + ": " + std::move(what));
}

std::uint64_t Oracle::promised_count() const noexcept {
    return static_cast<std::uint64_t>(std::ranges::count_if(mails_, [](const auto& pair) {
        return pair.second.acknowledged && !pair.second.settled && !pair.second.lost;
    }));
}

// --- Clients and deliveries --------------------------------------------------------------------

void Oracle::begun(World& world, MessageId id, const queue::Envelope& envelope,
                   std::string_view content) {
    const auto [at, inserted] = mails_.try_emplace(id.value);
    if (!inserted) return violate(Invariant::numbers_never_repeat, "message id " + id.to_string());
    at->second.content = digest(content);
    at->second.envelope = digest(envelope);
    at->second.expiry = envelope.expiry;
    at->second.boot = boot_;
    at->second.begun_at = world.loop.now().time_since_epoch().count();
    at->second.states.resize(envelope.recipient_count());
    at->second.states_synced.resize(envelope.recipient_count());
}

void Oracle::acknowledged(World& world, const queue::Message& message) {
    Mail& mail = mails_[message.id.value];
    mail.acknowledged = true;
    mail.acknowledged_at = world.loop.now().time_since_epoch().count();
    ++acknowledged_;
    most_queued_ = std::max(most_queued_, world.queue->index().size());
    if (harmed(world)) return;
    // The promise is out: a power cut in this very moment must leave every byte of it.
    queue::QueueCore& core = queue::QueueProbe::core(*world.queue);
    const queue::MessageIndex& index = world.queue->index();
    const queue::EntryRef ref = index.find(message.id);
    if (ref == queue::no_entry)
        return violate(Invariant::acknowledged_survives,
                       "not in the index: " + message.id.to_string());
    const auto safe = [&](queue::Place place, std::uint32_t payload_bytes) {
        const std::uint64_t begin = core.log().segments().begin_of(place.slot) + place.offset;
        return world.safe(begin, core.log().segments().record_bytes_in(place.slot, payload_bytes));
    };
    const queue::Entry& entry = index[ref];
    bool all = safe(entry.place, entry.payload_bytes);
    for (const queue::Chunk& chunk : index.chunks(entry))
        all = all && safe(chunk.place, queue::chunk_prefix_bytes + chunk.bytes);
    if (!all)
        violate(Invariant::no_promise_without_durability,
                "acknowledged, and not on the medium: " + message.id.to_string());
}

void Oracle::refused(MessageId id) {
    mails_[id.value].refused = true;
    changed_.insert(id.value);
}

void Oracle::handed(World& world, const queue::Message& message, const std::string* content) {
    const auto at = mails_.find(message.id.value);
    if (at == mails_.end())
        return violate(Invariant::nothing_false_is_handed_out,
                       "nobody sent " + message.id.to_string());
    Mail& mail = at->second;
    mail.unannounced = mail.due_max > world.loop.wall_now();
    const bool whole = !harmed(world);
    if (content == nullptr) {
        if (whole)
            violate(Invariant::acknowledged_survives, "unreadable: " + message.id.to_string());
    } else if (digest(*content) != mail.content) {
        violate(Invariant::nothing_false_is_handed_out,
                "content differs: " + message.id.to_string());
    }
    if (digest(message.envelope) != mail.envelope)
        violate(Invariant::nothing_false_is_handed_out,
                "envelope differs: " + message.id.to_string());
    if (!whole) return; // its completion may be what was damaged
    if (mail.settled)
        violate(Invariant::done_stays_done, "handed out again: " + message.id.to_string());
    if (mail.refused)
        violate(Invariant::no_promise_without_durability,
                "refused, and handed out: " + message.id.to_string());
    if (!mail.acknowledged)
        violate(Invariant::no_promise_without_durability,
                "handed out before its client knows: " + message.id.to_string());
}

void Oracle::progressed(const queue::Message& message) {
    Mail& mail = mails_[message.id.value];
    mail.states.resize(message.status.size());
    for (std::size_t i = 0; i < message.status.size(); ++i)
        mail.states[i] = message.status[i].state;
    changed_.insert(message.id.value);
}

void Oracle::deferred(const queue::Message& message, base::WallTime due) {
    progressed(message);
    Mail& mail = mails_[message.id.value];
    ++mail.attempts;
    mail.due_max = std::max(mail.due_max, due);
}

void Oracle::settled(MessageId id, MessageId report) {
    Mail& mail = mails_[id.value];
    mail.settled = true;
    mail.report = report.value;
    changed_.insert(id.value);
}

void Oracle::removed(MessageId id) {
    settled(id);
    mails_[id.value].unannounced = true;
}

std::vector<Oracle::Promise> Oracle::sync_begins() {
    std::vector<Promise> promises;
    for (const std::uint64_t id : std::exchange(changed_, {})) {
        const Mail& mail = mails_[id];
        promises.push_back({id, mail.attempts, mail.states, mail.settled, mail.refused});
    }
    return promises;
}

void Oracle::sync_ended(std::vector<Promise> promises, bool succeeded) {
    for (Promise& promise : promises) {
        if (!succeeded) {
            changed_.insert(promise.id);
            continue;
        }
        Mail& mail = mails_[promise.id];
        mail.attempts_synced = std::max(mail.attempts_synced, promise.attempts);
        mail.states_synced = std::move(promise.states);
        mail.settled_for_good = promise.settled;
        mail.refused_for_good = promise.refused;
    }
}

void Oracle::boot_ends(World& world) {
    static_cast<void>(harmed(world));
    changed_.clear();
    for (auto& [id, mail] : mails_) {
        const bool last_moment = !mail.acknowledged || mail.settled != mail.settled_for_good ||
                                 mail.refused != mail.refused_for_good ||
                                 mail.attempts != mail.attempts_synced ||
                                 mail.states != mail.states_synced;
        mail.loose = mail.loose || (world.second && last_moment);
        mail.ended_once = mail.ended_once || mail.settled || mail.refused;
        mail.attempts_ever = std::max(mail.attempts_ever, mail.attempts);
    }
}

bool Oracle::harmed(const World& world) noexcept {
    if (world.damage_count() != 0) damaged_ = true;
    return damaged_;
}

// --- After a boot ------------------------------------------------------------------------------

/// What is on the disk now is what there is, and on both halves of a mirror.
void Oracle::take_over(Mail& mail, const queue::Message& message) {
    mail.acknowledged = true;
    mail.settled = mail.settled_for_good = mail.refused = mail.refused_for_good = false;
    mail.report = 0;
    mail.attempts = message.attempts;
    mail.states.clear();
    for (const queue::RecipientStatus& status : message.status)
        mail.states.push_back(status.state);
    mail.attempts_synced = mail.attempts;
    mail.states_synced = mail.states;
}

void Oracle::check_one(World& world, Mail& mail, const queue::Message& message) {
    const std::string id = message.id.to_string();
    if (!damaged_) { // a status or completion that is damaged only means that something is done again
        if (mail.settled_for_good) violate(Invariant::done_stays_done, "is back: " + id);
        if (mail.refused_for_good)
            violate(Invariant::no_promise_without_durability, "refused, and is there: " + id);
        if (message.attempts < mail.attempts_synced)
            violate(Invariant::status_is_monotonic, "attempts lost: " + id);
    }
    if (message.attempts > (mail.loose ? mail.attempts_ever : mail.attempts))
        violate(Invariant::status_is_monotonic, "attempts that nobody made: " + id + ": " +
                                                    std::to_string(message.attempts) + " of " +
                                                    std::to_string(mail.attempts));
    // What could not be read is asked for again a little later.
    if (!damaged_ && message.due > mail.due_max && mail.due_max != base::WallTime{})
        violate(Invariant::status_is_monotonic, "due later than anybody said: " + id);
    if (message.status.size() != mail.states.size())
        return violate(Invariant::acknowledged_survives, "recipients differ: " + id);
    for (std::size_t i = 0; i < mail.states.size(); ++i) {
        const RecipientState state = message.status[i].state;
        const RecipientState synced = mail.states_synced[i];
        if (!damaged_ && synced != RecipientState::pending && state != synced)
            violate(Invariant::done_stays_done, "a recipient is attempted again: " + id);
        if (state != RecipientState::pending && state != mail.states[i] && !mail.settled &&
            !mail.loose)
            violate(Invariant::status_is_monotonic, "a state that nobody reached: " + id);
    }
    if (digest(message.envelope) != mail.envelope)
        violate(Invariant::acknowledged_survives, "envelope differs: " + id);
    auto content =
        world.content(world.run(world.queue->load(message.id, base::Deadline::never())).value());
    if (!content) {
        if (!harmed(world)) violate(Invariant::acknowledged_survives, "unreadable: " + id);
    } else if (digest(*content) != mail.content) {
        violate(Invariant::nothing_false_is_handed_out, "content differs: " + id);
    }
}

void Oracle::check_missing(World& world, std::uint64_t id, Mail& mail) {
    if (mail.lost) return;
    if (mail.loose && mail.ended_once && mail.acknowledged) mail.settled = true;
    if (mail.settled) {
        const auto report = mails_.find(mail.report);
        if (mail.report != 0 && (report == mails_.end() || !report->second.acknowledged))
            violate(Invariant::status_is_monotonic, "ended without a report: " + name(id));
        mail.settled_for_good = mail.settled_for_good || !mail.loose;
        return;
    }
    if (!mail.acknowledged) {
        mail.refused = true; // it is not there, and never comes
        // But what was never promised may lie on a half that is away or was left behind, and come back with it.
        if (!world.second) mail.refused_for_good = true;
        return;
    }
    mail.lost = true;
    ++lost_;
    if (!damaged_) return violate(Invariant::acknowledged_survives, "lost: " + name(id));
    // What a device loses of the last moment before a power cut, no later write names. docs/reliability.md, "What one
    // disk cannot do".
    const bool last_moment = mail.boot == boot_ - 1 && mail.acknowledged_at >= told_until_;
    if (!last_moment) missed_.emplace(mail.boot, mail.acknowledged_at);
}

/// A batch that is not found counts as one, whatever was in it. Without the checkpoint nobody can say how many there
/// should be: that it is lost is all that is told.
void Oracle::check_told(const queue::RecoveryReport& report) {
    const std::uint64_t told = report.records_damaged + report.torn_tails;
    if (missed_.size() > told && !report.checkpoint_lost)
        violate(Invariant::acknowledged_survives,
                "of " + std::to_string(missed_.size()) +
                    " batches mail is lost, and the restart tells of " + std::to_string(told));
    missed_.clear();
}

void Oracle::check_opened(World& world) {
    const queue::RecoveryReport& report = world.report;
    most_queued_ = std::max(most_queued_, world.queue->index().size());
    if (!damaged_) {
        // With nowhere left to write to, a slot is used before the ends of its messages are durable (log.cc,
        // "stranded"): what was ended or refused and is in doubt may then be found in pieces.
        const auto in_doubt = std::ranges::count_if(mails_, [](const auto& pair) {
            return over_in_doubt(pair.second) && pair.second.content.bytes > 90'000;
        });
        if (report.records_damaged > static_cast<std::uint64_t>(in_doubt))
            violate(Invariant::damage_stays_local,
                    std::to_string(report.records_damaged) + " records count as damaged");
        if (report.checkpoint_lost) violate(Invariant::index_is_the_log, "the checkpoint is lost");
    }
    // Sent while the rest was still being found; more come while we look.
    for (const auto& [id, mail] : mails_) {
        if (mail.boot == boot_ && mail.acknowledged &&
            world.queue->index().find(MessageId{id}) == queue::no_entry)
            violate(Invariant::acknowledged_survives, "lost while recovering: " + name(id));
    }
    std::vector<std::pair<MessageId, queue::EntryState>> ids;
    world.queue->for_each({}, [&](queue::EntryRef, const queue::Entry& entry) {
        ids.emplace_back(entry.id, entry.state);
        return true;
    });
    std::set<std::uint64_t> found;
    told_until_ = 0;
    std::uint64_t again = 0;
    std::string first_again;
    for (const auto& [id, state] : ids) {
        found.insert(id.value);
        const auto at = mails_.find(id.value);
        if (at == mails_.end()) {
            violate(Invariant::nothing_false_is_handed_out, "nobody sent " + id.to_string());
            continue;
        }
        auto message = world.run(world.queue->load(id, base::Deadline::never()));
        if (!message) {
            if (over_in_doubt(at->second)) continue;
            if (!harmed(world))
                violate(Invariant::acknowledged_survives,
                        "unreadable: " + id.to_string() + ": " +
                            std::string{to_string(message.error())});
            ++lost_; // told: it cannot be read
            continue;
        }
        if (at->second.boot == boot_) continue;
        if (at->second.boot == boot_ - 1) told_until_ = std::max(told_until_, at->second.begun_at);
        // The restart goes by what is due, and the clock may have been set back.
        const bool due = (*message)->due <= world.loop.wall_now();
        if (at->second.settled && !at->second.unannounced && due) {
            ++again;
            first_again = id.to_string() + " due in " +
                          std::to_string(((*message)->due - world.loop.wall_now()).count()) + " ms";
        }
        check_one(world, at->second, **message);
        take_over(at->second, **message);
    }
    for (auto& [id, mail] : mails_) {
        if (!found.contains(id) && mail.boot != boot_) check_missing(world, id, mail);
    }
    check_told(report);
    if (!harmed(world) && again > report.possible_duplicates)
        violate(Invariant::duplicates_bounded,
                std::to_string(again) + " delivered messages are back, and the restart speaks of " +
                    std::to_string(report.possible_duplicates) + ": " + first_again);
    if (clean_boot_ == boot_ - 1 && !damaged_ &&
        (again != 0 || report.possible_duplicates != 0 || report.torn_tails != 0))
        violate(Invariant::duplicates_bounded, "in doubt after an orderly end");
}

// --- Books -------------------------------------------------------------------------------------

void Oracle::check_accounting(World& world) {
    if (harmed(world)) return;
    queue::QueueCore& core = queue::QueueProbe::core(*world.queue);
    // A checkpoint whose superblock was refused keeps its records until the next boot.
    if (core.side_busy() || core.log().read_only()) return;
    struct Live {
        std::uint64_t records = 0, bytes = 0;
    };
    std::vector<Live> live(core.log().segments().count());
    const auto add = [&](queue::Place place, std::uint32_t payload_bytes) {
        ++live[place.slot].records;
        live[place.slot].bytes += core.log().segments().record_bytes_in(place.slot, payload_bytes);
    };
    const queue::MessageIndex& index = world.queue->index();
    world.queue->for_each({}, [&](queue::EntryRef, const queue::Entry& entry) {
        add(entry.place, entry.payload_bytes);
        for (const queue::Chunk& chunk : index.chunks(entry))
            add(chunk.place, queue::chunk_prefix_bytes + chunk.bytes);
        return true;
    });
    for (const queue::CheckpointPart& part : queue::QueueProbe::checkpoint(core))
        add({part.slot, part.offset}, part.payload_bytes);
    queue::QueueProbe::for_each_mark(core, add);
    for (std::uint32_t slot = 0; slot < live.size(); ++slot) {
        const std::uint64_t records = core.log().segments().live_records(slot);
        const std::uint64_t bytes = core.log().segments().live_bytes(slot);
        if (records == live[slot].records && bytes == live[slot].bytes) continue;
        violate(Invariant::accounting_agrees, "slot " + std::to_string(slot) + " counts " +
                                                  std::to_string(records) + " records of " +
                                                  std::to_string(bytes) + " bytes, and " +
                                                  std::to_string(live[slot].records) + " of " +
                                                  std::to_string(live[slot].bytes) + " live there");
    }
}

namespace {

/// Of each copy of a segment, as far as it is of the newest generation. One that rots is asked last, and only for
/// what the other says is there.
std::vector<queue::SegmentScan> scans_of(World& world, std::uint32_t slot) {
    queue::QueueCore& core = queue::QueueProbe::core(*world.queue);
    const queue::Superblock& superblock = core.log().superblock();
    const queue::SegmentTable& segments = core.log().segments();
    std::vector<queue::SegmentScan> scans;
    std::uint64_t newest = 0;
    for (const unsigned side : world.copies()) {
        const std::span<const std::byte> bytes = world.half(side).bytes();
        scans.push_back(
            queue::scan_segment(bytes.subspan(segments.begin_of(slot), segments.bytes_of(slot)),
                                superblock.pool, superblock.shard, slot));
        if (!world.rots(side)) newest = std::max(newest, scans.back().segment_seq);
    }
    std::erase_if(scans, [&](const queue::SegmentScan& scan) {
        return scan.segment_seq == 0 || scan.segment_seq != newest;
    });
    return scans;
}

} // namespace

void Oracle::check_disk(World& world, bool fold) {
    if (harmed(world)) return;
    queue::QueueCore& core = queue::QueueProbe::core(*world.queue);
    const queue::Superblock& superblock = core.log().superblock();
    const queue::SegmentTable& segments = core.log().segments();
    struct Newest {
        std::uint64_t lsn = 0, status_lsn = 0;
        std::uint32_t attempts = 0;
    };
    std::map<std::uint64_t, Newest> messages;
    std::set<std::uint64_t> finished;
    std::vector<queue::RecipientStatus> recipients;
    for (std::uint32_t slot = 0; slot < segments.count(); ++slot) {
        if (superblock.bad(slot)) continue;
        for (const queue::SegmentScan& scan : scans_of(world, slot)) {
            for (const queue::FoundFrame& frame : scan.frames) {
                const std::uint64_t place = std::uint64_t{frame.header.epoch} << 32 | slot;
                const auto [at, fresh] = place_of_segment_.try_emplace(scan.segment_seq, place);
                if (!fresh && at->second != place)
                    violate(Invariant::numbers_never_repeat,
                            "segment number " + std::to_string(scan.segment_seq));
            }
            for (const queue::FoundRecord& record : scan.records) {
                const queue::RecordHeader& header = record.header;
                std::vector<std::byte> opened{record.payload.begin(), record.payload.end()};
                // The keys of what is overwritten next are gone already.
                const bool readable = scan.segment_seq == segments.seq_of(slot) &&
                                      core.log().open_record({slot, record.offset}, header, opened);
                if (!readable && header.encrypted()) continue;
                opened.resize(header.payload_bytes);
                const std::span<const std::byte> payload = opened;
                const std::uint64_t what =
                    std::uint64_t{queue::crc32c(header.type, payload)} << 32 ^ header.id.value;
                const auto [at, fresh] = record_of_lsn_.try_emplace(header.lsn, what);
                if (!fresh && at->second != what)
                    violate(Invariant::numbers_never_repeat, "LSN " + std::to_string(header.lsn));
                Newest& newest = messages[header.id.value];
                switch (static_cast<queue::RecordType>(header.type)) {
                case queue::RecordType::message:
                case queue::RecordType::message_commit:
                    newest.lsn = std::max(newest.lsn, header.lsn);
                    break;
                case queue::RecordType::tomb:
                case queue::RecordType::abort:
                    finished.insert(header.id.value);
                    break;
                case queue::RecordType::status:
                    if (header.lsn < newest.status_lsn) break;
                    if (auto view = queue::decode_status(payload, recipients)) {
                        newest.status_lsn = header.lsn;
                        newest.attempts = view->attempts;
                    }
                    break;
                default:
                    break;
                }
            }
        }
    }
    if (!fold) return;
    // A checkpoint has what was known when it was made, also of a round whose status still waited for a buffer.
    const auto by_checkpoint = [&](const queue::Entry& entry, std::uint64_t lsn,
                                   unsigned attempts) {
        return world.report.checkpoint_entries != 0 && lsn == entry.lsn &&
               attempts < entry.attempts;
    };
    world.queue->for_each({}, [&](queue::EntryRef, const queue::Entry& entry) {
        const auto at = messages.find(entry.id.value);
        const std::string id = entry.id.to_string();
        const auto mail = mails_.find(entry.id.value);
        const bool loose = mail != mails_.end() && mail->second.loose;
        if (mail != mails_.end() &&
            (over_in_doubt(mail->second) || (loose && mail->second.ended_once)))
            return true;
        if (at == messages.end() || at->second.lsn == 0) {
            violate(Invariant::index_is_the_log, "in the index, and not on the disk: " + id);
        } else if (finished.contains(entry.id.value)) {
            violate(Invariant::index_is_the_log, "in the index, and finished on the disk: " + id);
        } else if (!loose && at->second.status_lsn >= entry.lsn && at->second.status_lsn != 0 &&
                   at->second.attempts != entry.attempts &&
                   !by_checkpoint(entry, at->second.status_lsn, at->second.attempts)) {
            violate(Invariant::index_is_the_log,
                    "the disk's status is another one: " + id + ": attempt " +
                        std::to_string(at->second.attempts) + ", LSN " +
                        std::to_string(at->second.status_lsn) + ", and not " +
                        std::to_string(entry.attempts) + ", LSN " + std::to_string(entry.lsn));
        }
        return true;
    });
    for (const auto& [id, newest] : messages) {
        if (newest.lsn == 0 || finished.contains(id)) continue;
        const auto mail = mails_.find(id);
        const bool wanted = mail != mails_.end() && mail->second.acknowledged &&
                            !mail->second.settled && !mail->second.lost;
        if (wanted && world.queue->index().find(MessageId{id}) == queue::no_entry)
            violate(Invariant::index_is_the_log, "on the disk, and not in the index: " + name(id));
    }
}

void Oracle::check_bounds(World& world) {
    const queue::QueueCounters counters = world.queue->counters();
    std::uint64_t arena = 0;
    for (const std::span<std::byte> part : world.queue->arenas())
        arena += part.size();
    // What it may be at least, core.cc: 256 small slabs and 128 large ones.
    constexpr std::uint64_t arena_min =
        256 * queue::small_slab_bytes + 128 * queue::large_slab_bytes;
    if (counters.resident_bytes > arena || arena > world.options.resident_bytes_max + arena_min)
        violate(Invariant::memory_is_bounded, "more content than there is memory");
    // Places in the index are used again.
    const queue::MessageIndex& index = world.queue->index();
    if (index.slot_count() > most_queued_ + finished_at_start_max)
        violate(Invariant::memory_is_bounded, std::to_string(index.slot_count()) +
                                                  " places in the index for at most " +
                                                  std::to_string(most_queued_) + " messages");
    // Batches, one frame of the collector or a checkpoint, a header and a superblock.
    queue::QueueCore& core = queue::QueueProbe::core(*world.queue);
    const std::uint64_t batch_max = core.log().payload_bytes_max() + queue::block_bytes;
    std::uint64_t pending_max = (world.options.writes.buffers + 1) * batch_max + 65536;
    // Content, the collector's or the scrub's window, and what their blocks have in common with others.
    std::uint64_t reading_max = arena + 2 * queue::collect_window_bytes;
    if (world.second) {
        pending_max += queue::mirror_window_bytes + queue::block_bytes;
        reading_max += queue::mirror_window_bytes;
    }
    for (unsigned side = 0; side < (world.second ? 2 : 1); ++side) {
        const std::uint64_t bytes = world.half(side).pending_bytes_max();
        if (bytes > pending_max)
            violate(Invariant::memory_is_bounded,
                    std::to_string(bytes) + " bytes of writes at once");
        const std::uint64_t reading = world.half(side).reading_bytes_max();
        if (reading > reading_max)
            violate(Invariant::memory_is_bounded,
                    std::to_string(reading) + " bytes of reads at once");
    }
}

void Oracle::check_drained(World& world) {
    for (const auto& [id, mail] : mails_) {
        if (mail.acknowledged && !mail.settled && !mail.lost)
            violate(Invariant::everything_ends, "never delivered: " + name(id));
    }
    if (harmed(world)) return;
    if (world.queue->counters().resident_bytes != 0)
        violate(Invariant::memory_is_bounded, "content stays in memory although nothing is queued");
    const queue::MessageIndex& index = world.queue->index();
    if (index.size() == 0 && (index.texts().size() != 0 || index.errors().size() != 0))
        violate(Invariant::memory_is_bounded, "texts stay in memory although nothing is queued");
}

} // namespace tests
