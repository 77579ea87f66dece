#define OPENSSL_SUPPRESS_DEPRECATED // see sha256.h
#include "dataplane/message/dkim/sha256.h"

#include <openssl/sha.h>

namespace dataplane::message::dkim {
namespace {

SHA256_CTX* context(std::array<std::byte, 112>& state) noexcept {
    static_assert(sizeof(SHA256_CTX) == sizeof state && alignof(SHA256_CTX) <= 8);
    return reinterpret_cast<SHA256_CTX*>(state.data());
}

} // namespace

Sha256::Sha256() noexcept {
    SHA256_Init(context(state_));
}

void Sha256::add(std::string_view bytes) noexcept {
    SHA256_Update(context(state_), bytes.data(), bytes.size());
}

Digest Sha256::finish() noexcept {
    Digest digest;
    SHA256_Final(reinterpret_cast<unsigned char*>(digest.data()), context(state_));
    return digest;
}

} // namespace dataplane::message::dkim
