// tcp_stream.h: base::Stream over a connection of this stack.
//
// Scope      Waiting, back-pressure, and the ways to end. Bytes go straight to and from the connection's queues.
// Owns       A reference to the connection; one that is still open is aborted with the handle.
// Threading  One shard. Waits hold the connection, not the handle: it may be destroyed under them.
// Failure    As base::Stream says.
#pragma once

#include "dataplane/base/frame_pool.h"
#include "dataplane/net/stack/tcb.h"

namespace dataplane::net::stack {

/// Reading without a handle's responsibility: for the PROXY header, before there is a Stream.
class TcpStreamView {
public:
    explicit TcpStreamView(base::Ref<Tcb> tcb) noexcept : tcb_(std::move(tcb)) {}
    [[nodiscard]] std::span<const std::byte> unread() const noexcept;
    void consume(std::size_t bytes) noexcept;
    [[nodiscard]] base::Task<base::NetResult<>> fill(base::Deadline deadline);

protected:
    base::Ref<Tcb> tcb_;
};

class TcpStream final : public base::Stream, private TcpStreamView {
public:
    explicit TcpStream(base::Ref<Tcb> tcb) noexcept : TcpStreamView(std::move(tcb)) {}
    ~TcpStream() override;
    TcpStream(const TcpStream&) = delete;
    TcpStream& operator=(const TcpStream&) = delete;

    static void* operator new(std::size_t bytes) { return base::allocate_frame(bytes); }
    static void operator delete(void* stream, std::size_t bytes) noexcept {
        base::release_frame(stream, bytes);
    }

    [[nodiscard]] std::span<const std::byte> unread() const noexcept override {
        return TcpStreamView::unread();
    }
    void consume(std::size_t bytes) noexcept override { TcpStreamView::consume(bytes); }
    [[nodiscard]] base::Task<base::NetResult<>> fill(base::Deadline deadline) override {
        return TcpStreamView::fill(deadline);
    }
    [[nodiscard]] base::Task<base::NetResult<>> write(std::span<const std::byte> bytes,
                                                      base::Deadline deadline) override;
    [[nodiscard]] base::Task<base::NetResult<>> write(base::SlabChain slabs,
                                                      base::Deadline deadline) override;
    [[nodiscard]] base::Task<base::NetResult<>> drain(base::Deadline deadline) override;
    [[nodiscard]] base::Task<base::NetResult<>> shutdown_write(base::Deadline deadline) override;
    void close() noexcept override;
    void abort() noexcept override;
    [[nodiscard]] const base::StreamInfo& info() const noexcept override;

    /// The connection as TCP sees it: for statistics and tests.
    [[nodiscard]] const tcp::Connection& connection() const noexcept { return tcb_->connection; }
};

} // namespace dataplane::net::stack
