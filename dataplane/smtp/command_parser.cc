#include "dataplane/smtp/command_parser.h"

#include "dataplane/smtp/address_parser.h"
#include "dataplane/smtp/limits.h"

#include <limits>

namespace dataplane::smtp {
namespace {

template <class T>
using Parsed = std::expected<T, CommandError>;

constexpr char lower(char c) noexcept {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
}
constexpr bool is_digit(char c) noexcept {
    return c >= '0' && c <= '9';
}
constexpr bool is_upper_hex(char c) noexcept {
    return is_digit(c) || (c >= 'A' && c <= 'F');
}
constexpr unsigned hex_value(char c) noexcept {
    return static_cast<unsigned>(is_digit(c) ? c - '0' : c - 'A' + 10);
}
constexpr bool is_keyword_character(char c) noexcept {
    const char l = lower(c);
    return is_digit(c) || (l >= 'a' && l <= 'z') || c == '-';
}

std::string_view trim_front(std::string_view text) noexcept {
    while (text.starts_with(' ') || text.starts_with('\t'))
        text.remove_prefix(1);
    return text;
}

std::string_view trim_back(std::string_view text) noexcept {
    while (text.ends_with(' ') || text.ends_with('\t'))
        text.remove_suffix(1);
    return text;
}

/// The next word, taken off the front of `text`.
std::string_view take_word(std::string_view& text) noexcept {
    text = trim_front(text);
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(word.size());
    return word;
}

/// Takes `prefix` off the front in any case; returns whether it was there.
bool take_prefix(std::string_view& text, std::string_view prefix) noexcept {
    if (!equal_ignoring_case(text.substr(0, prefix.size()), prefix)) return false;
    text.remove_prefix(prefix.size());
    return true;
}

/// xtext of RFC 3461 §4: printable ASCII but '+' and '=', and "+XX" in upper-case hexadecimal.
/// What it stands for must be printable too (§4.4), or a decoded CRLF could reach a DSN's header.
bool is_xtext(std::string_view text) noexcept {
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '+') {
            if (text.size() - i < 3 || !is_upper_hex(text[i + 1]) || !is_upper_hex(text[i + 2]))
                return false;
            const unsigned decoded = hex_value(text[i + 1]) * 16 + hex_value(text[i + 2]);
            if (decoded < 0x20 || decoded > 0x7e) return false;
            i += 2;
        } else if (c <= ' ' || c > '~' || c == '=') {
            return false;
        }
    }
    return true;
}

/// utf-8-addr-xtext or utf-8-addr-unitext of RFC 6533 §3: as xtext without '\', with raw UTF-8, and
/// "\x{HEX}" for a character that cannot stand for itself.
bool is_utf8_address_text(std::string_view text) noexcept {
    if (!is_utf8(text)) return false;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (c == '\\') {
            std::string_view rest = text.substr(i + 1);
            if (!rest.starts_with("x{")) return false;
            rest.remove_prefix(2);
            const std::size_t digits = rest.find('}');
            if (digits == std::string_view::npos || digits < 2 || digits > 6) return false;
            unsigned value = 0;
            for (const char digit : rest.substr(0, digits)) {
                if (!is_upper_hex(digit)) return false;
                value = value * 16 + hex_value(digit);
            }
            const bool surrogate = value >= 0xd800 && value <= 0xdfff;
            if (value < 0x20 || value == 0x7f || surrogate || value > 0x10ffff) return false;
            i += 3 + digits; // "x{", the digits, "}"
        } else if (static_cast<unsigned char>(c) < 0x80 &&
                   (c <= ' ' || c == 0x7f || c == '+' || c == '=')) {
            return false;
        }
    }
    return true;
}

/// Decimal digits; a number too large for 64 bits saturates.
std::optional<std::uint64_t> parse_size(std::string_view digits) noexcept {
    if (digits.empty() || digits.size() > size_digits_max) return std::nullopt;
    constexpr std::uint64_t largest = std::numeric_limits<std::uint64_t>::max();
    std::uint64_t value = 0;
    for (const char c : digits) {
        if (!is_digit(c)) return std::nullopt;
        const auto digit = static_cast<std::uint64_t>(c - '0');
        value = value > (largest - digit) / 10 ? largest : value * 10 + digit;
    }
    return value;
}

