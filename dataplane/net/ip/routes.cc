#include "dataplane/net/ip/routes.h"

#include "dataplane/net/ip/headers.h"

#include <algorithm>
#include <array>

namespace dataplane::net::ip {
namespace {

/// `ip` with the bits behind the prefix cleared, or set.
IpAddress with_host_bits(const IpAddress& ip, unsigned prefix_bits, bool set) noexcept {
    std::array<std::uint8_t, 16> bytes = ip.bytes();
    for (unsigned bit = prefix_bits; bit < ip.bit_count(); ++bit) {
        const auto mask = static_cast<std::uint8_t>(0x80U >> (bit % 8));
        auto& byte = bytes[bit / 8];
        byte = static_cast<std::uint8_t>(set ? byte | mask : byte & ~mask);
    }
    if (ip.is_v6()) return IpAddress::v6(bytes);
    return IpAddress::v4({bytes[0], bytes[1], bytes[2], bytes[3]});
}

unsigned prefix_bits(const Route& route) noexcept {
    return route.destination.prefix_bits;
}
template <class Connected>
unsigned prefix_bits(const Connected& connected) noexcept {
    return connected.network.prefix_bits;
}

/// Longest prefix first; of equal ones, the first that was configured.
template <class Element>
void insert_by_prefix(std::vector<Element>& list, const Element& element) {
    const auto place = std::ranges::find_if(
        list, [&](const Element& other) { return prefix_bits(other) < prefix_bits(element); });
    list.insert(place, element);
}

} // namespace

Routes::Routes(const LayerOptions& options, const MacAddress& mac, std::uint64_t seed)
    : link_local_(link_local(mac)), index_(options.addresses.size() * 3 + 1, seed) {
    const auto add_ours = [this](const IpAddress& ip) {
        if (index_.find(ip) == AddressIndex::none) index_.insert(ip, ours_count_++);
    };
    for (const LayerOptions::Address& address : options.addresses) {
        add_ours(address.ip);
        auto& first = address.ip.is_v6() ? first_v6_ : first_v4_;
        if (!first && !is_link_local_v6(address.ip)) first = address.ip;
        // Thousands of single addresses make no network: the list below stays short.
        const unsigned bits = address.prefix_bits;
        if (bits == 0 || bits >= address.ip.bit_count()) continue;
        const base::Network network{with_host_bits(address.ip, bits, false), bits};
        const auto same = [&](const Connected& other) { return other.network == network; };
        if (std::ranges::none_of(connected_, same))
            insert_by_prefix(connected_, Connected{network, address.ip});
    }
    add_ours(link_local_);
    const base::Network link{with_host_bits(link_local_, 64, false), 64};
    insert_by_prefix(connected_, Connected{link, link_local_});
    for (const Route& route : options.routes)
        insert_by_prefix(routes_, route);

    std::uint32_t row = ours_count_;
    for (const Connected& connected : connected_) {
        const auto& [network, source] = connected;
        if (network.base.is_v6() || network.prefix_bits > 30) continue; // RFC 3021: /31 has none
        for (const bool set : {false, true}) { // all zeros is the old broadcast address
            const IpAddress edge = with_host_bits(network.base, network.prefix_bits, set);
            if (index_.find(edge) == AddressIndex::none) index_.insert(edge, row++);
        }
    }
}

const Routes::Connected* Routes::connected_to(const IpAddress& ip) const noexcept {
    for (const Connected& connected : connected_) {
        if (connected.network.contains(ip)) return &connected;
    }
    return nullptr;
}

std::optional<IpAddress> Routes::next_hop(const IpAddress& destination) const noexcept {
    if (!is_host_address(destination) || known(destination) != Known::no) return std::nullopt;
    const Connected* connected = connected_to(destination);
    for (const Route& route : routes_) {
        if (connected != nullptr && connected->network.prefix_bits >= route.destination.prefix_bits)
            break;
        if (route.destination.contains(destination)) return route.gateway;
    }
    if (connected == nullptr) return std::nullopt;
    return destination;
}

std::optional<IpAddress> Routes::source_for(const IpAddress& destination) const noexcept {
    if (const Connected* connected = connected_to(destination)) return connected->source;
    if (const auto hop = next_hop(destination)) {
        const Connected* towards = connected_to(*hop);
        // A link-local gateway says nothing about which of our addresses the world can answer to.
        if (towards != nullptr && towards->source != link_local_ &&
            towards->source.is_v6() == destination.is_v6())
            return towards->source;
    }
    return destination.is_v6() ? first_v6_ : first_v4_;
}

bool Routes::may_be_neighbour(const IpAddress& ip) const noexcept {
    if (!is_host_address(ip) || known(ip) != Known::no) return false;
    if (connected_to(ip) != nullptr) return true;
    return std::ranges::any_of(routes_, [&](const Route& r) { return r.gateway == ip; });
}

} // namespace dataplane::net::ip
