// pool_layout.h: where in a pool what every reader of it must find stands, whatever else the format says.
//
// Values only; docs/spool-format.md has the whole. The superblocks' content is codec.h's.
#pragma once

#include "queue/disk/disk.h"

#include <array>
#include <cstddef>
#include <cstdint>

namespace queue {

using PoolId = std::array<std::byte, 16>;

inline constexpr std::size_t superblock_copies = 4;
inline constexpr std::uint64_t superblock_area_bytes = 64U << 10; // slot 0 begins behind it

} // namespace queue
