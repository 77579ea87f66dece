// chunked_array.h: an array that grows without moving what is in it.
//
// Scope      Elements by number, in chunks of 4,096: to grow costs one allocation and never copies, so
//            that a shard with ten million entries does not stop for 100 ms to double a vector.
// Owns       Its chunks. Never shrinks.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/check.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace queue {

template <class T>
class ChunkedArray {
public:
    static constexpr std::uint32_t chunk_bits = 12;
    static constexpr std::uint32_t chunk_size = 1U << chunk_bits;

    /// Elements below `count` exist afterwards.
    void grow(std::uint32_t count) {
        while (std::uint64_t{chunks_.size()} << chunk_bits < count)
            chunks_.push_back(std::make_unique<T[]>(chunk_size));
        if (count > size_) size_ = count;
    }
    [[nodiscard]] std::uint32_t size() const noexcept { return size_; }
    [[nodiscard]] T& operator[](std::uint32_t index) noexcept {
        DCHECK(index < size_);
        return chunks_[index >> chunk_bits][index & (chunk_size - 1)];
    }
    [[nodiscard]] const T& operator[](std::uint32_t index) const noexcept {
        DCHECK(index < size_);
        return chunks_[index >> chunk_bits][index & (chunk_size - 1)];
    }
    [[nodiscard]] std::size_t bytes() const noexcept {
        return chunks_.size() * (chunk_size * sizeof(T) + sizeof(chunks_[0]));
    }

private:
    std::vector<std::unique_ptr<T[]>> chunks_;
    std::uint32_t size_ = 0;
};

} // namespace queue
