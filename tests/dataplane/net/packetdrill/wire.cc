#include "tests/dataplane/net/packetdrill/wire.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace tests::packetdrill {

namespace {

constexpr std::uint8_t protocol_icmp = 1, protocol_tcp = 6, protocol_icmp6 = 58;
constexpr std::size_t ip4_header = 20, ip6_header = 40, tcp_header = 20, icmp_header = 8;

std::span<const std::byte> address_bytes(const base::IpAddress& ip) {
    return std::as_bytes(std::span{ip.bytes()}).first(ip.is_v6() ? 16 : 4);
}

/// Writes an IP header in front of `payload_bytes` and returns its size.
std::size_t put_ip(Bytes& packet, const base::IpAddress& source, const base::IpAddress& destination,
                   std::uint8_t protocol, std::uint8_t ecn, std::size_t payload_bytes) {
    if (source.is_v6()) {
        packet.resize(ip6_header + payload_bytes);
        put32(packet.data(), (6U << 28) | (std::uint32_t{ecn} << 20));
        put16(packet.data() + 4, static_cast<std::uint16_t>(payload_bytes));
        packet[6] = std::byte{protocol};
        packet[7] = std::byte{64};
        std::ranges::copy(address_bytes(source), packet.begin() + 8);
        std::ranges::copy(address_bytes(destination), packet.begin() + 24);
        return ip6_header;
    }
    packet.resize(ip4_header + payload_bytes);
    packet[0] = std::byte{0x45};
    packet[1] = std::byte{ecn};
    put16(packet.data() + 2, static_cast<std::uint16_t>(packet.size()));
    put16(packet.data() + 6, 0x4000); // DF
    packet[8] = std::byte{64};
    packet[9] = std::byte{protocol};
    std::ranges::copy(address_bytes(source), packet.begin() + 12);
    std::ranges::copy(address_bytes(destination), packet.begin() + 16);
    Checksum sum;
    sum.add(std::span{packet}.first(ip4_header));
    put16(packet.data() + 10, sum.finish());
    return ip4_header;
}

base::IpAddress get_v4(const std::byte* from) {
    std::array<std::uint8_t, 4> bytes{};
    std::memcpy(bytes.data(), from, bytes.size());
    return base::IpAddress::v4(bytes);
}
base::IpAddress get_v6(const std::byte* from) {
    std::array<std::uint8_t, 16> bytes{};
    std::memcpy(bytes.data(), from, bytes.size());
    return base::IpAddress::v6(bytes);
}

void push16(Bytes& to, std::uint16_t value) {
    to.resize(to.size() + 2);
    put16(to.data() + to.size() - 2, value);
}
void push32(Bytes& to, std::uint32_t value) {
    to.resize(to.size() + 4);
    put32(to.data() + to.size() - 4, value);
}
void push_head(Bytes& to, unsigned kind, std::size_t length) {
    to.push_back(static_cast<std::byte>(kind));
    to.push_back(static_cast<std::byte>(length));
}

/// One option whose kind is neither eol nor nop; nullopt when its length is not what it must be.
std::optional<TcpOption> decode_option(std::span<const std::byte> option) {
    TcpOption result;
    const auto* const body = option.data() + 2;
    switch (std::to_integer<unsigned>(option[0])) {
    case 2:
        result.kind = TcpOption::Kind::mss;
        if (option.size() != 4) return std::nullopt;
        result.value = get16(body);
        return result;
    case 3:
        result.kind = TcpOption::Kind::window_scale;
        if (option.size() != 3) return std::nullopt;
        result.value = std::to_integer<std::uint32_t>(*body);
        return result;
    case 4:
        result.kind = TcpOption::Kind::sack_permitted;
        if (option.size() != 2) return std::nullopt;
        return result;
    case 5:
        result.kind = TcpOption::Kind::sack;
        if ((option.size() - 2) % 8 != 0) return std::nullopt;
        for (std::size_t at = 2; at < option.size(); at += 8)
            result.blocks.emplace_back(get32(option.data() + at), get32(option.data() + at + 4));
        return result;
    case 8:
        result.kind = TcpOption::Kind::timestamps;
        if (option.size() != 10) return std::nullopt;
        result.value = get32(body);
        result.echo = get32(body + 4);
        return result;
    default:
        result.kind = TcpOption::Kind::raw;
        result.bytes.assign(option.begin(), option.end());
        return result;
    }
}

} // namespace

