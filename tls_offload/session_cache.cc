#include "tls_offload/session_cache.h"

#include <algorithm>
#include <utility>

namespace tls_offload {

void SessionCache::put(std::string_view key, SessionHandle session) {
    if (keys_max_ == 0) return;
    auto found = index_.find(key);
    if (found == index_.end()) {
        if (entries_.size() == keys_max_) {
            index_.erase(entries_.front().key);
            entries_.pop_front();
        }
        const auto entry = entries_.emplace(entries_.end());
        entry->key = key;
        found = index_.emplace(entry->key, entry).first;
    } else {
        entries_.splice(entries_.end(), entries_, found->second);
    }
    Entry& entry = *found->second;
    if (entry.count == sessions_per_key_max) {
        std::move(entry.sessions.begin() + 1, entry.sessions.end(), entry.sessions.begin());
        --entry.count;
    }
    entry.sessions[entry.count++] = std::move(session);
}

SessionHandle SessionCache::take(std::string_view key) {
    const auto found = index_.find(key);
    if (found == index_.end()) return nullptr;
    entries_.splice(entries_.end(), entries_, found->second);
    Entry& entry = *found->second;
    SSL_SESSION* newest = entry.sessions[entry.count - 1].get();
    if (SSL_SESSION_get_protocol_version(newest) < TLS1_3_VERSION) {
        SSL_SESSION_up_ref(newest);
        return SessionHandle{newest};
    }
    SessionHandle taken = std::move(entry.sessions[--entry.count]);
    if (entry.count == 0) {
        index_.erase(found); // before the key it points to
        entries_.pop_back();
    }
    return taken;
}

void SessionCache::forget(std::string_view key) {
    const auto found = index_.find(key);
    if (found == index_.end()) return;
    const auto entry = found->second;
    index_.erase(found);
    entries_.erase(entry);
}

} // namespace tls_offload
