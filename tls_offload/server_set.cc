#include "tls_offload/server_set.h"

#include "tls_offload/context_state.h"
#include "tls_offload/engine/async_key.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <openssl/pem.h>
#include <set>
#include <system_error>
#include <utility>

namespace tls_offload {
namespace {

constexpr const char* suites_tls13 =
    "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
// TLS 1.2: AEAD with forward secrecy. All of ECDSA first: a signature costs a fifteenth of RSA's.
constexpr const char* suites_strict =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:"
    "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-CHACHA20-POLY1305";
// Opportunistic TLS competes with no TLS at all, so it takes whatever encrypts: a CBC suite or a
// 1024-bit certificate keeps out every passive listener, and plain text none.
constexpr const char* suites_wide =
    "HIGH:MEDIUM:!aNULL:!eNULL:!PSK:!SRP:!RC4:!3DES:!SEED:!IDEA@SECLEVEL=0";
// P-521 costs the server 30 times P-256; nobody offers it alone.
constexpr const char* groups = "X25519:P-256:P-384";
constexpr const char* system_bundle = "/etc/ssl/certs/ca-certificates.crt";

TlsContextError library_error(const char* what) {
    return {TlsContextErrorKind::library, std::string{what} + ": " + take_error_text()};
}

TlsContextError file_error(TlsContextErrorKind kind, const char* what, const std::string& file,
                           const std::string& why) {
    return {kind, std::string{what} + " " + file + ": " + why};
}

TlsContextError crl_error(const std::string& file, const std::string& why) {
    return file_error(TlsContextErrorKind::crl_file, "revocation list file", file, why);
}

/// What client and server contexts have in common.
std::expected<SslCtxHandle, TlsContextError> make_context(OSSL_LIB_CTX* library,
                                                          const SSL_METHOD* method, int version_min,
                                                          const char* suites_tls12) {
    ERR_clear_error();
    SslCtxHandle context{SSL_CTX_new_ex(library, nullptr, method)};
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
    return context;
}

/// The next certificate of a text, made for this library; null at its end.
CertificateHandle next_certificate(BIO* text, OSSL_LIB_CTX* library) {
    X509* blank = X509_new_ex(library, nullptr);
    if (blank == nullptr) return nullptr;
    X509* read = PEM_read_bio_X509_AUX(text, &blank, nullptr, nullptr);
    // A text that does not decode takes the blank with it and leaves null; its end does not.
    if (read == nullptr) X509_free(blank);
    return CertificateHandle{read};
}

BioHandle reader_of(const std::string& text) {
    return BioHandle{BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))};
}

struct StackFree {
    void operator()(STACK_OF(X509) * stack) const noexcept { sk_X509_pop_free(stack, X509_free); }
};
using StackHandle = std::unique_ptr<STACK_OF(X509), StackFree>;

/// An RSA key of a size that the engine has, made to sign there; null for every other.
/// P-256 and Ed25519 sign in less time than handing over takes twice, so they stay on the shard.
offload::EvpKeyHandle offloaded(const EVP_PKEY& key, offload::Engine* engine) {
    if (engine == nullptr || EVP_PKEY_is_a(&key, "RSA") != 1) return nullptr;
    const auto loaded = offload::PrivateKey::from_evp(key);
    return loaded ? offload::make_async_key(*engine, *loaded) : nullptr;
}

/// Returns whether the key signs through the engine.
std::expected<bool, TlsContextError> use_pair(SSL_CTX& context, OSSL_LIB_CTX* library,
                                              const CertificateMaterial& material,
                                              offload::Engine* engine) {
    ERR_clear_error();
    const BioHandle chain_text = reader_of(material.chain_pem);
    const BioHandle key_text = reader_of(material.key_pem->text());
    const StackHandle chain{sk_X509_new_null()};
    const CertificateHandle leaf = next_certificate(chain_text.get(), library);
    while (CertificateHandle next = next_certificate(chain_text.get(), library)) {
        if (sk_X509_push(chain.get(), next.get()) == 0) break;
        static_cast<void>(next.release()); // the stack's, which frees it
    }
    ERR_clear_error();
    const KeyHandle key{PEM_read_bio_PrivateKey_ex(key_text.get(), nullptr, refuse_pass_phrase,
                                                   nullptr, library, nullptr)};
    const offload::EvpKeyHandle apart = key != nullptr ? offloaded(*key, engine) : nullptr;
    ERR_clear_error();
    if (leaf == nullptr || key == nullptr ||
        SSL_CTX_use_cert_and_key(&context, leaf.get(), apart ? apart.get() : key.get(), chain.get(),
                                 1) != 1) {
        return std::unexpected(file_error(TlsContextErrorKind::certificate_file, "certificate file",
                                          material.files.certificate_file, take_error_text()));
    }
    return apart != nullptr;
}

