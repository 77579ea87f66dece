#include "queue/log.h"

#include "dataplane/base/check.h"
#include "queue/disk/crc32c.h"
#include "queue/seeded_defect.h"

#include <algorithm>
#include <limits>

namespace queue {
namespace {

[[nodiscard]] constexpr std::uint32_t whole_blocks(std::uint32_t bytes) noexcept {
    return static_cast<std::uint32_t>((bytes + (block_bytes - 1)) & ~(block_bytes - 1));
}

[[nodiscard]] std::uint32_t batch_capacity_of(const SegmentTable& segments) noexcept {
    return std::min(batch_bytes_max, segments.bytes_min() - segment_header_bytes);
}

} // namespace

Log::Log(base::Loop& loop, Disk& disk, base::TurnEnd& turn_end, const Superblock& superblock,
         std::shared_ptr<const KeyRing> keys)
    : loop_(loop), disk_(disk), turn_end_(turn_end), superblock_(superblock),
      seed_(pool_seed(superblock.pool, superblock.shard)), keys_(std::move(keys)),
      encrypts_(keys_ != nullptr && keys_->encrypts()), cipher_(superblock.pool, superblock.shard),
      segments_(superblock.segment_bytes, superblock.segment_count),
      batch_capacity_(batch_capacity_of(segments_)),
      accept_reserve_(
          std::max(accept_reserve_min, superblock.segment_count * accept_reserve_percent / 100)),
      header_blocks_(segment_header_bytes), superblock_blocks_(superblock_copies * block_bytes),
      next_lsn_(superblock.lsn_base), next_segment_seq_(superblock.segment_seq_base),
      lazy_timer_([](base::Timer& timer) noexcept { static_cast<OwnedTimer&>(timer).log.urge(); },
                  *this),
      watermark_timer_(
          [](base::Timer& timer) noexcept {
              Log& log = static_cast<OwnedTimer&>(timer).log;
              if (log.make_room(0, AppendClass::essential) != Room::now) return;
              log.begin(RecordType::watermark, MessageId{}, 0).finish(nullptr);
              log.urge();
          },
          *this) {
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

bool Log::mail_fits(std::uint32_t frame_bytes) const noexcept {
    if (current_.valid()) {
        std::uint32_t end = current_.write_offset;
        if (open_ != nullptr && !open_->homeless) end += whole_blocks(open_->used);
        if (end + frame_bytes <= segments_.bytes_of(current_.slot)) return true;
    }
    return free_segments() > (SEEDED_DEFECT(forget_reserve) ? 0 : essential_reserve);
}

Room Log::make_room(std::uint32_t payload_bytes, AppendClass append_class) {
    CHECK(payload_bytes <= payload_bytes_max());
    if (read_only_ || closed_) return Room::read_only;
    if (!started_) return Room::wait;
    const std::uint32_t bytes = new_record_bytes(payload_bytes);
    if (open_ != nullptr && open_->homeless && !find_home(*open_)) return Room::wait;
    if (open_ != nullptr && open_->used + bytes <= open_->capacity) return Room::now;
    const std::uint32_t frame_bytes = whole_blocks(frame_header_bytes + bytes);
    if (append_class == AppendClass::mail && !mail_fits(frame_bytes)) return Room::full;
    if (open_ != nullptr && open_->records > 0 && !submit(*open_)) return Room::wait;
    return open_batch(frame_bytes) ? Room::now : Room::wait;
}

bool Log::segment_for(std::uint32_t frame_bytes) {
    if (current_.valid() &&
        current_.write_offset + frame_bytes <= segments_.bytes_of(current_.slot)) {
        return true;
    }
    if (!next_.valid()) {
        prepare();
        if (!next_.valid()) return false;
    }
    if (current_.valid()) {
        segments_.seal(current_.slot);
        checkpointed_ = false;
    }
    current_ = std::exchange(next_, OpenSegment{});
    // A batch that lost its segment brings older records along.
    const bool moving = open_ != nullptr && open_->records > 0;
    segments_.opened(current_.slot, moving ? std::min(open_->first_lsn, next_lsn_) : next_lsn_);
    loop_.at_turn_end(turn_end_); // prepares the one after it
    return true;
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
    batch->capacity =
        std::min(batch_capacity_, segments_.bytes_of(current_.slot) - current_.write_offset);
    batch->used = frame_header_bytes;
    batch->records = 0;
    open_ = batch;
    return true;
}

bool Log::find_home(Batch& batch) {
    if (!segment_for(whole_blocks(batch.used))) return false;
    const std::uint32_t old_offset = batch.offset;
    const std::uint64_t old_seq = batch.segment_seq;
    const std::optional<DataKey> old_key = batch.key;
    for (Ticket* ticket : batch.tickets) {
        if (ticket == nullptr) continue;
        segments_.drop_live(ticket->place_.slot, ticket->bytes_);
        segments_.unpend(ticket->place_.slot);
        ticket->place_ = {current_.slot,
                          ticket->place_.offset - old_offset + current_.write_offset};
        segments_.add_live(ticket->place_.slot, ticket->bytes_);
        segments_.pend(ticket->place_.slot);
    }
    batch.slot = current_.slot;
    batch.segment_seq = segments_.seq_of(current_.slot);
    batch.key = segments_.key_of(current_.slot);
    batch.offset = current_.write_offset;
    batch.capacity =
        std::min(batch_capacity_, segments_.bytes_of(current_.slot) - current_.write_offset);
    batch.homeless = false;
    stamp_anew(batch, old_seq, old_offset, old_key);
    return true;
}

/// Checksums and encryption name the place.
void Log::stamp_anew(Batch& batch, std::uint64_t old_seq, std::uint32_t old_offset,
                     const std::optional<DataKey>& old_key) noexcept {
    const std::uint64_t seq = batch.segment_seq;
    const std::span<std::byte> bytes = batch.memory.span().first(batch.used);
    for (std::uint32_t at = frame_header_bytes; at < batch.used;) {
        const std::span<std::byte> record = bytes.subspan(at);
        auto header = decode_record_header(record, record.size(),
                                           record_seeds(seed_, old_seq, old_offset + at));
        CHECK(header.has_value()); // our own bytes, in our own memory
        const std::span<std::byte> stored =
            record.subspan(record_header_bytes, header->stored_bytes());
        if (header->encrypted()) {
            CHECK(cipher_.open_record({*old_key, old_seq, old_offset + at, *header}, stored));
            cipher_.seal_record({*batch.key, seq, batch.offset + at, *header}, stored);
        }
        const RecordSeeds seeds = record_seeds(seed_, seq, batch.offset + at);
        header->payload_crc = crc32c(seeds.payload, stored);
        encode_record_header(record.first<record_header_bytes>(), *header, seeds);
        at += record_bytes(*header);
    }
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

bool Log::submit(Batch& batch) {
    CHECK(&batch == open_);
    CHECK(batch.records > 0);
    if (batch.homeless && !find_home(batch)) return false;
    CHECK(batch.slot == current_.slot);
    CHECK(batch.offset == current_.write_offset);
    const std::uint32_t bytes = whole_blocks(batch.used);
    const std::span<std::byte> frame = batch.memory.span().first(bytes);
    std::ranges::fill(frame.subspan(batch.used), std::byte{0});

    batch.state = Batch::State::writing;
    batch.begun = loop_.now();
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

void Log::failed(Batch& batch) {
    segments_.mark_bad(batch.slot);
    const bool was_current = current_.slot == batch.slot && !segments_.sealed(batch.slot);
    if (was_current) {
        segments_.seal(batch.slot);
        current_ = {};
        if (open_ != nullptr && open_->records == 0) {
            open_->state = Batch::State::free;
            open_ = nullptr;
        } else if (open_ != nullptr) {
            open_->homeless = true;
        }
    }
    for (Failure& failure : failures_unreported_) {
        if (failure.reported_in == &batch) failure.reported_in = nullptr;
    }
    failures_unreported_.push_back({batch.seq, nullptr});
    batch.state = Batch::State::salvaging;
    batch.salvaged = SEEDED_DEFECT(forget_salvage) ? batch.used : frame_header_bytes;
    settle_tickets(batch, SEEDED_DEFECT(swallow_store_error) ? Ticket::State::durable
                                                             : Ticket::State::failed);
    count_failure();
}

void Log::count_failure() noexcept {
    ++counters_.write_errors;
    ++failure_count_;
    if (++failures_in_a_row_ >= failures_in_a_row_max) end_writing();
}

void Log::end_writing() noexcept {
    read_only_ = true;
    lazy_timer_.cancel();
    watermark_timer_.cancel();
    for (Batch& batch : batches_) {
        if (batch.state == Batch::State::writing) continue; // the device will say
        batch.state = Batch::State::free;
        settle_tickets(batch, Ticket::State::failed);
    }
    open_ = nullptr;
}

void Log::salvage(Batch& batch) {
    const std::span<const std::byte> bytes = batch.memory.span().first(batch.used);
    const std::uint64_t seq = batch.segment_seq;
    while (batch.salvaged < batch.used) {
        const std::span<const std::byte> record = bytes.subspan(batch.salvaged);
        auto header = decode_record_header(record, record.size(),
                                           record_seeds(seed_, seq, batch.offset + batch.salvaged));
        CHECK(header.has_value()); // our own bytes, in our own memory
        const auto type = static_cast<RecordType>(header->type);
        // What a client or the collector waits for has failed with its ticket.
        if (type == RecordType::status || type == RecordType::tomb || type == RecordType::abort) {
            const Room room = make_room(header->payload_bytes, AppendClass::essential);
            if (room != Room::now) return;
            const auto stored = record.subspan(record_header_bytes, header->stored_bytes());
            plain_.assign(stored.begin(), stored.end());
            if (header->encrypted()) {
                CHECK(cipher_.open_record({*batch.key, seq, batch.offset + batch.salvaged, *header},
                                          plain_));
            }
            RecordWriter writer = begin(type, header->id, header->payload_bytes, header->lsn);
            writer.append(std::span<const std::byte>{plain_}.first(header->payload_bytes));
            writer.finish(nullptr);
        }
        batch.salvaged += record_bytes(*header);
    }
    batch.state = Batch::State::free;
    segments_.free_behind(last_batch_seq());
    wake();
}

void Log::report_failures() {
    for (Failure& failure : failures_unreported_) {
        if (failure.reported_in != nullptr) continue;
        if (make_room(batch_failed_bytes, AppendClass::essential) != Room::now) return;
        RecordWriter writer = begin(RecordType::batch_failed, MessageId{}, batch_failed_bytes);
        writer.encode(batch_failed_bytes, [&](std::span<std::byte> bytes) {
            encode_batch_failed(bytes.first<batch_failed_bytes>(),
                                {superblock_.epoch, failure.batch_seq});
        });
        writer.finish(nullptr);
        failure.reported_in = open_;
    }
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
    prepare();
    if (open_ != nullptr && open_->records > 0 && open_->urgent &&
        in_flight_ < natural_writes_in_flight) {
        static_cast<void>(submit(*open_)); // without a segment it stays open until there is one
    }
    arm_timers();
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

void Log::prepare() {
    if (preparing_ || retiring_ || !bad_taken_.empty() || next_.valid()) return;
    if (!started_ || read_only_ || closed_) return;
    // A segment is overwritten only once the completion records that freed it are durable: until then
    // a crash brings its messages back, and they must be whole, with all that is known of them. With
    // nowhere left to write them to, it is overwritten before.
    const bool stranded = !current_.valid() && in_flight_ == 0 && !failures_unreported_.empty();
    if (!stranded && starving()) return;
    const auto slot =
        segments_.take(stranded ? std::numeric_limits<std::uint64_t>::max() : durable_mark());
    if (!slot) return;
    preparing_ = true;
    preparing_since_ = loop_.now();
    preparing_seq_ = next_segment_seq_++;
    prepare_task_ = prepare_segment(*slot, preparing_seq_);
    prepare_task_.start();
}

void Log::encode_header(SideSegment segment, std::span<std::byte> blocks) {
    SegmentHeader header{.pool = superblock_.pool,
                         .shard = superblock_.shard,
                         .slot = segment.slot,
                         .segment_seq = segment.seq,
                         .epoch = superblock_.epoch};
    preparing_key_.reset();
    if (encrypts_) {
        preparing_key_ = keys_->fresh_key();
        header.key = keys_->wrap(*preparing_key_, header.pool, header.shard, header.segment_seq);
    }
    for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy)
        encode_segment_header(blocks.subspan(copy * block_bytes).first<block_bytes>(), header,
                              copy);
}

base::Task<void> Log::prepare_segment(std::uint32_t slot, std::uint64_t seq) {
    encode_header({slot, seq}, header_blocks_.span());
    // Durable before the first frame of this generation, so that no frame is ever without a header.
    const Durable durable = SEEDED_DEFECT(skip_header_barrier) ? Durable::no : Durable::yes;
    auto result = co_await disk_.write(segments_.begin_of(slot), header_blocks_.span(), durable);
    preparing_ = false;
    preparing_seq_ = 0;
    if (result) {
        segments_.prepared(slot, seq, preparing_key_);
        next_ = {slot, segment_header_bytes};
    } else {
        // What the slot held before may still be there, with its completion records soon overwritten
        // elsewhere: nothing may be reused before this slot is written down as bad.
        bad_taken_.push_back(slot);
        count_failure();
    }
    wake();
}

bool Log::starving() const noexcept {
    return !checkpointed_ && !next_.valid() && !preparing_ &&
           segments_.free_count() <= restart_reserve && segments_.uncovered_sealed();
}

std::optional<Log::SideSegment> Log::take_side(bool last_too) {
    if (preparing_ || retiring_ || !bad_taken_.empty()) return std::nullopt;
    if (!started_ || read_only_ || closed_) return std::nullopt;
    // The log leaves two, the collector one of them, and a checkpoint takes even that.
    if (!last_too && segments_.free_count() < restart_reserve) return std::nullopt;
    const auto slot = segments_.take(durable_mark());
    if (!slot) return std::nullopt;
    preparing_ = true;
    preparing_since_ = loop_.now();
    preparing_seq_ = next_segment_seq_++;
    return SideSegment{*slot, preparing_seq_};
}

void Log::side_prepared(SideSegment side, bool written) {
    preparing_ = false;
    preparing_seq_ = 0;
    if (written) {
        segments_.prepared(side.slot, side.seq, preparing_key_);
        segments_.opened(side.slot, next_lsn_);
        segments_.set_beside(side.slot);
    } else {
        bad_taken_.push_back(side.slot);
        count_failure();
    }
    wake();
}

void Log::side_failed(std::uint32_t slot) {
    segments_.mark_bad(slot);
    count_failure();
    wake();
}

/// Of the segment that the log opens next. One beside the log may have a higher number and be open already.
std::uint64_t Log::next_log_seq() const noexcept {
    if (next_.valid()) return segments_.seq_of(next_.slot);
    return preparing_seq_ != 0 ? preparing_seq_ : next_segment_seq_;
}

Log::Position Log::position() const noexcept {
    const auto pending = segments_.oldest_pending();
    if (pending && !SEEDED_DEFECT(checkpoint_passes_pending))
        return {segments_.seq_of(*pending), segments_.first_lsn(*pending)};
    if (current_.valid())
        return {segments_.seq_of(current_.slot), segments_.first_lsn(current_.slot)};
    return {next_log_seq(), next_lsn_};
}

base::Task<bool> Log::adopt_checkpoint(CheckpointPointer pointer) {
    CHECK(!retiring_);
    retiring_ = true;
    const CheckpointPointer before = std::exchange(superblock_.checkpoint, pointer);
    auto written = co_await write_superblock();
    retiring_ = false;
    if (written) {
        segments_.cover(pointer.covered);
        checkpointed_ = true;
    } else {
        // Some copies may name the new one, some the old: both stay as they are.
        superblock_.checkpoint = before;
        count_failure();
        end_writing();
    }
    wake();
    co_return written.has_value();
}

void Log::retire_bad() {
    if (retiring_ || read_only_) return;
    std::optional<std::uint32_t> slot;
    if (!bad_taken_.empty()) {
        slot = bad_taken_.back();
        bad_taken_.pop_back();
    } else {
        slot = segments_.free_dead(last_batch_seq());
    }
    if (!slot) return;
    retiring_ = true;
    superblock_.mark_bad(*slot);
    segments_.retire(*slot);
    retire_task_ = write_bad_slot();
    retire_task_.start();
}

base::Task<void> Log::write_bad_slot() {
    auto result = co_await write_superblock();
    retiring_ = false;
    if (!result) {
        count_failure();
        end_writing();
    }
    wake();
}

base::Task<std::expected<void, DiskError>> Log::write_superblock() {
    ++superblock_.generation;
    // Raised together with the bitmap of bad slots: completion records in a slot that nobody will read
    // again are not missed, because the messages they end are below the floor as well.
    if (!keep_floor_) {
        superblock_.segment_floor =
            std::min(segments_.oldest_seq().value_or(next_log_seq()), next_log_seq());
    }
    const std::span<std::byte> blocks = superblock_blocks_.span();
    for (std::uint32_t copy = 0; copy < superblock_copies; ++copy) {
        encode_superblock(blocks.subspan(copy * block_bytes).first<block_bytes>(), superblock_,
                          copy);
    }
    // In two halves, so that a crash always leaves two copies that agree.
    constexpr std::size_t half = superblock_copies / 2 * block_bytes;
    if (SEEDED_DEFECT(superblock_at_once)) co_return co_await disk_.write(0, blocks, Durable::yes);
    // The half that may be in pieces comes first, while the other is whole.
    const std::size_t first = std::exchange(back_half_first_, false) ? half : 0;
    auto result = co_await disk_.write(first, blocks.subspan(first, half), Durable::yes);
    if (result)
        result =
            co_await disk_.write(half - first, blocks.subspan(half - first, half), Durable::yes);
    co_return result;
}

void Log::wake() noexcept {
    room_.wake_all();
    progress_.wake_all();
    loop_.at_turn_end(turn_end_);
}

RecordWriter::RecordWriter(Log& log, Batch& batch, const RecordHeader& header) noexcept
    : log_(log), batch_(batch), header_(header),
      seeds_(record_seeds(log.seed_, batch.segment_seq, batch.offset + batch.used)),
      at_(batch.used + record_header_bytes), crc_(seeds_.payload) {
    if (header_.encrypted())
        log_.cipher_.begin_seal(
            {*batch.key, batch.segment_seq, batch.offset + batch.used, header_});
}

void RecordWriter::append(std::span<const std::byte> part) noexcept {
    const std::span<std::byte> to = next(static_cast<std::uint32_t>(part.size()));
    if (header_.encrypted()) {
        log_.cipher_.seal(part, to.data());
        crc_ = crc32c(crc_, to);
    } else {
        crc_ = crc32c_copy(crc_, to.data(), part);
    }
    at_ += static_cast<std::uint32_t>(part.size());
}

std::span<std::byte> RecordWriter::next(std::uint32_t bytes) noexcept {
    const std::uint32_t end = batch_.used + record_header_bytes + header_.payload_bytes;
    CHECK(at_ + bytes <= end);
    return batch_.memory.span().subspan(at_, bytes);
}

void RecordWriter::filled(std::span<std::byte> part) noexcept {
    if (header_.encrypted()) log_.cipher_.seal(part, part.data());
    crc_ = crc32c(crc_, part);
    at_ += static_cast<std::uint32_t>(part.size());
}

void RecordWriter::finish(Ticket* ticket) noexcept {
    CHECK(&batch_ == log_.open_);
    CHECK(at_ == batch_.used + record_header_bytes + header_.payload_bytes);
    const std::uint32_t bytes = record_bytes(header_);
    const std::span<std::byte> record = batch_.memory.span().subspan(batch_.used, bytes);
    if (header_.encrypted()) {
        const auto tag =
            record.subspan(record_header_bytes + header_.payload_bytes).first<record_tag_bytes>();
        log_.cipher_.end_seal(tag);
        crc_ = crc32c(crc_, tag);
    }
    std::ranges::fill(record.subspan(record_header_bytes + header_.stored_bytes()), std::byte{0});
    header_.payload_crc = crc_;
    encode_record_header(record.first<record_header_bytes>(), header_, seeds_);
    if (ticket != nullptr) log_.add_ticket(*ticket, bytes);
    if (header_.type != static_cast<std::uint16_t>(RecordType::watermark)) batch_.filled = true;
    if (batch_.records == 0) batch_.first_lsn = header_.lsn;
    batch_.used += bytes;
    ++batch_.records;
    log_.loop_.at_turn_end(log_.turn_end_);
}

} // namespace queue
