// mb8_kernel.h: Intel's crypto_mb library as a kernel: eight private-key operations at once.
//
// Scope      Finds libcrypto_mb.so at run time; nothing of it is needed to build. RSA-2048, 3072 and 4096;
//            other sizes, and fewer than lanes_worth_it jobs, go to OpenSSL one by one, which is faster then.
//            Every lane's result is verified by OpenSSL's public operation, which is another
//            implementation, before it is called signed.
// Owns       The loaded library, for the life of the process.
// Threading  The library may be shared; one kernel per thread.
// Failure    open() says what is missing: the file, a symbol, or the CPU's instructions.
#pragma once

#include "tls_offload/engine/kernel.h"

#include <expected>
#include <memory>
#include <string>

namespace tls_offload::offload {

class Mb8Library {
public:
    /// \param file  empty: where the system's loader finds it
    [[nodiscard]] static std::expected<std::shared_ptr<const Mb8Library>, std::string>
    open(const std::string& file = {});

    [[nodiscard]] std::unique_ptr<Kernel> make_kernel() const;

private:
    explicit Mb8Library(void* sign) noexcept : sign_(sign) {}
    void* sign_; // mbx_rsa_private_crt_ssl_mb8
};

} // namespace tls_offload::offload
