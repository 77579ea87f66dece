#include "tls_offload/tls_stream.h"

#include "tls_offload/context_state.h"
#include "tls_offload/engine/async_key.h"
#include "tls_offload/peer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace tls_offload {
namespace {

using base::Deadline;
using base::NetError;
using base::NetResult;
using base::Task;

enum class Step : std::uint8_t { done, want_read, want_room, want_signature, failed };

/// One TLS connection. Its stream and every coroutine that runs on it hold references, so that it
/// outlives a stream destroyed under a suspended reader and the last flush after close().
class Connection final : public base::RefCounted<Connection>, private base::TurnEnd {
public:
    /// One of `client` and `server` is null.
    Connection(base::StreamPtr lower, base::Ref<LibraryState> library,
               base::Ref<ClientState> client, base::Ref<ServerState> server)
        : library_(std::move(library)), client_(std::move(client)), server_(std::move(server)),
          lower_(std::move(lower)), info_(lower_->info()), close_timer_(*this) {
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
    [[nodiscard]] bool demand_of_peer(const ClientOptions& options) {
        return demand(*ssl_, options, loop().wall_now());
    }
    void remember(SessionHandle session) {
        client_->sessions.put(session_key_, std::move(session));
    }

    static Task<std::expected<base::StreamPtr, TlsFailure>> handshake(base::Ref<Connection> self,
                                                                      Deadline deadline);
    static Task<NetResult<>> fill(base::Ref<Connection> self, Deadline deadline);
    static Task<NetResult<>> write(base::Ref<Connection> self, std::span<const std::byte> bytes,
                                   Deadline deadline);
    static Task<NetResult<>> write(base::Ref<Connection> self, base::SlabChain slabs,
                                   Deadline deadline);
    static Task<NetResult<>> drain(base::Ref<Connection> self, Deadline deadline);
    static Task<NetResult<>> shutdown_write(base::Ref<Connection> self, Deadline deadline);
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
    static Task<void> flush(base::Ref<Connection> self);
    static Task<NetResult<>> wait_flushed(base::Ref<Connection> self, Deadline deadline);

    [[nodiscard]] bool may_end_output() const noexcept {
        return established_ && !write_ended_ && !error_ && staged_bytes_ == 0;
    }
    [[nodiscard]] std::optional<NetError> write_error() const noexcept {
        if (closed_ || write_ended_) return NetError::closed;
        return error_;
    }
    TlsFailure fail_handshake(TlsFailure failure);
    void fail_tls();
    void fail(NetError error) noexcept;
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
    std::optional<NetError> error_; // both directions are dead

    base::WaitQueue room_{"tls: room to write"};
    base::WaitQueue signed_{"tls: signature"};
    base::WaitQueue flushed_{"tls: records flushed"};
    CloseTimer close_timer_;
};

Connection& connection_of(BIO* bio) noexcept {
    return *static_cast<Connection*>(BIO_get_data(bio));
}

int bio_read(BIO* bio, char* into, std::size_t capacity, std::size_t* moved) noexcept {
    BIO_clear_retry_flags(bio);
    *moved = connection_of(bio).read_lower(std::as_writable_bytes(std::span{into, capacity}));
    if (*moved != 0) return 1;
    BIO_set_retry_read(bio);
    return 0;
}

int bio_write(BIO* bio, const char* from, std::size_t bytes, std::size_t* moved) noexcept {
    BIO_clear_retry_flags(bio);
    *moved = connection_of(bio).stage_sealed(std::as_bytes(std::span{from, bytes}));
    if (*moved != 0) return 1;
    BIO_set_retry_write(bio);
    return 0;
}

/// OpenSSL's call-back for a paused job that may go on, inside Engine::poll(): queues, and nothing else.
int wake_handshake(SSL*, void* connection) noexcept {
    static_cast<Connection*>(connection)->wake_signing();
    return 1;
}

long bio_ctrl(BIO*, int command, long, void*) noexcept {
    // Flushing is flush()'s business; of everything else OpenSSL may ask, "no" is the answer.
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

bool Connection::set_up(SSL_CTX* context, bool server) {
    ERR_clear_error();
    ssl_.reset(SSL_new(context));
    BioHandle bio{BIO_new_ex(library_->openssl.get(), library_->bio_method.get())};
    if (ssl_ == nullptr || bio == nullptr) return false;
    BIO_set_data(bio.get(), this);
    BIO_set_init(bio.get(), 1);
    // The SSL owns the BIO, which is both its sides, and frees it with itself.
    BIO* both_sides = bio.release();
    SSL_set_bio(ssl_.get(), both_sides, both_sides);
    SSL_set_app_data(ssl_.get(), this);
    if (server) {
        set_time(*ssl_, loop().wall_now());
        SSL_set_accept_state(ssl_.get());
        if (server_->set->needs_jobs()) {
            SSL_set_async_callback(ssl_.get(), wake_handshake);
            SSL_set_async_callback_arg(ssl_.get(), this);
        }
    } else {
        SSL_set_connect_state(ssl_.get());
    }
    return true;
}

bool Connection::offer_session(const ClientOptions& options) {
    session_key_ = session_key(options);
    const SessionHandle session = client_->sessions.take(session_key_);
    offered_ = session.get();
    return session == nullptr || SSL_set_session(ssl_.get(), session.get()) == 1;
}

std::size_t Connection::read_lower(std::span<std::byte> into) noexcept {
    const std::span<const std::byte> from = lower_->unread();
    const std::size_t bytes = std::min(from.size(), into.size());
    if (bytes == 0) return 0;
    std::memcpy(into.data(), from.data(), bytes);
    lower_->consume(bytes);
    return bytes;
}

std::size_t Connection::stage_sealed(std::span<const std::byte> record) noexcept {
    std::size_t moved = 0;
    while (moved < record.size()) {
        const bool extend = sealed_count_ > (front_in_flight_ ? 1U : 0U) &&
                            sealed(sealed_count_ - 1).bytes < block_bytes;
        if (!extend) {
            if (sealed_count_ == send_blocks_max) break;
            sealed(sealed_count_) = {library_->blocks.take(), 0};
            ++sealed_count_;
        }
        Sealed& last = sealed(sealed_count_ - 1);
        const std::size_t bytes = std::min(block_bytes - last.bytes, record.size() - moved);
        std::memcpy(last.block->data() + last.bytes, record.data() + moved, bytes);
        last.bytes += bytes;
        moved += bytes;
    }
    return moved;
}

// --- Handshake

Step Connection::step_handshake() {
    SSL* ssl = ssl_.get();
    // Only here: with the mode on, OpenSSL could pause in a read or a write, whose buffers must then not move.
    // Who has paused already has the job that he goes on with.
    const bool wanted = server_ && server_->set->needs_jobs();
    bool job = wanted && (signing_ || library_->signing < library_->signing_max);
    if (job) SSL_set_mode(ssl, SSL_MODE_ASYNC);
    ERR_clear_error();
    int result = SSL_do_handshake(ssl);
    SSL_clear_mode(ssl, SSL_MODE_ASYNC);
    int error = SSL_get_error(ssl, result);
    if (error == SSL_ERROR_WANT_ASYNC_JOB) { // OpenSSL has none left
        job = false;
        result = SSL_do_handshake(ssl);
        error = SSL_get_error(ssl, result);
    }
    if (wanted && !job) ++library_->counters.no_job;
    set_signing(SSL_waiting_for_async(ssl) == 1);
    start_flush();
    if (result == 1) return Step::done;
    switch (error) {
    case SSL_ERROR_WANT_READ:
        return Step::want_read;
    case SSL_ERROR_WANT_WRITE:
        return Step::want_room;
    case SSL_ERROR_WANT_ASYNC:
        return Step::want_signature;
    default:
        return Step::failed;
    }
}

void Connection::set_signing(bool signing) noexcept {
    if (signing == signing_) return;
    signing_ = signing;
    if (signing) {
        ++library_->signing;
    } else {
        --library_->signing;
    }
}

/// Nobody goes on with this handshake. OpenSSL would lose a paused job with its SSL, so the job is resumed to
/// its end first, which is at once: it gives up, and its signature's request with it. Not in a job, not in a poll.
void Connection::give_up_signing() noexcept {
    if (!signing_) return;
    const offload::GiveUp giving_up;
    SSL_set_mode(ssl_.get(), SSL_MODE_ASYNC);
    static_cast<void>(SSL_do_handshake(ssl_.get()));
    ERR_clear_error();
    CHECK(SSL_waiting_for_async(ssl_.get()) == 0);
    set_signing(false);
}

void Connection::finish_handshake() {
    established_ = true;
    info_.tls_version = SSL_get_version(ssl_.get());
    info_.tls_cipher = SSL_get_cipher_name(ssl_.get());
    info_.tls_resumed = SSL_session_reused(ssl_.get()) == 1;
    describe_peer(*ssl_, state_);
    // A TLS 1.2 server may resume and give a new ticket for the old one, which then is void. OpenSSL
    // tells nobody.
    if (client_ && info_.tls_resumed && SSL_version(ssl_.get()) < TLS1_3_VERSION &&
        SSL_get0_session(ssl_.get()) != offered_) {
        client_->sessions.forget(session_key_);
        remember(SessionHandle{SSL_get1_session(ssl_.get())});
    }
    TlsCounters& counters = library_->counters;
    ++(client_ ? counters.connected : counters.accepted);
    if (info_.tls_resumed) ++counters.resumed;
}

TlsFailure Connection::fail_handshake(TlsFailure failure) {
    ERR_clear_error();
    ++library_->counters.handshake_failed;
    // A session that was offered may be the reason; without it the next try has one cause less.
    if (client_) client_->sessions.forget(session_key_);
    state_.failure = failure;
    return failure;
}

// --- Reading

/// Decrypts what has come, as far as the block takes it.
Step Connection::step_read() {
    SSL* ssl = ssl_.get();
    while (read_end_ < record_bytes_max &&
           (!lower_->unread().empty() || SSL_has_pending(ssl) == 1)) {
        if (read_block_ == nullptr) read_block_ = library_->blocks.take();
        ERR_clear_error();
        std::size_t bytes = 0;
        const int result =
            SSL_read_ex(ssl, read_block_->data() + read_end_, record_bytes_max - read_end_, &bytes);
        if (result == 1) {
            read_end_ += bytes;
            continue;
        }
        Step step = Step::failed;
        switch (SSL_get_error(ssl, result)) {
        case SSL_ERROR_WANT_READ:
            step = Step::want_read;
            break; // all is read, up to a part of a record
        case SSL_ERROR_WANT_WRITE:
            step = Step::want_room;
            break;
        case SSL_ERROR_ZERO_RETURN:
            read_ended_ = true;
            step = Step::done;
            break;
        default:
            fail_tls();
            break;
        }
        start_flush(); // an alert, or the answer to a key update
        if (read_end_ != 0) return Step::done;
        release_read_block();
        return step;
    }
    return read_end_ != 0 ? Step::done : Step::want_read;
}

Task<NetResult<>> Connection::fill(base::Ref<Connection> self, Deadline deadline) {
    for (;;) {
        if (self->closed_) co_return std::unexpected(NetError::closed);
        if (!self->unread().empty()) co_return NetResult<>{};
        if (self->read_ended_) co_return std::unexpected(NetError::end_of_stream);
        if (const auto error = self->error_) co_return std::unexpected(*error);

        const Step step = self->step_read();
        if (step == Step::want_room) {
            const base::Wake why = co_await self->room_.wait(self->loop(), deadline);
            if (why != base::Wake::event) co_return std::unexpected(base::to_net_error(why));
        }
        if (step != Step::want_read) continue;
        const auto filled = co_await self->lower_->fill(deadline);
        if (filled) continue;
        const NetError why = filled.error();
        if (why == NetError::timed_out || why == NetError::cancelled)
            co_return std::unexpected(why);
        if (why == NetError::end_of_stream) {
            self->read_ended_ = true;
            ++self->library_->counters.truncated;
        } else {
            self->fail(why);
        }
    }
}

// --- Writing

/// Copies what fits the open record; returns how much that was.
std::size_t Connection::stage(std::span<const std::byte> bytes) {
    const std::size_t moved = std::min(bytes.size(), record_bytes_max - staged_bytes_);
    if (moved == 0) return 0;
    if (staged_ == nullptr) staged_ = library_->blocks.take();
    std::memcpy(staged_->data() + staged_bytes_, bytes.data(), moved);
    staged_bytes_ += moved;
    return moved;
}

/// Makes the staged bytes a record, when there is room for one; otherwise flush() does it later.
void Connection::seal() noexcept {
    seal_due_ = true;
    if (staged_bytes_ == 0 || error_) {
        seal_due_ = false;
        return;
    }
    if (!has_room()) return;
    ERR_clear_error();
    std::size_t written = 0;
    const int result = SSL_write_ex(ssl_.get(), staged_->data(), staged_bytes_, &written);
    if (result == 1) {
        CHECK(written == staged_bytes_); // no SSL_MODE_ENABLE_PARTIAL_WRITE
        seal_due_ = false;
        staged_bytes_ = 0;
        library_->blocks.give_back(std::move(staged_));
    } else if (SSL_get_error(ssl_.get(), result) != SSL_ERROR_WANT_WRITE) {
        fail_tls();
    } // otherwise the record is half out: flush() repeats the call, with the same bytes in front
    start_flush();
}

void Connection::start_flush() {
    if (flushing_ || (sealed_count_ == 0 && !drain_due_ && !shutdown_due_)) return;
    flushing_ = true;
    loop().spawn(flush(base::Ref<Connection>{this}), "tls: flush");
}

Task<void> Connection::flush(base::Ref<Connection> self) {
    const Deadline forever = Deadline::never();
    while (!self->lower_dead_) {
        NetResult<> result;
        if (self->sealed_count_ != 0) {
            self->front_in_flight_ = true;
            Sealed& front = self->sealed(0);
            const std::span<const std::byte> bytes = std::span{*front.block}.first(front.bytes);
            result = co_await self->lower_->write(bytes, forever);
            self->front_in_flight_ = false;
            self->library_->blocks.give_back(std::move(front.block));
            self->sealed_first_ = (self->sealed_first_ + 1) % send_blocks_max;
            --self->sealed_count_;
            if (result && self->seal_due_) self->seal();
            self->room_.wake_all();
        } else if (self->drain_due_) {
            self->drain_due_ = false;
            result = co_await self->lower_->drain(forever);
        } else if (self->shutdown_due_) {
            self->shutdown_due_ = false;
            result = co_await self->lower_->shutdown_write(forever);
        } else if (self->closed_ && self->may_end_output()) {
            self->end_output();
        } else {
            break;
        }
        if (!result) self->fail(result.error());
    }
    self->flushing_ = false;
    self->flushed_.wake_all();
    self->room_.wake_all();
    if (self->closed_ && !self->aborted_) {
        self->close_timer_.cancel();
        self->lower_->close();
    }
}

Task<NetResult<>> Connection::write(base::Ref<Connection> self, std::span<const std::byte> bytes,
                                    Deadline deadline) {
    for (;;) {
        if (const auto error = self->write_error()) co_return std::unexpected(*error);
        bytes = bytes.subspan(self->stage(bytes));
        if (self->staged_bytes_ == record_bytes_max) self->seal();
        if (bytes.empty()) break;
        if (self->staged_bytes_ < record_bytes_max || self->write_error()) continue;
        const base::Wake why = co_await self->room_.wait(self->loop(), deadline);
        if (why != base::Wake::event) co_return std::unexpected(base::to_net_error(why));
    }
    if (self->staged_bytes_ != 0) self->loop().at_turn_end(*self);
    co_return NetResult<>{};
}

Task<NetResult<>> Connection::write(base::Ref<Connection> self, base::SlabChain slabs,
                                    Deadline deadline) {
    for (const base::SlabView& view : slabs.views()) {
        const auto written = co_await write(self, view.bytes(), deadline);
        if (!written) co_return std::unexpected(written.error());
    }
    co_return NetResult<>{};
}

Task<NetResult<>> Connection::wait_flushed(base::Ref<Connection> self, Deadline deadline) {
    self->seal();
    self->start_flush();
    while (self->flushing_) {
        const base::Wake why = co_await self->flushed_.wait(self->loop(), deadline);
        if (why != base::Wake::event) co_return std::unexpected(base::to_net_error(why));
    }
    if (const auto error = self->error_) co_return std::unexpected(*error);
    if (self->closed_) co_return std::unexpected(NetError::closed);
    co_return NetResult<>{};
}

Task<NetResult<>> Connection::drain(base::Ref<Connection> self, Deadline deadline) {
    if (const auto error = self->write_error()) co_return std::unexpected(*error);
    self->drain_due_ = true;
    auto flushed = co_await wait_flushed(self, deadline);
    co_return flushed;
}

Task<NetResult<>> Connection::shutdown_write(base::Ref<Connection> self, Deadline deadline) {
    if (const auto error = self->write_error()) co_return std::unexpected(*error);
    // Everything staged must be sealed before the close_notify, which nothing may follow.
    auto sealed = co_await wait_flushed(self, deadline);
    if (!sealed) co_return sealed;
    if (self->may_end_output()) self->end_output();
    self->shutdown_due_ = true;
    auto flushed = co_await wait_flushed(self, deadline);
    co_return flushed;
}

/// Says close_notify, behind everything that was staged.
void Connection::end_output() noexcept {
    write_ended_ = true;
    ERR_clear_error();
    static_cast<void>(SSL_shutdown(ssl_.get()));
    ERR_clear_error();
}

// --- Ends

/// The lower stream is dead, and so are we.
void Connection::fail(NetError error) noexcept {
    lower_dead_ = true;
    if (!error_) error_ = error;
    room_.wake_all();
    flushed_.wake_all();
}

/// TLS itself broke, after the handshake. OpenSSL may have left an alert, which flush() still
/// sends.
void Connection::fail_tls() {
    state_.failure = diagnose(*ssl_);
    ERR_clear_error();
    ++library_->counters.broken;
    error_ = NetError::tls;
    room_.wake_all();
}

void Connection::close() noexcept {
    if (closed_) return;
    closed_ = true;
    if (established_) seal();
    if (may_end_output()) end_output();
    start_flush();
    room_.wake_all();
    if (flushing_) { // it goes on, and closes the lower stream when all has left
        loop().arm(close_timer_, loop().now() + close_flush_max);
    } else {
        lower_->close();
    }
}

void Connection::abort() noexcept {
    closed_ = aborted_ = true;
    close_timer_.cancel();
    lower_->abort();
    give_up_signing();
    fail(NetError::closed);
}

/// What the caller holds.
class TlsStream final : public base::Stream {
public:
    explicit TlsStream(base::Ref<Connection> connection) noexcept
        : connection_(std::move(connection)) {}
    ~TlsStream() override {
        if (open_) connection_->abort();
    }

    std::span<const std::byte> unread() const noexcept override {
        if (!open_) return {};
        return connection_->unread();
    }
    void consume(std::size_t bytes) noexcept override { connection_->consume(bytes); }
    Task<NetResult<>> fill(Deadline deadline) override {
        return Connection::fill(connection_, deadline);
    }
    Task<NetResult<>> write(std::span<const std::byte> bytes, Deadline deadline) override {
        return Connection::write(connection_, bytes, deadline);
    }
    Task<NetResult<>> write(base::SlabChain slabs, Deadline deadline) override {
        return Connection::write(connection_, std::move(slabs), deadline);
    }
    Task<NetResult<>> drain(Deadline deadline) override {
        return Connection::drain(connection_, deadline);
    }
    Task<NetResult<>> shutdown_write(Deadline deadline) override {
        return Connection::shutdown_write(connection_, deadline);
    }
    void close() noexcept override {
        open_ = false;
        connection_->close();
    }
    void abort() noexcept override {
        open_ = false;
        connection_->abort();
    }
    const base::StreamInfo& info() const noexcept override { return connection_->info(); }
    [[nodiscard]] const TlsState& state() const noexcept { return connection_->state(); }

private:
    base::Ref<Connection> connection_;
    bool open_ = true;
};

Task<std::expected<base::StreamPtr, TlsFailure>> Connection::handshake(base::Ref<Connection> self,
                                                                       Deadline deadline) {
    // From here on, dropping this coroutine aborts the connection.
    auto stream = std::make_unique<TlsStream>(self);
    for (;;) {
        while (!self->library_->may_step()) {
            const base::Wake why = co_await self->library_->next_turn.wait(self->loop(), deadline);
            if (why == base::Wake::event) continue;
            co_return std::unexpected(self->fail_handshake(wait_failure(base::to_net_error(why))));
        }
        const Step step = self->step_handshake();
        if (step == Step::done) break;
        if (step == Step::failed) {
            TlsFailure failure = self->fail_handshake(diagnose(*self->ssl_));
            stream->close(); // after our alert
            co_return std::unexpected(std::move(failure));
        }
        NetResult<> event;
        if (step == Step::want_read) {
            event = co_await self->lower_->fill(deadline);
        } else if (step == Step::want_signature) {
            const base::Wake why = co_await self->signed_.wait(self->loop(), deadline);
            if (why != base::Wake::event) event = std::unexpected(base::to_net_error(why));
        } else {
            const base::Wake why = co_await self->room_.wait(self->loop(), deadline);
            if (why != base::Wake::event) event = std::unexpected(base::to_net_error(why));
            if (const auto error = self->error_; error && event) event = std::unexpected(*error);
        }
        if (!event) co_return std::unexpected(self->fail_handshake(wait_failure(event.error())));
    }
    self->finish_handshake();
    co_return base::StreamPtr{std::move(stream)};
}

Task<std::expected<base::StreamPtr, TlsFailure>> fail_at_once(TlsFailure failure) {
    co_return std::unexpected(std::move(failure));
}

} // namespace

BioMethodHandle make_stream_bio_method() {
    static const int type = BIO_get_new_index() | BIO_TYPE_SOURCE_SINK; // a process has only 127
    BioMethodHandle method{BIO_meth_new(type, "stream")};
    if (method == nullptr) return nullptr;
    BIO_meth_set_read_ex(method.get(), bio_read);
    BIO_meth_set_write_ex(method.get(), bio_write);
    BIO_meth_set_ctrl(method.get(), bio_ctrl);
    return method;
}

int remember_session(SSL* ssl, SSL_SESSION* session) noexcept {
    // Returning 1 takes over OpenSSL's reference; the cache gives it back.
    static_cast<Connection*>(SSL_get_app_data(ssl))->remember(SessionHandle{session});
    return 1;
}

int seal_ticket(SSL* ssl, unsigned char* name, unsigned char* vector, EVP_CIPHER_CTX* cipher,
                EVP_MAC_CTX* mac, int sealing) noexcept {
    const LibraryState& library = static_cast<Connection*>(SSL_get_app_data(ssl))->library();
    // TLS 1.3 tickets are used once: each resumption brings the next one.
    return use_ticket_key(*library.ticket_keys, *library.ticket_cipher,
                          SSL_version(ssl) >= TLS1_3_VERSION, name, vector, cipher, mac,
                          sealing != 0);
}

std::string_view to_string(TlsFailureReason reason) noexcept {
    switch (reason) {
    case TlsFailureReason::timed_out:
        return "timed out";
    case TlsFailureReason::cancelled:
        return "cancelled";
    case TlsFailureReason::peer_closed:
        return "closed by peer";
    case TlsFailureReason::network:
        return "network failure";
    case TlsFailureReason::alert:
        return "alert from peer";
    case TlsFailureReason::certificate:
        return "certificate not accepted";
    case TlsFailureReason::protocol:
        return "protocol failure";
    case TlsFailureReason::internal:
        return "internal failure";
    }
    return "unknown TLS failure";
}

Task<std::expected<base::StreamPtr, TlsFailure>>
accept_tls(base::StreamPtr lower, ServerContext& context, Deadline deadline) {
    const base::Ref<ServerState>& state = context.state();
    base::Ref<Connection> connection{new Connection{std::move(lower), state->library, {}, state}};
    if (!connection->set_up(state->set->fallback(), true)) {
        ++state->library->counters.handshake_failed;
        return fail_at_once({.text = take_error_text()});
    }
    return Connection::handshake(std::move(connection), deadline);
}

Task<std::expected<base::StreamPtr, TlsFailure>> connect_tls(base::StreamPtr lower,
                                                             ClientContext& context,
                                                             const ClientOptions& options,
                                                             Deadline deadline) {
    CHECK(options.level != TlsLevel::none);
    const base::Ref<ClientState>& state = context.state();
    base::Ref<Connection> connection{new Connection{std::move(lower), state->library, state, {}}};
    const bool checked = options.level == TlsLevel::verify || options.level == TlsLevel::dane;
    SSL_CTX* policy = (checked ? state->set->verified : state->set->opportunistic).get();
    if (!connection->set_up(policy, false) || !connection->demand_of_peer(options) ||
        !connection->offer_session(options)) {
        ++state->library->counters.handshake_failed;
        return fail_at_once({.text = "server name not usable for TLS: " + options.server_name});
    }
    return Connection::handshake(std::move(connection), deadline);
}

const TlsState* tls_state(const base::Stream& stream) noexcept {
    const auto* tls = dynamic_cast<const TlsStream*>(&stream);
    return tls == nullptr ? nullptr : &tls->state();
}

} // namespace tls_offload
