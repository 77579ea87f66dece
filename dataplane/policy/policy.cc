#include "dataplane/policy/policy.h"

#include <algorithm>
#include <array>

namespace dataplane::policy {
namespace {

/// RFC 1035 §2.3.4: a domain has at most 255 octets; account names are bounded to less by control.
constexpr std::size_t name_bytes_max = 320; // RFC 3696 erratum 1690: a whole address

/// `text` in lower case (ASCII: IDNA names arrive as A-labels) behind a dot, in memory of its own
/// so that look-ups do not allocate. Longer names are in no table.
class LowerCase {
public:
    explicit LowerCase(std::string_view text) noexcept
        : size_(text.size() <= name_bytes_max ? text.size() : 0) {
        bytes_[0] = '.';
        std::transform(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(size_),
                       bytes_.begin() + 1, [](char byte) {
                           return byte >= 'A' && byte <= 'Z' ? static_cast<char>(byte - 'A' + 'a')
                                                             : byte;
                       });
    }
    [[nodiscard]] std::string_view view() const noexcept { return dotted().substr(1); }
    [[nodiscard]] std::string_view dotted() const noexcept { return {bytes_.data(), size_ + 1}; }

private:
    std::array<char, name_bytes_max + 1> bytes_;
    std::size_t size_;
};

} // namespace

bool Policy::is_relay_client(const base::IpAddress& client) const noexcept {
    return std::any_of(relay_networks.begin(), relay_networks.end(),
                       [&](const base::Network& network) { return network.contains(client); });
}

const AccountPolicy* Policy::account(std::string_view name) const noexcept {
    const auto found = accounts.find(LowerCase{name}.view());
    return found == accounts.end() ? nullptr : &found->second;
}

const RoutePolicy& Policy::route(std::string_view domain) const {
    if (routes.empty()) return default_route;
    if (domain.ends_with('.')) domain.remove_suffix(1); // "example.com." is the same domain
    const LowerCase lower{domain};
    if (const auto found = routes.find(lower.view()); found != routes.end()) return found->second;
    // ".example.com" serves example.com and every name below it; the nearest such entry wins.
    const std::string_view name = lower.dotted();
    for (std::size_t dot = 0; dot != std::string_view::npos; dot = name.find('.', dot + 1)) {
        if (const auto found = routes.find(name.substr(dot)); found != routes.end())
            return found->second;
    }
    return default_route;
}

const SitePolicy& Policy::site(std::string_view site_name, std::string_view domain) const {
    if (sites.empty()) return default_site;
    if (const auto found = sites.find(LowerCase{site_name}.view()); found != sites.end())
        return found->second;
    if (const auto found = sites.find(LowerCase{domain}.view()); found != sites.end())
        return found->second;
    return default_site;
}

std::string_view to_string(TlsLevel level) noexcept {
    switch (level) {
    case TlsLevel::none:
        return "none";
    case TlsLevel::may:
        return "may";
    case TlsLevel::encrypt:
        return "encrypt";
    case TlsLevel::verify:
        return "verify";
    case TlsLevel::dane:
        return "dane";
    case TlsLevel::dane_only:
        return "dane-only";
    case TlsLevel::secure:
        return "secure";
    }
    return "none";
}

} // namespace dataplane::policy
