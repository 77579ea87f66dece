#include "queue/log.h"

#include "dataplane/base/check.h"
#include "queue/seeded_defect.h"

#include <algorithm>
#include <limits>

namespace queue {
namespace {

[[nodiscard]] std::uint32_t batch_capacity_of(const SegmentTable& segments) noexcept {
    return std::min(batch_bytes_max, segments.bytes_min() - segment_header_bytes);
}

} // namespace

Log::Log(base::Loop& loop, Disk& disk, base::TurnEnd& turn_end, const Superblock& superblock,
         std::shared_ptr<const KeyRing> keys, const WriteBounds& bounds)
    : loop_(loop), disk_(disk), turn_end_(turn_end), superblock_(superblock),
      seed_(pool_seed(superblock.pool, superblock.shard)), keys_(std::move(keys)),
      encrypts_(keys_ != nullptr && keys_->encrypts()), cipher_(superblock.pool, superblock.shard),
      segments_(superblock.segment_bytes, superblock.segment_count),
      batch_capacity_(batch_capacity_of(segments_)),
      accept_reserve_(
          std::max(accept_reserve_min, superblock.segment_count * accept_reserve_percent / 100)),
      bounds_(bounds), batches_(bounds.buffers), header_blocks_(segment_header_bytes),
      superblock_blocks_(superblock_copies * block_bytes), next_lsn_(superblock.lsn_base),
      next_segment_seq_(superblock.segment_seq_base),
      lazy_timer_([](base::Timer& timer) noexcept { static_cast<OwnedTimer&>(timer).log.urge(); },
                  *this),
      watermark_timer_(
          [](base::Timer& timer) noexcept {
              Log& log = static_cast<OwnedTimer&>(timer).log;
              if (log.make_room(0, AppendClass::essential) != Room::now) return;
              log.begin(RecordType::watermark, MessageId{}, 0).finish(nullptr);
              log.urge();
          },
          *this),
      hold_timer_(
          [](base::Timer& timer) noexcept {
              Log& log = static_cast<OwnedTimer&>(timer).log;
              log.loop_.at_turn_end(log.turn_end_);
          },
          *this) {
    CHECK(bounds.batch_bytes >= block_bytes);
    CHECK(bounds.buffers >= 2);
    CHECK(bounds.natural_in_flight >= 1);
    superblock_.encrypted = encrypts_;
    for (Batch& batch : batches_) {
        batch.memory = BlockMemory{batch_capacity_};
        batch.tickets.reserve(1024);
    }
}

Log::~Log() {
    for (Batch& batch : batches_) {
        for (Ticket* ticket : batch.tickets) {
            if (ticket == nullptr) continue;
            ticket->batch_ = nullptr;
            ticket->state_ = Ticket::State::failed;
        }
    }
}

base::Task<std::expected<void, DiskError>> Log::start() {
    auto written = co_await write_superblock();
    if (!written) co_return written;
    started_ = true;
    loop_.at_turn_end(turn_end_);
    co_return written;
}

std::uint32_t Log::payload_bytes_max() const noexcept {
    return batch_capacity_ - frame_header_bytes - record_header_bytes - record_tag_bytes;
}

std::uint32_t Log::free_segments() const noexcept {
    return segments_.free_count() + (next_.valid() || preparing_ ? 1 : 0);
}

std::optional<base::TimePoint> Log::oldest_write() const noexcept {
    std::optional<base::TimePoint> oldest;
    if (preparing_) oldest = preparing_since_;
    for (const Batch& batch : batches_) {
        if (batch.state != Batch::State::writing) continue;
        if (!oldest || batch.begun < *oldest) oldest = batch.begun;
    }
    return oldest;
}

/// Not in the segment that is open either: when space is short, one that holds completions alone comes back with the
/// next checkpoint, and the log can go on for ever.
bool Log::mail_fits() const noexcept {
    return free_segments() > (SEEDED_DEFECT(forget_reserve) ? 0 : essential_reserve());
}

Room Log::make_room(std::uint32_t payload_bytes, AppendClass append_class) {
    CHECK(payload_bytes <= payload_bytes_max());
    if (read_only_ || closed_) return Room::read_only;
    if (!started_) return Room::wait;
    if (append_class == AppendClass::mail && !mail_fits()) return Room::full;
    const std::uint32_t bytes = new_record_bytes(payload_bytes);
    if (open_ != nullptr && open_->homeless && !find_home(*open_)) return Room::wait;
    if (open_ != nullptr && open_->used + bytes <= open_->capacity) return Room::now;
    const std::uint32_t frame_bytes = whole_blocks(frame_header_bytes + bytes);
    if (open_ != nullptr && open_->records > 0 && !submit(*open_)) return Room::wait;
    return open_batch(frame_bytes) ? Room::now : Room::wait;
}

bool Log::segment_for(std::uint32_t frame_bytes) {
    if (current_.valid() &&
        current_.write_offset + frame_bytes <= segments_.bytes_of(current_.slot)) {
        return true;
    }
    if (!next_.valid()) {
        // The full one must be in the checkpoint that is waited for, so that it comes back.
        if (current_.valid() && segments_.free_count() <= restart_reserve()) end_current();
        prepare(false);
        if (!next_.valid()) return false;
    }
    if (current_.valid()) end_current();
    current_ = std::exchange(next_, OpenSegment{});
    // A batch that lost its segment brings older records along.
    const bool moving = open_ != nullptr && open_->records > 0;
    segments_.opened(current_.slot, moving ? std::min(open_->first_lsn, next_lsn_) : next_lsn_);
    loop_.at_turn_end(turn_end_); // prepares the one after it
    return true;
}

/// What is being written there goes on.
void Log::end_current() noexcept {
    segments_.seal(current_.slot);
    current_ = {};
    checkpoint_tried_ = false;
    if (open_ == nullptr) return;
    if (open_->records == 0) {
        open_->state = Batch::State::free;
        open_ = nullptr;
    } else {
        open_->homeless = true;
    }
}

/// Of the next batch, which begins with so much.
std::uint32_t Log::capacity_for(std::uint32_t frame_bytes) const noexcept {
    return std::min({std::max(bounds_.batch_bytes, frame_bytes), batch_capacity_,
                     segments_.bytes_of(current_.slot) - current_.write_offset});
}

bool Log::open_batch(std::uint32_t frame_bytes) {
    Batch* batch = open_;
    if (batch == nullptr) {
        auto free = std::ranges::find(batches_, Batch::State::free, &Batch::state);
        if (free == batches_.end()) return false;
        batch = &*free;
    }
    if (!segment_for(frame_bytes)) return false;
    CHECK(batch->tickets.empty());
    batch->state = Batch::State::open;
    batch->urgent = batch->homeless = batch->filled = false;
    batch->slot = current_.slot;
    batch->segment_seq = segments_.seq_of(current_.slot);
    batch->key = segments_.key_of(current_.slot);
    batch->offset = current_.write_offset;
    batch->capacity = capacity_for(frame_bytes);
    batch->used = frame_header_bytes;
    batch->records = 0;
    open_ = batch;
    return true;
}

bool Log::open_record(Place place, const RecordHeader& header,
                      std::span<std::byte> stored) noexcept {
    if (header.payload_bytes == 0) return !header.encrypted();
    // A record that is not encrypted where all others are is not ours.
    if (header.encrypted() != segments_.encrypted(place.slot)) return false;
    if (!header.encrypted()) return true;
    const std::optional<DataKey>& key = segments_.key_of(place.slot);
    return key &&
           cipher_.open_record({*key, segments_.seq_of(place.slot), place.offset, header}, stored);
}

RecordWriter Log::begin(RecordType type, MessageId id, std::uint32_t payload_bytes,
                        std::uint64_t lsn) {
    CHECK(open_ != nullptr);
    CHECK(!open_->homeless);
    CHECK(open_->used + new_record_bytes(payload_bytes) <= open_->capacity);
    const bool skippable = type == RecordType::watermark || type == RecordType::batch_failed;
    const bool encrypted = encrypts_ && payload_bytes != 0;
    return RecordWriter{
        *this, *open_,
        RecordHeader{.type = static_cast<std::uint16_t>(type),
                     .flags = static_cast<std::uint16_t>((skippable ? record_skippable : 0) |
                                                         (encrypted ? record_encrypted : 0)),
                     .payload_bytes = payload_bytes,
                     .lsn = lsn != 0 ? lsn : next_lsn_++,
                     .id = id}};
}

void Log::urge() noexcept {
    if (open_ == nullptr || open_->records == 0) return;
    open_->urgent = true;
    loop_.at_turn_end(turn_end_);
}

/// Whether one is left to mend with when all that is under way is refused at once, the open batch as well.
bool Log::spare_buffer() const noexcept {
    return std::ranges::any_of(
        batches_, [](const Batch& batch) { return batch.state == Batch::State::free; });
}

bool Log::submit(Batch& batch) {
    CHECK(&batch == open_);
    CHECK(batch.records > 0);
    if (in_flight_ > 0 && !spare_buffer()) return false;
    if (batch.homeless && !find_home(batch)) return false;
    CHECK(batch.slot == current_.slot);
    CHECK(batch.offset == current_.write_offset);
    const std::uint32_t bytes = whole_blocks(batch.used);
    const std::span<std::byte> frame = batch.memory.span().first(bytes);
    std::ranges::fill(frame.subspan(batch.used), std::byte{0});

    batch.state = Batch::State::writing;
    batch.begun = submitted_at_ = loop_.now();
    batch.failures_before = failures();
    batch.seq = next_batch_seq_++;
    if (batch.filled) last_filled_batch_ = batch.seq;
    batch.watermark = durable_mark();
    encode_frame_header(frame.first<frame_header_bytes>(),
                        FrameHeader{.shard = superblock_.shard,
                                    .segment_seq = batch.segment_seq,
                                    .batch_seq = batch.seq,
                                    .durable = batch.watermark,
                                    .epoch = superblock_.epoch,
                                    .offset = batch.offset,
                                    .bytes = bytes,
                                    .used = batch.used,
                                    .records = batch.records},
                        seed_);
    open_ = nullptr;
    current_.write_offset += bytes;
    segments_.write_begun(batch.slot);
    ++in_flight_;
    if (SEEDED_DEFECT(ack_on_submit)) settle_tickets(batch, Ticket::State::durable);
    lazy_timer_.cancel();
    watermark_timer_.cancel();
    hold_timer_.cancel();
    batch.task = write_batch(batch);
    batch.task.start();
    return true;
}

base::Task<void> Log::write_batch(Batch& batch) {
    const std::span<const std::byte> frame = batch.memory.span().first(whole_blocks(batch.used));
    const std::uint64_t place = segments_.begin_of(batch.slot) + batch.offset;
    const bool dropped = SEEDED_DEFECT(drop_dsync) && batch.seq % 8 == 0;
    auto result = co_await disk_.write(place, frame, dropped ? Durable::no : Durable::yes);
    if (SEEDED_DEFECT(ignore_short_write) && result == std::unexpected(DiskError::short_transfer))
        result = {};
    --in_flight_;
    segments_.write_ended(batch.slot);
    if (result) {
        succeeded(batch);
    } else {
        failed(batch);
    }
    wake();
}

void Log::succeeded(Batch& batch) {
    failures_in_a_row_ = 0;
    ++counters_.batches;
    counters_.batch_bytes += whole_blocks(batch.used);
    watermark_written_ = std::max(watermark_written_, batch.watermark);
    std::erase_if(failures_unreported_,
                  [&](const Failure& failure) { return failure.reported_in == &batch; });
    batch.state = Batch::State::free;
    settle_tickets(batch, Ticket::State::durable);
}

void Log::settle_tickets(Batch& batch, Ticket::State state) noexcept {
    for (Ticket* ticket : batch.tickets) {
        if (ticket == nullptr) continue;
        ticket->state_ = state;
        ticket->batch_ = nullptr;
        if (state == Ticket::State::failed) {
            segments_.drop_live(ticket->place_.slot, ticket->bytes_);
            segments_.unpend(ticket->place_.slot);
        }
    }
    batch.tickets.clear();
    batch.done.wake_all();
}

void Log::add_ticket(Ticket& ticket, std::uint32_t bytes) {
    Batch& batch = *open_;
    CHECK(ticket.batch_ == nullptr);
    ticket.state_ = Ticket::State::pending;
    ticket.place_ = {batch.slot, batch.offset + batch.used};
    ticket.bytes_ = bytes;
    ticket.batch_ = &batch;
    ticket.index_ = static_cast<std::uint32_t>(batch.tickets.size());
    batch.tickets.push_back(&ticket);
    batch.urgent = true;
    segments_.add_live(batch.slot, bytes);
    segments_.pend(batch.slot);
}

base::WaitQueue& Log::settled(Ticket& ticket) noexcept {
    CHECK(ticket.batch_ != nullptr);
    return ticket.batch_->done;
}

void Log::abandon(Ticket& ticket) noexcept {
    const bool alive =
        ticket.state_ == Ticket::State::pending || ticket.state_ == Ticket::State::durable;
    if (ticket.batch_ != nullptr) ticket.batch_->tickets[ticket.index_] = nullptr;
    if (alive) {
        segments_.drop_live(ticket.place_.slot, ticket.bytes_);
        segments_.unpend(ticket.place_.slot);
    }
    ticket.batch_ = nullptr;
    ticket.state_ = Ticket::State::idle;
    if (alive && !stopping_) loop_.at_turn_end(turn_end_); // its segment may be free now
}

void Log::keep(Ticket& ticket) noexcept {
    CHECK(ticket.state_ == Ticket::State::durable);
    ticket.state_ = Ticket::State::idle;
}

std::uint64_t Log::last_batch_seq() const noexcept {
    const bool open_waits = open_ != nullptr && open_->records > 0;
    return open_waits ? next_batch_seq_ : next_batch_seq_ - 1;
}

std::uint64_t Log::completed() const noexcept {
    std::uint64_t done = next_batch_seq_ - 1;
    for (const Batch& batch : batches_) {
        if (batch.state == Batch::State::writing) done = std::min(done, batch.seq - 1);
    }
    return done;
}

std::uint64_t Log::durable_mark() const noexcept {
    std::uint64_t mark = completed();
    if (SEEDED_DEFECT(forget_failed_batch)) return mark;
    for (const Failure& failure : failures_unreported_)
        mark = std::min(mark, failure.batch_seq - 1);
    return mark;
}

bool Log::salvaging() const noexcept {
    return std::ranges::any_of(
        batches_, [](const Batch& batch) { return batch.state == Batch::State::salvaging; });
}

base::Task<bool> Log::sync(base::Deadline deadline) {
    while (!read_only_) {
        if (salvaging()) { // its records join a later batch, and only then is it known which
            const base::Wake woken = co_await progress_.wait(loop_, deadline);
            if (woken != base::Wake::event) co_return false;
            continue;
        }
        const std::uint64_t failures = failure_count_;
        const std::uint64_t target = last_batch_seq();
        urge();
        while (completed() < target && !read_only_) {
            const base::Wake woken = co_await progress_.wait(loop_, deadline);
            if (woken != base::Wake::event && completed() < target) co_return false;
        }
        if (failures == failure_count_) co_return !read_only_;
    }
    co_return false;
}

bool Log::quiet() const noexcept {
    return in_flight_ == 0 && !preparing_ && !retiring_ && !salvaging() &&
           (open_ == nullptr || open_->records == 0);
}

base::Task<bool> Log::close(base::Deadline deadline) {
    if (closed_) co_return true;
    while (!quiet()) {
        urge();
        const base::Wake woken = co_await progress_.wait(loop_, deadline);
        if (woken != base::Wake::event && !quiet()) co_return false;
    }
    if (read_only_) co_return false;
    closed_ = true;
    room_.wake_all(); // who waits for room learns that there will be none
    lazy_timer_.cancel();
    watermark_timer_.cancel();
    hold_timer_.cancel();
    superblock_.clean = true;
    auto written = co_await write_superblock();
    co_return written.has_value();
}

void Log::pump() {
    if (!started_ || read_only_ || closed_) return;
    for (Batch& batch : batches_) {
        if (batch.state == Batch::State::salvaging) salvage(batch);
    }
    report_failures();
    retire_bad();
    prepare(true);
    if (open_ != nullptr && open_->records > 0 && open_->urgent &&
        in_flight_ < bounds_.natural_in_flight) {
        if (held_back(*open_)) {
            if (!hold_timer_.armed()) loop_.arm(hold_timer_, submitted_at_ + commit_gap);
        } else {
            static_cast<void>(submit(*open_)); // without a segment it stays open until there is one
        }
    }
    arm_timers();
}

/// Whether more is about to share its commit.
bool Log::held_back(const Batch& batch) const noexcept {
    return coming_ >= commit_siblings && batch.used < commit_worth_bytes && !batch.homeless &&
           loop_.now() < submitted_at_ + commit_gap;
}

void Log::arm_timers() noexcept {
    if (read_only_) return;
    if (open_ != nullptr && open_->records > 0) {
        if (!open_->urgent && !lazy_timer_.armed())
            loop_.arm(lazy_timer_, loop_.now() + lazy_flush);
        return;
    }
    if (in_flight_ == 0 && last_filled_batch_ > watermark_written_ && !watermark_timer_.armed()) {
        loop_.arm(watermark_timer_, loop_.now() + watermark_idle);
    }
}

void Log::wake() noexcept {
    room_.wake_all();
    progress_.wake_all();
    loop_.at_turn_end(turn_end_);
}

} // namespace queue
