#include "tests/dataplane/net/packetdrill/raw_port.h"

#include "dataplane/base/check.h"

#include <algorithm>

namespace tests::packetdrill {

namespace {

constexpr net::MacAddress stack_mac{0x02, 0, 0, 0, 0, 0x01};
constexpr std::size_t ethernet_header = 14, ethernet_frame_min = 60;
constexpr std::uint16_t type_ip4 = 0x0800, type_arp = 0x0806, type_ip6 = 0x86dd;
constexpr std::uint8_t protocol_tcp = 6, protocol_icmp6 = 58;
constexpr std::uint8_t neighbour_solicitation = 135, neighbour_advertisement = 136;

void put_mac(std::byte* to, const net::MacAddress& mac) {
    std::ranges::copy(std::as_bytes(std::span{mac}), to);
}

base::IpAddress address_at(std::span<const std::byte> bytes, std::size_t offset) {
    std::array<std::uint8_t, 16> value{};
    std::ranges::copy(bytes.subspan(offset, 16), std::as_writable_bytes(std::span{value}).begin());
    return base::IpAddress::v6(value);
}

base::IpAddress address4_at(std::span<const std::byte> bytes, std::size_t offset) {
    std::array<std::uint8_t, 4> value{};
    std::ranges::copy(bytes.subspan(offset, 4), std::as_writable_bytes(std::span{value}).begin());
    return base::IpAddress::v4(value);
}

/// Fills in the checksums of a whole packet as the frame asks.
void fill_checksums(const net::TransmitFrame& frame, std::span<std::byte> packet) {
    if (frame.ipv4_checksum) {
        Checksum sum;
        sum.add(packet.first(frame.l3_bytes));
        put16(packet.data() + 10, sum.finish());
    }
    std::size_t offset = 0;
    std::uint8_t protocol = 0;
    switch (frame.l4_checksum) {
    case net::L4::none:
        return;
    case net::L4::tcp:
        offset = 16;
        protocol = protocol_tcp;
        break;
    case net::L4::udp:
        offset = 6;
        protocol = 17;
        break;
    case net::L4::icmp6:
        offset = 2;
        protocol = protocol_icmp6;
        break;
    }
    const bool v6 = (std::to_integer<unsigned>(packet[0]) >> 4) == 6;
    const auto source = v6 ? address_at(packet, 8) : address4_at(packet, 12);
    const auto destination = v6 ? address_at(packet, 24) : address4_at(packet, 16);
    const std::span<std::byte> message = packet.subspan(frame.l3_bytes);
    put16(message.data() + offset, transport_checksum(source, destination, protocol, message));
}

} // namespace

RawPort::RawPort(std::uint16_t mtu, std::function<void(std::span<const std::byte>)> sink)
    : sink_(std::move(sink)) {
    info_.name = "raw0";
    info_.driver = "raw";
    info_.mac = stack_mac;
    info_.mtu = mtu;
    info_.multi_segment = true;
}

void RawPort::push_frame(std::uint16_t ether_type, std::span<const std::byte> packet) {
    auto frame = std::make_unique<Bytes>(ethernet_header + packet.size());
    put_mac(frame->data(), stack_mac);
    put_mac(frame->data() + 6, peer_mac);
    put16(frame->data() + 12, ether_type);
    std::ranges::copy(packet, frame->begin() + ethernet_header);
    // As on a wire: short frames are padded, and padding is not data.
    if (frame->size() < ethernet_frame_min) frame->resize(ethernet_frame_min, std::byte{0xa5});
    incoming_.push_back(std::move(frame));
}

void RawPort::inject(std::span<const std::byte> ip_packet) {
    if (ip_packet.empty()) return;
    const bool v6 = (std::to_integer<unsigned>(ip_packet[0]) >> 4) == 6;
    push_frame(v6 ? type_ip6 : type_ip4, ip_packet);
}

std::size_t RawPort::receive(std::span<net::ReceivedFrame> frames) noexcept {
    std::size_t count = 0;
    while (count < frames.size() && !incoming_.empty()) {
        Bytes& bytes = *incoming_.front();
        frames[count] = net::ReceivedFrame{};
        frames[count].bytes = bytes;
        frames[count].handle = &bytes;
        ++count;
        ++counters_.frames_in;
        counters_.bytes_in += bytes.size();
        unreleased_.push_back(std::move(incoming_.front()));
        incoming_.pop_front();
    }
    return count;
}

void RawPort::release(std::span<const net::ReceivedFrame> frames) noexcept {
    for (const net::ReceivedFrame& frame : frames) {
        const auto found = std::ranges::find_if(
            unreleased_, [&](const auto& bytes) { return bytes.get() == frame.handle; });
        CHECK(found != unreleased_.end()); // released twice, or never received
        unreleased_.erase(found);
    }
}

net::SendResult RawPort::send(const net::TransmitFrame& frame) noexcept {
    Bytes payload;
    for (const net::FrameSlice& slice : frame.payload) {
        CHECK(slice.offset + slice.bytes <= slice.slab->bytes);
        const std::byte* const begin = slice.slab->data + slice.offset;
        payload.insert(payload.end(), begin, begin + slice.bytes);
    }
    ++counters_.frames_out;
    counters_.bytes_out += frame.header.size() + payload.size();
    const std::size_t piece_bytes = frame.segment_bytes == 0 ? payload.size() : frame.segment_bytes;
    std::size_t offset = 0;
    do {
        const std::size_t bytes = std::min(piece_bytes, payload.size() - offset);
        const bool last = offset + bytes == payload.size();
        send_one(frame, offset, std::span{payload}.subspan(offset, bytes), last);
        offset += bytes;
    } while (offset < payload.size());
    return net::SendResult::queued;
}

void RawPort::send_one(const net::TransmitFrame& frame, std::size_t offset,
                       std::span<const std::byte> piece, bool last) {
    const std::uint16_t ether_type = get16(frame.header.data() + frame.l2_bytes - 2);
    Bytes packet(frame.header.begin() + frame.l2_bytes, frame.header.end());
    packet.insert(packet.end(), piece.begin(), piece.end());
    if (ether_type == type_arp) {
        answer_arp(packet);
        return;
    }
    if (frame.segment_bytes != 0) { // each piece is a segment of its own
        if (ether_type == type_ip4)
            put16(packet.data() + 2, static_cast<std::uint16_t>(packet.size()));
        else
            put16(packet.data() + 4, static_cast<std::uint16_t>(packet.size() - frame.l3_bytes));
        std::byte* const tcp_at = packet.data() + frame.l3_bytes;
        put32(tcp_at + 4, get32(tcp_at + 4) + static_cast<std::uint32_t>(offset));
        if (!last) tcp_at[13] &= ~static_cast<std::byte>(tcp::flag::fin | tcp::flag::psh);
        if (offset != 0) tcp_at[13] &= ~std::byte{tcp::flag::cwr};
    }
    fill_checksums(frame, packet);
    if (ether_type == type_ip6 && std::to_integer<unsigned>(packet[6]) == protocol_icmp6 &&
        answer_neighbour_solicitation(packet))
        return;
    sink_(packet);
}

void RawPort::answer_arp(std::span<const std::byte> request) {
    constexpr std::size_t arp_bytes = 28;
    if (request.size() < arp_bytes || get16(request.data() + 6) != 1) return;
    // A probe or an announcement asks for nobody else's address (RFC 5227).
    if (std::ranges::equal(request.subspan(14, 4), request.subspan(24, 4))) return;
    Bytes reply(request.begin(), request.begin() + arp_bytes);
    put16(reply.data() + 6, 2);
    put_mac(reply.data() + 8, RawPort::peer_mac);
    std::ranges::copy(request.subspan(24, 4), reply.begin() + 14);
    std::ranges::copy(request.subspan(8, 10), reply.begin() + 18);
    push_frame(type_arp, reply);
}

/// Returns whether the packet is Neighbour Discovery's, which scripts never see.
bool RawPort::answer_neighbour_solicitation(std::span<const std::byte> packet) {
    constexpr std::size_t ip_bytes = 40, message_bytes = 24;
    if (packet.size() < ip_bytes + 8) return false;
    const std::span<const std::byte> message = packet.subspan(ip_bytes);
    const unsigned type = std::to_integer<unsigned>(message[0]);
    if (type < 130 || type > 143) return false; // MLD, ND, MLDv2
    const base::IpAddress asker = address_at(packet, 8);
    if (type != neighbour_solicitation || message.size() < message_bytes ||
        asker == base::IpAddress::v6({}))
        return true;
    Bytes reply(ip_bytes + message_bytes + 8);
    put32(reply.data(), 6U << 28);
    put16(reply.data() + 4, message_bytes + 8);
    reply[6] = std::byte{protocol_icmp6};
    reply[7] = std::byte{255};
    std::ranges::copy(message.subspan(8, 16), reply.begin() + 8); // from the target
    std::ranges::copy(packet.subspan(8, 16), reply.begin() + 24);
    std::byte* const at = reply.data() + ip_bytes;
    at[0] = std::byte{neighbour_advertisement};
    at[4] = std::byte{0x60}; // solicited, override
    std::ranges::copy(message.subspan(8, 16), at + 8);
    at[24] = std::byte{2}; // target link-layer address
    at[25] = std::byte{1};
    put_mac(at + 26, RawPort::peer_mac);
    put16(at + 2, transport_checksum(address_at(reply, 8), asker, protocol_icmp6,
                                     std::span{reply}.subspan(ip_bytes)));
    push_frame(type_ip6, reply);
    return true;
}

} // namespace tests::packetdrill
