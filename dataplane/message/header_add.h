// header_add.h: the fields that the relay puts in front of a message: the prelude.
//
// Scope      Received (RFC 5321 §4.4), Date and Message-ID where a submission lacks them (RFC 6409
//            §8), and the screening rules' tags. The client's own bytes follow the prelude
//            unchanged.
// Owns       Nothing: appends to the caller's string, which keeps its capacity between messages.
// Threading  Pure.
// Failure    A tag that is no proper field, or for which there is no room, is left out.
#pragma once

#include "dataplane/base/clock.h"

#include <cstddef>
#include <string>
#include <string_view>

namespace dataplane::message {

inline constexpr std::size_t line_bytes_target = 78; // RFC 5322 §2.1.1, without CRLF
inline constexpr std::size_t line_bytes_max = 998;   // §2.1.1, without CRLF

struct Received {
    std::string_view helo;           // as the client gave it, checked by the parser
    std::string_view client_literal; // "[192.0.2.1]" or "[IPv6:2001:db8::1]"
    std::string_view host;           // us
    std::string_view protocol;       // RFC 3848, RFC 6531 §4.3
    std::string_view id;
    std::string_view
        recipient; // when there is exactly one, otherwise empty: no one learns of a Bcc
    base::WallTime time{};
};

/// "SMTP", "ESMTPSA", "UTF8SMTPS" and so on.
[[nodiscard]] std::string_view protocol_name(bool extended, bool tls, bool authenticated,
                                             bool utf8) noexcept;

void append_received(std::string& prelude, const Received& received);
void append_date(std::string& prelude, base::WallTime time);
/// "<id@host>": unique because a message's id is never given twice on a host.
void append_message_id(std::string& prelude, std::string_view id, std::string_view host);
/// Folds at blanks. Leaves the prelude as it was when name or value cannot be put on the wire, or
/// when it would grow beyond `prelude_bytes_max`; returns whether the field was added.
bool append_field(std::string& prelude, std::string_view name, std::string_view value,
                  std::size_t prelude_bytes_max);

} // namespace dataplane::message
