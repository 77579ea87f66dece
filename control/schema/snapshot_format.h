// snapshot_format.h: the policy snapshot as a file: a fixed header, then one FlatBuffer
// (policy.fbs).
//
// Scope      The header's layout, and the SHA-256 that covers header and payload. control writes
//            such files (policy_compiler.h), the data plane reads them
//            (dataplane/policy/snapshot.h).
// Threading  Values only.
// Failure    None here; a reader compares each field before it believes the next.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace control::schema {

static_assert(std::endian::native == std::endian::little,
              "snapshots are written and read in place");

inline constexpr std::array<char, 8> snapshot_magic{'M', 'R', 'P', 'O', 'L', 'I', 'C', 'Y'};
/// Raised when an older reader would misunderstand the payload; any other version is refused.
inline constexpr std::uint32_t snapshot_format_version = 1;
/// 100,000 accounts take about 20 MB; screening databases of thousands of rules about as much.
inline constexpr std::uint64_t snapshot_bytes_max = 512ULL << 20;

struct SnapshotHeader {
    std::array<char, 8> magic;
    std::uint32_t format_version;
    std::uint32_t header_bytes;
    std::uint64_t policy_version;
    std::uint64_t payload_bytes;
    std::array<std::uint8_t, 32> digest; // SHA-256 of the fields above and the payload
};
static_assert(sizeof(SnapshotHeader) == 64 && offsetof(SnapshotHeader, digest) == 32);
inline constexpr std::size_t snapshot_digested_header_bytes = offsetof(SnapshotHeader, digest);

} // namespace control::schema
