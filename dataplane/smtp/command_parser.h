// command_parser.h: one command line of a client, turned into a typed command.
//
// Scope      Grammar only: RFC 5321 §4.1, and the parameters of RFC 1870 (SIZE), 6152 (8BITMIME),
//            3030 (BDAT, BINARYMIME), 3461 (DSN), 4954 (AUTH), 6531 (SMTPUTF8). Whether a command
//            is due now, and who may give it, is the session's business.
// Owns       Nothing: every view in a Command points into the line.
// Threading  Pure; no I/O, no allocation.
// Failure    CommandError, of which reply_to() knows the answer.
//
// Deviations from the grammar, each seen in real clients: spaces behind "FROM:" and "TO:" and at
// the line's end are tolerated, and '_' in domain labels. Source routes are accepted and dropped
// (§4.1.1.3).
#pragma once

#include "dataplane/smtp/server_reply.h"
#include "queue/envelope.h"

#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <string_view>
#include <variant>

namespace dataplane::smtp {

enum class CommandError : std::uint8_t {
    unknown_command,
    bad_character, // NUL or another control character
    line_too_long,
    auth_line_too_long,
    bad_arguments,
    no_arguments_expected,
    bad_helo,
    bad_mail_syntax,
    bad_rcpt_syntax,
    bad_sender,
    bad_recipient,
    path_too_long,
    bad_parameter,
    repeated_parameter,
    unknown_parameter,
    address_not_ascii, // needs SMTPUTF8 and MAIL did not say so
};
[[nodiscard]] const ServerReply& reply_to(CommandError error) noexcept;

/// "local@domain" without its angle brackets and source route. A quoted local part keeps its
/// quotes.
struct Path {
    std::string_view address; // empty: the null reverse-path
    std::string_view local_part;
    std::string_view domain; // empty for the null path and for a bare Postmaster
    bool utf8 = false;       // has non-ASCII characters, which are valid UTF-8
};

struct Ehlo {
    std::string_view name;
};
struct Helo {
    std::string_view name;
};
struct Mail {
    Path from;
    std::optional<std::uint64_t> size; // saturates when it does not fit
    queue::BodyKind body = queue::BodyKind::seven_bit;
    queue::DsnReturn dsn_return = queue::DsnReturn::unspecified;
    std::string_view envid; // xtext as received
    std::string_view auth;  // xtext as received, or "<>"
    bool smtputf8 = false;
    bool extended = false; // any parameter was given
};
struct Rcpt {
    Path to;
    std::string_view orcpt; // "type;xtext" as received
    std::uint8_t notify = queue::notify_absent;
    bool extended = false;
};
struct Data {};
struct Bdat {
    std::uint64_t bytes = 0;
    bool last = false;
};
struct Rset {};
struct Noop {};
struct Quit {};
struct Vrfy {};
struct Expn {};
struct Help {};
struct StartTls {};
struct Auth {
    std::string_view mechanism;
    std::optional<std::string_view> initial_response; // base64; "=" stands for an empty one
};
using Command = std::variant<Ehlo, Helo, Mail, Rcpt, Data, Bdat, Rset, Noop, Quit, Vrfy, Expn, Help,
                             StartTls, Auth>;

/// \param line  without its line end
[[nodiscard]] std::expected<Command, CommandError> parse_command(std::string_view line) noexcept;

/// Whether this is the line's verb, whatever its arguments: also a malformed BDAT has a chunk
/// behind it.
[[nodiscard]] bool has_verb(std::string_view line, std::string_view verb) noexcept;

/// Whether `text` is well-formed UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
[[nodiscard]] bool is_utf8(std::string_view text) noexcept;
/// ASCII letters match in either case; other bytes must be equal.
[[nodiscard]] bool equal_ignoring_case(std::string_view a, std::string_view b) noexcept;

} // namespace dataplane::smtp
