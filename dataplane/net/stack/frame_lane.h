// frame_lane.h: received frames on their way from one shard to another.
//
// Scope      What kind of frame it is, as far as its way depends on that; a ring that holds copies; the
//            reading end, which looks like a port's. Who is sent what is steering.h's and rss_guard.h's.
// Owns       The copies.
// Threading  FrameLane: one shard puts, one other takes. LaneReader: the taking shard's.
// Failure    A full ring and a frame that is too long are told, and nothing is kept of the frame.
#pragma once

#include "dataplane/base/spsc_ring.h"
#include "dataplane/net/port/port.h"
#include "dataplane/net/stack/flow_key.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace dataplane::net::stack {

inline constexpr std::size_t steered_frame_bytes_max = 2048; // an MTU of 1500 with a tag, and room

struct FrameKind {
    enum class Is : std::uint8_t {
        segment,          // of `flow`
        error,            // ICMP about a segment of ours of `flow`
        fragment,         // of TCP: whose it is shows when it has been put together
        neighbour_answer, // ARP reply, Neighbour Advertisement
        other,
    };
    Is is = Is::other;
    FlowKey flow;
};
[[nodiscard]] FrameKind kind_of(std::span<const std::byte> frame) noexcept;
/// Whether kind_of() would say `segment`, from a few bytes; may say no of what has a tag or extension
/// headers.
[[nodiscard]] bool is_plain_segment(std::span<const std::byte> frame, bool& v6) noexcept;

/// What goes from shard to shard. Each is written by the shard that hands over.
struct SteeringCounters {
    std::uint64_t forwarded = 0;    // to other shards
    std::uint64_t dropped_full = 0; // their ring was
    std::uint64_t dropped_long = 0;
    std::uint64_t sent_for_others = 0;
    std::uint64_t sent_later = 0; // the port took no more: kept for the next turn
};

class FrameLane {
public:
    explicit FrameLane(std::size_t frames) : ring_(frames) {}
    void put(const ReceivedFrame& frame, SteeringCounters& counters) noexcept;

private:
    friend class LaneReader;
    struct Slot {
        std::uint32_t bytes = 0;
        ChecksumState ip_checksum = ChecksumState::unknown;
        ChecksumState l4_checksum = ChecksumState::unknown;
        std::array<std::byte, steered_frame_bytes_max> frame;
    };
    base::SpscRing<Slot> ring_;
};

class LaneReader {
public:
    explicit LaneReader(std::vector<FrameLane*> lanes);

    /// As Port::receive(): what lies in the lanes, one after the other.
    [[nodiscard]] std::size_t receive(std::span<ReceivedFrame> frames) noexcept;
    /// Takes back a frame that receive() gave; false for any other.
    bool release(const ReceivedFrame& frame) noexcept;

private:
    using Buffer = std::array<std::byte, steered_frame_bytes_max>;
    std::vector<FrameLane*> lanes_;
    std::vector<Buffer> buffers_; // a frame's ring slot is free again before its reader is done
    std::vector<std::size_t> free_;
};

} // namespace dataplane::net::stack
