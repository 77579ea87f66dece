#include "dataplane/net/kernel/listen_socket.h"

#include "dataplane/net/kernel/kernel_stream.h"
#include "dataplane/net/proxy_greeting.h"

#include <cerrno>
#include <unistd.h>

namespace dataplane::net::kernel {

ListenSocket::ListenSocket(ConnectionPool& pool, int socket, const base::ListenOptions& options,
                           std::size_t& open_count)
    : pool_(pool), socket_(socket), options_(options), local_(local_address(socket)),
      open_count_(open_count) {
    ++open_count_;
    retry_.listener = this;
    arm_accept();
}

ListenSocket::~ListenSocket() {
    CHECK(socket_ < 0);
    --open_count_;
}

void ListenSocket::arm_accept() noexcept {
    if (socket_ < 0 || accept_op_.in_flight()) return;
    io_uring_sqe* entry = pool_.ring.stage();
    io_uring_prep_multishot_accept(entry, socket_, nullptr, nullptr, SOCK_CLOEXEC);
    accept_op_.start(*this);
    pool_.ring.bind(entry, accept_op_);
}

void ListenSocket::on_accepted(int result, std::uint32_t flags) noexcept {
    const bool ended = (flags & IORING_CQE_F_MORE) == 0;
    if (result >= 0) {
        if (socket_ < 0 || connection_count_ >= options_.connections_max) {
            if (socket_ >= 0) ++pool_.counters.refused_at_max;
            ::close(result); // nothing is unsent on it, so this does not wait
        } else {
            ++pool_.counters.accepted;
            ++connection_count_;
            base::Ref<Connection> connection = pool_.take();
            connection->adopt(result, base::Ref<ListenSocket>{this});
            if (options_.proxy_protocol) {
                pool_.loop.spawn(greet_proxy(base::Ref<ListenSocket>{this}, std::move(connection)),
                                 "PROXY header", base::Room::net);
            } else {
                enqueue(std::move(connection));
            }
        }
    } else if (socket_ >= 0 && result != -ECONNABORTED && result != -EINTR && result != -EAGAIN) {
        ++pool_.counters.accept_errors;
        pool_.loop.arm(retry_, pool_.loop.now() + accept_retry);
        return;
    }
    if (ended) arm_accept();
}

void ListenSocket::on_retry(base::Timer& timer) noexcept {
    static_cast<RetryTimer&>(timer).listener->arm_accept();
}

void ListenSocket::enqueue(base::Ref<Connection> connection) noexcept {
    Connection* ready = connection.get();
    ready->hold_in_queue(std::move(connection));
    if (first_ready_ == nullptr) {
        first_ready_ = ready;
    } else {
        last_ready_->next = ready;
    }
    last_ready_ = ready;
    accepted_.wake_one();
}

base::Task<base::NetResult<base::StreamPtr>> ListenSocket::accept(base::Deadline deadline) {
    const base::Ref<ListenSocket> hold{this};
    while (first_ready_ == nullptr) {
        if (socket_ < 0) co_return std::unexpected(base::NetError::closed);
        const base::Wake reason = co_await accepted_.wait(pool_.loop, deadline);
        if (reason != base::Wake::event) co_return std::unexpected(base::to_net_error(reason));
    }
    Connection& ready = *first_ready_;
    first_ready_ = std::exchange(ready.next, nullptr);
    base::StreamPtr stream{new KernelStream{ready.leave_queue()}};
    co_return stream;
}

void ListenSocket::close() noexcept {
    if (socket_ < 0) return;
    const base::Ref<ListenSocket> hold{this};
    retry_.cancel();
    if (accept_op_.in_flight()) pool_.ring.cancel(accept_op_);
    io_uring_sqe* entry = pool_.ring.stage();
    io_uring_prep_close(entry, std::exchange(socket_, -1));
    close_op_.start(*this);
    pool_.ring.bind(entry, close_op_);
    while (first_ready_ != nullptr) {
        Connection& untaken = *first_ready_;
        first_ready_ = std::exchange(untaken.next, nullptr);
        const base::Ref<Connection> connection = untaken.leave_queue();
        connection->abort();
    }
    accepted_.wake_all();
}

void ListenSocket::on_closed(int, std::uint32_t) noexcept {}

base::Task<void> ListenSocket::greet_proxy(base::Ref<ListenSocket> listener,
                                           base::Ref<Connection> connection) {
    // The handle resets the connection however this frame ends, unless it is handed on.
    struct Guard {
        Connection& connection;
        bool handed_on = false;
        ~Guard() {
            if (!handed_on && connection.open()) connection.abort();
        }
    } guard{*connection};

    ConnectionPool& pool = listener->pool_;
    const auto deadline = base::Deadline::in(pool.loop, pool.options.proxy_limit);
    const auto told = co_await read_proxy_greeting(*connection, deadline);
    if (!told) {
        ++pool.counters.proxy_refused;
        co_return;
    }
    if (*told) connection->info().client = **told;
    if (listener->socket_ < 0) co_return;
    guard.handed_on = true;
    listener->enqueue(connection);
}

} // namespace dataplane::net::kernel
