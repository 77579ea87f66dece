// connection.h: one TLS connection: an SSL between its stream's caller and the lower stream.
//
// Scope      handshake.cc has the handshake of either side and the signatures it waits for; connection.cc what comes
//            after: reading, writing, the flush below, the ends. Internal to tls_offload.
// Owns       The lower stream, the SSL, and blocks of the shard's pool while they hold bytes.
// Threading  As the stream: the loop of the TlsLibrary.
// Failure    As tls_stream.h has it.
#pragma once

#include "tls_offload/context_state.h"
#include "tls_offload/tls_stream.h"

#include <array>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace tls_offload {

enum class Step : std::uint8_t { done, want_read, want_room, want_signature, failed };

/// One TLS connection. Its stream and every coroutine that runs on it hold references, so that it
/// outlives a stream destroyed under a suspended reader and the last flush after close().
class Connection final : public base::RefCounted<Connection>, private base::TurnEnd {
public:
    /// One of `client` and `server` is null.
    Connection(base::StreamPtr lower, base::Ref<LibraryState> library,
               base::Ref<ClientState> client, base::Ref<ServerState> server)
        : TurnEnd(base::Room::tls), library_(std::move(library)), client_(std::move(client)),
          server_(std::move(server)), lower_(std::move(lower)), info_(lower_->info()),
          close_timer_(*this) {
        ++library_->connections;
    }
    ~Connection() override {
        CHECK(!signing_); // its stream has seen to that
        --library_->connections;
        for (Sealed& sealed : sealed_)
            library_->blocks.give_back(std::move(sealed.block));
        release_read_block();
        library_->blocks.give_back(std::move(staged_));
    }
    void retire() noexcept { delete this; }

    /// Ties a new SSL to this connection. False when OpenSSL is out of memory.
    [[nodiscard]] bool set_up(SSL_CTX* context, bool server);
    [[nodiscard]] bool offer_session(const ClientOptions& options);
    [[nodiscard]] bool demand_of_peer(const ClientOptions& options);
    void remember(SessionHandle session) {
        client_->sessions.put(session_key_, std::move(session));
    }

    static base::Task<std::expected<base::StreamPtr, TlsFailure>>
    handshake(base::Ref<Connection> self, base::Deadline deadline);
    static base::Task<base::NetResult<>> fill(base::Ref<Connection> self, base::Deadline deadline);
    static base::Task<base::NetResult<>>
    write(base::Ref<Connection> self, std::span<const std::byte> bytes, base::Deadline deadline);
    static base::Task<base::NetResult<>> write(base::Ref<Connection> self, base::SlabChain slabs,
                                               base::Deadline deadline);
    static base::Task<base::NetResult<>> drain(base::Ref<Connection> self, base::Deadline deadline);
    static base::Task<base::NetResult<>> shutdown_write(base::Ref<Connection> self,
                                                        base::Deadline deadline);
    void close() noexcept;
    void abort() noexcept;

    [[nodiscard]] std::span<const std::byte> unread() const noexcept {
        if (read_block_ == nullptr) return {};
        return std::span{*read_block_}.subspan(read_first_, read_end_ - read_first_);
    }
    void consume(std::size_t bytes) noexcept {
        CHECK(bytes <= read_end_ - read_first_);
        read_first_ += bytes;
        if (read_first_ == read_end_) release_read_block();
    }
    [[nodiscard]] const base::StreamInfo& info() const noexcept { return info_; }
    [[nodiscard]] const TlsState& state() const noexcept { return state_; }
    [[nodiscard]] const LibraryState& library() const noexcept { return *library_; }

    void wake_signing() noexcept { signed_.wake_all(); }

    // The BIO's two directions: bytes moved, 0 for "not now".
    std::size_t read_lower(std::span<std::byte> into) noexcept;
    std::size_t stage_sealed(std::span<const std::byte> record) noexcept;

private:
    struct Sealed {
        BlockPool::BlockPtr block;
        std::size_t bytes = 0;
    };
    struct CloseTimer final : base::Timer {
        explicit CloseTimer(Connection& owner) noexcept
            : Timer(&CloseTimer::fire), connection(owner) {}
        static void fire(Timer& timer) noexcept {
            static_cast<CloseTimer&>(timer).connection.abort();
        }
        Connection& connection;
    };

