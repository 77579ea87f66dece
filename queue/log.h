// log.h: the write path: records into batches, batches into segments, one durable write per batch.
//
// Scope      Group commit: a batch is written at the end of the turn in which its first record came, unless
//            enough writes are in flight already; then it collects until one of them is done. While many
//            messages are on their way it is held back a little, for their company (limits.h); one by
//            itself never waits. Segments are opened ahead of need. What records mean is the caller's.
// Owns       The batch buffers, the segment table, the superblock.
// Threading  Bound to one shard.
// Failure    A refused or short write fails every ticket of its batch, ends its segment, and is never
//            tried again on the same place. Records nobody waits for (status, completion) are written
//            again elsewhere. What was under way when a write failed and fails as well is the same failure: a
//            flush that was refused takes all writes since the last good one along. A second failure in a
//            row ends writing: read_only().
#pragma once

#include "dataplane/base/check.h"
#include "dataplane/base/loop.h"
#include "dataplane/base/task.h"
#include "dataplane/base/wait.h"
#include "queue/cipher.h"
#include "queue/codec.h"
#include "queue/disk/block_memory.h"
#include "queue/disk/disk.h"
#include "queue/keyring.h"
#include "queue/limits.h"
#include "queue/segments.h"
#include "queue/ticket.h"

#include <algorithm>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace queue {

/// One write: a frame header and records. Log's own, but Ticket points to it.
struct Batch {
    enum class State : std::uint8_t { free, open, writing, salvaging };
    BlockMemory memory;
    State state = State::free;
    bool urgent = false; // somebody waits for a record of it
    bool homeless =
        false; // its segment has gone bad: it must move before anything else happens to it
    bool filled = false; // holds more than a watermark
    std::uint32_t slot = 0;
    std::uint64_t segment_seq = 0;
    std::uint32_t offset = 0;   // of the frame, in the segment
    std::uint32_t capacity = 0; // bytes the frame may take there
    std::uint32_t used = 0;
    std::uint32_t records = 0;
    std::uint32_t salvaged = 0;  // bytes walked while salvaging
    std::uint64_t first_lsn = 0; // of its first record
    std::uint64_t seq = 0;
    std::uint64_t watermark = 0;
    base::TimePoint begun{}; // when its write was
    std::uint64_t failures_before = 0;
    std::optional<DataKey> key;   // of its segment, whose slot may be gone before the batch is
    std::vector<Ticket*> tickets; // null where its owner has lost interest
    base::WaitQueue done{"spool commit"};
    base::Task<void> task;
};

enum class AppendClass : std::uint8_t {
    mail,      // refused when only the reserve is left
    essential, // status, completion, collection: may use the reserve
};

enum class Room : std::uint8_t { now, wait, full, read_only };

struct LogCounters {
    std::uint64_t batches = 0, batch_bytes = 0, write_errors = 0;
};

class RecordWriter;

class Log {
public:
    /// \param turn_end  asked for at the loop's turn end whenever pump() has something to do
    /// \param keys      nothing when nothing is encrypted
    Log(base::Loop& loop, Disk& disk, base::TurnEnd& turn_end, const Superblock& superblock,
        std::shared_ptr<const KeyRing> keys, const WriteBounds& bounds = {});
    ~Log();
    Log(const Log&) = delete;
    Log& operator=(const Log&) = delete;

    /// Makes this boot known on disk (superblock) and allows writing. Segments found by recovery have
    /// been entered into segments() before.
    [[nodiscard]] base::Task<std::expected<void, DiskError>> start();

