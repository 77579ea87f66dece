// version.h: which OpenSSL is at work, for reports.
#pragma once

#include <string>

namespace tls_offload {

/// As the library that was loaded names itself, with its date.
[[nodiscard]] std::string openssl_version();

} // namespace tls_offload
