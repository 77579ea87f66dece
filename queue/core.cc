#include "queue/core.h"

#include "dataplane/base/check.h"
#include "queue/recovery.h"
#include "queue/seeded_defect.h"

#include <algorithm>

namespace queue {
namespace {

// A quarter of the memory goes to small slabs, the rest to large ones. The least of each lets a few
// drafts and one read of the largest record go on at a time.
[[nodiscard]] std::uint32_t small_count(const QueueOptions& options) noexcept {
    return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(
        options.resident_bytes_max / 4 / small_slab_bytes, 256, 1U << 22));
}

[[nodiscard]] std::uint32_t large_count(const QueueOptions& options) noexcept {
    return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(
        options.resident_bytes_max / 4 * 3 / large_slab_bytes, 128, 1U << 20));
}

[[nodiscard]] bool same_domain(std::string_view a, std::string_view b) noexcept {
    constexpr auto lower = [](char c) {
        return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    };
    return std::ranges::equal(a, b, {}, lower, lower);
}

} // namespace

QueueCore::QueueCore(base::Loop& loop, Disk& disk, const QueueOptions& options,
                     const Superblock& superblock)
    : TurnEnd(base::Room::spool), loop_(loop), disk_(disk), options_(options),
      small_(small_slab_bytes, small_count(options)),
      large_(large_slab_bytes, large_count(options), block_bytes),
      large_reserve_(std::min(64U, large_.slab_count() / 4)), tick_base_(loop.now()), schedule_(0),
      reader_(*this), side_writer_(loop, log_, disk), collector_(*this, side_writer_),
      checkpoint_(*this, side_writer_), rotation_(log_, disk, options.keys),
      quarantine_(log_, disk, options.quarantine), scrub_(*this),
      slab_timer_(&QueueCore::on_slab_timer, *this),
      schedule_timer_(&QueueCore::on_schedule_timer, *this),
      log_(loop, disk, *this, superblock, options.keys, options.writes) {
    // An entry counts content in 32 bits, the prelude included.
    constexpr std::uint64_t countable = (std::uint64_t{1} << 32) - 1 - prelude_bytes_max;
    options_.content_bytes_max = std::min(options_.content_bytes_max, countable);
}

QueueCore::~QueueCore() {
    log_.stop();
    recovery_.reset();
    collector_.stop();
    checkpoint_.stop();
    rotation_.stop();
    scrub_.stop();
    quarantine_.stop();
    for (Load& load : loads_)
        load.task = {};
    marks_.clear();
    for (auto& message : storage_)
        message->kept_.reset();
    for (auto& message : storage_) {
        if (message->reference_count() == 0) continue;
        // Somebody outlives the queue with a message: it becomes theirs, without its content.
        log_.abandon(message->ticket_);
        message->content.clear();
        message->owner_ = nullptr;
        message->entry_ = no_entry;
        static_cast<void>(message.release()); // deleted by retire() of the last reference
    }
}

// --- Accepting ---------------------------------------------------------------------------------

SpoolPressure QueueCore::pressure() noexcept {
    const SegmentTable& segments = log_.segments();
    pressure_.sample(loop_.now(), {.segments_total = segments.count(),
                                   .segments_free = log_.free_segments(),
                                   .segments_reserved = log_.accept_reserve(),
                                   .segment_bytes = segments.bytes_min(),
                                   .dead_bytes = segments.dead_bytes()});
    const auto oldest = log_.oldest_write();
    return {.level = pressure_.level(),
            .stuck = oldest && loop_.now() - *oldest > stuck_write,
            .used_percent = pressure_.used_percent(),
            .time_to_full = pressure_.time_to_full()};
}

bool QueueCore::memory_scarce() const noexcept {
    constexpr unsigned free_percent = 100 - resident_keep_percent;
    return small_.free_count() * 100ULL < small_.slab_count() * std::uint64_t{free_percent} ||
           large_.free_count() * 100ULL < large_.slab_count() * std::uint64_t{free_percent};
}

