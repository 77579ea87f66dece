// limits.h: every bound and fixed time of the IP layer that is not an option, with its reason.
#pragma once

#include "dataplane/base/clock.h"

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace dataplane::net::ip {

inline constexpr std::uint8_t hop_limit_sent = 64; // RFC 1122 §3.2.1.7, Linux's
inline constexpr std::uint16_t ipv4_path_mtu_min =
    576; // every host takes that much (RFC 1122 §3.3.2)
inline constexpr std::uint16_t ipv6_path_mtu_min = 1280; // RFC 8200 §5

// Neighbours. RFC 4861 §10 and RFC 1122 §2.3.2.1 agree on three tries a second apart.
inline constexpr base::Duration neighbour_ask_interval = std::chrono::seconds{1};
inline constexpr unsigned neighbour_asks = 3;
// A neighbour that stops answering is asked by unicast first, then by broadcast: it may have got
// another MAC. Frames go to the old one meanwhile.
inline constexpr unsigned neighbour_probes = 2 * neighbour_asks;
// How long a next hop that did not answer counts as unreachable: a failing connect is quick, and a
// router that reboots is found soon after it is back.
inline constexpr base::Duration neighbour_hold = std::chrono::seconds{3};
// An entry used by send() within this time is not evicted for one that send() wants ...
inline constexpr base::Duration neighbour_kept_for_use = std::chrono::seconds{30};
// ... and within this time, not for what somebody told us without being asked.
inline constexpr base::Duration neighbour_kept_for_hearsay = std::chrono::minutes{10};
// Entries looked at for one that may go; the search goes on from there the next time.
inline constexpr unsigned neighbour_evict_steps = 128;
inline constexpr base::Duration neighbour_tick = std::chrono::milliseconds{10};

inline constexpr base::Duration path_mtu_lifetime = std::chrono::minutes{10}; // RFC 8201 §4

// Reassembly. Mail peers do path MTU discovery, so fragments are rare and mostly hostile.
inline constexpr base::Duration reassembly_limit = std::chrono::seconds{30}; // Linux; RFC 8200: 60
inline constexpr std::size_t reassembly_bytes_max = std::size_t{1} << 20;
inline constexpr unsigned fragments_per_datagram_max = 64; // 65,535 bytes in 1,280-byte packets: 53
// The least payload of a fragment that is not the last: a TCP header with all its options is in the
// first one then (RFC 1858), and no datagram needs more pieces than are allowed.
inline constexpr std::size_t fragment_bytes_min = 64;
inline constexpr std::size_t datagram_bytes_max = 65535;

inline constexpr unsigned extension_headers_max = 8;  // RFC 8200 §4.1 lists seven
inline constexpr unsigned extension_options_max = 16; // in one header
inline constexpr unsigned nd_options_max = 16;

// Echo replies, each second; a ping flood gets no more of the port than this.
inline constexpr unsigned echo_replies_per_second = 1000;
// Replies too long for a frame's header lie in slabs until they have left.
inline constexpr std::uint32_t echo_slab_bytes = 2048;
inline constexpr std::uint32_t echo_slabs = 32;

} // namespace dataplane::net::ip
