#include "tests/dataplane/net/packetdrill/sockets.h"

#include "dataplane/net/stack/tcp_stream.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <deque>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace tests::packetdrill {

namespace {

constexpr base::Duration cork_limit =
    std::chrono::milliseconds{200}; // as Linux: no cork holds longer

} // namespace

int to_errno(base::NetError error) noexcept {
    switch (error) {
    case base::NetError::end_of_stream:
        return 0;
    case base::NetError::refused:
        return ECONNREFUSED;
    case base::NetError::reset:
        return ECONNRESET;
    case base::NetError::timed_out:
        return ETIMEDOUT;
    case base::NetError::cancelled:
        return ECANCELED;
    case base::NetError::unreachable:
        return EHOSTUNREACH;
    case base::NetError::no_port:
        return EADDRNOTAVAIL;
    case base::NetError::no_buffers:
        return ENOBUFS;
    case base::NetError::address_in_use:
        return EADDRINUSE;
    case base::NetError::address_not_available:
        return EADDRNOTAVAIL;
    case base::NetError::permission:
        return EACCES;
    case base::NetError::tls:
        return EPROTO;
    case base::NetError::closed:
        return EPIPE;
    }
    return EIO;
}

struct SocketTable::Socket {
    explicit Socket(base::Loop& its_loop) : loop(its_loop) {}

    enum class Phase : std::uint8_t { fresh, listening, connecting, connected, failed };

    base::Loop& loop;
    bool ipv6 = false;
    bool non_blocking = false;
    Phase phase = Phase::fresh;
    std::optional<base::SocketAddress> bound;
    std::optional<base::SocketAddress> remote;
    std::map<std::pair<int, int>, int> options;
    std::optional<std::pair<int, int>> linger;

    std::unique_ptr<base::Listener> listener;
    std::deque<base::StreamPtr> accepted;

    base::StreamPtr stream;
    bool end_of_stream = false;
    bool dead = false;
    int error = 0; // SO_ERROR: told once
    bool connect_told = false;
    bool read_shut = false;
    bool write_shut = false;
    bool closing = false;
    std::vector<std::byte> unsent; // with the writer, or waiting for it
    std::vector<std::byte> held;   // less than a segment: Nagle, TCP_CORK or MSG_MORE
    bool more = false;             // the last write said MSG_MORE
    base::TimePoint held_since{};
    std::uint64_t given_bytes = 0; // to the writer, ever
    std::uint64_t small_end = 0;   // of those up to the last write that filled no segment
    base::WaitQueue consumed{"packetdrill consumed"};
    base::WaitQueue work{"packetdrill work"};

    // Last: they use everything above.
    base::Task<void> opener;
    base::Task<void> reader;
    base::Task<void> writer;

    [[nodiscard]] const net::tcp::Connection& connection() const {
        return static_cast<const net::stack::TcpStream&>(*stream).connection();
    }
    [[nodiscard]] std::uint64_t acked_bytes() const {
        const std::uint64_t in_stack =
            connection().sender().flight_bytes() + connection().unsent_bytes() + unsent.size();
        return given_bytes > in_stack ? given_bytes - in_stack : 0;
    }
    [[nodiscard]] bool is_set(int level, int name) const {
        const auto found = options.find({level, name});
        return found != options.end() && found->second != 0;
    }
    void give(std::span<const std::byte> bytes) {
        unsent.insert(unsent.end(), bytes.begin(), bytes.end());
        given_bytes += bytes.size();
        work.wake_all();
    }
    void fail(base::NetError why) {
        dead = true;
        if (error != 0) return;
        // Linux: whoever still writes to a peer that has closed, and then reset, has a broken pipe.
        error = end_of_stream && why == base::NetError::reset ? EPIPE : to_errno(why);
    }
    void begin(base::StreamPtr opened) {
        phase = Phase::connected;
        stream = std::move(opened);
        reader = run_read(this);
        reader.start();
        writer = run_write(this);
        writer.start();
    }
};

base::Task<void> SocketTable::run_connect(Socket* socket, net::stack::Stack* stack,
                                          base::SocketAddress remote) {
    std::optional<base::IpAddress> source;
    if (socket->bound && socket->bound->ip != base::IpAddress{}) source = socket->bound->ip;
    auto opened = co_await stack->connect(remote, source, base::Deadline::never());
    if (!opened) {
        socket->phase = Socket::Phase::failed;
        socket->fail(opened.error());
        co_return;
    }
    socket->begin(std::move(*opened));
}