std::optional<std::uint8_t> parse_notify(std::string_view value) noexcept {
    if (equal_ignoring_case(value, "NEVER")) return queue::notify_never;
    std::uint8_t notify = queue::notify_absent;
    while (true) {
        const std::size_t comma = value.find(',');
        const std::string_view word = value.substr(0, comma);
        if (equal_ignoring_case(word, "SUCCESS")) {
            notify |= queue::notify_success;
        } else if (equal_ignoring_case(word, "FAILURE")) {
            notify |= queue::notify_failure;
        } else if (equal_ignoring_case(word, "DELAY")) {
            notify |= queue::notify_delay;
        } else {
            return std::nullopt;
        }
        if (comma == std::string_view::npos) return notify;
        value.remove_prefix(comma + 1);
    }
}

bool is_original_recipient(std::string_view value) noexcept {
    if (value.size() > orcpt_bytes_max) return false;
    const std::size_t semicolon = value.find(';');
    if (semicolon == std::string_view::npos || semicolon == 0) return false;
    const std::string_view type = value.substr(0, semicolon);
    const std::string_view address = value.substr(semicolon + 1);
    for (const char c : type) {
        if (!is_keyword_character(c)) return false;
    }
    if (address.empty()) return false;
    return equal_ignoring_case(type, "utf-8") ? is_utf8_address_text(address) : is_xtext(address);
}

/// One "keyword" or "keyword=value" (§4.1.2 esmtp-param).
struct Parameter {
    std::string_view keyword;
    std::optional<std::string_view> value;
};

std::optional<Parameter> split_parameter(std::string_view word) noexcept {
    Parameter parameter;
    const std::size_t equals = word.find('=');
    parameter.keyword = word.substr(0, equals);
    if (parameter.keyword.empty() || parameter.keyword.front() == '-') return std::nullopt;
    for (const char c : parameter.keyword) {
        if (!is_keyword_character(c)) return std::nullopt;
    }
    if (equals == std::string_view::npos) return parameter;
    parameter.value = word.substr(equals + 1);
    if (parameter.value->empty()) return std::nullopt;
    return parameter;
}

enum MailParameter : unsigned {
    size_given = 1,
    body_given = 2,
    utf8_given = 4,
    auth_given = 8,
    ret_given = 16,
    envid_given = 32
};

std::optional<CommandError> apply(Mail& mail, const Parameter& parameter,
                                  unsigned& given) noexcept {
    const auto is = [&](std::string_view keyword) {
        return equal_ignoring_case(parameter.keyword, keyword);
    };
    const std::string_view value = parameter.value.value_or(std::string_view{});
    unsigned bit = 0;
    bool good = parameter.value.has_value();
    if (is("SIZE")) {
        bit = size_given;
        mail.size = parse_size(value);
        good = mail.size.has_value();
    } else if (is("BODY")) {
        bit = body_given;
        if (equal_ignoring_case(value, "8BITMIME")) {
            mail.body = queue::BodyKind::eight_bit_mime;
        } else if (equal_ignoring_case(value, "BINARYMIME")) {
            mail.body = queue::BodyKind::binary_mime;
        } else {
            good = equal_ignoring_case(value, "7BIT");
        }
    } else if (is("SMTPUTF8")) {
        bit = utf8_given;
        mail.smtputf8 = true;
        good = !parameter.value.has_value();
    } else if (is("AUTH")) {
        bit = auth_given;
        mail.auth = value;
        good = good && value.size() <= mail_auth_bytes_max && (value == "<>" || is_xtext(value));
    } else if (is("RET")) {
        bit = ret_given;
        if (equal_ignoring_case(value, "FULL")) {
            mail.dsn_return = queue::DsnReturn::full;
        } else {
            mail.dsn_return = queue::DsnReturn::headers;
            good = equal_ignoring_case(value, "HDRS");
        }
    } else if (is("ENVID")) {
        bit = envid_given;
        mail.envid = value;
        good = good && value.size() <= envid_bytes_max && is_xtext(value);
    } else {
        return CommandError::unknown_parameter;
    }
    if (!good) return CommandError::bad_parameter;
    if ((given & bit) != 0) return CommandError::repeated_parameter;
    given |= bit;
    return std::nullopt;
}

CommandError to_command_error(PathError error, bool of_mail) noexcept {
    switch (error) {
    case PathError::no_brackets:
        return of_mail ? CommandError::bad_mail_syntax : CommandError::bad_rcpt_syntax;
    case PathError::bad_address:
        return of_mail ? CommandError::bad_sender : CommandError::bad_recipient;
    case PathError::too_long:
        return CommandError::path_too_long;
    }
    return CommandError::bad_arguments;
}