SpoolResult<MessageRef> QueueCore::begin(std::uint64_t expected_bytes, DraftUse use,
                                         std::string_view tenant) {
    const base::InRoom in{base::Room::spool};
    if (closing_ || log_.read_only()) return std::unexpected(SpoolError::read_only);
    if (expected_bytes > options_.content_bytes_max) return std::unexpected(SpoolError::too_large);
    if (use == DraftUse::mail) { // commit() tells a report whether it fits
        const SpoolPressure now = pressure();
        if (now.stuck) return std::unexpected(SpoolError::overloaded);
        if (now.level >= SpoolLevel::nearly_full) {
            loop_.at_turn_end(*this); // a checkpoint or the collector may have waited for its time
            return std::unexpected(SpoolError::full);
        }
        const TextId owner = index_.texts().find(tenant); // 0: nobody's, or one with nothing queued
        const bool known = owner != 0 || tenant.empty();
        if (now.level == SpoolLevel::filling && known && tenants_.over_share(owner))
            return std::unexpected(SpoolError::full);
        const std::uint64_t room = std::uint64_t{log_.free_segments() - log_.accept_reserve()} *
                                   log_.segments().bytes_min();
        if (expected_bytes > room) return std::unexpected(SpoolError::full);
    }
    if (small_.free_count() == 0 && large_.free_count() <= large_reserve_) {
        return std::unexpected(SpoolError::overloaded);
    }
    Message& message = fresh_message();
    const Superblock& superblock = log_.superblock();
    do { // the epoch in an id wraps after 65536 boots: step over what is still queued from back then
        message.id =
            MessageId::make(superblock.shard & 0xFF, superblock.epoch & 0xFFFF, next_id_++);
    } while (index_.find(message.id) != no_entry);
    message.phase_ = Message::Phase::draft;
    log_.coming();
    message.envelope.arrival = loop_.wall_now();
    return MessageRef{&message};
}

Message& QueueCore::fresh_message() {
    if (first_free_ == nullptr) {
        storage_.push_back(std::make_unique<Message>());
        first_free_ = storage_.back().get();
        first_free_->owner_ = this;
        first_free_->number_ = static_cast<std::uint32_t>(storage_.size() - 1);
    }
    Message& message = *first_free_;
    first_free_ = message.next_free_;
    message.next_free_ = nullptr;
    return message;
}

void QueueCore::recycle(Message& message) noexcept {
    detach(message);
    log_.abandon(message.ticket_);
    message.envelope.clear();
    message.status.clear();
    message.attempts = 0;
    message.due = {};
    message.last_error.clear();
    message.content_bytes = 0;
    message.content.clear();
    message.phase_ = Message::Phase::blank;
    message.submitted_ = false;
    message.payload_bytes_ = message.content_at_ = message.prelude_bytes_ = 0;
    message.chunks_.clear();
    message.chunk_body_bytes_ = 0;
    message.next_free_ = first_free_;
    first_free_ = &message;
}

// --- Memory ------------------------------------------------------------------------------------

base::SlabRef QueueCore::take_slab(std::size_t slabs_held) noexcept {
    base::SlabRef slab;
    if (slabs_held < small_slabs_per_message) slab = small_.take();
    if (!slab && large_.free_count() > large_reserve_) slab = large_.take();
    return slab;
}

void QueueCore::arm_slab_timer() noexcept {
    // Slabs come back from sockets that know nothing of us: look again soon while somebody waits.
    if (!slab_timer_.armed()) loop_.arm(slab_timer_, loop_.now() + std::chrono::milliseconds{1});
}

base::WaitQueue& QueueCore::read_wait() noexcept {
    arm_slab_timer();
    return read_wait_;
}

/// Wakes as many as there is memory for, first come first served; who still lacks some waits again.
void QueueCore::on_slab_timer(base::Timer& timer) noexcept {
    const base::InRoom in{base::Room::spool};
    QueueCore& core = static_cast<OwnedTimer&>(timer).core;
    const std::uint32_t large = core.large_.free_count();
    for (std::uint32_t i = 0; i < large && !core.read_wait_.empty(); ++i)
        core.read_wait_.wake_one();
    const std::uint32_t spare = large > core.large_reserve_ ? large - core.large_reserve_ : 0;
    const std::uint32_t drafts = core.small_.free_count() + spare;
    for (std::uint32_t i = 0; i < drafts && !core.draft_wait_.empty(); ++i)
        core.draft_wait_.wake_one();
    if (!core.read_wait_.empty() || !core.draft_wait_.empty()) core.arm_slab_timer();
}

