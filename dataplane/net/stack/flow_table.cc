#include "dataplane/net/stack/flow_table.h"

#include <new>
#include <sys/mman.h>
#include <utility>

namespace dataplane::net::stack {
namespace detail {

FlowBuckets::FlowBuckets(std::size_t count) : count_(count) {
    void* pages = mmap(nullptr, count * sizeof(FlowBucket), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) throw std::bad_alloc{};
    buckets_ = static_cast<FlowBucket*>(pages);
}

FlowBuckets::FlowBuckets(FlowBuckets&& other) noexcept
    : buckets_(std::exchange(other.buckets_, nullptr)), count_(std::exchange(other.count_, 0)),
      released_bytes_(std::exchange(other.released_bytes_, 0)) {}

FlowBuckets& FlowBuckets::operator=(FlowBuckets&& other) noexcept {
    std::swap(buckets_, other.buckets_);
    std::swap(count_, other.count_);
    std::swap(released_bytes_, other.released_bytes_);
    return *this;
}

FlowBuckets::~FlowBuckets() {
    if (buckets_ != nullptr) munmap(buckets_, count_ * sizeof(FlowBucket));
}

void FlowBuckets::release_front(std::size_t index) noexcept {
    // In steps: unmapping a large table in one call would be the long call that growing avoids.
    constexpr std::size_t step_bytes = std::size_t{64} << 10;
    const std::size_t bytes = index * sizeof(FlowBucket);
    if (bytes < released_bytes_ + 2 * step_bytes) return;
    // One step behind, because what had overflowed from these buckets lies a little further on and is
    // found through them until it has moved as well.
    const std::size_t first = released_bytes_ / sizeof(FlowBucket);
    for (std::size_t i = 0; i < step_bytes / sizeof(FlowBucket); ++i)
        if (buckets_[first + i].overflow != 0) return;
    madvise(reinterpret_cast<std::byte*>(buckets_) + released_bytes_, step_bytes, MADV_DONTNEED);
    released_bytes_ += step_bytes;
}

} // namespace detail

namespace {

using detail::FlowBucket;
using detail::FlowBuckets;

constexpr std::size_t buckets_min = 64; // one page
// Grown at four fifths: of ten entries eight are used on average, and one bucket in six is full.
constexpr std::size_t entries_per_bucket_max = 8;
constexpr unsigned full = (1U << FlowBucket::entries) - 1;

} // namespace

void FlowTable::grow() {
    // The last growth is long done (moves_per_insert); the loop is for a table of a few buckets.
    CHECK(old_.count() == 0);
    const std::size_t count = current_.count() == 0 ? buckets_min : current_.count() * 2;
    old_ = std::exchange(current_, FlowBuckets{count});
    moved_ = 0;
    grow_at_ = count * entries_per_bucket_max;
}

void FlowTable::place(std::uint64_t hash, std::uint32_t value) noexcept {
    std::size_t index = home(current_, hash);
    while (current_[index].used == full) {
        ++current_[index].overflow;
        CHECK(current_[index].overflow != 0);
        index = (index + 1) & (current_.count() - 1);
    }
    FlowBucket& bucket = current_[index];
    const auto entry = static_cast<unsigned>(__builtin_ctz(~static_cast<unsigned>(bucket.used)));
    bucket.used = static_cast<std::uint16_t>(bucket.used | 1U << entry);
    bucket.tags[entry] = tag_of(hash);
    bucket.values[entry] = value;
}

void FlowTable::remove(const FlowBuckets& in, Place place, std::uint64_t hash) noexcept {
    for (std::size_t index = home(in, hash); index != place.bucket;
         index = (index + 1) & (in.count() - 1)) {
        CHECK(in[index].overflow > 0);
        --in[index].overflow;
    }
    FlowBucket& bucket = in[place.bucket];
    bucket.used = static_cast<std::uint16_t>(bucket.used & ~(1U << place.entry));
}

void FlowTable::bucket_moved() noexcept {
    ++moved_;
    if (moved_ == old_.count()) {
        old_ = FlowBuckets{};
        moved_ = 0;
        return;
    }
    old_.release_front(moved_);
}

std::optional<FlowTable::Place> FlowTable::locate_value(const FlowBuckets& in, std::uint64_t hash,
                                                        std::uint32_t value) const noexcept {
    return locate(in, hash, [value](std::uint32_t there) { return there == value; });
}

void FlowTable::replace(std::uint64_t hash, std::uint32_t value, std::uint32_t with) noexcept {
    if (const auto place = locate_value(current_, hash, value)) {
        current_[place->bucket].values[place->entry] = with;
        return;
    }
    const auto place = locate_value(old_, hash, value);
    CHECK(place);
    old_[place->bucket].values[place->entry] = with;
}

void FlowTable::erase(std::uint64_t hash, std::uint32_t value) noexcept {
    CHECK(size_ > 0);
    --size_;
    if (const auto place = locate_value(current_, hash, value)) {
        return remove(current_, *place, hash);
    }
    const auto place = locate_value(old_, hash, value);
    CHECK(place);
    remove(old_, *place, hash);
}

} // namespace dataplane::net::stack
