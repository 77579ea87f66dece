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
#include <vector>

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

/// RFC 6698 §2.1, as it came from a zone whose signatures were checked.
struct TlsaRecord {
    std::uint8_t usage = 0; // 2: DANE-TA, 3: DANE-EE; RFC 7672 §3.1.3 knows no other for mail
    std::uint8_t selector = 0;
    std::uint8_t matching_type = 0;
    std::vector<std::uint8_t> data;
    bool operator==(const TlsaRecord&) const = default;
};
/// Whether a certificate can be held against the record at all.
[[nodiscard]] bool is_usable(const TlsaRecord& record) noexcept;

struct ClientOptions {
    // Sent as SNI unless it is an address. At TlsLevel::dane the TLSA base domain.
    std::string server_name;
    TlsLevel level = TlsLevel::may;
    // Whom the certificate must be for at TlsLevel::verify, and at dane with a record of usage 2:
    // one of these; ".example.com" is any name below it. Empty: server_name.
    std::vector<std::string> peer_names = {};
    // At TlsLevel::dane; at least one usable. Others are ignored.
    std::vector<TlsaRecord> tlsa = {};
    // Joins all of the above in the key under which sessions are remembered: whatever else tells
    // two destinations apart, such as the MX address. Resumption skips verification.
    std::string session_scope = {};
};

/// Serves one handshake. `context` may be replaced or destroyed while it runs.
[[nodiscard]] base::Task<std::expected<base::StreamPtr, TlsFailure>>
accept_tls(base::StreamPtr lower, ServerContext& context, base::Deadline deadline);

/// Makes one handshake as client. A TLS 1.3 server's alert about it may come only with the first
/// fill().
[[nodiscard]] base::Task<std::expected<base::StreamPtr, TlsFailure>>
connect_tls(base::StreamPtr lower, ClientContext& context, const ClientOptions& options,
            base::Deadline deadline);

/// The certificate that the other side has shown, and proved to have the key of.
struct PeerCertificate {
    std::string fingerprint;        // SHA-256, lower-case hexadecimal
    std::string subject;            // RFC 2253
    std::vector<std::string> names; // DNS names and mail addresses in it, lower case
};

/// What StreamInfo has no room for.
struct TlsState {
    bool verified = false;          // the peer sent a certificate, and it verifies (a client's also
                                    // for the name, at TlsLevel::verify and dane)
    std::string_view verify_result; // OpenSSL's words; static
    std::string_view authenticated_by;   // "ca", "dane-ta", "dane-ee"; empty when not verified
    std::string_view group;              // of the key exchange; empty when it is not known
    std::optional<PeerCertificate> peer; // of a client, on a server that asks for it
    std::optional<TlsFailure> failure;   // why the stream gave NetError::tls
};
/// Null when the stream is not TLS. Valid as long as the stream.
[[nodiscard]] const TlsState* tls_state(const base::Stream& stream) noexcept;

} // namespace tls_offload
