// server_set.h: the certificates of a server as OpenSSL objects, and which of them a client gets.
//
// Scope      Made from certificate bytes for one shard's library, off the shard when it is not the
//            start; used by that shard alone. SNI: the exact name, then the wildcard, then the
//            default. A client context set is made the same way.
// Owns       Its SSL_CTXs, which connections hold on to.
// Threading  Built on any thread; then of one shard. Never changed after it was built.
// Failure    TlsContextError. Internal to tls_offload.
#pragma once

#include "tls_offload/certificate.h"
#include "tls_offload/openssl.h"
#include "tls_offload/revocation.h"
#include "tls_offload/tls_context.h"

#include <expected>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tls_offload {

/// Everything a server needs, read from files once for all shards.
struct ServerMaterial {
    ServerOptions options;
    std::vector<CertificateMaterial> certificates; // the first one is always a default
    std::string client_ca_pem;                     // empty: none
    std::string client_crl_pem;                    // empty: none
    std::vector<RevocationList> revocation_lists;  // what is in it
};
using ServerMaterialPtr = std::shared_ptr<const ServerMaterial>;
[[nodiscard]] std::expected<ServerMaterialPtr, TlsContextError>
load_server_material(const ServerOptions& options, base::WallTime now);

/// The same of a client.
struct ClientMaterial {
    ClientContextOptions options;
    std::vector<std::string> trusted_pem;                   // whole files
    std::shared_ptr<const CertificateMaterial> certificate; // null: none is shown
    std::string crl_pem;                                    // empty: none
    std::vector<RevocationList> revocation_lists;           // what is in it
};
using ClientMaterialPtr = std::shared_ptr<const ClientMaterial>;
[[nodiscard]] std::expected<ClientMaterialPtr, TlsContextError>
load_client_material(const ClientContextOptions& options, base::WallTime now);

using LibCtxPtr = std::shared_ptr<OSSL_LIB_CTX>; // shared: sets of an old configuration outlive it

class ServerSet {
public:
    /// \param engine  of the shard that will use it, for its RSA keys; only kept here. Null: they sign on the spot
    [[nodiscard]] static std::expected<std::unique_ptr<ServerSet>, TlsContextError>
    build(LibCtxPtr library, const ServerMaterial& material, offload::Engine* engine = nullptr);
    ServerSet(const ServerSet&) = delete;
    ServerSet& operator=(const ServerSet&) = delete;

    /// What connections begin with, before the client has named a host.
    [[nodiscard]] SSL_CTX* fallback() const noexcept { return fallback_; }
    /// The context for a name; fallback() when nobody has it.
    [[nodiscard]] SSL_CTX* choose(std::string_view name) const;
    [[nodiscard]] const std::vector<SslCtxHandle>& contexts() const noexcept { return contexts_; }
    /// Whether some key signs through the engine, for which its handshakes need jobs to pause in.
    [[nodiscard]] bool needs_jobs() const noexcept { return needs_jobs_; }

private:
    struct Staple {
        const X509* leaf; // of one of the contexts
        std::string der;
    };
    explicit ServerSet(LibCtxPtr library) noexcept : library_(std::move(library)) {}
    static int on_server_name(SSL* ssl, int* alert, void* self) noexcept;
    static int on_status_request(SSL* ssl, void* self) noexcept;

    LibCtxPtr library_; // before what was made from it
    std::vector<SslCtxHandle> contexts_;
    std::map<std::string, SSL_CTX*, std::less<>> by_name_; // wildcards as ".example.com"
    std::vector<Staple> staples_;
    SSL_CTX* fallback_ = nullptr;
    bool needs_jobs_ = false;
};

class ClientSet {
public:
    [[nodiscard]] static std::expected<std::unique_ptr<ClientSet>, TlsContextError>
    build(LibCtxPtr library, const ClientMaterial& material);
    ClientSet(const ClientSet&) = delete;
    ClientSet& operator=(const ClientSet&) = delete;

    LibCtxPtr library;
    SslCtxHandle opportunistic; // may, encrypt
    SslCtxHandle verified;      // dane, verify, secure

private:
    explicit ClientSet(LibCtxPtr owner) noexcept : library(std::move(owner)) {}
};

} // namespace tls_offload
