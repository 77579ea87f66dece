// block_memory.h: memory that the kernel may write from and read into directly.
//
// Scope      Aligned to block_bytes. From 1 MiB on it lies in huge pages where the kernel has them to give:
//            a write of 1 MiB is then one piece to pin and one to hand to the device, not 256.
// Owns       The memory.
// Threading  Any.
// Failure    std::bad_alloc.
#pragma once

#include "queue/disk/disk.h"

#include <cstddef>
#include <memory>
#include <span>

namespace queue {

struct BlockMemory {
    struct Free {
        std::size_t alignment;
        Free() noexcept : alignment(block_bytes) {}
        explicit Free(std::size_t aligned_to) noexcept : alignment(aligned_to) {}
        void operator()(std::byte* memory) const noexcept;
    };
    std::unique_ptr<std::byte, Free> data;
    std::size_t bytes = 0;

    BlockMemory() = default;
    explicit BlockMemory(std::size_t size);
    [[nodiscard]] std::span<std::byte> span() const noexcept { return {data.get(), bytes}; }
};

} // namespace queue
