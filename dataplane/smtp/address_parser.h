// address_parser.h: mailboxes, paths and host names of SMTP commands.
//
// Scope      RFC 5321 §4.1.2 and §4.1.3 with the wider characters of RFC 6531 §3.3.
// Owns       Nothing; views point into the text.
// Threading  Pure.
#pragma once

#include "dataplane/smtp/command_parser.h"

#include <expected>
#include <string_view>

namespace dataplane::smtp {

enum class PathError : std::uint8_t { no_brackets, bad_address, too_long };

struct PathAndRest {
    Path path;
    std::string_view rest; // behind the closing bracket
};

/// Reads "<address>" or "<@route:address>" at the front of `text`.
/// \param null_allowed        "<>" is a reverse-path
/// \param postmaster_allowed  "<Postmaster>" needs no domain as a forward-path (§4.1.1.3)
[[nodiscard]] std::expected<PathAndRest, PathError>
parse_path(std::string_view text, bool null_allowed, bool postmaster_allowed) noexcept;

/// A domain of letters, digits, '-', '_' and UTF-8, or an IPv4 or IPv6 address literal.
[[nodiscard]] bool is_domain_or_literal(std::string_view text) noexcept;
/// What clients call themselves: looser than a domain, because many are misconfigured, but ASCII
/// (RFC 6531 §3.7.1) and safe in a header field.
[[nodiscard]] bool is_helo_name(std::string_view text) noexcept;

} // namespace dataplane::smtp