    void turn_end() noexcept override { seal(); }
    [[nodiscard]] Sealed& sealed(std::size_t position) noexcept {
        return sealed_[(sealed_first_ + position) % send_blocks_max];
    }
    // A record may need two blocks: the rest of one and the beginning of the next.
    [[nodiscard]] bool has_room() const noexcept { return sealed_count_ + 2 <= send_blocks_max; }
    [[nodiscard]] base::Loop& loop() const noexcept { return library_->loop; }

    Step step_handshake();
    void set_signing(bool signing) noexcept;
    void give_up_signing() noexcept;
    Step step_read();
    void finish_handshake();
    std::size_t stage(std::span<const std::byte> bytes);
    void seal() noexcept;
    void end_output() noexcept;
    void start_flush();
    static base::Task<void> flush(base::Ref<Connection> self);
    static base::Task<base::NetResult<>> wait_flushed(base::Ref<Connection> self,
                                                      base::Deadline deadline);

    [[nodiscard]] bool may_end_output() const noexcept {
        return established_ && !write_ended_ && !error_ && staged_bytes_ == 0;
    }
    [[nodiscard]] std::optional<base::NetError> write_error() const noexcept {
        if (closed_ || write_ended_) return base::NetError::closed;
        return error_;
    }
    TlsFailure fail_handshake(TlsFailure failure);
    void fail_tls();
    void fail(base::NetError error) noexcept;
    void release_read_block() noexcept {
        library_->blocks.give_back(std::move(read_block_));
        read_first_ = read_end_ = 0;
    }

    base::Ref<LibraryState> library_; // first: the SSL dies before its library
    base::Ref<ClientState> client_;   // null on the server side
    base::Ref<ServerState> server_;   // null on the client side; SNI looks into it
    base::StreamPtr lower_;
    SslHandle ssl_;
    base::StreamInfo info_;
    TlsState state_;
    std::string session_key_;              // of a client
    const SSL_SESSION* offered_ = nullptr; // told apart from what the handshake ended with

    BlockPool::BlockPtr read_block_; // plaintext [read_first_, read_end_) is unread
    std::size_t read_first_ = 0;
    std::size_t read_end_ = 0;
    BlockPool::BlockPtr staged_; // plaintext that becomes the next record
    std::size_t staged_bytes_ = 0;
    std::array<Sealed, send_blocks_max> sealed_; // a ring: records for the lower stream
    std::size_t sealed_first_ = 0;
    std::size_t sealed_count_ = 0;

    bool established_ = false;
    bool signing_ = false;  // the handshake's job is paused until its signature is there
    bool seal_due_ = false; // what is staged shall leave as soon as there is room
    bool flushing_ = false; // a flush() runs, the only writer of the lower stream
    bool front_in_flight_ =
        false;                  // the front block is in a lower write: nothing may be added to it
    bool drain_due_ = false;    // flush() shall drain the lower stream when all is written
    bool shutdown_due_ = false; // flush() shall then end the lower stream's output
    bool write_ended_ = false;  // shutdown_write() was called
    bool read_ended_ = false;   // the peer's close_notify or FIN
    bool closed_ = false;       // close() or abort() was called
    bool aborted_ = false;      // abort() was called
    bool lower_dead_ = false;   // the lower stream failed: nothing more leaves
    std::optional<base::NetError> error_; // both directions are dead

    base::WaitQueue room_{"tls: room to write"};
    base::WaitQueue signed_{"tls: signature"};
    base::WaitQueue flushed_{"tls: records flushed"};
    CloseTimer close_timer_;
};

/// What the caller of accept_tls() or connect_tls() gets. Dropping it aborts the connection.
[[nodiscard]] base::StreamPtr make_stream(base::Ref<Connection> connection);

} // namespace tls_offload
