// link_authenticator.h: one shard's answers to "is this password right?": its cache, then the
// control process.
//
// Scope      The cache of recent successes, the questions on their way, and how long a client
//            waits. How a question travels is CredentialChannel's business (control_link.h);
//            whether a password is right, and when there were too many failures, is decided in
//            control/credentials.h.
// Owns       The cache: at most cache_entries_max digests, never a password. A digest is keyed with
//            a key that is random per process. Failures are never cached.
// Threading  Bound to one shard.
// Failure    No answer in time, or too many questions on their way: AuthVerdict::unavailable.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/siphash.h"
#include "dataplane/base/wait.h"
#include "dataplane/policy/authenticator.h"
#include "dataplane/policy/policy.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace dataplane::policy {

struct CredentialQuestion {
    std::uint64_t id = 0; // unique on this shard
    std::string user, password;
    base::IpAddress client;
};

struct CredentialVerdict {
    std::uint64_t id = 0;
    AuthVerdict verdict = AuthVerdict::unavailable;
    std::uint64_t generation = 0;       // of the account, when accepted
    std::chrono::milliseconds delay{0}; // how long a refused client waits
};

class CredentialChannel {
public:
    virtual ~CredentialChannel() = default;
    /// Sends the question on its way; false when there is no room.
    [[nodiscard]] virtual bool ask(CredentialQuestion&& question) = 0;
};

struct LinkAuthenticatorOptions {
    base::SipKey key{};
    std::chrono::seconds cache_time{
        600}; // also how long a client is not asked to pay for a hash again
    std::chrono::seconds answer_limit{10}; // control queues at most about 3 s of hashing
    std::chrono::milliseconds delay_max{
        10'000}; // a refusal is slow, but a session slot is not held forever
};

struct AuthenticatorCounters {
    std::uint64_t cached = 0, asked = 0, coalesced = 0, unanswered = 0;
};

class LinkAuthenticator final : public Authenticator {
public:
    static constexpr std::size_t cache_entries_max = 4096;
    static constexpr std::size_t questions_max = 512; // on their way at once

    /// All references are borrowed and outlive it; it outlives every task of verify().
    LinkAuthenticator(base::Loop& loop, const PolicySlot& policy, CredentialChannel& channel,
                      LinkAuthenticatorOptions options);
    ~LinkAuthenticator() override;

    [[nodiscard]] base::Task<AuthVerdict> verify(std::string user, std::string password,
                                                 base::IpAddress client,
                                                 base::Deadline deadline) override;

    void on_verdict(const CredentialVerdict& verdict);
    /// Logins of this account below `generation` are void, also those whose answer is still on its
    /// way.
    void on_account_changed(std::string_view name, std::uint64_t generation);

    [[nodiscard]] const AuthenticatorCounters& counters() const noexcept { return counters_; }
    [[nodiscard]] std::size_t questions_pending() const noexcept { return pending_.size(); }

private:
    struct Success {
        base::SipDigest digest;
        base::TimePoint expires{}; // in the past: empty
        std::uint64_t generation = 0;
        std::string account;
    };
    struct Pending;
    class Waiting;
    struct Change {
        std::string account;
        std::uint64_t generation = 0;
    };
    struct QuestionKey {
        base::SipDigest digest;
        base::IpAddress client; // failures are counted per client, so each client asks for itself
        auto operator<=>(const QuestionKey&) const noexcept = default;
    };

    [[nodiscard]] bool cached(const base::SipDigest& digest, const AccountPolicy* account);
    void remember(Success&& success);
    [[nodiscard]] bool void_since(const Success& success) const;

    base::Loop& loop_;
    const PolicySlot& policy_;
    CredentialChannel& channel_;
    LinkAuthenticatorOptions options_;
    static constexpr std::size_t ways = 4;
    std::vector<std::array<Success, ways>> cache_;
    std::map<QuestionKey, Pending*> by_question_;
    // shared: the last of several waiters may leave after the answer took the question off this
    // map.
    std::map<std::uint64_t, std::shared_ptr<Pending>> pending_;
    std::array<Change, 64> changes_; // the latest, for answers that crossed with a change
    std::size_t change_count_ = 0;
    std::uint64_t next_id_ = 1;
    AuthenticatorCounters counters_;
};

} // namespace dataplane::policy
