// recovery.h: from what a disk holds to a queue that can go on.
//
// Scope      Formats a blank disk; otherwise makes this boot known, finds slots that are free for certain so
//            that new mail has a place at once, and then folds what there is into the index: the newest
//            part of the log, newest first, and the checkpoint before it; without one, all of the log.
//            Takes every record that checks out and tells damage to acknowledged data from writes that a
//            crash cut short. Finding more than was acknowledged is only a duplicate, so there is no
//            order to respect and no point at which to stop.
// Owns       What it needs to fold, until that is done.
// Threading  Bound to one shard.
// Failure    SpoolError::damaged when the disk cannot be trusted or understood, no_key when mail is encrypted
//            under a key that is not here (and then nothing was written), read_failed and
//            write_failed from the device; RecoveryReport::problem says it for people. Found out in the
//            background, it leaves a queue that goes on with what it has and frees nothing.
#pragma once

#include "queue/core.h"
#include "queue/epoch.h"
#include "queue/segment_scan.h"

#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace queue {

class Recovery {
public:
    Recovery(base::Loop& loop, Disk& disk, const QueueOptions& options);
    Recovery(const Recovery&) = delete;
    Recovery& operator=(const Recovery&) = delete;

    [[nodiscard]] static base::Task<SpoolResult<std::unique_ptr<QueueCore>>>
    open(base::Loop& loop, Disk& disk, QueueOptions options, RecoveryReport& report);

private:
    struct Status {
        std::uint64_t lsn = 0;
        StatusView view; // without its text
        std::string last_error;
        std::vector<RecipientStatus> recipients;
    };
    struct ChunkFound {
        std::uint64_t lsn = 0;
        ChunkPrefix prefix;
        Place place;
        std::uint32_t bytes = 0; // of body
    };
    struct Found { // a message's newest record
        std::uint64_t lsn = 0;
        Place place;
        MessagePrefix prefix;
        std::uint32_t payload_bytes = 0;
        std::vector<std::byte> envelope;
    };
    // The frames of one boot, for finding what is missing among them.
    // A record whose payload does not check out.
    struct Rotten {
        MessageId id;
        Place place;
        std::uint32_t payload_bytes = 0;
        std::uint32_t epoch = 0;     // of its frame
        std::uint64_t batch_seq = 0; // 0: beside the log
        std::optional<Found> mail;   // whose envelope does: its sender can be told
    };
    // An encrypted record of a segment whose header is lost.
    struct Locked {
        MessageId id;
        std::uint64_t lsn = 0;
        std::uint16_t type = 0;
    };
    struct UsedSegment {
        std::uint64_t seq = 0; // 0: the header does not say
        std::uint32_t slot = 0;
        bool encrypted = false;
        std::optional<DataKey> key;
        KeyError no_key = KeyError::refused; // why there is none,
        KeyId wrapper{};                     // and what would unwrap it
        bool old_wrapper = false;            // a copy of its header does not name the first key
    };
    // Where a record should be, and under which key.
    struct RecordAt {
        RecordType type{};
        std::uint32_t slot = 0;
        std::uint64_t seq = 0;
        std::uint32_t offset = 0;
        std::uint32_t payload_bytes = 0;
        bool encrypted = false;
        std::optional<DataKey> key;
    };

    // In the foreground: recovery.cc.
    base::Task<SpoolResult<std::unique_ptr<QueueCore>>> begin();
    base::Task<SpoolResult<>> read_superblock();
    [[nodiscard]] SpoolResult<> adopt(const Superblock& superblock);
    base::Task<SpoolResult<>> format();
    base::Task<SpoolResult<bool>> any_segment_header();
    base::Task<SpoolResult<>> probe_slots();
    base::Task<void> probe(std::uint32_t slot);
    void read_headers(std::span<const std::byte> bytes, UsedSegment& segment);
    base::Task<SpoolResult<>> read_checkpoint_end();
    [[nodiscard]] SpoolResult<> sort_slots();
    void unwrap(UsedSegment& segment, const WrappedKey& wrapped) const;
    [[nodiscard]] SpoolResult<> need_key(const UsedSegment& segment);

