// record_reader.h: reads one record's payload from disk into slabs and checks it.
//
// Scope      Nothing is handed out before the checksum over all of the record was right, unless the caller
//            says that it checks what it takes itself. The parts of a large record are read at once. On a mirror
//            each half is asked before a record counts as damaged.
// Owns       Its jobs. A job whose waiter has gone keeps its memory until the disk is done with it.
// Threading  Bound to one shard.
// Failure    SpoolError::read_failed or damaged; timed_out and cancelled from the deadline.
#pragma once

#include "dataplane/base/slab.h"
#include "dataplane/base/task.h"
#include "dataplane/base/wait.h"
#include "queue/codec.h"
#include "queue/limits.h"
#include "queue/queue.h"
#include "queue/ticket.h"

#include <array>
#include <memory>
#include <vector>

namespace queue {

class QueueCore;

class RecordReader {
public:
    explicit RecordReader(QueueCore& core) noexcept : core_(core) {}
    ~RecordReader();
    RecordReader(const RecordReader&) = delete;
    RecordReader& operator=(const RecordReader&) = delete;

    enum class Check : std::uint8_t {
        payload, // reads the record to its end, whatever is asked of it
        header, // reads no further than what is asked, and checks only that it is this record's; of an
                // encrypted record the caller then knows no more than that its own checksum fits
    };
    /// The payload's bytes [from, from + bytes) of a record of this message with `payload_bytes` of payload.
    /// \post  the message may have been moved, and the place been used again, while this waited: what is read of
    ///        another message is damaged
    [[nodiscard]] base::Task<SpoolResult<base::SlabChain>>
    read(MessageId id, Place place, std::uint32_t payload_bytes, std::uint32_t from,
         std::uint32_t bytes, base::Deadline deadline, Check check = Check::payload);

private:
    // A record is at most a batch, and may begin and end inside a block.
    static constexpr std::size_t slabs_max = batch_bytes_max / large_slab_bytes + 1;
    struct Job {
        std::array<base::SlabRef, slabs_max> slabs;
        std::size_t slab_count = 0;
        MessageId id;
        Place place;
        std::uint32_t payload_bytes = 0;
        std::uint32_t record_bytes = 0; // all of it
        std::uint32_t read_bytes = 0;   // from the record's first byte on
        std::uint32_t skew = 0;         // of that byte in the first slab
        Check check = Check::payload;
        std::size_t parts_open = 0;
        bool done = false;
        bool abandoned = false;
        SpoolResult<> result;
        base::WaitQueue wait{"spool read"};
        std::array<base::Task<void>, slabs_max> parts;
    };
    class Hold; // gives the job back, or leaves it to its task when that is still at work

    [[nodiscard]] Job& take_job();
    void give_back(Job& job) noexcept;
    void start(Job& job, unsigned copy);
    base::Task<void> read_part(Job& job, unsigned copy, std::size_t part, std::uint64_t from,
                               std::uint32_t bytes);
    void end(Job& job);
    [[nodiscard]] SpoolResult<> check(const Job& job) noexcept;
    [[nodiscard]] bool decrypt(const Job& job, const RecordHeader& header) noexcept;
    template <class Visit>
    static void for_range(const Job& job, std::uint32_t from, std::uint32_t bytes, Visit&& visit);

    QueueCore& core_;
    std::vector<std::unique_ptr<Job>> jobs_;
    std::vector<Job*> free_;
};

} // namespace queue
