#include "dataplane/smtp/sasl.h"

#include "dataplane/smtp/command_parser.h"
#include "dataplane/smtp/limits.h"

#include <array>
#include <cstdint>

namespace dataplane::smtp {
namespace {

constexpr std::uint8_t invalid = 0xff;
constexpr std::array<std::uint8_t, 256> base64_values = [] {
    std::array<std::uint8_t, 256> values{};
    values.fill(invalid);
    constexpr std::string_view alphabet =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (std::size_t i = 0; i < alphabet.size(); ++i) {
        values[static_cast<unsigned char>(alphabet[i])] = static_cast<std::uint8_t>(i);
    }
    return values;
}();

} // namespace

std::optional<std::string> decode_base64(std::string_view text) {
    if (text.size() % 4 != 0) return std::nullopt;
    std::size_t padding = 0;
    while (padding < 2 && text.ends_with('=')) {
        text.remove_suffix(1);
        ++padding;
    }
    std::string decoded;
    decoded.reserve(text.size() * 3 / 4);
    std::uint32_t bits = 0;
    unsigned bit_count = 0;
    for (const char c : text) {
        const std::uint8_t value = base64_values[static_cast<unsigned char>(c)];
        if (value == invalid) return std::nullopt;
        bits = bits << 6 | value;
        bit_count += 6;
        if (bit_count < 8) continue;
        bit_count -= 8;
        decoded.push_back(static_cast<char>(bits >> bit_count & 0xff));
    }
    const bool stray_bits = (bits & ((1U << bit_count) - 1)) != 0;
    if (bit_count != padding * 2 || stray_bits) return std::nullopt;
    return decoded;
}

std::optional<PlainCredentials> split_plain(std::string_view message) noexcept {
    const std::size_t first = message.find('\0');
    if (first == std::string_view::npos) return std::nullopt;
    const std::size_t second = message.find('\0', first + 1);
    if (second == std::string_view::npos) return std::nullopt;
    const std::string_view authorization = message.substr(0, first);
    const PlainCredentials credentials{message.substr(first + 1, second - first - 1),
                                       message.substr(second + 1)};
    if (!authorization.empty() && authorization != credentials.user) return std::nullopt;
    return credentials;
}

bool plausible(std::string_view user, std::string_view password) noexcept {
    if (user.empty() || user.size() > auth_identity_bytes_max) return false;
    if (password.empty() || password.size() > auth_password_bytes_max) return false;
    for (const char c : user) {
        if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) return false;
    }
    return is_utf8(user) && password.find('\0') == std::string_view::npos;
}

} // namespace dataplane::smtp
