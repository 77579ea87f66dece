// screen.h: content screening of a message while it streams in.
//
// Scope      Runs the operator's compiled rules over header and body, and sums the hits up as a
//            verdict. The header ends with the first empty line, whichever newline it has; a
//            message without one is all header. What the session answers, and where it puts added
//            headers, is its business.
// Owns       RuleSet: the databases, read-only and shared by all shards. Screener: scratch memory
//            and a pool of streams for the current RuleSet. Scan: one message's streams, from
//            begin() to its destruction.
// Threading  A RuleSet may be loaded anywhere (it copies and checks megabytes: not on a shard under
//            load) and used everywhere. Screener and Scan are bound to one shard.
// Failure    ScreenError at load time; the old RuleSet stays. When Hyperscan fails in the middle
//            (out of memory), the verdict is defer: what was not screened is not accepted.
#pragma once

#include "dataplane/base/ref.h"

#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::screen {

// Streams kept for the next messages. A shard with more messages in the air at once opens the rest
// anew.
inline constexpr std::size_t idle_scans_max = 1'024;

enum class ScreenErrorKind : std::uint8_t {
    processor,    // lacks SSSE3, or less able than the one the database was compiled for
    bad_database, // damaged, of another Hyperscan version, or not a streaming database
    no_memory,
};
struct ScreenError {
    ScreenErrorKind kind = ScreenErrorKind::bad_database;
    std::string text; // names the database and gives the reason
};

/// What a rule does when it hits.
struct Rule {
    std::string name;
    enum class Action : std::uint8_t { reject, defer, tag, score };
    Action action = Action::reject;
    std::string text;          // of the reply, without codes; empty: a standard one
    std::string header, value; // for tag
    std::int32_t score = 0;    // for score
};

class RuleSet {
public:
    /// Checks and copies the databases (control/screen made them; empty: no rule looks there).
    /// \param rules         rules[i] is the pattern of id i, in both databases
    /// \param score_reject  scores that add up to this reject; 0: scores never reject
    [[nodiscard]] static std::expected<std::shared_ptr<const RuleSet>, ScreenError>
    load(std::span<const std::byte> header_database, std::span<const std::byte> body_database,
         std::vector<Rule> rules, std::int32_t score_reject);
    ~RuleSet();
    RuleSet(const RuleSet&) = delete;
    RuleSet& operator=(const RuleSet&) = delete;

    [[nodiscard]] std::span<const Rule> rules() const noexcept { return rules_; }

private:
    friend class Screener;
    friend class Scan;
    friend struct Generation;
    struct Databases;
    RuleSet();

    std::unique_ptr<Databases> databases_;
    std::vector<Rule> rules_; // index = Hyperscan's id
    std::int32_t score_reject_ = 0;
};

struct AddedHeader {
    std::string_view name, value;
};

/// What the rules say of one message. Everything it points to lives until the Scan is destroyed.
struct Verdict {
    enum class Action : std::uint8_t { accept, reject, defer };
    Action action = Action::accept;
    std::string_view text;  // of the reply, without codes; empty when accepted
    std::int32_t score = 0; // sum over the score rules that hit; saturates
    std::span<const std::string_view>
        rules; // names of the rules that hit, in the order of the rule file
    std::span<const AddedHeader> headers; // of the tag rules that hit, in the same order
};

struct Generation;
struct ScanState;

/// One message. Destroying it unfinished drops what it found.
class Scan {
public:
    Scan() noexcept; // screens nothing
    Scan(Scan&& other) noexcept;
    Scan& operator=(Scan&& other) noexcept;
    ~Scan();

    /// The message's next bytes as they will be stored: unstuffed, from its first byte on.
    void feed(std::span<const std::byte> bytes) noexcept;
    /// Ends the message. Call once; feed() nothing afterwards.
    [[nodiscard]] Verdict finish();

private:
    friend class Screener;
    Scan(base::Ref<Generation> generation, std::unique_ptr<ScanState> state) noexcept;
    void give_back() noexcept;

    base::Ref<Generation> generation_;
    std::unique_ptr<ScanState> state_;
};

class Screener {
public:
    Screener() noexcept; // screens nothing until use()
    ~Screener();
    Screener(const Screener&) = delete;
    Screener& operator=(const Screener&) = delete;

    /// Screens with `rules` from now on; null: with none. Scans that are open end with the rules
    /// they began with.
    [[nodiscard]] std::expected<void, ScreenError> use(std::shared_ptr<const RuleSet> rules);
    [[nodiscard]] bool active() const noexcept { return static_cast<bool>(generation_); }
    [[nodiscard]] Scan begin();

private:
    base::Ref<Generation> generation_; // null: no rules
};

} // namespace dataplane::screen
