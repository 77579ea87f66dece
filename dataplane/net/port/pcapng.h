// pcapng.h: captured frames in the format that Wireshark reads, into memory, up to a bound.
//
// Scope      Section header, interface descriptions, enhanced packets with nanosecond times, direction
//            and comment (draft-ietf-opsawg-pcapng). Writing the bytes to a file is the caller's, on a
//            thread that may wait.
// Owns       The bytes, reserved at construction: nothing is allocated per packet.
// Threading  One thread.
// Failure    A packet that does not fit any more is left out, and counted.
#pragma once

#include "dataplane/net/port/port.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace dataplane::net {

enum class Direction : std::uint8_t { unknown, in, out };

class PcapngWriter {
public:
    /// \param bytes_max  of everything written; room for the section header at least
    /// \param first_interface  other than 0 for packets that go into a file of somebody else's
    explicit PcapngWriter(std::size_t bytes_max, std::uint32_t first_interface = 0);

    /// Describes an Ethernet interface and returns its number.
    std::uint32_t add_interface(std::string_view name, const MacAddress& mac,
                                std::uint32_t snap_bytes = 0);
    /// \param time_ns   since 1970
    /// \param original_bytes  on the wire, when `frame` is only its beginning; 0: all of it
    bool add_packet(std::uint32_t interface, std::int64_t time_ns, std::span<const std::byte> frame,
                    Direction direction = Direction::unknown, std::uint32_t original_bytes = 0,
                    std::string_view comment = {});

    /// Valid until the next call.
    [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return bytes_; }
    [[nodiscard]] std::vector<std::byte> take() noexcept { return std::move(bytes_); }
    /// The next packet blocks that were not handed out yet, at least one if there is any, no more once
    /// bytes_max are reached. Valid until the next call.
    [[nodiscard]] std::span<const std::byte> next_packets(std::size_t bytes_max) noexcept;
    [[nodiscard]] std::uint64_t packet_count() const noexcept { return packets_; }
    [[nodiscard]] std::uint64_t left_out() const noexcept { return left_out_; }
    [[nodiscard]] bool full() const noexcept { return left_out_ > 0; }

private:
    void put32(std::uint32_t value);
    void put_padded(std::span<const std::byte> bytes);
    void put_option(std::uint16_t code, std::span<const std::byte> value);
    std::size_t begin_block(std::uint32_t type);
    void end_block(std::size_t began_at);

    std::size_t bytes_max_;
    std::vector<std::byte> bytes_;
    std::uint32_t interfaces_;
    std::size_t handed_out_ = 0; // bytes; what is not a packet counts as such
    std::uint64_t packets_ = 0;
    std::uint64_t left_out_ = 0;
};

} // namespace dataplane::net
