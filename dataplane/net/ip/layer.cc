#include "dataplane/net/ip/layer.h"

#include "dataplane/base/check.h"
#include "dataplane/net/ip/arp.h"
#include "dataplane/net/ip/headers.h"
#include "dataplane/net/ip/icmp.h"
#include "dataplane/net/ip/limits.h"
#include "dataplane/net/ip/nd.h"
#include "dataplane/net/ip/neighbours.h"
#include "dataplane/net/ip/packet.h"
#include "dataplane/net/ip/path_mtu.h"
#include "dataplane/net/ip/reassembly.h"
#include "dataplane/net/ip/routes.h"
#include "dataplane/net/port/checksum.h"

#include <algorithm>
#include <utility>

namespace dataplane::net::ip {
namespace {

using FrameHeader = std::array<std::byte, frame_header_bytes_max>;

std::uint64_t draw_seed(std::minstd_rand& random) {
    std::uint64_t seed = 0;
    for (int i = 0; i < 3; ++i) // 31 bits each
        seed = (seed << 31) ^ random();
    return seed;
}

/// ff02::1:ff00:0/104: what every solicited-node address begins with.
bool is_solicited_node(const IpAddress& ip) noexcept {
    return solicited_node(ip) == ip;
}

struct IpFields {
    const IpAddress& source;
    const IpAddress& destination;
    std::uint8_t protocol;
    std::uint8_t hop_limit = hop_limit_sent;
    tcp::Ecn ecn = tcp::Ecn::not_ect;
};

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

} // namespace

struct Layer::State final : Solicitor {
    State(Port& port_, LayerOptions options_, std::minstd_rand& random)
        : port(port_), options(std::move(options_)), mac(port.info().mac),
          mtu(std::min(options.mtu, port.info().mtu)),
          l2_bytes(
              static_cast<std::uint16_t>(ethernet_bytes + (options.vlan ? vlan_tag_bytes : 0))),
          routes(options, mac, draw_seed(random)),
          neighbours(options.neighbours_max, options.neighbour_reachable, draw_seed(random), random,
                     *this, counters),
          path_mtus(options.path_mtus_max, draw_seed(random)),
          reassembly(options.reassemblies_max, reassembly_bytes_max, counters),
          echo_slabs_pool(std::make_unique<base::SlabPool>(echo_slab_bytes, echo_slabs)) {}

