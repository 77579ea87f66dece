#include "dataplane/net/tcp/send_queue.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace dataplane::net::tcp {

void SendQueue::begin_at(Seq first) noexcept {
    CHECK(count_ == 0);
    begin_ = end_ = first;
}

std::size_t SendQueue::append_copy(std::span<const std::byte> bytes,
                                   base::SlabPool& pool) noexcept {
    std::size_t copied = 0;
    while (copied < bytes.size()) {
        std::uint32_t room = 0;
        if (count_ > 0 && tail_is_copy_) {
            const base::SlabView& tail = piece(count_ - 1).view;
            room = tail.slab.capacity() - tail.offset - tail.length;
        }
        if (room == 0) {
            base::SlabRef slab = pool.take();
            if (!slab) break;
            room = slab.capacity();
            push({std::move(slab), 0, 0});
            tail_is_copy_ = true;
        }
        base::SlabView& tail = piece(count_ - 1).view;
        const auto take =
            static_cast<std::uint32_t>(std::min<std::size_t>(room, bytes.size() - copied));
        std::memcpy(tail.slab.data() + tail.offset + tail.length, bytes.data() + copied, take);
        tail.length += take;
        end_ += take;
        copied += take;
    }
    return copied;
}

void SendQueue::append(base::SlabView view) noexcept {
    if (view.length == 0) return;
    const std::uint32_t length = view.length;
    push(std::move(view));
    end_ += length;
    tail_is_copy_ = false;
}

void SendQueue::push(base::SlabView view) noexcept {
    if (count_ == capacity_) grow();
    ++count_;
    Piece& tail = piece(count_ - 1);
    tail.view = std::move(view);
    tail.begin = end_;
}

void SendQueue::grow() noexcept {
    const std::uint32_t capacity = std::max<std::uint32_t>(capacity_ * 2, 8);
    auto* ring = new Piece[capacity];
    for (std::uint32_t i = 0; i < count_; ++i)
        ring[i] = std::move(piece(i));
    release_ring();
    ring_ = ring;
    capacity_ = capacity;
}

void SendQueue::release_ring() noexcept {
    if (ring_ != &own_) delete[] ring_;
    ring_ = &own_;
    capacity_ = 1;
    head_ = 0;
}

void SendQueue::acknowledge(Seq upto) noexcept {
    CHECK(begin_ <= upto && upto <= end_);
    begin_ = upto;
    while (count_ > 0) {
        Piece& first = piece(0);
        // An empty tail, just made and not yet written, cannot be: append_copy() fills it.
        if (first.begin + first.view.length > upto) break;
        first.view = base::SlabView{};
        head_ = (head_ + 1) & (capacity_ - 1);
        --count_;
        if (cursor_ > 0) --cursor_;
    }
    if (count_ == 0) {
        release_ring();
        cursor_ = 0;
        tail_is_copy_ = false;
    }
}

void SendQueue::point_at(Seq position) noexcept {
    while (cursor_ + 1U < count_ && piece(cursor_ + 1U).begin <= position)
        ++cursor_;
}

std::uint32_t SendQueue::find(Seq position) const noexcept {
    if (cursor_ < count_ && piece(cursor_).begin <= position) {
        std::uint32_t index = cursor_;
        while (index + 1 < count_ && piece(index + 1).begin <= position)
            ++index;
        return index;
    }
    std::uint32_t low = 0; // the last piece that begins at or before the position
    std::uint32_t high = count_;
    while (high - low > 1) {
        const std::uint32_t middle = low + (high - low) / 2;
        if (piece(middle).begin <= position) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return low;
}

std::size_t SendQueue::gather(Seq from, std::uint32_t bytes,
                              std::span<base::SlabView> slices) const noexcept {
    if (bytes == 0) return 0;
    CHECK(begin_ <= from && from + bytes <= end_);
    std::size_t count = 0;
    for (std::uint32_t index = find(from); bytes > 0 && count < slices.size(); ++index) {
        const Piece& source = piece(index);
        const std::uint32_t skip = distance(source.begin, from);
        const std::uint32_t take = std::min(bytes, source.view.length - skip);
        slices[count++] = {source.view.slab, source.view.offset + skip, take};
        from += take;
        bytes -= take;
    }
    return count;
}

void SendQueue::clear() noexcept {
    for (std::uint32_t i = 0; i < count_; ++i)
        piece(i).view = base::SlabView{};
    count_ = 0;
    cursor_ = 0;
    begin_ = end_;
    tail_is_copy_ = false;
    release_ring();
}

} // namespace dataplane::net::tcp