base::Task<void> SocketTable::run_accept(Socket* socket) {
    for (;;) {
        auto stream = co_await socket->listener->accept(base::Deadline::never());
        if (!stream) co_return;
        socket->accepted.push_back(std::move(*stream));
    }
}

base::Task<void> SocketTable::run_read(Socket* socket) {
    for (;;) {
        const auto filled = co_await socket->stream->fill(base::Deadline::never());
        if (!filled) {
            if (filled.error() == base::NetError::end_of_stream)
                socket->end_of_stream = true;
            else
                socket->fail(filled.error());
            co_return;
        }
        while (!socket->stream->unread().empty())
            static_cast<void>(
                co_await socket->consumed.wait(socket->loop, base::Deadline::never()));
    }
}

base::Task<void> SocketTable::run_write(Socket* socket) {
    bool said_end = false;
    for (;;) {
        if (!socket->unsent.empty()) {
            const auto written = co_await socket->stream->write(
                std::span<const std::byte>{socket->unsent}, base::Deadline::never());
            socket->unsent.clear();
            if (!written) {
                socket->fail(written.error());
                if (socket->closing) socket->stream->close();
                co_return;
            }
        } else if (socket->closing) {
            socket->stream->close();
            co_return;
        } else if (socket->write_shut && !said_end) {
            said_end = true;
            const auto shut = co_await socket->stream->shutdown_write(base::Deadline::never());
            if (!shut) socket->fail(shut.error());
        } else {
            static_cast<void>(co_await socket->work.wait(socket->loop, base::Deadline::never()));
        }
    }
}

SocketTable::SocketTable(base::Loop& loop, net::stack::Stack& stack, bool nagle)
    : loop_(loop), stack_(&stack), nagle_(nagle) {}
SocketTable::~SocketTable() = default;

SocketTable::Socket* SocketTable::find(int fd) const {
    const auto found = sockets_.find(fd);
    return found == sockets_.end() ? nullptr : found->second.get();
}

/// SO_ERROR's rule: an error is told once, then `otherwise` is.
CallResult SocketTable::take_error(Socket& socket, int otherwise) const {
    const int error = std::exchange(socket.error, 0);
    if (error != 0) return {-1, error};
    return otherwise == 0 ? CallResult{0, 0} : CallResult{-1, otherwise};
}

void SocketTable::open(int fd, bool ipv6, bool non_blocking) {
    auto socket = std::make_unique<Socket>(loop_);
    socket->ipv6 = ipv6;
    socket->non_blocking = non_blocking;
    sockets_[fd] = std::move(socket);
}

CallResult SocketTable::bind(int fd, const base::SocketAddress& local) {
    Socket* const socket = find(fd);
    if (socket == nullptr) return {-1, EBADF};
    if (socket->phase != Socket::Phase::fresh || socket->bound) return {-1, EINVAL};
    socket->bound = local;
    return {};
}

CallResult SocketTable::listen(int fd, int backlog) {
    Socket* const socket = find(fd);
    if (socket == nullptr) return {-1, EBADF};
    if (socket->phase != Socket::Phase::fresh || !socket->bound) return {-1, EINVAL};
    base::ListenOptions options;
    options.backlog = std::max(backlog, 1);
    auto listener = stack_->listen(*socket->bound, options);
    if (!listener) return {-1, to_errno(listener.error())};
    socket->listener = std::move(*listener);
    socket->phase = Socket::Phase::listening;
    socket->opener = run_accept(socket);
    socket->opener.start();
    return {};
}

std::optional<CallResult> SocketTable::connect(int fd, const base::SocketAddress& remote,
                                               CallState& state) {
    Socket* const socket = find(fd);
    if (socket == nullptr) return CallResult{-1, EBADF};
    switch (socket->phase) {
    case Socket::Phase::fresh:
        state.begun = true;
        socket->phase = Socket::Phase::connecting;
        socket->remote = remote;
        socket->opener = run_connect(socket, stack_, remote);
        socket->opener.start();
        if (socket->non_blocking) return CallResult{-1, EINPROGRESS};
        return std::nullopt;
    case Socket::Phase::connecting:
        if (state.begun) return std::nullopt;
        return CallResult{-1, EALREADY};
    case Socket::Phase::connected:
        if (socket->connect_told || socket->listener) return CallResult{-1, EISCONN};
        socket->connect_told = true;
        return CallResult{0, 0};
    case Socket::Phase::failed:
        return take_error(*socket, ECONNABORTED);
    case Socket::Phase::listening:
        return CallResult{-1, EISCONN};
    }
    return CallResult{-1, EINVAL};
}

