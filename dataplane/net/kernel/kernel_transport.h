// kernel_transport.h: Streams over the kernel's sockets, on a shard's io_uring.
//
// Scope      Listening and connecting. What happens on a connection is in connection.h.
// Owns       Every connection and listener it made, and their buffers.
// Threading  Bound to one shard: the thread of its Loop and its ring.
// Failure    Construction throws std::system_error (start-up).
//
// Destroy it before its Loop and its ring, and after every Stream, Listener and task that came from
// it (Loop::drop_tasks() ends the tasks): it waits for the ring to be done with its buffers.
#pragma once

#include "dataplane/base/stream.h"
#include "dataplane/base/uring.h"
#include "dataplane/net/kernel/connection.h"
#include "dataplane/net/kernel/options.h"

namespace dataplane::net::kernel {

class KernelTransport final : public base::Transport {
public:
    KernelTransport(base::Loop& loop, base::Uring& ring, KernelTransportOptions options = {});
    ~KernelTransport() override;
    KernelTransport(const KernelTransport&) = delete;
    KernelTransport& operator=(const KernelTransport&) = delete;

    [[nodiscard]] base::NetResult<std::unique_ptr<base::Listener>>
    listen(const base::SocketAddress& local, const base::ListenOptions& options) override;
    [[nodiscard]] base::Task<base::NetResult<base::StreamPtr>>
    connect(base::SocketAddress remote, std::optional<base::IpAddress> source,
            base::Deadline deadline) override;

    [[nodiscard]] const KernelCounters& counters() const noexcept { return pool_.counters; }
    /// Connections that have not ended altogether, closing ones included.
    [[nodiscard]] std::size_t connection_count() const noexcept { return pool_.live_count(); }
    /// Receive buffers that hold nobody's bytes.
    [[nodiscard]] std::uint32_t free_receive_buffers() const noexcept {
        return pool_.buffers.free_count();
    }
    [[nodiscard]] std::uint32_t free_send_chunks() const noexcept {
        return pool_.chunks.free_count();
    }

private:
    ConnectionPool pool_;
    std::size_t listen_count_ = 0;
};

} // namespace dataplane::net::kernel
