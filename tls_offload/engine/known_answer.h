// known_answer.h: a signature whose bytes are known, to try a backend with before it is trusted.
//
// Scope      One RSA-2048 key, a padded block and its signature. The key protects nothing.
// Threading  One per shard, like any key.
// Failure    Construction stops the process when OpenSSL cannot even build the key.
#pragma once

#include "tls_offload/engine/private_key.h"

namespace tls_offload::offload {

struct KnownAnswer {
    KnownAnswer();
    KeyRef key;
    std::array<std::byte, 256> block{};
    std::array<std::byte, 256> answer{};
};

} // namespace tls_offload::offload
