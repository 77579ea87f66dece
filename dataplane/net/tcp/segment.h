// segment.h: TCP segments as values, read from the wire and written to it.
//
// Scope      The header and the options of RFC 9293 §3.1, 7323 and 2018. Checksums are the port's
//            and the IP layer's business; what a segment means is connection.h's.
// Owns       Nothing: a payload is a view of the frame it came in.
// Threading  None; values.
// Failure    A header that contradicts itself is refused whole (ParseError). Options that are
//            unknown are skipped; one that is malformed ends the list, what came before counts.
#pragma once

#include "dataplane/net/tcp/seq.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <span>

namespace dataplane::net::tcp {

inline constexpr std::size_t header_bytes_min = 20;
inline constexpr std::size_t header_bytes_max = 60;
inline constexpr std::size_t sack_blocks_max = 4;

namespace flag {
inline constexpr std::uint8_t fin = 0x01, syn = 0x02, rst = 0x04, psh = 0x08, ack = 0x10,
                              urg = 0x20, ece = 0x40, cwr = 0x80;
} // namespace flag

/// The IP header's ECN field (RFC 3168 §5).
enum class Ecn : std::uint8_t { not_ect = 0, ect1 = 1, ect0 = 2, ce = 3 };

struct SackBlock {
    Seq begin;
    Seq end; // first byte behind it
    friend bool operator==(const SackBlock&, const SackBlock&) = default;
};

struct Timestamps {
    std::uint32_t value = 0;
    std::uint32_t echo = 0;
};

struct Options {
    std::optional<std::uint16_t> mss;
    std::optional<std::uint8_t> window_scale; // as it came; above 14 counts as 14 (RFC 7323 §2.3)
    bool sack_permitted = false;
    std::optional<Timestamps> timestamps;
    std::array<SackBlock, sack_blocks_max> sack{};
    std::uint8_t sack_count = 0;
};

struct Segment {
    std::uint16_t source_port = 0;
    std::uint16_t destination_port = 0;
    Seq seq;
    Seq ack;                  // counts only with flag::ack
    std::uint16_t window = 0; // as on the wire, not scaled
    std::uint8_t flags = 0;
    Ecn ecn = Ecn::not_ect;
    Options options;
    std::span<const std::byte> payload;

    [[nodiscard]] bool has(std::uint8_t flags_wanted) const noexcept {
        return (flags & flags_wanted) != 0;
    }
    /// SEG.LEN: payload, SYN and FIN.
    [[nodiscard]] std::uint32_t sequence_length() const noexcept {
        return static_cast<std::uint32_t>(payload.size()) + (has(flag::syn) ? 1U : 0U) +
               (has(flag::fin) ? 1U : 0U);
    }
};

enum class ParseError : std::uint8_t { truncated, bad_data_offset };

/// \param bytes  from the TCP header to the end of the datagram's payload, padding already cut off
[[nodiscard]] std::expected<Segment, ParseError> parse(std::span<const std::byte> bytes) noexcept;

/// What to write: everything of a Segment but the payload.
struct Header {
    std::uint16_t source_port = 0;
    std::uint16_t destination_port = 0;
    Seq seq;
    Seq ack;
    std::uint16_t window = 0;
    std::uint8_t flags = 0;
    Options options;
};

/// Bytes that `options` take, padding included. Their order and padding on the wire are Linux's:
/// SYN: mss, sackOK, TS, nop, wscale; without TS: mss, nop, nop, sackOK, nop, wscale; else nop, nop, TS
/// and nop, nop, SACK. SACK blocks that do not fit are left out.
[[nodiscard]] std::size_t encoded_options_bytes(const Options& options, bool syn) noexcept;
/// Writes the header with a zero checksum; returns its length, a multiple of 4.
std::size_t encode(std::span<std::byte, header_bytes_max> to, const Header& header) noexcept;

} // namespace dataplane::net::tcp
