// session_cache.h: sessions a client may resume, by destination. Internal to tls_offload.
//
// Scope      What a key means is with connect_tls: resumption skips verification, so two policies
//            must never share a key.
// Owns       Its sessions: at most sessions_per_key_max for each of at most keys_max keys; the key
//            used longest ago goes first.
// Threading  Bound to one shard: SSL_SESSION's reference counts take locks when shared.
#pragma once

#include "tls_offload/limits.h"
#include "tls_offload/openssl.h"

#include <array>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>

namespace tls_offload {

class SessionCache {
public:
    explicit SessionCache(std::size_t keys_max) : keys_max_(keys_max) {}

    /// Remembers a session; when the key has its share already, its oldest goes.
    void put(std::string_view key, SessionHandle session);
    /// A session to offer, or null. A TLS 1.3 ticket leaves the cache with this (it is used once);
    /// a TLS 1.2 session stays and is shared.
    [[nodiscard]] SessionHandle take(std::string_view key);
    /// Drops the key's sessions: the peer did not like one of them.
    void forget(std::string_view key);
    [[nodiscard]] std::size_t key_count() const noexcept { return entries_.size(); }

private:
    struct Entry {
        std::string key;
        std::array<SessionHandle, sessions_per_key_max> sessions; // oldest first
        std::size_t count = 0;
    };
    using Entries = std::list<Entry>; // least recently used first

    std::size_t keys_max_;
    Entries entries_;
    std::unordered_map<std::string_view, Entries::iterator> index_; // keys point into entries_
};

} // namespace tls_offload
