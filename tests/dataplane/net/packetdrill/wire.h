// wire.h: raw IP packets, made and taken apart by the tests themselves, apart from the product's code.
//
// Scope      IPv4 and IPv6 with TCP, and ICMP errors towards the stack. It keeps the order and the
//            padding of TCP options, which tcp::Options does not.
// Owns       Copies of the bytes.
// Threading  None.
// Failure    What cannot be taken apart gives nullopt; a wrong checksum counts as that.
#pragma once

#include "dataplane/base/address.h"
#include "tests/dataplane/net/packetdrill/script.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace tests::packetdrill {

using Bytes = std::vector<std::byte>;

/// Ones' complement sum over pieces (RFC 1071); pieces but the last have an even length.
class Checksum {
public:
    void add(std::span<const std::byte> bytes) noexcept;
    void add(std::uint32_t value) noexcept { sum_ += value; } // two 16-bit halves, or one
    [[nodiscard]] std::uint16_t finish() const noexcept;      // in host order

private:
    std::uint64_t sum_ = 0;
};
/// Of a TCP or ICMPv6 message whose own checksum field is zero (or right: then the result is 0).
[[nodiscard]] std::uint16_t transport_checksum(const base::IpAddress& source,
                                               const base::IpAddress& destination,
                                               std::uint8_t protocol,
                                               std::span<const std::byte> message) noexcept;

void put16(std::byte* to, std::uint16_t value) noexcept;
void put32(std::byte* to, std::uint32_t value) noexcept;
[[nodiscard]] std::uint16_t get16(const std::byte* from) noexcept;
[[nodiscard]] std::uint32_t get32(const std::byte* from) noexcept;

/// A TCP segment with the numbers that it has on the wire.
struct WireSegment {
    base::SocketAddress source;
    base::SocketAddress destination;
    std::uint8_t ecn = 0; // tcp::Ecn
    std::uint8_t flags = 0;
    std::uint32_t seq = 0;
    std::uint32_t ack = 0;
    std::uint16_t window = 0;
    std::uint16_t urgent = 0;
    TcpOptions options;
    Bytes payload;
};

[[nodiscard]] Bytes encode(const WireSegment& segment);
[[nodiscard]] std::optional<WireSegment> decode(std::span<const std::byte> packet);

/// What an ICMP error quotes: the beginning of a segment that its destination had been sent.
struct WireError {
    base::IpAddress source;            // a router, or the peer
    base::SocketAddress quoted_source; // the stack's side, which the error goes to
    base::SocketAddress quoted_destination;
    std::uint8_t type = 0;
    std::uint8_t code = 0;
    std::uint32_t mtu = 0;
    std::uint32_t quoted_seq = 0;
    std::uint16_t quoted_payload_bytes = 0;
};
[[nodiscard]] Bytes encode(const WireError& error);

/// The options as they go into a header, padded with zeros to a multiple of four.
[[nodiscard]] Bytes encode_options(const TcpOptions& options);
[[nodiscard]] std::optional<TcpOptions> decode_options(std::span<const std::byte> bytes);

// --- in packetdrill's words
[[nodiscard]] std::string describe(const TcpOptions& options);
[[nodiscard]] std::string describe(const TcpPacket& packet);
[[nodiscard]] std::string describe(base::Duration since_start); // "0.200000"

} // namespace tests::packetdrill
