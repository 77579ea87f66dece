#include "frames.h"

#include "dataplane/net/port/checksum.h"

#include <algorithm>
#include <cstring>

namespace dataplane::net::ip::test {

IpAddress ip(std::string_view text) {
    return IpAddress::parse(text).value();
}

Frame bytes(std::initializer_list<int> values) {
    Frame frame;
    for (const int value : values)
        frame.push_back(static_cast<std::byte>(value));
    return frame;
}

Frame operator+(Frame left, const Frame& right) {
    left.insert(left.end(), right.begin(), right.end());
    return left;
}

Frame run(std::size_t count, int first) {
    Frame frame;
    for (std::size_t i = 0; i < count; ++i)
        frame.push_back(static_cast<std::byte>(first + static_cast<int>(i)));
    return frame;
}

std::uint16_t get16(const Frame& frame, std::size_t at) {
    return static_cast<std::uint16_t>(std::to_integer<unsigned>(frame.at(at)) << 8 |
                                      std::to_integer<unsigned>(frame.at(at + 1)));
}
std::uint32_t get32(const Frame& frame, std::size_t at) {
    return std::uint32_t{get16(frame, at)} << 16 | get16(frame, at + 2);
}
IpAddress get_v4(const Frame& frame, std::size_t at) {
    std::array<std::uint8_t, 4> raw{};
    for (std::size_t i = 0; i < raw.size(); ++i)
        raw[i] = std::to_integer<std::uint8_t>(frame.at(at + i));
    return IpAddress::v4(raw);
}
IpAddress get_v6(const Frame& frame, std::size_t at) {
    std::array<std::uint8_t, 16> raw{};
    for (std::size_t i = 0; i < raw.size(); ++i)
        raw[i] = std::to_integer<std::uint8_t>(frame.at(at + i));
    return IpAddress::v6(raw);
}
MacAddress get_mac(const Frame& frame, std::size_t at) {
    MacAddress mac{};
    for (std::size_t i = 0; i < mac.size(); ++i)
        mac[i] = std::to_integer<std::uint8_t>(frame.at(at + i));
    return mac;
}

Frame in16(unsigned value) {
    return bytes({static_cast<int>(value >> 8 & 0xff), static_cast<int>(value & 0xff)});
}
Frame in32(std::uint32_t value) {
    return in16(value >> 16) + in16(value & 0xffff);
}
Frame in_mac(const MacAddress& mac) {
    Frame frame;
    for (const std::uint8_t byte : mac)
        frame.push_back(std::byte{byte});
    return frame;
}
Frame in_ip(const IpAddress& address) {
    Frame frame;
    for (std::size_t i = 0; i < address.bit_count() / 8; ++i)
        frame.push_back(std::byte{address.bytes()[i]});
    return frame;
}

Frame ethernet(const MacAddress& to, const MacAddress& from, unsigned type, const Frame& l3) {
    return in_mac(to) + in_mac(from) + in16(type) + l3;
}

Frame arp(bool reply, const MacAddress& sender_mac, const IpAddress& sender,
          const MacAddress& target_mac, const IpAddress& target) {
    return in16(1) + in16(0x0800) + bytes({6, 4, 0, reply ? 2 : 1}) + in_mac(sender_mac) +
           in_ip(sender) + in_mac(target_mac) + in_ip(target);
}

Frame ipv4(const V4& header, const Frame& payload) {
    const std::size_t header_bytes = 20 + header.options.size();
    Frame frame = bytes({0x40 | static_cast<int>(header_bytes / 4), static_cast<int>(header.tos)}) +
                  in16(static_cast<unsigned>(header_bytes + payload.size())) + in16(header.id) +
                  in16(header.place) + bytes({64, static_cast<int>(header.protocol), 0, 0}) +
                  in_ip(header.from) + in_ip(header.to) + header.options;
    fill_ipv4_checksum(frame);
    return frame + payload;
}

Frame ipv6(const V6& header, const Frame& payload) {
    return in32(0x6000'0000U | header.traffic_class << 20) +
           in16(static_cast<unsigned>(payload.size())) +
           bytes({static_cast<int>(header.next), static_cast<int>(header.hop_limit)}) +
           in_ip(header.from) + in_ip(header.to) + payload;
}

namespace {

/// The transport part of `l4` with its checksum, by way of a bare IP header.
Frame with_checksum(const IpAddress& from, const IpAddress& to, L4 protocol, const Frame& l4) {
    const std::size_t l3_bytes = from.is_v6() ? 40 : 20;
    Frame whole = from.is_v6() ? ipv6({from, to}, l4) : ipv4({from, to}, l4);
    fill_l4_checksum(whole, 0, static_cast<std::uint16_t>(l3_bytes), protocol, {});
    return {whole.begin() + static_cast<std::ptrdiff_t>(l3_bytes), whole.end()};
}

} // namespace

Frame tcp(const IpAddress& from, const IpAddress& to, const Frame& payload, unsigned source_port,
          unsigned destination_port, std::uint32_t seq) {
    const Frame l4 = in16(source_port) + in16(destination_port) + in32(seq) + in32(0) +
                     bytes({0x50, 0x10, 0x20, 0, 0, 0, 0, 0}) + payload;
    return with_checksum(from, to, L4::tcp, l4);
}

Frame icmp(Frame message) {
    ChecksumSum sum;
    sum.add(message);
    const std::uint16_t value = sum.checksum();
    std::memcpy(message.data() + 2, &value, sizeof value);
    return message;
}

Frame icmp6(const IpAddress& from, const IpAddress& to, Frame message) {
    return with_checksum(from, to, L4::icmp6, message);
}

SendResult FakePort::send(const TransmitFrame& frame) noexcept {
    if (answer != SendResult::queued) return answer;
    EXPECT_LE(frame.header.size(), frame_header_bytes_max);
    Frame whole{frame.header.begin(), frame.header.end()};
    fill_checksums(whole, frame, frame.payload);
    for (const FrameSlice& slice : frame.payload) {
        const std::byte* data = slice.slab->data + slice.offset;
        whole.insert(whole.end(), data, data + slice.bytes);
    }
    last_segment_bytes = frame.segment_bytes;
    sent.push_back(std::move(whole));
    control.push_back(frame.control);
    return SendResult::queued;
}

Host::Host(LayerOptions options, MacAddress mac, unsigned seed)
    : port(mac), random(seed), slabs(4096, 4), layer(port, std::move(options), random) {
    layer.on_neighbour(
        [this](const IpAddress& hop, bool resolved) { settled.emplace_back(hop, resolved); });
    layer.on_learned(
        [this](const IpAddress& who, const MacAddress& at) { learned.emplace_back(who, at); });
}

std::optional<Datagram> Host::receive(Frame frame, ChecksumState ip_state, ChecksumState l4_state) {
    last = std::move(frame);
    ReceivedFrame received;
    received.bytes = last;
    received.ip_checksum = ip_state;
    received.l4_checksum = l4_state;
    return layer.receive(received, now, error);
}

Sent Host::send(const IpAddress& to, Path& path, const Frame& payload) {
    Frame header = tcp(ip("192.0.2.10"), ip("192.0.2.11"), {}, 40000, 25);
    header[16] = header[17] = std::byte{0};
    const auto slab = slabs.take();
    std::ranges::copy(payload, slab.data());
    const FrameSlice slice{slab.get(), 0, static_cast<std::uint32_t>(payload.size())};
    const std::span<const FrameSlice> slices{&slice, payload.empty() ? std::size_t{0} : 1};
    const IpAddress source = layer.source_for(to).value_or(to);
    return layer.send(path, source, to, tcp::Ecn::ect0, header, slices, 0, false, now);
}

void Host::pass(Duration time) {
    const TimePoint end = now + time;
    for (int steps = 0; steps < 100'000 && layer.deadline() <= end; ++steps) {
        now = std::max(now, layer.deadline());
        layer.on_timer(now);
    }
    now = end;
    layer.on_timer(now);
}

Frame Host::take() {
    EXPECT_FALSE(port.sent.empty());
    if (port.sent.empty()) return Frame(64);
    Frame frame = port.sent.front();
    port.sent.erase(port.sent.begin());
    port.control.erase(port.control.begin());
    return frame;
}

LayerOptions usual_options() {
    LayerOptions options;
    options.addresses = {{ip("192.0.2.10"), 24}, {ip("2001:db8::10"), 64}};
    options.routes = {{{ip("0.0.0.0"), 0}, ip("192.0.2.1")}, {{ip("::"), 0}, ip("2001:db8::1")}};
    return options;
}

} // namespace dataplane::net::ip::test
