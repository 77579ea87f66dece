// In a file of its own: inlined into their callers, the pairs look mismatched to the compiler.
#include "tests/dataplane/net/kernel/counting_new.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

std::atomic<std::uint64_t> allocations{0};

void* allocate(std::size_t bytes, std::align_val_t alignment) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    const auto align = std::max(static_cast<std::size_t>(alignment), alignof(std::max_align_t));
    void* memory = std::aligned_alloc(align, (bytes + align - 1) / align * align);
    if (memory == nullptr) std::abort();
    return memory;
}

} // namespace

namespace dataplane::net::kernel {

std::uint64_t allocation_count() noexcept {
    return allocations.load(std::memory_order_relaxed);
}

} // namespace dataplane::net::kernel

void* operator new(std::size_t bytes) {
    return allocate(bytes, std::align_val_t{1});
}
void* operator new[](std::size_t bytes) {
    return allocate(bytes, std::align_val_t{1});
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, alignment);
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
    return allocate(bytes, alignment);
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete[](void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete[](void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
    std::free(memory);
}
void operator delete[](void* memory, std::align_val_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}
