// limits.h: every bound of the stack that is not an option, with its reason.
//
// Scope      Values. What can be set is in stack.h (StackOptions), with these as defaults.
#pragma once

#include "dataplane/base/clock.h"

#include <cstddef>
#include <cstdint>

namespace dataplane::net::stack {

namespace base = dataplane::base;

// Frames worked off by one poll(): one burst, whose answers leave before the next one is looked at. Of more at a
// time the peer waits for the whole turn: 256 cost a fifth of the rate, requests and bulk alike. The rest waits in
// the device's ring, which is what it is for.
inline constexpr std::size_t frames_per_poll_max = 64;
// Frames put out by one turn over all connections, and by one connection before others get their turn.
inline constexpr unsigned segments_per_turn_max = 512;
inline constexpr unsigned segments_per_connection_max = 16;
// Payload of one segment handed to the port, which cuts it (TSO or in software): within IP's 65,535 with
// all headers, and so that slabs of 4 KiB stay within a frame's slices.
inline constexpr std::uint32_t segment_payload_max = 60'000;
// The port is asked again how much it takes when less than this is left of its last answer.
inline constexpr std::size_t send_room_asked_below = 128;
// Connections that a device without room refuses in one turn, before the others are left for the next.
inline constexpr unsigned refusals_per_turn_max = 32;
// Slabs that one segment's payload is collected from. Beyond a frame's slices it is copied into one slab.
inline constexpr std::size_t payload_slices_max = 64;
// Connections whose timers run in one turn; the rest a turn later (a million may be due at once, and each
// is a miss of every cache: some 2 us).
inline constexpr unsigned timers_per_turn_max = 256;
// TIME_WAIT records that expire in one turn.
inline constexpr unsigned expiries_per_turn_max = 1024;

// Answers to segments that belong to nothing: enough for honest mistakes, little for a flood.
inline constexpr std::uint32_t resets_per_second = 1000;
// How long after the last SYN cookie an ACK is looked at as the answer to one: the codec's own limit.
inline constexpr base::Duration cookie_life = std::chrono::seconds{128};
// How soon a device that took nothing is asked again when nothing else happens.
inline constexpr base::Duration stalled_retry = std::chrono::milliseconds{1};

// How long a closed stream's staged bytes may take to leave, with the wait for the peer's FIN behind them
// (as net/kernel: without that wait the peer's last bytes would be answered with a reset, which may take
// our last reply away from the peer).
inline constexpr base::Duration close_limit = std::chrono::seconds{5};
// What is still read and dropped in that time.
inline constexpr std::uint32_t linger_bytes_max = 256U * 1024;
// A connection that was closed with something unread ends with a reset. Its last reply leaves first, and then the
// peer gets this long to fall silent: most hosts give their application what came before a reset, but many an
// application that is still writing sees the reset first.
inline constexpr base::Duration reset_silence = std::chrono::milliseconds{500};
// Connections that their owners have closed and that TCP still ends. Beyond, the oldest is reset, as with
// Linux's tcp_max_orphans: they hold memory, and nobody above limits them.
inline constexpr std::size_t orphans_max = 65'536;
// Answers to segments of no connection that wait for a next hop's address: one for each next hop (RFC 1122
// §2.3.2.2), and this many in all.
inline constexpr std::size_t held_answers_max = 256;
// A PROXY header comes from a balancer next door and is its first packet.
inline constexpr base::Duration proxy_limit = std::chrono::seconds{5};

// Connections allocated together.
inline constexpr std::uint32_t connections_per_chunk = 128;

} // namespace dataplane::net::stack
