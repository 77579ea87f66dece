#include "dataplane/net/proxy_header.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <optional>
#include <string_view>

namespace dataplane::net {
namespace {

using Result = std::expected<ProxyHeader, ProxyHeaderError>;
constexpr std::unexpected<ProxyHeaderError> need_more{ProxyHeaderError::need_more};
constexpr std::unexpected<ProxyHeaderError> bad{ProxyHeaderError::bad};

constexpr std::string_view v1_signature = "PROXY ";
constexpr std::string_view v2_signature{"\r\n\r\n\0\r\nQUIT\n", 12};
constexpr std::size_t v2_fixed_bytes = 16;

/// The next word of a line whose words are separated by exactly one space.
std::optional<std::string_view> next_word(std::string_view& line) noexcept {
    const std::size_t space = line.find(' ');
    const std::string_view word = line.substr(0, space);
    line = space == std::string_view::npos ? std::string_view{} : line.substr(space + 1);
    if (word.empty()) return std::nullopt;
    return word;
}

/// A port in decimal without leading zeros (§2.1).
std::optional<std::uint16_t> parse_port(std::string_view text) noexcept {
    if (text.size() > 1 && text.front() == '0') return std::nullopt;
    std::uint16_t port = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
    if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
    return port;
}

/// An address written in the family that was announced. A mapped IPv4 address in a TCP6 line is
/// written in IPv6, though our IpAddress makes an IPv4 address of it.
std::optional<base::IpAddress> parse_ip(std::string_view text, bool v6) noexcept {
    if ((text.find(':') != std::string_view::npos) != v6) return std::nullopt;
    return base::IpAddress::parse(text);
}

Result parse_v1(std::string_view text) noexcept {
    const std::size_t lf = text.substr(0, proxy_v1_bytes_max).find('\n');
    if (lf == std::string_view::npos) {
        if (text.size() >= proxy_v1_bytes_max) return bad;
        return need_more;
    }
    if (text[lf - 1] != '\r') return bad; // lf > 0: the signature is in front of it
    ProxyHeader header;
    header.bytes = lf + 1;
    std::string_view line = text.substr(v1_signature.size(), lf - 1 - v1_signature.size());
    if (line == "UNKNOWN" || line.starts_with("UNKNOWN "))
        return header; // the rest is ignored (§2.1)

    const auto family = next_word(line);
    if (!family || (*family != "TCP4" && *family != "TCP6")) return bad;
    const bool v6 = *family == "TCP6";
    const auto source_text = next_word(line);
    const auto destination_text = next_word(line);
    const auto source_port_text = next_word(line);
    // The line's end, with no further word behind it.
    if (!source_text || !destination_text || !source_port_text || line.empty()) return bad;
    const auto source = parse_ip(*source_text, v6);
    const auto destination = parse_ip(*destination_text, v6);
    const auto source_port = parse_port(*source_port_text);
    const auto destination_port = parse_port(line);
    if (!source || !destination || !source_port || !destination_port) return bad;
    header.source = {*source, *source_port};
    header.destination = {*destination, *destination_port};
    header.told = true;
    return header;
}

std::uint16_t big_endian_16(const std::byte* at) noexcept {
    return static_cast<std::uint16_t>(std::to_integer<unsigned>(at[0]) << 8 |
                                      std::to_integer<unsigned>(at[1]));
}

template <std::size_t count>
std::array<std::uint8_t, count> address_bytes(const std::byte* at) noexcept {
    std::array<std::uint8_t, count> bytes;
    std::memcpy(bytes.data(), at, count);
    return bytes;
}

Result parse_v2(std::span<const std::byte> bytes) noexcept {
    if (bytes.size() > v2_signature.size()) {
        const auto version_and_command = std::to_integer<unsigned>(bytes[12]);
        if (version_and_command >> 4 != 2 || (version_and_command & 15) > 1) return bad;
    }
    if (bytes.size() < v2_fixed_bytes) return need_more;
    const bool local = (std::to_integer<unsigned>(bytes[12]) & 15) == 0;
    const unsigned family = std::to_integer<unsigned>(bytes[13]) >> 4;
    const unsigned protocol = std::to_integer<unsigned>(bytes[13]) & 15;
    const std::size_t length = big_endian_16(&bytes[14]);
    ProxyHeader header;
    header.bytes = v2_fixed_bytes + length;
    if (local) return header; // the family must be ignored then (§2.2)
    if (family > 3 || protocol > 2) return bad;
    const bool stream_over_ip = (family == 1 || family == 2) && protocol == 1;
    if (!stream_over_ip) return header;

    const std::size_t ip_bytes = family == 1 ? 4 : 16;
    const std::size_t block_bytes = 2 * ip_bytes + 4;
    if (length < block_bytes) return bad;
    if (bytes.size() < v2_fixed_bytes + block_bytes) return need_more;
    const std::byte* block = bytes.data() + v2_fixed_bytes;
    if (family == 1) {
        header.source.ip = base::IpAddress::v4(address_bytes<4>(block));
        header.destination.ip = base::IpAddress::v4(address_bytes<4>(block + 4));
    } else {
        header.source.ip = base::IpAddress::v6(address_bytes<16>(block));
        header.destination.ip = base::IpAddress::v6(address_bytes<16>(block + 16));
    }
    header.source.port = big_endian_16(block + 2 * ip_bytes);
    header.destination.port = big_endian_16(block + 2 * ip_bytes + 2);
    header.told = true;
    return header;
}

} // namespace

Result parse_proxy_header(std::span<const std::byte> bytes) noexcept {
    bytes = bytes.first(std::min(bytes.size(), proxy_header_look_bytes));
    const std::string_view text{reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    if (text.starts_with(v1_signature)) return parse_v1(text);
    if (text.starts_with(v2_signature)) return parse_v2(bytes);
    if (v1_signature.starts_with(text) || v2_signature.starts_with(text)) return need_more;
    return bad;
}

} // namespace dataplane::net