base::Task<SpoolResult<>> QueueCore::wait_slab(base::Deadline deadline) {
    // The slab timer may wake us each millisecond, and may always be ahead of the wait's own.
    if (loop_.now() >= deadline.at) co_return std::unexpected(SpoolError::overloaded);
    arm_slab_timer();
    const base::Wake woken = co_await draft_wait_.wait(loop_, deadline);
    if (woken == base::Wake::cancelled) co_return std::unexpected(SpoolError::cancelled);
    if (woken == base::Wake::timed_out) co_return std::unexpected(SpoolError::overloaded);
    co_return SpoolResult<>{};
}

// --- Finishing ---------------------------------------------------------------------------------

void QueueCore::drop_record(Place place, std::uint32_t payload_bytes) noexcept {
    if (!place.valid()) return;
    SegmentTable& segments = log_.segments();
    segments.drop_live(place.slot, segments.record_bytes_in(place.slot, payload_bytes));
    loop_.at_turn_end(*this); // its segment may be free now
}

void QueueCore::damaged(MessageId id, Place place, std::uint32_t payload_bytes,
                        std::string_view found_by) {
    if (quarantine_.take(id, place, payload_bytes, found_by)) ++damaged_records_;
}

void QueueCore::mark(Mark mark) {
    if (log_.read_only()) return; // nothing can be written any more
    marks_.push(std::move(mark));
    loop_.at_turn_end(*this);
}

void QueueCore::mark_dirty(EntryRef ref) {
    if (log_.read_only()) return;
    Entry& entry = index_[ref];
    if ((entry.flags & Entry::status_dirty) != 0) return;
    entry.flags |= Entry::status_dirty;
    dirty_.push(ref);
    loop_.at_turn_end(*this);
}

void QueueCore::discard(MessageRef draft) noexcept {
    const base::InRoom in{base::Room::spool};
    Message& message = *draft;
    log_.abandon(message.ticket_);
    message.content.clear();
    if (message.phase_ == Message::Phase::draft) log_.came();
    message.phase_ = Message::Phase::done;
    for (const Chunk& chunk : message.chunks_)
        log_.segments().unpend(chunk.place.slot);
    if (message.submitted_ &&
        !SEEDED_DEFECT(
            forget_abort)) { // its record may be on the disk, or get there yet: never to be
                             // delivered
        mark({.type = RecordType::abort, .id = message.id, .chunks = std::move(message.chunks_)});
    } else {
        for (const Chunk& chunk : message.chunks_)
            drop_record(chunk.place, chunk_prefix_bytes + chunk.bytes);
    }
    message.chunks_.clear();
}

Message* QueueCore::object_of(const Entry& entry) const noexcept {
    return entry.object == Entry::none ? nullptr : storage_[entry.object].get();
}

void QueueCore::detach(Message& message) noexcept {
    if (message.entry_ == no_entry) return;
    index_[message.entry_].object = Entry::none;
    message.entry_ = no_entry;
}

Entry& QueueCore::round_of(const Message& message) noexcept {
    CHECK(message.entry_ != no_entry);
    Entry& entry = index_[message.entry_];
    CHECK(entry.state == EntryState::handed);
    return entry;
}

/// What a round has changed goes from the message into its entry.
void QueueCore::store(const Message& message) {
    Entry& entry = index_[message.entry_];
    index_.set_status(message.entry_, message.status);
    if (message.envelope.delay_notified) entry.flags |= Entry::delay_notified;
}

void QueueCore::settle(MessageRef message) {
    const base::InRoom in{base::Room::spool};
    static_cast<void>(round_of(*message));
    CHECK(message->settled());
    const EntryRef ref = message->entry_;
    message->phase_ = Message::Phase::done;
    message->content.clear();
    finish(ref);
}

