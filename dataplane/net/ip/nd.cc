#include "dataplane/net/ip/nd.h"

#include "dataplane/net/ip/limits.h"

namespace dataplane::net::ip {
namespace {

constexpr std::uint8_t option_source_link = 1, option_target_link = 2;
constexpr std::uint8_t flag_solicited = 0x40, flag_override = 0x20;
constexpr std::size_t fixed_bytes = 24;

} // namespace

std::optional<NeighbourMessage> read_neighbour(const Packet& packet) noexcept {
    const Bytes bytes = packet.payload;
    // RFC 6980: never from a fragment.
    if (packet.hop_limit != nd_hop_limit || packet.fragment || bytes.size() < fixed_bytes ||
        read8(bytes, 1) != 0)
        return std::nullopt;

    NeighbourMessage message;
    message.advertisement = read8(bytes, 0) == icmp6_neighbour_advertisement;
    message.target = read_v6(bytes, 8);
    if (!message.target.is_v6() || is_multicast(message.target)) return std::nullopt;
    if (message.advertisement) {
        message.solicited = (read8(bytes, 4) & flag_solicited) != 0;
        message.overrides = (read8(bytes, 4) & flag_override) != 0;
        if (message.solicited && is_multicast(packet.destination)) return std::nullopt;
    }

    const std::uint8_t wanted = message.advertisement ? option_target_link : option_source_link;
    Bytes options = bytes.subspan(fixed_bytes);
    for (unsigned count = 0; !options.empty(); ++count) {
        if (count >= nd_options_max || options.size() < 8) return std::nullopt;
        const std::size_t option_bytes = std::size_t{read8(options, 1)} * 8;
        if (option_bytes == 0 || option_bytes > options.size()) return std::nullopt;
        if (read8(options, 0) == wanted && option_bytes == 8) {
            message.link = read_mac(options, 2);
            if (!is_unicast(*message.link)) return std::nullopt;
        }
        options = options.subspan(option_bytes);
    }

    if (packet.source == IpAddress::v6({})) { // somebody's duplicate address detection
        if (message.advertisement || message.link ||
            packet.destination != solicited_node(message.target))
            return std::nullopt;
    }
    return message;
}

void write_neighbour(std::span<std::byte, nd_bytes> to, const NeighbourMessage& message) noexcept {
    std::byte* at = to.data();
    std::ranges::fill(to, std::byte{0});
    write8(at,
           message.advertisement ? icmp6_neighbour_advertisement : icmp6_neighbour_solicitation);
    write8(at + 4, static_cast<std::uint8_t>((message.solicited ? flag_solicited : 0) |
                                             (message.overrides ? flag_override : 0)));
    write_ip(at + 8, message.target);
    write8(at + 24, message.advertisement ? option_target_link : option_source_link);
    write8(at + 25, 1);
    write_mac(at + 26, message.link.value_or(MacAddress{}));
}

} // namespace dataplane::net::ip
