#include "dataplane/net/tcp/receive_buffer.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace dataplane::net::tcp {

bool ReceiveBuffer::holds(Seq begin, Seq end) const noexcept {
    for (std::size_t i = 0; i < range_count_; ++i) {
        if (ranges_[i].begin <= begin && end <= ranges_[i].end) return true;
    }
    return false;
}

ReceiveBuffer::Stored ReceiveBuffer::store(Seq at, std::span<const std::byte> bytes,
                                           base::SlabPool& pool,
                                           std::uint32_t ranges_max) noexcept {
    CHECK(at >= next_);
    if (bytes.empty()) return Stored::all;
    if (slab_count_ == 0) base_ = next_; // nothing is held: a new slab begins with the next byte
    const bool in_order = at == next_;
    const Seq end = at + static_cast<std::uint32_t>(bytes.size());
    if (!in_order && !has_range_for(at, end, ranges_max)) return Stored::no_range;

    const std::uint32_t slab_bytes = pool.slab_bytes();
    std::uint32_t index = distance(base_, at) / slab_bytes;
    std::uint32_t offset = distance(base_, at) % slab_bytes;
    std::size_t stored = 0;
    while (stored < bytes.size()) {
        base::SlabRef* place = slab_for(index, pool);
        if (place == nullptr) break;
        const std::size_t take = std::min<std::size_t>(bytes.size() - stored, slab_bytes - offset);
        std::memcpy(place->data() + offset, bytes.data() + stored, take);
        stored += take;
        offset = 0;
        ++index;
    }
    if (stored > 0) {
        const Seq stored_end = at + static_cast<std::uint32_t>(stored);
        if (in_order) {
            next_ = stored_end;
            absorb_ranges();
        } else {
            add_range(at, stored_end, ranges_max);
        }
    } else if (read_ == next_ && range_count_ == 0) {
        release_slabs();
    }
    return stored == bytes.size() ? Stored::all : Stored::part_no_slab;
}

base::SlabRef* ReceiveBuffer::slab_for(std::uint32_t index, base::SlabPool& pool) noexcept {
    if (index < slab_count_ && slab(index)) return &slab(index);
    base::SlabRef fresh = pool.take();
    if (!fresh) return nullptr;
    if (index >= capacity_) {
        std::uint32_t capacity = std::max<std::uint32_t>(capacity_ * 2U, 8);
        while (capacity <= index)
            capacity *= 2;
        CHECK(capacity <= 0x8000); // receive_bytes_max over the slab size: far below
        auto* table = new base::SlabRef[capacity];
        for (std::uint32_t i = 0; i < slab_count_; ++i)
            table[i] = std::move(slab(i));
        if (table_ != &own_) delete[] table_;
        table_ = table;
        capacity_ = static_cast<std::uint16_t>(capacity);
        head_ = 0;
    }
    slab_count_ = std::max(slab_count_, static_cast<std::uint16_t>(index + 1));
    slab(index) = std::move(fresh);
    return &slab(index);
}

bool ReceiveBuffer::has_range_for(Seq begin, Seq end, std::uint32_t ranges_max) const noexcept {
    if (range_count_ < ranges_max) return true;
    for (std::size_t i = 0; i < range_count_; ++i) {
        if (ranges_[i].begin <= end && begin <= ranges_[i].end) return true;
    }
    return false;
}

void ReceiveBuffer::add_range(Seq begin, Seq end, std::uint32_t ranges_max) noexcept {
    if (!ranges_) ranges_ = std::make_unique<SackBlock[]>(ranges_max);
    SackBlock merged{begin, end};
    for (std::size_t i = 0; i < range_count_;) {
        const SackBlock& other = ranges_[i];
        if (other.begin <= merged.end && merged.begin <= other.end) {
            merged = {min(merged.begin, other.begin), max(merged.end, other.end)};
            remove_range(i);
            i = 0; // grown, it may touch one that it did not before
        } else {
            ++i;
        }
    }
    CHECK(range_count_ < ranges_max);
    std::copy_backward(ranges_.get(), ranges_.get() + range_count_,
                       ranges_.get() + range_count_ + 1);
    ranges_[0] = merged;
    ++range_count_;
}

void ReceiveBuffer::absorb_ranges() noexcept {
    for (std::size_t i = 0; i < range_count_;) {
        if (ranges_[i].begin > next_) {
            ++i;
            continue;
        }
        next_ = max(next_, ranges_[i].end);
        remove_range(i);
        i = 0;
    }
    if (range_count_ == 0) ranges_.reset();
}

void ReceiveBuffer::remove_range(std::size_t index) noexcept {
    std::copy(ranges_.get() + index + 1, ranges_.get() + range_count_, ranges_.get() + index);
    --range_count_;
}

std::span<const std::byte> ReceiveBuffer::unread() const noexcept {
    if (read_ == next_) return {};
    const base::SlabRef& front = slab(0);
    const std::uint32_t offset = distance(base_, read_);
    return {front.data() + offset, std::min(unread_bytes(), front.capacity() - offset)};
}

void ReceiveBuffer::consume(std::uint32_t bytes) noexcept {
    CHECK(bytes <= unread_bytes());
    if (bytes == 0) return;
    const std::uint32_t slab_bytes = slab(0).capacity();
    read_ += bytes;
    if (read_ == next_ && range_count_ == 0) {
        release_slabs();
        return;
    }
    while (distance(base_, read_) >= slab_bytes) {
        slab(0).reset();
        head_ = static_cast<std::uint16_t>((head_ + 1) & (capacity_ - 1));
        --slab_count_;
        base_ += slab_bytes;
    }
}

std::size_t ReceiveBuffer::sack_blocks(std::span<SackBlock> blocks) const noexcept {
    const std::size_t count = std::min<std::size_t>(blocks.size(), range_count_);
    std::copy_n(ranges_.get(), count, blocks.begin());
    return count;
}

void ReceiveBuffer::release_slabs() noexcept {
    for (std::uint32_t i = 0; i < slab_count_; ++i)
        slab(i).reset();
    slab_count_ = 0;
    if (table_ != &own_) delete[] table_;
    table_ = &own_;
    capacity_ = 1;
    head_ = 0;
}

void ReceiveBuffer::clear() noexcept {
    release_slabs();
    ranges_.reset();
    range_count_ = 0;
    read_ = next_;
}

} // namespace dataplane::net::tcp
