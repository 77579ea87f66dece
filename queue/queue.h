// queue.h: the durable queue of one shard: accept, hand out, settle, defer, recover.
//
// Scope      The interface of this room. Below it: the log of records in segments (log.h), their bytes
//            (codec.h), the disk (disk.h), the index (index.h) and the schedule (schedule.h). It knows
//            nothing of SMTP: who may send, where mail goes and what a reply means are decided elsewhere.
// Owns       The index of all messages on this shard, their turns, and the write path.
// Threading  Bound to one shard.
// Failure    SpoolError. commit() returns success only when the message is durable; after any other
//            result it is certain that the message will not be delivered, unless the process dies
//            before the abort record is durable.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/stream.h"
#include "dataplane/base/task.h"
#include "dataplane/base/wait.h"
#include "queue/disk/disk.h"
#include "queue/entry.h"
#include "queue/index.h"
#include "queue/limits.h"
#include "queue/message.h"
#include "queue/pressure.h"
#include "queue/schedule.h"

#include <array>
#include <cstdint>
#include <expected>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace queue {

enum class SpoolError : std::uint8_t {
    full,         // no room for new mail: 452 4.3.1
    overloaded,   // memory or commit backlog at its bound for too long: 451 4.4.5
    write_failed, // the device refused or shortened a write: 451 4.3.0
    read_failed,  // the device could not give the bytes back
    damaged,      // the bytes came back and their checksum is wrong
    timed_out,
    cancelled,
    read_only, // the log cannot be written any more: 421 4.3.0
    forged,    // the checksum is right, and yet nobody who has the key wrote this
    no_key,    // encrypted under a key that is not here
    too_large, // more bytes than the message may have: 552 5.3.4
};
[[nodiscard]] std::string_view to_string(SpoolError error) noexcept;

template <class T = void>
using SpoolResult = std::expected<T, SpoolError>;

class KeyRing;        // keyring.h
struct DamagedRecord; // quarantine.h

struct QueueOptions {
    std::uint64_t content_bytes_max = 50ULL << 20;
    std::uint32_t resident_bytes_max = 256U
                                       << 20; // content kept for first attempts, slabs included
    std::chrono::seconds full_check{1};
    std::uint64_t checkpoint_bytes = 1ULL
                                     << 30; // of log between two checkpoints, at most an eighth
                                            // of the pool
    std::chrono::milliseconds recovery_wait{500}; // open() goes on in the background after that
    std::uint32_t segment_bytes =
        64U << 20; // a multiple of 1 MiB; the pool holds a whole number of them
    std::uint64_t scrub_bytes_per_s = 0; // at most, for reading all mail once a day; 0: not at all
    std::function<void(DamagedRecord)> quarantine = {}; // keeps what was found damaged
    std::shared_ptr<const KeyRing> keys = {};           // for encryption at rest; nothing: without
    WriteBounds writes = {};
};

struct RecoveryReport {
    std::uint64_t segments_read = 0;
    std::uint64_t records_read = 0;
    std::uint64_t messages_recovered = 0;
    std::uint64_t records_damaged = 0; // below the durable watermark: acknowledged data that rotted
    std::uint64_t records_mended = 0;  // that only one half of a mirror had
    std::uint64_t torn_tails = 0; // above it: writes that the crash cut short; never acknowledged
    std::uint64_t possible_duplicates = 0;
    std::uint64_t checkpoint_entries = 0; // messages that the checkpoint knew
    bool checkpoint_lost = false;         // it could not be read: everything was scanned
    bool complete = false;                // false: the rest is found in the background
    std::chrono::milliseconds took{};     // until mail could be accepted
    std::chrono::milliseconds took_all{}; // until all mail was found
    std::string problem;                  // why open() refused, for people
};

struct QueueCounters {
    std::uint64_t accepted = 0, accepted_bytes = 0;
    std::uint64_t batches = 0, batch_bytes = 0; // what was written, padding included
    std::uint64_t write_errors = 0, read_errors = 0, damaged_records = 0;
    std::uint64_t mended_records = 0; // taken from one half of a mirror: the other's was not whole
    std::uint64_t single_copies = 0;  // that only one half has whole, as the last scrub saw it
    std::uint64_t segments_free = 0, segments_total = 0;
    std::uint64_t segments_bad =
        0; // of the total: a write was refused there, and they are not used again
    std::uint64_t queued_messages = 0, ready_messages = 0, deferred_messages = 0;
    std::uint64_t resident_bytes = 0;
    std::uint64_t collected_bytes = 0; // copied for messages that outlived their segment
    std::uint64_t checkpoints = 0, checkpoint_bytes = 0;
    std::uint64_t scrub_bytes = 0, scrub_passes = 0;
    std::uint64_t read_only = 0;        // 1: MessageQueue::read_only()
    std::uint64_t segments_old_key = 0; // encrypted, and not yet under the first key
};

