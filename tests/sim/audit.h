// audit.h: what was promised, what arrived, and whether the two agree.
//
// Scope      The ledger of every message that clients sent and of every answer they got; of every message
//            that destinations took, refused or were told about in a report; and the judgement at the end.
//            Addresses carry the ledger's numbers: "r2.m17@d3.test" is letter 17's recipient 2, whose sender
//            is "m17@sender.test".
// Owns       All of it. Knows nothing of coroutines: actors tell it facts as they happen.
// Threading  One.
// Failure    A broken invariant is a violation: kept with the time, up to a bound, and printed by main.
#pragma once

#include "dataplane/base/clock.h"

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tests::sim {

namespace base = dataplane::base;
using base::TimePoint;

inline constexpr std::string_view sender_domain = "sender.test";

/// A message as its client means it.
struct Letter {
    enum class State : std::uint8_t {
        open,     // its end has not been sent: whatever becomes of it, it must not be delivered
        complete, // its last byte is out, the answer is not there
        accepted, // 250
        refused,  // 4xx or 5xx to its end
        unknown,  // complete, and the connection broke before an answer
    };
    struct Recipient {
        std::string address;
        std::size_t domain = 0;
        std::uint8_t notify = 0; // queue::Notify
        int code = 0;            // the answer to RCPT; 0: none was seen
    };
    std::uint32_t number = 0;
    std::string sender; // "": the null reverse-path
    std::vector<Recipient> recipients;
    std::string content;
    std::string forbidden; // why it must never be accepted; empty: it may
    bool tagged = false;   // a rule adds a header to it
    State state = State::open;
    int code = 0;
    TimePoint begun{};
    TimePoint answered{};
};

/// What a destination took, as it saw it.
struct Arrival {
    std::string sender;
    std::vector<std::string> recipients;
    std::string content;
    bool by_data = false; // DATA, which cannot carry content without a last CRLF
    bool offers_dsn = false;
    std::size_t provider = 0;
};

struct Totals {
    std::uint64_t letters = 0, accepted = 0, refused = 0, unknown = 0;
    std::uint64_t recipients = 0, delivered = 0, bounced = 0, expired = 0;
    std::uint64_t duplicates = 0, reports = 0, extra_reports = 0, unwanted = 0;
    std::uint64_t crashes = 0, restarts = 0;
    void add(const Totals& other) noexcept;
    [[nodiscard]] std::string to_string() const;
};

/// What the auditor must know of the world to judge it.
struct Terms {
    std::chrono::seconds expiry_min{};           // the shortest that any policy of the run had
    std::chrono::seconds answer_time{};          // that the relay gives a peer after the dot
    std::vector<std::size_t> provider_of_domain; // no_provider: mail to it can only bounce
    static constexpr std::size_t no_provider = ~std::size_t{0};
};

class Audit {
public:
    explicit Audit(bool print_trace) : print_trace_(print_trace) {}
    void set_terms(Terms terms) { terms_ = std::move(terms); }
    void set_now(TimePoint now) noexcept { now_ = now; }

    // Clients.
    Letter& new_letter();
    void answer(Letter& letter, int code);
    [[nodiscard]] std::uint64_t acknowledged() const noexcept { return acknowledged_; }
    [[nodiscard]] std::deque<Letter>& letters() noexcept { return letters_; }

    // Destinations.
    /// A transaction was taken; replied() tells when the 250 was on its way back in full.
    std::size_t arrived(Arrival arrival);
    void replied(std::size_t arrival);
    /// A 5xx. Without recipients it was for all of the sender's message at this provider.
    void refused(std::string_view sender, std::span<const std::string> recipients,
                 std::size_t provider);
    /// A host of this provider told a SIZE limit.
    void size_limit(std::size_t provider, std::uint64_t bytes);

    // The world.
    void crashed(); // the relay is dead, connections are reset
    void cut();     // it stopped in good order, or connections were reset under it
    /// From now on, or up to now, nothing can be written down. Reasons may overlap.
    void disk_fails(bool failing);
    /// An operator ended what was queued with a recipient in this domain.
    void given_up(std::size_t domain, bool silently) {
        given_up_.push_back({domain, now_, silently});
    }
    void violation(std::string text);
    /// Everything that can be seen from outside goes here, in its order: two runs of a seed must agree.
    void trace(std::string_view what, std::string_view text);

    /// Judges the whole run.
    void close();
    [[nodiscard]] std::uint64_t trace_hash() const noexcept { return hash_; }
    [[nodiscard]] const std::vector<std::string>& violations() const noexcept {
        return violations_;
    }
    [[nodiscard]] const Totals& totals() const noexcept { return totals_; }

private:
    struct Delivery {
        TimePoint at{};
        TimePoint replied = TimePoint::max();
    };
    struct Report { // one DSN's word on one recipient
        std::string action;
        std::string id; // Message-ID
        TimePoint at{};
    };
    struct RecipientFacts {
        std::vector<std::size_t> arrivals;
        std::vector<Report> reports;
        TimePoint refused_at = TimePoint::max(); // the first time
    };
    using RecipientKey = std::pair<std::uint32_t, std::uint32_t>; // letter, recipient

    void take_letter(const Arrival& arrival, std::size_t index);
    void take_report(const Arrival& arrival, std::size_t index);
    void check_content(const Letter& letter, const Arrival& arrival);
    void judge(const Letter& letter);
    void judge_recipient(const Letter& letter, std::uint32_t index);
    void judge_silence(const Letter& letter);
    void judge_repeats(std::string_view what, std::span<const std::size_t> arrivals);
    [[nodiscard]] bool in_doubt(const Delivery& delivery) const noexcept;
    [[nodiscard]] bool forgotten(TimePoint from, TimePoint to) const noexcept;
    [[nodiscard]] bool crash_within(TimePoint from, TimePoint to) const noexcept;
    /// When a 5xx first met this recipient; TimePoint::max() when none did.
    [[nodiscard]] TimePoint first_refusal(const Letter& letter, std::uint32_t index) const;
    [[nodiscard]] bool given_up(const Letter& letter, TimePoint by, bool silently) const noexcept;
    [[nodiscard]] bool may_bounce(const Letter& letter, std::uint32_t index, TimePoint when) const;

    bool print_trace_;
    Terms terms_;
    TimePoint now_{};
    std::deque<Letter> letters_; // actors hold references
    std::vector<Delivery> deliveries_;
    std::map<RecipientKey, RecipientFacts> facts_;
    std::map<std::string, std::vector<std::size_t>> report_arrivals_; // by Message-ID
    std::map<std::pair<std::uint32_t, std::size_t>, TimePoint>
        refused_whole_;                                // letter, provider: the first time
    std::map<std::size_t, std::uint64_t> size_limits_; // by provider, the least
    std::vector<TimePoint> crashes_, cuts_;
    struct GivenUp {
        std::size_t domain = 0;
        TimePoint at{};
        bool silently = false;
    };
    std::vector<GivenUp> given_up_;
    struct Span {
        TimePoint begin{}, end = TimePoint::max();
    };
    std::vector<Span> disk_failures_;
    unsigned disk_failing_ = 0;
    std::uint64_t hash_ = 0xcbf29ce484222325ULL;
    std::vector<std::string> violations_;
    Totals totals_;
    std::uint64_t acknowledged_ = 0; // 250s so far
};

/// Letter and recipient numbers of an address; recipient is nullopt for a sender's.
struct AddressNumbers {
    std::uint32_t letter = 0;
    std::optional<std::uint32_t> recipient;
};
[[nodiscard]] std::optional<AddressNumbers> parse_address(std::string_view address);

} // namespace tests::sim
