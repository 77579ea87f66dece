// header_fields.h: a header section cut into its fields, and the author's domain.
//
// Scope      Where each field begins, ends and has its colon. What the values mean is only looked at for
//            From: the domain of the first author, which decides who signs.
// Owns       A list of views, whose room is kept between messages. The texts are the caller's.
// Threading  A value.
// Failure    parse() and author_domain() refuse what verifiers would read in more than one way.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace dataplane::message::dkim {

struct HeaderField {
    std::string_view text;      // from the name to the last byte, without the CRLF that ends it
    std::size_t name_bytes = 0; // without blanks in front of the colon

    [[nodiscard]] std::string_view name() const noexcept { return text.substr(0, name_bytes); }
    [[nodiscard]] std::string_view value() const noexcept {
        return text.substr(text.find(':') + 1);
    }
    /// \param lower  in lower case
    [[nodiscard]] bool is(std::string_view lower) const noexcept;
};

/// Appends the fields of `section` to `fields`; the blank line at its end may be there or not. False when
/// there is a line that is no field, or a CR or LF alone.
[[nodiscard]] bool parse_fields(std::string_view section, std::vector<HeaderField>& fields);

/// The domain of the first address in the value of a From field, in lower case: into `domain`, which is
/// empty when there is none. Understands comments, quoted strings, groups and folds (RFC 5322 §3.4).
void author_domain(std::string_view value, std::string& domain);

[[nodiscard]] constexpr char lower(char c) noexcept {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
}

} // namespace dataplane::message::dkim