void put16(std::byte* to, std::uint16_t value) noexcept {
    to[0] = static_cast<std::byte>(value >> 8);
    to[1] = static_cast<std::byte>(value & 0xff);
}
void put32(std::byte* to, std::uint32_t value) noexcept {
    put16(to, static_cast<std::uint16_t>(value >> 16));
    put16(to + 2, static_cast<std::uint16_t>(value & 0xffff));
}
std::uint16_t get16(const std::byte* from) noexcept {
    return static_cast<std::uint16_t>((std::to_integer<unsigned>(from[0]) << 8) |
                                      std::to_integer<unsigned>(from[1]));
}
std::uint32_t get32(const std::byte* from) noexcept {
    return (std::uint32_t{get16(from)} << 16) | get16(from + 2);
}

void Checksum::add(std::span<const std::byte> bytes) noexcept {
    for (std::size_t i = 0; i + 1 < bytes.size(); i += 2)
        sum_ += get16(bytes.data() + i);
    if (bytes.size() % 2 != 0) sum_ += std::to_integer<unsigned>(bytes.back()) << 8;
}

std::uint16_t Checksum::finish() const noexcept {
    std::uint64_t sum = sum_;
    while (sum >> 16 != 0)
        sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(~sum & 0xffff);
}

std::uint16_t transport_checksum(const base::IpAddress& source, const base::IpAddress& destination,
                                 std::uint8_t protocol,
                                 std::span<const std::byte> message) noexcept {
    Checksum sum;
    if (protocol != protocol_icmp) { // ICMP for IPv4 has no pseudo-header
        sum.add(address_bytes(source));
        sum.add(address_bytes(destination));
        sum.add(protocol);
        sum.add(static_cast<std::uint32_t>(message.size()));
    }
    sum.add(message);
    return sum.finish();
}

Bytes encode_options(const TcpOptions& options) {
    Bytes bytes;
    for (const TcpOption& option : options) {
        using Kind = TcpOption::Kind;
        switch (option.kind) {
        case Kind::end_of_list:
            bytes.push_back(std::byte{0});
            break;
        case Kind::nop:
            bytes.push_back(std::byte{1});
            break;
        case Kind::mss:
            push_head(bytes, 2, 4);
            push16(bytes, static_cast<std::uint16_t>(option.value));
            break;
        case Kind::window_scale:
            push_head(bytes, 3, 3);
            bytes.push_back(static_cast<std::byte>(option.value));
            break;
        case Kind::sack_permitted:
            push_head(bytes, 4, 2);
            break;
        case Kind::sack:
            push_head(bytes, 5, 2 + 8 * option.blocks.size());
            for (const auto& [begin, end] : option.blocks) {
                push32(bytes, begin);
                push32(bytes, end);
            }
            break;
        case Kind::timestamps:
            push_head(bytes, 8, 10);
            push32(bytes, option.value);
            push32(bytes, option.echo);
            break;
        case Kind::raw:
            bytes.insert(bytes.end(), option.bytes.begin(), option.bytes.end());
            break;
        }
    }
    bytes.resize((bytes.size() + 3) / 4 * 4);
    return bytes;
}

std::optional<TcpOptions> decode_options(std::span<const std::byte> bytes) {
    TcpOptions options;
    while (!bytes.empty()) {
        const unsigned kind = std::to_integer<unsigned>(bytes[0]);
        if (kind <= 1) {
            options.push_back({kind == 0 ? TcpOption::Kind::end_of_list : TcpOption::Kind::nop});
            bytes = bytes.subspan(1);
            continue;
        }
        if (bytes.size() < 2) return std::nullopt;
        const std::size_t length = std::to_integer<std::size_t>(bytes[1]);
        if (length < 2 || length > bytes.size()) return std::nullopt;
        std::optional<TcpOption> option = decode_option(bytes.first(length));
        if (!option) return std::nullopt;
        options.push_back(std::move(*option));
        bytes = bytes.subspan(length);
    }
    return options;
}

