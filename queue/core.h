// core.h: what stands behind MessageQueue: the parts of the queue and how they work together.
//
// Scope      The life of a message from begin() to its completion record. Below it the log (log.h) and
//            the disk; beside it the index, the schedule, the collector (collector.h) and the record
//            reader (record_reader.h). Recovery (recovery.h) builds one. Private to queue/.
// Owns       All messages, the memory of their content, the log.
// Threading  Bound to one shard.
//
// A message is an Entry of the index from its commit to its end. A Message stands beside it while it is
// new and its content is still in memory, and while it is in a delivery round; between rounds there is
// none, and load.cc makes one from the disk when the schedule says that its turn has come.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/slab.h"
#include "queue/checkpoint.h"
#include "queue/chunked_fifo.h"
#include "queue/collector.h"
#include "queue/index.h"
#include "queue/log.h"
#include "queue/pressure.h"
#include "queue/quarantine.h"
#include "queue/queue.h"
#include "queue/record_reader.h"
#include "queue/rotation.h"
#include "queue/schedule.h"
#include "queue/scrub.h"
#include "queue/side_writer.h"

#include <array>
#include <memory>
#include <optional>
#include <vector>

namespace queue {

class Recovery;

class QueueCore final : public base::TurnEnd {
public:
    QueueCore(base::Loop& loop, Disk& disk, const QueueOptions& options,
              const Superblock& superblock);
    ~QueueCore() override;

    // MessageQueue's calls; see queue.h.
    [[nodiscard]] SpoolResult<MessageRef> begin(std::uint64_t expected_bytes, DraftUse use,
                                                std::string_view tenant);
    [[nodiscard]] SpoolPressure pressure() noexcept;
    void set_sink(ReadySink& sink);
    void settle(MessageRef message);
    void defer(MessageRef message, base::WallTime due, std::string_view why);
    void progress(const Message& message);
    void park(MessageRef message, SiteRef site, base::WallTime wake_by);
    void hold(MessageRef message);
    void pull() noexcept { loop_.at_turn_end(*this); }
    [[nodiscard]] base::Task<SpoolResult<>> sync(base::Deadline deadline);
    void for_each(const QueueFilter& filter,
                  const std::function<bool(EntryRef, const Entry&)>& visit) const;
    [[nodiscard]] base::Task<SpoolResult<MessageRef>> load(MessageId id, base::Deadline deadline);
    [[nodiscard]] bool remove(EntryRef ref);
    bool expedite(EntryRef ref, bool held_too = false);
    std::uint64_t flush(const QueueFilter& filter);
    [[nodiscard]] base::Task<SpoolResult<>> close(base::Deadline deadline);
    [[nodiscard]] QueueCounters counters() const noexcept;

    // Draft's calls.
    /// The free end of a draft's content; takes a slab when one is to be had at once.
    [[nodiscard]] std::span<std::byte> room(Message& draft) noexcept;
    [[nodiscard]] base::Task<SpoolResult<>> make_room(Message& draft, base::Deadline deadline);
    [[nodiscard]] base::Task<SpoolResult<>> commit(Message& draft, std::string_view prelude,
                                                   base::Deadline deadline);
    void discard(MessageRef draft) noexcept;

    // The other parts' calls.
    void recycle(Message& message) noexcept;
    void turn_end() noexcept override;
    [[nodiscard]] base::Loop& loop() noexcept { return loop_; }
    [[nodiscard]] Disk& disk() noexcept { return disk_; }
    [[nodiscard]] const QueueOptions& options() const noexcept { return options_; }
    [[nodiscard]] Log& log() noexcept { return log_; }
    [[nodiscard]] MessageIndex& index() noexcept { return index_; }
    [[nodiscard]] const MessageIndex& index() const noexcept { return index_; }
    [[nodiscard]] Schedule& schedule() noexcept { return schedule_; }
    [[nodiscard]] Tick tick_of(base::WallTime time) const noexcept;
    [[nodiscard]] base::SlabPool& large_slabs() noexcept { return large_; }
    [[nodiscard]] std::array<std::span<std::byte>, 2> arenas() const noexcept {
        return {small_.arena(), large_.arena()};
    }
    /// Waits, in order of arrival, until slabs may have come back.
    [[nodiscard]] base::WaitQueue& read_wait() noexcept;
    /// Waits until a record of new mail of this size can be begun; in order of arrival, a large one as well.
    [[nodiscard]] base::Task<SpoolResult<>> wait_room(std::uint32_t payload_bytes,
                                                      base::Deadline deadline);
    /// Appends a message's present state; place has been made.
    void write_status(Entry& entry);
    void encode_status_of(const Entry& entry, std::span<std::byte> to) const noexcept;
    [[nodiscard]] std::uint32_t status_bytes(const Entry& entry) const noexcept;
    void drop_record(Place place, std::uint32_t payload_bytes) noexcept;
    /// Whether collection or a checkpoint is under way: they share one writer.
    [[nodiscard]] bool side_busy() const noexcept {
        return collector_.busy() || checkpoint_.busy();
    }
    [[nodiscard]] Checkpoint& checkpoint() noexcept { return checkpoint_; }
    [[nodiscard]] KeyRotation& rotation() noexcept { return rotation_; }
    /// A record of a queued message does not check out.
    void damaged(MessageId id, Place place, std::uint32_t payload_bytes, std::string_view found_by);
    void count_read_error() noexcept { ++read_errors_; }
    /// A record was taken from one half of a mirror, because the other's does not check out.
    void count_mended() noexcept { ++mended_records_; }

    [[nodiscard]] base::Task<SpoolResult<>> recovered(base::Deadline deadline);
    [[nodiscard]] const RecoveryReport& recovery() const noexcept { return recovery_report_; }

