#include "tls_offload/ticket_keys.h"

#include <algorithm>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdexcept>
#include <utility>

namespace tls_offload {
namespace {

TicketKey random_key() {
    TicketKey key;
    const bool drawn =
        RAND_bytes(key.name.data(), static_cast<int>(key.name.size())) == 1 &&
        RAND_priv_bytes(key.cipher.data(), static_cast<int>(key.cipher.size())) == 1 &&
        RAND_priv_bytes(key.mac.data(), static_cast<int>(key.mac.size())) == 1;
    if (!drawn) throw std::runtime_error("no random bytes for the keys of session tickets");
    return key;
}

} // namespace

TicketKeys::~TicketKeys() {
    OPENSSL_cleanse(keys_.data(), keys_.size() * sizeof(TicketKey));
}

const TicketKey* TicketKeys::find(std::span<const unsigned char, 16> name) const noexcept {
    const auto found = std::ranges::find_if(
        keys_, [&](const TicketKey& key) { return std::ranges::equal(key.name, name); });
    return found == keys_.end() ? nullptr : &*found;
}

TicketKeysPtr make_ticket_keys() {
    std::vector<TicketKey> keys;
    keys.reserve(2);
    keys.push_back(random_key());
    keys.push_back(random_key());
    return std::make_shared<const TicketKeys>(std::move(keys));
}

TicketKeysPtr rotated(const TicketKeys& keys, std::size_t previous_max) {
    std::vector<TicketKey> next;
    next.reserve(keys.all().size() + 1); // no reallocation: it would leave keys behind in memory
    next.push_back(random_key());
    for (const TicketKey& key : keys.all()) {
        if (next.size() == previous_max + 2) break;
        next.push_back(key);
    }
    return std::make_shared<const TicketKeys>(std::move(next));
}

} // namespace tls_offload