void QueueCore::finish(EntryRef ref) {
    Entry& entry = index_[ref];
    if (Message* object = object_of(entry)) {
        object->entry_ = no_entry;
        object->phase_ = Message::Phase::done;
        object->kept_.reset();
    }
    tenants_.drop(entry.tenant, entry.content_bytes);
    const std::span<const Chunk> chunks = index_.chunks(entry);
    mark({.type = RecordType::tomb,
          .id = entry.id,
          .place = entry.place,
          .payload_bytes = entry.payload_bytes,
          .chunks = {chunks.begin(), chunks.end()}});
    schedule_.cancel(ref);
    index_.erase(ref);
}

void QueueCore::admit(EntryRef ref, Schedule::Share share) {
    const Entry& entry = index_[ref];
    count_in(entry);
    schedule_.admit(ref, entry.tenant, entry.content_bytes, share);
    if (entry.due > loop_.wall_now()) {
        schedule_.schedule(ref, tick_of(entry.due));
    } else {
        schedule_.ready(ref);
    }
    loop_.at_turn_end(*this);
}

void QueueCore::defer(MessageRef message, base::WallTime due, std::string_view why) {
    const base::InRoom in{base::Room::spool};
    Entry& entry = round_of(*message);
    ++message->attempts;
    message->due = due;
    message->last_error.assign(why.substr(0, last_error_bytes_max));
    message->content.clear();
    entry.state = EntryState::queued;
    entry.attempts = static_cast<std::uint16_t>(std::min(message->attempts, 0xFFFFU));
    entry.due = due;
    index_.set_error(message->entry_, message->last_error);
    store(*message);
    mark_dirty(message->entry_);
    schedule_.set_share(message->entry_, Schedule::Share::retry);
    schedule_.schedule(message->entry_, tick_of(due));
}

void QueueCore::park(MessageRef message, SiteRef site, base::WallTime wake_by) {
    const base::InRoom in{base::Room::spool};
    Entry& entry = round_of(*message);
    message->content.clear();
    entry.state = EntryState::queued;
    store(*message);
    schedule_.park(message->entry_, site, tick_of(wake_by), true);
    loop_.at_turn_end(*this);
}

void QueueCore::hold(MessageRef message) {
    const base::InRoom in{base::Room::spool};
    Entry& entry = round_of(*message);
    message->content.clear();
    entry.state = EntryState::queued;
    store(*message);
    schedule_.hold(message->entry_);
}

void QueueCore::progress(const Message& message) {
    const base::InRoom in{base::Room::spool};
    if (message.entry_ == no_entry) return;
    store(message);
    mark_dirty(message.entry_);
}

bool QueueCore::remove(EntryRef ref) {
    const Entry& entry = index_[ref];
    if (entry.state == EntryState::handed || entry.state == EntryState::loading) return false;
    finish(ref);
    return true;
}

std::uint32_t QueueCore::status_bytes(const Entry& entry) const noexcept {
    return encoded_status_bytes({.last_error = index_.error(entry)}, index_.status(entry).size());
}

void QueueCore::encode_status_of(const Entry& entry, std::span<std::byte> to) const noexcept {
    const bool in_round = entry.state == EntryState::handed || entry.state == EntryState::loading;
    const StatusView status{.due = in_round ? base::WallTime{} : entry.due,
                            .attempts = entry.attempts,
                            .delay_notified = (entry.flags & Entry::delay_notified) != 0,
                            .last_error = index_.error(entry)};
    encode_status(to, status, index_.status(entry));
}

void QueueCore::write_status(Entry& entry) {
    const std::uint32_t bytes = status_bytes(entry);
    RecordWriter writer = log_.begin(RecordType::status, entry.id, bytes);
    entry.lsn = writer.lsn();
    writer.encode(bytes, [&](std::span<std::byte> to) { encode_status_of(entry, to); });
    writer.finish(nullptr);
}