    // In the background: recovery_fold.cc.
    base::Task<void> fold();
    base::Task<SpoolResult<>> read_log(std::vector<UsedSegment> segments);
    base::Task<void> read_checkpoint();
    base::Task<void> read_part(std::size_t number);
    base::Task<SpoolResult<>> read_rest();
    void end(SpoolResult<> result);

    // Reading: recovery_read.cc.
    base::Task<bool> read_bytes(unsigned copy, std::uint64_t offset, std::span<std::byte> bytes);
    base::Task<void> read_piece(unsigned copy, std::uint64_t offset, std::span<std::byte> bytes,
                                bool* readable);
    base::Task<std::span<const std::byte>> read_record(const RecordAt* at, BlockMemory* memory);
    base::Task<bool> mend(unsigned copy, std::uint32_t slot, std::span<std::byte> segment);
    /// Runs work(0) to work(count - 1), some at a time.
    base::Task<void> all_of(std::size_t count, std::function<base::Task<void>(std::size_t)> work);
    [[nodiscard]] SpoolResult<> take_segment(UsedSegment segment, bool readable);
    [[nodiscard]] bool open_record(std::uint32_t slot, FoundRecord& record);
    [[nodiscard]] bool says_nothing(const SegmentScan& scan) const;
    [[nodiscard]] static bool logged(const SegmentScan& scan) noexcept;
    [[nodiscard]] SpoolResult<> take_record(std::uint32_t slot, const FoundRecord& record);
    void take_status(const FoundRecord& record);
    void take_message(std::uint32_t slot, const FoundRecord& record);
    void take_rotten(std::uint32_t slot, FoundRecord& record, const SegmentScan& scan);
    void enter_rotten();
    void enter_entry(const CheckpointEntry& found);
    void enter_message(MessageId id, const Found& found);
    void enter_rest();
    void finish_entry(EntryRef ref, std::uint64_t copy_lsn);
    [[nodiscard]] std::optional<Place> place_of(const CheckpointPart& part,
                                                std::uint32_t prefix_bytes) const;
    [[nodiscard]] std::optional<Place> place_of_chunk(MessageId id, std::size_t number,
                                                      const CheckpointPart& part) const;
    void judge_frames();
    void judge_locked();
    [[nodiscard]] bool ended(const CheckpointPart& part) const noexcept;
    [[nodiscard]] std::unexpected<SpoolError> refuse(SpoolError error, std::string problem);

    base::Loop& loop_;
    Disk& disk_;
    QueueOptions options_;
    RecoveryReport report_; // until there is a core, which has it from then on
    base::TimePoint began_{};
    Superblock superblock_;        // as it was found
    bool front_half_only_ = false; // where it was found
    CheckpointEnd checkpoint_;
    bool with_checkpoint_ = false;
    BlockMemory buffer_; // the segment that is looked at
    BlockMemory other_;  // the same from another copy of the disk
    Envelope envelope_;  // of the message being built
    QueueCore* core_ = nullptr;
    std::vector<UsedSegment> used_;
    std::vector<std::uint32_t> blank_;
    bool later_version_ = false;
    std::uint64_t read_from_ = 0;     // log segments below are not read
    std::uint64_t messages_from_ = 0; // messages of older records are in the checkpoint
    std::uint64_t log_bytes_ = 0;     // read
    std::unordered_map<std::uint64_t, Found> found_;
    std::vector<Rotten> rotten_;
    std::vector<Locked> locked_;
    std::unordered_set<std::uint64_t> finished_;
    std::unordered_map<std::uint64_t, Status> statuses_;
    std::unordered_map<std::uint64_t, std::vector<ChunkFound>> chunks_;
    std::map<std::uint32_t, Epoch> epochs_;
    base::Task<void> task_;
    bool failed_ = false;
    SpoolResult<> result_;
};

} // namespace queue
