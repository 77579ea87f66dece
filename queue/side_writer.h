// side_writer.h: frames into segments of their own, beside the log.
//
// Scope      What is copied by collection and what checkpoints consist of: nobody waits for it, and it
//            must not lie between new mail. One frame is built at a time, in the caller's words, and
//            written durably. A record's place is known before it is written.
// Owns       The frame's memory, and the segment that is open.
// Threading  Bound to one shard.
// Failure    write() says false: nothing of the frame counts, and its segment ends. Never tried again on
//            the same place.
#pragma once

#include "dataplane/base/task.h"
#include "queue/log.h"

#include <cstdint>
#include <span>

namespace queue {

class SideWriter {
public:
    SideWriter(base::Loop& loop, Log& log, Disk& disk) noexcept
        : loop_(loop), log_(log), disk_(disk) {}
    SideWriter(const SideWriter&) = delete;
    SideWriter& operator=(const SideWriter&) = delete;

    /// Begins a frame with room for at least one record of this size; false when no segment is to be
    /// had now.
    /// \param last_too  even the last free segments may be taken: for a checkpoint
    [[nodiscard]] base::Task<bool> begin(std::uint32_t payload_bytes, bool last_too);
    [[nodiscard]] bool fits(std::uint32_t payload_bytes) const noexcept;
    /// The payload is written into the span before anything else is done here, and then sealed.
    [[nodiscard]] std::span<std::byte> add(RecordType type, MessageId id,
                                           std::uint32_t payload_bytes, std::uint64_t lsn);
    [[nodiscard]] Place seal_record() noexcept;
    /// Writes the frame. What it holds may be counted as alive before that.
    [[nodiscard]] base::Task<bool> write();
    /// Ends the segment: the next frame begins another.
    void end_segment() noexcept;

    [[nodiscard]] bool open() const noexcept { return open_; }
    [[nodiscard]] Log::SideSegment segment() const noexcept { return segment_; }
    [[nodiscard]] std::uint64_t bytes_written() const noexcept { return bytes_written_; }

private:
    [[nodiscard]] std::uint32_t room() const noexcept;

    base::Loop& loop_;
    Log& log_;
    Disk& disk_;
    BlockMemory memory_;
    bool open_ = false;
    Log::SideSegment segment_;
    std::uint32_t write_offset_ = 0; // of the next frame
    std::uint32_t used_ = 0;
    std::uint32_t records_ = 0;
    RecordHeader header_; // of the record being added
    std::uint64_t bytes_written_ = 0;
};

} // namespace queue