std::optional<CallResult> SocketTable::accept(int fd, const std::function<int()>& new_fd,
                                              base::SocketAddress* peer, bool non_blocking) {
    Socket* const socket = find(fd);
    if (socket == nullptr) return CallResult{-1, EBADF};
    if (socket->phase != Socket::Phase::listening) return CallResult{-1, EINVAL};
    if (socket->accepted.empty()) {
        if (socket->non_blocking) return CallResult{-1, EAGAIN};
        return std::nullopt;
    }
    base::StreamPtr stream = std::move(socket->accepted.front());
    socket->accepted.pop_front();
    if (peer != nullptr) *peer = stream->info().peer;
    auto opened = std::make_unique<Socket>(loop_);
    opened->ipv6 = socket->ipv6;
    opened->non_blocking = non_blocking;
    opened->connect_told = true;
    opened->begin(std::move(stream));
    const int number = new_fd();
    sockets_[number] = std::move(opened);
    return CallResult{number, 0};
}

std::optional<CallResult> SocketTable::receive(int fd, std::span<std::byte> to, int flags) {
    Socket* const socket = find(fd);
    if (socket == nullptr) return CallResult{-1, EBADF};
    if (!socket->stream) {
        if (socket->error != 0) return take_error(*socket, 0);
        if (socket->phase == Socket::Phase::connecting && !socket->non_blocking)
            return std::nullopt;
        return CallResult{-1, socket->phase == Socket::Phase::connecting ? EAGAIN : ENOTCONN};
    }
    std::size_t taken = 0;
    if ((flags & MSG_PEEK) != 0) {
        const auto unread = socket->stream->unread();
        taken = std::min(unread.size(), to.size());
        std::ranges::copy(unread.first(taken), to.begin());
    } else {
        // What has come may lie in several pieces.
        while (taken < to.size()) {
            const auto unread = socket->stream->unread();
            const std::size_t piece = std::min(unread.size(), to.size() - taken);
            if (piece == 0) break;
            std::ranges::copy(unread.first(piece), to.begin() + static_cast<std::ptrdiff_t>(taken));
            socket->stream->consume(piece);
            taken += piece;
        }
        if (taken != 0 && socket->stream->unread().empty()) socket->consumed.wake_all();
    }
    if (taken != 0 || to.empty()) return CallResult{static_cast<std::int64_t>(taken), 0};
    if (socket->error != 0) return take_error(*socket, 0);
    if (socket->dead || socket->end_of_stream || socket->read_shut) return CallResult{0, 0};
    if (socket->non_blocking || (flags & MSG_DONTWAIT) != 0) return CallResult{-1, EAGAIN};
    return std::nullopt;
}

std::optional<CallResult> SocketTable::send(int fd, std::span<const std::byte> bytes, int flags,
                                            CallState& state) {
    Socket* const socket = find(fd);
    if (socket == nullptr) return CallResult{-1, EBADF};
    const bool waits = !socket->non_blocking && (flags & MSG_DONTWAIT) == 0;
    if (socket->error != 0) return take_error(*socket, 0);
    if (socket->dead || socket->write_shut) return CallResult{-1, EPIPE};
    if (!socket->stream) {
        if (socket->phase != Socket::Phase::connecting) return CallResult{-1, EPIPE};
        if (waits) return std::nullopt;
        return CallResult{-1, EAGAIN};
    }
    if (!state.begun) {
        if (!socket->unsent.empty()) {
            if (waits) return std::nullopt;
            return CallResult{-1, EAGAIN};
        }
        state.begun = true;
        if (bytes.empty()) return CallResult{0, 0};
        socket->more = (flags & MSG_MORE) != 0;
        // Whole segments leave; what is left over is held back, or not.
        std::vector<std::byte> all = std::exchange(socket->held, {});
        if (all.empty()) socket->held_since = loop_.now();
        all.insert(all.end(), bytes.begin(), bytes.end());
        const std::size_t rest = all.size() % socket->connection().mss();
        const std::span whole = std::span{all}.first(all.size() - rest);
        socket->held.assign(all.end() - static_cast<std::ptrdiff_t>(rest), all.end());
        if (!whole.empty()) socket->give(whole);
        if (!must_hold(*socket)) release_held(*socket);
        if (socket->unsent.empty()) return CallResult{static_cast<std::int64_t>(bytes.size()), 0};
        return std::nullopt; // the writer hands it over in the next turn
    }
    if (!socket->unsent.empty() && waits) return std::nullopt;
    return CallResult{static_cast<std::int64_t>(bytes.size()), 0};
}

