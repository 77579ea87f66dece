// reference.h: RFC 6376's canonical forms, plain and slow, straight from the words of §3.4.
//
// Threading  Pure. Written without a look at dataplane/message/dkim/canonical.h, which is held against it.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace tests::dkim_reference {

/// The pieces between CRLFs; the last one is what follows the last CRLF.
inline std::vector<std::string> lines_of(std::string_view text) {
    std::vector<std::string> lines;
    std::size_t at = 0;
    while (true) {
        const std::size_t end = text.find("\r\n", at);
        lines.emplace_back(text.substr(at, end == std::string_view::npos ? end : end - at));
        if (end == std::string_view::npos) return lines;
        at = end + 2;
    }
}

/// "Reduce all sequences of WSP within a line to a single SP character. Ignore all whitespace at the end."
inline std::string reduced(std::string_view line) {
    std::string out;
    for (const char c : line) {
        if (c != ' ' && c != '\t') {
            out += c;
        } else if (out.empty() || out.back() != ' ') {
            out += ' ';
        }
    }
    while (out.ends_with(' '))
        out.pop_back();
    return out;
}

inline std::string body(bool relaxed, std::string_view text) {
    std::vector<std::string> lines = lines_of(text);
    if (relaxed) std::transform(lines.begin(), lines.end(), lines.begin(), reduced);
    while (!lines.empty() && lines.back().empty())
        lines.pop_back();
    if (lines.empty()) return relaxed ? "" : "\r\n";
    std::string out;
    for (const std::string& line : lines)
        out += line + "\r\n";
    return out;
}

/// \param field  without its last CRLF
inline std::string field(bool relaxed, std::string_view text) {
    if (!relaxed) return std::string{text};
    std::string name, value;
    const std::size_t colon = text.find(':');
    for (const char c : text.substr(0, colon))
        if (c != ' ' && c != '\t')
            name += static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
    for (const std::string& line : lines_of(text.substr(colon + 1)))
        value += line;
    value = reduced(value);
    if (value.starts_with(' ')) value.erase(0, 1);
    return name + ":" + value;
}

struct Text { // a sink
    std::string text;
    void add(std::string_view bytes) { text += bytes; }
};

} // namespace tests::dkim_reference
