#include "tests/dataplane/net/packetdrill/flow.h"

#include <cstdlib>

namespace tests::packetdrill {

namespace {

std::string different(std::string_view what, const std::string& expected,
                      const std::string& actual) {
    return "live packet field " + std::string(what) + ": expected: " + expected +
           " vs actual: " + actual;
}
std::string different(std::string_view what, std::uint32_t expected, std::uint32_t actual) {
    return different(what, std::to_string(expected), std::to_string(actual));
}

TcpOptions without_padding(TcpOptions options) {
    while (!options.empty() && options.back().kind == TcpOption::Kind::end_of_list)
        options.pop_back();
    return options;
}

bool ecn_matches(EcnWish wish, std::uint8_t ecn) {
    const auto is = [ecn](tcp::Ecn value) { return ecn == static_cast<std::uint8_t>(value); };
    switch (wish) {
    case EcnWish::not_ect:
        return is(tcp::Ecn::not_ect);
    case EcnWish::ect0:
        return is(tcp::Ecn::ect0);
    case EcnWish::ect1:
        return is(tcp::Ecn::ect1);
    case EcnWish::ect01:
        return is(tcp::Ecn::ect0) || is(tcp::Ecn::ect1);
    case EcnWish::ce:
        return is(tcp::Ecn::ce);
    }
    return false;
}

tcp::Ecn ecn_of(EcnWish wish) {
    switch (wish) {
    case EcnWish::not_ect:
        return tcp::Ecn::not_ect;
    case EcnWish::ect0:
    case EcnWish::ect01:
        return tcp::Ecn::ect0;
    case EcnWish::ect1:
        return tcp::Ecn::ect1;
    case EcnWish::ce:
        return tcp::Ecn::ce;
    }
    return tcp::Ecn::not_ect;
}

} // namespace

std::byte stream_byte(std::uint32_t place) noexcept {
    return static_cast<std::byte>((place * 2654435761U) >> 24);
}

std::optional<WireSegment> Flow::to_wire(const TcpPacket& packet, std::string& problem) {
    WireSegment segment;
    segment.source = remote_;
    segment.destination = local_;
    segment.flags = packet.flags;
    segment.ecn = static_cast<std::uint8_t>(packet.ecn ? ecn_of(*packet.ecn) : tcp::Ecn::not_ect);
    segment.seq = packet.seq;
    segment.window = packet.window.value_or(65535);
    segment.urgent = packet.urgent;
    const bool syn = (packet.flags & tcp::flag::syn) != 0;
    if (syn) remote_first_ = packet.seq;
    if ((packet.flags & tcp::flag::rst) != 0) over_ = true;
    if ((packet.flags & tcp::flag::fin) != 0) over_ = true;
    if (packet.ack) segment.ack = *packet.ack + local_offset_.value_or(0);
    if (packet.options) segment.options = *packet.options;
    for (TcpOption& option : segment.options) {
        if (option.kind == TcpOption::Kind::sack) {
            if (!local_offset_) {
                problem = "SACK blocks before the stack has sent anything";
                return std::nullopt;
            }
            for (auto& [begin, end] : option.blocks) {
                begin += *local_offset_;
                end += *local_offset_;
            }
        }
        if (option.kind == TcpOption::Kind::timestamps && option.echo != 0)
            option.echo = live_timestamp(option.echo);
    }
    const std::uint32_t first = remote_first_.value_or(packet.seq - 1) + 1;
    const std::uint32_t place = packet.seq + (syn ? 1 : 0) - first;
    for (std::uint32_t i = 0; i < packet.payload_bytes; ++i)
        segment.payload.push_back(stream_byte(place + i));
    return segment;
}

WireError Flow::to_wire(const IcmpPacket& packet) const {
    WireError error;
    error.source = remote_.ip;
    error.quoted_source = local_;
    error.quoted_destination = remote_;
    error.type = packet.type;
    error.code = packet.code;
    error.mtu = packet.mtu;
    error.quoted_seq =
        packet.quoted ? packet.quoted->first + local_offset_.value_or(0) : last_sent_seq_;
    error.quoted_payload_bytes =
        static_cast<std::uint16_t>(packet.quoted ? packet.quoted->second : 0);
    return error;
}

/// The peer echoes a number of ours that the script made up: the wire's by what was seen, or by
/// counting on from there, a script's number being one tick of ours.
std::uint32_t Flow::live_timestamp(std::uint32_t script) const {
    if (timestamps_.empty()) return script;
    const auto found = timestamps_.find(script);
    if (found != timestamps_.end()) return found->second;
    const auto& [first_script, first_live] = *timestamps_.begin();
    return first_live + (script - first_script);
}

TcpPacket Flow::to_script(const WireSegment& segment, bool with_ecn) const {
    TcpPacket packet;
    packet.flags = segment.flags;
    packet.seq = segment.seq - local_offset_.value_or(0);
    packet.payload_bytes = static_cast<std::uint32_t>(segment.payload.size());
    if ((segment.flags & tcp::flag::ack) != 0) packet.ack = segment.ack;
    packet.window = segment.window;
    packet.urgent = segment.urgent;
    packet.options = without_padding(segment.options);
    for (TcpOption& option : *packet.options) {
        if (option.kind != TcpOption::Kind::timestamps) continue;
        for (const auto& [script, live] : timestamps_) {
            if (live != option.value) continue;
            option.value = script;
            break;
        }
    }
    if (with_ecn) {
        constexpr std::array wishes{EcnWish::not_ect, EcnWish::ect1, EcnWish::ect0, EcnWish::ce};
        packet.ecn = wishes[segment.ecn];
    }
    return packet;
}

std::string Flow::learn_and_compare_seq(const TcpPacket& expected, const WireSegment& actual) {
    if ((actual.flags & tcp::flag::syn) != 0 && (!local_offset_ || over_)) {
        local_offset_ = actual.seq - expected.seq;
        local_first_ = expected.seq;
        over_ = false;
        timestamps_.clear();
    }
    // A reset that answers a stray segment takes its number from that segment (RFC 9293 §3.10.7.1).
    const std::uint32_t seq = actual.seq - local_offset_.value_or(0);
    if (seq != expected.seq) return different("tcp_seq", expected.seq, seq);
    return {};
}

std::string Flow::compare(const TcpPacket& expected, const WireSegment& actual) {
    if (expected.flags != actual.flags) {
        TcpPacket shown = expected;
        shown.flags = actual.flags;
        const auto flags = [](const TcpPacket& packet) {
            TcpPacket bare;
            bare.flags = packet.flags;
            const std::string text = describe(bare);
            return text.substr(0, text.find(' '));
        };
        return different("tcp_flags", flags(expected), flags(shown));
    }
    std::string difference = learn_and_compare_seq(expected, actual);
    if (!difference.empty()) return difference;
    last_sent_seq_ = actual.seq;
    if (expected.payload_bytes != actual.payload.size())
        return different("tcp payload length", expected.payload_bytes,
                         static_cast<std::uint32_t>(actual.payload.size()));
    if (expected.ack && *expected.ack != actual.ack)
        return different("tcp_ack", *expected.ack, actual.ack);
    if (expected.window && *expected.window != actual.window)
        return different("tcp_window", *expected.window, actual.window);
    if (expected.ecn && !ecn_matches(*expected.ecn, actual.ecn)) return "bad ECN bits";
    if (expected.options)
        difference = compare_options(*expected.options, actual.options);
    else
        for (const TcpOption& option :
             actual.options) // `<...>`: the timestamp is learned all the same
            if (option.kind == TcpOption::Kind::timestamps && timestamps_.empty())
                timestamps_[option.value] = option.value;
    if (!difference.empty()) return difference;

    const std::uint32_t syn = (actual.flags & tcp::flag::syn) != 0 ? 1 : 0;
    const std::uint32_t place = expected.seq + syn - (local_first_ + 1);
    for (std::size_t i = 0; i < actual.payload.size(); ++i) {
        // A probe below the stream's first byte carries none of it.
        const std::uint32_t at = place + static_cast<std::uint32_t>(i);
        if (static_cast<std::int32_t>(at) >= 0 && actual.payload[i] != stream_byte(at))
            return "payload byte " + std::to_string(i) + " is not what was written at that place";
    }
    if ((actual.flags & (tcp::flag::fin | tcp::flag::rst)) != 0) over_ = true;
    return {};
}

std::string Flow::compare_options(const TcpOptions& expected_options,
                                  const TcpOptions& actual_options) {
    const TcpOptions expected = without_padding(expected_options);
    const TcpOptions actual = without_padding(actual_options);
    if (expected.size() != actual.size())
        return "live packet TCP options: expected: <" + describe(expected) + "> vs actual: <" +
               describe(actual) + ">";
    for (std::size_t i = 0; i < expected.size(); ++i) {
        std::string difference;
        if (expected[i].kind == TcpOption::Kind::timestamps &&
            actual[i].kind == TcpOption::Kind::timestamps)
            difference = compare_timestamps(expected[i], actual[i]);
        else if (!(expected[i] == actual[i]))
            difference = "bad value outbound TCP option " + std::to_string(i + 1) +
                         ": expected: <" + describe(expected) + "> vs actual: <" +
                         describe(actual) + ">";
        if (!difference.empty()) return difference;
    }
    return {};
}

std::string Flow::compare_timestamps(const TcpOption& expected, const TcpOption& actual) {
    if (!expected.any_echo && expected.echo != actual.echo)
        return different("tcp_ts_ecr", expected.echo, actual.echo);
    if (expected.any_value) return {};
    if (timestamp_tick_ != base::Duration{} && !timestamps_.empty()) {
        const auto& [first_script, first_live] = *timestamps_.begin();
        const auto wanted = static_cast<std::int32_t>(expected.value - first_script);
        const auto shown = static_cast<std::int32_t>(actual.value - first_live);
        // As many ticks as fit the tolerance of the times themselves.
        const auto slack = std::chrono::milliseconds{4} / timestamp_tick_ + std::abs(wanted) / 8;
        if (std::abs(wanted - shown) > slack)
            return different("tcp_ts_val", expected.value,
                             first_script + static_cast<std::uint32_t>(shown));
    }
    timestamps_[expected.value] = actual.value;
    return {};
}

} // namespace tests::packetdrill
