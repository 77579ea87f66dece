// spsc_ring.h: bounded queue from one thread to one other, without locks.
//
// Scope      Small values by move. A full ring refuses: the caller decides whether that means push
//            back, drop with a counter, or try again.
// Threading  One producer thread, one consumer thread.
#pragma once

#include "dataplane/base/check.h"

#include <atomic>
#include <bit>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

namespace dataplane::base {

template <class T>
class SpscRing {
public:
    explicit SpscRing(std::size_t capacity)
        : slots_(std::bit_ceil(capacity)), mask_(slots_.size() - 1) {
        CHECK(capacity > 0);
    }

    /// Producer: leaves `value` untouched and returns false when the ring is full.
    [[nodiscard]] bool push(T&& value) {
        T* slot = claim();
        if (slot == nullptr) return false;
        *slot = std::move(value);
        publish();
        return true;
    }
    /// Producer: the next free slot to fill in place, or nullptr when full; publish() hands it over.
    [[nodiscard]] T* claim() noexcept {
        const std::size_t tail = tail_.load(std::memory_order_relaxed);
        if (tail - cached_head_ > mask_) {
            cached_head_ = head_.load(std::memory_order_acquire);
            if (tail - cached_head_ > mask_) return nullptr;
        }
        return &slots_[tail & mask_];
    }
    void publish() noexcept {
        tail_.store(tail_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }

    /// Consumer.
    [[nodiscard]] std::optional<T> pop() {
        T* slot = front();
        if (slot == nullptr) return std::nullopt;
        std::optional<T> value{std::move(*slot)};
        release();
        return value;
    }
    /// Consumer: the oldest value in place, or nullptr when empty; release() gives its slot back.
    [[nodiscard]] T* front() noexcept {
        const std::size_t head = head_.load(std::memory_order_relaxed);
        if (head == cached_tail_) {
            cached_tail_ = tail_.load(std::memory_order_acquire);
            if (head == cached_tail_) return nullptr;
        }
        return &slots_[head & mask_];
    }
    void release() noexcept {
        head_.store(head_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
    }

    /// Either side; exact only for the side that asks about its own end.
    [[nodiscard]] std::size_t size() const noexcept {
        return tail_.load(std::memory_order_acquire) - head_.load(std::memory_order_acquire);
    }
    [[nodiscard]] std::size_t capacity() const noexcept { return slots_.size(); }

private:
    static constexpr std::size_t line_bytes = 64;
    std::vector<T> slots_;
    std::size_t mask_;
    alignas(line_bytes) std::atomic<std::size_t> head_{0};
    alignas(line_bytes) std::size_t cached_tail_ = 0; // consumer's
    alignas(line_bytes) std::atomic<std::size_t> tail_{0};
    alignas(line_bytes) std::size_t cached_head_ = 0; // producer's
};

} // namespace dataplane::base