Parsed<Command> parse_mail(std::string_view arguments) noexcept {
    if (!take_prefix(arguments, "FROM:")) return std::unexpected(CommandError::bad_mail_syntax);
    const auto path = parse_path(trim_front(arguments), true, false);
    if (!path) return std::unexpected(to_command_error(path.error(), true));
    if (!path->rest.empty() && path->rest.front() != ' ')
        return std::unexpected(CommandError::bad_mail_syntax);

    Mail mail;
    mail.from = path->path;
    unsigned given = 0;
    std::string_view rest = path->rest;
    for (std::string_view word = take_word(rest); !word.empty(); word = take_word(rest)) {
        const auto parameter = split_parameter(word);
        if (!parameter) return std::unexpected(CommandError::bad_parameter);
        if (const auto error = apply(mail, *parameter, given)) return std::unexpected(*error);
        mail.extended = true;
    }
    if (mail.from.utf8 && !mail.smtputf8) return std::unexpected(CommandError::address_not_ascii);
    return mail;
}

Parsed<Command> parse_rcpt(std::string_view arguments) noexcept {
    if (!take_prefix(arguments, "TO:")) return std::unexpected(CommandError::bad_rcpt_syntax);
    const auto path = parse_path(trim_front(arguments), false, true);
    if (!path) return std::unexpected(to_command_error(path.error(), false));
    if (!path->rest.empty() && path->rest.front() != ' ')
        return std::unexpected(CommandError::bad_rcpt_syntax);

    Rcpt rcpt;
    rcpt.to = path->path;
    std::string_view rest = path->rest;
    for (std::string_view word = take_word(rest); !word.empty(); word = take_word(rest)) {
        const auto parameter = split_parameter(word);
        if (!parameter) return std::unexpected(CommandError::bad_parameter);
        const std::string_view value = parameter->value.value_or(std::string_view{});
        if (equal_ignoring_case(parameter->keyword, "NOTIFY")) {
            const auto notify = parse_notify(value);
            if (!notify) return std::unexpected(CommandError::bad_parameter);
            if (rcpt.notify != queue::notify_absent)
                return std::unexpected(CommandError::repeated_parameter);
            rcpt.notify = *notify;
        } else if (equal_ignoring_case(parameter->keyword, "ORCPT")) {
            if (!is_original_recipient(value)) return std::unexpected(CommandError::bad_parameter);
            if (!rcpt.orcpt.empty()) return std::unexpected(CommandError::repeated_parameter);
            rcpt.orcpt = value;
        } else {
            return std::unexpected(CommandError::unknown_parameter);
        }
        rcpt.extended = true;
    }
    return rcpt;
}

Parsed<Command> parse_bdat(std::string_view arguments) noexcept { // RFC 3030 §2
    const std::string_view number = take_word(arguments);
    const auto bytes = parse_size(number);
    if (!bytes) return std::unexpected(CommandError::bad_arguments);
    Bdat bdat{*bytes, false};
    const std::string_view word = take_word(arguments);
    if (!word.empty()) {
        if (!equal_ignoring_case(word, "LAST")) return std::unexpected(CommandError::bad_arguments);
        bdat.last = true;
    }
    if (!trim_front(arguments).empty()) return std::unexpected(CommandError::bad_arguments);
    return bdat;
}

Parsed<Command> parse_auth(std::string_view arguments) noexcept { // RFC 4954 §4
    Auth auth;
    auth.mechanism = take_word(arguments);
    if (auth.mechanism.empty()) return std::unexpected(CommandError::bad_arguments);
    const std::string_view initial = take_word(arguments);
    if (!initial.empty()) auth.initial_response = initial == "=" ? std::string_view{} : initial;
    if (!trim_front(arguments).empty()) return std::unexpected(CommandError::bad_arguments);
    return auth;
}

template <class Bare>
Parsed<Command> parse_bare(std::string_view arguments) noexcept {
    if (!arguments.empty()) return std::unexpected(CommandError::no_arguments_expected);
    return Bare{};
}

template <class Hello>
Parsed<Command> parse_hello(std::string_view arguments) noexcept {
    if (!is_helo_name(arguments)) return std::unexpected(CommandError::bad_helo);
    return Hello{arguments};
}

} // namespace

