// rule_cache.h: the screening rules of each policy in use, loaded once for all shards.
//
// Scope      The control link's thread loads a new policy's rules here before any shard hears of it; a
//            shard that takes the policy over finds them ready.
// Owns       The latest rules; older ones live as long as a shard uses them.
// Threading  Any. The lock is held for a look-up, at start and at a policy swap only.
#pragma once

#include "dataplane/base/slab.h"
#include "dataplane/policy/policy.h"
#include "dataplane/screen/screen.h"

#include <expected>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace dataplane::daemon {

class RuleCache {
public:
    using Rules = std::shared_ptr<const screen::RuleSet>;
    [[nodiscard]] std::expected<Rules, screen::ScreenError> get(const policy::PolicyPtr& policy) {
        const std::lock_guard lock(mutex_);
        if (rules_ != nullptr && version_ == policy->version) return rules_;
        const policy::ScreenPolicy& source = policy->screen;
        std::vector<screen::Rule> table;
        table.reserve(source.rules.size());
        for (const policy::ScreenRule& rule : source.rules) {
            table.push_back({rule.name, to_action(rule.action), rule.text, rule.header, rule.value,
                             rule.score});
        }
        auto loaded = screen::RuleSet::load(base::as_bytes(source.header_database),
                                            base::as_bytes(source.body_database), std::move(table),
                                            source.score_reject);
        if (!loaded) return std::unexpected(std::move(loaded.error()));
        rules_ = std::move(*loaded);
        version_ = policy->version;
        return rules_;
    }

private:
    [[nodiscard]] static screen::Rule::Action
    to_action(policy::ScreenRule::Action action) noexcept {
        switch (action) {
        case policy::ScreenRule::Action::reject:
            return screen::Rule::Action::reject;
        case policy::ScreenRule::Action::defer:
            return screen::Rule::Action::defer;
        case policy::ScreenRule::Action::tag:
            return screen::Rule::Action::tag;
        case policy::ScreenRule::Action::score:
            return screen::Rule::Action::score;
        }
        return screen::Rule::Action::defer; // no such action: nothing slips through
    }

    std::mutex mutex_;
    std::uint64_t version_ = 0;
    Rules rules_;
};

} // namespace dataplane::daemon