/// What a draft is for when the spool is too full for new mail.
enum class DraftUse : std::uint8_t {
    mail, // refused when only the reserve is left
    report, // on a message of this queue, which ends once the report is safe: may use the reserve, because
            // mail that can only be given up would otherwise keep the spool full for good
};

/// A message on its way in. Content streams into slabs; beyond inline_content_bytes_max it goes to the
/// log in chunks as it comes, so that memory stays bounded. Dropping a draft aborts it.
class Draft {
public:
    Draft() = default;
    Draft(Draft&&) noexcept;
    Draft& operator=(Draft&&) noexcept;
    ~Draft();

    [[nodiscard]] MessageId id() const noexcept;
    [[nodiscard]] Envelope& envelope() noexcept;
    [[nodiscard]] std::uint64_t content_bytes() const noexcept;
    [[nodiscard]] explicit operator bool() const noexcept { return static_cast<bool>(message_); }

    /// The free end of the content, to write into directly, followed by appended(). Empty when a slab
    /// must be waited for first: co_await make_room().
    [[nodiscard]] std::span<std::byte> room() noexcept;
    void appended(std::size_t bytes) noexcept;
    [[nodiscard]] base::Task<SpoolResult<>> make_room(base::Deadline deadline);
    /// Copies `bytes` to the end of the content; waits for room where it must.
    [[nodiscard]] base::Task<SpoolResult<>> append(std::span<const std::byte> bytes,
                                                   base::Deadline deadline);

    /// Makes the message durable: `prelude` (added headers), then the content, with the envelope.
    /// Returns when it is safe, never before. The message is then ready for delivery.
    /// \pre   at least one recipient; prelude of at most prelude_bytes_max
    [[nodiscard]] base::Task<SpoolResult<MessageRef>> commit(std::string_view prelude,
                                                             base::Deadline deadline);

private:
    friend class MessageQueue;
    Draft(QueueCore& core, MessageRef message) noexcept;
    QueueCore* core_ = nullptr;
    MessageRef message_;
};

class MessageQueue;

/// Reads a message's content in pieces of bounded size, from memory or from disk.
class ContentReader {
public:
    ContentReader(MessageQueue& queue, MessageRef message) noexcept;
    /// The next piece; an empty chain after the last one. Damaged content is never handed out.
    [[nodiscard]] base::Task<SpoolResult<base::SlabChain>> next(base::Deadline deadline);
    [[nodiscard]] std::uint64_t bytes_left() const noexcept;
    /// Whether all that is left is in memory, so that next() will not wait for the disk.
    [[nodiscard]] bool resident() const noexcept;

private:
    QueueCore* core_;
    MessageRef message_;
    std::uint64_t offset_ = 0;
};

/// Who takes messages that are to be attempted now: new ones, due ones, and those found at start.
class ReadySink {
public:
    virtual ~ReadySink() = default;
    /// Called once per delivery round. Whoever takes the message ends the round with exactly one of
    /// MessageQueue::settle(), defer(), park() and hold().
    virtual void message_ready(MessageRef message) = 0;
    /// How many more it takes now; fresh ones have not been attempted yet. What has to wait costs less
    /// in the queue. Whoever has said 0 calls MessageQueue::pull() when there is room again.
    [[nodiscard]] virtual std::size_t room([[maybe_unused]] bool fresh) const noexcept {
        return std::numeric_limits<std::size_t>::max();
    }
};

/// What an operator's queue command selects; empty fields select everything. The sender is compared by
/// a hash of 32 bits: who must be sure loads the message and looks.
struct QueueFilter {
    std::string domain, tenant, account, sender;
    std::optional<MessageId> id;
};

class MessageQueue final {
public:
    /// close() it first. Drafts, readers and all content have gone before; the loop may have, too.
    ~MessageQueue();
    MessageQueue(const MessageQueue&) = delete;
    MessageQueue& operator=(const MessageQueue&) = delete;

    /// Opens or creates the log on `disk` and makes every unfinished message ready or deferred. Where that
    /// takes longer than recovery_wait it goes on in the background, while new mail is accepted already:
    /// see recovery(). `disk` and `loop` outlive the queue.
    [[nodiscard]] static base::Task<SpoolResult<std::unique_ptr<MessageQueue>>>
    open(base::Loop& loop, Disk& disk, QueueOptions options, RecoveryReport& report);