const ServerReply& reply_to(CommandError error) noexcept {
    switch (error) {
    case CommandError::unknown_command:
        return replies::unknown_command;
    case CommandError::bad_character:
        return replies::bad_character;
    case CommandError::line_too_long:
        return replies::line_too_long;
    case CommandError::auth_line_too_long:
        return replies::auth_line_too_long;
    case CommandError::bad_arguments:
        return replies::bad_arguments;
    case CommandError::no_arguments_expected:
        return replies::no_arguments;
    case CommandError::bad_helo:
        return replies::bad_helo;
    case CommandError::bad_mail_syntax:
        return replies::bad_mail_syntax;
    case CommandError::bad_rcpt_syntax:
        return replies::bad_rcpt_syntax;
    case CommandError::bad_sender:
        return replies::bad_sender;
    case CommandError::bad_recipient:
        return replies::bad_recipient;
    case CommandError::path_too_long:
        return replies::path_too_long;
    case CommandError::bad_parameter:
        return replies::bad_parameter;
    case CommandError::repeated_parameter:
        return replies::repeated_parameter;
    case CommandError::unknown_parameter:
        return replies::unknown_parameter;
    case CommandError::address_not_ascii:
        return replies::address_not_ascii;
    }
    return replies::bad_arguments;
}

bool equal_ignoring_case(std::string_view a, std::string_view b) noexcept {
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i) {
        if (lower(a[i]) != lower(b[i])) return false;
    }
    return true;
}

bool is_utf8(std::string_view text) noexcept { // RFC 3629 §4
    for (std::size_t i = 0; i < text.size();) {
        const auto lead = static_cast<unsigned char>(text[i]);
        if (lead < 0x80) {
            ++i;
            continue;
        }
        std::size_t more = 0; // continuation bytes
        unsigned low = 0x80;  // bounds of the first of them
        unsigned high = 0xbf;
        if (lead >= 0xc2 && lead <= 0xdf) {
            more = 1;
        } else if (lead >= 0xe0 && lead <= 0xef) {
            more = 2;
            if (lead == 0xe0) low = 0xa0;
            if (lead == 0xed) high = 0x9f;
        } else if (lead >= 0xf0 && lead <= 0xf4) {
            more = 3;
            if (lead == 0xf0) low = 0x90;
            if (lead == 0xf4) high = 0x8f;
        } else {
            return false;
        }
        if (text.size() - i <= more) return false;
        for (std::size_t k = 1; k <= more; ++k) {
            const auto byte = static_cast<unsigned char>(text[i + k]);
            if (byte < low || byte > high) return false;
            low = 0x80;
            high = 0xbf;
        }
        i += more + 1;
    }
    return true;
}

bool has_verb(std::string_view line, std::string_view verb) noexcept {
    return equal_ignoring_case(line.substr(0, line.find(' ')), verb);
}

std::expected<Command, CommandError> parse_command(std::string_view line) noexcept {
    const bool is_auth = equal_ignoring_case(line.substr(0, 5), "AUTH ");
    if (is_auth && line.size() + 2 > auth_line_bytes_max)
        return std::unexpected(CommandError::auth_line_too_long);
    if (!is_auth && line.size() + 2 > command_line_bytes_max)
        return std::unexpected(CommandError::line_too_long);

    line = trim_back(line);
    for (const char c : line) { // a tab is no separator in SMTP either
        if (static_cast<unsigned char>(c) < ' ' || c == 0x7f)
            return std::unexpected(CommandError::bad_character);
    }
    const std::string_view verb = line.substr(0, line.find(' '));
    const std::string_view arguments = trim_front(line.substr(verb.size()));
    const auto is = [verb](std::string_view name) { return equal_ignoring_case(verb, name); };

    if (is("RCPT")) return parse_rcpt(arguments);
    if (is("MAIL")) return parse_mail(arguments);
    if (is("DATA")) return parse_bare<Data>(arguments);
    if (is("BDAT")) return parse_bdat(arguments);
    if (is("RSET")) return parse_bare<Rset>(arguments);
    if (is("QUIT")) return parse_bare<Quit>(arguments);
    if (is("EHLO")) return parse_hello<Ehlo>(arguments);
    if (is("HELO")) return parse_hello<Helo>(arguments);
    if (is("STARTTLS")) return parse_bare<StartTls>(arguments);
    if (is("AUTH")) return parse_auth(arguments);
    if (is("NOOP")) return Noop{}; // §4.1.1.9: an argument is ignored
    if (is("HELP")) return Help{};
    if (is("VRFY")) {
        if (arguments.empty()) return std::unexpected(CommandError::bad_arguments);
        return Vrfy{};
    }
    if (is("EXPN")) {
        if (arguments.empty()) return std::unexpected(CommandError::bad_arguments);
        return Expn{};
    }
    return std::unexpected(CommandError::unknown_command);
}

} // namespace dataplane::smtp
