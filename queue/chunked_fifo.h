// chunked_fifo.h: first in, first out, however many they become.
//
// Scope      In chunks of 512, so that to grow never moves what is in it, nor does taking from the front: a million
//            completions wait here when an operator deletes a million messages. A chunk that has become empty is
//            kept for the next one needed, and few at a time cost no allocation.
// Owns       Its chunks.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/check.h"

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

namespace queue {

template <class T>
class ChunkedFifo {
public:
    static constexpr std::size_t chunk_size = 512;

    [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
    [[nodiscard]] std::size_t size() const noexcept { return size_; }
    /// \pre  it is not empty
    [[nodiscard]] T& front() noexcept {
        DCHECK(size_ > 0);
        return chunks_.front()[first_];
    }
    /// \param index  0: the front
    [[nodiscard]] const T& operator[](std::size_t index) const noexcept {
        DCHECK(index < size_);
        return chunks_[(first_ + index) / chunk_size][(first_ + index) % chunk_size];
    }
    void push(T value) {
        const std::size_t at = first_ + size_;
        if (at / chunk_size == chunks_.size())
            chunks_.push_back(spare_ ? std::move(spare_) : std::make_unique<T[]>(chunk_size));
        chunks_[at / chunk_size][at % chunk_size] = std::move(value);
        ++size_;
    }
    /// \pre  it is not empty
    void pop() {
        front() = T{};
        --size_;
        if (++first_ == chunk_size) {
            spare_ = std::move(chunks_.front());
            chunks_.erase(chunks_.begin());
            first_ = 0;
        } else if (size_ == 0) {
            first_ = 0;
        }
    }
    void clear() {
        while (!empty())
            pop();
    }

private:
    std::vector<std::unique_ptr<T[]>> chunks_;
    std::unique_ptr<T[]> spare_;
    std::size_t first_ = 0; // in the first chunk
    std::size_t size_ = 0;
};

} // namespace queue
