// shared_object_test.cc: plays packetdrill's part: loads the shared object and uses its 32 functions.
//
// `shared_object_test PATH` exits 0 when a handshake, data both ways, a blocking read and a close went as they
// should over raw packets; prints what did not otherwise.

#include "tests/dataplane/net/packetdrill/interface.h"
#include "tests/dataplane/net/packetdrill/wire.h"

#include <arpa/inet.h>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <string>
#include <string_view>
#include <sys/ioctl.h>
#include <thread>
#include <vector>

namespace tests::packetdrill {

namespace {

constexpr std::uint16_t service = 8080;
int failures = 0;

void expect(bool fact, const char* what) {
    if (fact) return;
    ++failures;
    std::fprintf(stderr, "not so: %s (errno %d)\n", what, errno);
}

class Peer {
public:
    Peer(packetdrill_interface& interface, std::string_view local, std::uint16_t port = 40001)
        : interface_(interface), local_{*base::IpAddress::parse(local), service},
          remote_{*base::IpAddress::parse(local_.ip.is_v6() ? "2001:db8::1" : "192.0.2.1"), port} {}

    void send(std::uint8_t flags, std::uint32_t seq, std::uint32_t ack, std::size_t bytes,
              TcpOptions options = {}) {
        WireSegment segment;
        segment.source = remote_;
        segment.destination = local_;
        segment.flags = flags;
        segment.seq = seq;
        segment.ack = ack;
        segment.window = 65535;
        segment.options = std::move(options);
        segment.payload.assign(bytes, std::byte{'x'});
        const Bytes packet = encode(segment);
        expect(interface_.netdev_send(interface_.userdata, packet.data(), packet.size()) == 0,
               "netdev_send");
    }
    WireSegment receive() {
        std::array<std::byte, 65536> buffer;
        std::size_t bytes = buffer.size();
        long long time_us = 0;
        expect(interface_.netdev_receive(interface_.userdata, buffer.data(), &bytes, &time_us) == 0,
               "netdev_receive");
        timeval now{};
        interface_.gettimeofday(interface_.userdata, &now, nullptr);
        const long long now_us = static_cast<long long>(now.tv_sec) * 1'000'000 + now.tv_usec;
        expect(time_us <= now_us && now_us - time_us < 5'000'000,
               "the packet's time is gettimeofday's");
        const auto segment = decode(std::span{buffer}.first(bytes));
        expect(segment.has_value(), "a good TCP packet");
        if (segment && segment->destination.port != remote_.port)
            remote_.port = segment->destination.port;
        return segment.value_or(WireSegment{});
    }
    /// Answers as the other side of a connection that the stack opens.
    void follow(const WireSegment& syn) {
        local_ = syn.source;
        remote_ = syn.destination;
    }

private:
    packetdrill_interface& interface_;
    base::SocketAddress local_;
    base::SocketAddress remote_;
};

sockaddr_in address_of(std::uint32_t ip, std::uint16_t port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(ip);
    return address;
}

void play_passive(packetdrill_interface& so) {
    using namespace tcp::flag;
    void* const ud = so.userdata;
    Peer peer{so, "192.168.0.1"};
    const int listening = so.socket(ud, AF_INET, SOCK_STREAM, IPPROTO_TCP);
    expect(listening > 2 && ::fcntl(listening, F_GETFD) >= 0, "a socket is a file of this process");
    const sockaddr_in local = address_of(0xc0a80001, service);
    expect(so.bind(ud, listening, reinterpret_cast<const sockaddr*>(&local), sizeof local) == 0,
           "bind");
    expect(so.listen(ud, listening, 1) == 0, "listen");

    peer.send(syn, 0, 0, 0, {{TcpOption::Kind::mss, 1460}});
    const WireSegment answer = peer.receive();
    expect(answer.flags == (syn | ack) && answer.ack == 1, "SYN-ACK");
    peer.send(ack, 1, answer.seq + 1, 0);
    sockaddr_in from{};
    socklen_t length = sizeof from;
    const int fd = so.accept(ud, listening, reinterpret_cast<sockaddr*>(&from), &length);
    expect(fd > 2 && ntohs(from.sin_port) == 40001, "accept tells the peer's address");

    // A blocking read sleeps until the segment is there.
    std::atomic<ssize_t> got{-2};
    std::thread reader{[&] {
        std::array<char, 200> buffer{};
        got = so.read(ud, fd, buffer.data(), buffer.size());
    }};
    so.usleep(ud, 50'000);
    expect(got == -2, "read sleeps");
    peer.send(psh | ack, 1, answer.seq + 1, 100);
    reader.join();
    expect(got == 100, "read gives what came");
    expect(peer.receive().ack == 101, "the data is acknowledged");

    expect(so.write(ud, fd, "0123456789", 10) == 10, "write");
    const WireSegment data = peer.receive();
    expect(data.payload.size() == 10 && data.seq == answer.seq + 1, "the data leaves");
    int queued = -1;
    expect(so.ioctl(ud, fd, SIOCOUTQ, &queued) == 0 && queued == 10, "SIOCOUTQ counts it");
    peer.send(ack, 101, answer.seq + 11, 0);

    expect(so.fcntl(ud, fd, F_SETFL, O_RDWR | O_NONBLOCK) == 0, "fcntl");
    std::array<char, 8> none{};
    errno = 0;
    expect(so.recv(ud, fd, none.data(), none.size(), 0) == -1 && errno == EAGAIN, "EAGAIN");
    pollfd item{fd, POLLIN | POLLOUT, 0};
    expect(so.poll(ud, &item, 1, 1000) == 1 && item.revents == POLLOUT, "poll");
    item.events = POLLIN;
    expect(so.poll(ud, &item, 1, 20) == 0, "poll's time-out");

    const int epoll = so.epoll_create(ud, 1);
    epoll_event event{.events = EPOLLIN, .data = {.fd = fd}};
    expect(so.epoll_ctl(ud, epoll, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
    peer.send(fin | ack, 101, answer.seq + 11, 0);
    epoll_event told{};
    expect(so.epoll_wait(ud, epoll, &told, 1, 1000) == 1 && told.data.fd == fd, "epoll_wait");
    expect(peer.receive().ack == 102, "the FIN is acknowledged");
    expect(so.read(ud, fd, none.data(), none.size()) == 0, "end of stream");
    expect(so.close(ud, fd) == 0 && ::fcntl(fd, F_GETFD) < 0, "close closes the file too");
    const WireSegment last = peer.receive();
    expect((last.flags & fin) != 0, "our FIN");
    peer.send(ack, 102, last.seq + 1, 0);
    expect(so.close(ud, epoll) == 0 && so.close(ud, listening) == 0, "close the rest");
    expect(so.close(ud, fd) == -1 && errno == EBADF, "EBADF");
}

void play_active(packetdrill_interface& so) {
    using namespace tcp::flag;
    void* const ud = so.userdata;
    Peer peer{so, "192.168.0.1"};
    const int fd = so.socket(ud, AF_INET, SOCK_STREAM, IPPROTO_TCP);
    const sockaddr_in remote = address_of(0xc0000201, service);
    std::atomic<int> result{-2};
    std::thread connecting{[&] {
        result = so.connect(ud, fd, reinterpret_cast<const sockaddr*>(&remote), sizeof remote);
    }};
    const WireSegment opening = peer.receive();
    expect((opening.flags & syn) != 0, "SYN");
    expect(result == -2, "connect sleeps");
    peer.follow(opening);
    peer.send(rst | ack, 0, opening.seq + 1, 0);
    connecting.join();
    expect(result == -1, "connect is refused");
    int error = 0;
    socklen_t length = sizeof error;
    expect(so.getsockopt(ud, fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0, "getsockopt");
    // Left open, as packetdrill does with what a script forgets: it closes the file itself.
    expect(::close(fd) == 0, "a left-over socket can be closed as a file");
}

sockaddr_in6 address6_of(std::string_view text, std::uint16_t port) {
    sockaddr_in6 address{};
    address.sin6_family = AF_INET6;
    address.sin6_port = htons(port);
    expect(inet_pton(AF_INET6, std::string{text}.c_str(), &address.sin6_addr) == 1, "an address");
    return address;
}

struct Accepted {
    int listening = -1;
    int fd = -1;
    std::uint32_t seq = 0; // ours, of the next byte
};

/// A connection to an AF_INET6 socket that listens at `bound`, which the wire calls `local`.
Accepted accept_over(packetdrill_interface& so, Peer& peer, const char* bound, const char* seen) {
    using namespace tcp::flag;
    void* const ud = so.userdata;
    Accepted result;
    result.listening = so.socket(ud, AF_INET6, SOCK_STREAM, IPPROTO_TCP);
    const sockaddr_in6 local = address6_of(bound, service);
    expect(so.bind(ud, result.listening, reinterpret_cast<const sockaddr*>(&local), sizeof local) ==
               0,
           "bind to an address that was drawn at random");
    expect(so.listen(ud, result.listening, 10) == 0, "listen");
    peer.send(syn, 0, 0, 0, {{TcpOption::Kind::mss, 1000}});
    const WireSegment answer = peer.receive();
    expect(answer.flags == (syn | ack), "SYN-ACK without ECN");
    peer.send(ack, 1, answer.seq + 1, 0);
    sockaddr_in6 from{};
    socklen_t length = sizeof from;
    result.fd = so.accept(ud, result.listening, reinterpret_cast<sockaddr*>(&from), &length);
    const sockaddr_in6 expected = address6_of(seen, 40001);
    expect(result.fd > 2 && length == sizeof from && from.sin6_family == AF_INET6 &&
               std::memcmp(&from.sin6_addr, &expected.sin6_addr, sizeof from.sin6_addr) == 0,
           "an AF_INET6 socket sees an AF_INET6 peer");
    result.seq = answer.seq + 1;
    return result;
}

// As with --ip_version=ipv4-mapped-ipv6 and =ipv6. packetdrill draws its local address from all of 192.168/16 and
// fd3d:fa7b:d17d::/48.
void play_mapped_and_ipv6(packetdrill_interface& so) {
    using namespace tcp::flag;
    void* const ud = so.userdata;
    for (const bool ipv6 : {false, true}) {
        Peer peer{so, ipv6 ? "fd3d:fa7b:d17d:a5a5:1:2:3:4" : "192.168.213.99"};
        const Accepted one =
            accept_over(so, peer, ipv6 ? "fd3d:fa7b:d17d:a5a5:1:2:3:4" : "::ffff:192.168.213.99",
                        ipv6 ? "2001:db8::1" : "::ffff:192.0.2.1");

        // Nagle with Minshall's rule, and what ends it.
        expect(so.write(ud, one.fd, "first", 5) == 5, "a small write");
        expect(peer.receive().payload.size() == 5, "leaves");
        expect(so.write(ud, one.fd, "second", 6) == 6, "a second one");
        peer.send(ack, 1, one.seq + 5, 0);
        const WireSegment second = peer.receive();
        expect(second.payload.size() == 6 && second.seq == one.seq + 5, "waits for the ACK");
        const int yes = 1, no = 0;
        expect(so.setsockopt(ud, one.fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &yes, sizeof yes) == 0,
               "TCP_NODELAY");
        expect(so.write(ud, one.fd, "third", 5) == 5, "a third one");
        expect(peer.receive().payload.size() == 5, "leaves at once");
        expect(so.setsockopt(ud, one.fd, IPPROTO_TCP, 3 /* TCP_CORK */, &yes, sizeof yes) == 0,
               "TCP_CORK");
        expect(so.write(ud, one.fd, "corked", 6) == 6 && so.write(ud, one.fd, " too", 4) == 4,
               "corked writes");
        expect(so.setsockopt(ud, one.fd, IPPROTO_TCP, 3 /* TCP_CORK */, &no, sizeof no) == 0,
               "uncork");
        expect(peer.receive().payload.size() == 10, "leave as one");
        expect(so.send(ud, one.fd, "more", 4, MSG_MORE) == 4 && so.send(ud, one.fd, ".", 1, 0) == 1,
               "MSG_MORE");
        expect(peer.receive().payload.size() == 5, "waits for the rest");
        peer.send(ack, 1, one.seq + 31, 0);

        std::array<unsigned char, 104> info{}; // of struct tcp_info: state, ca_state, ..., snd_cwnd
        socklen_t length = info.size();
        expect(so.getsockopt(ud, one.fd, IPPROTO_TCP, 11 /* TCP_INFO */, info.data(), &length) ==
                       0 &&
                   length == info.size() && info[0] == 1,
               "TCP_INFO says established");
        std::uint32_t cwnd = 0, mss = 0;
        std::memcpy(&mss, info.data() + 16, sizeof mss);
        std::memcpy(&cwnd, info.data() + 80, sizeof cwnd);
        expect(mss == 1000 && cwnd >= 10, "with the MSS and a window of ten segments");

        // As Linux: what comes after close() is answered with a reset.
        expect(so.close(ud, one.fd) == 0, "close");
        expect((peer.receive().flags & fin) != 0, "FIN");
        peer.send(psh | ack, 1, one.seq + 32, 10);
        expect((peer.receive().flags & rst) != 0, "RST for data after close");
        expect(so.close(ud, one.listening) == 0, "close the listener");
    }
}

// Several sockets, and calls that block in threads of their own at the same time.
void play_several(packetdrill_interface& so) {
    using namespace tcp::flag;
    void* const ud = so.userdata;
    const int listening = so.socket(ud, AF_INET, SOCK_STREAM, IPPROTO_TCP);
    const sockaddr_in local = address_of(0xc0a80001, service);
    expect(so.bind(ud, listening, reinterpret_cast<const sockaddr*>(&local), sizeof local) == 0,
           "bind again");
    expect(so.listen(ud, listening, 4) == 0, "listen again");
    constexpr std::size_t count = 3;
    std::array<std::atomic<int>, count> fds;
    std::array<std::atomic<ssize_t>, count> got;
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < count; ++i) {
        fds[i] = -1;
        threads.emplace_back([&, i] {
            fds[i] = so.accept(ud, listening, nullptr, nullptr);
            std::array<char, 100> buffer{};
            got[i] = so.recv(ud, fds[i], buffer.data(), buffer.size(), 0);
        });
    }
    for (std::size_t i = 0; i < count; ++i) {
        Peer peer{so, "192.168.0.1", static_cast<std::uint16_t>(41000 + i)};
        peer.send(syn, 0, 0, 0, {{TcpOption::Kind::mss, 1460}});
        const WireSegment answer = peer.receive();
        peer.send(ack, 1, answer.seq + 1, 0);
        peer.send(psh | ack, 1, answer.seq + 1, 10 + i);
        expect(peer.receive().ack == 11 + i, "each is acknowledged by itself");
    }
    for (std::thread& thread : threads)
        thread.join();
    ssize_t sum = 0;
    for (std::size_t i = 0; i < count; ++i) {
        sum += got[i];
        expect(fds[i] > 2 && so.close(ud, fds[i]) == 0, "each has its own socket");
    }
    expect(sum == 10 + 11 + 12, "each thread has read one connection's bytes");

    // A non-blocking connect.
    const int fd = so.socket(ud, AF_INET, SOCK_STREAM | SOCK_NONBLOCK, IPPROTO_TCP);
    const sockaddr_in remote = address_of(0xc0000201, service);
    const auto* const to = reinterpret_cast<const sockaddr*>(&remote);
    errno = 0;
    expect(so.connect(ud, fd, to, sizeof remote) == -1 && errno == EINPROGRESS, "EINPROGRESS");
    errno = 0;
    expect(so.connect(ud, fd, to, sizeof remote) == -1 && errno == EALREADY, "EALREADY");
    expect(so.close(ud, listening) == 0, "close the listener");
}

} // namespace

} // namespace tests::packetdrill

int main(int count, char** arguments) {
    using namespace tests::packetdrill;
    if (count != 2) return 2;
    void* const library =
        dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE | RTLD_DEEPBIND);
    if (library == nullptr) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    using Init = void (*)(const char*, packetdrill_interface*);
    const auto init = reinterpret_cast<Init>(dlsym(library, "packetdrill_interface_init"));
    if (init == nullptr) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    packetdrill_interface interface{};
    init("timestamps=0,ecn=0", &interface);
    // Every one of the 32 is there.
    std::array<void*, sizeof interface / sizeof(void*)> pointers{};
    std::memcpy(pointers.data(), &interface, sizeof interface);
    expect(pointers.size() == 33, "userdata and 32 functions");
    for (void* const pointer : pointers)
        expect(pointer != nullptr, "no function is missing");
    play_passive(interface);
    play_active(interface);
    interface.free(interface.userdata);
    // A stack for each script, as packetdrill makes them; without any settings the defaults are Linux's.
    init(nullptr, &interface);
    play_several(interface);
    interface.free(interface.userdata);
    for (int i = 0; i < 2; ++i) {
        init("", &interface);
        if (i == 0) play_mapped_and_ipv6(interface);
        interface.free(interface.userdata);
    }
    std::printf("%s\n", failures == 0 ? "all as it should be" : "failed");
    return failures == 0 ? 0 : 1;
}
