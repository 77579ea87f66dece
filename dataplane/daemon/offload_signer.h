// offload_signer.h: DKIM's signatures through the shard's offload engine.
//
// Scope      RSA goes to the engine; Ed25519 is made on the spot, for it takes less than handing it over
//            and waking up again.
// Owns       The engine's form of each key that is in use; a key that nobody else holds any more goes with
//            the next one that is new.
// Threading  The shard's.
// Failure    dkim::SignError, as the engine says it.
#pragma once

#include "dataplane/message/dkim/signer.h"
#include "tls_offload/engine/engine.h"

#include <memory>
#include <unordered_map>

namespace dataplane::daemon {

class OffloadSigner final : public message::dkim::Signer {
public:
    explicit OffloadSigner(tls_offload::offload::Engine& engine) noexcept : engine_(engine) {}
    base::Task<message::dkim::SignResult> sign(std::shared_ptr<const message::dkim::SigningKey> key,
                                               message::dkim::Digest digest,
                                               base::Deadline deadline) override;

private:
    struct Known {
        std::weak_ptr<const message::dkim::SigningKey> key;
        tls_offload::offload::KeyRef loaded; // null: not one for the engine
    };
    tls_offload::offload::KeyRef load(const std::shared_ptr<const message::dkim::SigningKey>& key);

    tls_offload::offload::Engine& engine_;
    std::unordered_map<const message::dkim::SigningKey*, Known> keys_;
};

} // namespace dataplane::daemon