std::expected<int, std::string> add_trusted(X509_STORE& store, OSSL_LIB_CTX* library,
                                            const std::string& pem) {
    ERR_clear_error();
    const BioHandle text = reader_of(pem);
    int count = 0;
    while (const CertificateHandle next = next_certificate(text.get(), library)) {
        if (X509_STORE_add_cert(&store, next.get()) != 1) return std::unexpected(take_error_text());
        ++count;
    }
    const unsigned long last = ERR_peek_last_error();
    const bool at_end =
        ERR_GET_LIB(last) == ERR_LIB_PEM && ERR_GET_REASON(last) == PEM_R_NO_START_LINE;
    if (count == 0 || !at_end) return std::unexpected(take_error_text());
    ERR_clear_error();
    return count;
}

/// What a certificate file must be to be trusted, said before any shard hears of it.
std::expected<void, std::string> check_trusted(const std::string& pem) {
    const std::unique_ptr<X509_STORE, Release<X509_STORE_free>> store{X509_STORE_new()};
    const auto added = add_trusted(*store, nullptr, pem);
    if (!added) return std::unexpected(added.error());
    return {};
}

/// Reads a file of revocation lists; none when it has no name.
std::expected<void, TlsContextError> read_lists(const std::string& file, std::string& pem,
                                                std::vector<RevocationList>& lists) {
    if (file.empty()) return {};
    auto text = read_file(file);
    if (!text) return std::unexpected(crl_error(file, text.error()));
    auto read = read_revocation_lists(*text);
    if (!read) return std::unexpected(crl_error(file, read.error()));
    pem = std::move(*text);
    lists = std::move(*read);
    return {};
}

bool is_rehash_name(const std::string& name) {
    const std::size_t dot = name.find('.');
    const auto hex = [](unsigned char c) { return std::isxdigit(c) != 0; };
    const auto digit = [](unsigned char c) { return std::isdigit(c) != 0; };
    if (dot != 8 || dot + 1 == name.size()) return false;
    return std::all_of(name.begin(), name.begin() + 8, hex) &&
           std::all_of(name.begin() + 9, name.end(), digit);
}

/// OpenSSL's own directory look-up reads files during handshakes; this reads them now.
std::expected<void, TlsContextError> read_directory(const std::string& directory,
                                                    std::vector<std::string>& files) {
    std::error_code error;
    std::filesystem::directory_iterator entries{directory, error};
    for (; !error && entries != std::filesystem::directory_iterator{}; entries.increment(error)) {
        if (is_rehash_name(entries->path().filename().string()))
            files.push_back(entries->path().string());
    }
    if (!error) return {};
    return std::unexpected(TlsContextError{TlsContextErrorKind::ca_dir,
                                           "CA directory " + directory + ": " + error.message()});
}

/// Verifies for the record only: whether the certificate is somebody's credential is decided above.
int verify_for_the_record(X509_STORE_CTX* chain, void*) {
    static_cast<void>(X509_verify_cert(chain));
    return 1;
}

/// Sessions are bound to what was demanded of the client: a ticket from before client certificates
/// were asked for, or judged by other roots, must not stand for one.
std::array<unsigned char, 32> session_context(const ServerMaterial& material) {
    std::array<unsigned char, 32> digest{};
    std::string text = "millrace ";
    text += static_cast<char>('0' + static_cast<int>(material.options.client_auth));
    text += material.client_ca_pem;
    text += material.client_crl_pem; // a new list: who resumes is looked at anew
    static_cast<void>(
        EVP_Digest(text.data(), text.size(), digest.data(), nullptr, EVP_sha256(), nullptr));
    return digest;
}

