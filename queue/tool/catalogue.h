// catalogue.h: everything that a pool's segments hold, whether the queue would still count it or not.
//
// Scope      Reads every slot with segment_scan.h and folds what it finds: of each message the newest
//            record, the newest status, all chunks, and whether it has ended. Independent of the
//            checkpoint and of the index, so that both can be held against it; and of most of the
//            superblock, so that a pool which has lost it can still be read.
// Owns       Places and states; envelopes and content stay on disk, see read_message.h.
// Threading  One thread.
// Failure    Damage is found, listed and stepped over.
#pragma once

#include "queue/checkpoint.h"
#include "queue/segment_scan.h"
#include "queue/segments.h"
#include "queue/superblock_choice.h"
#include "queue/tool/pool_file.h"
#include "queue/tool/unlock.h"

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace queue::tool {

struct StoredRecord {
    std::uint64_t lsn = 0;
    std::uint64_t segment_seq = 0;
    Place place;
    std::uint32_t payload_bytes = 0;
    RecordType type = RecordType::message;
    bool encrypted = false;
    bool damaged = false; // its payload does not check out, or does not open
};

struct StoredChunk {
    StoredRecord record;
    ChunkPrefix prefix;
};

struct StoredMessage {
    std::optional<StoredRecord>
        record;                      // MSG or MSG_COMMIT: the newest that checks out, or else any
    std::vector<StoredChunk> chunks; // all copies
    std::uint64_t status_lsn = 0;    // 0: none was found, every recipient is pending
    StatusView status;               // its text is last_error
    std::string last_error;
    std::vector<RecipientStatus> recipients;
    bool done = false;    // TOMB
    bool refused = false; // ABORT
    [[nodiscard]] bool finished() const noexcept { return done || refused; }
};

struct StoredSegment {
    std::uint32_t slot = 0;
    std::uint64_t seq = 0; // 0: nothing recognisable
    bool bad = false;      // the superblock says not to use it
    bool readable = true;  // the device gave all of it back
    bool encrypted = false;
    unsigned headers = 0; // copies of the header that check out
    std::uint64_t frames = 0, frame_bytes = 0;
    std::map<std::uint16_t, std::uint64_t> records; // by type
    std::uint64_t record_bytes = 0;
    std::uint64_t live_records = 0, live_bytes = 0; // see live_view.h
    std::uint64_t damaged_places = 0;
};

struct DamagedPlace {
    std::uint32_t slot = 0;
    std::uint64_t segment_seq = 0;
    std::uint32_t offset = 0; // in the segment
    std::uint32_t bytes = 0;
    bool acknowledged = false; // not merely a write that a crash cut short
    MessageId id;              // 0: not known
    std::string what;
};

struct PoolGeometry {
    Superblock superblock;
    unsigned copies_valid = 0;  // of the superblock
    bool from_segments = false; // the superblock is lost: pieced together from segment headers
    bool later_version = false;
};

/// What the superblock says; where it is lost, what the segments' headers say.
[[nodiscard]] std::expected<PoolGeometry, std::string> read_geometry(const PoolFile& pool);

using Progress = std::function<void(std::uint32_t done, std::uint32_t total)>;

class Catalogue {
public:
    /// Reads the whole pool.
    [[nodiscard]] static Catalogue read(const PoolFile& pool, const Superblock& superblock,
                                        Unlock& unlock, const Progress& progress);

    [[nodiscard]] const StoredMessage* find(MessageId id) const noexcept;
    [[nodiscard]] const std::unordered_map<std::uint64_t, StoredMessage>&
    messages() const noexcept {
        return messages_;
    }
    [[nodiscard]] std::vector<StoredSegment>& segments() noexcept { return segments_; }
    [[nodiscard]] const std::vector<StoredSegment>& segments() const noexcept { return segments_; }
    [[nodiscard]] const std::vector<DamagedPlace>& damage() const noexcept { return damage_; }
    /// Records that did not open for want of a key; nothing is known of what they say.
    [[nodiscard]] std::uint64_t locked_records() const noexcept { return locked_records_; }
    /// The checkpoint that the superblock points to; nothing when there is none, or it cannot be read.
    [[nodiscard]] const std::optional<CheckpointEnd>& checkpoint() const noexcept {
        return checkpoint_;
    }
    [[nodiscard]] std::vector<MessageId> ids() const; // in their order

private:
    void read_slot(const PoolFile& pool, std::uint32_t slot);
    void learn_header(StoredSegment& segment);
    void take(std::uint32_t slot, std::uint64_t seq, FoundRecord record, bool damaged);
    void note_damage(std::uint32_t slot, const SegmentScan& scan);
    void judge_damage();

    Catalogue(const Superblock& superblock, Unlock& unlock);

    Superblock superblock_;
    SegmentTable geometry_; // for where slots begin
    Unlock* unlock_;
    std::vector<std::byte> buffer_;
    std::uint64_t locked_records_ = 0;
    std::unordered_map<std::uint64_t, StoredMessage> messages_;
    std::vector<StoredSegment> segments_;
    std::vector<DamagedPlace> damage_;
    struct Suspect { // of damage_, until all watermarks are known
        std::size_t index;
        std::uint32_t epoch;
        std::uint64_t batch_seq;
    };
    std::vector<Suspect> suspects_;
    std::map<std::uint32_t, std::uint64_t> durable_; // by epoch: batches acknowledged for certain
    std::map<std::uint32_t, std::vector<std::uint64_t>> failed_; // batches reported as refused
    std::optional<CheckpointEnd> checkpoint_;
};

} // namespace queue::tool