void QueueCore::flush_marks() {
    std::size_t left = marks_per_turn_max;
    for (; !marks_.empty() && left > 0; marks_.pop(), --left) {
        if (log_.make_room(0, AppendClass::essential) != Room::now) break;
        const Mark& mark = marks_.front();
        log_.begin(mark.type, mark.id, 0).finish(nullptr);
        // Not earlier: their segments must not be free before this batch is durable.
        drop_record(mark.place, mark.payload_bytes);
        if (SEEDED_DEFECT(forget_chunks)) continue;
        for (const Chunk& chunk : mark.chunks)
            drop_record(chunk.place, chunk_prefix_bytes + chunk.bytes);
    }
    for (; !dirty_.empty() && left > 0; dirty_.pop(), --left) {
        Entry& entry = index_[dirty_.front()];
        if ((entry.flags & Entry::status_dirty) == 0) continue; // gone, or another's slot by now
        if (log_.make_room(status_bytes(entry), AppendClass::essential) != Room::now) break;
        entry.flags &= static_cast<std::uint8_t>(~Entry::status_dirty);
        write_status(entry);
    }
    if (left == 0) loop_.at_turn_end(*this);
    if (marks_.empty() && dirty_.empty()) flushed_.wake_all();
}

void QueueCore::turn_end() noexcept {
    if (log_.read_only()) {
        marks_.clear();
        dirty_.clear();
    }
    flush_marks();
    log_.pump();
    checkpoint_.consider();
    collector_.consider();
    hand_out();
    arm_schedule();
}

// --- Waiting -----------------------------------------------------------------------------------

base::Task<SpoolResult<>> QueueCore::wait_room(std::uint32_t payload_bytes,
                                               base::Deadline deadline) {
    const auto ended = [](base::Wake woken) {
        return std::unexpected(woken == base::Wake::cancelled ? SpoolError::cancelled
                                                              : SpoolError::overloaded);
    };
    base::WaitLine::Place place{room_line_};
    while (!place.first()) {
        const base::Wake woken = co_await place.called(loop_, deadline);
        if (woken != base::Wake::event) co_return ended(woken);
    }
    for (;;) {
        switch (log_.make_room(payload_bytes, AppendClass::mail)) {
        case Room::now:
            co_return SpoolResult<>{};
        case Room::full:
            co_return std::unexpected(SpoolError::full);
        case Room::read_only:
            co_return std::unexpected(SpoolError::read_only);
        case Room::wait:
            break;
        }
        const base::Wake woken = co_await log_.room_wait().wait(loop_, deadline);
        if (woken != base::Wake::event) co_return ended(woken);
    }
}

base::Task<SpoolResult<>> QueueCore::sync(base::Deadline deadline) {
    flush_marks();
    while (!marks_.empty() || !dirty_.empty()) {
        if (log_.read_only()) co_return std::unexpected(SpoolError::read_only);
        log_.urge();
        const base::Wake woken = co_await flushed_.wait(loop_, deadline);
        if (woken == base::Wake::cancelled) co_return std::unexpected(SpoolError::cancelled);
        if (woken == base::Wake::timed_out) co_return std::unexpected(SpoolError::timed_out);
        flush_marks(); // what has come since is not waited for
    }
    const bool synced = co_await log_.sync(deadline);
    if (synced) co_return SpoolResult<>{};
    if (log_.read_only()) co_return std::unexpected(SpoolError::read_only);
    const bool cancelled = deadline.cancel != nullptr && deadline.cancel->cancelled();
    co_return std::unexpected(cancelled ? SpoolError::cancelled : SpoolError::timed_out);
}

base::Task<SpoolResult<>> QueueCore::close(base::Deadline deadline) {
    closing_ = true;
    auto synced = co_await sync(deadline);
    if (!synced) co_return synced;
    const bool written = co_await checkpoint_.write_last(deadline);
    if (!written) co_return std::unexpected(SpoolError::timed_out);
    const bool closed = co_await log_.close(deadline);
    if (closed) co_return SpoolResult<>{};
    if (log_.read_only()) co_return std::unexpected(SpoolError::read_only);
    co_return std::unexpected(SpoolError::timed_out);
}

void QueueCore::continue_recovery(std::unique_ptr<Recovery> recovery) {
    recovery_ = std::move(recovery);
}

void QueueCore::recovery_ended(bool complete) {
    if (complete) {
        log_.segments().thaw(); // else nothing may be overwritten
        rotation_.start();
        scrub_.start();
    }
    recovered_.wake_all();
    loop_.at_turn_end(*this);
}

