#include "dataplane/base/slab.h"

#include <algorithm>
#include <bit>
#include <new>

namespace dataplane::base {

SlabPool::SlabPool(std::uint32_t slab_bytes, std::uint32_t slab_count, std::size_t alignment)
    : slab_bytes_(slab_bytes), slab_count_(slab_count), free_count_(slab_count),
      slabs_(std::make_unique<Slab[]>(slab_count)) {
    CHECK(std::has_single_bit(alignment));
    CHECK(slab_bytes % alignment == 0);
    const std::size_t arena_bytes = std::size_t{slab_bytes} * slab_count;
    auto* memory = static_cast<std::byte*>(
        ::operator new(arena_bytes, std::align_val_t{std::max<std::size_t>(alignment, 4096)}));
    arena_ = {memory, arena_bytes};
    for (std::uint32_t i = slab_count; i > 0; --i) {
        Slab& slab = slabs_[i - 1];
        slab.pool = this;
        slab.data = memory + std::size_t{i - 1} * slab_bytes;
        slab.bytes = slab_bytes;
        slab.next_free = first_free_;
        first_free_ = &slab;
    }
    alignment_ = std::max<std::size_t>(alignment, 4096);
}

SlabPool::~SlabPool() {
    CHECK(free_count_ == slab_count_); // a reference still out would point into freed memory
    ::operator delete(arena_.data(), std::align_val_t{alignment_});
}

SlabRef SlabPool::take() noexcept {
    Slab* slab = first_free_;
    if (slab == nullptr) return SlabRef{};
    first_free_ = slab->next_free;
    --free_count_;
    return SlabRef{slab};
}

void SlabPool::give_back(Slab& slab) noexcept {
    slab.next_free = first_free_;
    first_free_ = &slab;
    ++free_count_;
}

} // namespace dataplane::base
