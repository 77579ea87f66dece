// listen_socket.h: a listening socket with its multishot accept and its PROXY headers.
//
// Scope      From the bound socket to connections that are ready to be taken.
// Owns       The descriptor, connections nobody has taken yet, and those whose PROXY header is
//            awaited.
// Threading  Bound to one shard.
// Failure    Out of descriptors or memory: counted, and tried again after accept_retry, while the
//            kernel's backlog holds the peers. A connection without a good PROXY header is reset.
#pragma once

#include "dataplane/net/kernel/connection.h"

namespace dataplane::net::kernel {

class ListenSocket final : public base::RefCounted<ListenSocket> {
public:
    /// \param open_count  how many ListenSockets exist: their transport waits for them at its end
    ListenSocket(ConnectionPool& pool, int socket, const base::ListenOptions& options,
                 std::size_t& open_count);
    ~ListenSocket();

    [[nodiscard]] base::Task<base::NetResult<base::StreamPtr>> accept(base::Deadline deadline);
    void close() noexcept;
    [[nodiscard]] base::SocketAddress local() const noexcept { return local_; }
    void connection_ended() noexcept { --connection_count_; }

private:
    friend class base::Ref<ListenSocket>;
    void retire() noexcept { delete this; } // listeners come and go with the configuration only

    struct RetryTimer : base::Timer {
        explicit RetryTimer(Fire fire) noexcept : Timer(fire) {}
        ListenSocket* listener = nullptr;
    };

    void arm_accept() noexcept;
    void on_accepted(int result, std::uint32_t flags) noexcept;
    void on_closed(int result, std::uint32_t flags) noexcept;
    void enqueue(base::Ref<Connection> connection) noexcept;
    static void on_retry(base::Timer& timer) noexcept;
    static base::Task<void> greet_proxy(base::Ref<ListenSocket> listener,
                                        base::Ref<Connection> connection);

    ConnectionPool& pool_;
    int socket_;
    base::ListenOptions options_;
    base::SocketAddress local_;
    std::size_t& open_count_;
    std::size_t connection_count_ = 0; // taken, waiting to be taken, and ending
    OwnedOp<ListenSocket, &ListenSocket::on_accepted> accept_op_;
    OwnedOp<ListenSocket, &ListenSocket::on_closed> close_op_;
    RetryTimer retry_{&ListenSocket::on_retry};
    Connection* first_ready_ = nullptr; // each with a reference that the queue holds
    Connection* last_ready_ = nullptr;
    base::WaitQueue accepted_{"socket accept"};
};

} // namespace dataplane::net::kernel
