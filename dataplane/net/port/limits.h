// limits.h: every bound of the ports, with its reason.
//
// Scope      Defaults of the options and what is not worth an option.
#pragma once

#include "dataplane/base/clock.h"

#include <cstddef>
#include <cstdint>

namespace dataplane::net {

namespace base = dataplane::base;

// Frames staged before they are handed to the device without a flush(): as many as one burst of
// receiving answers, and far below memif's 255 (its 22.11 driver crashes beyond).
inline constexpr std::size_t transmit_burst_max = 64;
// Frames that wait for a device that takes none, a power of two: 1.4 ms of 10 Gbit/s in full
// frames. More would only be latency.
inline constexpr std::size_t transmit_wait_max = 1024;
// The part of it that only control frames may use: one burst's worth of ACKs and resets.
inline constexpr std::size_t transmit_wait_control = 128;
// Mbufs that only control frames may use when the transmit pool is empty (tcp.md §5.2).
inline constexpr std::uint32_t control_reserve_min = 512;
// Below this a payload is copied behind its header: a second mbuf with its reference and its free
// callback costs more than moving sixteen cache lines (3 % of a request of 600 bytes over memif).
inline constexpr std::size_t copy_bytes_max = 1024;
// Memory areas a device may be told of: a shard has two slab pools, a process few shards.
inline constexpr std::size_t memory_areas_max = 64;
// A frame's payload when the device cuts it: an IP length field holds 65,535, headers off.
inline constexpr std::uint32_t cut_payload_bytes_max = 65'535 - 128;
// Received frames whose checksum verdict is compared with our own, at start, per queue.
inline constexpr std::uint32_t verdict_checks = 256;
// How many turns between two looks at the device's own counters: they may cost a mailbox exchange.
inline constexpr std::uint32_t device_counter_turns = 1U << 16;
// IPv6 extension headers walked: more is nobody's honest packet.
inline constexpr unsigned extension_headers_max = 8;

// The impairment layer's frames in flight over one direction: 100 ms of 1 Gbit/s in full frames.
inline constexpr std::uint32_t impaired_frames = 8192;
// Rules tried on each frame, in order.
inline constexpr std::size_t impairment_rules_max = 64;

// A capture that nobody stops ends here.
inline constexpr std::size_t capture_bytes_max = std::size_t{64} << 20;
inline constexpr base::Duration capture_time_max = std::chrono::minutes{10};

} // namespace dataplane::net
