// send_queue.h: the bytes of a stream from their first sending to their acknowledgement.
//
// Scope      References to slabs in stream order, found by sequence number. What is in flight, lost or
//            due is sender.h's.
// Owns       A reference to every slab with an unacknowledged byte, and a ring of them: one piece lies
//            in the queue itself, more are on the heap as long as there are any.
// Threading  One shard.
// Failure    append_copy() takes fewer bytes when the pool is empty.
#pragma once

#include "dataplane/base/slab.h"
#include "dataplane/net/tcp/seq.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace dataplane::net::tcp {

namespace base = dataplane::base;

class SendQueue {
public:
    SendQueue() noexcept = default;
    ~SendQueue() { clear(); }
    SendQueue(const SendQueue&) = delete;
    SendQueue& operator=(const SendQueue&) = delete;

    /// \pre  empty. The first byte appended has the number `first`.
    void begin_at(Seq first) noexcept;

    [[nodiscard]] Seq begin() const noexcept { return begin_; } // oldest byte held
    [[nodiscard]] Seq end() const noexcept { return end_; }
    [[nodiscard]] std::uint32_t bytes() const noexcept { return distance(begin_, end_); }

    /// Copies the front of `bytes`, into the tail's slab first if a copy made it: bytes that have been
    /// handed out are never written again, those behind them never were.
    std::size_t append_copy(std::span<const std::byte> bytes, base::SlabPool& pool) noexcept;
    void append(base::SlabView view) noexcept;

    /// Lets go of everything before `upto`. \pre  begin() <= upto <= end()
    void acknowledge(Seq upto) noexcept;
    /// New data will be asked for at `position`: gather() from there on needs no search.
    void point_at(Seq position) noexcept;
    /// Views of [from, from + bytes), at most slices.size() of them; returns how many.
    [[nodiscard]] std::size_t gather(Seq from, std::uint32_t bytes,
                                     std::span<base::SlabView> slices) const noexcept;
    void clear() noexcept;

private:
    struct Piece {
        base::SlabView view;
        Seq begin;
    };
    [[nodiscard]] Piece& piece(std::uint32_t index) noexcept {
        return ring_[(head_ + index) & (capacity_ - 1)];
    }
    [[nodiscard]] const Piece& piece(std::uint32_t index) const noexcept {
        return ring_[(head_ + index) & (capacity_ - 1)];
    }
    [[nodiscard]] std::uint32_t find(Seq position) const noexcept;
    void push(base::SlabView view) noexcept;
    void grow() noexcept;
    void release_ring() noexcept;

    Piece* ring_ = &own_;
    Piece own_;
    std::uint32_t capacity_ = 1; // a power of two
    std::uint32_t head_ = 0;
    std::uint32_t count_ = 0;
    std::uint32_t cursor_ : 31 = 0; // index of the piece point_at() found
    std::uint32_t tail_is_copy_ : 1 = 0;
    Seq begin_;
    Seq end_;
};

} // namespace dataplane::net::tcp
