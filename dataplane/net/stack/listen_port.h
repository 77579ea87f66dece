// listen_port.h: a listening address with its accept queue and its PROXY headers.
//
// Scope      From established connections to Streams. Handshakes are the engine's.
// Owns       Connections nobody has taken yet, and those whose PROXY header is awaited.
// Threading  One shard.
// Failure    A connection that finds the queue full or the maximum reached is reset and counted; one without a
//            good PROXY header too.
#pragma once

#include "dataplane/base/ref.h"
#include "dataplane/base/stream.h"
#include "dataplane/net/stack/tcb.h"

#include <memory>

namespace dataplane::net::stack {

class ListenPort final : public base::RefCounted<ListenPort> {
public:
    ListenPort(Engine& engine, const base::SocketAddress& local,
               const base::ListenOptions& options) noexcept;
    ~ListenPort();

    [[nodiscard]] static base::Task<base::NetResult<base::StreamPtr>>
    accept(base::Ref<ListenPort> self, base::Deadline deadline);
    void close() noexcept;
    [[nodiscard]] const base::SocketAddress& local() const noexcept { return local_; }
    [[nodiscard]] bool open() const noexcept { return open_; }
    /// Whether it takes segments for this address of ours.
    [[nodiscard]] bool takes(const base::IpAddress& ip, std::uint16_t port) const noexcept {
        return port == local_.port && ip.is_v6() == local_.ip.is_v6() &&
               (any_address_ || ip == local_.ip);
    }
    [[nodiscard]] bool specific() const noexcept { return !any_address_; }

    [[nodiscard]] bool queue_full() const noexcept { return queued_count_ >= backlog_; }
    [[nodiscard]] bool at_maximum() const noexcept { return connection_count_ >= maximum_; }
    /// A handshake is done. Takes the connection in.
    void established(Tcb& tcb) noexcept;
    void connection_ended() noexcept { --connection_count_; }

private:
    friend class base::Ref<ListenPort>;
    void retire() noexcept { delete this; } // listeners come and go with the configuration only
    void enqueue(base::Ref<Tcb> tcb) noexcept;
    static base::Task<void> greet_proxy(base::Ref<ListenPort> self, base::Ref<Tcb> tcb);

    Engine& engine_;
    base::SocketAddress local_;
    std::size_t backlog_;
    std::size_t maximum_;
    bool proxy_protocol_;
    bool any_address_;
    bool open_ = true;
    std::size_t connection_count_ = 0; // established: queued, taken, and ending
    std::size_t queued_count_ = 0;
    base::Ref<Tcb> first_ready_; // each refers to the next
    Tcb* last_ready_ = nullptr;
    base::WaitQueue accepted_{"tcp accept"};
};

/// The handle; closes with it.
class TcpListener final : public base::Listener {
public:
    explicit TcpListener(base::Ref<ListenPort> port) noexcept : port_(std::move(port)) {}
    ~TcpListener() override { port_->close(); }
    TcpListener(const TcpListener&) = delete;
    TcpListener& operator=(const TcpListener&) = delete;

    [[nodiscard]] base::Task<base::NetResult<base::StreamPtr>>
    accept(base::Deadline deadline) override {
        return ListenPort::accept(port_, deadline);
    }
    void close() noexcept override { port_->close(); }
    [[nodiscard]] base::SocketAddress local() const noexcept override { return port_->local(); }

private:
    base::Ref<ListenPort> port_;
};

} // namespace dataplane::net::stack
