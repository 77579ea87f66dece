#include "dataplane/message/dkim/header_fields.h"

#include <algorithm>

namespace dataplane::message::dkim {
namespace {

constexpr std::size_t domain_bytes_max = 255; // RFC 1035 §2.3.4
constexpr std::size_t comment_depth_max = 64; // ours

bool is_blank(char c) noexcept {
    return c == ' ' || c == '\t';
}

/// Letters, digits, hyphens, dots, underscores and UTF-8: what can be the name of a folder with keys.
bool is_domain(std::string_view text) noexcept {
    if (text.empty() || text.size() > domain_bytes_max || text.front() == '.') return false;
    char before = '.';
    for (const char c : text) {
        const bool good = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
                          c == '_' || static_cast<unsigned char>(c) >= 0x80 ||
                          (c == '.' && before != '.');
        if (!good) return false;
        before = c;
    }
    return true;
}

} // namespace

bool HeaderField::is(std::string_view lower_case) const noexcept {
    return std::ranges::equal(name(), lower_case, {}, lower);
}

bool parse_fields(std::string_view section, std::vector<HeaderField>& fields) {
    while (!section.empty() && section != "\r\n") {
        std::size_t end = 0; // of the field
        while (true) {
            const std::size_t line = end;
            end = section.find('\n', line);
            const std::size_t cr = section.substr(0, end).find('\r', line);
            if (end == std::string_view::npos) { // the last line of a message without a body
                if (cr != std::string_view::npos) return false;
                end = section.size();
                break;
            }
            if (cr == std::string_view::npos || cr + 1 != end) return false;
            if (end + 1 == section.size() || !is_blank(section[end + 1])) {
                end = cr;
                break;
            }
            ++end; // a fold
        }
        HeaderField field;
        field.text = section.substr(0, end);
        field.name_bytes = field.text.find(':');
        if (field.name_bytes == std::string_view::npos) return false;
        while (field.name_bytes != 0 && is_blank(field.text[field.name_bytes - 1]))
            --field.name_bytes;
        for (const char c : field.name()) {
            if (c <= ' ' || c >= 0x7f) return false;
        }
        if (field.name_bytes == 0) return false;
        fields.push_back(field);
        section.remove_prefix(std::min(end + 2, section.size()));
    }
    return true;
}

void author_domain(std::string_view value, std::string& domain) {
    domain.clear();
    // One pass over the value. `domain` collects what follows the last @ of the address at hand: of the
    // text between angle brackets, or of a bare address when no bracket comes before its comma.
    bool in_angle = false, behind_at = false, quoted = false;
    std::size_t comments = 0;
    for (std::size_t i = 0; i < value.size(); ++i) {
        const char c = value[i];
        if (c == '\\' && (quoted || comments != 0)) {
            ++i;
        } else if (comments != 0) {
            if (c == ')') --comments;
            if (c == '(' && ++comments > comment_depth_max) return domain.clear();
        } else if (c == '"') {
            quoted = !quoted;
            if (behind_at) return domain.clear(); // no domain has quotes
        } else if (quoted) {
            continue;
        } else if (c == '(') {
            ++comments;
        } else if (c == '<') {
            if (in_angle) return domain.clear();
            in_angle = true;
            behind_at = false; // what came before was a name
            domain.clear();
        } else if (c == '>' || (c == ',' && !in_angle) || (c == ';' && !in_angle)) {
            if (behind_at && !domain.empty()) break;
            if (c == '>') return domain.clear();
            domain.clear(); // an empty list element (§4.4), or the end of an empty group
            behind_at = false;
        } else if (c == ':' && !in_angle) { // what came before was a group's name
            behind_at = false;
            domain.clear();
        } else if (c == '@') {
            behind_at = true;
            domain.clear();
        } else if (behind_at && !is_blank(c) && c != '\r' && c != '\n') {
            domain.push_back(lower(c));
            if (domain.size() > domain_bytes_max) return domain.clear();
        }
    }
    if (quoted || comments != 0 || !behind_at) return domain.clear();
    if (domain.ends_with('.')) domain.pop_back(); // "example.com." is the same domain
    if (!is_domain(domain)) domain.clear();
}

} // namespace dataplane::message::dkim
