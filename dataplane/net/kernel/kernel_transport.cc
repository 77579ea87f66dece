#include "dataplane/net/kernel/kernel_transport.h"

#include "dataplane/net/kernel/kernel_stream.h"
#include "dataplane/net/kernel/listen_socket.h"

#include <cerrno>
#include <netinet/tcp.h>
#include <unistd.h>

namespace dataplane::net::kernel {
namespace {

/// A descriptor until it has an owner.
class Socket {
public:
    explicit Socket(const base::IpAddress& ip) noexcept
        : descriptor_(::socket(ip.is_v6() ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
    ~Socket() {
        if (descriptor_ >= 0) ::close(descriptor_);
    }
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;

    [[nodiscard]] bool open() const noexcept { return descriptor_ >= 0; }
    [[nodiscard]] int get() const noexcept { return descriptor_; }
    [[nodiscard]] bool set(int level, int option, int value = 1) const noexcept {
        return setsockopt(descriptor_, level, option, &value, sizeof value) == 0;
    }
    [[nodiscard]] bool bind(const base::SocketAddress& local) const noexcept {
        const KernelAddress address{local};
        return ::bind(descriptor_, &address.any, address.bytes) == 0;
    }
    /// The new owner closes it: a Connection or a ListenSocket, through the ring.
    [[nodiscard]] int release() noexcept { return std::exchange(descriptor_, -1); }

private:
    int descriptor_;
};

[[nodiscard]] std::unexpected<base::NetError> last_error() noexcept {
    return std::unexpected(to_net_error(errno));
}

class KernelListener final : public base::Listener {
public:
    explicit KernelListener(base::Ref<ListenSocket> socket) noexcept : socket_(std::move(socket)) {}
    ~KernelListener() override { socket_->close(); }
    KernelListener(const KernelListener&) = delete;
    KernelListener& operator=(const KernelListener&) = delete;

    [[nodiscard]] base::Task<base::NetResult<base::StreamPtr>>
    accept(base::Deadline deadline) override {
        return socket_->accept(deadline);
    }
    void close() noexcept override { socket_->close(); }
    [[nodiscard]] base::SocketAddress local() const noexcept override { return socket_->local(); }

private:
    base::Ref<ListenSocket> socket_;
};

} // namespace

KernelTransport::KernelTransport(base::Loop& loop, base::Uring& ring,
                                 KernelTransportOptions options)
    : pool_(loop, ring, options) {}

KernelTransport::~KernelTransport() {
    pool_.abort_all();
    // The kernel still writes into our buffers until it has completed what was cancelled. That
    // takes microseconds each; when nothing ends any more, somebody still holds a Stream, and the
    // pool's CHECK says so.
    std::size_t left = pool_.live_count() + listen_count_;
    for (unsigned fruitless = 0; fruitless < 50 && left > 0; ++fruitless) {
        pool_.ring.settle(std::chrono::milliseconds{100});
        const std::size_t now_left = pool_.live_count() + listen_count_;
        if (now_left < left) fruitless = 0;
        left = now_left;
    }
    CHECK(listen_count_ == 0);
}

base::NetResult<std::unique_ptr<base::Listener>>
KernelTransport::listen(const base::SocketAddress& local, const base::ListenOptions& options) {
    Socket socket{local.ip};
    if (!socket.open()) return last_error();
    // Sockets that are accepted inherit TCP_NODELAY: a turn's bytes leave as one send anyhow, and
    // Nagle would hold the last piece of it back.
    if (!socket.set(SOL_SOCKET, SO_REUSEADDR) || !socket.set(SOL_SOCKET, SO_REUSEPORT) ||
        !socket.set(IPPROTO_TCP, TCP_NODELAY)) {
        return last_error();
    }
    // Otherwise [::] would take IPv4 as well, and a listener on 0.0.0.0 beside it would fail.
    if (local.ip.is_v6() && !socket.set(IPPROTO_IPV6, IPV6_V6ONLY)) return last_error();
    if (!socket.bind(local)) return last_error();
    if (::listen(socket.get(), options.backlog) != 0) return last_error();
    base::Ref<ListenSocket> listener{
        new ListenSocket{pool_, socket.release(), options, listen_count_}};
    return std::make_unique<KernelListener>(std::move(listener));
}

base::Task<base::NetResult<base::StreamPtr>>
KernelTransport::connect(base::SocketAddress remote, std::optional<base::IpAddress> source,
                         base::Deadline deadline) {
    if (source && source->is_v6() != remote.ip.is_v6()) {
        co_return std::unexpected(base::NetError::address_not_available);
    }
    Socket socket{remote.ip};
    if (!socket.open()) {
        ++pool_.counters.connect_errors;
        co_return last_error();
    }
    static_cast<void>(socket.set(IPPROTO_TCP, TCP_NODELAY));
    if (source) {
        // The port is chosen at connect(), by the whole four-tuple: without this a source address
        // has one set of ports for all destinations together.
        static_cast<void>(socket.set(IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT));
        if (!socket.bind({*source, 0})) {
            const int error = errno;
            ++pool_.counters.connect_errors;
            co_return std::unexpected(error == EINVAL ? base::NetError::address_not_available
                                                      : to_net_error(error));
        }
    }
    base::Ref<Connection> connection = pool_.take();
    const auto connected = co_await connection->connect(socket.release(), remote, deadline);
    if (!connected) {
        ++pool_.counters.connect_errors;
        co_return std::unexpected(connected.error());
    }
    ++pool_.counters.connected;
    base::StreamPtr stream{new KernelStream{std::move(connection)}};
    co_return stream;
}

} // namespace dataplane::net::kernel
