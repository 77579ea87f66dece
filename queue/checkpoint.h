// checkpoint.h: the index on disk, so that a restart reads it and the newest part of the log, not the pool.
//
// Scope      Writing: a walk over the slots in slices between the loop's turns, while mail comes and goes
//            (it is fuzzy: whatever changes meanwhile is found in the log). Parts, then the end record,
//            then the superblock. The bytes: decoding for recovery. When one is worth it.
// Owns       The records of the last complete checkpoint and of the one being written.
// Threading  Bound to one shard.
// Failure    A checkpoint that cannot be written is given up; the one before stays. A lost one costs the
//            next start time, and the certainty that no finished mail comes back; never mail.
#pragma once

#include "dataplane/base/task.h"
#include "dataplane/base/wait.h"
#include "queue/codec.h"
#include "queue/index.h"
#include "queue/log.h"
#include "queue/side_writer.h"

#include <cstdint>
#include <expected>
#include <span>
#include <string_view>
#include <vector>

namespace queue {

class QueueCore;

/// Where a record of a checkpoint is.
struct CheckpointPart {
    std::uint64_t segment_seq = 0;
    std::uint32_t slot = 0;
    std::uint32_t offset = 0;
    std::uint32_t payload_bytes = 0;
};

/// CHECKPOINT_END.
struct CheckpointEnd {
    Log::Position from; // the log is read from here; messages of older records are in the parts
    std::uint64_t entries = 0;
    std::vector<std::uint64_t> also;   // older segments that were still written to: read, too
    std::vector<CheckpointPart> parts; // in no particular order
    std::vector<std::uint32_t> free;   // slots that were free then
};
[[nodiscard]] std::vector<std::byte> encode_checkpoint_end(const CheckpointEnd& end);
[[nodiscard]] std::expected<CheckpointEnd, CodecError>
decode_checkpoint_end(std::span<const std::byte> payload);

/// One message of a part. The views live as long as the payload.
struct CheckpointEntry {
    MessageId id;
    std::uint64_t lsn = 0;
    base::WallTime due{};
    CheckpointPart place;
    std::uint32_t content_bytes = 0;
    std::uint32_t arrival_s = 0, expiry_s = 0;
    std::uint32_t sender_hash = 0, recipient_hash = 0;
    std::string_view tenant, account, source, error;
    std::uint16_t attempts = 0;
    std::uint8_t flags = 0;
    std::vector<RecipientStatus> status;
    std::vector<std::string_view> domains;
    std::vector<CheckpointPart> chunks; // payload_bytes: of body
};

/// Reads the entries of a part one after the other.
class CheckpointReader {
public:
    /// An error when the part contradicts itself.
    [[nodiscard]] static std::expected<CheckpointReader, CodecError>
    open(std::span<const std::byte> payload);
    /// False after the last one, and when what follows makes no sense: see good().
    [[nodiscard]] bool next(CheckpointEntry& entry);
    [[nodiscard]] bool good() const noexcept { return good_; }

private:
    std::span<const std::byte> rest_;
    std::vector<std::string_view> texts_;
    std::uint32_t left_ = 0;
    bool good_ = true;
};

class Checkpoint {
public:
    Checkpoint(QueueCore& core, SideWriter& writer) noexcept : core_(core), writer_(writer) {}
    Checkpoint(const Checkpoint&) = delete;
    Checkpoint& operator=(const Checkpoint&) = delete;

    /// Begins one when that is worth it and nothing is under way. Has the log keep room for it.
    void consider();
    /// Writes one now, for an orderly end; whether that succeeded matters little. False when the deadline
    /// passed before it ended.
    [[nodiscard]] base::Task<bool> write_last(base::Deadline deadline);
    /// At start, before mail is let in: what was queued, although the index does not have it yet.
    void expect(const CheckpointEnd& end) noexcept;
    /// Takes over what recovery found: these records live until there is a newer checkpoint.
    void adopt(const CheckpointPointer& pointer, const CheckpointEnd& end, std::uint64_t log_bytes);
    void stop() noexcept { task_ = {}; }
    [[nodiscard]] bool busy() const noexcept { return busy_; }
    /// Of the last one, in this slot.
    [[nodiscard]] std::uint32_t records_in(std::uint32_t slot) const noexcept;
    /// Whether one would give segments back: cheaper than collecting others.
    [[nodiscard]] bool frees_segments() const noexcept;
    [[nodiscard]] std::uint64_t count() const noexcept { return count_; }
    [[nodiscard]] std::uint64_t bytes_written() const noexcept { return bytes_written_; }

private:
    friend class QueueProbe;
    base::Task<void> run();
    base::Task<bool> write_all();
    base::Task<bool> write_parts(CheckpointEnd& end);
    base::Task<bool> write_record(RecordType type, std::span<const std::byte> payload,
                                  CheckpointPart& part);
    [[nodiscard]] std::uint64_t size() const noexcept;
    [[nodiscard]] std::uint32_t segments_needed() const noexcept;
    void learn_size(std::uint64_t bytes, std::uint64_t entries) noexcept;
    void drop(std::vector<CheckpointPart>& parts) noexcept;

    QueueCore& core_;
    SideWriter& writer_;
    bool busy_ = false;
    base::TimePoint not_before_{};
    std::uint64_t log_bytes_before_ = 0;  // what the log had written when the last one began
    std::vector<CheckpointPart> current_; // the records of the last complete one
    std::vector<CheckpointPart> writing_;
    std::uint64_t writing_bytes_ = 0;
    std::uint64_t entry_bytes_ = checkpoint_entry_bytes; // on average
    std::uint64_t expected_ = 0;                         // entries, until recovery is complete
    std::uint64_t count_ = 0;
    std::uint64_t bytes_written_ = 0;
    base::Task<void> task_;
};

} // namespace queue
