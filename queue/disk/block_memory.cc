#include "queue/disk/block_memory.h"

#include <new>
#include <sys/mman.h>

namespace queue {
namespace {

constexpr std::size_t huge_page_bytes = 2U << 20;
constexpr std::size_t huge_from_bytes = 1U << 20;

} // namespace

void BlockMemory::Free::operator()(std::byte* memory) const noexcept {
    ::operator delete(memory, std::align_val_t{alignment});
}

BlockMemory::BlockMemory(std::size_t size) : bytes(size) {
    const bool huge = size >= huge_from_bytes;
    const std::size_t alignment = huge ? huge_page_bytes : block_bytes;
    // Whole huge pages: half of one would be given small ones.
    const std::size_t taken =
        huge ? (size + huge_page_bytes - 1) / huge_page_bytes * huge_page_bytes : size;
    auto* memory = static_cast<std::byte*>(::operator new(taken, std::align_val_t{alignment}));
    data = std::unique_ptr<std::byte, Free>{memory, Free{alignment}};
    if (huge) static_cast<void>(::madvise(memory, taken, MADV_HUGEPAGE)); // works without as well
}

} // namespace queue
