#include "dataplane/message/dkim/inline_signer.h"

#include "dataplane/message/dkim/openssl_handles.h"

#include <openssl/err.h>
#include <openssl/rsa.h>

namespace dataplane::message::dkim {
namespace {

const unsigned char* raw(const std::byte* bytes) noexcept {
    return reinterpret_cast<const unsigned char*>(bytes);
}

/// A context that signs or verifies the digest as it is, by PKCS#1 v1.5.
KeyContextHandle rsa_context(const SigningKey& key, int (*begin)(EVP_PKEY_CTX*)) noexcept {
    KeyContextHandle context{EVP_PKEY_CTX_new(key.native(), nullptr)};
    const bool ready = context && begin(context.get()) == 1 &&
                       EVP_PKEY_CTX_set_rsa_padding(context.get(), RSA_PKCS1_PADDING) == 1 &&
                       EVP_PKEY_CTX_set_signature_md(context.get(), EVP_sha256()) == 1;
    return ready ? std::move(context) : nullptr;
}

} // namespace

SignResult sign_inline(const SigningKey& key, const Digest& digest) noexcept {
    Signature made;
    made.size = made.bytes.size();
    auto* const out = reinterpret_cast<unsigned char*>(made.bytes.data());
    bool good = false;
    if (key.algorithm() == Algorithm::rsa_sha256) {
        const KeyContextHandle context = rsa_context(key, &EVP_PKEY_sign_init);
        good = context && EVP_PKEY_sign(context.get(), out, &made.size, raw(digest.data()),
                                        digest.size()) == 1;
    } else {
        const DigestContextHandle context{EVP_MD_CTX_new()};
        good =
            context &&
            EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key.native()) == 1 &&
            EVP_DigestSign(context.get(), out, &made.size, raw(digest.data()), digest.size()) == 1;
    }
    if (good && made.size == key.signature_bytes()) return made;
    ERR_clear_error();
    return std::unexpected(SignError::failed);
}

bool verifies(const SigningKey& key, const Digest& digest, const Signature& signature) noexcept {
    bool good = false;
    if (key.algorithm() == Algorithm::rsa_sha256) {
        const KeyContextHandle context = rsa_context(key, &EVP_PKEY_verify_init);
        good = context && EVP_PKEY_verify(context.get(), raw(signature.bytes.data()),
                                          signature.size, raw(digest.data()), digest.size()) == 1;
    } else {
        const DigestContextHandle context{EVP_MD_CTX_new()};
        good = context &&
               EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key.native()) == 1 &&
               EVP_DigestVerify(context.get(), raw(signature.bytes.data()), signature.size,
                                raw(digest.data()), digest.size()) == 1;
    }
    ERR_clear_error();
    return good;
}

base::Task<SignResult> InlineSigner::sign(std::shared_ptr<const SigningKey> key, Digest digest,
                                          base::Deadline) {
    co_return sign_inline(*key, digest);
}

} // namespace dataplane::message::dkim
