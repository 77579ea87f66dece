// key.h: a private key that signs, and what the world needs to check it.
//
// Scope      Reads PEM (PKCS#8 and PKCS#1) and the base64 that some tools keep Ed25519 keys in; refuses
//            keys that receivers do not take; signs once to see that its numbers belong together.
// Owns       The key, in OpenSSL's memory, until the last reference goes.
// Threading  Immutable and shared by all shards: the count of references is atomic because a policy that
//            a shard still uses may be the last holder. Signing with it takes OpenSSL's locks; the shards'
//            engines make keys of their own from it.
// Failure    A sentence with the remedy; the caller names the file.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <string>
#include <string_view>

struct evp_pkey_st; // OpenSSL's EVP_PKEY

namespace dataplane::message::dkim {

enum class Algorithm : std::uint8_t { rsa_sha256, ed25519_sha256 };
[[nodiscard]] std::string_view to_string(Algorithm algorithm) noexcept; // as a= has it

class SigningKey {
public:
    using Result = std::expected<std::shared_ptr<const SigningKey>, std::string>;
    [[nodiscard]] static Result parse(std::string_view text);
    /// A new one. \param bits  of RSA
    [[nodiscard]] static Result generate(Algorithm algorithm, int bits);

    ~SigningKey();
    SigningKey(const SigningKey&) = delete;
    SigningKey& operator=(const SigningKey&) = delete;

    [[nodiscard]] Algorithm algorithm() const noexcept { return algorithm_; }
    [[nodiscard]] int bits() const noexcept { return bits_; }
    [[nodiscard]] std::size_t signature_bytes() const noexcept;
    [[nodiscard]] evp_pkey_st* native() const noexcept { return key_; }
    /// What p= in DNS has: base64 of the SubjectPublicKeyInfo (RFC 6376 §3.6.1), or of an Ed25519
    /// key's 32 bytes (RFC 8463 §4.2).
    [[nodiscard]] const std::string& public_text() const noexcept { return public_; }
    /// The key as an unencrypted PKCS#8 PEM.
    [[nodiscard]] std::string to_pem() const;

private:
    explicit SigningKey(evp_pkey_st* key) noexcept : key_(key) {}
    [[nodiscard]] static Result adopt(evp_pkey_st* key);

    evp_pkey_st* key_;
    Algorithm algorithm_ = Algorithm::rsa_sha256;
    int bits_ = 0;
    std::string public_;
};

} // namespace dataplane::message::dkim
