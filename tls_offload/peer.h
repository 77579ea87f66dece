// peer.h: what a connection demands of its peer, and what it then knows of it.
//
// Scope      A client's options laid on an SSL; the key under which its sessions are remembered; the
//            peer's certificate and verdict in words; why a handshake failed. Internal to
//            tls_offload.
// Threading  Bound to the connection's shard.
// Failure    False when OpenSSL does not take the options: a name that is none, or no memory.
#pragma once

#include "dataplane/base/clock.h"
#include "tls_offload/openssl.h"
#include "tls_offload/tls_stream.h"

#include <string>

namespace tls_offload {

/// \param now  what certificates are judged by
[[nodiscard]] bool demand(SSL& ssl, const ClientOptions& options, base::WallTime now);
/// The same for both sides: the clock.
void set_time(SSL& ssl, base::WallTime now) noexcept;

[[nodiscard]] std::string session_key(const ClientOptions& options);

/// Fills in what a finished handshake has shown of the peer.
void describe_peer(SSL& ssl, TlsState& state);

/// Why the last OpenSSL call on this connection failed, from this thread's error queue.
[[nodiscard]] TlsFailure diagnose(const SSL& ssl);
/// Why the handshake could not go on waiting.
[[nodiscard]] TlsFailure wait_failure(base::NetError error);

/// The ticket callback's work (SSL_CTX_set_tlsext_ticket_key_evp_cb): -1 error, 0 no such key,
/// 1 go on, 2 go on and replace the ticket.
int use_ticket_key(const TicketKeys& keys, const EVP_CIPHER& cipher, bool renew_always,
                   unsigned char* name, unsigned char* vector, EVP_CIPHER_CTX* cipher_context,
                   EVP_MAC_CTX* mac, bool sealing) noexcept;

} // namespace tls_offload
