// frame_cut.h: one large TCP frame into several of the wire's size, as a NIC with TSO does.
//
// Scope      The headers of each piece: sequence number, FIN and PSH on the last only, CWR on the first
//            only (RFC 3168 §6.1.2), IPv4 id counted up, lengths. IPv4 and IPv6. Payload is not
//            touched, only divided. Checksums are checksum.h's.
// Owns       Nothing; slices are borrowed from the TransmitFrame.
// Threading  None.
#pragma once

#include "dataplane/net/port/port.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dataplane::net {

/// A frame as it goes on the wire.
struct WireFrame {
    std::array<std::byte, frame_header_bytes_max> header;
    std::size_t header_bytes = 0;
    std::array<FrameSlice, frame_slices_max> slices;
    std::size_t slice_count = 0;
    std::uint32_t payload_bytes = 0;

    [[nodiscard]] std::span<std::byte> head() noexcept { return {header.data(), header_bytes}; }
    [[nodiscard]] std::span<const FrameSlice> payload() const noexcept {
        return {slices.data(), slice_count};
    }
    [[nodiscard]] std::size_t size_bytes() const noexcept { return header_bytes + payload_bytes; }
    /// Writes the frame in one piece; `out` holds size_bytes() at least.
    void copy_to(std::span<std::byte> out) const noexcept;
};

[[nodiscard]] std::uint32_t payload_bytes(const TransmitFrame& frame) noexcept;
/// How many frames it makes on the wire: 1 when nothing is to be cut.
[[nodiscard]] std::size_t wire_frame_count(const TransmitFrame& frame) noexcept;

class FrameCutter {
public:
    /// The frame is borrowed until the last next().
    explicit FrameCutter(const TransmitFrame& frame) noexcept;

    /// Gives the next piece without checksums; false after the last.
    [[nodiscard]] bool next(WireFrame& out) noexcept;

private:
    const TransmitFrame* frame_;
    std::uint32_t left_bytes_;
    std::uint32_t sent_bytes_ = 0;
    bool cut_;
    bool done_ = false;
    std::size_t slice_ = 0;
    std::uint32_t slice_used_ = 0;
};

} // namespace dataplane::net
