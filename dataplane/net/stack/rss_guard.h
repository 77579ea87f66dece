// rss_guard.h: several shards on one port whose device spreads flows by RSS: each has a queue of its own.
//
// Scope      Holds the device to what it says of its hash. Of each queue and address family, the shard sees
//            for the first rss_proofs segments whether our own hash would have brought them to it too; then it
//            believes the device. One that errs is never believed: that queue's segments are looked at for
//            good, and those of other shards handed over, so that a wrong hash costs time and no connection.
//            What a device cannot place is always handed over: ICMP errors go to the flow they are about, and
//            fragments to everybody. Questions about neighbours and echo are answered by whoever gets them.
// Owns       The rings between shards, with copies of frames in them.
// Threading  port(i) belongs to shard i; between them are only SPSC rings.
// Failure    A full ring drops the frame and counts it; TCP sends it again. A frame longer than
//            steered_frame_bytes_max too.
#pragma once

#include "dataplane/net/stack/frame_lane.h"

#include <memory>
#include <span>
#include <vector>

namespace dataplane::net::stack {

inline constexpr std::uint32_t rss_proofs = 256;
inline constexpr std::size_t stray_ring_frames = 128; // 256 KiB for each pair of shards

class RssGuard {
public:
    /// \param queues  one for each shard, each with rss_layout(); they outlive this
    explicit RssGuard(std::span<Port* const> queues);
    ~RssGuard();

    /// The port that shard i's Stack is given.
    [[nodiscard]] Port& port(unsigned shard) noexcept;
    [[nodiscard]] const SteeringCounters& counters(unsigned shard) const noexcept; // shard i's
    /// Whether the device has proved its hash at shard i, for IPv4 or IPv6; shard i's.
    [[nodiscard]] bool proved(unsigned shard, bool v6) const noexcept;

private:
    class QueuePort;
    std::vector<std::unique_ptr<FrameLane>> lanes_; // from * count + to; null to itself
    std::vector<std::unique_ptr<QueuePort>> ports_;
};

} // namespace dataplane::net::stack
