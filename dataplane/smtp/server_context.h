// server_context.h: what a shard's server sessions share.
//
// Scope      References to the rooms a session talks to, and three small tables: connections per
//            client, message rates per account, session ids.
// Owns       The tables. Everything else is the daemon's and outlives all sessions.
// Threading  Bound to one shard.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/base/loop.h"
#include "dataplane/base/wait.h"
#include "dataplane/policy/authenticator.h"
#include "dataplane/policy/policy.h"
#include "dataplane/telemetry/event.h"
#include "dataplane/telemetry/stats.h"
#include "queue/queue.h"

#include <chrono>
#include <cstdint>
#include <string_view>
#include <unordered_map>

namespace tls_offload {
class ServerContext;
}
namespace dataplane::screen {
class Screener;
}
namespace dataplane::message::dkim {
class SigningDesk;
}

namespace dataplane::smtp {

/// How many connections each client address has open on this shard.
class ClientConnections {
public:
    /// Counts one more, unless `count_max` are open already.
    [[nodiscard]] bool enter(const base::IpAddress& client, std::uint32_t count_max) {
        std::uint32_t& count = counts_[client];
        if (count >= count_max) {
            if (count == 0) counts_.erase(client); // a limit of 0 must not leave entries behind
            return false;
        }
        ++count;
        return true;
    }
    void leave(const base::IpAddress& client) noexcept {
        const auto entry = counts_.find(client);
        if (--entry->second == 0) counts_.erase(entry);
    }
    [[nodiscard]] std::size_t client_count() const noexcept { return counts_.size(); }

private:
    std::unordered_map<base::IpAddress, std::uint32_t, base::IpAddressHash>
        counts_; // one per open client
};

/// Messages per account and hour, on this shard. An account's hour begins with its first message;
/// the shards split a limit evenly, because connections spread evenly.
class AccountRates {
public:
    /// Takes one message out of the account's allowance of `per_hour_max` (0: unlimited).
    [[nodiscard]] bool take(std::string_view account, std::uint32_t per_hour_max,
                            base::TimePoint now) {
        if (per_hour_max == 0) return true;
        auto entry = hours_.find(account);
        if (entry == hours_.end()) entry = hours_.emplace(account, Hour{now, 0}).first;
        Hour& hour = entry->second;
        if (now - hour.start >= std::chrono::hours{1}) hour = Hour{now, 0};
        if (hour.messages >= per_hour_max) return false;
        ++hour.messages;
        return true;
    }
    /// The message that was taken did not come about.
    void give_back(std::string_view account) noexcept {
        const auto entry = hours_.find(account);
        if (entry != hours_.end() && entry->second.messages > 0) --entry->second.messages;
    }

private:
    struct Hour {
        base::TimePoint start;
        std::uint32_t messages;
    };
    policy::TextMap<Hour> hours_; // only names that logged in: bounded by the accounts there are
};

struct ServerContext {
    base::Loop& loop;
    queue::MessageQueue& queue;
    const policy::PolicySlot& policy;
    policy::Authenticator& authenticator;
    telemetry::Stats& stats;
    telemetry::EventSink& events;
    screen::Screener* screener = nullptr;       // null: nothing is screened
    message::dkim::SigningDesk* dkim = nullptr; // null: nothing is signed
    tls_offload::ServerContext* tls =
        nullptr; // null: STARTTLS is not offered, implicit TLS is refused
    base::CancelSource* shutdown = nullptr; // cancelled: sessions end with 421 at their next wait
    // Of the next session; start it at something that differs between shards and boots.
    std::uint64_t next_session_id = 1;
    ClientConnections connections{};
    AccountRates rates{};
};

} // namespace dataplane::smtp
