#include "dataplane/policy/link_authenticator.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <bit>
#include <openssl/crypto.h>
#include <optional>
#include <utility>

namespace dataplane::policy {

struct LinkAuthenticator::Pending {
    QuestionKey key;
    std::string account;
    base::WaitQueue answered{"credential answer"};
    std::optional<CredentialVerdict> answer;
    std::size_t waiters = 0;
};

/// One verify() that waits. Its end, however it comes, withdraws a question that nobody waits for
/// any more.
class LinkAuthenticator::Waiting {
public:
    Waiting(LinkAuthenticator& owner, std::uint64_t id, std::shared_ptr<Pending> pending)
        : owner_(owner), id_(id), pending_(std::move(pending)) {
        ++pending_->waiters;
    }
    ~Waiting() {
        if (--pending_->waiters > 0 || pending_->answer) return;
        owner_.by_question_.erase(pending_->key);
        owner_.pending_.erase(id_);
    }
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;
    [[nodiscard]] Pending& question() const noexcept { return *pending_; }

private:
    LinkAuthenticator& owner_;
    std::uint64_t id_;
    std::shared_ptr<Pending> pending_;
};

LinkAuthenticator::LinkAuthenticator(base::Loop& loop, const PolicySlot& policy,
                                     CredentialChannel& channel, LinkAuthenticatorOptions options)
    : loop_(loop), policy_(policy), channel_(channel), options_(options),
      cache_(cache_entries_max / ways) {
    static_assert(std::has_single_bit(cache_entries_max / ways), "the set index wraps with a mask");
}

LinkAuthenticator::~LinkAuthenticator() = default;

base::Task<AuthVerdict> LinkAuthenticator::verify(std::string user, std::string password,
                                                  base::IpAddress client, base::Deadline deadline) {
    const PolicyPtr policy = policy_.current();
    const AccountPolicy* account = policy->account(user);
    const std::string_view name =
        account != nullptr ? std::string_view{account->name} : std::string_view{user};
    const QuestionKey key{base::sip_digest(options_.key, name, password), client};
    if (cached(key.digest, account)) {
        OPENSSL_cleanse(password.data(), password.size());
        ++counters_.cached;
        co_return AuthVerdict::accepted;
    }

    std::uint64_t id = 0;
    std::shared_ptr<Pending> pending;
    if (const auto same = by_question_.find(key); same != by_question_.end()) {
        const auto found = std::find_if(pending_.begin(), pending_.end(), [&](const auto& each) {
            return each.second.get() == same->second;
        });
        CHECK(found != pending_.end());
        id = found->first;
        pending = found->second;
        ++counters_.coalesced;
    } else {
        if (pending_.size() >= questions_max) co_return AuthVerdict::unavailable;
        id = next_id_++;
        CredentialQuestion question{id, std::string{name}, password, client};
        if (!channel_.ask(std::move(question))) co_return AuthVerdict::unavailable;
        pending = std::make_shared<Pending>();
        pending->key = key;
        pending->account = name;
        pending_.emplace(id, pending);
        by_question_.emplace(key, pending.get());
        ++counters_.asked;
    }
    OPENSSL_cleanse(password.data(), password.size());

    const Waiting waiting(*this, id, std::move(pending));
    const base::Deadline limit = deadline.sooner(loop_.now() + options_.answer_limit);
    while (!waiting.question().answer) {
        const base::Wake wake = co_await waiting.question().answered.wait(loop_, limit);
        if (wake == base::Wake::event) continue;
        ++counters_.unanswered;
        co_return AuthVerdict::unavailable;
    }
    const CredentialVerdict answer = *waiting.question().answer;
    if (answer.verdict != AuthVerdict::accepted && answer.delay.count() > 0) {
        const auto delay = std::min(answer.delay, options_.delay_max);
        static_cast<void>(co_await base::sleep_until(loop_, deadline.sooner(loop_.now() + delay)));
    }
    co_return answer.verdict;
}

void LinkAuthenticator::on_verdict(const CredentialVerdict& verdict) {
    const auto found = pending_.find(verdict.id);
    if (found == pending_.end()) return; // everybody has given up on it
    const std::shared_ptr<Pending> pending = found->second;
    by_question_.erase(pending->key);
    pending_.erase(found);
    pending->answer = verdict;
    if (verdict.verdict == AuthVerdict::accepted) {
        Success success{pending->key.digest, loop_.now() + options_.cache_time, verdict.generation,
                        pending->account};
        if (!void_since(success)) remember(std::move(success));
    }
    pending->answered.wake_all();
}

void LinkAuthenticator::on_account_changed(std::string_view name, std::uint64_t generation) {
    changes_[change_count_++ % changes_.size()] = {std::string{name}, generation};
    for (auto& set : cache_) {
        for (Success& success : set) {
            if (success.account == name && success.generation < generation) success = {};
        }
    }
}

/// Whether the account changed after the password was checked, as far as this shard has heard.
bool LinkAuthenticator::void_since(const Success& success) const {
    return std::any_of(changes_.begin(), changes_.end(), [&](const Change& change) {
        return change.account == success.account && success.generation < change.generation;
    });
}

bool LinkAuthenticator::cached(const base::SipDigest& digest, const AccountPolicy* account) {
    for (Success& success : cache_[digest.low & (cache_.size() - 1)]) {
        if (success.digest != digest || success.account.empty()) continue;
        const bool good =
            account != nullptr && account->enabled && account->name == success.account &&
            success.generation >= account->generation && loop_.now() < success.expires;
        if (!good) success = {};
        return good;
    }
    return false;
}

void LinkAuthenticator::remember(Success&& success) {
    auto& set = cache_[success.digest.low & (cache_.size() - 1)];
    auto place = std::find_if(set.begin(), set.end(),
                              [&](const Success& each) { return each.digest == success.digest; });
    if (place == set.end()) {
        // An empty place has expired longest ago; otherwise the oldest success makes room.
        place = std::min_element(set.begin(), set.end(), [](const Success& a, const Success& b) {
            return a.expires < b.expires;
        });
    }
    *place = std::move(success);
}

} // namespace dataplane::policy