std::expected<void, TlsContextError> ask_for_certificate(SSL_CTX& context, OSSL_LIB_CTX* library,
                                                         const ServerMaterial& material) {
    const ClientAuth wanted = material.options.client_auth;
    if (wanted == ClientAuth::none) return {};
    SSL_CTX_set_verify(&context,
                       wanted == ClientAuth::require
                           ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT
                           : SSL_VERIFY_PEER,
                       forgive_unlisted_issuer);
    SSL_CTX_set_verify_depth(&context, verify_depth_max);
    SSL_CTX_set_cert_verify_callback(&context, verify_for_the_record, nullptr);
    if (material.client_ca_pem.empty()) return {};
    const auto added =
        add_trusted(*SSL_CTX_get_cert_store(&context), library, material.client_ca_pem);
    if (!added) {
        return std::unexpected(file_error(TlsContextErrorKind::ca_file, "client CA file",
                                          material.options.client_ca_file, added.error()));
    }
    if (!material.client_crl_pem.empty()) {
        if (auto used = use_revocation_lists(context, library, material.client_crl_pem); !used)
            return std::unexpected(crl_error(material.options.client_crl_file, used.error()));
    }
    const BioHandle text = reader_of(material.client_ca_pem);
    while (const CertificateHandle next = next_certificate(text.get(), library))
        static_cast<void>(SSL_CTX_add_client_CA(&context, next.get()));
    ERR_clear_error();
    return {};
}

} // namespace

std::expected<ServerMaterialPtr, TlsContextError> load_server_material(const ServerOptions& options,
                                                                       base::WallTime now) {
    auto material = std::make_shared<ServerMaterial>();
    material->options = options;
    std::vector<CertificateFiles> all;
    if (!options.certificate_file.empty())
        all.push_back({options.certificate_file, options.key_file, options.ocsp_file, {}, true});
    all.insert(all.end(), options.more.begin(), options.more.end());
    for (const CertificateFiles& files : all) {
        auto loaded = load_certificate(files, now);
        if (!loaded) return std::unexpected(std::move(loaded.error()));
        material->certificates.push_back(std::move(*loaded));
    }
    if (!material->certificates.empty()) material->certificates.front().files.is_default = true;
    if (!options.client_ca_file.empty()) {
        auto pem = read_file(options.client_ca_file);
        const auto checked = pem ? check_trusted(*pem)
                                 : std::expected<void, std::string>{std::unexpect, pem.error()};
        if (!checked) {
            return std::unexpected(file_error(TlsContextErrorKind::ca_file, "client CA file",
                                              options.client_ca_file, checked.error()));
        }
        material->client_ca_pem = std::move(*pem);
    }
    if (auto read = read_lists(options.client_crl_file, material->client_crl_pem,
                               material->revocation_lists);
        !read)
        return std::unexpected(std::move(read.error()));
    return material;
}

std::expected<ClientMaterialPtr, TlsContextError>
load_client_material(const ClientContextOptions& options, base::WallTime now) {
    auto material = std::make_shared<ClientMaterial>();
    material->options = options;
    std::string file = options.ca_file;
    std::error_code ignored;
    if (file.empty() && options.ca_dir.empty() && std::filesystem::exists(system_bundle, ignored))
        file = system_bundle;
    std::vector<std::string> files;
    if (!options.ca_dir.empty()) {
        if (auto read = read_directory(options.ca_dir, files); !read)
            return std::unexpected(std::move(read.error()));
    }
    const auto take = [&](const std::string& path, TlsContextErrorKind kind,
                          const char* what) -> std::expected<void, TlsContextError> {
        auto pem = read_file(path);
        if (!pem) return std::unexpected(file_error(kind, what, path, pem.error()));
        if (const auto checked = check_trusted(*pem); !checked)
            return std::unexpected(file_error(kind, what, path, checked.error()));
        material->trusted_pem.push_back(std::move(*pem));
        return {};
    };
    if (!file.empty()) {
        if (auto taken = take(file, TlsContextErrorKind::ca_file, "CA file"); !taken)
            return std::unexpected(std::move(taken.error()));
    }
    for (const std::string& each : files) {
        if (auto taken = take(each, TlsContextErrorKind::ca_dir, "CA certificate"); !taken)
            return std::unexpected(std::move(taken.error()));
    }
    if (!options.certificate_file.empty()) {
        auto own =
            load_certificate({options.certificate_file, options.key_file, {}, {}, false}, now);
        if (!own) return std::unexpected(std::move(own.error()));
        material->certificate = std::make_shared<const CertificateMaterial>(std::move(*own));
    }
    if (auto read = read_lists(options.crl_file, material->crl_pem, material->revocation_lists);
        !read)
        return std::unexpected(std::move(read.error()));
    return material;
}

