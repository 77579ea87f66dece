// routes.h: our addresses, the networks they are in, and the gateways to everything else.
//
// Scope      Next hop and source address of a destination; whether an address is ours, or nobody's
//            because it is a network's broadcast address. Fixed from construction on.
// Owns       Its tables.
// Threading  One shard.
// Failure    A destination without a route, or one that cannot be sent to, has no next hop.
#pragma once

#include "dataplane/net/ip/address_index.h"
#include "dataplane/net/ip/layer.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace dataplane::net::ip {

class Routes {
public:
    Routes(const LayerOptions& options, const MacAddress& mac, std::uint64_t seed);

    enum class Known : std::uint8_t { no, ours, broadcast };
    [[nodiscard]] Known known(const IpAddress& ip) const noexcept {
        const std::uint32_t row = index_.find(ip);
        if (row == AddressIndex::none) return Known::no;
        return row < ours_count_ ? Known::ours : Known::broadcast;
    }
    [[nodiscard]] std::optional<IpAddress> next_hop(const IpAddress& destination) const noexcept;
    [[nodiscard]] std::optional<IpAddress> source_for(const IpAddress& destination) const noexcept;
    /// Whether this may be somebody we talk to without a gateway: on one of our networks, or a gateway.
    [[nodiscard]] bool may_be_neighbour(const IpAddress& ip) const noexcept;

private:
    struct Connected {
        base::Network network;
        IpAddress source; // our first address in it
    };
    [[nodiscard]] const Connected* connected_to(const IpAddress& ip) const noexcept;

    std::vector<Connected> connected_; // longest prefix first
    std::vector<Route> routes_;        // longest prefix first
    std::optional<IpAddress> first_v4_;
    std::optional<IpAddress> first_v6_;
    IpAddress link_local_;
    AddressIndex index_; // rows below ours_count_ are ours
    std::uint32_t ours_count_ = 0;
};

} // namespace dataplane::net::ip
