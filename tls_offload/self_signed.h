// self_signed.h: a certificate for a first start and for tests.
//
// Scope      One ECDSA P-256 key and a certificate for one host name, signed by itself, valid for
//            ten years. It encrypts; nobody who checks names will trust it.
// Threading  Any. Blocks on file operations: start-up only.
// Failure    A text naming the file and the reason. Files are written whole or not at all; existing
//            ones are replaced.
#pragma once

#include "dataplane/base/clock.h"

#include <expected>
#include <string>

namespace tls_offload {

namespace base = dataplane::base;

/// \param hostname          a DNS name (letters, digits, hyphens, dots, underscores) or an address
/// \param key_file          written with mode 0600, before the certificate
/// \param now               what the validity counts from, less a day for clocks that lag
[[nodiscard]] std::expected<void, std::string> make_self_signed(const std::string& hostname,
                                                                const std::string& certificate_file,
                                                                const std::string& key_file,
                                                                base::WallTime now);

} // namespace tls_offload