std::expected<std::unique_ptr<ServerSet>, TlsContextError>
ServerSet::build(LibCtxPtr library, const ServerMaterial& material, offload::Engine* engine) {
    std::unique_ptr<ServerSet> set{new ServerSet{std::move(library)}};
    const int version_min =
        material.options.policy == TlsPolicy::modern ? TLS1_3_VERSION : TLS1_2_VERSION;
    const auto context_id = session_context(material);
    std::map<std::vector<std::size_t>, SSL_CTX*> by_members;

    // One context for each set of certificates that serves some name: one of each kind of key.
    const auto context_of =
        [&](const std::vector<std::size_t>& members) -> std::expected<SSL_CTX*, TlsContextError> {
        if (const auto known = by_members.find(members); known != by_members.end())
            return known->second;
        auto made =
            make_context(set->library_.get(), TLS_server_method(), version_min, suites_strict);
        if (!made) return std::unexpected(std::move(made.error()));
        SSL_CTX& context = **made;
        // PRIORITIZE_CHACHA: a client that puts ChaCha20 first has no AES instructions.
        SSL_CTX_set_options(&context, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
        // Tickets carry the whole session, so that the server remembers nothing per client.
        SSL_CTX_set_session_cache_mode(&context, SSL_SESS_CACHE_OFF);
        SSL_CTX_set_session_id_context(&context, context_id.data(), context_id.size());
        SSL_CTX_set_tlsext_ticket_key_evp_cb(&context, seal_ticket);
        SSL_CTX_set_tlsext_servername_callback(&context, &ServerSet::on_server_name);
        SSL_CTX_set_tlsext_servername_arg(&context, set.get());
        SSL_CTX_set_tlsext_status_cb(&context, &ServerSet::on_status_request);
        SSL_CTX_set_tlsext_status_arg(&context, set.get());
        for (const std::size_t index : members) {
            const CertificateMaterial& each = material.certificates[index];
            auto apart = use_pair(context, set->library_.get(), each, engine);
            if (!apart) return std::unexpected(std::move(apart.error()));
            set->needs_jobs_ |= *apart;
            if (!each.ocsp_der.empty())
                set->staples_.push_back({SSL_CTX_get0_certificate(&context), each.ocsp_der});
        }
        if (auto asked = ask_for_certificate(context, set->library_.get(), material); !asked)
            return std::unexpected(std::move(asked.error()));
        set->contexts_.push_back(std::move(*made));
        by_members.emplace(members, set->contexts_.back().get());
        return set->contexts_.back().get();
    };

    std::set<std::string> names;
    for (const CertificateMaterial& each : material.certificates)
        names.insert(each.names.begin(), each.names.end());
    // Of several certificates with one kind of key the last would stand; the first is meant.
    const auto members_of = [&](const auto& serves) {
        std::vector<std::size_t> members;
        std::set<std::string> kinds;
        for (std::size_t i = 0; i < material.certificates.size(); ++i) {
            const CertificateMaterial& each = material.certificates[i];
            const std::string kind = each.info.key_type.substr(0, 3);
            if (serves(each) && kinds.insert(kind).second) members.push_back(i);
        }
        return members;
    };
    for (const std::string& name : names) {
        const auto context = context_of(members_of([&](const CertificateMaterial& each) {
            return std::ranges::find(each.names, name) != each.names.end();
        }));
        if (!context) return std::unexpected(context.error());
        set->by_name_.emplace(name.starts_with("*.") ? name.substr(1) : name, *context);
    }
    const auto fallback = context_of(
        members_of([](const CertificateMaterial& each) { return each.files.is_default; }));
    if (!fallback) return std::unexpected(fallback.error());
    set->fallback_ = *fallback;
    return set;
}

SSL_CTX* ServerSet::choose(std::string_view name) const {
    std::string low{name};
    for (char& c : low)
        c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (low.ends_with('.')) low.pop_back();
    if (low.starts_with('.')) return fallback_; // a key of ours, but no host name
    if (const auto exact = by_name_.find(low); exact != by_name_.end()) return exact->second;
    const std::size_t dot = low.find('.');
    if (dot == std::string::npos) return fallback_;
    const auto wildcard = by_name_.find(std::string_view{low}.substr(dot));
    return wildcard != by_name_.end() ? wildcard->second : fallback_;
}

int ServerSet::on_server_name(SSL* ssl, int*, void* self) noexcept {
    const char* name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    if (name == nullptr) return SSL_TLSEXT_ERR_NOACK;
    const auto& set = *static_cast<const ServerSet*>(self);
    SSL_CTX* chosen = set.choose(name);
    // A name that nobody has gets the default certificate; whether it will do is the client's say.
    if (SSL_set_SSL_CTX(ssl, chosen) != chosen) return SSL_TLSEXT_ERR_NOACK;
    return SSL_TLSEXT_ERR_OK;
}

int ServerSet::on_status_request(SSL* ssl, void* self) noexcept {
    const auto& set = *static_cast<const ServerSet*>(self);
    const X509* leaf = SSL_get_certificate(ssl);
    const auto staple = std::ranges::find(set.staples_, leaf, &Staple::leaf);
    if (staple == set.staples_.end()) return SSL_TLSEXT_ERR_NOACK;
    void* copy = OPENSSL_memdup(staple->der.data(), staple->der.size());
    if (copy == nullptr) return SSL_TLSEXT_ERR_NOACK;
    // The SSL owns the copy from here on.
    SSL_set_tlsext_status_ocsp_resp(ssl, copy, static_cast<long>(staple->der.size()));
    return SSL_TLSEXT_ERR_OK;
}

std::expected<std::unique_ptr<ClientSet>, TlsContextError>
ClientSet::build(LibCtxPtr library, const ClientMaterial& material) {
    std::unique_ptr<ClientSet> set{new ClientSet{std::move(library)}};
    OSSL_LIB_CTX* openssl = set->library.get();
    auto opportunistic = make_context(openssl, TLS_client_method(), TLS1_2_VERSION, suites_wide);
    if (!opportunistic) return std::unexpected(std::move(opportunistic.error()));
    auto verified = make_context(openssl, TLS_client_method(), TLS1_2_VERSION, suites_strict);
    if (!verified) return std::unexpected(std::move(verified.error()));
    for (const std::string& pem : material.trusted_pem) {
        const auto added = add_trusted(*SSL_CTX_get_cert_store(verified->get()), openssl, pem);
        if (!added) {
            return std::unexpected(file_error(TlsContextErrorKind::ca_file, "CA file",
                                              material.options.ca_file, added.error()));
        }
    }
    // An opportunistic connection is verified too, for the log; the parsed roots are shared.
    SSL_CTX_set1_cert_store(opportunistic->get(), SSL_CTX_get_cert_store(verified->get()));
    SSL_CTX_set_verify(opportunistic->get(), SSL_VERIFY_NONE, forgive_unlisted_issuer);
    SSL_CTX_set_verify(verified->get(), SSL_VERIFY_PEER, forgive_unlisted_issuer);
    if (!material.crl_pem.empty()) {
        if (auto used = use_revocation_lists(**verified, openssl, material.crl_pem); !used)
            return std::unexpected(crl_error(material.options.crl_file, used.error()));
        look_for_revocation(**opportunistic);
    }
    ERR_clear_error();
    if (SSL_CTX_dane_enable(verified->get()) != 1)
        return std::unexpected(library_error("OpenSSL does not do DANE"));
    static_cast<void>(SSL_CTX_dane_set_flags(verified->get(), DANE_FLAG_NO_DANE_EE_NAMECHECKS));
    for (SSL_CTX* context : {opportunistic->get(), verified->get()}) {
        SSL_CTX_set_verify_depth(context, verify_depth_max);
        // OpenSSL's own cache is not keyed by policy; ours is.
        SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(context, remember_session);
        if (material.certificate == nullptr) continue;
        if (auto used = use_pair(*context, openssl, *material.certificate, nullptr); !used)
            return std::unexpected(std::move(used.error()));
    }
    set->opportunistic = std::move(*opportunistic);
    set->verified = std::move(*verified);
    return set;
}

} // namespace tls_offload