Bytes encode(const WireSegment& segment) {
    const Bytes options = encode_options(segment.options);
    const std::size_t header = tcp_header + options.size();
    Bytes packet;
    const std::size_t ip = put_ip(packet, segment.source.ip, segment.destination.ip, protocol_tcp,
                                  segment.ecn, header + segment.payload.size());
    std::byte* const at = packet.data() + ip;
    put16(at, segment.source.port);
    put16(at + 2, segment.destination.port);
    put32(at + 4, segment.seq);
    put32(at + 8, segment.ack);
    at[12] = static_cast<std::byte>(header / 4 << 4);
    at[13] = std::byte{segment.flags};
    put16(at + 14, segment.window);
    put16(at + 18, segment.urgent);
    std::ranges::copy(options, at + tcp_header);
    std::ranges::copy(segment.payload, at + header);
    put16(at + 16, transport_checksum(segment.source.ip, segment.destination.ip, protocol_tcp,
                                      std::span{packet}.subspan(ip)));
    return packet;
}

std::optional<WireSegment> decode(std::span<const std::byte> packet) {
    WireSegment segment;
    if (packet.empty()) return std::nullopt;
    std::span<const std::byte> message;
    const unsigned version = std::to_integer<unsigned>(packet[0]) >> 4;
    if (version == 4) {
        if (packet.size() < ip4_header || packet[0] != std::byte{0x45}) return std::nullopt;
        Checksum sum;
        sum.add(packet.first(ip4_header));
        const std::size_t total = get16(packet.data() + 2);
        if (sum.finish() != 0 || total < ip4_header || total > packet.size()) return std::nullopt;
        if (packet[9] != std::byte{protocol_tcp}) return std::nullopt;
        segment.ecn = std::to_integer<std::uint8_t>(packet[1]) & 3;
        segment.source.ip = get_v4(packet.data() + 12);
        segment.destination.ip = get_v4(packet.data() + 16);
        message = packet.subspan(ip4_header, total - ip4_header);
    } else if (version == 6) {
        if (packet.size() < ip6_header) return std::nullopt;
        const std::size_t length = get16(packet.data() + 4);
        if (length > packet.size() - ip6_header) return std::nullopt;
        if (packet[6] != std::byte{protocol_tcp}) return std::nullopt;
        segment.ecn = static_cast<std::uint8_t>((get32(packet.data()) >> 20) & 3);
        segment.source.ip = get_v6(packet.data() + 8);
        segment.destination.ip = get_v6(packet.data() + 24);
        message = packet.subspan(ip6_header, length);
    } else {
        return std::nullopt;
    }
    if (message.size() < tcp_header) return std::nullopt;
    if (transport_checksum(segment.source.ip, segment.destination.ip, protocol_tcp, message) != 0)
        return std::nullopt;
    const std::byte* const at = message.data();
    const std::size_t header = std::to_integer<std::size_t>(at[12] >> 4) * 4;
    if (header < tcp_header || header > message.size()) return std::nullopt;
    segment.source.port = get16(at);
    segment.destination.port = get16(at + 2);
    segment.seq = get32(at + 4);
    segment.ack = get32(at + 8);
    segment.flags = std::to_integer<std::uint8_t>(at[13]);
    segment.window = get16(at + 14);
    segment.urgent = get16(at + 18);
    std::optional<TcpOptions> options =
        decode_options(message.subspan(tcp_header, header - tcp_header));
    if (!options) return std::nullopt;
    segment.options = std::move(*options);
    segment.payload.assign(message.begin() + static_cast<std::ptrdiff_t>(header), message.end());
    return segment;
}

