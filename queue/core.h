// core.h: what stands behind MessageQueue: the parts of the queue and how they work together.
//
// Scope      The life of a message from begin() to its completion record. Below it the log (log.h) and
//            the disk; beside it the scheduler, the collector (collector.h) and the record reader
//            (record_reader.h). Recovery (recovery.h) builds one. Private to queue/.
// Owns       All messages, the memory of their content, the log.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/slab.h"
#include "queue/collector.h"
#include "queue/index.h"
#include "queue/log.h"
#include "queue/queue.h"
#include "queue/record_reader.h"
#include "queue/scheduler.h"

#include <memory>
#include <optional>
#include <vector>

namespace queue {

class QueueCore final : public base::TurnEnd {
public:
    QueueCore(base::Loop& loop, Disk& disk, const QueueOptions& options,
              const Superblock& superblock);
    ~QueueCore() override;

    // MessageQueue's calls; see queue.h.
    [[nodiscard]] SpoolResult<MessageRef> begin(std::uint64_t expected_bytes, DraftUse use);
    void set_sink(ReadySink& sink);
    void settle(MessageRef message);
    void defer(MessageRef message, base::WallTime due, std::string_view why);
    void progress(const Message& message);
    [[nodiscard]] base::Task<SpoolResult<>> sync(base::Deadline deadline);
    void for_each(const QueueFilter& filter,
                  const std::function<bool(const Message&)>& visit) const;
    std::uint64_t flush(const QueueFilter& filter);
    std::uint64_t suspend(const QueueFilter& filter);
    std::uint64_t resume(const QueueFilter& filter);
    [[nodiscard]] bool suspended(const Message& message) const;
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
    void due(Message& message) noexcept;
    void recycle(Message& message) noexcept;
    void turn_end() noexcept override;
    [[nodiscard]] base::Loop& loop() noexcept { return loop_; }
    [[nodiscard]] Disk& disk() noexcept { return disk_; }
    [[nodiscard]] base::Duration full_check() const noexcept { return options_.full_check; }
    [[nodiscard]] Log& log() noexcept { return log_; }
    [[nodiscard]] MessageIndex& index() noexcept { return index_; }
    [[nodiscard]] base::SlabPool& large_slabs() noexcept { return large_; }
    [[nodiscard]] base::WaitQueue& slab_wait() noexcept;
    /// Waits until a record of this size can be begun.
    [[nodiscard]] base::Task<SpoolResult<>>
    wait_room(std::uint32_t payload_bytes, AppendClass append_class, base::Deadline deadline);
    /// Appends a message's present state; place has been made.
    void write_status(const Message& message);
    [[nodiscard]] static std::uint32_t status_bytes(const Message& message) noexcept;
    void drop_record(Place place, std::uint32_t payload_bytes) noexcept;
    void count_damage() noexcept { ++damaged_records_; }
    void count_read_error() noexcept { ++read_errors_; }
    /// Makes a deferred message due at once, so that delivery finds out about its content.
    void hasten(Message& message) noexcept;

private:
    friend class Recovery;

    struct Mark { // a completion record that waits for the turn's end; its message dies with it
        RecordType type;
        MessageRef message;
    };

    [[nodiscard]] Message& fresh_message();
    [[nodiscard]] bool full() noexcept;
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
    void drop_records(Message& message) noexcept;
    void mark(RecordType type, MessageRef message);
    void mark_dirty(Message& message);
    void flush_marks();
    void make_ready(Message& message) noexcept;
    void hand_out();
    void start_collector();
    [[nodiscard]] bool matches(const QueueFilter& filter, const Message& message) const;

    struct SlabTimer : base::Timer {
        explicit SlabTimer(QueueCore& owner) noexcept
            : Timer(&QueueCore::on_slab_timer), core(owner) {}
        QueueCore& core;
    };
    static void on_slab_timer(base::Timer& timer) noexcept;

    base::Loop& loop_;
    Disk& disk_;
    QueueOptions options_;
    base::SlabPool small_;
    base::SlabPool large_;
    std::uint32_t large_reserve_; // for reading from disk: accepting must not starve delivery
    std::vector<std::unique_ptr<Message>> storage_;
    Message* first_free_ = nullptr;
    MessageIndex index_;
    RetryScheduler scheduler_;
    RecordReader reader_;
    Collector collector_;
    base::WaitQueue slab_wait_{"spool memory"};
    SlabTimer slab_timer_;
    std::vector<Mark> marks_;
    std::vector<MessageRef> dirty_;
    Message* ready_first_ = nullptr; // linked by next_ready_; the index holds the references
    Message* ready_last_ = nullptr;
    ReadySink* sink_ = nullptr;
    std::vector<QueueFilter> suspensions_;
    std::uint64_t next_id_ = 1;
    std::uint64_t deferred_ = 0;
    std::uint64_t accepted_ = 0;
    std::uint64_t accepted_bytes_ = 0;
    std::uint64_t damaged_records_ = 0;
    std::uint64_t read_errors_ = 0;
    bool full_ = false;
    bool closing_ = false;
    Log log_; // last: it settles the tickets that still lie in the messages

    friend class ContentReader;
};

} // namespace queue
