// What came: from frames to datagrams and errors, and what is answered by IP itself.
#include "dataplane/net/ip/layer_state.h"

#include "dataplane/net/port/checksum.h"

#include <algorithm>
#include <cstring>

namespace dataplane::net::ip {
namespace {

/// ff02::1:ff00:0/104: what every solicited-node address begins with.
bool is_solicited_node(const IpAddress& ip) noexcept {
    return solicited_node(ip) == ip;
}

} // namespace

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

} // namespace dataplane::net::ip
