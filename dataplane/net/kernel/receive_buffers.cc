#include "dataplane/net/kernel/receive_buffers.h"

#include <algorithm>
#include <bit>
#include <new>
#include <system_error>

namespace dataplane::net::kernel {
namespace {

constexpr std::align_val_t page{4096};

} // namespace

ReceiveBuffers::ReceiveBuffers(base::Uring& ring, std::uint32_t count, std::uint32_t bytes,
                               std::uint32_t window)
    : ring_(ring), count_(count), bytes_(bytes), window_(std::min(window, count)),
      entries_(std::bit_ceil(window_)), group_(ring.take_buffer_group()), records_(count) {
    CHECK(count > 0 && count <= 32768); // ids are 16 bits, and so is the ring's limit
    CHECK(window > 0);
    const std::size_t ring_bytes = entries_ * sizeof(io_uring_buf);
    buffer_ring_ = static_cast<io_uring_buf_ring*>(::operator new(ring_bytes, page));
    io_uring_buf_ring_init(buffer_ring_);
    io_uring_buf_reg registration{};
    registration.ring_addr = reinterpret_cast<std::uint64_t>(buffer_ring_);
    registration.ring_entries = entries_;
    registration.bgid = group_;
    const int result = io_uring_register_buf_ring(&ring_.raw(), &registration, 0);
    if (result < 0) {
        ::operator delete(buffer_ring_, page);
        throw std::system_error(-result, std::generic_category(), "io_uring_register_buf_ring");
    }
    memory_ = static_cast<std::byte*>(::operator new(std::size_t{count_} * bytes_, page));
    spare_.reserve(count_);
    for (std::uint32_t id = count_; id > window_; --id) {
        spare_.push_back(static_cast<std::uint16_t>(id - 1));
    }
    for (std::uint32_t id = 0; id < window_; ++id)
        offer(static_cast<std::uint16_t>(id));
}

ReceiveBuffers::~ReceiveBuffers() {
    CHECK(free_count() == count_); // a buffer still out would be read after it is freed
    static_cast<void>(io_uring_unregister_buf_ring(&ring_.raw(), group_));
    ::operator delete(memory_, page);
    ::operator delete(buffer_ring_, page);
}

void ReceiveBuffers::offer(std::uint16_t id) noexcept {
    io_uring_buf_ring_add(buffer_ring_, data(id), bytes_, id, io_uring_buf_ring_mask(entries_), 0);
    io_uring_buf_ring_advance(buffer_ring_, 1);
    ++in_ring_;
}

void ReceiveBuffers::taken([[maybe_unused]] std::uint16_t id) noexcept {
    DCHECK(id < count_);
    CHECK(in_ring_ > 0);
    --in_ring_;
    if (spare_.empty()) return;
    const std::uint16_t next = spare_.back();
    spare_.pop_back();
    offer(next);
}

void ReceiveBuffers::give_back(std::uint16_t id) noexcept {
    DCHECK(id < count_);
    if (in_ring_ < window_) {
        offer(id);
    } else {
        spare_.push_back(id);
    }
}

} // namespace dataplane::net::kernel
