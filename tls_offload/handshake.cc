#include "tls_offload/connection.h"

#include "tls_offload/engine/async_key.h"
#include "tls_offload/peer.h"

#include <utility>

namespace tls_offload {

using base::Deadline;
using base::NetError;
using base::NetResult;
using base::Task;

namespace {

/// OpenSSL's call-back for a paused job that may go on, inside Engine::poll(): queues, and nothing else.
int wake_handshake(SSL*, void* connection) noexcept {
    static_cast<Connection*>(connection)->wake_signing();
    return 1;
}

Task<std::expected<base::StreamPtr, TlsFailure>> fail_at_once(TlsFailure failure) {
    co_return std::unexpected(std::move(failure));
}

} // namespace

// --- Before the first step

bool Connection::set_up(SSL_CTX* context, bool server) {
    const base::InRoom in{base::Room::tls};
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

bool Connection::demand_of_peer(const ClientOptions& options) {
    return demand(*ssl_, options, loop().wall_now());
}

bool Connection::offer_session(const ClientOptions& options) {
    session_key_ = session_key(options);
    const SessionHandle session = client_->sessions.take(session_key_);
    offered_ = session.get();
    return session == nullptr || SSL_set_session(ssl_.get(), session.get()) == 1;
}

// --- Steps, and the signatures that they wait for

Step Connection::step_handshake() {
    const base::InRoom in{base::Room::tls};
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
    const base::InRoom in{base::Room::tls};
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

Task<std::expected<base::StreamPtr, TlsFailure>> Connection::handshake(base::Ref<Connection> self,
                                                                       Deadline deadline) {
    // From here on, dropping this coroutine aborts the connection.
    base::StreamPtr stream = make_stream(self);
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
    co_return std::move(stream);
}

// --- OpenSSL's questions about sessions

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

// --- The two sides

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

} // namespace tls_offload
