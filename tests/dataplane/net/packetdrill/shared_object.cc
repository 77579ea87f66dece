// shared_object.cc: libmillrace_packetdrill.so: the 32 functions that let stock packetdrill drive the stack.
//
// Scope      Turns libc's arguments into SocketTable's and back. File numbers are eventfds, because
//            packetdrill closes what is left of them itself. Not there: pipe() and splice() (ENOSYS).
// Threading  packetdrill calls from two threads; LiveStack is made for that. The table of epoll sets has
//            its own lock.

#include "tests/dataplane/net/packetdrill/interface.h"
#include "tests/dataplane/net/packetdrill/live_stack.h"
#include "tests/dataplane/net/packetdrill/tcp_info.h"

#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/eventfd.h>

namespace tests::packetdrill {

namespace {

constexpr base::Duration silence_limit = std::chrono::minutes{2}; // then netdev_receive() gives up

struct Adapter {
    explicit Adapter(const Profile& profile) : stack(profile) {}

    LiveStack stack;
    std::mutex epoll_mutex;
    std::map<int, std::map<int, epoll_event>> epolls;
};

Adapter& of(void* userdata) {
    return *static_cast<Adapter*>(userdata);
}

std::int64_t as_libc(const CallResult& result) {
    if (result.error != 0) errno = result.error;
    return result.value;
}
int as_int(const CallResult& result) {
    return static_cast<int>(as_libc(result));
}
int fail(int error) {
    errno = error;
    return -1;
}

std::optional<base::SocketAddress> from_sockaddr(const sockaddr* address, socklen_t length) {
    if (address == nullptr) return std::nullopt;
    if (address->sa_family == AF_INET && length >= sizeof(sockaddr_in)) {
        sockaddr_in in{};
        std::memcpy(&in, address, sizeof in);
        std::array<std::uint8_t, 4> bytes{};
        std::memcpy(bytes.data(), &in.sin_addr, bytes.size());
        return base::SocketAddress{base::IpAddress::v4(bytes), ntohs(in.sin_port)};
    }
    if (address->sa_family == AF_INET6 && length >= sizeof(sockaddr_in6)) {
        sockaddr_in6 in{};
        std::memcpy(&in, address, sizeof in);
        std::array<std::uint8_t, 16> bytes{};
        std::memcpy(bytes.data(), &in.sin6_addr, bytes.size());
        return base::SocketAddress{base::IpAddress::v6(bytes), ntohs(in.sin6_port)};
    }
    return std::nullopt;
}

/// \param ipv6  of an AF_INET6 socket: it sees IPv4 peers as mapped addresses
void to_sockaddr(const base::SocketAddress& from, bool ipv6, sockaddr* address, socklen_t* length) {
    if (address == nullptr || length == nullptr) return;
    sockaddr_storage storage{};
    socklen_t full = sizeof(sockaddr_in);
    if (ipv6) {
        sockaddr_in6 in{};
        in.sin6_family = AF_INET6;
        in.sin6_port = htons(from.port);
        if (from.ip.is_v6()) {
            std::memcpy(&in.sin6_addr, from.ip.bytes().data(), 16);
        } else {
            in.sin6_addr.s6_addr[10] = in.sin6_addr.s6_addr[11] = 0xff;
            std::memcpy(&in.sin6_addr.s6_addr[12], from.ip.bytes().data(), 4);
        }
        std::memcpy(&storage, &in, sizeof in);
        full = sizeof in;
    } else {
        sockaddr_in in{};
        in.sin_family = AF_INET;
        in.sin_port = htons(from.port);
        std::memcpy(&in.sin_addr, from.ip.bytes().data(), 4);
        std::memcpy(&storage, &in, sizeof in);
    }
    std::memcpy(address, &storage, std::min(*length, full));
    *length = full;
}

ssize_t receive(void* userdata, int fd, std::span<std::byte> to, int flags) {
    return as_libc(of(userdata).stack.run(
        [=](SocketTable& sockets) { return sockets.receive(fd, to, flags); }));
}
ssize_t send_bytes(void* userdata, int fd, std::span<const std::byte> bytes, int flags) {
    CallState state;
    return as_libc(of(userdata).stack.run(
        [=, &state](SocketTable& sockets) { return sockets.send(fd, bytes, flags, state); }));
}

std::size_t total(std::span<const iovec> vectors) {
    std::size_t bytes = 0;
    for (const iovec& vector : vectors)
        bytes += vector.iov_len;
    return bytes;
}
ssize_t receive_vectors(void* userdata, int fd, std::span<const iovec> vectors, int flags) {
    Bytes buffer(total(vectors));
    const ssize_t received = receive(userdata, fd, buffer, flags);
    std::size_t place = 0;
    for (const iovec& vector : vectors) {
        if (received < 0 || place >= static_cast<std::size_t>(received)) break;
        const std::size_t bytes =
            std::min(vector.iov_len, static_cast<std::size_t>(received) - place);
        std::memcpy(vector.iov_base, buffer.data() + place, bytes);
        place += bytes;
    }
    return received;
}
ssize_t send_vectors(void* userdata, int fd, std::span<const iovec> vectors, int flags) {
    Bytes buffer;
    for (const iovec& vector : vectors) {
        const auto* const begin = static_cast<const std::byte*>(vector.iov_base);
        buffer.insert(buffer.end(), begin, begin + vector.iov_len);
    }
    return send_bytes(userdata, fd, buffer, flags);
}

// --- the 32, in the interface's order
void do_free(void* userdata) {
    delete &of(userdata); // made by packetdrill_interface_init()
}

int do_socket(void* userdata, int domain, int type, int) {
    if (domain != AF_INET && domain != AF_INET6) return fail(EAFNOSUPPORT);
    if ((type & 0xf) != SOCK_STREAM) return fail(EPROTONOSUPPORT);
    const int fd = eventfd(0, EFD_CLOEXEC);
    if (fd < 0) return -1;
    return as_int(of(userdata).stack.run([=](SocketTable& sockets) {
        sockets.open(fd, domain == AF_INET6, (type & SOCK_NONBLOCK) != 0);
        return CallResult{fd, 0};
    }));
}

int do_bind(void* userdata, int fd, const sockaddr* address, socklen_t length) {
    const auto local = from_sockaddr(address, length);
    if (!local) return fail(EINVAL);
    LiveStack& stack = of(userdata).stack;
    return as_int(stack.run([=, &stack](SocketTable& sockets) {
        return stack.adopt(local->ip) ? sockets.bind(fd, *local) : CallResult{-1, EADDRNOTAVAIL};
    }));
}

int do_listen(void* userdata, int fd, int backlog) {
    return as_int(
        of(userdata).stack.run([=](SocketTable& sockets) { return sockets.listen(fd, backlog); }));
}

int do_accept(void* userdata, int fd, sockaddr* address, socklen_t* length) {
    base::SocketAddress peer;
    bool ipv6 = false;
    const CallResult result = of(userdata).stack.run([=, &peer, &ipv6](SocketTable& sockets) {
        ipv6 = sockets.is_ipv6(fd);
        return sockets.accept(fd, [] { return eventfd(0, EFD_CLOEXEC); }, &peer, false);
    });
    if (result.error == 0) to_sockaddr(peer, ipv6, address, length);
    return as_int(result);
}

int do_connect(void* userdata, int fd, const sockaddr* address, socklen_t length) {
    const auto remote = from_sockaddr(address, length);
    if (!remote) return fail(EINVAL);
    CallState state;
    return as_int(of(userdata).stack.run(
        [=, &state](SocketTable& sockets) { return sockets.connect(fd, *remote, state); }));
}

ssize_t do_read(void* userdata, int fd, void* to, size_t bytes) {
    return receive(userdata, fd, {static_cast<std::byte*>(to), bytes}, 0);
}
ssize_t do_readv(void* userdata, int fd, const iovec* vectors, int count) {
    return receive_vectors(userdata, fd, {vectors, static_cast<std::size_t>(count)}, 0);
}
ssize_t do_recv(void* userdata, int fd, void* to, size_t bytes, int flags) {
    return receive(userdata, fd, {static_cast<std::byte*>(to), bytes}, flags);
}
ssize_t do_recvfrom(void* userdata, int fd, void* to, size_t bytes, int flags, sockaddr*,
                    socklen_t* length) {
    if (length != nullptr) *length = 0; // as for every connected socket
    return receive(userdata, fd, {static_cast<std::byte*>(to), bytes}, flags);
}
ssize_t do_recvmsg(void* userdata, int fd, msghdr* message, int flags) {
    message->msg_controllen = 0;
    message->msg_flags = 0;
    return receive_vectors(userdata, fd, {message->msg_iov, message->msg_iovlen}, flags);
}

ssize_t do_write(void* userdata, int fd, const void* from, size_t bytes) {
    return send_bytes(userdata, fd, {static_cast<const std::byte*>(from), bytes}, 0);
}
ssize_t do_writev(void* userdata, int fd, const iovec* vectors, int count) {
    return send_vectors(userdata, fd, {vectors, static_cast<std::size_t>(count)}, 0);
}
ssize_t do_send(void* userdata, int fd, const void* from, size_t bytes, int flags) {
    return send_bytes(userdata, fd, {static_cast<const std::byte*>(from), bytes}, flags);
}
ssize_t do_sendto(void* userdata, int fd, const void* from, size_t bytes, int flags,
                  const sockaddr*, socklen_t) {
    if ((flags & MSG_FASTOPEN) != 0) return fail(EOPNOTSUPP);
    return send_bytes(userdata, fd, {static_cast<const std::byte*>(from), bytes}, flags);
}
ssize_t do_sendmsg(void* userdata, int fd, const msghdr* message, int flags) {
    return send_vectors(userdata, fd, {message->msg_iov, message->msg_iovlen}, flags);
}

int do_fcntl(void* userdata, int fd, int command, ...) {
    va_list arguments;
    va_start(arguments, command);
    const long argument = va_arg(arguments, long); // there or not, as for libc's
    va_end(arguments);
    return as_int(of(userdata).stack.run(
        [=](SocketTable& sockets) { return sockets.file_control(fd, command, argument); }));
}

int do_ioctl(void* userdata, int fd, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    int* const bytes = va_arg(arguments, int*);
    va_end(arguments);
    return as_int(of(userdata).stack.run(
        [=](SocketTable& sockets) { return sockets.queue_size(fd, request, bytes); }));
}

int do_close(void* userdata, int fd) {
    Adapter& adapter = of(userdata);
    {
        const std::lock_guard lock{adapter.epoll_mutex};
        if (adapter.epolls.erase(fd) != 0) return ::close(fd);
        for (auto& [epoll, watched] : adapter.epolls)
            watched.erase(fd);
    }
    const CallResult result =
        adapter.stack.run([=](SocketTable& sockets) { return sockets.close(fd); });
    if (result.error == 0) ::close(fd);
    return as_int(result);
}

int do_shutdown(void* userdata, int fd, int how) {
    return as_int(
        of(userdata).stack.run([=](SocketTable& sockets) { return sockets.shutdown(fd, how); }));
}

int do_getsockopt(void* userdata, int fd, int level, int name, void* value, socklen_t* length) {
    if (level == IPPROTO_TCP && name == tcp_info_option) {
        TcpInfoBytes info{};
        const CallResult result = of(userdata).stack.run([&](SocketTable& sockets) {
            const auto insight = sockets.look_into(fd);
            if (!insight) return CallResult{-1, ENOTCONN};
            info = tcp_info_of(*insight);
            return CallResult{};
        });
        if (result.error == 0) {
            *length = std::min(*length, static_cast<socklen_t>(info.size()));
            std::memcpy(value, info.data(), *length);
        }
        return as_int(result);
    }
    std::array<int, 2> values{};
    const std::size_t count = level == SOL_SOCKET && name == SO_LINGER ? 2 : 1;
    const CallResult result = of(userdata).stack.run([&](SocketTable& sockets) {
        return sockets.get_option(fd, level, name, std::span{values}.first(count));
    });
    if (result.error == 0) {
        const auto bytes = static_cast<socklen_t>(count * sizeof(int));
        *length = std::min(*length, bytes);
        std::memcpy(value, values.data(), *length);
    }
    return as_int(result);
}

int do_setsockopt(void* userdata, int fd, int level, int name, const void* value,
                  socklen_t length) {
    std::array<int, 2> values{};
    std::memcpy(values.data(), value, std::min(sizeof values, std::size_t{length}));
    const std::size_t count = length >= sizeof values ? 2 : 1;
    return as_int(of(userdata).stack.run([&](SocketTable& sockets) {
        return sockets.set_option(fd, level, name, std::span{values}.first(count));
    }));
}

std::optional<base::Duration> limit_of(int timeout_ms) {
    if (timeout_ms < 0) return std::nullopt;
    return std::chrono::milliseconds{timeout_ms};
}

int do_poll(void* userdata, pollfd* fds, nfds_t count, int timeout_ms) {
    LiveStack& stack = of(userdata).stack;
    const base::TimePoint begun = stack.now();
    const auto limit = limit_of(timeout_ms);
    const auto attempt = [&](SocketTable& sockets) -> std::optional<CallResult> {
        std::int64_t ready = 0;
        for (pollfd& item : std::span{fds, count}) {
            const int asked = item.events | POLLERR | POLLHUP | POLLNVAL;
            item.revents = static_cast<short>(sockets.poll_events(item.fd) & asked);
            if (item.revents != 0) ++ready;
        }
        if (ready == 0 && !(limit && stack.now() - begun >= *limit)) return std::nullopt;
        return CallResult{ready, 0};
    };
    return as_int(stack.run(attempt, limit));
}

int do_netdev_send(void* userdata, const void* packet, size_t bytes) {
    const auto* const begin = static_cast<const std::byte*>(packet);
    of(userdata).stack.inject({begin, begin + bytes});
    return 0;
}

int do_netdev_receive(void* userdata, void* packet, size_t* bytes, long long* time_us) {
    const auto next = of(userdata).stack.fetch(silence_limit);
    if (!next) { // packetdrill asks again for ever after -1; a packet of nothing ends the test
        *bytes = 0;
        return 0;
    }
    *bytes = std::min(*bytes, next->bytes.size());
    std::memcpy(packet, next->bytes.data(), *bytes);
    *time_us = next->time_us;
    return 0;
}

int do_usleep(void*, useconds_t microseconds) {
    return ::usleep(microseconds);
}
int do_gettimeofday(void*, struct timeval* time, struct timezone*) {
    return ::gettimeofday(time, nullptr);
}

int do_epoll_create(void* userdata, int) {
    Adapter& adapter = of(userdata);
    const int fd = eventfd(0, EFD_CLOEXEC);
    if (fd < 0) return -1;
    const std::lock_guard lock{adapter.epoll_mutex};
    adapter.epolls[fd] = {};
    return fd;
}

int do_epoll_ctl(void* userdata, int epoll, int operation, int fd, epoll_event* event) {
    Adapter& adapter = of(userdata);
    const std::lock_guard lock{adapter.epoll_mutex};
    const auto found = adapter.epolls.find(epoll);
    if (found == adapter.epolls.end()) return fail(EBADF);
    auto& watched = found->second;
    const bool there = watched.contains(fd);
    switch (operation) {
    case EPOLL_CTL_ADD:
        if (there) return fail(EEXIST);
        watched[fd] = *event;
        return 0;
    case EPOLL_CTL_MOD:
        if (!there) return fail(ENOENT);
        watched[fd] = *event;
        return 0;
    case EPOLL_CTL_DEL:
        if (!there) return fail(ENOENT);
        watched.erase(fd);
        return 0;
    default:
        return fail(EINVAL);
    }
}

/// Level-triggered only: EPOLLET is told again and again.
int do_epoll_wait(void* userdata, int epoll, epoll_event* events, int count, int timeout_ms) {
    Adapter& adapter = of(userdata);
    const base::TimePoint begun = adapter.stack.now();
    const auto limit = limit_of(timeout_ms);
    const auto attempt = [&](SocketTable& sockets) -> std::optional<CallResult> {
        const std::lock_guard lock{adapter.epoll_mutex};
        const auto found = adapter.epolls.find(epoll);
        if (found == adapter.epolls.end()) return CallResult{-1, EBADF};
        std::int64_t ready = 0;
        for (const auto& [fd, wanted] : found->second) {
            const auto live = static_cast<std::uint32_t>(sockets.poll_events(fd)) &
                              (wanted.events | EPOLLERR | EPOLLHUP);
            if (live == 0 || ready == count) continue;
            events[ready].events = live;
            events[ready].data = wanted.data;
            ++ready;
        }
        if (ready == 0 && !(limit && adapter.stack.now() - begun >= *limit)) return std::nullopt;
        return CallResult{ready, 0};
    };
    return as_int(adapter.stack.run(attempt, limit));
}

int do_pipe(void*, int*) {
    return fail(ENOSYS);
}
int do_splice(void*, int, loff_t*, int, loff_t*, size_t, unsigned) {
    return fail(ENOSYS);
}

} // namespace

} // namespace tests::packetdrill

