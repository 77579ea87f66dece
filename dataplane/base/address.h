// address.h: IP addresses, socket addresses and networks, v4 and v6 alike.
//
// Scope      Values only: parse, print, compare, hash. IPv4 is kept in its own four bytes, and a
//            v4-mapped IPv6 address from the wire is turned into IPv4, so that no list can be
//            passed by writing the same host another way.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace dataplane::base {

class IpAddress {
public:
    IpAddress() noexcept = default; // 0.0.0.0
    static IpAddress v4(std::array<std::uint8_t, 4> bytes) noexcept;
    static IpAddress v6(std::array<std::uint8_t, 16> bytes) noexcept; // mapped v4 becomes v4
    [[nodiscard]] static std::optional<IpAddress> parse(std::string_view text) noexcept;

    [[nodiscard]] bool is_v6() const noexcept { return v6_; }
    [[nodiscard]] bool is_loopback() const noexcept;
    [[nodiscard]] unsigned bit_count() const noexcept { return v6_ ? 128 : 32; }
    /// 16 bytes for IPv6; for IPv4 the first four.
    [[nodiscard]] const std::array<std::uint8_t, 16>& bytes() const noexcept { return bytes_; }
    [[nodiscard]] std::string to_string() const;
    /// RFC 5321 §4.1.3: "[192.0.2.1]" or "[IPv6:2001:db8::1]".
    [[nodiscard]] std::string to_literal() const;

    auto operator<=>(const IpAddress&) const noexcept = default;

private:
    std::array<std::uint8_t, 16> bytes_{};
    bool v6_ = false;
};

struct SocketAddress {
    IpAddress ip;
    std::uint16_t port = 0;

    /// "192.0.2.1:25" or "[2001:db8::1]:25".
    [[nodiscard]] static std::optional<SocketAddress> parse(std::string_view text) noexcept;
    [[nodiscard]] std::string to_string() const;
    auto operator<=>(const SocketAddress&) const noexcept = default;
};

struct Network {
    IpAddress base;
    unsigned prefix_bits = 0;

    /// "10.0.0.0/8", "2001:db8::/32", or a bare address. Host bits that are set are an error.
    [[nodiscard]] static std::optional<Network> parse(std::string_view text) noexcept;
    [[nodiscard]] bool contains(const IpAddress& ip) const noexcept;
    auto operator<=>(const Network&) const noexcept = default;
};

struct IpAddressHash {
    std::size_t operator()(const IpAddress& ip) const noexcept;
};

} // namespace dataplane::base
