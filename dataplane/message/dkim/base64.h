// base64.h: RFC 4648 §4, as keys and signatures are written.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace dataplane::message::dkim {

inline constexpr std::string_view base64_letters =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

[[nodiscard]] constexpr std::size_t base64_size(std::size_t bytes) noexcept {
    return (bytes + 2) / 3 * 4;
}

inline void append_base64(std::string& to, std::string_view bytes) {
    const std::size_t start = to.size();
    to.resize(start + base64_size(bytes.size()), '=');
    char* out = to.data() + start;
    const auto byte = [&](std::size_t i) {
        return std::uint32_t{static_cast<unsigned char>(bytes[i])};
    };
    std::size_t at = 0;
    for (; at + 3 <= bytes.size(); at += 3) {
        const std::uint32_t group = byte(at) << 16 | byte(at + 1) << 8 | byte(at + 2);
        *out++ = base64_letters[group >> 18];
        *out++ = base64_letters[group >> 12 & 63];
        *out++ = base64_letters[group >> 6 & 63];
        *out++ = base64_letters[group & 63];
    }
    if (at == bytes.size()) return;
    const bool two = at + 2 == bytes.size();
    const std::uint32_t group = byte(at) << 16 | (two ? byte(at + 1) << 8 : 0);
    *out++ = base64_letters[group >> 18];
    *out++ = base64_letters[group >> 12 & 63];
    if (two) *out = base64_letters[group >> 6 & 63];
}

/// Blanks and line ends anywhere are skipped. False when it is no base64.
[[nodiscard]] inline bool decode_base64(std::string_view text, std::string& to) {
    std::uint32_t group = 0;
    unsigned letters = 0, padding = 0;
    for (const char c : text) {
        if (c == ' ' || c == '\t' || c == '\r' || c == '\n') continue;
        if (c == '=') {
            ++padding;
            continue;
        }
        const std::size_t value = base64_letters.find(c);
        if (value == std::string_view::npos || padding != 0) return false;
        group = group << 6 | static_cast<std::uint32_t>(value);
        if (++letters % 4 != 0) continue;
        for (const unsigned shift : {16U, 8U, 0U})
            to.push_back(static_cast<char>(group >> shift & 0xff));
        group = 0;
    }
    const unsigned rest = letters % 4;
    if (rest == 1 || padding > 2 || (padding != 0 && (rest + padding) % 4 != 0)) return false;
    if (rest >= 2) to.push_back(static_cast<char>(group >> (rest == 2 ? 4 : 10) & 0xff));
    if (rest == 3) to.push_back(static_cast<char>(group >> 2 & 0xff));
    return true;
}

} // namespace dataplane::message::dkim
