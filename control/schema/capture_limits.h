// capture_limits.h: how large and how long a capture of our own TCP/IP may be, for whoever refuses more.
//
// Scope      Values. The data plane's port has the same (dataplane/net/port/limits.h); shard_net.cc holds the
//            two together.
#pragma once

#include <cstdint>

namespace control::schema {

inline constexpr std::uint64_t capture_bytes_min = 4096;
inline constexpr std::uint64_t capture_bytes_max = std::uint64_t{64} << 20;
inline constexpr std::uint32_t capture_seconds_max = 600;

} // namespace control::schema
