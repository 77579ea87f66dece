// sockets.h: BSD socket calls on a Stack, for scripts and for packetdrill itself.
//
// Scope      TCP sockets by file number, with blocking and non-blocking calls and Linux's errno values.
//            A call that may block is an attempt: nullopt means "turn the Loop and ask again".
// Owns       The streams and listeners, and the coroutines that wait on them. What a non-blocking write
//            could not hand over yet is kept here, so that such a write is never partial.
// Threading  The Loop's.
// Failure    CallResult with value -1 and errno in `error`.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/wait.h"
#include "dataplane/net/stack/stack.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace tests::packetdrill {

namespace base = dataplane::base;
namespace net = dataplane::net;

struct CallResult {
    std::int64_t value = 0;
    int error = 0;
};

/// What one call remembers between its attempts.
struct CallState {
    bool begun = false;
};

class SocketTable {
public:
    /// \param nagle  holds a small write back while an earlier one is not acknowledged, unless TCP_NODELAY is set
    SocketTable(base::Loop& loop, net::stack::Stack& stack, bool nagle);
    ~SocketTable();
    SocketTable(const SocketTable&) = delete;
    SocketTable& operator=(const SocketTable&) = delete;

    /// From now on on another stack. \pre  no socket listens or is connected
    void use(net::stack::Stack& stack) noexcept { stack_ = &stack; }
    [[nodiscard]] bool all_fresh() const;
    /// Once per turn: lets go of what was held back, when its time has come.
    void poke();
    [[nodiscard]] base::TimePoint next_due() const;

    void open(int fd, bool ipv6, bool non_blocking);
    [[nodiscard]] bool is_ipv6(int fd) const;
    [[nodiscard]] bool contains(int fd) const { return sockets_.contains(fd); }

    [[nodiscard]] CallResult bind(int fd, const base::SocketAddress& local);
    [[nodiscard]] CallResult listen(int fd, int backlog);
    [[nodiscard]] std::optional<CallResult> connect(int fd, const base::SocketAddress& remote,
                                                    CallState& state);
    /// \param new_fd  makes the number of the accepted socket; called only when there is one
    [[nodiscard]] std::optional<CallResult> accept(int fd, const std::function<int()>& new_fd,
                                                   base::SocketAddress* peer, bool non_blocking);
    /// \param flags  MSG_DONTWAIT, MSG_PEEK, MSG_WAITALL is not known
    [[nodiscard]] std::optional<CallResult> receive(int fd, std::span<std::byte> to, int flags);
    [[nodiscard]] std::optional<CallResult> send(int fd, std::span<const std::byte> bytes,
                                                 int flags, CallState& state);
    [[nodiscard]] CallResult shutdown(int fd, int how);
    [[nodiscard]] CallResult close(int fd);
    [[nodiscard]] CallResult set_option(int fd, int level, int name, std::span<const int> value);
    /// \param value  gets one int, or two for SO_LINGER
    [[nodiscard]] CallResult get_option(int fd, int level, int name, std::span<int> value);
    [[nodiscard]] CallResult file_control(int fd, int command, long argument);
    /// The connection as TCP sees it, and what the socket adds; nullptr when there is none.
    struct Insight {
        const net::tcp::Connection* connection = nullptr;
        std::uint64_t bytes_given = 0; // by the application
        std::uint64_t bytes_acked = 0;
    };
    [[nodiscard]] std::optional<Insight> look_into(int fd) const;
    /// SIOCINQ, SIOCOUTQ
    [[nodiscard]] CallResult queue_size(int fd, unsigned long request, int* bytes);
    /// What poll() would tell of this socket now; POLLNVAL for a number that is none.
    [[nodiscard]] short poll_events(int fd) const;
    [[nodiscard]] std::optional<base::SocketAddress> local_address(int fd) const;
    [[nodiscard]] std::optional<base::SocketAddress> peer_address(int fd) const;

private:
    struct Socket;
    [[nodiscard]] Socket* find(int fd) const;
    [[nodiscard]] CallResult take_error(Socket& socket, int otherwise) const;
    [[nodiscard]] bool must_hold(const Socket& socket) const;
    void release_held(Socket& socket) const;
    static base::Task<void> run_connect(Socket* socket, net::stack::Stack* stack,
                                        base::SocketAddress remote);
    static base::Task<void> run_accept(Socket* socket);
    static base::Task<void> run_read(Socket* socket);
    static base::Task<void> run_write(Socket* socket);

    base::Loop& loop_;
    net::stack::Stack* stack_;
    bool nagle_;
    std::map<int, std::unique_ptr<Socket>> sockets_;
    std::vector<std::unique_ptr<Socket>>
        closing_; // closed with bytes that were not handed over yet
};

/// Linux's errno for what the stack says.
[[nodiscard]] int to_errno(base::NetError error) noexcept;

} // namespace tests::packetdrill
