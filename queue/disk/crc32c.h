// crc32c.h: the checksum of everything on disk, alone or in the same pass as a copy.
//
// Scope      CRC-32C (Castagnoli, RFC 3720 §B.4), composable: crc32c(crc32c(0, a), b) is that of ab.
// Threading  Any.
//
// Three streams interleaved, because the SSE4.2 instruction takes one operand a cycle but three to
// give its result; the streams are joined through a table that moves a checksum over 256 bytes. Where the CPU
// has the instructions for it, what is long is folded instead (crc32c_fold.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace queue {

/// Whether long spans are folded. Set at start from what the CPU has; cleared by tests, for the other way.
extern bool crc32c_wide;

[[nodiscard]] std::uint32_t crc32c(std::uint32_t crc, std::span<const std::byte> bytes) noexcept;
/// Copies `from` to `to` and returns the checksum of what went by. The ranges must not overlap. What is long passes by
/// the cache: it is for a device to read, and fetching what it replaces would be a third of the memory's work.
[[nodiscard]] std::uint32_t crc32c_copy(std::uint32_t crc, std::byte* to,
                                        std::span<const std::byte> from) noexcept;

} // namespace queue