    /// What was found so far.
    [[nodiscard]] const RecoveryReport& recovery() const noexcept;
    /// Waits until all mail has been found.
    [[nodiscard]] base::Task<SpoolResult<>> recovered(base::Deadline deadline);

    /// Begins a message, or says `full`, `overloaded` or `read_only`. `expected_bytes` is the client's
    /// SIZE, 0 when it gave none.
    /// \param tenant  whose mail it is: when the spool is filling, who has most of it queued is refused first
    [[nodiscard]] SpoolResult<Draft> begin(std::uint64_t expected_bytes,
                                           DraftUse use = DraftUse::mail,
                                           std::string_view tenant = {});
    /// The device has refused too much: until the next start nothing is taken, and nothing is handed out, because that
    /// it was delivered could not be written down. What is in a round already should be left as it is.
    [[nodiscard]] bool read_only() const noexcept;
    /// How near the spool is to being full, for whoever decides what to take on.
    [[nodiscard]] SpoolPressure pressure() noexcept;

    /// Nothing is handed out before this is called; then everything that waited is.
    void set_sink(ReadySink& sink);

    /// Ends a round in which every recipient reached a final state: the message is done, and its
    /// record of that goes out with the next batch.
    void settle(MessageRef message);
    /// Ends a round with recipients still pending: writes the status, drops the content from memory
    /// and wakes the message at `due`. Counts the round in Message::attempts.
    void defer(MessageRef message, base::WallTime due, std::string_view why);
    /// Ends a round in which nothing was attempted: the message waits with its site, which says when.
    /// Nothing is written or counted.
    /// \param wake_by  when it is handed out in any case
    void park(MessageRef message, SiteRef site, base::WallTime wake_by);
    /// Ends a round in which nothing was attempted: the message waits until release_held().
    void hold(MessageRef message);
    std::uint32_t release_held(std::uint32_t count);
    /// The sink has room again.
    void pull();
    /// Records progress within a round (some recipients final) so that a crash does not repeat them.
    void progress(const Message& message);
    /// Waits until all records written so far are durable.
    [[nodiscard]] base::Task<SpoolResult<>> sync(base::Deadline deadline);

    // Sites that take nothing for a while: see Schedule.
    [[nodiscard]] SiteRef site(std::string_view key);
    void leave(SiteRef site) noexcept;
    void pause(SiteRef site, base::WallTime until);
    void unpause(SiteRef site);
    void set_failures(SiteRef site, std::uint32_t failures, std::string_view why);
    std::uint32_t release(SiteRef site, std::uint32_t count);
    [[nodiscard]] Schedule::SiteView site_view(SiteRef site) const noexcept;
    [[nodiscard]] const Schedule& schedule() const noexcept;

    /// What is queued, to walk over without touching the disk. Slots stay good from turn to turn.
    [[nodiscard]] const MessageIndex& index() const noexcept;
    /// The message as it is now, from the disk when nobody works on it; without its content. It is for
    /// looking at: only the round that it is in may change it.
    [[nodiscard]] base::Task<SpoolResult<MessageRef>> load(MessageId id, base::Deadline deadline);
    /// Ends a message without a word to anybody; false while it is in a delivery round.
    [[nodiscard]] bool remove(EntryRef entry);
    /// A message that waits for its time or its site is handed out next; false for any other.
    bool expedite(EntryRef entry, bool held_too = false);

    /// In no particular order, until `visit` returns false; all in one turn.
    void for_each(const QueueFilter& filter,
                  const std::function<bool(EntryRef, const Entry&)>& visit) const;
    std::uint64_t
    flush(const QueueFilter& filter); // deferred ones become due now; returns how many

    /// Stops taking new mail, finishes what is in the commit path, writes a clean mark.
    [[nodiscard]] base::Task<SpoolResult<>> close(base::Deadline deadline);
    [[nodiscard]] QueueCounters counters() const noexcept;
    /// The memory that all content lies in, for telling a device that reads it in place.
    [[nodiscard]] std::array<std::span<std::byte>, 2> arenas() const noexcept;

private:
    friend class ContentReader;
    friend class QueueProbe; // tests hold the books against what is there
    explicit MessageQueue(std::unique_ptr<QueueCore> core) noexcept;
    std::unique_ptr<QueueCore> core_;
};

inline constexpr std::size_t inline_content_bytes_max = 512U
                                                        << 10; // above it content goes in chunks
inline constexpr std::size_t prelude_bytes_max = 16U << 10;

} // namespace queue
