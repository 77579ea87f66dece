// openssl.h: owners of OpenSSL's handles, and its error queue as values. Internal to tls_offload.
//
// Threading  The error queue is the calling thread's.
#pragma once

#include <memory>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <string>

namespace tls_offload {

template <auto release>
struct Release {
    template <class Handle>
    void operator()(Handle* handle) const noexcept {
        static_cast<void>(release(handle));
    }
};
using LibCtxHandle = std::unique_ptr<OSSL_LIB_CTX, Release<OSSL_LIB_CTX_free>>;
using SslCtxHandle = std::unique_ptr<SSL_CTX, Release<SSL_CTX_free>>;
using SslHandle = std::unique_ptr<SSL, Release<SSL_free>>;
using SessionHandle = std::unique_ptr<SSL_SESSION, Release<SSL_SESSION_free>>;
using BioMethodHandle = std::unique_ptr<BIO_METHOD, Release<BIO_meth_free>>;
using BioHandle = std::unique_ptr<BIO, Release<BIO_free_all>>;
using KeyHandle = std::unique_ptr<EVP_PKEY, Release<EVP_PKEY_free>>;
using CertificateHandle = std::unique_ptr<X509, Release<X509_free>>;
using CipherHandle = std::unique_ptr<EVP_CIPHER, Release<EVP_CIPHER_free>>;
using ExtensionHandle = std::unique_ptr<X509_EXTENSION, Release<X509_EXTENSION_free>>;

/// Lower-case hexadecimal SHA-256 of the whole certificate; empty when it cannot be made.
[[nodiscard]] std::string fingerprint_of(const X509& certificate);
/// There is nobody to ask for a pass phrase; OpenSSL's default asks the terminal.
[[nodiscard]] int refuse_pass_phrase(char*, int, int, void*) noexcept;
/// What a packed error code says in words: OpenSSL's reason, or errno's when it is a system error.
[[nodiscard]] std::string error_text(unsigned long code);
/// The oldest error of this thread's queue in words; empties the queue.
[[nodiscard]] std::string take_error_text();

} // namespace tls_offload