    [[nodiscard]] SegmentTable& segments() noexcept { return segments_; }
    [[nodiscard]] const SegmentTable& segments() const noexcept { return segments_; }
    [[nodiscard]] std::uint32_t seed() const noexcept { return seed_; }
    [[nodiscard]] const Superblock& superblock() const noexcept { return superblock_; }
    /// The largest payload of one record, encrypted or not.
    [[nodiscard]] std::uint32_t payload_bytes_max() const noexcept;
    /// What a record takes in segments of this boot: all of them are encrypted, or none.
    [[nodiscard]] std::uint32_t new_record_bytes(std::uint32_t payload_bytes) const noexcept {
        return record_bytes(payload_bytes, encrypts_);
    }
    [[nodiscard]] bool encrypts() const noexcept { return encrypts_; }
    [[nodiscard]] RecordCipher& cipher() noexcept { return cipher_; }
    /// Decrypts a record's payload in place, if it is encrypted. False when it is not what its segment says,
    /// or does not open.
    /// \param stored  payload and tag, whose checksum was right
    [[nodiscard]] bool open_record(Place place, const RecordHeader& header,
                                   std::span<std::byte> stored) noexcept;
    /// make_room() may have a new answer.
    void look_again() noexcept { wake(); }
    /// There are encrypted segments: the superblock says so from the next write on.
    void note_encrypted() noexcept { superblock_.encrypted = true; }

    /// Makes place for a record of `payload_bytes`; after Room::now the next begin() has it.
    [[nodiscard]] Room make_room(std::uint32_t payload_bytes, AppendClass append_class);
    /// Wakes whenever make_room() may have a new answer.
    [[nodiscard]] base::WaitQueue& room_wait() noexcept { return room_; }
    /// \pre  make_room() said Room::now for this size in this very step
    /// \param lsn  0 takes the next one; an older one is given back to a record that is written again
    [[nodiscard]] RecordWriter begin(RecordType type, MessageId id, std::uint32_t payload_bytes,
                                     std::uint64_t lsn = 0);
    /// Writes the open batch out as soon as possible: somebody waits for it.
    void urge() noexcept;
    /// A record that somebody will wait for is on its way; came() when it is here, or will never be.
    void coming() noexcept { ++coming_; }
    void came() noexcept {
        CHECK(coming_ > 0);
        --coming_;
    }

    /// The queue to wait on until a pending ticket is settled; look at its state after each wake.
    [[nodiscard]] base::WaitQueue& settled(Ticket& ticket) noexcept;
    /// Loses interest: a pending or durable record counts as dead from now on. Any ticket may come.
    void abandon(Ticket& ticket) noexcept;
    /// Keeps the record alive and makes the ticket blank again. It counts as pending until the index
    /// has it: SegmentTable::unpend().
    void keep(Ticket& ticket) noexcept;

    // Segments beside the log: what is collected, and checkpoints; side_writer.h.
    struct SideSegment {
        std::uint32_t slot = 0;
        std::uint64_t seq = 0;
    };
    /// A slot whose header the caller writes next; nothing when none is to be had now. The caller says
    /// how that ended, before anybody else gets one.
    /// \param last_too  of the free ones: for a checkpoint
    [[nodiscard]] std::optional<SideSegment> take_side(bool last_too);
    /// \param failures_before  failures() when that write began; the same below
    void side_prepared(SideSegment side, bool written, std::uint64_t failures_before);
    /// The header blocks of a segment that is being prepared, with a key of its own.
    void encode_header(SideSegment segment, std::span<std::byte> blocks);
    /// A frame of a side segment was refused: its slot is not used again.
    void side_failed(std::uint32_t slot, std::uint64_t failures_before);
    /// Of the device so far: writes that were under way together count once.
    [[nodiscard]] std::uint64_t failures() const noexcept { return device_failures_; }
    [[nodiscard]] std::uint64_t take_lsn() noexcept { return next_lsn_++; }
    [[nodiscard]] std::uint64_t next_lsn() const noexcept { return next_lsn_; }
    /// Where everything begins that the index does not have yet.
    struct Position {
        std::uint64_t segment_seq = 0;
        std::uint64_t lsn = 0;
    };
    [[nodiscard]] Position position() const noexcept;
    [[nodiscard]] bool free_for_good(std::uint32_t slot) const noexcept {
        return segments_.free_for_good(slot, durable_mark());
    }
    /// Makes the checkpoint known on disk; from then on what it covers may be freed.
    [[nodiscard]] base::Task<bool> adopt_checkpoint(CheckpointPointer pointer);
    /// At start: it cannot be read.
    void forget_checkpoint() noexcept { superblock_.checkpoint = {}; }
    /// A slot's header could not be read: what it holds may be older than all others, and must not count as
    /// dead by the time it can be read again.
    void keep_floor() noexcept { keep_floor_ = true; }
    /// Only copies 0 and 1 of the superblock are whole: the next update begins with the others.
    void back_half_first() noexcept { back_half_first_ = true; }
    [[nodiscard]] bool busy_with_superblock() const noexcept { return retiring_; }

