#include "dataplane/message/dkim/key.h"

#include "dataplane/base/check.h"
#include "dataplane/message/dkim/base64.h"
#include "dataplane/message/dkim/inline_signer.h"
#include "dataplane/message/dkim/limits.h"
#include "dataplane/message/dkim/openssl_handles.h"

#include <array>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/x509.h>
#include <vector>

namespace dataplane::message::dkim {
namespace {

constexpr std::string_view make_one = "; make one with: millracectl dkim keygen";
constexpr std::size_t ed25519_bytes = 32;

/// Reading a key never asks anybody for a password.
int no_password(char*, int, int, void*) {
    return -1;
}

EVP_PKEY* read_pem(std::string_view text) {
    const BioHandle source{BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))};
    EVP_PKEY* key =
        source ? PEM_read_bio_PrivateKey(source.get(), nullptr, &no_password, nullptr) : nullptr;
    ERR_clear_error();
    return key;
}

/// A seed, or a seed with its public key behind it, as libsodium keeps them.
EVP_PKEY* read_ed25519(std::string_view text) {
    std::string bytes;
    if (!decode_base64(text, bytes) ||
        (bytes.size() != ed25519_bytes && bytes.size() != 2 * ed25519_bytes))
        return nullptr;
    const auto* raw = reinterpret_cast<const unsigned char*>(bytes.data());
    KeyHandle key{EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, raw, ed25519_bytes)};
    std::array<unsigned char, ed25519_bytes> made{};
    std::size_t made_bytes = made.size();
    const bool right = key &&
                       EVP_PKEY_get_raw_public_key(key.get(), made.data(), &made_bytes) == 1 &&
                       (bytes.size() == ed25519_bytes ||
                        std::equal(made.begin(), made.end(), raw + ed25519_bytes));
    OPENSSL_cleanse(bytes.data(), bytes.size());
    ERR_clear_error();
    return right ? key.release() : nullptr; // to SigningKey::adopt()
}

std::string public_text(EVP_PKEY* key, bool raw) {
    std::string bytes;
    if (raw) {
        bytes.resize(ed25519_bytes);
        std::size_t size = bytes.size();
        CHECK(EVP_PKEY_get_raw_public_key(key, reinterpret_cast<unsigned char*>(bytes.data()),
                                          &size) == 1);
    } else {
        unsigned char* der = nullptr;
        const int size = i2d_PUBKEY(key, &der);
        CHECK(size > 0);
        bytes.assign(reinterpret_cast<const char*>(der), static_cast<std::size_t>(size));
        OPENSSL_free(der);
    }
    std::string text;
    append_base64(text, bytes);
    return text;
}

} // namespace

std::string_view to_string(Algorithm algorithm) noexcept {
    return algorithm == Algorithm::rsa_sha256 ? "rsa-sha256" : "ed25519-sha256";
}

SigningKey::~SigningKey() {
    EVP_PKEY_free(key_);
}

std::size_t SigningKey::signature_bytes() const noexcept {
    return algorithm_ == Algorithm::rsa_sha256 ? static_cast<std::size_t>(bits_) / 8 : 64;
}

SigningKey::Result SigningKey::parse(std::string_view text) {
    if (text.size() > key_file_bytes_max) return std::unexpected("is too large for a key");
    if (text.find("-----BEGIN ENCRYPTED") != std::string_view::npos ||
        text.find("Proc-Type: 4,ENCRYPTED") != std::string_view::npos) {
        return std::unexpected(
            "is encrypted, and nobody is there to type a password; decrypt it with: "
            "openssl pkey -in FILE -out NEW");
    }
    if (text.find("-----BEGIN PUBLIC KEY") != std::string_view::npos)
        return std::unexpected("has a public key; name the private one");
    const bool pem = text.find("-----BEGIN ") != std::string_view::npos;
    EVP_PKEY* key = pem ? read_pem(text) : read_ed25519(text);
    if (key == nullptr) {
        return std::unexpected(
            std::string{pem ? "has no private key that can be read"
                            : "is neither a PEM private key nor the base64 of an Ed25519 key"}
                .append(make_one));
    }
    return adopt(key);
}

SigningKey::Result SigningKey::adopt(evp_pkey_st* key) {
    const std::shared_ptr<SigningKey> made{new SigningKey(key)};
    const int type = EVP_PKEY_get_base_id(key);
    if (type != EVP_PKEY_RSA && type != EVP_PKEY_ED25519)
        return std::unexpected(
            std::string{"is neither an RSA nor an Ed25519 key"}.append(make_one));
    made->algorithm_ = type == EVP_PKEY_RSA ? Algorithm::rsa_sha256 : Algorithm::ed25519_sha256;
    made->bits_ = EVP_PKEY_get_bits(key);
    if (type == EVP_PKEY_RSA && made->bits_ < rsa_bits_min) {
        return std::unexpected("has " + std::to_string(made->bits_) +
                               " bits, and receivers trust no RSA key "
                               "below " +
                               std::to_string(rsa_bits_min) + " (RFC 8301)" +
                               std::string{make_one});
    }
    if (type == EVP_PKEY_RSA && (made->bits_ > rsa_bits_max || made->bits_ % 64 != 0)) {
        return std::unexpected("has " + std::to_string(made->bits_) +
                               " bits, and receivers need not check RSA keys above " +
                               std::to_string(rsa_bits_max) + " (RFC 8301)" +
                               std::string{make_one});
    }
    if (!sign_inline(*made, Digest{}) ||
        !verifies(*made, Digest{}, *sign_inline(*made, Digest{}))) {
        return std::unexpected(
            std::string{"has numbers that do not belong together: what it signs does not verify"}
                .append(make_one));
    }
    made->public_ = dkim::public_text(key, made->algorithm_ == Algorithm::ed25519_sha256);
    return made;
}

SigningKey::Result SigningKey::generate(Algorithm algorithm, int bits) {
    const bool rsa = algorithm == Algorithm::rsa_sha256;
    EVP_PKEY* key = rsa ? EVP_RSA_gen(static_cast<unsigned>(bits))
                        : EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519");
    if (key == nullptr) return std::unexpected("OpenSSL could not make a key");
    return adopt(key);
}

std::string SigningKey::to_pem() const {
    const BioHandle sink{BIO_new(BIO_s_mem())};
    CHECK(sink && PEM_write_bio_PKCS8PrivateKey(sink.get(), key_, nullptr, nullptr, 0, nullptr,
                                                nullptr) == 1);
    char* text = nullptr;
    const long bytes = BIO_get_mem_data(sink.get(), &text);
    return {text, static_cast<std::size_t>(bytes)};
}

} // namespace dataplane::message::dkim