Bytes encode(const WireError& error) {
    const base::IpAddress& to = error.quoted_source.ip;
    const bool v6 = to.is_v6();
    // RFC 792: the quoted IP header and eight bytes of what it carried.
    Bytes quoted;
    const std::size_t quoted_ip = put_ip(quoted, to, error.quoted_destination.ip, protocol_tcp, 0,
                                         tcp_header + error.quoted_payload_bytes);
    put16(quoted.data() + quoted_ip, error.quoted_source.port);
    put16(quoted.data() + quoted_ip + 2, error.quoted_destination.port);
    put32(quoted.data() + quoted_ip + 4, error.quoted_seq);
    quoted.resize(quoted_ip + 8);

    Bytes packet;
    const std::uint8_t protocol = v6 ? protocol_icmp6 : protocol_icmp;
    const std::size_t ip =
        put_ip(packet, error.source, to, protocol, 0, icmp_header + quoted.size());
    std::byte* const at = packet.data() + ip;
    at[0] = std::byte{error.type};
    at[1] = std::byte{error.code};
    put32(at + 4, v6 ? error.mtu : error.mtu & 0xffff); // RFC 4443 §3.2, RFC 1191 §4
    std::ranges::copy(quoted, at + icmp_header);
    put16(at + 2, transport_checksum(error.source, to, protocol, std::span{packet}.subspan(ip)));
    return packet;
}

std::string describe(const TcpOptions& options) {
    std::string text;
    for (const TcpOption& option : options) {
        if (!text.empty()) text += ',';
        using Kind = TcpOption::Kind;
        switch (option.kind) {
        case Kind::end_of_list:
            text += "eol";
            break;
        case Kind::nop:
            text += "nop";
            break;
        case Kind::mss:
            text += "mss " + std::to_string(option.value);
            break;
        case Kind::window_scale:
            text += "wscale " + std::to_string(option.value);
            break;
        case Kind::sack_permitted:
            text += "sackOK";
            break;
        case Kind::sack:
            text += "sack";
            for (const auto& [begin, end] : option.blocks)
                text += " " + std::to_string(begin) + ":" + std::to_string(end);
            break;
        case Kind::timestamps:
            text += "TS val " + (option.any_value ? "..." : std::to_string(option.value)) +
                    " ecr " + (option.any_echo ? "..." : std::to_string(option.echo));
            break;
        case Kind::raw:
            text += "raw ";
            for (const std::byte byte : option.bytes) {
                std::array<char, 3> hex{};
                std::snprintf(hex.data(), hex.size(), "%02x", std::to_integer<unsigned>(byte));
                text += hex.data();
            }
            break;
        }
    }
    return text;
}

std::string describe(const TcpPacket& packet) {
    std::string text;
    if (packet.ecn) {
        constexpr std::array names{"noecn", "ect0", "ect1", "ect01", "ce"};
        text += "[" + std::string(names[static_cast<std::size_t>(*packet.ecn)]) + "] ";
    }
    const std::size_t before_flags = text.size();
    const auto flag = [&](std::uint8_t bit, char name) {
        if ((packet.flags & bit) != 0) text += name;
    };
    flag(tcp::flag::syn, 'S');
    flag(tcp::flag::fin, 'F');
    flag(tcp::flag::rst, 'R');
    flag(tcp::flag::psh, 'P');
    flag(tcp::flag::urg, 'U');
    flag(tcp::flag::ece, 'E');
    flag(tcp::flag::cwr, 'W');
    flag(tcp::flag::ack, '.');
    if (text.size() == before_flags) text += '-';
    text += " " + std::to_string(packet.seq) + ":" +
            std::to_string(packet.seq + packet.payload_bytes) + "(" +
            std::to_string(packet.payload_bytes) + ")";
    if (packet.ack) text += " ack " + std::to_string(*packet.ack);
    if (packet.window) text += " win " + std::to_string(*packet.window);
    if (packet.urgent != 0) text += " urg " + std::to_string(packet.urgent);
    if (!packet.options)
        text += " <...>";
    else if (!packet.options->empty())
        text += " <" + describe(*packet.options) + ">";
    return text;
}

std::string describe(base::Duration since_start) {
    std::array<char, 40> text{};
    std::snprintf(text.data(), text.size(), "%.6f",
                  std::chrono::duration<double>(since_start).count());
    return text.data();
}

} // namespace tests::packetdrill
