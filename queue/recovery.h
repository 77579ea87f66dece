// recovery.h: from what a disk holds to a queue that can go on.
//
// Scope      Formats a blank disk; otherwise reads every segment, takes every record that checks out,
//            folds status and completion into the messages, and tells damage to acknowledged data from
//            writes that a crash cut short. Finding more than was acknowledged is only a duplicate, so
//            there is no order to respect and no point at which to stop.
// Owns       What it needs to fold, until run() ends.
// Threading  Bound to one shard.
// Failure    SpoolError::damaged when the disk cannot be trusted or understood, read_failed and
//            write_failed from the device; RecoveryReport::problem says it for people.
#pragma once

#include "queue/core.h"
#include "queue/segment_scan.h"

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace queue {

class Recovery {
public:
    Recovery(base::Loop& loop, Disk& disk, const QueueOptions& options, RecoveryReport& report);
    Recovery(const Recovery&) = delete;
    Recovery& operator=(const Recovery&) = delete;

    [[nodiscard]] base::Task<SpoolResult<std::unique_ptr<QueueCore>>> run();

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
    struct Found {
        MessageRef message;
        std::uint64_t lsn = 0;
        std::uint32_t chunk_count = 0;
    };
    // The frames of one boot, for finding what is missing among them.
    struct Epoch {
        std::uint64_t durable = 0;
        std::vector<FoundFrame> frames;
        std::set<std::uint64_t> failed;
    };
    struct UsedSegment {
        std::uint64_t seq = 0;
        std::uint32_t slot = 0;
    };

    base::Task<SpoolResult<>> read_superblock();
    [[nodiscard]] SpoolResult<> adopt(const Superblock& superblock);
    base::Task<SpoolResult<>> format();
    base::Task<SpoolResult<bool>> any_segment_header();
    base::Task<SpoolResult<>> order_segments();
    base::Task<SpoolResult<>> read_segments();
    base::Task<bool> read_bytes(std::uint64_t offset, std::span<std::byte> bytes);
    [[nodiscard]] SpoolResult<> take_segment(std::uint32_t slot, bool readable);
    [[nodiscard]] SpoolResult<> take_record(std::uint32_t slot, const FoundRecord& record);
    void take_status(const FoundRecord& record);
    void take_message(std::uint32_t slot, const FoundRecord& record);
    [[nodiscard]] bool gather_chunks(const Found& found);
    void judge_frames();
    void judge_epoch(Epoch& epoch, bool last);
    void enter_segments();
    void enter_messages();
    void enter(Found& found);
    [[nodiscard]] std::unexpected<SpoolError> refuse(SpoolError error, std::string problem);

    base::Loop& loop_;
    Disk& disk_;
    QueueOptions options_;
    RecoveryReport& report_;
    Superblock superblock_; // as it was found
    BlockMemory buffer_;
    std::unique_ptr<QueueCore> core_;
    std::vector<UsedSegment> order_; // to read, newest first
    std::vector<UsedSegment> used_;
    std::vector<std::uint32_t> free_;
    std::unordered_map<std::uint64_t, Found> found_;
    std::unordered_set<std::uint64_t> finished_;
    std::unordered_map<std::uint64_t, Status> statuses_;
    std::unordered_map<std::uint64_t, std::vector<ChunkFound>> chunks_;
    std::map<std::uint32_t, Epoch> epochs_;
};

} // namespace queue
