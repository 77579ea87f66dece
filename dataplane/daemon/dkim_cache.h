// dkim_cache.h: the DKIM keys of each policy in use, read once for all shards.
//
// Scope      As rule_cache.h: the control link's thread reads a new policy's keys before any shard hears of
//            it, and refuses the policy when one of them cannot be used.
// Owns       The latest keys and the files' stamps; older sets live as long as a shard signs with them.
// Threading  Any that may block. The lock is held for a look-up, at start and at a policy swap only.
#pragma once

#include "dataplane/message/dkim/key_set.h"
#include "dataplane/policy/policy.h"

#include <expected>
#include <memory>
#include <mutex>
#include <string>

namespace dataplane::daemon {

class DkimCache {
public:
    using Keys = std::shared_ptr<const message::dkim::KeySet>;
    /// An error names the file and the remedy.
    [[nodiscard]] std::expected<Keys, std::string> get(const policy::PolicyPtr& policy) {
        const std::lock_guard lock(mutex_);
        if (keys_ != nullptr && version_ == policy->version) return keys_;
        auto loaded = message::dkim::load_key_set(policy->dkim, files_);
        if (!loaded) {
            const auto& errors = loaded.error();
            return std::unexpected(errors.front().text +
                                   (errors.size() == 1
                                        ? ""
                                        : " (and " + std::to_string(errors.size() - 1) + " more)"));
        }
        keys_ = std::move(loaded->keys);
        version_ = policy->version;
        return keys_;
    }

private:
    std::mutex mutex_;
    message::dkim::KeyCache files_;
    std::uint64_t version_ = 0;
    Keys keys_;
};

} // namespace dataplane::daemon
