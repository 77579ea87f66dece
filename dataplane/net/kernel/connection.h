// connection.h: one TCP connection on the ring; the object behind a Stream.
//
// Scope      Receive into shared buffers, staged sends, orderly and disorderly ends. Where
//            connections come from is in listen_socket.h and kernel_transport.h.
// Owns       The descriptor, the unread receive buffers, and what is staged to be sent.
// Threading  Bound to one shard.
// Failure    The first error of the socket is kept and given to every later call.
//
// A Connection is pooled and counted: its Stream, each operation in flight and each waiting
// coroutine hold a reference, so that it outlives whichever of them ends last. At most one send is
// in flight, because the kernel does not keep two in order; the receive is one multishot operation
// that runs until the reader falls behind.
#pragma once

#include "dataplane/base/ref.h"
#include "dataplane/base/stream.h"
#include "dataplane/base/uring.h"
#include "dataplane/net/kernel/options.h"
#include "dataplane/net/kernel/receive_buffers.h"
#include "dataplane/net/kernel/socket_address.h"

#include <array>
#include <deque>
#include <sys/uio.h>

namespace dataplane::net::kernel {

class Connection;
class ConnectionPool;
class ListenSocket;

/// An operation of a Connection, which it keeps alive until its last completion.
template <class Owner, void (Owner::*on_complete)(int, std::uint32_t) noexcept>
class OwnedOp final : public base::UringOp {
public:
    [[nodiscard]] bool in_flight() const noexcept { return static_cast<bool>(owner_); }
    void start(Owner& owner) noexcept {
        CHECK(!in_flight());
        owner_ = base::Ref<Owner>{&owner};
    }
    void complete(int result, std::uint32_t flags) noexcept override {
        if ((flags & IORING_CQE_F_MORE) != 0) {
            (owner_.get()->*on_complete)(result, flags);
            return;
        }
        const base::Ref<Owner> last = std::move(owner_); // the handler may start the operation anew
        (last.get()->*on_complete)(result, flags);
    }

private:
    base::Ref<Owner> owner_;
};

class Connection final : public base::RefCounted<Connection>, private base::TurnEnd {
public:
    explicit Connection(ConnectionPool& pool) noexcept;
    ~Connection() override;

    /// Takes over a connected socket and starts receiving.
    void adopt(int socket, base::Ref<ListenSocket> listener) noexcept;
    /// Takes over an unconnected socket and connects it. Awaits the outcome.
    [[nodiscard]] base::Task<base::NetResult<>> connect(int socket, base::SocketAddress remote,
                                                        base::Deadline deadline);

    // As in base::Stream.
    [[nodiscard]] std::span<const std::byte> unread() const noexcept;
    void consume(std::size_t bytes) noexcept;
    [[nodiscard]] base::Task<base::NetResult<>> fill(base::Deadline deadline);
    [[nodiscard]] base::Task<base::NetResult<>> write(std::span<const std::byte> bytes,
                                                      base::Deadline deadline);
    [[nodiscard]] base::Task<base::NetResult<>> write(base::SlabChain slabs,
                                                      base::Deadline deadline);
    [[nodiscard]] base::Task<base::NetResult<>> drain(base::Deadline deadline);
    [[nodiscard]] base::Task<base::NetResult<>> shutdown_write(base::Deadline deadline);
    void close() noexcept;
    void abort() noexcept;

    [[nodiscard]] base::StreamInfo& info() noexcept { return info_; }
    /// Whether a Stream may still use it: not closed, not aborted.
    [[nodiscard]] bool open() const noexcept { return state_ == State::open; }
    [[nodiscard]] std::size_t staged_bytes() const noexcept { return staged_bytes_; }

    Connection* next = nullptr; // in the pool's free list, or the listener's accept queue
    /// The accept queue's reference: what waits in it has no Stream yet.
    void hold_in_queue(base::Ref<Connection> self) noexcept { queued_ = std::move(self); }
    [[nodiscard]] base::Ref<Connection> leave_queue() noexcept { return std::move(queued_); }

private:
    friend class base::Ref<Connection>;
    friend class ConnectionPool;
    void retire() noexcept;

    enum class State : std::uint8_t {
        idle, // in the pool, or ended and waiting for its last completions
        connecting,
        open,
        flushing,  // closed by its Stream; staged bytes are leaving
        lingering, // our FIN is out; waiting for the peer's
    };
    struct WaiterLink : base::detail::Link {
        Connection* connection = nullptr;
    };
    struct LimitTimer : base::Timer {
        explicit LimitTimer(Fire fire) noexcept : Timer(fire) {}
        Connection* connection = nullptr;
    };

