// offload_key_fuzz.cc: whatever a key file has in it, the engine takes no key with which it cannot sign.
#define OPENSSL_SUPPRESS_DEPRECATED // as the room itself: tls_offload/engine/meson.build
#include "dataplane/base/check.h"
#include "tls_offload/engine/key_state.h"
#include "tls_offload/engine/private_key.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509.h>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace tls_offload::offload;
    static_cast<void>(PrivateKey::from_pem({reinterpret_cast<const char*>(data), size}));
    const unsigned char* at = data;
    EVP_PKEY* parsed = d2i_AutoPrivateKey(nullptr, &at, static_cast<long>(size));
    ERR_clear_error();
    if (parsed == nullptr) return 0;
    const auto key = PrivateKey::from_evp(*parsed);
    EVP_PKEY_free(parsed);
    if (!key) {
        CHECK(!key.error().text.empty());
        return 0;
    }
    std::array<std::byte, block_bytes_max> block, signature;
    const std::size_t bytes = (*key)->modulus_bytes();
    pad_pkcs1_sha256(Sha256Digest{}, std::span{block}.first(bytes));
    RSA* local = local_rsa(**key);
    CHECK(local != nullptr);
    CHECK(sign_block(*local, std::span{block}.first(bytes), std::span{signature}.first(bytes)));
    CHECK(verify_block(*(*key)->state().verifier, std::span{block}.first(bytes),
                       std::span{signature}.first(bytes)));
    return 0;
}