bool SocketTable::must_hold(const Socket& socket) const {
    if (socket.more || socket.is_set(IPPROTO_TCP, TCP_CORK)) {
        return loop_.now() - socket.held_since < cork_limit;
    }
    // Minshall's variant, as Linux: only one small segment in flight.
    return nagle_ && !socket.is_set(IPPROTO_TCP, TCP_NODELAY) &&
           socket.acked_bytes() < socket.small_end;
}

void SocketTable::release_held(Socket& socket) const {
    if (socket.held.empty()) return;
    socket.give(std::exchange(socket.held, {}));
    socket.small_end = socket.given_bytes;
    socket.more = false;
}

void SocketTable::poke() {
    for (auto& [fd, socket] : sockets_) {
        if (socket->stream && !socket->held.empty() && !must_hold(*socket)) release_held(*socket);
    }
}

base::TimePoint SocketTable::next_due() const {
    base::TimePoint due = base::TimePoint::max();
    for (const auto& [fd, socket] : sockets_) {
        if (!socket->held.empty()) due = std::min(due, socket->held_since + cork_limit);
    }
    return due;
}

bool SocketTable::all_fresh() const {
    return closing_.empty() && std::ranges::all_of(sockets_, [](const auto& entry) {
               return entry.second->phase == Socket::Phase::fresh;
           });
}

bool SocketTable::is_ipv6(int fd) const {
    const Socket* const socket = find(fd);
    return socket != nullptr && socket->ipv6;
}

std::optional<SocketTable::Insight> SocketTable::look_into(int fd) const {
    const Socket* const socket = find(fd);
    if (socket == nullptr || !socket->stream) return std::nullopt;
    return Insight{&socket->connection(), socket->given_bytes + socket->held.size(),
                   socket->acked_bytes()};
}

CallResult SocketTable::shutdown(int fd, int how) {
    Socket* const socket = find(fd);
    if (socket == nullptr) return {-1, EBADF};
    if (!socket->stream || socket->dead) return {-1, ENOTCONN};
    if (how != SHUT_RD && how != SHUT_WR && how != SHUT_RDWR) return {-1, EINVAL};
    if (how != SHUT_WR) socket->read_shut = true;
    if (how != SHUT_RD) {
        release_held(*socket);
        socket->write_shut = true;
        socket->work.wake_all();
    }
    return {};
}

CallResult SocketTable::close(int fd) {
    const auto found = sockets_.find(fd);
    if (found == sockets_.end()) return {-1, EBADF};
    std::unique_ptr<Socket> socket = std::move(found->second);
    sockets_.erase(found);
    socket->opener = {};
    if (socket->listener) socket->listener->close();
    if (!socket->stream) return {};
    release_held(*socket);
    socket->reader = {};
    // A Stream's close() takes and drops what comes for a while, so that a last reply is not lost to a
    // reset. A socket's tells the peer at once that something was not read (RFC 2525 §2.17).
    const bool unread = !socket->stream->unread().empty();
    const bool lingers_zero =
        socket->linger && socket->linger->first != 0 && socket->linger->second == 0;
    if (unread || lingers_zero) {
        socket->writer = {};
        socket->stream->abort();
    } else if (socket->unsent.empty() || socket->dead) {
        socket->writer = {};
        socket->stream->close();
    } else {
        socket->closing = true;
        socket->work.wake_all();
        closing_.push_back(std::move(socket));
    }
    return {};
}

CallResult SocketTable::set_option(int fd, int level, int name, std::span<const int> value) {
    Socket* const socket = find(fd);
    if (socket == nullptr) return {-1, EBADF};
    if (value.empty()) return {-1, EINVAL};
    if (level == SOL_SOCKET && name == SO_LINGER) {
        if (value.size() < 2) return {-1, EINVAL};
        socket->linger = {value[0], value[1]};
        return {};
    }
    socket->options[{level, name}] = value[0];
    if (socket->stream && !must_hold(*socket)) release_held(*socket); // uncorked, or TCP_NODELAY
    return {};
}

