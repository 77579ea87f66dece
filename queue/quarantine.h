// quarantine.h: what was found damaged, taken aside as it lies on the disk, for people to look at.
//
// Scope      Reads a damaged record once more, with its segment's header, and gives both to whoever keeps them
//            (QueueOptions::quarantine; the daemon has a folder). What becomes of the message is not decided here.
// Owns       A short list of what is still to be read, and which places were found before.
// Threading  Bound to one shard.
// Failure    What cannot be read is given as zeros; what comes while the list is full is only counted.
#pragma once

#include "dataplane/base/task.h"
#include "queue/log.h"

#include <cstdint>
#include <deque>
#include <functional>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

namespace queue {

struct DamagedRecord {
    PoolId pool{};
    std::uint32_t shard = 0;
    std::uint32_t slot = 0;
    std::uint64_t segment_seq = 0;
    std::uint32_t offset = 0;        // of the record in the segment
    std::uint32_t payload_bytes = 0; // as the index has them
    MessageId id;
    std::string_view found_by;         // "delivery", "scrub" ...; a literal
    std::vector<std::byte> header;     // of the segment, with its wrapped key
    std::vector<std::byte> bytes;      // whole blocks, the record among them
    std::uint32_t offset_in_bytes = 0; // of the record
};
using QuarantineSink = std::function<void(DamagedRecord)>;

class Quarantine {
public:
    Quarantine(Log& log, Disk& disk, QuarantineSink sink)
        : log_(log), disk_(disk), sink_(std::move(sink)) {}
    Quarantine(const Quarantine&) = delete;
    Quarantine& operator=(const Quarantine&) = delete;

    /// \return  whether it is news
    bool take(MessageId id, Place place, std::uint32_t payload_bytes, std::string_view found_by);
    void stop() noexcept { task_ = {}; }

private:
    static constexpr std::size_t waiting_max = 256;
    static constexpr std::size_t known_max = 65536;

    base::Task<void> run();
    base::Task<void> read(DamagedRecord* record);
    base::Task<void> read_blocks(std::uint64_t offset, std::uint32_t bytes,
                                 std::vector<std::byte>* to);

    Log& log_;
    Disk& disk_;
    QuarantineSink sink_;
    std::deque<DamagedRecord> waiting_;
    std::set<std::pair<std::uint64_t, std::uint32_t>> known_; // segment number and offset
    bool busy_ = false;
    base::Task<void> task_;
};

} // namespace queue
