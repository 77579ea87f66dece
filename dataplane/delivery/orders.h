// orders.h: what an operator has ordered about queued mail: which mail is meant, and what stands.
//
// Scope      A MailFilter selects messages, by the index alone or by the message itself. A standing order
//            holds what it selects (suspend) or sends it by another source (reroute), mail that comes
//            later included, until it ends. Orders are kept by the control process and come to every
//            shard whole; what is done with them is dispatcher.h's.
// Threading  Values.
#pragma once

#include "dataplane/base/clock.h"
#include "queue/queue.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::delivery {

/// Empty fields select everything; a message must match all that are given. Domains and sites are
/// compared without regard to case.
struct MailFilter {
    std::string domain; // of a pending recipient
    std::string tenant, account;
    std::string sender, recipient; // whole addresses; a recipient is a pending one
    std::string site;              // as `queue list --by site` names it
    std::string error;             // part of the last error
    std::uint32_t code = 0;        // last reply code of a pending recipient
    std::uint32_t older_s = 0;     // at least so old
    std::optional<queue::MessageId> id;

    [[nodiscard]] bool empty() const noexcept;
    /// Whether the index cannot tell for sure, so that matches(Message) has to look as well.
    [[nodiscard]] bool needs_message() const noexcept {
        return !sender.empty() || !recipient.empty();
    }
    /// By the index alone: never false for a message that is meant. Site and error are the caller's
    /// to check.
    [[nodiscard]] bool may_match(const queue::MessageIndex& index, const queue::Entry& entry,
                                 base::WallTime now) const;
    /// Everything but site and error.
    [[nodiscard]] bool matches(const queue::Message& message, base::WallTime now) const;
};

struct StandingOrder {
    enum class Kind : std::uint8_t { suspend, reroute };
    std::uint64_t id = 0;
    Kind kind = Kind::suspend;
    MailFilter filter;                                 // without site, error and code
    base::WallTime until = base::WallTime::max();      // it lapses then
    base::WallTime arrived_by = base::WallTime::max(); // mail that came later is not meant
    std::string source;                                // reroute: source or pool

    [[nodiscard]] bool covers(const queue::Message& message, base::WallTime now) const {
        return now < until && message.envelope.arrival <= arrived_by &&
               filter.matches(message, now);
    }
};

/// How an operator ends a message, with a report to its sender where one is due.
enum class Ending : std::uint8_t { removed, expired };

[[nodiscard]] bool same_text(std::string_view a, std::string_view b) noexcept; // ASCII case aside

} // namespace dataplane::delivery