CallResult SocketTable::get_option(int fd, int level, int name, std::span<int> value) {
    Socket* const socket = find(fd);
    if (socket == nullptr) return {-1, EBADF};
    if (value.empty()) return {-1, EINVAL};
    std::ranges::fill(value, 0);
    if (level == SOL_SOCKET && name == SO_ERROR) {
        value[0] = std::exchange(socket->error, 0);
    } else if (level == SOL_SOCKET && name == SO_LINGER) {
        if (value.size() < 2) return {-1, EINVAL};
        if (socket->linger) std::tie(value[0], value[1]) = *socket->linger;
    } else if (level == IPPROTO_TCP && name == TCP_MAXSEG && socket->stream) {
        value[0] = static_cast<int>(socket->connection().mss());
    } else if (level == SOL_SOCKET && name == SO_TYPE) {
        value[0] = SOCK_STREAM;
    } else if (const auto found = socket->options.find({level, name});
               found != socket->options.end()) {
        value[0] = found->second;
    }
    return {};
}

CallResult SocketTable::file_control(int fd, int command, long argument) {
    Socket* const socket = find(fd);
    if (socket == nullptr) return {-1, EBADF};
    switch (command) {
    case F_GETFL:
        return {O_RDWR | (socket->non_blocking ? O_NONBLOCK : 0), 0};
    case F_SETFL:
        socket->non_blocking = (argument & O_NONBLOCK) != 0;
        return {};
    case F_GETFD:
        return {FD_CLOEXEC, 0};
    case F_SETFD:
        return {};
    default:
        return {-1, EINVAL};
    }
}

CallResult SocketTable::queue_size(int fd, unsigned long request, int* bytes) {
    Socket* const socket = find(fd);
    if (socket == nullptr) return {-1, EBADF};
    if (request != SIOCINQ && request != SIOCOUTQ) return {-1, EINVAL};
    *bytes = 0;
    if (!socket->stream) return {};
    if (request == SIOCINQ) {
        *bytes = static_cast<int>(socket->stream->unread().size());
        return {};
    }
    std::array<net::stack::ConnectionView, 64> views;
    std::size_t cursor = 0;
    std::size_t count = views.size();
    while (count == views.size()) {
        count = stack_->list(views, cursor);
        for (const net::stack::ConnectionView& view : std::span{views}.first(count)) {
            if (view.local != socket->stream->info().local ||
                view.remote != socket->stream->info().peer)
                continue;
            *bytes =
                static_cast<int>(view.flight_bytes + view.unsent_bytes + socket->unsent.size());
            return {};
        }
    }
    return {};
}

short SocketTable::poll_events(int fd) const {
    const Socket* const socket = find(fd);
    if (socket == nullptr) return POLLNVAL;
    unsigned events = 0;
    if (!socket->accepted.empty()) events |= POLLIN | POLLRDNORM;
    if (socket->error != 0) events |= POLLERR;
    if (socket->dead || socket->phase == Socket::Phase::failed)
        events |= POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLHUP | POLLRDHUP;
    if (socket->stream) {
        if (!socket->stream->unread().empty()) events |= POLLIN | POLLRDNORM;
        if (socket->end_of_stream || socket->read_shut) events |= POLLIN | POLLRDNORM | POLLRDHUP;
        if (socket->end_of_stream && socket->write_shut) events |= POLLHUP;
        if (socket->unsent.empty()) events |= POLLOUT | POLLWRNORM;
    } else if (socket->phase == Socket::Phase::fresh) {
        events |= POLLOUT | POLLWRNORM | POLLHUP; // as Linux says of a socket that nobody connected
    }
    return static_cast<short>(events);
}

std::optional<base::SocketAddress> SocketTable::local_address(int fd) const {
    const Socket* const socket = find(fd);
    if (socket == nullptr) return std::nullopt;
    if (socket->stream) return socket->stream->info().local;
    if (socket->listener) return socket->listener->local();
    return socket->bound;
}

std::optional<base::SocketAddress> SocketTable::peer_address(int fd) const {
    const Socket* const socket = find(fd);
    if (socket == nullptr || !socket->stream) return std::nullopt;
    return socket->stream->info().peer;
}

} // namespace tests::packetdrill
