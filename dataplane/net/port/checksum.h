// checksum.h: the Internet checksum (RFC 1071), of whole frames and of their parts.
//
// Scope      Sums, pseudo-headers of IPv4 and IPv6, filling in and verifying. For ports without the
//            hardware, for the IP layer, and for a port's self-test of the hardware it has.
// Owns       Nothing.
// Threading  None; pure functions.
// Failure    Lengths that a frame's own headers contradict make a checksum count as bad; nothing
//            is read beyond the spans given.
#pragma once

#include "dataplane/net/port/port.h"

#include <cstddef>
#include <cstdint>
#include <span>

namespace dataplane::net {

/// Adds the 16-bit words of `bytes`, as they lie in memory, to `seed`; an odd last byte counts with
/// a zero behind it. The result is a partial sum, good as the next seed as long as every piece but
/// the last has an even length; ChecksumSum below has no such condition.
[[nodiscard]] std::uint32_t ones_sum(std::span<const std::byte> bytes,
                                     std::uint32_t seed = 0) noexcept;

/// A partial sum in 16 bits, not inverted. Zero only when all that was summed was zero.
[[nodiscard]] constexpr std::uint16_t fold(std::uint32_t sum) noexcept {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return static_cast<std::uint16_t>(sum);
}

/// A sum over pieces of any length, odd ones too.
class ChecksumSum {
public:
    explicit ChecksumSum(std::uint32_t seed = 0) noexcept : sum_(seed) {}
    void add(std::span<const std::byte> bytes) noexcept;
    [[nodiscard]] std::uint16_t folded() const noexcept { return fold(sum_); }
    /// As it goes into a header, to be copied there as it is.
    [[nodiscard]] std::uint16_t checksum() const noexcept {
        return static_cast<std::uint16_t>(~folded());
    }

private:
    std::uint32_t sum_;
    bool odd_ = false;
};

/// The pseudo-headers of RFC 9293 §3.1 and RFC 8200 §8.1, as seeds.
/// \param ip_header  begins at the IP header, 20 or 40 bytes at least; only the addresses are read
/// \param protocol   of the transport header: behind extension headers it is not the IP header's
/// \param l4_bytes   length of transport header and payload; 0 for a device that cuts (TSO)
[[nodiscard]] std::uint32_t pseudo_header_sum_v4(std::span<const std::byte> ip_header,
                                                 std::uint8_t protocol,
                                                 std::uint32_t l4_bytes) noexcept;
[[nodiscard]] std::uint32_t pseudo_header_sum_v6(std::span<const std::byte> ip_header,
                                                 std::uint8_t protocol,
                                                 std::uint32_t l4_bytes) noexcept;
/// By the version in the header's first half byte.
[[nodiscard]] std::uint32_t pseudo_header_sum(std::span<const std::byte> ip_header,
                                              std::uint8_t protocol,
                                              std::uint32_t l4_bytes) noexcept;

[[nodiscard]] std::uint8_t protocol_number(L4 protocol) noexcept; // 6, 17, 58; 0 for none
/// Where in the transport header the checksum lies.
[[nodiscard]] std::size_t checksum_offset(L4 protocol) noexcept;

/// \param ip_header  exactly the header, options included
void fill_ipv4_checksum(std::span<std::byte> ip_header) noexcept;

/// Fills in the transport checksum of one frame that is not cut any more. A UDP sum of zero is
/// written as 0xffff (RFC 768).
/// \param header   Ethernet up to the payload, as in TransmitFrame, but writable
/// \param payload  what follows; may be empty when `header` holds all
void fill_l4_checksum(std::span<std::byte> header, std::uint16_t l2_bytes, std::uint16_t l3_bytes,
                      L4 protocol, std::span<const FrameSlice> payload) noexcept;

/// Writes only the sum of the pseudo-header, not inverted, where the checksum goes: what a device
/// that sums the rest itself expects there.
/// \param l4_bytes  as above: 0 for TSO
void fill_pseudo_header_checksum(std::span<std::byte> header, std::uint16_t l2_bytes,
                                 std::uint16_t l3_bytes, L4 protocol,
                                 std::uint32_t l4_bytes) noexcept;

/// All that a frame asks for, into the writable copy of its header.
void fill_checksums(std::span<std::byte> header, const TransmitFrame& frame,
                    std::span<const FrameSlice> payload) noexcept;

/// \param ip_header  exactly the header, options included
[[nodiscard]] bool ipv4_checksum_good(std::span<const std::byte> ip_header) noexcept;
/// \param ip_header  20 or 40 bytes at least
/// \param l4         transport header and payload in one piece, padding cut off
[[nodiscard]] bool l4_checksum_good(std::span<const std::byte> ip_header, std::uint8_t protocol,
                                    std::span<const std::byte> l4) noexcept;

} // namespace dataplane::net
