// certificate.h: certificates as they lie in files: read once, judged, described.
//
// Scope      One pair of files (PEM chain and key), and the OCSP response beside it. What is read is
//            bytes and a description; each shard makes OpenSSL's objects from the bytes for itself.
// Owns       Its values; keys are wiped when the last holder lets go.
// Threading  Any but a shard: it reads files.
// Failure    TlsContextError, which names the file, the reason and what to do. A bad OCSP response
//            is no failure of the certificate: it is described, and not used.
#pragma once

#include "dataplane/base/clock.h"

#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tls_offload {

namespace base = dataplane::base;

enum class TlsContextErrorKind : std::uint8_t {
    library,          // OpenSSL itself: out of memory, or a policy it does not know
    certificate_file, // missing, unreadable, or not a PEM certificate chain
    key_file,         // missing, unreadable, encrypted, or not a PEM private key
    key_mismatch,     // the key is not the certificate's
    names,            // a certificate is not for the names it is configured for
    ca_file,
    ca_dir,
    crl_file,
};
struct TlsContextError {
    TlsContextErrorKind kind = TlsContextErrorKind::library;
    std::string text; // names the file and gives the reason
};

struct CertificateFiles {
    std::string certificate_file;   // PEM: the leaf first, then its chain
    std::string key_file;           // PEM, not encrypted
    std::string ocsp_file;          // DER; empty: nothing is stapled
    std::vector<std::string> names; // what it serves by SNI; empty: the names in the certificate
    bool is_default = false;        // also serves who asks for no name, or for one that nobody has
    bool operator==(const CertificateFiles&) const = default;
};

enum class OcspState : std::uint8_t {
    none,     // no file is configured
    good,     // stapled
    stale,    // past its nextUpdate: not stapled, for clients refuse it
    unusable, // missing, broken, of another certificate, or not "good": not stapled
};
[[nodiscard]] std::string_view to_string(OcspState state) noexcept;

struct CertificateInfo {
    std::string subject, issuer;    // RFC 2253
    std::string key_type;           // "RSA-2048", "EC P-256", "Ed25519"
    std::string fingerprint;        // SHA-256 of the leaf, lower-case hexadecimal
    std::vector<std::string> names; // DNS names and addresses of the leaf, lower case
    base::WallTime not_before{}, not_after{};
    std::size_t chain_length = 0; // certificates in the file, the leaf included
    bool self_signed = false;
    bool must_staple = false; // RFC 7633: clients insist on an OCSP response
    OcspState ocsp = OcspState::none;
    std::string ocsp_text; // why it is not good
    base::WallTime ocsp_this_update{}, ocsp_next_update{};
};

/// Text that is wiped before its memory goes back.
class Secret {
public:
    explicit Secret(std::string text) noexcept : text_(std::move(text)) {}
    ~Secret();
    Secret(const Secret&) = delete;
    Secret& operator=(const Secret&) = delete;
    [[nodiscard]] const std::string& text() const noexcept { return text_; }

private:
    std::string text_;
};

/// One pair, read and found to belong together.
struct CertificateMaterial {
    CertificateFiles files;
    std::string chain_pem;
    std::shared_ptr<const Secret> key_pem; // shared: the shards' sets are built from one copy
    std::string ocsp_der;                  // to staple; empty when there is nothing good
    CertificateInfo info;
    std::vector<std::string> names; // served by SNI, lower case
};

[[nodiscard]] std::expected<CertificateMaterial, TlsContextError>
load_certificate(const CertificateFiles& files, base::WallTime now);

/// What an operator should know of it, one sentence each: soon or already expired, not yet valid,
/// a chain out of order, must-staple without a response.
[[nodiscard]] std::vector<std::string> concerns(const CertificateMaterial& material,
                                                base::WallTime now);

/// \param names  lower case: exact ones, and "*.example.com" for one label more
[[nodiscard]] bool covers(const std::vector<std::string>& names, std::string_view name) noexcept;

/// A whole file, at most file_bytes_max.
[[nodiscard]] std::expected<std::string, std::string> read_file(const std::string& path);

} // namespace tls_offload
