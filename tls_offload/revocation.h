// revocation.h: certificate revocation lists (RFC 5280 §5) from a file, and what they do to a verification.
//
// Scope      Complete lists in PEM, several in one file. A certificate, of the peer or of an authority between, is held
//            against its issuer's list when the file has one; of issuers without a list nothing is asked, for one
//            list must not shut out every other authority. A list that has run out shuts out its issuer's
//            certificates: whoever holds back the new one must not keep a revoked certificate alive.
// Owns       Nothing: the lists become the context's.
// Threading  As server_set.h.
// Failure    OpenSSL's reason, in words. Internal to tls_offload.
#pragma once

#include "dataplane/base/clock.h"
#include "tls_offload/openssl.h"

#include <expected>
#include <string>
#include <vector>

namespace tls_offload {

struct RevocationList {
    std::string issuer;                                             // RFC 2253
    std::chrono::sys_time<std::chrono::milliseconds> next_update{}; // 0: it says none
};
/// What is in the file; at least one list.
[[nodiscard]] std::expected<std::vector<RevocationList>, std::string>
read_revocation_lists(const std::string& pem);

/// Adds the lists to the context's store and has its verifications look into them. The context's own verify
/// callback must be forgive_unlisted_issuer.
[[nodiscard]] std::expected<void, std::string>
use_revocation_lists(SSL_CTX& context, OSSL_LIB_CTX* library, const std::string& pem);
/// Has a context that shares the other one's store look into its lists.
void look_for_revocation(SSL_CTX& context) noexcept;
[[nodiscard]] int forgive_unlisted_issuer(int good, X509_STORE_CTX* chain) noexcept;

/// One sentence for each list that has run out.
[[nodiscard]] std::vector<std::string>
concerns(const std::string& file, const std::vector<RevocationList>& lists,
         std::chrono::sys_time<std::chrono::milliseconds> now);

} // namespace tls_offload
