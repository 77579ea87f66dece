#include "tls_offload/openssl.h"

#include <system_error>

namespace tls_offload {

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
