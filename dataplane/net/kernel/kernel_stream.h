// kernel_stream.h: the handle through which the relay uses a Connection.
//
// Scope      Forwards to connection.h and ends the connection with the handle.
// Threading  Bound to one shard; handles are recycled like coroutine frames.
#pragma once

#include "dataplane/base/frame_pool.h"
#include "dataplane/net/kernel/connection.h"

namespace dataplane::net::kernel {

class KernelStream final : public base::Stream {
public:
    explicit KernelStream(base::Ref<Connection> connection) noexcept
        : connection_(std::move(connection)) {}
    ~KernelStream() override {
        if (connection_->open()) connection_->abort();
    }
    KernelStream(const KernelStream&) = delete;
    KernelStream& operator=(const KernelStream&) = delete;

    static void* operator new(std::size_t bytes) { return base::allocate_frame(bytes); }
    static void operator delete(void* stream, std::size_t bytes) noexcept {
        base::release_frame(stream, bytes);
    }

    [[nodiscard]] std::span<const std::byte> unread() const noexcept override {
        return connection_->unread();
    }
    void consume(std::size_t bytes) noexcept override { connection_->consume(bytes); }
    [[nodiscard]] base::Task<base::NetResult<>> fill(base::Deadline deadline) override {
        return connection_->fill(deadline);
    }
    [[nodiscard]] base::Task<base::NetResult<>> write(std::span<const std::byte> bytes,
                                                      base::Deadline deadline) override {
        return connection_->write(bytes, deadline);
    }
    [[nodiscard]] base::Task<base::NetResult<>> write(base::SlabChain slabs,
                                                      base::Deadline deadline) override {
        return connection_->write(std::move(slabs), deadline);
    }
    [[nodiscard]] base::Task<base::NetResult<>> drain(base::Deadline deadline) override {
        return connection_->drain(deadline);
    }
    [[nodiscard]] base::Task<base::NetResult<>> shutdown_write(base::Deadline deadline) override {
        return connection_->shutdown_write(deadline);
    }
    void close() noexcept override { connection_->close(); }
    void abort() noexcept override { connection_->abort(); }
    [[nodiscard]] const base::StreamInfo& info() const noexcept override {
        return connection_->info();
    }
    /// For tests of the send bound.
    [[nodiscard]] std::size_t staged_bytes() const noexcept { return connection_->staged_bytes(); }

private:
    base::Ref<Connection> connection_;
};

} // namespace dataplane::net::kernel
