#include "dataplane/smtp/reply_parser.h"

#include <algorithm>

namespace dataplane::smtp {
namespace {

[[nodiscard]] constexpr bool digit(char c) noexcept {
    return c >= '0' && c <= '9';
}

/// One to three digits without a leading zero (RFC 3463 §2) off the front of `text`.
[[nodiscard]] bool take_number(std::string_view& text, std::uint16_t& value) noexcept {
    std::size_t digits = 0;
    value = 0;
    while (digits < 3 && digits < text.size() && digit(text[digits])) {
        value = static_cast<std::uint16_t>(value * 10 + (text[digits] - '0'));
        ++digits;
    }
    if (digits == 0 || (digits > 1 && text[0] == '0')) return false;
    text.remove_prefix(digits);
    return true;
}

[[nodiscard]] bool take_dot(std::string_view& text) noexcept {
    if (text.empty() || text[0] != '.') return false;
    text.remove_prefix(1);
    return true;
}

} // namespace

EnhancedCode take_enhanced_code(std::string_view& text, std::uint16_t reply_code) noexcept {
    std::string_view rest = text;
    EnhancedCode code;
    if (!take_number(rest, code.status_class) || !take_dot(rest)) return {};
    if (!take_number(rest, code.subject) || !take_dot(rest)) return {};
    if (!take_number(rest, code.detail)) return {};
    if (!rest.empty() && rest[0] != ' ' && rest[0] != '\t') return {};
    const unsigned reply_class = reply_code / 100U;
    if (code.status_class != reply_class ||
        (reply_class != 2 && reply_class != 4 && reply_class != 5))
        return {};
    if (!rest.empty()) rest.remove_prefix(1);
    text = rest;
    return code;
}

std::string_view to_string(ReplyError error) noexcept {
    switch (error) {
    case ReplyError::bad_code:
        return "reply without a reply code";
    case ReplyError::code_changed:
        return "reply code changed within a reply";
    case ReplyError::too_many_lines:
        return "reply of too many lines";
    }
    return "";
}

void ReplyParser::keep(std::string_view text) {
    if (!reply_.text.empty() && !text.empty() && reply_.text.size() < reply_text_bytes_max)
        reply_.text += ' ';
    for (const char c : text.substr(0, reply_text_bytes_max -
                                           std::min(reply_text_bytes_max, reply_.text.size()))) {
        // It ends in logs and in mail: a control character there would be the peer writing in our
        // name.
        reply_.text += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
}

std::expected<bool, ReplyError> ReplyParser::feed(std::string_view line) {
    if (complete_) {
        complete_ = false;
        reply_.code = 0;
        reply_.enhanced = {};
        reply_.text.clear();
        line_count_ = 0;
    }
    if (line.size() < 3 || line[0] < '2' || line[0] > '5' || !digit(line[1]) || !digit(line[2])) {
        return std::unexpected(ReplyError::bad_code);
    }
    // "250" alone is a reply too: §4.2 asks clients to take it.
    const char separator = line.size() > 3 ? line[3] : ' ';
    if (separator != ' ' && separator != '-') return std::unexpected(ReplyError::bad_code);

    const auto code =
        static_cast<std::uint16_t>((line[0] - '0') * 100 + (line[1] - '0') * 10 + (line[2] - '0'));
    if (line_count_ == 0) {
        reply_.code = code;
    } else if (code != reply_.code) {
        return std::unexpected(ReplyError::code_changed);
    }
    if (++line_count_ > reply_lines_max) return std::unexpected(ReplyError::too_many_lines);

    std::string_view text = line.substr(std::min<std::size_t>(line.size(), 4));
    line_text_ = text;
    const EnhancedCode enhanced = take_enhanced_code(text, code);
    if (line_count_ == 1) reply_.enhanced = enhanced;
    keep(text);
    complete_ = separator == ' ';
    return complete_;
}

} // namespace dataplane::smtp
