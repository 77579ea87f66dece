// What goes out, and the public face. What came is in layer_receive.cc.
#include "dataplane/net/ip/layer.h"

#include "dataplane/base/check.h"
#include "dataplane/net/ip/layer_state.h"

#include <algorithm>
#include <utility>

namespace dataplane::net::ip {

std::uint64_t draw_seed(std::minstd_rand& random) {
    std::uint64_t seed = 0;
    for (int i = 0; i < 3; ++i) // 31 bits each
        seed = (seed << 31) ^ random();
    return seed;
}

/// Writes an IP header with a zero checksum; returns its length.
/// \param payload_bytes  transport header included
std::uint16_t write_ip_header(std::byte* at, const IpFields& fields,
                              std::size_t payload_bytes) noexcept {
    const auto ecn = static_cast<std::uint8_t>(fields.ecn);
    if (fields.source.is_v6()) {
        CHECK(payload_bytes <= datagram_bytes_max);
        write32(at, 0x6000'0000U | (std::uint32_t{ecn} << 20));
        write16(at + 4, static_cast<std::uint16_t>(payload_bytes));
        write8(at + 6, fields.protocol);
        write8(at + 7, fields.hop_limit);
        write_ip(at + 8, fields.source);
        write_ip(at + 24, fields.destination);
        return ipv6_bytes;
    }
    CHECK(ipv4_bytes + payload_bytes <= datagram_bytes_max);
    write8(at, 0x45);
    write8(at + 1, ecn);
    write16(at + 2, static_cast<std::uint16_t>(ipv4_bytes + payload_bytes));
    write16(at + 4, 0);      // RFC 6864 §4.1: an ID means nothing where DF is set
    write16(at + 6, 0x4000); // DF
    write8(at + 8, fields.hop_limit);
    write8(at + 9, fields.protocol);
    write16(at + 10, 0);
    write_ip(at + 12, fields.source);
    write_ip(at + 16, fields.destination);
    return ipv4_bytes;
}

// --- what goes out

std::byte* Layer::State::begin_frame(FrameHeader& header, const MacAddress& to,
                                     std::uint16_t ethertype) const noexcept {
    std::byte* at = header.data();
    write_mac(at, to);
    write_mac(at + 6, mac);
    at += 12;
    if (options.vlan) {
        write16(at, ethertype_vlan);
        write16(at + 2, *options.vlan & 0x0fff);
        at += vlan_tag_bytes;
    }
    write16(at, ethertype);
    return at + 2;
}

void Layer::State::send_arp(const Arp& arp, const MacAddress& to) noexcept {
    FrameHeader header;
    std::byte* at = begin_frame(header, to, ethertype_arp);
    write_arp(std::span<std::byte, arp_bytes>{at, arp_bytes}, arp);
    // One that is refused was lost, as any may be: who needs it asks again.
    static_cast<void>(port.send({.header = Bytes{header}.first(l2_bytes + arp_bytes),
                                 .l2_bytes = l2_bytes,
                                 .l3_bytes = arp_bytes,
                                 .control = true}));
}

void Layer::State::send_neighbour(const NeighbourMessage& message, const IpFields& fields,
                                  const MacAddress& to) noexcept {
    FrameHeader header;
    std::byte* at = begin_frame(header, to, ethertype_ipv6);
    at += write_ip_header(at, fields, nd_bytes);
    write_neighbour(std::span<std::byte, nd_bytes>{at, nd_bytes}, message);
    static_cast<void>(port.send({.header = Bytes{header}.first(l2_bytes + ipv6_bytes + nd_bytes),
                                 .l2_bytes = l2_bytes,
                                 .l3_bytes = ipv6_bytes,
                                 .l4_bytes = nd_bytes,
                                 .l4_checksum = L4::icmp6,
                                 .control = true}));
}

void Layer::State::solicit(const IpAddress& ip, const MacAddress* at) noexcept {
    const auto source = routes.source_for(ip);
    if (!source) return; // without an address of that family there is nobody to ask for
    if (!ip.is_v6()) {
        send_arp({.sender_mac = mac, .sender = *source, .target = ip},
                 at != nullptr ? *at : broadcast_mac);
        return;
    }
    const IpAddress to = at != nullptr ? ip : solicited_node(ip);
    send_neighbour({.target = ip, .link = mac}, IpFields{*source, to, protocol_icmp6, nd_hop_limit},
                   at != nullptr ? *at : multicast_mac(to));
}

Sent Layer::State::resolve(Path& path, const IpAddress& destination, TimePoint now,
                           const MacAddress*& to) noexcept {
    const auto hop = routes.next_hop(destination);
    if (!hop) {
        ++counters.no_route;
        return Sent::unreachable;
    }
    Neighbours::Place place;
    switch (neighbours.want(*hop, now, place)) {
    case Neighbours::Want::unresolved:
        return Sent::unresolved;
    case Neighbours::Want::unreachable:
        return Sent::unreachable;
    case Neighbours::Want::usable:
        break;
    }
    path = {place.row, place.generation, mtu_to(destination)};
    to = neighbours.use(place.row, place.generation, now);
    return Sent::sent;
}

// --- the public face

Layer::Layer(Port& port, LayerOptions options, std::minstd_rand& random)
    : state_(std::make_unique<State>(port, std::move(options), random)) {}

Layer::~Layer() = default;

void Layer::on_neighbour(OnNeighbour handler) {
    state_->neighbour_handler = std::move(handler);
}

void Layer::on_learned(OnLearned handler) {
    state_->learned_handler = std::move(handler);
}

std::optional<Datagram> Layer::receive(const ReceivedFrame& frame, TimePoint now,
                                       std::optional<TransportError>& error) {
    State& state = *state_;
    error.reset();
    ++state.counters.frames;
    const Bytes bytes = frame.bytes;
    if (bytes.size() < ethernet_bytes) return state.drop(Drop::bad_header);

    const MacAddress to = read_mac(bytes, 0);
    State::Frame come{.from = read_mac(bytes, 6), .to_us = to == state.mac, .now = now};
    std::uint16_t ethertype = read16(bytes, 12);
    std::size_t l2_bytes = ethernet_bytes;
    std::optional<std::uint16_t> vlan;
    if (ethertype == ethertype_vlan) {
        l2_bytes += vlan_tag_bytes;
        if (bytes.size() < l2_bytes) return state.drop(Drop::bad_header);
        vlan = static_cast<std::uint16_t>(read16(bytes, 14) & 0x0fff);
        ethertype = read16(bytes, 16);
    }
    if (vlan == 0) vlan.reset(); // a priority only, IEEE 802.1Q §9.6
    if (vlan != state.options.vlan) return state.drop(Drop::not_ours);
    if (!is_unicast(come.from)) return state.drop(Drop::bad_source);
    come.l3 = bytes.subspan(l2_bytes);

    switch (ethertype) {
    case ethertype_ipv4:
        return state.on_ipv4(come, frame, error);
    case ethertype_ipv6:
        if (!come.to_us && (to[0] != 0x33 || to[1] != 0x33)) return state.drop(Drop::not_ours);
        return state.on_ipv6(come, frame, error);
    case ethertype_arp:
        if (!come.to_us && to != broadcast_mac) return state.drop(Drop::not_ours);
        state.on_arp(come);
        return std::nullopt;
    default:
        return state.drop(Drop::unknown_protocol);
    }
}

std::optional<Path> Layer::path(const IpAddress& destination, TimePoint) {
    const auto hop = state_->routes.next_hop(destination);
    if (!hop) return std::nullopt;
    Path path{.mtu = state_->mtu_to(destination)};
    if (const auto place = state_->neighbours.find(*hop)) {
        path.neighbour = place->row;
        path.generation = place->generation;
    }
    return path;
}

std::optional<IpAddress> Layer::next_hop(const IpAddress& destination) const noexcept {
    return state_->routes.next_hop(destination);
}

std::optional<IpAddress> Layer::source_for(const IpAddress& destination) const noexcept {
    return state_->routes.source_for(destination);
}

bool Layer::is_ours(const IpAddress& ip) const noexcept {
    return state_->ours(ip);
}

Sent Layer::resolve(Path& path, const IpAddress& destination, TimePoint now) {
    State& state = *state_;
    const MacAddress* to = state.neighbours.use(path.neighbour, path.generation, now);
    if (to != nullptr) return Sent::sent;
    const Sent sent = state.resolve(path, destination, now, to);
    return to == nullptr ? sent : Sent::sent;
}

Sent Layer::send(Path& path, const IpAddress& source, const IpAddress& destination, tcp::Ecn ecn,
                 std::span<const std::byte> tcp_header, std::span<const FrameSlice> payload,
                 std::uint16_t segment_bytes, bool control, TimePoint now) {
    State& state = *state_;
    CHECK(tcp_header.size() <= tcp::header_bytes_max);
    CHECK(source.is_v6() == destination.is_v6());
    const MacAddress* to = state.neighbours.use(path.neighbour, path.generation, now);
    if (to == nullptr) {
        const Sent sent = state.resolve(path, destination, now, to);
        if (to == nullptr) return sent;
    }
    std::size_t payload_bytes = 0;
    for (const FrameSlice& slice : payload)
        payload_bytes += slice.bytes;

    FrameHeader header;
    const bool v6 = source.is_v6();
    std::byte* at = state.begin_frame(header, *to, v6 ? ethertype_ipv6 : ethertype_ipv4);
    const std::uint16_t l3_bytes = write_ip_header(
        at,
        IpFields{
            .source = source, .destination = destination, .protocol = protocol_tcp, .ecn = ecn},
        tcp_header.size() + payload_bytes);
    std::memcpy(at + l3_bytes, tcp_header.data(), tcp_header.size());
    const TransmitFrame out{
        .header = Bytes{header}.first(state.l2_bytes + l3_bytes + tcp_header.size()),
        .payload = payload,
        .l2_bytes = state.l2_bytes,
        .l3_bytes = l3_bytes,
        .l4_bytes = static_cast<std::uint16_t>(tcp_header.size()),
        .ipv4_checksum = !v6,
        .l4_checksum = L4::tcp,
        .segment_bytes = segment_bytes,
        .control = control,
    };
    switch (state.port.send(out)) {
    case SendResult::queued:
        return Sent::sent;
    case SendResult::no_buffers:
        return Sent::no_buffers;
    case SendResult::ring_full:
        return Sent::ring_full;
    }
    return Sent::sent;
}

void Layer::accept_path_mtu(const TransportError& error, TimePoint now) {
    State& state = *state_;
    if (error.kind != TransportError::Kind::packet_too_big || error.mtu >= state.mtu) return;
    if (!state.path_mtus.lower(error.destination, error.mtu, now)) return;
    ++state.counters.path_mtu_lowered;
    if (const auto hop = state.routes.next_hop(error.destination))
        state.neighbours.invalidate_paths(*hop);
}

void Layer::learn(const IpAddress& ip, const MacAddress& mac, TimePoint now) {
    if (!is_unicast(mac) || !state_->routes.may_be_neighbour(ip)) return;
    state_->neighbours.heard(ip, &mac, Hearsay{.create = true, .confirms = true}, now);
}

void Layer::on_timer(TimePoint now) {
    State& state = *state_;
    state.neighbours.on_timer(now);
    state.reassembly.on_timer(now);
    while (const auto destination = state.path_mtus.expire(now)) {
        if (const auto hop = state.routes.next_hop(*destination))
            state.neighbours.invalidate_paths(*hop);
    }
}

TimePoint Layer::deadline() const noexcept {
    return std::min({state_->neighbours.deadline(), state_->reassembly.deadline(),
                     state_->path_mtus.deadline()});
}

const LayerCounters& Layer::counters() const noexcept {
    return state_->counters;
}

} // namespace dataplane::net::ip
