// flow.h: one connection between a script's numbers and the wire's.
//
// Scope      Script sequence numbers of the stack's side count from its initial one; the peer's are the
//            wire's own. TSvals that the stack sent are known by the number that the script gave them.
//            Payload bytes are made from their place in the stream, both ways, and compared.
// Owns       The addresses, the initial sequence numbers, the timestamps seen.
// Threading  None.
// Failure    to_wire() says what cannot be mapped; compare() says the first difference.
#pragma once

#include "tests/dataplane/net/packetdrill/wire.h"

#include <map>

namespace tests::packetdrill {

/// The byte at a place of a stream; the period is long enough for no shift to go unseen.
[[nodiscard]] std::byte stream_byte(std::uint32_t place) noexcept;

class Flow {
public:
    /// \param timestamp_tick  zero: what TSvals the stack sends is not compared
    Flow(base::SocketAddress local, base::SocketAddress remote, base::Duration timestamp_tick)
        : local_(local), remote_(remote), timestamp_tick_(timestamp_tick) {}

    [[nodiscard]] bool owns(const WireSegment& outbound) const {
        return outbound.source == local_ && outbound.destination == remote_;
    }
    /// An inbound segment; nullopt and a reason when a number in it is not known yet.
    [[nodiscard]] std::optional<WireSegment> to_wire(const TcpPacket& packet, std::string& problem);
    [[nodiscard]] WireError to_wire(const IcmpPacket& packet) const;
    /// What is different, in a line; empty when nothing is. Learns from what it sees.
    [[nodiscard]] std::string compare(const TcpPacket& expected, const WireSegment& actual);
    /// An outbound segment in the script's numbers, for showing.
    [[nodiscard]] TcpPacket to_script(const WireSegment& segment, bool with_ecn) const;

private:
    [[nodiscard]] std::string learn_and_compare_seq(const TcpPacket& expected,
                                                    const WireSegment& actual);
    [[nodiscard]] std::string compare_options(const TcpOptions& expected, const TcpOptions& actual);
    [[nodiscard]] std::string compare_timestamps(const TcpOption& expected,
                                                 const TcpOption& actual);
    [[nodiscard]] std::uint32_t live_timestamp(std::uint32_t script) const;

    base::SocketAddress local_;
    base::SocketAddress remote_;
    base::Duration timestamp_tick_;
    std::optional<std::uint32_t> local_offset_; // wire less script
    std::uint32_t local_first_ = 0;             // our SYN's number in the script
    std::optional<std::uint32_t> remote_first_; // the peer's SYN's
    std::uint32_t last_sent_seq_ = 0;           // on the wire
    bool over_ = false;                         // a FIN or RST was seen: a new SYN begins anew
    std::map<std::uint32_t, std::uint32_t> timestamps_; // script TSval to the wire's
};

} // namespace tests::packetdrill
