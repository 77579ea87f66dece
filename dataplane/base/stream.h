// stream.h: the connection as SMTP and TLS see it. They never know what carries it.
//
// Scope      Stream, Listener and Transport: implemented by net/kernel (sockets on io_uring), by our
//            own TCP stack, by TLS over any other Stream, and by the simulator.
// Owns       A Stream owns its received-but-unread bytes and what is staged to be sent. Slabs that
//            were written are held until they have left.
// Threading  Bound to one shard. One reader and one writer at a time; they may be two coroutines.
// Failure    Every wait takes a Deadline and returns NetError with the cause kept, because retry
//            class and DSN text depend on it. After an error other than timed_out or cancelled the
//            stream is dead and every later call gives the same error.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/base/slab.h"
#include "dataplane/base/task.h"
#include "dataplane/base/wait.h"

#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace dataplane::base {

enum class NetError : std::uint8_t {
    end_of_stream, // the peer closed its side in good order
    refused,
    reset,
    timed_out,
    cancelled,
    unreachable,
    no_port,    // every source port towards this destination is in use
    no_buffers, // out of memory for packets or descriptors
    address_in_use,
    address_not_available, // the source address is not ours
    permission,
    tls,    // see TlsFailure for why
    closed, // used after close() or abort()
};
[[nodiscard]] std::string_view to_string(NetError error) noexcept;

template <class T = void>
using NetResult = std::expected<T, NetError>;

struct StreamInfo {
    SocketAddress local;
    SocketAddress peer;
    // As PROXY protocol told it, when the listener asks for one; otherwise equal to `peer`.
    SocketAddress client;
    // Empty without TLS; otherwise as OpenSSL names them.
    std::string tls_version;
    std::string tls_cipher;
    bool tls_resumed = false;
};

class Stream {
public:
    virtual ~Stream() = default;

    /// The unread bytes that lie together at the front; empty when none have come. A caller that
    /// needs more of them in one piece copies these, consumes, and looks again (line_reader.h does).
    /// Valid until consume(), fill() or the stream's end.
    [[nodiscard]] virtual std::span<const std::byte> unread() const noexcept = 0;
    /// Gives the first `bytes` of unread() back to the transport, which may then receive more.
    virtual void consume(std::size_t bytes) noexcept = 0;
    /// Returns at once when unread() is not empty, otherwise waits for bytes. Bytes that came before
    /// an error or the end are read first.
    [[nodiscard]] virtual Task<NetResult<>> fill(Deadline deadline) = 0;

    /// Stages a copy of the bytes and returns once they fit the stream's bound (send_bytes_max of
    /// the transport). What one turn stages leaves together at the turn's end.
    /// The span must stay valid until the task is done.
    [[nodiscard]] virtual Task<NetResult<>> write(std::span<const std::byte> bytes,
                                                  Deadline deadline) = 0;
    /// Stages the slabs by reference, behind whatever is staged already; nothing may change their
    /// bytes until they have left. Returns once the staged amount is within the stream's bound.
    [[nodiscard]] virtual Task<NetResult<>> write(SlabChain slabs, Deadline deadline) = 0;
    /// Waits until everything staged has been handed to the network.
    [[nodiscard]] virtual Task<NetResult<>> drain(Deadline deadline) = 0;

    /// Sends what is staged, then says that no more will come (FIN, or TLS close_notify).
    [[nodiscard]] virtual Task<NetResult<>> shutdown_write(Deadline deadline) = 0;
    /// Lets staged bytes leave in the background for a bounded time, then frees everything.
    virtual void close() noexcept = 0;
    /// Drops everything and resets the connection. Pending waits end with NetError::closed.
    virtual void abort() noexcept = 0;

    [[nodiscard]] virtual const StreamInfo& info() const noexcept = 0;
};
using StreamPtr = std::unique_ptr<Stream>; // destroying one that is still open aborts it

struct ListenOptions {
    int backlog = 4096;
    bool proxy_protocol = false; // a PROXY v1 or v2 header must come first on each connection
    // Connections beyond this are closed at once and counted.
    std::size_t connections_max = 20'000;
};

class Listener {
public:
    virtual ~Listener() = default;
    [[nodiscard]] virtual Task<NetResult<StreamPtr>> accept(Deadline deadline) = 0;
    /// Stops accepting; a pending accept() ends with NetError::closed.
    virtual void close() noexcept = 0;
    /// The bound address; its port is the real one when port 0 was asked for.
    [[nodiscard]] virtual SocketAddress local() const noexcept = 0;
};

class Transport {
public:
    virtual ~Transport() = default;
    /// Several shards may listen on one address: each gets its share of the connections.
    [[nodiscard]] virtual NetResult<std::unique_ptr<Listener>>
    listen(const SocketAddress& local, const ListenOptions& options) = 0;
    /// \param source  the address to come from; nullopt lets the transport choose
    [[nodiscard]] virtual Task<NetResult<StreamPtr>>
    connect(SocketAddress remote, std::optional<IpAddress> source, Deadline deadline) = 0;
};

/// Error of a wait that ended without its event.
[[nodiscard]] constexpr NetError to_net_error(Wake reason) noexcept {
    return reason == Wake::cancelled ? NetError::cancelled : NetError::timed_out;
}

} // namespace dataplane::base