    /// Waits until everything appended so far is durable; false when the log became read-only, or
    /// the deadline passed.
    [[nodiscard]] base::Task<bool> sync(base::Deadline deadline);
    /// Ends writing: nothing open, nothing in flight, then the clean mark.
    [[nodiscard]] base::Task<bool> close(base::Deadline deadline);

    /// The owner is being destroyed: asks for no more turns.
    void stop() noexcept { stopping_ = true; }

    /// Once per turn: rewrites what a failed batch held, submits, frees segments.
    void pump();

    [[nodiscard]] bool read_only() const noexcept { return read_only_; }
    /// Segments that could still be opened.
    [[nodiscard]] std::uint32_t free_segments() const noexcept;
    /// When the oldest write in flight was begun; nothing when there is none.
    [[nodiscard]] std::optional<base::TimePoint> oldest_write() const noexcept;
    /// Free segments on which no new mail begins.
    [[nodiscard]] std::uint32_t accept_reserve() const noexcept {
        return std::max(accept_reserve_, essential_reserve() + 1);
    }
    /// What the next checkpoint takes, or the rest of the one that is being written.
    void keep_for_checkpoint(std::uint32_t segments) noexcept {
        checkpoint_reserve_ = std::max(1U, segments);
    }
    /// Whether the log gets its next segment only after a checkpoint.
    [[nodiscard]] bool starving() const noexcept;
    /// There was no room for a checkpoint: the log need not wait for it any longer.
    void checkpoint_failed() noexcept { checkpoint_tried_ = true; }
    [[nodiscard]] const LogCounters& counters() const noexcept { return counters_; }

private:
    friend class RecordWriter;

    void add_ticket(Ticket& ticket, std::uint32_t bytes);
    struct OpenSegment {
        std::uint32_t slot = Place::no_slot;
        std::uint32_t write_offset = 0;
        [[nodiscard]] bool valid() const noexcept { return slot != Place::no_slot; }
    };

    // A batch that was refused and whose refusal is not on disk yet.
    struct Failure {
        std::uint64_t batch_seq = 0;
        const Batch* reported_in = nullptr;
    };

    [[nodiscard]] std::uint32_t restart_reserve() const noexcept {
        return checkpoint_reserve_ + restart_margin;
    }
    [[nodiscard]] std::uint32_t essential_reserve() const noexcept {
        return checkpoint_reserve_ + essential_margin;
    }
    [[nodiscard]] bool mail_fits() const noexcept;
    [[nodiscard]] bool open_batch(std::uint32_t frame_bytes);
    [[nodiscard]] std::uint32_t capacity_for(std::uint32_t frame_bytes) const noexcept;
    [[nodiscard]] bool segment_for(std::uint32_t frame_bytes);
    void end_current() noexcept;
    [[nodiscard]] bool find_home(Batch& batch);
    [[nodiscard]] bool spare_buffer() const noexcept;
    [[nodiscard]] bool submit(Batch& batch);
    [[nodiscard]] bool held_back(const Batch& batch) const noexcept;
    base::Task<void> write_batch(Batch& batch);
    void succeeded(Batch& batch);
    void failed(Batch& batch);
    void end_writing() noexcept;
    void salvage(Batch& batch);
    void stamp_anew(Batch& batch, std::uint64_t old_seq, std::uint32_t old_offset,
                    const std::optional<DataKey>& old_key) noexcept;
    void report_failures();
    void settle_tickets(Batch& batch, Ticket::State state) noexcept;
    void count_failure(std::uint64_t failures_before) noexcept;

    [[nodiscard]] std::uint64_t next_log_seq() const noexcept;
    /// \param ahead  nobody waits for it yet
    void prepare(bool ahead);
    base::Task<void> prepare_segment(std::uint32_t slot, std::uint64_t seq);
    void retire_bad();
    base::Task<void> write_bad_slot();
    base::Task<std::expected<void, DiskError>> write_superblock();
    base::Task<std::expected<void, DiskError>>
    write_superblock_part(std::uint64_t offset, std::span<const std::byte> blocks);

