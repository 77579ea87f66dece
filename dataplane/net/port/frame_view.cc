#include "dataplane/net/port/frame_view.h"

#include "dataplane/net/port/checksum.h"
#include "dataplane/net/port/limits.h"
#include "dataplane/net/port/wire_bytes.h"

#include <algorithm>
#include <bit>

namespace dataplane::net {
namespace {

constexpr std::uint8_t hop_by_hop = 0;
constexpr std::uint8_t routing = 43;
constexpr std::uint8_t fragment_header = 44;
constexpr std::uint8_t destination_options = 60;

template <std::size_t count>
std::array<std::uint8_t, count> octets(std::span<const std::byte> bytes, std::size_t at) noexcept {
    std::array<std::uint8_t, count> out{};
    for (std::size_t i = 0; i < count; ++i)
        out[i] = byte_at(bytes, at + i);
    return out;
}

bool view_ipv4(std::span<const std::byte> frame, FrameView& view) noexcept {
    const auto ip = frame.subspan(view.l3_at);
    if (ip.size() < ipv4_bytes_min || byte_at(ip, 0) >> 4 != 4) return false;
    const std::size_t header = std::size_t{byte_at(ip, 0) & 15U} * 4;
    const std::size_t total = be16(ip, 2);
    if (header < ipv4_bytes_min || total < header || header > ip.size()) return false;
    view.fragment = (be16(ip, 6) & 0x3fff) != 0;
    view.protocol = byte_at(ip, 9);
    view.source = base::IpAddress::v4(octets<4>(ip, 12));
    view.destination = base::IpAddress::v4(octets<4>(ip, 16));
    view.l4_at = view.l3_at + header;
    view.l4_bytes = total - header;
    return true;
}

bool view_ipv6(std::span<const std::byte> frame, FrameView& view) noexcept {
    const auto ip = frame.subspan(view.l3_at);
    if (ip.size() < ipv6_bytes || byte_at(ip, 0) >> 4 != 6) return false;
    const std::size_t end = ipv6_bytes + be16(ip, 4);
    view.v6 = true;
    view.source = base::IpAddress::v6(octets<16>(ip, 8));
    view.destination = base::IpAddress::v6(octets<16>(ip, 24));
    std::uint8_t next = byte_at(ip, 6);
    std::size_t at = ipv6_bytes;
    for (unsigned walked = 0; next == hop_by_hop || next == routing || next == fragment_header ||
                              next == destination_options;
         ++walked) {
        if (walked == extension_headers_max || at + 8 > std::min(end, ip.size())) return false;
        const std::size_t bytes =
            next == fragment_header ? 8 : (std::size_t{byte_at(ip, at + 1)} + 1) * 8;
        if (at + bytes > end) return false;
        if (next == fragment_header) view.fragment = true;
        next = byte_at(ip, at);
        at += bytes;
    }
    view.protocol = next;
    view.l4_at = view.l3_at + at;
    view.l4_bytes = end - at;
    return true;
}

std::uint32_t toeplitz(std::span<const std::uint8_t> input,
                       std::span<const std::uint8_t> key) noexcept {
    std::uint32_t hash = 0;
    std::uint64_t window = 0; // the key's next 40 bits and more, the oldest on top
    for (std::size_t i = 0; i < 5; ++i)
        window = window << 8 | key[i];
    for (std::size_t i = 0; i < input.size(); ++i) {
        for (unsigned bit = 0; bit < 8; ++bit) {
            if ((input[i] >> (7 - bit) & 1) != 0)
                hash ^= static_cast<std::uint32_t>(window >> (8 - bit));
        }
        const std::uint8_t next = i + 5 < key.size() ? key[i + 5] : 0;
        window = (window << 8 | next) & 0xff'ffff'ffff;
    }
    return hash;
}

} // namespace

std::optional<FrameView> view_headers(std::span<const std::byte> frame) noexcept {
    if (frame.size() < ethernet_bytes) return std::nullopt;
    FrameView view;
    view.l3_at = ethernet_bytes;
    std::uint16_t type = be16(frame, 12);
    if (type == ethertype_vlan) {
        if (frame.size() < ethernet_bytes + vlan_tag_bytes) return std::nullopt;
        view.l3_at += vlan_tag_bytes;
        type = be16(frame, 16);
    }
    const bool whole = type == ethertype_ipv4   ? view_ipv4(frame, view)
                       : type == ethertype_ipv6 ? view_ipv6(frame, view)
                                                : false;
    if (!whole) return std::nullopt;
    const bool has_ports = view.protocol == protocol_tcp || view.protocol == protocol_udp;
    if (has_ports && !view.fragment && view.l4_bytes >= 4 && view.l4_at + 4 <= frame.size()) {
        view.source_port = be16(frame, view.l4_at);
        view.destination_port = be16(frame, view.l4_at + 2);
    }
    return view;
}

std::optional<FrameView> view_frame(std::span<const std::byte> frame) noexcept {
    const auto view = view_headers(frame);
    if (!view || view->l4_at + view->l4_bytes > frame.size()) return std::nullopt;
    return view;
}

ChecksumVerdict verify_checksums(std::span<const std::byte> frame) noexcept {
    const auto view = view_frame(frame);
    if (!view) return {};
    ChecksumVerdict verdict;
    if (!view->v6) {
        const bool good = ipv4_checksum_good(frame.subspan(view->l3_at, view->l4_at - view->l3_at));
        verdict.ip = good ? ChecksumState::good : ChecksumState::bad;
    }
    if (view->fragment) return verdict;
    const auto l4 = frame.subspan(view->l4_at, view->l4_bytes);
    switch (view->protocol) {
    case protocol_tcp:
        if (l4.size() < 20) return verdict;
        break;
    case protocol_udp:
        if (l4.size() < 8 || be16(l4, 6) == 0) return verdict; // RFC 768: none was computed
        break;
    case protocol_icmp6:
        if (!view->v6 || l4.size() < 4) return verdict;
        break;
    default:
        return verdict;
    }
    const bool good = l4_checksum_good(frame.subspan(view->l3_at), view->protocol, l4);
    verdict.l4 = good ? ChecksumState::good : ChecksumState::bad;
    return verdict;
}

bool mark_congestion(std::span<std::byte> frame) noexcept {
    const auto view = view_frame(frame);
    if (!view) return false;
    const auto ip = frame.subspan(view->l3_at);
    if (view->v6) { // the traffic class straddles the first two bytes: its last bits are 0x30
        if ((byte_at(ip, 1) & 0x30) == 0) return false;
        ip[1] |= std::byte{0x30};
        return true;
    }
    if ((byte_at(ip, 1) & 3) == 0) return false;
    ip[1] |= std::byte{3};
    fill_ipv4_checksum(ip.first(view->l4_at - view->l3_at));
    return true;
}

std::optional<std::uint32_t> rss_hash(std::span<const std::byte> frame,
                                      std::span<const std::uint8_t> key) noexcept {
    const auto view = view_frame(frame);
    if (!view || key.size() < 40) return std::nullopt;
    std::array<std::uint8_t, 36> input{};
    const std::size_t address_bytes = view->v6 ? 16 : 4;
    std::copy_n(view->source.bytes().begin(), address_bytes, input.begin());
    std::copy_n(view->destination.bytes().begin(), address_bytes, input.begin() + address_bytes);
    std::size_t bytes = 2 * address_bytes;
    if (view->protocol == protocol_tcp && !view->fragment) {
        for (const std::uint16_t port : {view->source_port, view->destination_port}) {
            input[bytes++] = static_cast<std::uint8_t>(port >> 8);
            input[bytes++] = static_cast<std::uint8_t>(port);
        }
    }
    return toeplitz(std::span{input}.first(bytes), key);
}

} // namespace dataplane::net
