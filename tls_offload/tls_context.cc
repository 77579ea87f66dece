#include "tls_offload/tls_context.h"

#include "tls_offload/context_state.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <stdexcept>
#include <system_error>
#include <utility>

namespace tls_offload {
namespace {

constexpr const char* suites_tls13 =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
constexpr const char* suites_strict =
    "ECDHE+AESGCM:ECDHE+CHACHA20"; // TLS 1.2: AEAD with forward secrecy
// Opportunistic TLS competes with no TLS at all, so it takes whatever encrypts: a CBC suite or a
// 1024-bit certificate keeps out every passive listener, and plain text none.
constexpr const char* suites_wide =
    "HIGH:MEDIUM:!aNULL:!eNULL:!PSK:!SRP:!RC4:!3DES:!SEED:!IDEA@SECLEVEL=0";
// P-521 costs the server 30 times P-256; nobody offers it alone.
constexpr const char* groups = "X25519:P-256:P-384";
constexpr const char* system_bundle = "/etc/ssl/certs/ca-certificates.crt";

/// There is nobody to ask for a pass phrase; OpenSSL's default asks the terminal.
int refuse_pass_phrase(char*, int, int, void*) {
    return -1;
}

TlsContextError library_error(const char* what) {
    return {TlsContextErrorKind::library, std::string{what} + ": " + take_error_text()};
}

TlsContextError file_error(TlsContextErrorKind kind, const char* what, const std::string& file) {
    return {kind, std::string{what} + " " + file + ": " + take_error_text()};
}

/// What client and server contexts have in common.
std::expected<SslCtxHandle, TlsContextError> make_context(const LibraryState& library,
                                                          const SSL_METHOD* method, int version_min,
                                                          const char* suites_tls12) {
    ERR_clear_error();
    SslCtxHandle context{SSL_CTX_new_ex(library.openssl.get(), nullptr, method)};
    if (context == nullptr) return std::unexpected(library_error("cannot make a TLS context"));
    const bool policy_taken = SSL_CTX_set_min_proto_version(context.get(), version_min) == 1 &&
                              SSL_CTX_set_max_proto_version(context.get(), TLS1_3_VERSION) == 1 &&
                              SSL_CTX_set_cipher_list(context.get(), suites_tls12) == 1 &&
                              SSL_CTX_set_ciphersuites(context.get(), suites_tls13) == 1 &&
                              SSL_CTX_set1_groups_list(context.get(), groups) == 1;
    if (!policy_taken)
        return std::unexpected(library_error("OpenSSL does not take the TLS policy"));
    SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    // An idle connection keeps no record buffers (34 KiB); a retried write may come from a buffer
    // that has moved in between.
    SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_default_passwd_cb(context.get(), refuse_pass_phrase);
    return context;
}

bool is_rehash_name(const std::string& name) {
    const std::size_t dot = name.find('.');
    const auto hex = [](unsigned char c) { return std::isxdigit(c) != 0; };
    const auto digit = [](unsigned char c) { return std::isdigit(c) != 0; };
    if (dot != 8 || dot + 1 == name.size()) return false;
    return std::all_of(name.begin(), name.begin() + 8, hex) &&
           std::all_of(name.begin() + 9, name.end(), digit);
}

/// Loads every certificate now: OpenSSL's own directory look-up reads files during handshakes.
std::expected<void, TlsContextError> load_directory(SSL_CTX& context,
                                                    const std::string& directory) {
    std::error_code error;
    std::filesystem::directory_iterator entries{directory, error};
    for (; !error && entries != std::filesystem::directory_iterator{}; entries.increment(error)) {
        if (!is_rehash_name(entries->path().filename().string())) continue;
        const std::string file = entries->path().string();
        ERR_clear_error();
        if (SSL_CTX_load_verify_file(&context, file.c_str()) != 1) {
            return std::unexpected(file_error(TlsContextErrorKind::ca_dir, "CA certificate", file));
        }
    }
    if (error) {
        return std::unexpected(TlsContextError{
            TlsContextErrorKind::ca_dir, "CA directory " + directory + ": " + error.message()});
    }
    return {};
}

std::expected<void, TlsContextError> load_trust(SSL_CTX& context,
                                                const ClientContextOptions& options) {
    std::string file = options.ca_file;
    std::error_code ignored;
    if (file.empty() && options.ca_dir.empty() && std::filesystem::exists(system_bundle, ignored)) {
        file = system_bundle;
    }
    ERR_clear_error();
    if (!file.empty() && SSL_CTX_load_verify_file(&context, file.c_str()) != 1) {
        return std::unexpected(file_error(TlsContextErrorKind::ca_file, "CA file", file));
    }
    if (!options.ca_dir.empty()) return load_directory(context, options.ca_dir);
    return {};
}

} // namespace

TlsLibrary::TlsLibrary(base::Loop& loop) : state_(new LibraryState{loop}) {
    state_->openssl.reset(OSSL_LIB_CTX_new());
    state_->bio_method = make_stream_bio_method();
    if (state_->openssl == nullptr || state_->bio_method == nullptr) {
        throw std::runtime_error("OpenSSL cannot be set up: " + take_error_text());
    }
}
TlsLibrary::~TlsLibrary() = default;

const TlsCounters& TlsLibrary::counters() const noexcept {
    return state_->counters;
}

std::size_t TlsLibrary::lent_blocks() const noexcept {
    return state_->blocks.lent_count();
}

std::expected<ServerContext, TlsContextError> ServerContext::create(TlsLibrary& library,
                                                                    const ServerOptions& options) {
    base::Ref<ServerState> state{new ServerState{library.state_}};
    const int version_min = options.policy == TlsPolicy::modern ? TLS1_3_VERSION : TLS1_2_VERSION;
    auto made = make_context(*library.state_, TLS_server_method(), version_min, suites_strict);
    if (!made) return std::unexpected(std::move(made.error()));
    SSL_CTX* context = made->get();

    // PRIORITIZE_CHACHA: a client that puts ChaCha20 first has no AES instructions.
    SSL_CTX_set_options(context, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    // Tickets carry the whole session, so that the server remembers nothing per client.
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    constexpr std::array<unsigned char, 8> session_context{'m', 'i', 'l', 'l', 'r', 'a', 'c', 'e'};
    SSL_CTX_set_session_id_context(context, session_context.data(), session_context.size());

    ERR_clear_error();
    if (SSL_CTX_use_certificate_chain_file(context, options.certificate_file.c_str()) != 1) {
        return std::unexpected(file_error(TlsContextErrorKind::certificate_file, "certificate file",
                                          options.certificate_file));
    }
    if (SSL_CTX_use_PrivateKey_file(context, options.key_file.c_str(), SSL_FILETYPE_PEM) != 1) {
        // Loading compares the key with the certificate at once.
        const int reason = ERR_GET_REASON(ERR_peek_last_error());
        const bool mismatch =
            reason == X509_R_KEY_VALUES_MISMATCH || reason == X509_R_KEY_TYPE_MISMATCH;
        const auto kind =
            mismatch ? TlsContextErrorKind::key_mismatch : TlsContextErrorKind::key_file;
        return std::unexpected(file_error(kind, "key file", options.key_file));
    }
    if (SSL_CTX_check_private_key(context) != 1) {
        return std::unexpected(
            file_error(TlsContextErrorKind::key_mismatch, "key file", options.key_file));
    }
    state->context = std::move(*made);
    return ServerContext{std::move(state)};
}

ServerContext::ServerContext(base::Ref<ServerState> state) noexcept : state_(std::move(state)) {}
ServerContext::ServerContext(ServerContext&&) noexcept = default;
ServerContext& ServerContext::operator=(ServerContext&&) noexcept = default;
ServerContext::~ServerContext() = default;

std::expected<ClientContext, TlsContextError>
ClientContext::create(TlsLibrary& library, const ClientContextOptions& options) {
    base::Ref<ClientState> state{new ClientState{library.state_, options.session_keys_max}};
    auto opportunistic =
        make_context(*library.state_, TLS_client_method(), TLS1_2_VERSION, suites_wide);
    if (!opportunistic) return std::unexpected(std::move(opportunistic.error()));
    auto verified =
        make_context(*library.state_, TLS_client_method(), TLS1_2_VERSION, suites_strict);
    if (!verified) return std::unexpected(std::move(verified.error()));
    if (auto loaded = load_trust(*verified->get(), options); !loaded) {
        return std::unexpected(std::move(loaded.error()));
    }
    // An opportunistic connection is verified too, for the log; the parsed roots are shared.
    SSL_CTX_set1_cert_store(opportunistic->get(), SSL_CTX_get_cert_store(verified->get()));
    SSL_CTX_set_verify(opportunistic->get(), SSL_VERIFY_NONE, nullptr);
    SSL_CTX_set_verify(verified->get(), SSL_VERIFY_PEER, nullptr);
    for (SSL_CTX* context : {opportunistic->get(), verified->get()}) {
        SSL_CTX_set_verify_depth(context, verify_depth_max);
        // OpenSSL's own cache is not keyed by policy; ours is.
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, remember_session);
    }
    state->opportunistic = std::move(*opportunistic);
    state->verified = std::move(*verified);
    return ClientContext{std::move(state)};
}

ClientContext::ClientContext(base::Ref<ClientState> state) noexcept : state_(std::move(state)) {}
ClientContext::ClientContext(ClientContext&&) noexcept = default;
ClientContext& ClientContext::operator=(ClientContext&&) noexcept = default;
ClientContext::~ClientContext() = default;

std::size_t ClientContext::session_key_count() const noexcept {
    return state_->sessions.key_count();
}

} // namespace tls_offload
