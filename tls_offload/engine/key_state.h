// key_state.h: OpenSSL's objects behind a PrivateKey. Internal to tls_offload/engine.
//
// Scope      Low-level RSA objects of OpenSSL's own software method: no provider look-up, no padding, no
//            EVP on the way of a signature. Its private operation checks itself (the CRT result is raised to
//            e and compared, and computed without CRT when it differs), so that software needs no second
//            verification.
//            (OpenSSL 3 calls these functions deprecated; this room is built with OPENSSL_SUPPRESS_DEPRECATED.)
// Threading  `local` and `verifier` belong to the shard; `worker` to the crypto workers, whose locks on it
//            (blinding) the shard therefore never meets.
#pragma once

#include "tls_offload/engine/private_key.h"

#include <memory>
#include <openssl/rsa.h>

namespace tls_offload::offload {

template <auto release>
struct ReleaseWith {
    template <class Handle>
    void operator()(Handle* handle) const noexcept {
        release(handle);
    }
};
using RsaHandle = std::unique_ptr<RSA, ReleaseWith<RSA_free>>;

struct KeyState {
    RsaHandle local;    // made when software first signs on the shard
    RsaHandle worker;   // made by prepare_for_workers()
    RsaHandle device;   // with an engine's method: qat_engine.h
    RsaHandle verifier; // public numbers only
};

/// The private operation in software. \param signature  as long as the block
[[nodiscard]] bool sign_block(RSA& key, std::span<const std::byte> block,
                              std::span<std::byte> signature) noexcept;
[[nodiscard]] bool verify_block(RSA& key, std::span<const std::byte> block,
                                std::span<const std::byte> signature) noexcept;
/// The shard's own object with the private numbers, or null when out of memory.
[[nodiscard]] RSA* local_rsa(const PrivateKey& key) noexcept;
/// Makes what workers use; on the shard, before the key is handed over. False: out of memory.
[[nodiscard]] bool prepare_for_workers(const PrivateKey& key) noexcept;
[[nodiscard]] RsaHandle make_private_rsa(const KeyNumbers& numbers) noexcept;

} // namespace tls_offload::offload
