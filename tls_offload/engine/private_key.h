// private_key.h: an RSA private key as every backend can use it.
//
// Scope      RSA of 2048 to 4096 bits. Reading key files and choosing keys is above; a key arrives as a
//            PEM text or as what OpenSSL's default provider has loaded.
// Owns       Its numbers, outside of core dumps and, where the system allows, locked in memory; they are
//            overwritten when the key dies. A backend holds a reference for as long as a device may read.
// Threading  Bound to one shard: each shard loads its own. What crypto workers use of it is made by
//            prepare_for_workers() on the shard before the first of them sees the key.
// Failure    KeyFailure, with a sentence.
#pragma once

#include "dataplane/base/ref.h"
#include "tls_offload/engine/limits.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>
#include <string_view>

struct evp_pkey_st; // OpenSSL's EVP_PKEY

namespace tls_offload::offload {

enum class KeyError : std::uint8_t {
    unreadable,   // no PEM private key, or an encrypted one
    not_rsa,      // another kind of key
    bad_size,     // fewer than key_bits_min or more than key_bits_max, or no multiple of 64
    inconsistent, // its numbers do not belong together, or the two primes are missing
    library,      // OpenSSL itself: out of memory
};
struct KeyFailure {
    KeyError error = KeyError::library;
    std::string text;
};

/// The numbers of a key as devices take them: big-endian, without leading zeros stripped: n, e and d have
/// modulus_bytes (e its own length), the others half of that.
struct KeyNumbers {
    std::span<const std::byte> n, e, d, p, q, dp, dq, qinv;
};

struct KeyState; // OpenSSL's side of it; see key_state.h

class PrivateKey final : public base::RefCounted<PrivateKey> {
public:
    using Result = std::expected<base::Ref<PrivateKey>, KeyFailure>;
    /// \param pem  not encrypted; PKCS#8 or PKCS#1
    [[nodiscard]] static Result from_pem(std::string_view pem);
    [[nodiscard]] static Result from_evp(const evp_pkey_st& key);

    [[nodiscard]] unsigned bits() const noexcept { return bits_; }
    /// Length of a signature, and of the padded block that is signed.
    [[nodiscard]] std::size_t modulus_bytes() const noexcept { return bits_ / 8; }
    [[nodiscard]] const KeyNumbers& numbers() const noexcept { return numbers_; }
    [[nodiscard]] KeyState& state() const noexcept { return *state_; }
    /// Whether the system granted the lock and kept the key out of core dumps; for start-up logs.
    [[nodiscard]] bool locked_in_memory() const noexcept { return locked_; }

    void retire() noexcept { delete this; }
    ~PrivateKey();

private:
    PrivateKey() noexcept;
    unsigned bits_ = 0;
    bool locked_ = false;
    KeyNumbers numbers_;
    std::span<std::byte> memory_; // what numbers_ points into: pages of its own
    std::unique_ptr<KeyState> state_;
};
using KeyRef = base::Ref<PrivateKey>;

using Sha256Digest = std::array<std::byte, digest_bytes>;

/// EMSA-PKCS1-v1_5 (RFC 8017 §9.2) of a SHA-256 digest, as long as the key's modulus.
/// \param block  modulus_bytes long
void pad_pkcs1_sha256(const Sha256Digest& digest, std::span<std::byte> block) noexcept;

} // namespace tls_offload::offload
