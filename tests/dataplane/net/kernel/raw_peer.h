// raw_peer.h: a plain blocking socket, for peers that behave in ways our Streams do not.
//
// The ring of the same thread may interrupt a call that blocks (EINTR); it is taken up again.
#pragma once

#include "dataplane/net/kernel/socket_address.h"

#include <cerrno>
#include <gtest/gtest.h>
#include <poll.h>
#include <string>
#include <string_view>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <utility>

namespace dataplane::net::kernel {

class RawPeer {
public:
    explicit RawPeer(const base::SocketAddress& remote, int receive_bytes = 0) {
        socket_ = ::socket(remote.ip.is_v6() ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        EXPECT_GE(socket_, 0);
        if (receive_bytes > 0) {
            setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
        }
        const timeval limit{.tv_sec = 10, .tv_usec = 0}; // a hang is a failure
        setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
        const KernelAddress address{remote};
        if (::connect(socket_, &address.any, address.bytes) != 0) {
            pollfd done{socket_, POLLOUT, 0}; // an interrupted connect() goes on by itself
            EXPECT_EQ(errno, EINTR);
            while (poll(&done, 1, 10'000) < 0 && errno == EINTR) {
            }
        }
    }
    ~RawPeer() { close(); }
    RawPeer(RawPeer&& other) noexcept : socket_(std::exchange(other.socket_, -1)) {}
    RawPeer& operator=(RawPeer&&) = delete;
    RawPeer(const RawPeer&) = delete;
    RawPeer& operator=(const RawPeer&) = delete;

    void send(std::string_view text) const {
        while (!text.empty()) {
            const ssize_t sent = ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL);
            if (sent < 0 && errno == EINTR) continue;
            ASSERT_GT(sent, 0) << errno;
            text.remove_prefix(static_cast<std::size_t>(sent));
        }
    }
    /// Sends what fits without waiting; returns how much that was.
    std::size_t send_what_fits(std::string_view text) const {
        const ssize_t sent = ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        return sent < 0 ? 0 : static_cast<std::size_t>(sent);
    }
    /// What has come, without waiting: at most `bytes` of it.
    [[nodiscard]] std::string take(std::size_t bytes = 65536) const {
        std::string text(bytes, '\0');
        const ssize_t got = ::recv(socket_, text.data(), text.size(), MSG_DONTWAIT);
        text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
        return text;
    }
    /// Everything up to the end; `error` is 0 for an end in good order.
    [[nodiscard]] std::string read_to_end(int& error) const {
        std::string text;
        char piece[16384];
        for (;;) {
            const ssize_t got = ::recv(socket_, piece, sizeof piece, 0);
            error = got < 0 ? errno : 0;
            if (error == EINTR) continue;
            if (got <= 0) return text;
            text.append(piece, static_cast<std::size_t>(got));
        }
    }
    void shutdown_write() const { ::shutdown(socket_, SHUT_WR); }
    void reset() {
        const linger at_once{.l_onoff = 1, .l_linger = 0};
        setsockopt(socket_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
        close();
    }
    void close() {
        if (socket_ >= 0) ::close(std::exchange(socket_, -1));
    }
    [[nodiscard]] int descriptor() const { return socket_; }

private:
    int socket_ = -1;
};

} // namespace dataplane::net::kernel
