#include "tls_offload/version.h"

#include <openssl/crypto.h>

namespace tls_offload {

std::string openssl_version() {
    return OpenSSL_version(OPENSSL_VERSION);
}

} // namespace tls_offload
