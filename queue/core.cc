#include "queue/core.h"

#include "dataplane/base/check.h"

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

/// Whether everything `narrow` selects is selected by `wide` too.
[[nodiscard]] bool covers(const QueueFilter& wide, const QueueFilter& narrow) noexcept {
    return (wide.domain.empty() || same_domain(wide.domain, narrow.domain)) &&
           (wide.tenant.empty() || wide.tenant == narrow.tenant) &&
           (wide.account.empty() || wide.account == narrow.account) &&
           (wide.sender.empty() || wide.sender == narrow.sender) &&
           (!wide.id || wide.id == narrow.id);
}

} // namespace

QueueCore::QueueCore(base::Loop& loop, Disk& disk, const QueueOptions& options,
                     const Superblock& superblock)
    : loop_(loop), disk_(disk), options_(options), small_(small_slab_bytes, small_count(options)),
      large_(large_slab_bytes, large_count(options), block_bytes),
      large_reserve_(std::min(64U, large_.slab_count() / 4)), scheduler_(loop), reader_(*this),
      collector_(*this), slab_timer_(*this), log_(loop, disk, *this, superblock) {
    marks_.reserve(4096);
    dirty_.reserve(4096);
}

QueueCore::~QueueCore() {
    log_.stop();
    collector_.stop();
    marks_.clear();
    dirty_.clear();
    index_.clear();
    for (auto& message : storage_) {
        if (message->reference_count() == 0) continue;
        // Somebody outlives the queue with a message: it becomes theirs, without its content.
        log_.abandon(message->ticket_);
        message->content.clear();
        message->retry_.cancel();
        message->owner_ = nullptr;
        static_cast<void>(message.release()); // deleted by retire() of the last reference
    }
}

// --- Accepting ---------------------------------------------------------------------------------

bool QueueCore::full() noexcept {
    const std::uint32_t free = log_.free_segments();
    const std::uint32_t hysteresis =
        std::max(1U, log_.segments().count() * accept_reserve_percent / 100);
    if (free <= log_.accept_reserve()) full_ = true;
    if (free > log_.accept_reserve() + hysteresis) full_ = false;
    return full_;
}

bool QueueCore::memory_scarce() const noexcept {
    constexpr unsigned free_percent = 100 - resident_keep_percent;
    return small_.free_count() * 100ULL < small_.slab_count() * std::uint64_t{free_percent} ||
           large_.free_count() * 100ULL < large_.slab_count() * std::uint64_t{free_percent};
}

SpoolResult<MessageRef> QueueCore::begin(std::uint64_t expected_bytes, DraftUse use) {
    if (closing_ || log_.read_only()) return std::unexpected(SpoolError::read_only);
    if (expected_bytes > options_.content_bytes_max) return std::unexpected(SpoolError::too_large);
    if (use == DraftUse::mail) { // commit() tells a report whether it fits
        if (full()) return std::unexpected(SpoolError::full);
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
    } while (index_.find(message.id) != nullptr);
    message.phase_ = Message::Phase::draft;
    message.envelope.arrival = loop_.wall_now();
    return MessageRef{&message};
}

Message& QueueCore::fresh_message() {
    if (first_free_ == nullptr) {
        storage_.push_back(std::make_unique<Message>());
        first_free_ = storage_.back().get();
        first_free_->owner_ = this;
    }
    Message& message = *first_free_;
    first_free_ = message.next_free_;
    message.next_free_ = nullptr;
    return message;
}

