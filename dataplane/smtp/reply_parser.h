// reply_parser.h: turns the lines of a remote server into SMTP replies.
//
// Scope      Replies of RFC 5321 §4.2, multi-line ones included, and the enhanced codes of RFC 2034
//            and RFC 3463 in them. What a reply means for the mail is decided in delivery/fate.h.
// Owns       The text of one reply, cut at reply_text_bytes_max; lines are borrowed for the call
//            only.
// Threading  Bound to one shard. Never blocks, never allocates after the first replies.
// Failure    ReplyError; the dialogue is then out of step and the connection is of no more use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

namespace dataplane::smtp {

// RFC 5321 §4.5.3.1.5 says 512; servers with long explanations and links go beyond it.
inline constexpr std::size_t reply_line_bytes_max = 2048;
inline constexpr std::size_t reply_lines_max = 128; // ours: ends an endless multi-line reply
inline constexpr std::size_t reply_text_bytes_max =
    512; // ours: kept for people; the rest is dropped

/// RFC 3463; all 0 when the reply had none.
struct EnhancedCode {
    std::uint16_t status_class = 0, subject = 0, detail = 0;

    [[nodiscard]] explicit operator bool() const noexcept { return status_class != 0; }
    bool operator==(const EnhancedCode&) const noexcept = default;
};

/// The code at the front of `text` ("5.1.1 no such user"), which loses it and the space behind it.
/// A code whose class does not go with `reply_code` is text like any other (RFC 2034 §4).
[[nodiscard]] EnhancedCode take_enhanced_code(std::string_view& text,
                                              std::uint16_t reply_code) noexcept;

enum class ReplyError : std::uint8_t {
    bad_code,     // no three digits of RFC 5321 §4.2.1, or neither space nor hyphen behind them
    code_changed, // the lines of one reply do not agree
    too_many_lines,
};
[[nodiscard]] std::string_view to_string(ReplyError error) noexcept;

struct Reply {
    std::uint16_t code = 0;
    EnhancedCode enhanced;
    std::string text; // the lines joined by spaces, without codes and control characters

    [[nodiscard]] bool positive() const noexcept { return code / 100 == 2; }
    [[nodiscard]] bool transient() const noexcept { return code / 100 == 4; }
    [[nodiscard]] bool permanent() const noexcept { return code / 100 == 5; }
};

class ReplyParser {
public:
    /// Feeds one line without its line end; true when it was the reply's last.
    [[nodiscard]] std::expected<bool, ReplyError> feed(std::string_view line);
    /// The reply that feed() completed; valid until the next feed().
    [[nodiscard]] const Reply& reply() const noexcept { return reply_; }
    /// What the last line said behind its reply code: a keyword of EHLO's. Valid as long as that
    /// line.
    [[nodiscard]] std::string_view line_text() const noexcept { return line_text_; }
    [[nodiscard]] std::size_t line_count() const noexcept { return line_count_; }

private:
    void keep(std::string_view text);

    Reply reply_;
    std::string_view line_text_;
    std::size_t line_count_ = 0;
    bool complete_ = true;
};

} // namespace dataplane::smtp
