// port.h: where frames come from and go to, for one shard: a NIC queue pair, or something that acts so.
//
// Scope      Bursts of Ethernet frames. A Port does what its hardware offers (checksums, TSO, RSS) and
//            the rest in software, so that what is above it need not care. No DPDK type is in here.
// Owns       Received frames, until they are released; frames to be sent, and a reference to every slab
//            whose bytes they carry, until the device is done with them.
// Threading  One shard.
// Failure    A frame that cannot be sent is refused with the reason, and nothing is kept of it. A
//            received frame whose checksum is wrong is marked, not dropped: the layer above counts it.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/base/slab.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace dataplane::net {

using MacAddress = std::array<std::uint8_t, 6>;

inline constexpr std::size_t frame_header_bytes_max =
    128; // Ethernet, VLAN, IPv6, TCP with options: 118
inline constexpr std::size_t frame_slices_max = 20;
inline constexpr std::size_t receive_burst_max = 64;

enum class ChecksumState : std::uint8_t { unknown, good, bad };

struct ReceivedFrame {
    std::span<std::byte> bytes; // from the Ethernet header on, in one piece; padding may follow
    std::uint32_t rss_hash = 0;
    bool has_rss_hash = false;
    ChecksumState ip_checksum = ChecksumState::unknown;
    ChecksumState l4_checksum = ChecksumState::unknown;
    void* handle = nullptr; // the port's
};

/// A run of bytes inside a slab, which must not change until the frame has left.
struct FrameSlice {
    base::Slab* slab = nullptr;
    std::uint32_t offset = 0;
    std::uint32_t bytes = 0;
};

enum class L4 : std::uint8_t { none, tcp, udp, icmp6 };

struct TransmitFrame {
    std::span<const std::byte>
        header; // Ethernet up to the payload; copied. All checksums are zero.
    std::span<const FrameSlice> payload;
    std::uint16_t l2_bytes = 14;
    std::uint16_t l3_bytes = 0;
    std::uint16_t l4_bytes = 0;
    bool ipv4_checksum = false;      // fill in the IPv4 header's
    L4 l4_checksum = L4::none;       // fill in this protocol's, pseudo-header included
    std::uint16_t segment_bytes = 0; // larger payloads are cut at this size (TCP only); 0: never
    bool control = false;            // may use the reserve: ACK, RST, FIN, ARP, ND
};

enum class SendResult : std::uint8_t {
    queued,
    no_buffers, // the pool is empty (or only the reserve is left)
    ring_full,  // the device takes no more for now
};

struct PortInfo {
    std::string name;   // "net_memif0"
    std::string driver; // "net_memif"
    MacAddress mac{};
    std::uint16_t mtu = 1500; // of IP
    bool tso = false;         // segment_bytes is done by the device; in software otherwise
    bool rss = false;         // frames come to the queue that rss_queue() says
    bool transmit_checksum = false;
    bool receive_checksum = false;
    bool multi_segment = false;
    std::uint16_t queue = 0;
    std::uint16_t queue_count = 1;
};

/// How the device spreads received frames over queues; for the port allocator.
struct RssLayout {
    std::span<const std::uint8_t> key;    // 40 or 52 bytes
    std::span<const std::uint16_t> table; // RETA: queue by hash & (size - 1)
};

struct PortCounters {
    std::uint64_t frames_in = 0, bytes_in = 0, frames_out = 0, bytes_out = 0;
    std::uint64_t no_buffers = 0, ring_full = 0, receive_missed = 0, receive_errors = 0;
    std::uint64_t slabs_held = 0; // references that the device has not given back yet
    std::uint64_t buffers_free = 0, buffers_total = 0;
    std::uint64_t transmit_errors =
        0; // frames the driver refused for good, and those beyond the MTU
    std::uint64_t payload_copied = 0; // large payloads that could not be read in place
};

class Port {
public:
    virtual ~Port() = default;
    [[nodiscard]] virtual const PortInfo& info() const noexcept = 0;
    [[nodiscard]] virtual std::optional<RssLayout> rss_layout() const noexcept {
        return std::nullopt;
    }
    /// Fills in up to frames.size() frames that have come, and returns how many. Each stays valid
    /// until release().
    [[nodiscard]] virtual std::size_t receive(std::span<ReceivedFrame> frames) noexcept = 0;
    virtual void release(std::span<const ReceivedFrame> frames) noexcept = 0;
    /// Stages one frame. It leaves with flush(), or before when the burst is full.
    [[nodiscard]] virtual SendResult send(const TransmitFrame& frame) noexcept = 0;
    /// How many full-sized data frames send() would take now without refusing; for asking before
    /// building. Control frames have room beyond it.
    [[nodiscard]] virtual std::size_t send_room() const noexcept = 0;
    virtual void flush() noexcept = 0;
    [[nodiscard]] virtual const PortCounters& counters() const noexcept = 0;

    /// Lets the device read slabs of this arena in place, where that needs to be told. False when it will
    /// not: then payload from there is copied. The arena stays until settle().
    virtual bool register_memory(std::span<std::byte> /*arena*/) noexcept { return true; }
    /// For the end: gets back every slab, from a device that is slow with it by stopping its sending.
    /// False when some are still out.
    [[nodiscard]] virtual bool settle() noexcept {
        flush();
        return counters().slabs_held == 0;
    }
};

} // namespace dataplane::net
