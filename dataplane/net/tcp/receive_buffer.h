// receive_buffer.h: the bytes of a stream from their arrival, in whatever order, until they are read.
//
// Scope      Slab k holds a fixed stretch of the stream, so a byte that comes early is written straight
//            to its place, and nothing moves when the hole before it fills. A short list of ranges
//            says what is there behind the first hole; SACK blocks come from it (RFC 2018).
// Owns       Slabs of a pool, a table of them (one lies in the buffer itself, more on the heap) and the
//            list of ranges, which exists while something is out of order. When all has been read and
//            nothing is out of order it holds no memory, and the next byte begins a new slab.
// Threading  One shard.
// Failure    What finds no slab, no room or no range is not stored: the caller does not acknowledge it.
#pragma once

#include "dataplane/base/slab.h"
#include "dataplane/net/tcp/segment.h"
#include "dataplane/net/tcp/seq.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace dataplane::net::tcp {

namespace base = dataplane::base;

class ReceiveBuffer {
public:
    ReceiveBuffer() noexcept = default;
    ~ReceiveBuffer() { clear(); }
    ReceiveBuffer(const ReceiveBuffer&) = delete;
    ReceiveBuffer& operator=(const ReceiveBuffer&) = delete;

    void begin_at(Seq first) noexcept { base_ = read_ = next_ = first; }

    [[nodiscard]] Seq next() const noexcept { return next_; } // first byte that is missing
    [[nodiscard]] std::uint32_t unread_bytes() const noexcept { return distance(read_, next_); }
    [[nodiscard]] bool out_of_order() const noexcept { return range_count_ > 0; }
    /// Whether all of [begin, end) is here already, behind the first hole.
    [[nodiscard]] bool holds(Seq begin, Seq end) const noexcept;
    /// Bytes that may be stored from next() on without holding more than `bytes_max`.
    [[nodiscard]] std::uint32_t room(std::uint32_t bytes_max) const noexcept {
        const std::uint32_t used = unread_bytes();
        return used < bytes_max ? bytes_max - used : 0;
    }

    enum class Stored : std::uint8_t { all, part_no_slab, no_range };
    /// Stores `bytes` at `at`; next() moves on when that fills the first hole.
    /// \pre  at >= next(), and the bytes lie within what room() gave
    Stored store(Seq at, std::span<const std::byte> bytes, base::SlabPool& pool,
                 std::uint32_t ranges_max) noexcept;

    /// The unread bytes that lie in one piece at the front; valid until consume() or clear().
    [[nodiscard]] std::span<const std::byte> unread() const noexcept;
    /// \pre  bytes <= unread_bytes()
    void consume(std::uint32_t bytes) noexcept;

    /// What is behind the first hole, most recently changed first; returns how many blocks.
    std::size_t sack_blocks(std::span<SackBlock> blocks) const noexcept;
    /// Drops everything; the position stays.
    void clear() noexcept;

private:
    [[nodiscard]] base::SlabRef& slab(std::uint32_t index) const noexcept {
        return table_[(head_ + index) & (capacity_ - 1U)];
    }
    /// The slab for stretch `index`, taken from the pool when it is not there yet.
    [[nodiscard]] base::SlabRef* slab_for(std::uint32_t index, base::SlabPool& pool) noexcept;
    [[nodiscard]] bool has_range_for(Seq begin, Seq end, std::uint32_t ranges_max) const noexcept;
    void add_range(Seq begin, Seq end, std::uint32_t ranges_max) noexcept;
    void absorb_ranges() noexcept;
    void remove_range(std::size_t index) noexcept;
    void release_slabs() noexcept;

    base::SlabRef* table_ = &own_;
    base::SlabRef own_;
    std::unique_ptr<SackBlock[]> ranges_; // disjoint, not touching; the last changed comes first
    Seq base_;                            // position of slab 0's first byte
    Seq read_;
    Seq next_;
    std::uint16_t capacity_ = 1; // of the table, a power of two
    std::uint16_t head_ = 0;
    std::uint16_t slab_count_ = 0; // stretches the table reaches to, empty ones included
    std::uint16_t range_count_ = 0;
};

} // namespace dataplane::net::tcp