    ~State() override {
        // What a device may still read must not be freed; it gives back only what its port polls.
        if (echo_slabs_pool->free_count() != echo_slabs_pool->slab_count())
            static_cast<void>(echo_slabs_pool.release());
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    // What came.
    struct Frame {
        Bytes l3;
        MacAddress from{};
        bool to_us = false; // to our MAC, not to a group's
        TimePoint now{};
    };
    using Datagrams = std::optional<Datagram>;
    Datagrams on_ipv4(const Frame& frame, const ReceivedFrame& received,
                      std::optional<TransportError>& error);
    Datagrams on_ipv6(const Frame& frame, const ReceivedFrame& received,
                      std::optional<TransportError>& error);
    Datagrams on_transport(const Frame& frame, Packet& packet, ChecksumState checksum,
                           std::optional<TransportError>& error);
    void on_arp(const Frame& frame);
    void on_icmp(const Frame& frame, const Packet& packet, std::optional<TransportError>& error);
    void on_icmp6(const Frame& frame, const Packet& packet, std::optional<TransportError>& error);
    void on_solicitation(const Frame& frame, const Packet& packet, const NeighbourMessage& message);
    void on_advertisement(const Frame& frame, const NeighbourMessage& message);
    void on_error(const Packet& packet, const std::optional<TransportError>& read,
                  std::optional<TransportError>& error);
    void echo(const Frame& frame, const Packet& packet);

    // What goes out.
    std::byte* begin_frame(FrameHeader& header, const MacAddress& to,
                           std::uint16_t ethertype) const noexcept;
    void send_arp(const Arp& arp, const MacAddress& to) noexcept;
    void send_neighbour(const NeighbourMessage& message, const IpFields& fields,
                        const MacAddress& to) noexcept;
    Sent resolve(Path& path, const IpAddress& destination, TimePoint now,
                 const MacAddress*& to) noexcept;
    [[nodiscard]] std::uint16_t mtu_to(const IpAddress& destination) const noexcept {
        return std::min(mtu, path_mtus.find(destination).value_or(mtu));
    }

    // Solicitor
    void solicit(const IpAddress& ip, const MacAddress* at) noexcept override;
    void settled(const IpAddress& ip, bool resolved) noexcept override {
        if (neighbour_handler) neighbour_handler(ip, resolved);
    }

    void tell_learned(const IpAddress& ip, const MacAddress& at) {
        if (learned_handler) learned_handler(ip, at);
    }
    std::nullopt_t drop(Drop why) noexcept {
        switch (why) {
        case Drop::not_ours:
            ++counters.not_ours;
            break;
        case Drop::bad_checksum:
            ++counters.bad_checksum;
            break;
        case Drop::bad_header:
            ++counters.bad_header;
            break;
        case Drop::bad_source:
            ++counters.bad_source;
            break;
        case Drop::unknown_protocol:
            ++counters.unknown_protocol;
            break;
        }
        return std::nullopt;
    }
    [[nodiscard]] bool ours(const IpAddress& ip) const noexcept {
        return routes.known(ip) == Routes::Known::ours;
    }
    [[nodiscard]] bool echo_allowed(TimePoint now) noexcept {
        if (now - echo_second >= std::chrono::seconds{1}) {
            echo_second = now;
            echo_count = 0;
        }
        return echo_count++ < echo_replies_per_second;
    }

    Port& port;
    LayerOptions options;
    MacAddress mac;
    std::uint16_t mtu;
    std::uint16_t l2_bytes;
    LayerCounters counters;
    Routes routes;
    Neighbours neighbours;
    PathMtus path_mtus;
    Reassembly reassembly;
    OnNeighbour neighbour_handler;
    OnLearned learned_handler;
    std::unique_ptr<base::SlabPool> echo_slabs_pool;
    TimePoint echo_second{};
    unsigned echo_count = 0;
};

// --- what came

std::optional<Datagram> Layer::State::on_ipv4(const Frame& frame, const ReceivedFrame& received,
                                              std::optional<TransportError>& error) {
    // A datagram for one host in a frame for many is an attack or a mistake (RFC 1122 §3.3.6).
    if (!frame.to_us) return drop(Drop::not_ours);
    auto read = read_ipv4(frame.l3, received.ip_checksum);
    if (!read) return drop(read.error());
    Packet& packet = *read;
    if (routes.known(packet.source) != Routes::Known::no) return drop(Drop::bad_source); // LAND too
    if (!ours(packet.destination)) return drop(Drop::not_ours);
    if (!packet.fragment) return on_transport(frame, packet, received.l4_checksum, error);
    ++counters.fragments;
    if (!reassembly.add(packet, frame.now)) return std::nullopt;
    return on_transport(frame, packet, ChecksumState::unknown, error);
}

std::optional<Datagram> Layer::State::on_ipv6(const Frame& frame, const ReceivedFrame& received,
                                              std::optional<TransportError>& error) {
    auto read = read_ipv6(frame.l3);
    if (!read) return drop(read.error());
    Packet& packet = *read;
    if (routes.known(packet.source) != Routes::Known::no) return drop(Drop::bad_source);
    const bool unicast = ours(packet.destination);
    if (unicast != frame.to_us) return drop(Drop::not_ours);
    if (!unicast && !is_solicited_node(packet.destination) && packet.destination != all_nodes())
        return drop(Drop::not_ours);

    const bool fragmented =
        packet.fragment && (packet.fragment->offset != 0 || packet.fragment->more);
    if (fragmented) {
        ++counters.fragments;
        if (!unicast) return drop(Drop::not_ours);
        if (!reassembly.add(packet, frame.now)) return std::nullopt;
        if (const auto walked = read_extensions(packet); !walked) return drop(walked.error());
    }
    // Only neighbour discovery speaks to groups, or from no address.
    if ((!unicast || packet.source == IpAddress::v6({})) && packet.protocol != protocol_icmp6)
        return drop(unicast ? Drop::bad_source : Drop::not_ours);
    return on_transport(frame, packet, fragmented ? ChecksumState::unknown : received.l4_checksum,
                        error);
}

std::optional<Datagram> Layer::State::on_transport(const Frame& frame, Packet& packet,
                                                   ChecksumState checksum,
                                                   std::optional<TransportError>& error) {
    const bool v6 = packet.source.is_v6();
    const bool tcp = packet.protocol == protocol_tcp;
    if (!tcp && packet.protocol != (v6 ? protocol_icmp6 : protocol_icmp))
        return drop(Drop::unknown_protocol);
    if (packet.payload.size() < (tcp ? tcp_bytes_min : icmp_bytes)) return drop(Drop::bad_header);
    if (checksum == ChecksumState::bad) return drop(Drop::bad_checksum);
    if (tcp) {
        if (checksum == ChecksumState::unknown &&
            !l4_checksum_good(packet.header, protocol_tcp, packet.payload))
            return drop(Drop::bad_checksum);
        return Datagram{packet.source, packet.destination, packet.ecn, packet.payload};
    }
    // Devices differ in whether "good" says anything about ICMP, so it is always summed here.
    const bool good = v6 ? l4_checksum_good(packet.header, protocol_icmp6, packet.payload)
                         : fold(ones_sum(packet.payload)) == 0xffff;
    if (!good) return drop(Drop::bad_checksum);
    if (v6) {
        on_icmp6(frame, packet, error);
    } else {
        on_icmp(frame, packet, error);
    }
    return std::nullopt;
}

void Layer::State::on_arp(const Frame& frame) {
    ++counters.arp_in;
    const auto arp = read_arp(frame.l3);
    if (!arp) {
        drop(Drop::bad_header);
        return;
    }
    if (ours(arp->sender)) {
        if (arp->sender_mac != mac) ++counters.address_conflicts; // else a frame of ours came back
        return;
    }
    const bool probe = arp->sender == IpAddress{};
    if (!probe &&
        (!is_host_address(arp->sender) || routes.known(arp->sender) == Routes::Known::broadcast)) {
        drop(Drop::bad_source);
        return;
    }
    const bool for_us = ours(arp->target);
    const bool answer = arp->reply && for_us && frame.to_us;
    const bool neighbour = !probe && routes.may_be_neighbour(arp->sender);
    if (neighbour) {
        // A gratuitous one, of either kind, changes what we know but adds nothing (RFC 5227 §3).
        const auto heard = neighbours.heard(
            arp->sender, &arp->sender_mac,
            Hearsay{.create = !arp->reply && for_us, .confirms = answer}, frame.now);
        // An answer may be to another shard, so it is told whether or not it means something here.
        if (answer || heard == Neighbours::Heard::changed)
            tell_learned(arp->sender, arp->sender_mac);
    }
    if (!arp->reply && for_us)
        send_arp({.reply = true,
                  .sender_mac = mac,
                  .sender = arp->target,
                  .target_mac = arp->sender_mac,
                  .target = arp->sender},
                 arp->sender_mac);
    if (!for_us && !neighbour) drop(Drop::not_ours);
}

void Layer::State::on_icmp(const Frame& frame, const Packet& packet,
                           std::optional<TransportError>& error) {
    const std::uint8_t type = read8(packet.payload, 0);
    if (type == icmp_echo_request) {
        echo(frame, packet);
    } else if (is_icmp_error(type)) {
        on_error(packet, read_icmp_error(packet, mtu), error);
    } else {
        drop(Drop::unknown_protocol); // redirects among them: routes are static
    }
}

void Layer::State::on_icmp6(const Frame& frame, const Packet& packet,
                            std::optional<TransportError>& error) {
    const std::uint8_t type = read8(packet.payload, 0);
    if (type == icmp6_neighbour_solicitation || type == icmp6_neighbour_advertisement) {
        ++counters.nd_in;
        const auto message = read_neighbour(packet);
        if (!message) {
            drop(Drop::bad_header);
        } else if (message->advertisement) {
            on_advertisement(frame, *message);
        } else {
            on_solicitation(frame, packet, *message);
        }
        return;
    }
    if (!frame.to_us || packet.source == IpAddress::v6({})) {
        drop(Drop::not_ours);
    } else if (type == icmp6_echo_request) {
        echo(frame, packet);
    } else if (is_icmp6_error(type)) {
        on_error(packet, read_icmp6_error(packet, mtu), error);
    } else {
        drop(Drop::unknown_protocol);
    }
}

void Layer::State::on_error(const Packet& packet, const std::optional<TransportError>& read,
                            std::optional<TransportError>& error) {
    ++counters.icmp_errors_in;
    // An error goes to whom the packet in it came from; the rest only the connection can judge.
    if (!read || read->source != packet.destination || !is_host_address(read->destination) ||
        read->source_port == 0 || read->destination_port == 0) {
        ++counters.icmp_errors_ignored;
        return;
    }
    error = read;
}

void Layer::State::on_solicitation(const Frame& frame, const Packet& packet,
                                   const NeighbourMessage& message) {
    if (!ours(message.target) ||
        (!frame.to_us && packet.destination != solicited_node(message.target))) {
        drop(Drop::not_ours);
        return;
    }
    const bool unspecified = packet.source == IpAddress::v6({});
    if (unspecified) {
        ++counters.address_conflicts; // it wants our address; the answer tells it not to
    } else if (message.link && routes.may_be_neighbour(packet.source)) {
        const auto heard =
            neighbours.heard(packet.source, &*message.link, Hearsay{.create = true}, frame.now);
        if (heard == Neighbours::Heard::changed) tell_learned(packet.source, *message.link);
    }
    const IpAddress to = unspecified ? all_nodes() : packet.source;
    send_neighbour({.advertisement = true,
                    .solicited = !unspecified,
                    .overrides = true,
                    .target = message.target,
                    .link = mac},
                   IpFields{message.target, to, protocol_icmp6, nd_hop_limit},
                   unspecified ? multicast_mac(to) : message.link.value_or(frame.from));
}

void Layer::State::on_advertisement(const Frame& frame, const NeighbourMessage& message) {
    if (ours(message.target)) {
        ++counters.address_conflicts;
        return;
    }
    if (!routes.may_be_neighbour(message.target)) {
        drop(Drop::not_ours);
        return;
    }
    const bool answer = message.solicited && frame.to_us;
    const auto heard =
        neighbours.heard(message.target, message.link ? &*message.link : nullptr,
                         Hearsay{.confirms = answer, .overrides = message.overrides}, frame.now);
    if (answer || heard == Neighbours::Heard::changed)
        tell_learned(message.target, message.link.value_or(frame.from));
}

void Layer::State::echo(const Frame& frame, const Packet& packet) {
    const bool v6 = packet.source.is_v6();
    const std::size_t ip_bytes = v6 ? ipv6_bytes : ipv4_bytes;
    const Bytes message = packet.payload;
    if (read8(message, 1) != 0) { // no such code
        drop(Drop::bad_header);
        return;
    }
    if (!echo_allowed(frame.now) || ip_bytes + message.size() > mtu) {
        ++counters.echo_suppressed;
        return;
    }
    FrameHeader header;
    std::byte* at = begin_frame(header, frame.from, v6 ? ethertype_ipv6 : ethertype_ipv4);
    at += write_ip_header(at, IpFields{packet.destination, packet.source, packet.protocol},
                          message.size());
    write8(at, v6 ? icmp6_echo_reply : icmp_echo_reply);
    write8(at + 1, 0);
    write16(at + 2, 0);
    write32(at + 4, read32(message, 4)); // identifier and sequence number

    // Back to where it came from: asking for a neighbour on behalf of a ping is not worth it.
    const Bytes data = message.subspan(icmp_bytes);
    const std::size_t before_data = l2_bytes + ip_bytes + icmp_bytes;
    base::SlabRef slab;
    FrameSlice slice;
    std::size_t header_bytes = before_data;
    if (before_data + data.size() <= header.size()) {
        std::ranges::copy(data, at + icmp_bytes);
        header_bytes += data.size();
    } else {
        slab = echo_slabs_pool->take();
        if (!slab || data.size() > slab.capacity()) {
            ++counters.echo_suppressed;
            return;
        }
        std::ranges::copy(data, slab.data());
        slice = {slab.get(), 0, static_cast<std::uint32_t>(data.size())};
    }
    if (!v6) {
        ChecksumSum sum;
        sum.add({at, icmp_bytes});
        sum.add(data);
        const std::uint16_t checksum = sum.checksum();
        std::memcpy(at + 2, &checksum, sizeof checksum);
    }
    const TransmitFrame out{
        .header = Bytes{header}.first(header_bytes),
        .payload = slab ? std::span<const FrameSlice>{&slice, 1} : std::span<const FrameSlice>{},
        .l2_bytes = l2_bytes,
        .l3_bytes = static_cast<std::uint16_t>(ip_bytes),
        .l4_bytes = static_cast<std::uint16_t>(header_bytes - l2_bytes - ip_bytes),
        .ipv4_checksum = !v6,
        .l4_checksum = v6 ? L4::icmp6 : L4::none,
    };
    if (port.send(out) == SendResult::queued) {
        ++counters.echo_answered;
    } else {
        ++counters.echo_suppressed;
    }
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
