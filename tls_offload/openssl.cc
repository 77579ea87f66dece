#include "tls_offload/openssl.h"

#include <array>
#include <system_error>

namespace tls_offload {

std::string fingerprint_of(const X509& certificate) {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned bytes = 0;
    if (X509_digest(&certificate, EVP_sha256(), digest.data(), &bytes) != 1) return {};
    std::string text;
    for (unsigned i = 0; i < bytes; ++i) {
        constexpr std::string_view hex = "0123456789abcdef";
        text += hex[digest[i] >> 4];
        text += hex[digest[i] & 15];
    }
    return text;
}

int refuse_pass_phrase(char*, int, int, void*) noexcept {
    return -1;
}

std::string error_text(unsigned long code) {
    if (code == 0) return "no reason given by OpenSSL";
    if (ERR_SYSTEM_ERROR(code)) {
        return std::generic_category().message(ERR_GET_REASON(code));
    }
    const char* reason = ERR_reason_error_string(code);
    if (reason != nullptr) return reason;
    return "OpenSSL error " + std::to_string(code);
}

std::string take_error_text() {
    // The oldest entry is where it began: a missing file, not the "PEM lib" it became on the way
    // up.
    const unsigned long code = ERR_peek_error();
    ERR_clear_error();
    return error_text(code);
}

} // namespace tls_offload
