#include "dataplane/delivery/domain.h"

#include <algorithm>
#include <idn2.h>
#include <memory>
#include <vector>

namespace dataplane::delivery {
namespace {

[[nodiscard]] constexpr char lower(char c) noexcept {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

/// Letters, digits, hyphen and underscore in labels of 1 to 63. The underscore is no host name's,
/// but it is in the DNS, and refusing it here would bounce what a resolver finds.
[[nodiscard]] bool is_host_name(std::string_view name) noexcept {
    if (name.empty() || name.size() > domain_bytes_max - 2) return false;
    std::size_t label_bytes = 0;
    for (const char c : name) {
        if (c == '.') {
            if (label_bytes == 0) return false;
            label_bytes = 0;
            continue;
        }
        const bool fits = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
        if (!fits || ++label_bytes > 63) return false;
    }
    return label_bytes > 0;
}

struct Idn2Free {
    void operator()(char* text) const noexcept { idn2_free(text); }
};

[[nodiscard]] std::vector<std::string_view> labels_from_the_right(std::string_view name) {
    std::vector<std::string_view> labels;
    while (!name.empty()) {
        const std::size_t dot = name.rfind('.');
        if (dot == std::string_view::npos) {
            labels.push_back(name);
            break;
        }
        labels.push_back(name.substr(dot + 1));
        name = name.substr(0, dot);
    }
    return labels;
}

} // namespace

FoldedDomain::FoldedDomain(std::string_view domain) noexcept {
    if (domain.size() > text_.size()) return;
    std::ranges::transform(domain, text_.begin(), lower);
    size_ = domain.size();
}

std::optional<std::string> to_ascii(std::string_view domain) {
    if (domain.ends_with('.')) domain.remove_suffix(1);
    std::string name{domain};
    const bool ascii = std::ranges::none_of(
        name, [](char c) { return (static_cast<unsigned char>(c) & 0x80) != 0; });
    if (!ascii) {
        if (name.size() > 4 * domain_bytes_max) return std::nullopt;
        char* made = nullptr;
        // Non-transitional: "straße" is its own name (UTS #46 as browsers use it since 2023).
        const int failed =
            idn2_to_ascii_8z(name.c_str(), &made, IDN2_NFC_INPUT | IDN2_NONTRANSITIONAL);
        const std::unique_ptr<char, Idn2Free> owner{made};
        if (failed != IDN2_OK) return std::nullopt;
        name = made;
    }
    std::ranges::transform(name, name.begin(), lower);
    if (!is_host_name(name)) return std::nullopt;
    return name;
}

std::optional<base::IpAddress> address_literal(std::string_view domain) noexcept {
    if (domain.size() < 3 || domain.front() != '[' || domain.back() != ']')
        return base::IpAddress::parse(domain);
    std::string_view inner = domain.substr(1, domain.size() - 2);
    constexpr std::string_view tag = "ipv6:";
    const bool tagged = inner.size() > tag.size() &&
                        std::ranges::equal(inner.substr(0, tag.size()), tag, {}, lower);
    if (tagged) inner.remove_prefix(tag.size());
    const auto address = base::IpAddress::parse(inner);
    if (!address || address->is_v6() != tagged) return std::nullopt;
    return address;
}

std::string site_name(std::span<const std::string> hosts) {
    std::vector<std::vector<std::string_view>> names;
    std::size_t depth = 0;
    for (const std::string& host : hosts) {
        names.push_back(labels_from_the_right(host));
        depth = std::max(depth, names.back().size());
    }
    std::string name;
    std::vector<std::string_view> labels;
    for (std::size_t level = depth; level-- > 0;) {
        labels.clear();
        bool missing = false;
        for (const auto& host : names) {
            if (level < host.size()) {
                labels.push_back(host[level]);
            } else {
                missing = true;
            }
        }
        std::ranges::sort(labels);
        labels.erase(std::ranges::unique(labels).begin(), labels.end());
        const bool plain = labels.size() == 1 && !missing;
        if (!name.empty()) name += '.';
        if (!plain) name += '(';
        for (std::size_t i = 0; i < labels.size(); ++i) {
            if (i != 0) name += '|';
            name += labels[i];
        }
        if (!plain) name += ')';
        if (missing) name += '?';
    }
    return name;
}

} // namespace dataplane::delivery
