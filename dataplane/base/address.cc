#include "dataplane/base/address.h"

#include <algorithm>
#include <arpa/inet.h>
#include <charconv>
#include <cstring>

namespace dataplane::base {
namespace {

constexpr std::size_t address_text_bytes_max = INET6_ADDRSTRLEN;

std::optional<unsigned> parse_number(std::string_view text, unsigned limit) noexcept {
    unsigned value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || value > limit)
        return std::nullopt;
    return value;
}

} // namespace

IpAddress IpAddress::v4(std::array<std::uint8_t, 4> bytes) noexcept {
    IpAddress ip;
    std::copy(bytes.begin(), bytes.end(), ip.bytes_.begin());
    return ip;
}

IpAddress IpAddress::v6(std::array<std::uint8_t, 16> bytes) noexcept {
    constexpr std::array<std::uint8_t, 12> mapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    if (std::equal(mapped.begin(), mapped.end(), bytes.begin())) {
        return v4({bytes[12], bytes[13], bytes[14], bytes[15]});
    }
    IpAddress ip;
    ip.bytes_ = bytes;
    ip.v6_ = true;
    return ip;
}

std::optional<IpAddress> IpAddress::parse(std::string_view text) noexcept {
    if (text.empty() || text.size() >= address_text_bytes_max) return std::nullopt;
    if (text.find('\0') != std::string_view::npos)
        return std::nullopt; // inet_pton would stop there
    std::array<char, address_text_bytes_max> terminated{};
    std::copy(text.begin(), text.end(), terminated.begin());
    std::array<std::uint8_t, 4> four{};
    if (inet_pton(AF_INET, terminated.data(), four.data()) == 1) return v4(four);
    std::array<std::uint8_t, 16> sixteen{};
    if (inet_pton(AF_INET6, terminated.data(), sixteen.data()) == 1) return v6(sixteen);
    return std::nullopt;
}

bool IpAddress::is_loopback() const noexcept {
    if (!v6_) return bytes_[0] == 127;
    constexpr std::array<std::uint8_t, 16> one{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1};
    return bytes_ == one;
}

std::string IpAddress::to_string() const {
    std::array<char, address_text_bytes_max> text{};
    inet_ntop(v6_ ? AF_INET6 : AF_INET, bytes_.data(), text.data(), text.size());
    return text.data();
}

std::string IpAddress::to_literal() const {
    return (v6_ ? "[IPv6:" : "[") + to_string() + "]";
}

std::optional<SocketAddress> SocketAddress::parse(std::string_view text) noexcept {
    const std::size_t colon = text.rfind(':');
    if (colon == std::string_view::npos) return std::nullopt;
    std::string_view host = text.substr(0, colon);
    const bool bracketed = host.size() >= 2 && host.front() == '[' && host.back() == ']';
    if (bracketed) host = host.substr(1, host.size() - 2);
    const auto ip = IpAddress::parse(host);
    const auto port = parse_number(text.substr(colon + 1), 65535);
    if (!ip || !port || ip->is_v6() != bracketed) return std::nullopt;
    return SocketAddress{*ip, static_cast<std::uint16_t>(*port)};
}

std::string SocketAddress::to_string() const {
    const std::string host = ip.is_v6() ? "[" + ip.to_string() + "]" : ip.to_string();
    return host + ":" + std::to_string(port);
}

std::optional<Network> Network::parse(std::string_view text) noexcept {
    const std::size_t slash = text.find('/');
    const auto ip = IpAddress::parse(text.substr(0, slash));
    if (!ip) return std::nullopt;
    if (slash == std::string_view::npos) return Network{*ip, ip->bit_count()};
    const auto bits = parse_number(text.substr(slash + 1), ip->bit_count());
    if (!bits) return std::nullopt;
    for (unsigned bit = *bits; bit < ip->bit_count(); ++bit) {
        if ((ip->bytes()[bit / 8] & (0x80U >> (bit % 8))) != 0) return std::nullopt;
    }
    return Network{*ip, *bits};
}

bool Network::contains(const IpAddress& ip) const noexcept {
    if (ip.is_v6() != base.is_v6()) return false;
    const unsigned whole = prefix_bits / 8;
    if (std::memcmp(ip.bytes().data(), base.bytes().data(), whole) != 0) return false;
    const unsigned rest = prefix_bits % 8;
    if (rest == 0) return true;
    const auto mask = static_cast<std::uint8_t>(0xff00U >> rest);
    return ((ip.bytes()[whole] ^ base.bytes()[whole]) & mask) == 0;
}

std::size_t IpAddressHash::operator()(const IpAddress& ip) const noexcept {
    std::uint64_t halves[2];
    std::memcpy(halves, ip.bytes().data(), sizeof halves);
    std::uint64_t mix = halves[0] * 0x9e3779b97f4a7c15ULL + halves[1] + (ip.is_v6() ? 1 : 0);
    mix ^= mix >> 29;
    mix *= 0xbf58476d1ce4e5b9ULL;
    return static_cast<std::size_t>(mix ^ (mix >> 32));
}

} // namespace dataplane::base
