// slab.h: refcounted buffers of one size, and chains of views into them.
//
// Scope      The bytes of a message live in slabs from the socket they came in on to the socket they
//            leave by. A view is (slab, offset, length) and holds a reference.
// Owns       SlabPool owns one arena; a slab returns to it when its last reference goes.
// Threading  Bound to one shard: reference counts are plain integers.
// Failure    An empty pool gives a null reference; whoever asked pushes back on its peer.
#pragma once

#include "dataplane/base/check.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

namespace dataplane::base {

class SlabPool;

struct Slab {
    SlabPool* pool = nullptr;
    Slab* next_free = nullptr;
    std::byte* data = nullptr;
    std::uint32_t references = 0;
    std::uint32_t bytes = 0; // capacity
};

class SlabRef {
public:
    SlabRef() noexcept = default;
    explicit SlabRef(Slab* slab) noexcept : slab_(slab) {
        if (slab_ != nullptr) ++slab_->references;
    }
    SlabRef(const SlabRef& other) noexcept : SlabRef(other.slab_) {}
    SlabRef(SlabRef&& other) noexcept : slab_(std::exchange(other.slab_, nullptr)) {}
    SlabRef& operator=(SlabRef other) noexcept {
        std::swap(slab_, other.slab_);
        return *this;
    }
    ~SlabRef() { reset(); }
    void reset() noexcept;

    [[nodiscard]] explicit operator bool() const noexcept { return slab_ != nullptr; }
    [[nodiscard]] Slab* get() const noexcept { return slab_; }
    [[nodiscard]] std::byte* data() const noexcept { return slab_->data; }
    [[nodiscard]] std::uint32_t capacity() const noexcept { return slab_->bytes; }
    [[nodiscard]] std::uint32_t references() const noexcept { return slab_->references; }

private:
    Slab* slab_ = nullptr;
};

class SlabPool {
public:
    /// \param alignment  of each slab's data, a power of two; 4096 for O_DIRECT
    SlabPool(std::uint32_t slab_bytes, std::uint32_t slab_count, std::size_t alignment = 64);
    ~SlabPool();
    SlabPool(const SlabPool&) = delete;
    SlabPool& operator=(const SlabPool&) = delete;

    [[nodiscard]] SlabRef take() noexcept;
    [[nodiscard]] std::uint32_t free_count() const noexcept { return free_count_; }
    [[nodiscard]] std::uint32_t slab_count() const noexcept { return slab_count_; }
    [[nodiscard]] std::uint32_t slab_bytes() const noexcept { return slab_bytes_; }
    /// The arena, for registering it with the kernel: slab i begins at i * slab_bytes.
    [[nodiscard]] std::span<std::byte> arena() const noexcept { return arena_; }

private:
    friend class SlabRef;
    void give_back(Slab& slab) noexcept;

    std::uint32_t slab_bytes_;
    std::uint32_t slab_count_;
    std::uint32_t free_count_;
    std::size_t alignment_ = 0;
    std::span<std::byte> arena_;
    std::unique_ptr<Slab[]> slabs_;
    Slab* first_free_ = nullptr;
};

inline void SlabRef::reset() noexcept {
    Slab* slab = std::exchange(slab_, nullptr);
    if (slab != nullptr && --slab->references == 0) slab->pool->give_back(*slab);
}

struct SlabView {
    SlabRef slab;
    std::uint32_t offset = 0;
    std::uint32_t length = 0;

    [[nodiscard]] std::span<const std::byte> bytes() const noexcept {
        return {slab.data() + offset, length};
    }
};

/// Up to views_max views in order: enough for the largest piece of a message held in memory.
class SlabChain {
public:
    static constexpr std::size_t views_max = 24;

    SlabChain() noexcept = default;
    SlabChain(SlabChain&& other) noexcept { *this = std::move(other); }
    SlabChain& operator=(SlabChain&& other) noexcept {
        if (this == &other) return *this;
        clear();
        for (std::size_t i = 0; i < other.count_; ++i)
            views_[i] = std::move(other.views_[i]);
        count_ = std::exchange(other.count_, 0);
        total_bytes_ = std::exchange(other.total_bytes_, 0);
        return *this;
    }
    SlabChain(const SlabChain&) = delete;
    SlabChain& operator=(const SlabChain&) = delete;

    /// A second chain of references to the same bytes.
    [[nodiscard]] SlabChain share() const noexcept {
        SlabChain copy;
        for (const SlabView& view : views())
            copy.push(view);
        return copy;
    }
    [[nodiscard]] bool full() const noexcept { return count_ == views_max; }
    [[nodiscard]] bool empty() const noexcept { return total_bytes_ == 0; }
    [[nodiscard]] std::size_t size_bytes() const noexcept { return total_bytes_; }
    [[nodiscard]] std::span<const SlabView> views() const noexcept {
        return {views_.data(), count_};
    }

    void push(SlabView view) noexcept {
        CHECK(!full());
        total_bytes_ += view.length;
        views_[count_++] = std::move(view);
    }
    /// Moves the other chain's views behind ours.
    void splice(SlabChain&& other) noexcept {
        for (std::size_t i = 0; i < other.count_; ++i)
            push(std::move(other.views_[i]));
        other.clear();
    }
    /// Room left at the end of the last slab, when this chain is its only holder.
    [[nodiscard]] std::span<std::byte> tail_room() const noexcept {
        if (count_ == 0) return {};
        const SlabView& last = views_[count_ - 1];
        if (last.slab.references() != 1) return {};
        const std::uint32_t used = last.offset + last.length;
        return {last.slab.data() + used, last.slab.capacity() - used};
    }
    /// Counts `bytes` of tail_room() as written.
    void extend_tail(std::size_t bytes) noexcept {
        CHECK(bytes <= tail_room().size());
        views_[count_ - 1].length += static_cast<std::uint32_t>(bytes);
        total_bytes_ += bytes;
    }
    void clear() noexcept {
        for (std::size_t i = 0; i < count_; ++i)
            views_[i] = SlabView{};
        count_ = 0;
        total_bytes_ = 0;
    }

private:
    std::array<SlabView, views_max> views_;
    std::size_t count_ = 0;
    std::size_t total_bytes_ = 0;
};

[[nodiscard]] inline std::span<const std::byte> as_bytes(std::string_view text) noexcept {
    return std::as_bytes(std::span{text.data(), text.size()});
}
[[nodiscard]] inline std::string_view as_text(std::span<const std::byte> bytes) noexcept {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

} // namespace dataplane::base
