// domain.h: names on the way to a host: recipient domains, address literals, and the names of
// sites.
//
// Scope      Pure functions of text.
// Threading  Any. to_ascii allocates; it runs once per domain, not per message.
#pragma once

#include "dataplane/base/address.h"

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace dataplane::delivery {

inline constexpr std::size_t domain_bytes_max = 255; // RFC 5321 §4.5.3.1.2, RFC 1035 §2.3.4

/// A recipient domain in lower case, for look-ups; ASCII only is folded. Lives on the stack,
/// because each message asks.
class FoldedDomain {
public:
    explicit FoldedDomain(std::string_view domain) noexcept;
    [[nodiscard]] std::string_view text() const noexcept { return {text_.data(), size_}; }

private:
    std::array<char, domain_bytes_max> text_;
    std::size_t size_ = 0; // 0 when the domain was longer than any can be
};

/// The name to ask the DNS for: lower case, U-labels as A-labels (IDNA2008, RFC 5891), no trailing
/// dot. nullopt: it is no host name, and never will be.
[[nodiscard]] std::optional<std::string> to_ascii(std::string_view domain);

/// "[192.0.2.1]" or "[IPv6:2001:db8::1]" (RFC 5321 §4.1.3); bare addresses count in a route's
/// hosts.
[[nodiscard]] std::optional<base::IpAddress> address_literal(std::string_view domain) noexcept;

/// The name of the site behind these MX hosts, as KumoMTA forms it: the labels that differ become
/// an alternation, the hosts' order and preferences do not matter:
/// "(alt1|alt2)?.gmail-smtp-in.l.google.com".
[[nodiscard]] std::string site_name(std::span<const std::string> hosts);

} // namespace dataplane::delivery
