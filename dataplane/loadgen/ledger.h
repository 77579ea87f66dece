// ledger.h: what the source was told and what the sink saw, one line each, for the auditor.
//
// Scope      Text lines. The source's: "SEQ OUTCOME TIME_US RECIPIENTS RUN REPLY"; the sink's: "SEQ
//            STATE TIME_US RECIPIENT RUN". Lines that begin with '#' are remarks.
// Owns       The writer owns its file. Lines of one turn leave in one write at the turn's end: they
//            are in the page cache then, so they outlive the death of any process, the relay's
//            above all.
// Threading  The Loop's. The write may block for moments: this is a measuring tool, not a shard.
// Failure    A file that cannot be opened throws at start; a failed write ends the process, because
//            a ledger with holes would prove nothing.
#pragma once

#include "dataplane/base/loop.h"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::loadgen {

enum class Outcome : std::uint8_t {
    accepted,  // the final reply was 250: from here on the relay answers for it
    transient, // refused with 4xx, or the connection went before the content had been sent whole
    permanent, // refused with 5xx
    unknown,   // the connection went between the end of the content and the final reply
};
[[nodiscard]] std::string_view to_string(Outcome outcome) noexcept;

struct SourceLine {
    std::uint64_t sequence = 0;
    Outcome outcome = Outcome::unknown;
    std::int64_t time_us = 0;     // since the epoch
    std::uint32_t recipients = 0; // that RCPT accepted
    std::string run;
    std::string reply;
    // Whom the message was for: those that no RCPT refused. Borrowed for the call of append(); not part
    // of the text.
    const std::vector<std::string>* addresses = nullptr;
};

struct SinkLine {
    std::uint64_t sequence = 0;
    bool altered = false;
    std::int64_t time_us = 0;
    std::string recipient;
    std::string run;
};

[[nodiscard]] std::string to_text(const SourceLine& line);
[[nodiscard]] std::string to_text(const SinkLine& line);
/// nullopt for a remark, an empty line, or a torn last line.
[[nodiscard]] std::optional<SourceLine> parse_source_line(std::string_view text);
[[nodiscard]] std::optional<SinkLine> parse_sink_line(std::string_view text);

/// The sink would not take a recipient, for good or for now. After RCPT nobody knows yet which message
/// it was of, and `run` is empty; after the content it says so itself.
struct SinkRefusal {
    std::string_view recipient;
    bool for_good = true;
    std::string_view run = {};
    std::uint64_t sequence = 0;
};

/// Whoever wants to know: a file for later, or an Auditor at once.
class Ledger {
public:
    virtual ~Ledger() = default;
    virtual void append(const SourceLine& line) = 0;
    virtual void append(const SinkLine& line) = 0;
    /// What was refused for good is not lost when it never arrives, and what was put off may still be
    /// tried again. A file does not keep it.
    virtual void append_refusal(const SinkRefusal& /*refusal*/) {}
};

class LedgerWriter final : public Ledger, public base::TurnEnd {
public:
    /// Appends to `path`; throws std::system_error when it cannot be opened.
    LedgerWriter(base::Loop& loop, const std::string& path);
    ~LedgerWriter() override;
    LedgerWriter(const LedgerWriter&) = delete;
    LedgerWriter& operator=(const LedgerWriter&) = delete;

    void append(const SourceLine& line) override { stage(to_text(line)); }
    void append(const SinkLine& line) override { stage(to_text(line)); }
    void turn_end() noexcept override;

private:
    void stage(const std::string& text) {
        staged_ += text;
        staged_ += '\n';
        loop_.at_turn_end(*this);
    }

    base::Loop& loop_;
    int descriptor_;
    std::string staged_;
};

} // namespace dataplane::loadgen
