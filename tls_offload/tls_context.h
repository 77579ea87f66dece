// tls_context.h: what a shard sets up once so that its streams can speak TLS.
//
// Scope      TlsLibrary (one OpenSSL library context per shard), ServerContext (certificate and
//            policy of a listener), ClientContext (trust and the session cache of deliveries).
// Owns       Streams hold references to what they use: a context may be replaced or destroyed while
//            its connections go on, and the old one dies with the last of them.
// Threading  All bound to the shard of the TlsLibrary's Loop. OpenSSL 3.0 takes locks on everything
//            that hangs off a library context, so shards share none.
// Failure    create() reads files, which blocks: for start-up, tools and tests. A running shard is
//            given finished sets by keeper.h instead. It returns TlsContextError. Out of memory in
//            TlsLibrary's constructor throws std::runtime_error (start-up).
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/ref.h"
#include "tls_offload/certificate.h"
#include "tls_offload/limits.h"
#include "tls_offload/ticket_keys.h"

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <vector>

namespace tls_offload {

namespace offload {
class Engine;
}
struct LibraryState;
struct ServerState;
struct ClientState;

struct TlsCounters {
    std::uint64_t accepted = 0;         // finished handshakes, server side
    std::uint64_t connected = 0;        // finished handshakes, client side
    std::uint64_t resumed = 0;          // of both
    std::uint64_t handshake_failed = 0; // of both; timeouts and cancellations included
    std::uint64_t truncated = 0;        // the peer sent FIN without close_notify
    std::uint64_t broken = 0;           // a TLS error after the handshake
    std::uint64_t put_off = 0;          // steps of handshakes that waited for the next turn
    std::uint64_t no_job = 0; // steps without a job to pause in: a signature is made on the shard
};

class TlsLibrary {
public:
    explicit TlsLibrary(base::Loop& loop);
    ~TlsLibrary();
    TlsLibrary(const TlsLibrary&) = delete;
    TlsLibrary& operator=(const TlsLibrary&) = delete;

    [[nodiscard]] const TlsCounters& counters() const noexcept;
    /// Buffers lent to streams that hold bytes right now; 0 when all are idle.
    [[nodiscard]] std::size_t lent_blocks() const noexcept;
    /// Has the RSA keys of server contexts that are made from now on sign through the engine, while the
    /// shard goes on. On the shard's thread. What is left of the connections must be gone before the engine
    /// is, or the loop's tasks dropped: a waiting handshake is given up with its stream.
    void sign_with(offload::Engine& engine,
                   std::size_t handshakes_max = signing_handshakes_max) noexcept;
    /// Handshakes that wait for a signature.
    [[nodiscard]] std::size_t signing_handshakes() const noexcept;
    /// Connections that have an SSL object.
    [[nodiscard]] std::size_t connection_count() const noexcept;
    /// Seals and opens tickets with these from now on. Until then the library has keys of its own.
    void use_ticket_keys(TicketKeysPtr keys) noexcept;

private:
    friend class ServerContext;
    friend class ClientContext;
    friend class TlsPort;
    base::Ref<LibraryState> state_;
};

/// What a server offers. Both have AEAD suites with (EC)DHE only, session tickets and resumption;
/// no renegotiation, early data or compression.
enum class TlsPolicy : std::uint8_t {
    modern,       // TLS 1.3
    intermediate, // TLS 1.2 and 1.3
};

/// Whether clients are asked for a certificate. None is refused in the handshake for what it is:
/// whose it is, and whether that suffices, is decided above by PeerCertificate.
enum class ClientAuth : std::uint8_t { none, request, require };

struct ServerOptions {
    // The default pair: for whoever asks for no name, or for one that no other certificate has.
    std::string certificate_file; // PEM: the leaf first, then its chain
    std::string key_file;         // PEM, not encrypted
    TlsPolicy policy = TlsPolicy::intermediate;
    std::string ocsp_file = {};              // DER, of the default pair; empty: nothing is stapled
    std::vector<CertificateFiles> more = {}; // by name, or of another kind of key
    ClientAuth client_auth = ClientAuth::none;
    std::string client_ca_file = {};  // whose client certificates verify; empty: nobody's
    std::string client_crl_file = {}; // revocation lists for them; empty: none
    bool operator==(const ServerOptions&) const = default;
};

class ServerContext {
public:
    [[nodiscard]] static std::expected<ServerContext, TlsContextError>
    create(TlsLibrary& library, const ServerOptions& options);
    ServerContext(ServerContext&&) noexcept;
    ServerContext& operator=(ServerContext&&) noexcept;
    ~ServerContext();

    [[nodiscard]] const base::Ref<ServerState>& state() const noexcept { return state_; }

private:
    friend class TlsPort;
    explicit ServerContext(base::Ref<ServerState> state) noexcept;
    base::Ref<ServerState> state_;
};

/// How much TLS a destination must show. Falling back after a failure is the caller's business.
enum class TlsLevel : std::uint8_t {
    none,    // never passed to connect_tls
    may,     // any certificate; the widest set of suites that TLS 1.2 and 1.3 have
    encrypt, // as may: the difference is what the caller does without TLS
    verify,  // a chain to a known CA, a right name, AEAD with forward secrecy
    dane,    // a certificate that one of the TLSA records stands for (RFC 7672), AEAD
};

struct ClientContextOptions {
    // Trust for TlsLevel::verify. Both empty: the system's bundle, and its absence is no error, for
    // then no certificate verifies. A directory is as c_rehash makes it, and is read whole at once.
    std::string ca_file;
    std::string ca_dir;
    std::size_t session_keys_max = tls_offload::session_keys_max; // 0: never resume
    std::string certificate_file = {}; // shown to hosts that ask for one; empty: none
    std::string key_file = {};
    std::string crl_file = {}; // revocation lists for hosts' certificates, PEM; empty: none
    bool operator==(const ClientContextOptions&) const = default;
};

class ClientContext {
public:
    [[nodiscard]] static std::expected<ClientContext, TlsContextError>
    create(TlsLibrary& library, const ClientContextOptions& options);
    ClientContext(ClientContext&&) noexcept;
    ClientContext& operator=(ClientContext&&) noexcept;
    ~ClientContext();

    /// Destinations whose sessions are remembered.
    [[nodiscard]] std::size_t session_key_count() const noexcept;
    [[nodiscard]] const base::Ref<ClientState>& state() const noexcept { return state_; }

private:
    friend class TlsPort;
    explicit ClientContext(base::Ref<ClientState> state) noexcept;
    base::Ref<ClientState> state_;
};

} // namespace tls_offload
