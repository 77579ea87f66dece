// steering.h: several shards on one port whose device does not spread flows itself; and what all shards of a
// port tell each other about neighbours.
//
// Scope      Shard 0 reads the port. Each TCP segment, and each ICMP error about one, goes to the shard that
//            Placement's hash names; the others pick their source ports by the same hash. Answers about
//            neighbours go to everybody. The rest (questions about neighbours, echo, fragments) is shard 0's.
//            What the others send goes back through shard 0.
// Owns       The rings between shards, with copies of frames in them: nothing of a shard is shared.
// Threading  port(0) belongs to shard 0, port(i) to shard i; between them are only SPSC rings.
// Failure    A full ring drops the frame and counts it; TCP sends it again. A frame longer than
//            steered_frame_bytes_max too.
#pragma once

#include "dataplane/base/mailbox.h"
#include "dataplane/base/spsc_ring.h"
#include "dataplane/net/port/port.h"
#include "dataplane/net/stack/port_allocator.h"
#include "dataplane/net/stack/stack.h"

#include <memory>
#include <vector>

namespace dataplane::net::stack {

inline constexpr std::size_t steered_frame_bytes_max = 2048; // an MTU of 1500 with a tag, and room
inline constexpr std::size_t steering_ring_frames = 1024;    // 2 MiB each way for each shard
inline constexpr std::size_t steering_control_frames =
    64; // of those, for frames without payload only

struct SteeringCounters {           // shard 0's
    std::uint64_t forwarded = 0;    // to other shards
    std::uint64_t dropped_full = 0; // their ring was
    std::uint64_t dropped_long = 0;
    std::uint64_t sent_for_others = 0;
    std::uint64_t sent_later = 0; // the port took no more: kept for the next turn
};

class Steering {
public:
    /// \param port  must outlive this; its info().mtu fits a steered frame
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

/// Tells every shard what one of them has heard about neighbours: where the device spreads by RSS, an answer
/// reaches one queue only.
class NeighbourExchange {
public:
    explicit NeighbourExchange(unsigned shard_count, std::size_t ring_entries = 1024);
    ~NeighbourExchange();

    /// From shard i's thread, or before it runs.
    void attach(unsigned shard, Stack& stack);
    /// What others have heard for shard i: its Uring drains it (Uring::add_inbox), or a test.
    [[nodiscard]] base::Inbox& inbox(unsigned shard) noexcept;

private:
    struct News {
        base::IpAddress ip;
        MacAddress mac{};
    };
    class Box;
    std::vector<std::unique_ptr<base::SpscRing<News>>> rings_;
    std::vector<std::unique_ptr<Box>> boxes_;
};

} // namespace dataplane::net::stack
