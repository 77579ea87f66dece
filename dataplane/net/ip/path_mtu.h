// path_mtu.h: destinations whose path takes less than the port's MTU (RFC 1191, 8201).
//
// Scope      One number per destination, forgotten after path_mtu_lifetime so that the path is tried again.
// Owns       A table of fixed size; the oldest goes when it is full.
// Threading  One shard. No clock.
#pragma once

#include "dataplane/net/ip/address_index.h"
#include "dataplane/net/ip/layer.h"

#include <cstdint>
#include <optional>
#include <vector>

namespace dataplane::net::ip {

/// The MTU below `bytes`, a packet's total length, that paths really have (RFC 1191 §7), for routers which
/// do not say.
[[nodiscard]] std::uint16_t plateau_below(std::uint16_t bytes) noexcept;

class PathMtus {
public:
    PathMtus(std::size_t entries_max, std::uint64_t seed);

    [[nodiscard]] std::optional<std::uint16_t> find(const IpAddress& destination) const noexcept;
    /// False when what is known is not more than that.
    bool lower(const IpAddress& destination, std::uint16_t mtu, TimePoint now) noexcept;
    /// Takes out one destination whose time is over.
    [[nodiscard]] std::optional<IpAddress> expire(TimePoint now) noexcept;
    [[nodiscard]] TimePoint deadline() const noexcept;

private:
    struct Entry {
        TimePoint ends{};
        std::uint32_t newer = AddressIndex::none;
        std::uint32_t older = AddressIndex::none;
        std::uint16_t mtu = 0;
    };
    void unlink(std::uint32_t row) noexcept;
    void link_newest(std::uint32_t row) noexcept;

    AddressIndex index_;
    std::vector<Entry> entries_; // those in use are linked by age
    std::vector<std::uint32_t> free_;
    std::uint32_t oldest_ = AddressIndex::none;
    std::uint32_t newest_ = AddressIndex::none;
};

} // namespace dataplane::net::ip