    // Recovery's calls.
    [[nodiscard]] RecoveryReport& recovery_report() noexcept { return recovery_report_; }
    void continue_recovery(std::unique_ptr<Recovery> recovery);
    void recovery_ended(bool complete);
    [[nodiscard]] bool closing() const noexcept { return closing_; }
    /// An unfinished message that was found; its entry is complete.
    void admit(EntryRef ref, Schedule::Share share);
    /// An entry that finish() will end: before it is admitted.
    void count_in(const Entry& entry) { tenants_.add(entry.tenant, entry.content_bytes); }
    /// A message whose recipients are all done lacks only its completion record.
    void finish(EntryRef ref);
    void mark_dirty(EntryRef ref);

private:
    struct Mark { // a completion record that waits for the turn's end; its records die with it
        RecordType type{};
        MessageId id;
        Place place;
        std::uint32_t payload_bytes = 0;
        std::vector<Chunk> chunks;
    };
    struct Load {
        bool busy = false;
        Schedule::Share share = Schedule::Share::retry;
        MessageId id;
        base::Task<void> task;
    };

    [[nodiscard]] Message& fresh_message();
    [[nodiscard]] base::SlabRef take_slab(std::size_t slabs_held) noexcept;
    [[nodiscard]] bool memory_scarce() const noexcept;
    [[nodiscard]] std::uint64_t inline_left(const Message& draft) const noexcept;
    [[nodiscard]] base::Task<SpoolResult<>> wait_slab(base::Deadline deadline);
    [[nodiscard]] base::Task<SpoolResult<>> spill(Message& draft, base::Deadline deadline);
    [[nodiscard]] base::Task<SpoolResult<>> add_prelude(Message& draft, std::string_view prelude,
                                                        base::Deadline deadline);
    [[nodiscard]] base::Task<SpoolResult<>> wait_durable(Message& draft, base::Deadline deadline);
    void write_message(Message& draft, const MessagePrefix& prefix, std::uint32_t payload_bytes);
    void accept(Message& message);
    void mark(Mark mark);
    void flush_marks();
    [[nodiscard]] Entry& round_of(const Message& message) noexcept;
    void store(const Message& message);
    void detach(Message& message) noexcept;
    [[nodiscard]] Message* object_of(const Entry& entry) const noexcept;

    // Handing out; load.cc.
    void hand_out();
    [[nodiscard]] bool hand_one(Schedule::Share share);
    [[nodiscard]] Load* free_load(Schedule::Share share) noexcept;
    void hand(EntryRef ref, MessageRef message);
    base::Task<void> run_load(Load& load);
    [[nodiscard]] base::Task<SpoolResult<MessageRef>>
    load_from_disk(MessageId id, bool with_content, base::Deadline deadline);
    [[nodiscard]] SpoolResult<MessageRef> build(EntryRef ref, const base::SlabChain& payload,
                                                bool whole);
    void keep_content(Message& message, const base::SlabChain& payload, std::uint32_t from);
    void load_failed(MessageId id, SpoolError error);
    void advance_schedule() noexcept;
    void arm_schedule() noexcept;
    [[nodiscard]] Tick tick_now() const noexcept;

    [[nodiscard]] bool matches(const QueueFilter& filter, const Entry& entry) const;

    struct OwnedTimer : base::Timer {
        OwnedTimer(Fire fire, QueueCore& owner) noexcept : Timer(fire), core(owner) {}
        QueueCore& core;
    };
    static void on_slab_timer(base::Timer& timer) noexcept;
    static void on_schedule_timer(base::Timer& timer) noexcept;
    void arm_slab_timer() noexcept;

    base::Loop& loop_;
    Disk& disk_;
    QueueOptions options_;
    base::SlabPool small_;
    base::SlabPool large_;
    std::uint32_t large_reserve_; // for reading from disk: accepting must not starve delivery
    std::vector<std::unique_ptr<Message>> storage_;
    Message* first_free_ = nullptr;
    MessageIndex index_;
    base::TimePoint tick_base_;
    Schedule schedule_;
    RecordReader reader_;
    SideWriter side_writer_;
    Collector collector_;
    Checkpoint checkpoint_;
    KeyRotation rotation_;
    Quarantine quarantine_;
    Scrub scrub_;
    base::WaitLine room_line_{"spool room"};
    base::WaitQueue draft_wait_{"spool memory"};
    base::WaitQueue read_wait_{"spool read memory"};
    OwnedTimer slab_timer_;
    OwnedTimer schedule_timer_;
    ChunkedFifo<Mark> marks_;
    ChunkedFifo<EntryRef> dirty_;
    ReadySink* sink_ = nullptr;
    std::array<Load, loads_in_flight_max> loads_;
    std::array<std::size_t, 2> loading_{}; // by share
    RecoveryReport recovery_report_;
    std::unique_ptr<Recovery> recovery_;     // while it goes on in the background
    base::WaitQueue flushed_{"spool marks"}; // both are empty
    base::WaitQueue recovered_{"spool recovery"};
    std::vector<std::byte> scratch_; // a record's head, in one piece
    std::uint64_t next_id_ = 1;
    std::uint64_t accepted_ = 0;
    std::uint64_t accepted_bytes_ = 0;
    std::uint64_t damaged_records_ = 0;
    std::uint64_t read_errors_ = 0;
    std::uint64_t mended_records_ = 0;
    Pressure pressure_;
    TenantTally tenants_;
    bool closing_ = false;
    Log log_; // last: it settles the tickets that still lie in the messages

    friend class ContentReader;
    friend class QueueProbe;
    friend class Recovery;
};

} // namespace queue
