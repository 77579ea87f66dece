#include "dataplane/daemon/offload_signer.h"

#include "dataplane/message/dkim/inline_signer.h"

#include <cstring>
#include <utility>

namespace dataplane::daemon {
namespace {

namespace dkim = message::dkim;
namespace offload = tls_offload::offload;

dkim::SignError as_dkim(offload::SignError error) noexcept {
    switch (error) {
    case offload::SignError::timed_out:
        return dkim::SignError::timed_out;
    case offload::SignError::cancelled:
        return dkim::SignError::cancelled;
    case offload::SignError::overloaded:
        return dkim::SignError::overloaded;
    case offload::SignError::failed:
        return dkim::SignError::failed;
    }
    return dkim::SignError::failed;
}

} // namespace

offload::KeyRef OffloadSigner::load(const std::shared_ptr<const dkim::SigningKey>& key) {
    if (const auto found = keys_.find(key.get());
        found != keys_.end() && !found->second.key.expired())
        return found->second.loaded;
    std::erase_if(keys_, [](const auto& entry) { return entry.second.key.expired(); });
    auto made = offload::PrivateKey::from_evp(*key->native());
    Known& known = keys_[key.get()];
    known.key = key;
    known.loaded = made ? std::move(*made) : offload::KeyRef{};
    return known.loaded;
}

base::Task<dkim::SignResult> OffloadSigner::sign(std::shared_ptr<const dkim::SigningKey> key,
                                                 dkim::Digest digest, base::Deadline deadline) {
    if (key->algorithm() == dkim::Algorithm::ed25519_sha256)
        co_return dkim::sign_inline(*key, digest);
    const offload::KeyRef loaded = load(key);
    if (!loaded)
        co_return dkim::sign_inline(*key, digest); // an odd size, which OpenSSL still signs with
    const offload::SignResult made = co_await engine_.sign_sha256(loaded, digest, deadline);
    if (!made) co_return std::unexpected(as_dkim(made.error()));
    dkim::Signature out;
    CHECK(made->size <= out.bytes.size());
    out.size = made->size;
    std::memcpy(out.bytes.data(), made->bytes.data(), made->size);
    co_return out;
}

} // namespace dataplane::daemon