    // Receiving.
    void on_received(int result, std::uint32_t flags) noexcept;
    void arm_receive() noexcept;
    void keep(std::uint16_t id, std::uint32_t bytes) noexcept;
    void pop_buffer() noexcept;
    void drop_unread() noexcept;
    [[nodiscard]] bool reader_behind() const noexcept;

    // Sending.
    void on_sent(int result, std::uint32_t flags) noexcept;
    [[nodiscard]] std::optional<base::NetError> write_error() const noexcept;
    [[nodiscard]] std::size_t stage_copy(std::span<const std::byte> bytes) noexcept;
    void push_segment(base::SlabView view) noexcept;
    void pop_sent(std::size_t bytes) noexcept;
    void drop_staged() noexcept;
    void send_staged() noexcept;
    void turn_end() noexcept override;
    [[nodiscard]] base::SlabView& segment(std::uint32_t index) noexcept {
        return segments_[(segment_first_ + index) % segments_max];
    }

    // Beginning and end.
    void on_connected(int result, std::uint32_t flags) noexcept;
    void on_closed(int result, std::uint32_t flags) noexcept;
    void shut_write() noexcept;
    void flushed() noexcept;
    void fail(base::NetError error) noexcept;
    /// Gives the descriptor back to the kernel. What is in flight is cancelled.
    void finish(bool reset) noexcept;
    static void on_limit(base::Timer& timer) noexcept;

    ConnectionPool& pool_;
    int socket_ = -1;
    State state_ = State::idle;
    std::optional<base::NetError> error_;

    OwnedOp<Connection, &Connection::on_received> receive_op_;
    bool receive_cancelled_ = false;
    bool end_received_ = false;
    std::uint16_t buffer_first_ = 0; // a list through the pool's buffer records
    std::uint16_t buffer_last_ = 0;
    std::uint32_t buffer_count_ = 0;
    std::size_t lingered_bytes_ = 0;
    base::WaitQueue readable_{"socket read"};
    WaiterLink buffer_waiter_;

    OwnedOp<Connection, &Connection::on_sent> send_op_;
    bool write_shut_ = false;
    bool last_is_chunk_ = false; // the last segment is ours to append to
    std::uint32_t segment_first_ = 0;
    std::uint32_t segment_count_ = 0;
    std::size_t staged_bytes_ = 0;
    std::size_t in_flight_bytes_ = 0;
    std::array<base::SlabView, segments_max> segments_;
    std::array<iovec, send_pieces_max> pieces_{}; // of the send in flight
    msghdr message_{};
    base::WaitQueue writable_{"socket write"};
    WaiterLink chunk_waiter_;

    OwnedOp<Connection, &Connection::on_connected> connect_op_;
    OwnedOp<Connection, &Connection::on_closed> close_op_;
    KernelAddress remote_; // of the connect in flight
    LimitTimer limit_{&Connection::on_limit};
    base::StreamInfo info_;
    base::Ref<Connection> queued_;
    // Between close() and finish(): the peer may have ended already, and then no operation is in
    // flight that would hold us while the turn's end has yet to send what is staged.
    base::Ref<Connection> closing_;
    base::Ref<ListenSocket> listener_; // counts us among its connections
};

/// What all connections of a transport share.
class ConnectionPool : private base::TurnEnd {
public:
    ConnectionPool(base::Loop& loop, base::Uring& ring, const KernelTransportOptions& options);
    ~ConnectionPool() override;

    [[nodiscard]] base::Ref<Connection> take();
    [[nodiscard]] std::size_t live_count() const noexcept { return live_count_; }
    /// Resets every connection; they retire as the ring completes their operations.
    void abort_all() noexcept;

    base::Loop& loop;
    base::Uring& ring;
    const KernelTransportOptions options;
    ReceiveBuffers buffers;
    base::SlabPool chunks;
    KernelCounters counters;

private:
    friend class Connection;
    void turn_end() noexcept override;
    void give_back(Connection& connection) noexcept;
    void give_back_buffer(std::uint16_t id) noexcept;
    void chunk_freed() noexcept;

    std::deque<Connection> connections_;
    Connection* first_free_ = nullptr;
    std::size_t live_count_ = 0;
    base::detail::Link buffer_waiters_;
    base::detail::Link chunk_waiters_;
};

} // namespace dataplane::net::kernel
