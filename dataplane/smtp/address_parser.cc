#include "dataplane/smtp/address_parser.h"

#include "dataplane/base/address.h"
#include "dataplane/smtp/limits.h"

namespace dataplane::smtp {
namespace {

constexpr bool is_alpha(char c) noexcept {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
constexpr bool is_digit(char c) noexcept {
    return c >= '0' && c <= '9';
}
constexpr bool is_high(char c) noexcept {
    return static_cast<unsigned char>(c) >= 0x80;
}

constexpr bool is_atext(char c) noexcept { // RFC 5322 §3.2.3, RFC 6531 §3.3
    return is_alpha(c) || is_digit(c) || is_high(c) ||
           std::string_view{"!#$%&'*+-/=?^_`{|}~"}.find(c) != std::string_view::npos;
}

/// Length of the local part at the front of `text`, or 0 when there is none.
std::size_t local_part_length(std::string_view text) noexcept {
    if (text.empty()) return 0;
    std::size_t at = 0;
    if (text[0] == '"') { // Quoted-string
        for (at = 1; at < text.size() && text[at] != '"'; ++at) {
            if (text[at] == '\\' && ++at == text.size()) return 0;
            const auto c = static_cast<unsigned char>(text[at]);
            if (c < ' ' || c == 0x7f) return 0;
        }
        return at < text.size() ? at + 1 : 0;
    }
    bool after_dot = true; // Dot-string: no dot at either end, nor two together
    for (; at < text.size(); ++at) {
        if (is_atext(text[at])) {
            after_dot = false;
        } else if (text[at] == '.' && !after_dot) {
            after_dot = true;
        } else {
            break;
        }
    }
    return after_dot ? 0 : at;
}

bool is_domain(std::string_view text) noexcept {
    if (text.empty() || text.size() > domain_bytes_max) return false;
    while (true) {
        const std::size_t dot = text.find('.');
        const std::string_view label = text.substr(0, dot);
        if (label.empty() || label.size() > domain_label_bytes_max) return false;
        if (label.front() == '-' || label.back() == '-') return false;
        for (const char c : label) {
            if (!is_alpha(c) && !is_digit(c) && !is_high(c) && c != '-' && c != '_') return false;
        }
        if (dot == std::string_view::npos) return true;
        text.remove_prefix(dot + 1);
    }
}

bool is_literal(std::string_view text) noexcept {
    constexpr std::string_view ipv6_tag = "IPv6:";
    if (text.size() < 2 || text.front() != '[' || text.back() != ']') return false;
    text = text.substr(1, text.size() - 2);
    const bool v6 = equal_ignoring_case(text.substr(0, ipv6_tag.size()), ipv6_tag);
    if (v6) text.remove_prefix(ipv6_tag.size());
    if (text.find(':') != std::string_view::npos && !v6) return false;
    const auto ip = base::IpAddress::parse(text);
    return ip.has_value() && (v6 || !ip->is_v6());
}

/// Drops "@one,@two:" (§4.1.2 A-d-l); false when it is there and malformed.
bool drop_source_route(std::string_view& text) noexcept {
    if (text.empty() || text.front() != '@') return true;
    const std::size_t colon = text.find(':');
    if (colon == std::string_view::npos) return false;
    std::string_view route = text.substr(0, colon);
    text.remove_prefix(colon + 1);
    while (true) {
        const std::size_t comma = route.find(',');
        const std::string_view hop = route.substr(0, comma);
        if (hop.empty() || hop.front() != '@' || !is_domain(hop.substr(1))) return false;
        if (comma == std::string_view::npos) return true;
        route.remove_prefix(comma + 1);
    }
}

} // namespace

bool is_domain_or_literal(std::string_view text) noexcept {
    return text.starts_with('[') ? is_literal(text) : is_domain(text) && is_utf8(text);
}

bool is_helo_name(std::string_view text) noexcept {
    if (text.empty() || text.size() > domain_bytes_max) return false;
    for (const char c : text) {
        if (!is_alpha(c) && !is_digit(c) &&
            std::string_view{"-_.:[]"}.find(c) == std::string_view::npos) {
            return false;
        }
    }
    return true;
}

std::expected<PathAndRest, PathError> parse_path(std::string_view text, bool null_allowed,
                                                 bool postmaster_allowed) noexcept {
    if (text.empty() || text.front() != '<') return std::unexpected(PathError::no_brackets);
    text.remove_prefix(1);
    PathAndRest result;
    if (null_allowed && text.starts_with('>')) {
        result.rest = text.substr(1);
        return result;
    }
    const std::string_view path = text;
    if (!drop_source_route(text)) return std::unexpected(PathError::bad_address);

    const std::size_t local_bytes = local_part_length(text);
    if (local_bytes == 0) return std::unexpected(PathError::bad_address);
    result.path.local_part = text.substr(0, local_bytes);
    std::size_t address_bytes = local_bytes;
    if (text.substr(local_bytes).starts_with('@')) {
        const std::string_view tail = text.substr(local_bytes + 1);
        result.path.domain = tail.substr(0, tail.find_first_of("> "));
        if (result.path.domain.size() > domain_bytes_max)
            return std::unexpected(PathError::too_long);
        if (!is_domain_or_literal(result.path.domain))
            return std::unexpected(PathError::bad_address);
        address_bytes += 1 + result.path.domain.size();
    } else if (!postmaster_allowed || !equal_ignoring_case(result.path.local_part, "postmaster")) {
        return std::unexpected(PathError::bad_address);
    }
    result.path.address = text.substr(0, address_bytes);
    result.rest = text.substr(address_bytes);
    if (!result.rest.starts_with('>')) return std::unexpected(PathError::bad_address);
    result.rest.remove_prefix(1);

    const std::size_t path_bytes = static_cast<std::size_t>(result.rest.data() - path.data()) + 1;
    if (path_bytes > path_bytes_max || local_bytes > local_part_bytes_max) {
        return std::unexpected(PathError::too_long);
    }
    for (const char c : result.path.address)
        result.path.utf8 |= is_high(c);
    if (result.path.utf8 && !is_utf8(result.path.address))
        return std::unexpected(PathError::bad_address);
    return result;
}

} // namespace dataplane::smtp