    [[nodiscard]] std::uint64_t
    last_batch_seq() const noexcept; // what the last record has or will get
    [[nodiscard]] std::uint64_t completed() const noexcept;
    [[nodiscard]] std::uint64_t durable_mark() const noexcept;
    [[nodiscard]] bool salvaging() const noexcept;
    [[nodiscard]] bool quiet() const noexcept;
    void arm_timers() noexcept;
    void wake() noexcept;

    struct OwnedTimer : base::Timer {
        OwnedTimer(Fire fire, Log& owner) noexcept : Timer(fire), log(owner) {}
        Log& log;
    };

    base::Loop& loop_;
    Disk& disk_;
    base::TurnEnd& turn_end_;
    Superblock superblock_;
    std::uint32_t seed_;
    std::shared_ptr<const KeyRing> keys_;
    bool encrypts_;
    RecordCipher cipher_;
    SegmentTable segments_;
    std::uint32_t batch_capacity_;
    std::uint32_t accept_reserve_;
    std::uint32_t checkpoint_reserve_ = 1;

    WriteBounds bounds_;
    std::vector<Batch> batches_; // never more or fewer
    Batch* open_ = nullptr;
    unsigned in_flight_ = 0;
    std::size_t coming_ = 0;
    base::TimePoint submitted_at_{}; // the last batch
    OpenSegment current_;
    OpenSegment next_;
    bool preparing_ = false;
    base::TimePoint preparing_since_{};
    bool keep_floor_ = false;
    bool back_half_first_ = false;
    bool checkpoint_tried_ = false;   // in this boot, and the log has ended no segment since
    std::uint64_t preparing_seq_ = 0; // of the segment whose header is being written
    std::optional<DataKey> preparing_key_;
    bool retiring_ = false;
    BlockMemory header_blocks_;
    BlockMemory superblock_blocks_;
    std::vector<std::byte> plain_;         // of a record that is written again
    std::vector<std::uint32_t> bad_taken_; // slots whose header was refused
    base::Task<void> prepare_task_;
    base::Task<void> retire_task_;

    std::uint64_t next_lsn_;
    std::uint64_t next_segment_seq_;
    std::uint64_t next_batch_seq_ = 1;
    std::vector<Failure> failures_unreported_; // no watermark passes them
    std::uint64_t watermark_written_ = 0;
    std::uint64_t last_filled_batch_ = 0; // the last that holds more than a watermark
    unsigned failures_in_a_row_ = 0;
    std::uint64_t device_failures_ = 0;
    std::uint64_t failure_count_ = 0; // of writes
    bool started_ = false;
    bool read_only_ = false;
    bool closed_ = false;
    bool stopping_ = false;
    OwnedTimer lazy_timer_;
    OwnedTimer watermark_timer_;
    OwnedTimer hold_timer_;
    base::WaitQueue room_{"spool room"};
    base::WaitQueue progress_{"spool sync"};
    LogCounters counters_;
};

/// Fills one record in place. Nothing else may be appended before finish().
class RecordWriter {
public:
    /// Copies the next part of the payload.
    void append(std::span<const std::byte> part) noexcept;
    /// The next `bytes` of the payload, to be filled by encode(span).
    template <class Encode>
    void encode(std::uint32_t bytes, Encode&& fill) noexcept {
        const std::span<std::byte> part = next(bytes);
        fill(part);
        filled(part);
    }
    [[nodiscard]] std::uint64_t lsn() const noexcept { return header_.lsn; }
    /// Stamps the header. Without a ticket nobody waits for the record, and it may travel lazily.
    void finish(Ticket* ticket) noexcept;

private:
    friend class Log;
    RecordWriter(Log& log, Batch& batch, const RecordHeader& header) noexcept;
    [[nodiscard]] std::span<std::byte> next(std::uint32_t bytes) noexcept;
    void filled(std::span<std::byte> part) noexcept;

    Log& log_;
    Batch& batch_;
    RecordHeader header_;
    RecordSeeds seeds_;
    std::uint32_t at_; // next payload byte, in the batch
    std::uint32_t crc_;
};

} // namespace queue
