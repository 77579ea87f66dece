#include "dataplane/net/tcp/syn_cookie.h"

#include "dataplane/net/tcp/connection_limits.h"
#include "dataplane/net/tcp/isn.h"
#include "dataplane/net/tcp/rack.h" // timestamp_ticks

#include <algorithm>
#include <array>
#include <chrono>

namespace dataplane::net::tcp {

namespace {

// The common values on the internet's paths; a peer gets the next one below its own.
constexpr std::array<std::uint16_t, 8> mss_values{48, 536, 1024, 1220, 1400, 1440, 1460, 8960};
constexpr std::chrono::seconds slot_length{64};
constexpr std::uint32_t slots_accepted = 2; // this one and the one before
constexpr std::uint32_t slot_mask = 31;

// The low bits of our timestamp.
constexpr std::uint32_t scale_mask = 0x0f; // 15: the peer offered none
constexpr std::uint32_t scale_none = 0x0f;
constexpr std::uint32_t sack_bit = 0x10;
constexpr std::uint32_t timestamps_bit = 0x20; // always set, so that it is in the hash
constexpr std::uint32_t option_mask = 0x3f;

std::uint32_t slot_of(base::TimePoint now) noexcept {
    return static_cast<std::uint32_t>(now.time_since_epoch() / slot_length);
}

} // namespace

std::uint32_t SynCookies::hash(const base::SocketAddress& local, const base::SocketAddress& remote,
                               Seq peer_first, std::uint32_t slot_and_mss,
                               std::uint32_t option_bits) const noexcept {
    base::SipMessage message(key_);
    message.add_number(std::uint8_t{'C'});
    detail::add_address(message, local.ip);
    detail::add_address(message, remote.ip);
    message.add_number(local.port);
    message.add_number(remote.port);
    message.add_number(peer_first.raw());
    message.add_number(slot_and_mss);
    message.add_number(static_cast<std::uint8_t>(option_bits));
    return static_cast<std::uint32_t>(message.hash()) & 0xff'ffff;
}

Header SynCookies::answer(const Segment& syn, const base::SocketAddress& local,
                          const base::SocketAddress& remote, const Config& config,
                          std::uint16_t mss, std::uint32_t ts_offset,
                          base::TimePoint now) const noexcept {
    const std::uint16_t peer_mss =
        std::max(syn.options.mss.value_or(peer_mss_default), peer_mss_min);
    std::uint32_t index = mss_values.size() - 1;
    while (mss_values[index] > peer_mss)
        --index; // ends: the first is peer_mss_min

    Header header;
    header.source_port = local.port;
    header.destination_port = remote.port;
    header.ack = syn.seq + 1;
    header.flags = flag::syn | flag::ack;
    header.window = static_cast<std::uint16_t>(std::min(syn_window, config.receive_bytes_max));
    header.options.mss = mss;

    std::uint32_t option_bits = 0;
    if (config.timestamps && syn.options.timestamps) {
        option_bits = timestamps_bit;
        option_bits |= syn.options.window_scale
                           ? std::min<std::uint32_t>(*syn.options.window_scale, 14)
                           : scale_none;
        if (config.sack && syn.options.sack_permitted) option_bits |= sack_bit;
        const std::uint32_t clock = timestamp_ticks(now);
        std::uint32_t stamp = (clock & ~option_mask) | option_bits;
        if (stamp > clock) stamp -= option_mask + 1; // never ahead of what we shall send next
        header.options.timestamps = Timestamps{stamp + ts_offset, syn.options.timestamps->value};
        header.options.sack_permitted = (option_bits & sack_bit) != 0;
        if (syn.options.window_scale) {
            header.options.window_scale = std::min<std::uint8_t>(config.window_scale, 14);
        }
    }
    const std::uint32_t slot = slot_of(now);
    const std::uint32_t top = (slot & slot_mask) << 3 | index;
    header.seq = Seq{top << 24 | hash(local, remote, syn.seq, slot << 3 | index, option_bits)};
    return header;
}

std::optional<SynCookies::Accepted> SynCookies::check(const Segment& ack,
                                                      const base::SocketAddress& local,
                                                      const base::SocketAddress& remote,
                                                      std::uint32_t ts_offset,
                                                      base::TimePoint now) const noexcept {
    if (!ack.has(flag::ack) || ack.has(flag::syn | flag::rst)) return std::nullopt;
    const Seq iss = ack.ack - 1;
    const std::uint32_t index = iss.raw() >> 24 & 7;
    const std::uint32_t slot_now = slot_of(now);
    const std::uint32_t age = (slot_now - (iss.raw() >> 27)) & slot_mask;
    if (age >= slots_accepted) return std::nullopt;

    Options options;
    options.mss = mss_values[index];
    std::uint32_t option_bits = 0;
    if (ack.options.timestamps) {
        option_bits = (ack.options.timestamps->echo - ts_offset) & option_mask;
        // Without this bit the SYN-ACK had no timestamps, and the echo is nothing of ours.
        if ((option_bits & timestamps_bit) == 0) return std::nullopt;
        options.timestamps = ack.options.timestamps;
        options.sack_permitted = (option_bits & sack_bit) != 0;
        if ((option_bits & scale_mask) != scale_none) {
            options.window_scale = static_cast<std::uint8_t>(option_bits & scale_mask);
        }
    }
    const std::uint32_t slot = slot_now - age;
    const Seq peer_first = ack.seq - 1;
    if ((iss.raw() & 0xff'ffff) !=
        hash(local, remote, peer_first, slot << 3 | index, option_bits)) {
        return std::nullopt;
    }
    return Accepted{iss, options};
}

} // namespace dataplane::net::tcp
