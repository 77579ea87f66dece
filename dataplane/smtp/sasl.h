// sasl.h: what AUTH PLAIN and AUTH LOGIN put into a base64 word.
//
// Scope      Base64 (RFC 4648 §4, strict) and the PLAIN message (RFC 4616 §2). Whether the password
//            is right is the Authenticator's business.
// Threading  Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace dataplane::smtp {

/// nullopt for anything that an encoder would not have written: blanks, missing padding, stray
/// bits.
[[nodiscard]] std::optional<std::string> decode_base64(std::string_view text);

struct PlainCredentials {
    std::string_view user;
    std::string_view password;
};
/// Splits "authzid NUL authcid NUL password"; views into `message`. An authzid other than the
/// user's own name is refused: nobody acts for somebody else.
[[nodiscard]] std::optional<PlainCredentials> split_plain(std::string_view message) noexcept;
/// Whether the name and password are of a length and shape that an account can have.
[[nodiscard]] bool plausible(std::string_view user, std::string_view password) noexcept;

} // namespace dataplane::smtp
