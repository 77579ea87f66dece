#include "tls_offload/tls_context.h"

#include "tls_offload/context_state.h"
#include "tls_offload/engine/async_key.h"
#include "tls_offload/server_set.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace tls_offload {

TlsLibrary::TlsLibrary(base::Loop& loop) : state_(new LibraryState{loop}) {
    state_->openssl = LibCtxPtr{OSSL_LIB_CTX_new(), OSSL_LIB_CTX_free};
    state_->bio_method = make_stream_bio_method();
    if (state_->openssl == nullptr || state_->bio_method == nullptr)
        throw std::runtime_error("OpenSSL cannot be set up: " + take_error_text());
    state_->ticket_cipher.reset(
        EVP_CIPHER_fetch(state_->openssl.get(), "AES-256-CBC", nullptr)); // as RFC 5077 §4 has it
    if (state_->ticket_cipher == nullptr)
        throw std::runtime_error("OpenSSL has no AES-256-CBC: " + take_error_text());
    state_->ticket_keys = make_ticket_keys();
}
TlsLibrary::~TlsLibrary() = default;

const TlsCounters& TlsLibrary::counters() const noexcept {
    return state_->counters;
}

std::size_t TlsLibrary::lent_blocks() const noexcept {
    return state_->blocks.lent_count();
}

void TlsLibrary::sign_with(offload::Engine& engine, std::size_t handshakes_max) noexcept {
    // One more is running, and qatengine's operations are jobs of the same thread.
    offload::bound_jobs(signing_handshakes_max + 1 + offload::qat_operations_max);
    state_->engine = &engine;
    state_->signing_max = std::min(handshakes_max, signing_handshakes_max);
}

std::size_t TlsLibrary::signing_handshakes() const noexcept {
    return state_->signing;
}

std::size_t TlsLibrary::connection_count() const noexcept {
    return state_->connections;
}

void TlsLibrary::use_ticket_keys(TicketKeysPtr keys) noexcept {
    state_->ticket_keys = std::move(keys);
}

std::expected<ServerContext, TlsContextError> ServerContext::create(TlsLibrary& library,
                                                                    const ServerOptions& options) {
    const auto material = load_server_material(options, library.state_->loop.wall_now());
    if (!material) return std::unexpected(material.error());
    auto set = ServerSet::build(library.state_->openssl, **material, library.state_->engine);
    if (!set) return std::unexpected(std::move(set.error()));
    return ServerContext{base::Ref<ServerState>{new ServerState{library.state_, std::move(*set)}}};
}

ServerContext::ServerContext(base::Ref<ServerState> state) noexcept : state_(std::move(state)) {}
ServerContext::ServerContext(ServerContext&&) noexcept = default;
ServerContext& ServerContext::operator=(ServerContext&&) noexcept = default;
ServerContext::~ServerContext() = default;

std::expected<ClientContext, TlsContextError>
ClientContext::create(TlsLibrary& library, const ClientContextOptions& options) {
    const auto material = load_client_material(options, library.state_->loop.wall_now());
    if (!material) return std::unexpected(material.error());
    auto set = ClientSet::build(library.state_->openssl, **material);
    if (!set) return std::unexpected(std::move(set.error()));
    return ClientContext{base::Ref<ClientState>{
        new ClientState{library.state_, std::move(*set), options.session_keys_max}}};
}

ClientContext::ClientContext(base::Ref<ClientState> state) noexcept : state_(std::move(state)) {}
ClientContext::ClientContext(ClientContext&&) noexcept = default;
ClientContext& ClientContext::operator=(ClientContext&&) noexcept = default;
ClientContext::~ClientContext() = default;

std::size_t ClientContext::session_key_count() const noexcept {
    return state_->sessions.key_count();
}

} // namespace tls_offload