extern "C" [[gnu::visibility("default")]] void
packetdrill_interface_init(const char* flags, packetdrill_interface* interface) {
    using namespace tests::packetdrill;
    const Profile profile = linux_profile(flags != nullptr ? flags : "");
    for (const std::string& note : profile.notes)
        std::fprintf(stderr, "libmillrace_packetdrill: %s\n", note.c_str());
    *interface = packetdrill_interface{
        .userdata = new Adapter{profile}, // do_free() deletes it
        .free = do_free,
        .socket = do_socket,
        .bind = do_bind,
        .listen = do_listen,
        .accept = do_accept,
        .connect = do_connect,
        .read = do_read,
        .readv = do_readv,
        .recv = do_recv,
        .recvfrom = do_recvfrom,
        .recvmsg = do_recvmsg,
        .write = do_write,
        .writev = do_writev,
        .send = do_send,
        .sendto = do_sendto,
        .sendmsg = do_sendmsg,
        .fcntl = do_fcntl,
        .ioctl = do_ioctl,
        .close = do_close,
        .shutdown = do_shutdown,
        .getsockopt = do_getsockopt,
        .setsockopt = do_setsockopt,
        .poll = do_poll,
        .netdev_send = do_netdev_send,
        .netdev_receive = do_netdev_receive,
        .usleep = do_usleep,
        .gettimeofday = do_gettimeofday,
        .epoll_create = do_epoll_create,
        .epoll_ctl = do_epoll_ctl,
        .epoll_wait = do_epoll_wait,
        .pipe = do_pipe,
        .splice = do_splice,
    };
}