void QueueCore::recycle(Message& message) noexcept {
    message.retry_.cancel();
    log_.abandon(message.ticket_);
    message.envelope.clear();
    message.status.clear();
    message.attempts = 0;
    message.due = {};
    message.last_error.clear();
    message.content_bytes = 0;
    message.content.clear();
    message.phase_ = Message::Phase::blank;
    message.status_dirty_ = message.submitted_ = false;
    message.place_ = {};
    message.payload_bytes_ = message.content_at_ = message.prelude_bytes_ = 0;
    message.chunks_.clear();
    message.chunk_body_bytes_ = 0;
    message.next_ready_ = nullptr;
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

base::WaitQueue& QueueCore::slab_wait() noexcept {
    // Slabs come back from sockets that know nothing of us: look again soon while somebody waits.
    if (!slab_timer_.armed()) loop_.arm(slab_timer_, loop_.now() + std::chrono::milliseconds{1});
    return slab_wait_;
}

void QueueCore::on_slab_timer(base::Timer& timer) noexcept {
    static_cast<SlabTimer&>(timer).core.slab_wait_.wake_all(); // who still lacks one waits again
}

base::Task<SpoolResult<>> QueueCore::wait_slab(base::Deadline deadline) {
    // The slab timer wakes everybody each millisecond, and may always be ahead of the wait's own.
    if (loop_.now() >= deadline.at) co_return std::unexpected(SpoolError::overloaded);
    const base::Wake woken = co_await slab_wait().wait(loop_, deadline);
    if (woken == base::Wake::cancelled) co_return std::unexpected(SpoolError::cancelled);
    if (woken == base::Wake::timed_out) co_return std::unexpected(SpoolError::overloaded);
    co_return SpoolResult<>{};
}

// --- Finishing ---------------------------------------------------------------------------------

void QueueCore::drop_record(Place place, std::uint32_t payload_bytes) noexcept {
    if (!place.valid()) return;
    log_.segments().drop_live(place.slot, record_bytes(payload_bytes));
    loop_.at_turn_end(*this); // its segment may be free now
}

void QueueCore::drop_records(Message& message) noexcept {
    drop_record(std::exchange(message.place_, Place{}), message.payload_bytes_);
    for (const Message::Chunk& chunk : message.chunks_) {
        drop_record(chunk.place, chunk_prefix_bytes + chunk.bytes);
    }
    message.chunks_.clear();
}

void QueueCore::mark(RecordType type, MessageRef message) {
    marks_.push_back({type, std::move(message)});
    loop_.at_turn_end(*this);
}

void QueueCore::mark_dirty(Message& message) {
    if (message.status_dirty_) return;
    message.status_dirty_ = true;
    dirty_.emplace_back(&message);
    loop_.at_turn_end(*this);
}

void QueueCore::discard(MessageRef draft) noexcept {
    Message& message = *draft;
    log_.abandon(message.ticket_);
    message.content.clear();
    message.phase_ = Message::Phase::done;
    if (message
            .submitted_) { // its record may be on the disk, or get there yet: never to be delivered
        mark(RecordType::abort, std::move(draft));
    } else {
        drop_records(message);
    }
}

void QueueCore::settle(MessageRef message) {
    CHECK(message->phase_ == Message::Phase::handed);
    CHECK(message->settled());
    message->phase_ = Message::Phase::done;
    message->content.clear();
    index_.erase(message->id);
    mark(RecordType::tomb, std::move(message));
}

void QueueCore::defer(MessageRef message, base::WallTime due, std::string_view why) {
    CHECK(message->phase_ == Message::Phase::handed);
    message->phase_ = Message::Phase::deferred;
    ++message->attempts;
    message->due = due;
    message->last_error.assign(why.substr(0, last_error_bytes_max));
    message->content.clear();
    ++deferred_;
    mark_dirty(*message);
    scheduler_.schedule(*message);
}

void QueueCore::progress(const Message& message) {
    Message* own = index_.find(message.id);
    if (own != nullptr) mark_dirty(*own);
}

std::uint32_t QueueCore::status_bytes(const Message& message) noexcept {
    return encoded_status_bytes({.last_error = message.last_error}, message.status.size());
}

void QueueCore::write_status(const Message& message) {
    const bool deferred =
        message.phase_ == Message::Phase::deferred || message.phase_ == Message::Phase::held;
    const StatusView status{.due = deferred ? message.due : base::WallTime{},
                            .attempts = message.attempts,
                            .delay_notified = message.envelope.delay_notified,
                            .last_error = message.last_error};
    const std::uint32_t bytes = status_bytes(message);
    RecordWriter writer = log_.begin(RecordType::status, message.id, bytes);
    writer.encode(bytes,
                  [&](std::span<std::byte> to) { encode_status(to, status, message.status); });
    writer.finish(nullptr);
}

void QueueCore::flush_marks() {
    std::size_t written = 0;
    for (; written < marks_.size(); ++written) {
        if (log_.make_room(0, AppendClass::essential) != Room::now) break;
        Message& message = *marks_[written].message;
        log_.begin(marks_[written].type, message.id, 0).finish(nullptr);
        drop_records(
            message); // not earlier: its segments must not be free before this batch is durable
    }
    marks_.erase(marks_.begin(), marks_.begin() + static_cast<std::ptrdiff_t>(written));

    written = 0;
    for (; written < dirty_.size(); ++written) {
        Message& message = *dirty_[written];
        if (message.phase_ != Message::Phase::done) {
            if (log_.make_room(status_bytes(message), AppendClass::essential) != Room::now) break;
            write_status(message);
        }
        message.status_dirty_ = false;
    }
    dirty_.erase(dirty_.begin(), dirty_.begin() + static_cast<std::ptrdiff_t>(written));
}

// --- Handing out -------------------------------------------------------------------------------

void QueueCore::set_sink(ReadySink& sink) {
    sink_ = &sink;
    loop_.at_turn_end(*this);
}

void QueueCore::make_ready(Message& message) noexcept {
    message.phase_ = Message::Phase::ready;
    message.next_ready_ = nullptr;
    (ready_first_ == nullptr ? ready_first_ : ready_last_->next_ready_) = &message;
    ready_last_ = &message;
    loop_.at_turn_end(*this);
}

void QueueCore::hand_out() {
    if (sink_ == nullptr) return;
    for (std::size_t count = 0; ready_first_ != nullptr; ++count) {
        if (count == handouts_per_turn_max) {
            loop_.at_turn_end(*this);
            return;
        }
        Message& message = *ready_first_;
        ready_first_ = message.next_ready_;
        message.next_ready_ = nullptr;
        if (!suspensions_.empty() && suspended(message)) {
            message.phase_ = Message::Phase::held;
            message.content.clear();
            continue;
        }
        message.phase_ = Message::Phase::handed;
        sink_->message_ready(MessageRef{&message});
    }
}

void QueueCore::due(Message& message) noexcept {
    CHECK(message.phase_ == Message::Phase::deferred);
    --deferred_;
    make_ready(message);
}

void QueueCore::hasten(Message& message) noexcept {
    if (message.phase_ != Message::Phase::deferred) return;
    scheduler_.cancel(message);
    due(message);
}

void QueueCore::turn_end() noexcept {
    flush_marks();
    log_.pump();
    collector_.consider();
    hand_out();
}

// --- Waiting -----------------------------------------------------------------------------------

base::Task<SpoolResult<>> QueueCore::wait_room(std::uint32_t payload_bytes,
                                               AppendClass append_class, base::Deadline deadline) {
    for (;;) {
        switch (log_.make_room(payload_bytes, append_class)) {
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
        if (woken == base::Wake::cancelled) co_return std::unexpected(SpoolError::cancelled);
        if (woken == base::Wake::timed_out) co_return std::unexpected(SpoolError::overloaded);
    }
}

base::Task<SpoolResult<>> QueueCore::sync(base::Deadline deadline) {
    flush_marks();
    while (!marks_.empty() || !dirty_.empty()) {
        if (log_.read_only()) co_return std::unexpected(SpoolError::read_only);
        log_.urge();
        const base::Wake woken = co_await log_.room_wait().wait(loop_, deadline);
        if (woken == base::Wake::cancelled) co_return std::unexpected(SpoolError::cancelled);
        if (woken == base::Wake::timed_out) co_return std::unexpected(SpoolError::timed_out);
        flush_marks();
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
    const bool closed = co_await log_.close(deadline);
    if (closed) co_return SpoolResult<>{};
    if (log_.read_only()) co_return std::unexpected(SpoolError::read_only);
    co_return std::unexpected(SpoolError::timed_out);
}

// --- Operator commands -------------------------------------------------------------------------

bool QueueCore::matches(const QueueFilter& filter, const Message& message) const {
    if (filter.id && *filter.id != message.id) return false;
    const Envelope& envelope = message.envelope;
    if (!filter.tenant.empty() && filter.tenant != envelope.tenant()) return false;
    if (!filter.account.empty() && filter.account != envelope.account()) return false;
    if (!filter.sender.empty() && filter.sender != envelope.sender()) return false;
    if (filter.domain.empty()) return true;
    for (std::size_t i = 0; i < envelope.recipient_count(); ++i) {
        const bool pending =
            i >= message.status.size() || message.status[i].state == RecipientState::pending;
        if (pending && same_domain(filter.domain, envelope.recipient_domain(i))) return true;
    }
    return false;
}

void QueueCore::for_each(const QueueFilter& filter,
                         const std::function<bool(const Message&)>& visit) const {
    if (filter.id) {
        const Message* message = index_.find(*filter.id);
        if (message != nullptr && matches(filter, *message)) static_cast<void>(visit(*message));
        return;
    }
    for (const MessageRef& message : index_.slots()) {
        if (message && matches(filter, *message) && !visit(*message)) return;
    }
}

std::uint64_t QueueCore::flush(const QueueFilter& filter) {
    std::uint64_t count = 0;
    for_each(filter, [&](const Message& message) {
        if (message.phase_ != Message::Phase::deferred) return true;
        ++count;
        hasten(*index_.find(message.id));
        return true;
    });
    return count;
}

std::uint64_t QueueCore::suspend(const QueueFilter& filter) {
    suspensions_.push_back(filter);
    std::uint64_t count = 0;
    for_each(filter, [&](const Message&) {
        ++count;
        return true;
    });
    return count;
}

std::uint64_t QueueCore::resume(const QueueFilter& filter) {
    std::erase_if(suspensions_, [&](const QueueFilter& old) { return covers(filter, old); });
    std::uint64_t count = 0;
    for (const MessageRef& message : index_.slots()) {
        if (!message || message->phase_ != Message::Phase::held || suspended(*message)) continue;
        ++count;
        make_ready(*message);
    }
    return count;
}

bool QueueCore::suspended(const Message& message) const {
    return std::ranges::any_of(suspensions_,
                               [&](const QueueFilter& filter) { return matches(filter, message); });
}

QueueCounters QueueCore::counters() const noexcept {
    const LogCounters& log = log_.counters();
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
            .segments_free = log_.free_segments(),
            .segments_total = log_.segments().count(),
            .queued_messages = index_.size(),
            .ready_messages = index_.size() - deferred_,
            .deferred_messages = deferred_,
            .resident_bytes = used(small_) + used(large_)};
}

} // namespace queue
