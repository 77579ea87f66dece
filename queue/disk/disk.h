// disk.h: where the log's bytes go: one fixed-size space, read and overwritten in aligned blocks.
//
// Scope      The one interface all spool I/O passes. UringFile (uring_file.h) is the product;
//            SimDisk (tests) loses, tears, reorders and refuses writes from a seed.
// Threading  Bound to one shard.
// Failure    DiskError per operation. A short write is an error; a failed write leaves the range in an
//            unknown state, and nobody may write to that range again in this generation.
#pragma once

#include "dataplane/base/task.h"

#include <cstddef>
#include <cstdint>
#include <expected>
#include <span>
#include <string_view>

namespace queue {

namespace base = dataplane::base;

inline constexpr std::size_t block_bytes = 4096; // alignment of offset, length and memory

[[nodiscard]] constexpr std::uint32_t whole_blocks(std::uint32_t bytes) noexcept {
    return static_cast<std::uint32_t>((bytes + (block_bytes - 1)) & ~(block_bytes - 1));
}

enum class DiskError : std::uint8_t { io, short_transfer, no_space, timed_out };
[[nodiscard]] std::string_view to_string(DiskError error) noexcept;

enum class Durable : std::uint8_t {
    no,  // may stay in the device's cache until flush()
    yes, // on stable media when the task is done (RWF_DSYNC)
};

class Disk {
public:
    virtual ~Disk() = default;
    [[nodiscard]] virtual std::uint64_t size_bytes() const noexcept = 0;
    /// \pre  offset, bytes.size() and bytes.data() are multiples of block_bytes; the span stays valid
    ///       until the task is done, also when its owner has lost interest
    [[nodiscard]] virtual base::Task<std::expected<void, DiskError>>
    write(std::uint64_t offset, std::span<const std::byte> bytes, Durable durable) = 0;
    [[nodiscard]] virtual base::Task<std::expected<void, DiskError>>
    read(std::uint64_t offset, std::span<std::byte> bytes) = 0;
    /// A mirror has more than one copy of everything, this many of them complete. When what read() gave does not
    /// check out, another may: \param copy  from 0, the one that read() asks first, to copies() - 1.
    /// Nothing is written back: a block holds more records than the one that was found good.
    [[nodiscard]] virtual unsigned copies() const noexcept { return 1; }
    [[nodiscard]] virtual base::Task<std::expected<void, DiskError>>
    read_copy(unsigned copy, std::uint64_t offset, std::span<std::byte> bytes);
    /// Makes the copies of a range alike, which the last end may have left different in what was under way. To be
    /// called before that is relied on: one copy may be gone tomorrow.
    [[nodiscard]] virtual base::Task<std::expected<void, DiskError>>
    make_alike(std::uint64_t offset, std::uint64_t bytes);
    /// Everything written before this call is on stable media when the task succeeds.
    [[nodiscard]] virtual base::Task<std::expected<void, DiskError>> flush() = 0;
};

} // namespace queue
