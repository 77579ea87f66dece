// pki.h: certificate authorities for tests: chains of each kind of key, good ones and wrong ones.
//
// RSA keys are made once for each process and role: making one takes a tenth of a second.
#pragma once

#include "dataplane/base/clock.h"
#include "tls_offload/openssl.h"
#include "tls_offload/tls_stream.h"

#include <string>
#include <vector>

namespace tests {

namespace base = dataplane::base;

enum class KeyKind : std::uint8_t { rsa, ec, ed25519 };
[[nodiscard]] const char* to_string(KeyKind kind) noexcept;

struct Identity {
    tls_offload::KeyHandle key;
    tls_offload::CertificateHandle certificate;
};

struct LeafOptions {
    std::vector<std::string> names{"mx.example.com"}; // DNS names; one with @ is a mail address
    std::string common_name = "leaf";
    base::Duration valid_from = std::chrono::hours{-24}; // from the authority's now
    base::Duration valid_for = std::chrono::hours{24 * 90};
    bool must_staple = false;
};

class Authority {
public:
    Authority(KeyKind kind, base::WallTime now, const std::string& name = "Test Root");
    [[nodiscard]] Identity issue(KeyKind kind, const LeafOptions& options = {}) const;
    [[nodiscard]] const X509& certificate() const noexcept { return *own_.certificate; }
    /// An OCSP response in DER, from the authority itself.
    [[nodiscard]] std::string ocsp(const X509& leaf, int status, base::Duration this_update,
                                   base::Duration next_update) const;

    /// A revocation list in PEM that names these, from an hour before the authority's now.
    [[nodiscard]] std::string revocation_list(const std::vector<const X509*>& revoked,
                                              base::Duration next_update) const;

private:
    base::WallTime now_;
    Identity own_;
    mutable long serial_ = 1;
};

void write_file(const std::string& path, const std::string& bytes);
[[nodiscard]] std::string pem_of(const X509& certificate);
[[nodiscard]] std::string pem_of(EVP_PKEY& key);
/// Writes the leaf, then the authority, and the key beside it.
void write_pair(const Identity& identity, const Authority* authority, const std::string& chain_file,
                const std::string& key_file);

/// The record that stands for this certificate.
[[nodiscard]] tls_offload::TlsaRecord tlsa_of(const X509& certificate, std::uint8_t usage,
                                              std::uint8_t selector, std::uint8_t matching_type);

} // namespace tests
