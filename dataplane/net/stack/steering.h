// steering.h: several shards on one port whose device does not spread flows itself.
//
// Scope      Shard 0 reads the port. Each TCP segment, and each ICMP error about one, goes to the shard that
//            Placement's hash names; the others pick their source ports by the same hash. Answers about
//            neighbours go to everybody, and fragments of TCP: each shard puts them together and keeps what is
//            its own. The rest (questions about neighbours, echo) is shard 0's. What the others send goes back
//            through shard 0. Nobody is woken: a shard looks into its rings as often as it would look at a
//            port, so a frame waits for one nap of each of the two shards at most (driver.h).
// Owns       The rings between shards, with copies of frames in them: nothing of a shard is shared.
// Threading  port(0) belongs to shard 0, port(i) to shard i; between them are only SPSC rings.
// Failure    A full ring drops the frame and counts it; TCP sends it again. A frame longer than
//            steered_frame_bytes_max too.
#pragma once

#include "dataplane/net/port/port.h"
#include "dataplane/net/stack/frame_lane.h"

#include <memory>
#include <vector>

namespace dataplane::net::stack {

inline constexpr std::uint16_t steered_mtu_max = steered_frame_bytes_max - 18; // Ethernet and a tag
inline constexpr std::size_t steering_ring_frames = 1024; // 2 MiB each way for each shard
inline constexpr std::size_t steering_control_frames =
    64; // of those, for frames without payload only

class Steering {
public:
    /// \param port  must outlive this; its info().mtu is steered_mtu_max at most
    Steering(Port& port, unsigned shard_count);
    ~Steering();

    /// The port that shard i's Stack is given, with StackOptions::shard_count and shard set accordingly.
    [[nodiscard]] Port& port(unsigned shard) noexcept;
    [[nodiscard]] const SteeringCounters& counters() const noexcept; // shard 0

private:
    class HubPort;
    class SpokePort;
    struct Lane;
    std::vector<std::unique_ptr<Lane>> lanes_; // for shards 1 and up
    std::unique_ptr<HubPort> hub_;
    std::vector<std::unique_ptr<SpokePort>> spokes_;
};

} // namespace dataplane::net::stack
