#include "dataplane/net/kernel/connection.h"

#include "dataplane/net/kernel/listen_socket.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/socket.h>

namespace dataplane::net::kernel {

static_assert(base::SlabChain::views_max <= segments_max);

Connection::Connection(ConnectionPool& pool) noexcept : TurnEnd(base::Room::net), pool_(pool) {
    buffer_waiter_.connection = this;
    chunk_waiter_.connection = this;
    limit_.connection = this;
}

Connection::~Connection() {
    CHECK(socket_ < 0);
    CHECK(!receive_op_.in_flight() && !send_op_.in_flight() && !connect_op_.in_flight());
}

void Connection::adopt(int socket, base::Ref<ListenSocket> listener) noexcept {
    CHECK(state_ == State::idle && socket_ < 0);
    socket_ = socket;
    state_ = State::open;
    listener_ = std::move(listener);
    info_.local = local_address(socket);
    info_.peer = peer_address(socket);
    info_.client = info_.peer;
    arm_receive();
}

base::Task<base::NetResult<>> Connection::connect(int socket, base::SocketAddress remote,
                                                  base::Deadline deadline) {
    CHECK(state_ == State::idle && socket_ < 0);
    const base::Ref<Connection> hold{this};
    // However this frame ends, an attempt that did not come through leaves nothing behind.
    struct Attempt {
        Connection& connection;
        ~Attempt() {
            if (connection.state_ == State::connecting) connection.finish(false);
        }
    } const attempt{*this};

    socket_ = socket;
    state_ = State::connecting;
    remote_ = KernelAddress{remote};
    io_uring_sqe* entry = pool_.ring.stage();
    io_uring_prep_connect(entry, socket_, &remote_.any, remote_.bytes);
    connect_op_.start(*this);
    pool_.ring.bind(entry, connect_op_);
    while (connect_op_.in_flight()) {
        const base::Wake reason = co_await writable_.wait(pool_.loop, deadline);
        if (reason != base::Wake::event) co_return std::unexpected(base::to_net_error(reason));
    }
    if (error_) co_return std::unexpected(*error_);
    if (state_ != State::connecting) co_return std::unexpected(base::NetError::closed);
    state_ = State::open;
    info_.local = local_address(socket_);
    info_.peer = info_.client = remote;
    arm_receive();
    co_return base::NetResult<>{};
}

void Connection::on_connected(int result, std::uint32_t) noexcept {
    if (state_ == State::connecting && result < 0) error_ = connect_error(-result);
    writable_.wake_all();
}

// Receiving

bool Connection::reader_behind() const noexcept {
    return buffer_count_ >= pool_.options.stream_buffers_max;
}

void Connection::arm_receive() noexcept {
    if (receive_op_.in_flight() || buffer_waiter_.linked()) return;
    if (state_ != State::open && state_ != State::lingering) return;
    if (end_received_ || error_ || reader_behind()) return;
    io_uring_sqe* entry = pool_.ring.stage();
    io_uring_prep_recv_multishot(entry, socket_, nullptr, 0, 0);
    entry->flags |= IOSQE_BUFFER_SELECT;
    entry->buf_group = pool_.buffers.group();
    receive_op_.start(*this);
    pool_.ring.bind(entry, receive_op_);
}

void Connection::on_received(int result, std::uint32_t flags) noexcept {
    const bool ended = (flags & IORING_CQE_F_MORE) == 0;
    if (ended) receive_cancelled_ = false;
    if ((flags & IORING_CQE_F_BUFFER) != 0) {
        const auto id = static_cast<std::uint16_t>(flags >> IORING_CQE_BUFFER_SHIFT);
        pool_.buffers.taken(id);
        if (result > 0 && state_ == State::open) {
            keep(id, static_cast<std::uint32_t>(result));
        } else {
            pool_.give_back_buffer(id);
        }
    }
    if (state_ == State::idle || state_ == State::connecting) return;

    if (result > 0) {
        pool_.counters.receives += 1;
        pool_.counters.received_bytes += static_cast<std::uint64_t>(result);
        if (state_ == State::open) {
            if (reader_behind()) pool_.loop.at_turn_end(*this); // unless it catches up in this turn
            readable_.wake_all();
        } else if (state_ == State::lingering) {
            lingered_bytes_ += static_cast<std::size_t>(result);
            if (lingered_bytes_ > linger_bytes_max) return finish(false);
        }
    } else if (result == 0) {
        end_received_ = true;
        readable_.wake_all();
        if (state_ == State::lingering) finish(false);
        return;
    } else if (result == -ENOBUFS) {
        ++pool_.counters.receive_starved;
        if (pool_.buffers.ready() == 0) buffer_waiter_.link_before(pool_.buffer_waiters_);
    } else if (result != -ECANCELED && result != -EINTR && result != -EAGAIN) {
        return fail(to_net_error(-result));
    }
    if (ended) arm_receive();
}

void Connection::keep(std::uint16_t id, std::uint32_t bytes) noexcept {
    ReceiveBuffers& buffers = pool_.buffers;
    if (buffer_count_ > 0 && bytes <= coalesce_bytes_max) {
        ReceiveBuffers::Record& last = buffers.record(buffer_last_);
        if (buffers.buffer_bytes() - last.end >= bytes) {
            std::memcpy(buffers.data(buffer_last_) + last.end, buffers.data(id), bytes);
            last.end += bytes;
            pool_.give_back_buffer(id);
            return;
        }
    }
    buffers.record(id) = {.begin = 0, .end = bytes, .next = 0};
    if (buffer_count_ == 0) {
        buffer_first_ = id;
    } else {
        buffers.record(buffer_last_).next = id;
    }
    buffer_last_ = id;
    ++buffer_count_;
}

std::span<const std::byte> Connection::unread() const noexcept {
    if (buffer_count_ == 0) return {};
    const ReceiveBuffers::Record& first = pool_.buffers.record(buffer_first_);
    return {pool_.buffers.data(buffer_first_) + first.begin, first.end - first.begin};
}

void Connection::pop_buffer() noexcept {
    const std::uint16_t id = buffer_first_;
    buffer_first_ = pool_.buffers.record(id).next;
    --buffer_count_;
    pool_.give_back_buffer(id);
}

void Connection::consume(std::size_t bytes) noexcept {
    CHECK(bytes <= unread().size());
    if (bytes == 0) return;
    ReceiveBuffers::Record& first = pool_.buffers.record(buffer_first_);
    first.begin += static_cast<std::uint32_t>(bytes);
    if (first.begin < first.end) return;
    pop_buffer();
    // Well below the bound, so that a reader at the bound does not stop and start per buffer.
    if (!receive_op_.in_flight() && buffer_count_ <= pool_.options.stream_buffers_max / 2) {
        arm_receive();
    }
}

void Connection::drop_unread() noexcept {
    while (buffer_count_ > 0)
        pop_buffer();
}

base::Task<base::NetResult<>> Connection::fill(base::Deadline deadline) {
    const base::Ref<Connection> hold{this};
    for (;;) {
        if (state_ != State::open) co_return std::unexpected(base::NetError::closed);
        if (buffer_count_ > 0) co_return base::NetResult<>{};
        if (error_) co_return std::unexpected(*error_);
        if (end_received_) co_return std::unexpected(base::NetError::end_of_stream);
        const base::Wake reason = co_await readable_.wait(pool_.loop, deadline);
        if (reason != base::Wake::event) co_return std::unexpected(base::to_net_error(reason));
    }
}

// Sending

std::optional<base::NetError> Connection::write_error() const noexcept {
    if (state_ != State::open || write_shut_) return base::NetError::closed;
    return error_;
}

void Connection::push_segment(base::SlabView view) noexcept {
    CHECK(segment_count_ < segments_max);
    staged_bytes_ += view.length;
    segment(segment_count_++) = std::move(view);
    pool_.loop.at_turn_end(*this);
}

std::size_t Connection::stage_copy(std::span<const std::byte> bytes) noexcept {
    std::size_t copied = 0;
    while (copied < bytes.size() && staged_bytes_ < pool_.options.send_bytes_max) {
        if (!last_is_chunk_ ||
            segment(segment_count_ - 1).offset + segment(segment_count_ - 1).length ==
                pool_.options.send_chunk_bytes) {
            if (segment_count_ == segments_max) break;
            base::SlabRef chunk = pool_.chunks.take();
            if (!chunk) break;
            push_segment({std::move(chunk), 0, 0});
            last_is_chunk_ = true;
        }
        // Appending behind bytes that are in flight is safe: the kernel was told their length.
        base::SlabView& last = segment(segment_count_ - 1);
        const std::size_t room = last.slab.capacity() - last.offset - last.length;
        const std::size_t allowed = pool_.options.send_bytes_max - staged_bytes_;
        const std::size_t count = std::min({room, allowed, bytes.size() - copied});
        std::memcpy(last.slab.data() + last.offset + last.length, bytes.data() + copied, count);
        last.length += static_cast<std::uint32_t>(count);
        staged_bytes_ += count;
        copied += count;
        pool_.loop.at_turn_end(*this);
    }
    return copied;
}

base::Task<base::NetResult<>> Connection::write(std::span<const std::byte> bytes,
                                                base::Deadline deadline) {
    const base::Ref<Connection> hold{this};
    for (;;) {
        if (const auto error = write_error()) co_return std::unexpected(*error);
        bytes = bytes.subspan(stage_copy(bytes));
        if (bytes.empty()) co_return base::NetResult<>{};
        if (pool_.chunks.free_count() == 0 && !chunk_waiter_.linked()) {
            ++pool_.counters.chunks_starved;
            chunk_waiter_.link_before(pool_.chunk_waiters_);
        }
        const base::Wake reason = co_await writable_.wait(pool_.loop, deadline);
        if (reason != base::Wake::event) co_return std::unexpected(base::to_net_error(reason));
    }
}

base::Task<base::NetResult<>> Connection::write(base::SlabChain slabs, base::Deadline deadline) {
    const base::Ref<Connection> hold{this};
    std::size_t staged = 0;
    for (;;) {
        if (const auto error = write_error()) co_return std::unexpected(*error);
        for (; staged < slabs.views().size() && segment_count_ < segments_max; ++staged) {
            if (slabs.views()[staged].length == 0) continue;
            push_segment(slabs.views()[staged]);
            last_is_chunk_ = false;
        }
        if (staged == slabs.views().size() && staged_bytes_ <= pool_.options.send_bytes_max) {
            co_return base::NetResult<>{};
        }
        const base::Wake reason = co_await writable_.wait(pool_.loop, deadline);
        if (reason != base::Wake::event) co_return std::unexpected(base::to_net_error(reason));
    }
}

base::Task<base::NetResult<>> Connection::drain(base::Deadline deadline) {
    const base::Ref<Connection> hold{this};
    for (;;) {
        if (state_ != State::open) co_return std::unexpected(base::NetError::closed);
        if (error_) co_return std::unexpected(*error_);
        if (staged_bytes_ == 0) co_return base::NetResult<>{};
        const base::Wake reason = co_await writable_.wait(pool_.loop, deadline);
        if (reason != base::Wake::event) co_return std::unexpected(base::to_net_error(reason));
    }
}

base::Task<base::NetResult<>> Connection::shutdown_write(base::Deadline deadline) {
    const base::Ref<Connection> hold{this};
    const auto drained = co_await drain(deadline);
    if (!drained) co_return drained;
    shut_write();
    co_return base::NetResult<>{};
}

void Connection::turn_end() noexcept {
    if (state_ != State::open && state_ != State::flushing) return;
    send_staged();
    if (receive_op_.in_flight() && !receive_cancelled_ && reader_behind()) {
        receive_cancelled_ = true;
        ++pool_.counters.receive_pauses;
        pool_.ring.cancel(receive_op_);
    }
}

void Connection::send_staged() noexcept {
    if (send_op_.in_flight() || segment_count_ == 0 || error_) return;
    io_uring_sqe* entry = pool_.ring.stage();
    if (segment_count_ == 1) {
        const std::span<const std::byte> bytes = segment(0).bytes();
        in_flight_bytes_ = bytes.size();
        io_uring_prep_send(entry, socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    } else {
        const std::uint32_t count = std::min(segment_count_, send_pieces_max);
        in_flight_bytes_ = 0;
        for (std::uint32_t i = 0; i < count; ++i) {
            base::SlabView& view = segment(i);
            pieces_[i] = {view.slab.data() + view.offset, view.length};
            in_flight_bytes_ += view.length;
        }
        message_ = {};
        message_.msg_iov = pieces_.data();
        message_.msg_iovlen = count;
        io_uring_prep_sendmsg(entry, socket_, &message_, MSG_NOSIGNAL);
    }
    send_op_.start(*this);
    pool_.ring.bind(entry, send_op_);
}

void Connection::on_sent(int result, std::uint32_t) noexcept {
    if (state_ == State::idle) return drop_staged();
    if (result < 0) {
        if (result == -EINTR || result == -EAGAIN || result == -ECANCELED) return send_staged();
        return fail(to_net_error(-result));
    }
    const auto sent = static_cast<std::size_t>(result);
    CHECK(sent <= in_flight_bytes_);
    ++pool_.counters.sends;
    pool_.counters.sent_bytes += sent;
    if (sent < in_flight_bytes_) ++pool_.counters.sends_partial;
    pop_sent(sent);
    if (error_) return drop_staged(); // the receive found the connection dead meanwhile
    if (segment_count_ > 0) {
        send_staged();
    } else if (state_ == State::flushing) {
        return flushed();
    }
    // Half way down, so that a writer at the bound is woken for more than a few bytes.
    if (staged_bytes_ <= pool_.options.send_bytes_max / 2 && segment_count_ <= segments_max / 2) {
        writable_.wake_all();
    }
}

void Connection::pop_sent(std::size_t bytes) noexcept {
    staged_bytes_ -= bytes;
    bool freed = false;
    while (segment_count_ > 0) {
        base::SlabView& first = segment(0);
        const auto gone = static_cast<std::uint32_t>(std::min<std::size_t>(bytes, first.length));
        first.offset += gone;
        first.length -= gone;
        bytes -= gone;
        if (first.length > 0) break;
        first.slab.reset();
        segment_first_ = (segment_first_ + 1) % segments_max;
        --segment_count_;
        freed = true;
    }
    CHECK(bytes == 0);
    if (segment_count_ == 0) last_is_chunk_ = false;
    if (freed) pool_.chunk_freed();
}

void Connection::drop_staged() noexcept {
    if (send_op_.in_flight()) return; // the kernel still reads them; on_sent comes back here
    pop_sent(staged_bytes_);
}

// The end

void Connection::shut_write() noexcept {
    if (write_shut_) return;
    write_shut_ = true;
    // By the call itself, which never waits. The ring would hand it to a worker thread that looks the
    // descriptor up when it gets there, and by then it may be closed and belong to another connection.
    static_cast<void>(::shutdown(socket_, SHUT_WR)); // fails only where a receive fails as well
}

void Connection::on_closed(int, std::uint32_t) noexcept {}

void Connection::close() noexcept {
    if (state_ != State::open) return;
    state_ = State::flushing;
    drop_unread();
    readable_.wake_all();
    writable_.wake_all();
    if (error_) return finish(false);
    closing_ = base::Ref<Connection>{this};
    pool_.loop.arm(limit_, pool_.loop.now() + pool_.options.close_limit);
    if (segment_count_ == 0) flushed(); // otherwise the turn's end or the send in flight goes on
}

void Connection::flushed() noexcept {
    if (end_received_) return finish(false);
    state_ = State::lingering;
    shut_write();
    arm_receive();
}

void Connection::fail(base::NetError error) noexcept {
    if (!error_) error_ = error;
    drop_staged();
    if (state_ == State::open) {
        readable_.wake_all();
        writable_.wake_all();
    } else {
        finish(false);
    }
}

void Connection::abort() noexcept {
    if (state_ != State::idle) finish(true);
}

void Connection::finish(bool reset) noexcept {
    CHECK(state_ != State::idle && socket_ >= 0);
    const base::Ref<Connection> hold{this};
    if (state_ != State::connecting && reset && !error_) {
        const linger at_once{.l_onoff = 1, .l_linger = 0};
        static_cast<void>(setsockopt(socket_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once));
        ++pool_.counters.resets_sent;
    }
    state_ = State::idle;
    closing_.reset();
    limit_.cancel();
    buffer_waiter_.unlink();
    chunk_waiter_.unlink();
    drop_unread();
    // Each operation holds the socket open, and its buffers with it, until it ends.
    if (receive_op_.in_flight() && !receive_cancelled_) pool_.ring.cancel(receive_op_);
    if (send_op_.in_flight()) pool_.ring.cancel(send_op_);
    if (connect_op_.in_flight()) pool_.ring.cancel(connect_op_);
    drop_staged();
    io_uring_sqe* entry = pool_.ring.stage();
    io_uring_prep_close(entry, std::exchange(socket_, -1));
    close_op_.start(*this);
    pool_.ring.bind(entry, close_op_);
    readable_.wake_all();
    writable_.wake_all();
}

void Connection::on_limit(base::Timer& timer) noexcept {
    Connection& connection = *static_cast<LimitTimer&>(timer).connection;
    connection.finish(connection.state_ == State::flushing);
}

void Connection::retire() noexcept {
    CHECK(state_ == State::idle && socket_ < 0);
    CHECK(buffer_count_ == 0 && segment_count_ == 0);
    error_.reset();
    end_received_ = write_shut_ = receive_cancelled_ = false;
    lingered_bytes_ = 0;
    info_.tls_version.clear();
    info_.tls_cipher.clear();
    info_.tls_resumed = false;
    if (listener_) listener_->connection_ended();
    listener_.reset();
    pool_.give_back(*this);
}

// The pool

ConnectionPool::ConnectionPool(base::Loop& its_loop, base::Uring& its_ring,
                               const KernelTransportOptions& its_options)
    : TurnEnd(base::Room::net), loop(its_loop), ring(its_ring), options(its_options),
      buffers(its_ring, its_options.receive_buffers, its_options.receive_buffer_bytes,
              its_options.receive_window),
      chunks(its_options.send_chunk_bytes, its_options.send_chunks) {
    buffer_waiters_.make_head();
    chunk_waiters_.make_head();
}

ConnectionPool::~ConnectionPool() {
    CHECK(live_count_ == 0);
}

base::Ref<Connection> ConnectionPool::take() {
    if (first_free_ == nullptr) {
        Connection& fresh = connections_.emplace_back(*this);
        fresh.next = std::exchange(first_free_, &fresh);
    }
    Connection& connection = *first_free_;
    first_free_ = std::exchange(connection.next, nullptr);
    ++live_count_;
    return base::Ref<Connection>{&connection};
}

void ConnectionPool::give_back(Connection& connection) noexcept {
    connection.next = std::exchange(first_free_, &connection);
    --live_count_;
    // It may have been armed for a buffer that it did not use.
    if (!buffer_waiters_.alone()) loop.at_turn_end(*this);
}

void ConnectionPool::abort_all() noexcept {
    for (Connection& connection : connections_)
        connection.abort();
}

void ConnectionPool::give_back_buffer(std::uint16_t id) noexcept {
    buffers.give_back(id);
    if (!buffer_waiters_.alone()) loop.at_turn_end(*this);
}

void ConnectionPool::turn_end() noexcept {
    // As many as there are buffers for; the others wait on.
    for (std::uint32_t ready = buffers.ready(); ready > 0 && !buffer_waiters_.alone(); --ready) {
        auto& waiter = static_cast<Connection::WaiterLink&>(*buffer_waiters_.next);
        waiter.unlink();
        waiter.connection->arm_receive();
    }
}

void ConnectionPool::chunk_freed() noexcept {
    while (!chunk_waiters_.alone()) {
        auto& waiter = static_cast<Connection::WaiterLink&>(*chunk_waiters_.next);
        waiter.unlink();
        waiter.connection->writable_.wake_all();
    }
}

} // namespace dataplane::net::kernel
