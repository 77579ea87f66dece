// tls_stream.h: TLS over any Stream, as a Stream.
//
// Scope      The handshake of either side, and the whole Stream interface on top of it. Whether to
//            speak TLS, and what a failure means for the mail, is decided above.
// Owns       The lower stream, from the call on: a failed handshake closes it. Blocks of the
//            shard's pool while bytes are unread, staged or on their way: at most one to read, one
//            staged, and send_blocks_max sealed. An idle connection holds none.
// Threading  As Stream: the loop of the TlsLibrary; one reader and one writer, which may be two
//            coroutines.
// Failure    The handshake returns TlsFailure. Afterwards NetError: what the lower stream said, or
//            NetError::tls, with the reason in tls_state().
//
// Small writes of one turn become one record at the turn's end; a full record leaves at once.
// Nothing but the lower stream's own failure, or close() and abort(), ends a lower write: a
// caller's deadline ends only the caller's wait, because half a record would be the end of the
// connection.
//
// The handshake reads the lower stream from its first unread byte. After STARTTLS the SMTP layer
// must therefore drop what is unread there before it calls accept_tls or connect_tls (RFC 3207 §5,
// and CVE-2011-0411: commands injected in plain text behind STARTTLS). Left alone, they fail the
// handshake.
//
// A FIN without close_notify is NetError::end_of_stream like one with it, and counted as truncated.
// The dot, BDAT and replies delimit themselves, so that a cut connection never passes for a whole
// message; and many peers do not send close_notify after QUIT.
#pragma once

#include "dataplane/base/stream.h"
#include "tls_offload/tls_context.h"

#include <expected>
#include <optional>
#include <string>
#include <string_view>

namespace tls_offload {

enum class TlsFailureReason : std::uint8_t {
    timed_out,
    cancelled,
    peer_closed, // end of stream in the handshake: often a peer that dislikes our offer
    network,     // the lower stream failed; see net_error
    alert,       // the peer ended it and said why; see alert
    certificate, // the peer's certificate does not verify
    protocol,    // no common version or suite, not TLS at all, or a broken message
    internal,    // OpenSSL failed for reasons of our own
};
[[nodiscard]] std::string_view to_string(TlsFailureReason reason) noexcept;

struct TlsFailure {
    TlsFailureReason reason = TlsFailureReason::internal;
    base::NetError net_error = base::NetError::tls; // as the lower stream or the wait gave it
    int alert = -1;                                 // RFC 8446 §6, when the reason is alert
    std::string text;                               // for logs and DSNs: OpenSSL's reason, or ours
};

struct ClientOptions {
    // Sent as SNI unless it is an address, and what the certificate must be for at
    // TlsLevel::verify. Empty: no SNI, which verify does not allow.
    std::string server_name;
    TlsLevel level = TlsLevel::may;
    // Joins server name and level in the key under which sessions are remembered: whatever else
    // tells two destinations or two policies apart, such as the MX address. Resumption skips
    // verification.
    std::string session_scope;
};

/// Serves one handshake. `context` may be replaced or destroyed while it runs.
[[nodiscard]] base::Task<std::expected<base::StreamPtr, TlsFailure>>
accept_tls(base::StreamPtr lower, ServerContext& context, base::Deadline deadline);

/// Makes one handshake as client. A TLS 1.3 server's alert about it may come only with the first
/// fill().
[[nodiscard]] base::Task<std::expected<base::StreamPtr, TlsFailure>>
connect_tls(base::StreamPtr lower, ClientContext& context, const ClientOptions& options,
            base::Deadline deadline);

/// What StreamInfo has no room for.
struct TlsState {
    bool verified = false;          // the peer sent a certificate, and it verifies (a client's also
                                    // for the name, at TlsLevel::verify)
    std::string_view verify_result; // OpenSSL's words; static
    std::optional<TlsFailure> failure; // why the stream gave NetError::tls
};
/// Null when the stream is not TLS. Valid as long as the stream.
[[nodiscard]] const TlsState* tls_state(const base::Stream& stream) noexcept;

} // namespace tls_offload
