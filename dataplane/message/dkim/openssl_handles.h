// openssl_handles.h: owners of OpenSSL's handles. Internal to this folder.
#pragma once

#include <memory>
#include <openssl/bio.h>
#include <openssl/evp.h>

namespace dataplane::message::dkim {

template <auto release>
struct Release {
    template <class Handle>
    void operator()(Handle* handle) const noexcept {
        static_cast<void>(release(handle));
    }
};
using BioHandle = std::unique_ptr<BIO, Release<BIO_free_all>>;
using KeyHandle = std::unique_ptr<EVP_PKEY, Release<EVP_PKEY_free>>;
using KeyContextHandle = std::unique_ptr<EVP_PKEY_CTX, Release<EVP_PKEY_CTX_free>>;
using DigestContextHandle = std::unique_ptr<EVP_MD_CTX, Release<EVP_MD_CTX_free>>;

} // namespace dataplane::message::dkim