base::Task<SpoolResult<>> QueueCore::recovered(base::Deadline deadline) {
    while (!recovery_report_.complete) {
        const base::Wake woken = co_await recovered_.wait(loop_, deadline);
        if (woken == base::Wake::cancelled) co_return std::unexpected(SpoolError::cancelled);
        if (woken == base::Wake::timed_out) co_return std::unexpected(SpoolError::timed_out);
    }
    co_return SpoolResult<>{};
}

// --- Operator commands -------------------------------------------------------------------------

bool QueueCore::matches(const QueueFilter& filter, const Entry& entry) const {
    const TextTable& texts = index_.texts();
    if (filter.id && *filter.id != entry.id) return false;
    if (!filter.tenant.empty() && filter.tenant != texts.text(entry.tenant)) return false;
    if (!filter.account.empty() && filter.account != texts.text(entry.account)) return false;
    if (!filter.sender.empty() && text_hash(filter.sender) != entry.sender_hash) return false;
    if (filter.domain.empty()) return true;
    const std::span<const RecipientStatus> status = index_.status(entry);
    const std::span<const TextId> domains = index_.domains(entry);
    for (std::size_t i = 0; i < status.size(); ++i) {
        const bool pending = status[i].state == RecipientState::pending;
        if (pending && same_domain(filter.domain, texts.text(domains[i]))) return true;
    }
    return false;
}

void QueueCore::for_each(const QueueFilter& filter,
                         const std::function<bool(EntryRef, const Entry&)>& visit) const {
    if (filter.id) {
        const EntryRef ref = index_.find(*filter.id);
        if (ref != no_entry && matches(filter, index_[ref]))
            static_cast<void>(visit(ref, index_[ref]));
        return;
    }
    for (EntryRef ref = 0; ref < index_.slot_count(); ++ref) {
        const Entry& entry = index_[ref];
        if (entry.id.value != 0 && matches(filter, entry) && !visit(ref, entry)) return;
    }
}

bool QueueCore::expedite(EntryRef ref, bool held_too) {
    const Schedule::State state = schedule_.state(ref);
    if (state != Schedule::State::timed && state != Schedule::State::parked &&
        (state != Schedule::State::held || !held_too)) {
        return false;
    }
    schedule_.ready(ref);
    loop_.at_turn_end(*this);
    return true;
}

std::uint64_t QueueCore::flush(const QueueFilter& filter) {
    std::uint64_t count = 0;
    for_each(filter, [&](EntryRef ref, const Entry&) {
        if (expedite(ref)) ++count;
        return true;
    });
    return count;
}

QueueCounters QueueCore::counters() const noexcept {
    const LogCounters& log = log_.counters();
    const Schedule::Counts waiting = schedule_.counts();
    const auto used = [](const base::SlabPool& pool) {
        return std::uint64_t{pool.slab_count() - pool.free_count()} * pool.slab_bytes();
    };
    return {.accepted = accepted_,
            .accepted_bytes = accepted_bytes_,
            .batches = log.batches,
            .batch_bytes = log.batch_bytes,
            .write_errors = log.write_errors,
            .read_errors = read_errors_,
            .damaged_records = damaged_records_,
            .mended_records = mended_records_ + recovery_report_.records_mended,
            .single_copies = scrub_.single_copies(),
            .segments_free = log_.free_segments(),
            .segments_total = log_.segments().count(),
            .segments_bad = log_.superblock().bad_count(),
            .queued_messages = index_.size(),
            .ready_messages = index_.size() - waiting.timed - waiting.parked,
            .deferred_messages = waiting.timed + waiting.parked,
            .resident_bytes = used(small_) + used(large_),
            .collected_bytes = collector_.bytes_copied(),
            .checkpoints = checkpoint_.count(),
            .checkpoint_bytes = checkpoint_.bytes_written(),
            .scrub_bytes = scrub_.bytes_read(),
            .scrub_passes = scrub_.passes(),
            .read_only = log_.read_only() ? 1U : 0U,
            .segments_old_key = rotation_.left()};
}

} // namespace queue
