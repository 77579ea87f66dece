// receive_buffers.h: the buffers the kernel receives into, shared by every stream of a transport.
//
// Scope      One provided-buffer ring. The kernel takes a buffer from it when bytes have come, so a
//            connection that is silent holds none.
// Owns       The buffers' memory, the ring, and its registration.
// Threading  Bound to one shard.
// Failure    Construction throws std::system_error (start-up). When the ring is empty receives end
//            with -ENOBUFS; ready() says when it is worth arming them again.
#pragma once

#include "dataplane/base/uring.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace dataplane::net::kernel {

namespace base = dataplane::base;

class ReceiveBuffers {
public:
    /// \param count   all buffers, at most 32768
    /// \param window  how many the kernel holds at a time, if there are as many
    ReceiveBuffers(base::Uring& ring, std::uint32_t count, std::uint32_t bytes,
                   std::uint32_t window);
    ~ReceiveBuffers();
    ReceiveBuffers(const ReceiveBuffers&) = delete;
    ReceiveBuffers& operator=(const ReceiveBuffers&) = delete;

    [[nodiscard]] std::uint16_t group() const noexcept { return group_; }
    [[nodiscard]] std::uint32_t buffer_bytes() const noexcept { return bytes_; }
    [[nodiscard]] std::byte* data(std::uint16_t id) const noexcept {
        return memory_ + std::size_t{id} * bytes_;
    }
    /// The holder's notes on a buffer it has taken: which bytes are unread, which buffer is next.
    struct Record {
        std::uint32_t begin = 0;
        std::uint32_t end = 0;
        std::uint16_t next = 0;
    };
    [[nodiscard]] Record& record(std::uint16_t id) noexcept { return records_[id]; }
    [[nodiscard]] const Record& record(std::uint16_t id) const noexcept { return records_[id]; }

    /// The kernel has filled this buffer: it is the caller's until give_back().
    void taken(std::uint16_t id) noexcept;
    void give_back(std::uint16_t id) noexcept;
    /// Buffers the kernel could fill now.
    [[nodiscard]] std::uint32_t ready() const noexcept { return in_ring_; }
    [[nodiscard]] std::uint32_t free_count() const noexcept {
        return in_ring_ + static_cast<std::uint32_t>(spare_.size());
    }

private:
    void offer(std::uint16_t id) noexcept;

    base::Uring& ring_;
    std::uint32_t count_;
    std::uint32_t bytes_;
    std::uint32_t window_;
    std::uint32_t entries_; // of the ring: a power of two >= window_
    std::uint16_t group_;
    std::uint32_t in_ring_ = 0;
    std::byte* memory_ = nullptr;
    io_uring_buf_ring* buffer_ring_ = nullptr;
    std::vector<Record> records_;
    std::vector<std::uint16_t> spare_; // used last in, first out: the warm ones
};

} // namespace dataplane::net::kernel
