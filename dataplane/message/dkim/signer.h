// signer.h: who makes signatures with private keys while the shard goes on.
//
// Scope      The interface. The daemon binds the shard's offload engine to it; inline_signer.h is the one
//            that works anywhere.
// Threading  Bound to a shard.
// Failure    SignError; what it means for the mail is the caller's.
#pragma once

#include "dataplane/base/task.h"
#include "dataplane/base/wait.h"
#include "dataplane/message/dkim/key.h"
#include "dataplane/message/dkim/limits.h"
#include "dataplane/message/dkim/sha256.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <string_view>

namespace dataplane::message::dkim {

enum class SignError : std::uint8_t { timed_out, cancelled, overloaded, failed };
[[nodiscard]] constexpr std::string_view to_string(SignError error) noexcept {
    switch (error) {
    case SignError::timed_out:
        return "no signature in time";
    case SignError::cancelled:
        return "cancelled";
    case SignError::overloaded:
        return "too many signatures are waited for";
    case SignError::failed:
        return "the key does not sign";
    }
    return "unknown";
}

struct Signature {
    std::array<std::byte, signature_bytes_max> bytes{};
    std::size_t size = 0;
    [[nodiscard]] std::string_view text() const noexcept {
        return {reinterpret_cast<const char*>(bytes.data()), size};
    }
};
using SignResult = std::expected<Signature, SignError>;

class Signer {
public:
    virtual ~Signer() = default;
    /// Signs a SHA-256 digest: by PKCS#1 v1.5 with an RSA key (RFC 6376 §3.3.2), as an Ed25519 message with
    /// the other kind (RFC 8463 §3).
    [[nodiscard]] virtual base::Task<SignResult> sign(std::shared_ptr<const SigningKey> key,
                                                      Digest digest, base::Deadline deadline) = 0;
};

} // namespace dataplane::message::dkim
