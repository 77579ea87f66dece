#include "dataplane/net/ip/path_mtu.h"

#include "dataplane/net/ip/limits.h"

#include <algorithm>
#include <array>

namespace dataplane::net::ip {

std::uint16_t plateau_below(std::uint16_t bytes) noexcept {
    // RFC 1191 §7.1 with Ethernet's, PPPoE's and IPv6's minimum among them.
    constexpr std::array<std::uint16_t, 12> plateaus{65535, 32000, 17914, 9000, 8166, 4352,
                                                     2002,  1500,  1492,  1280, 1006, 576};
    for (const std::uint16_t plateau : plateaus) {
        if (plateau < bytes) return plateau;
    }
    return plateaus.back();
}

PathMtus::PathMtus(std::size_t entries_max, std::uint64_t seed)
    : index_(std::max<std::size_t>(entries_max, 1), seed),
      entries_(std::max<std::size_t>(entries_max, 1)) {
    free_.reserve(entries_.size());
    for (std::size_t row = entries_.size(); row-- > 0;)
        free_.push_back(static_cast<std::uint32_t>(row));
}

std::optional<std::uint16_t> PathMtus::find(const IpAddress& destination) const noexcept {
    if (oldest_ == AddressIndex::none) return std::nullopt;
    const std::uint32_t row = index_.find(destination);
    if (row == AddressIndex::none) return std::nullopt;
    return entries_[row].mtu;
}

bool PathMtus::lower(const IpAddress& destination, std::uint16_t mtu, TimePoint now) noexcept {
    std::uint32_t row = index_.find(destination);
    if (row != AddressIndex::none) {
        if (mtu > entries_[row].mtu) return false;
        const bool less = mtu < entries_[row].mtu;
        unlink(row);
        entries_[row].mtu = mtu;
        entries_[row].ends = now + path_mtu_lifetime;
        link_newest(row);
        return less;
    }
    if (free_.empty()) {
        row = oldest_;
        unlink(row);
        index_.erase(row);
    } else {
        row = free_.back();
        free_.pop_back();
    }
    index_.insert(destination, row);
    entries_[row].mtu = mtu;
    entries_[row].ends = now + path_mtu_lifetime;
    link_newest(row);
    return true;
}

std::optional<IpAddress> PathMtus::expire(TimePoint now) noexcept {
    if (oldest_ == AddressIndex::none || entries_[oldest_].ends > now) return std::nullopt;
    const std::uint32_t row = oldest_;
    const IpAddress destination = index_.key(row);
    unlink(row);
    index_.erase(row);
    free_.push_back(row);
    return destination;
}

TimePoint PathMtus::deadline() const noexcept {
    return oldest_ == AddressIndex::none ? TimePoint::max() : entries_[oldest_].ends;
}

void PathMtus::unlink(std::uint32_t row) noexcept {
    const Entry& entry = entries_[row];
    (entry.older == AddressIndex::none ? oldest_ : entries_[entry.older].newer) = entry.newer;
    (entry.newer == AddressIndex::none ? newest_ : entries_[entry.newer].older) = entry.older;
}

void PathMtus::link_newest(std::uint32_t row) noexcept {
    entries_[row].older = newest_;
    entries_[row].newer = AddressIndex::none;
    (newest_ == AddressIndex::none ? oldest_ : entries_[newest_].newer) = row;
    newest_ = row;
}

} // namespace dataplane::net::ip
