// crc32c_fold.h: CRC-32C by carry-less multiplication, 256 bytes a step, where the CPU has AVX-512 and VPCLMULQDQ.
//
// Scope      What crc32c.cc does with long spans on such a CPU. The bytes are taken as a polynomial: what lies 256
//            bytes further back is multiplied by x^2048 mod P and added to what is there now, so that all of it ends
//            up congruent in the last 64 bytes (V. Gopal et al., "Fast CRC Computation for Generic Polynomials
//            Using PCLMULQDQ", Intel 2009).
// Threading  Any.
#pragma once

#include <cstddef>
#include <cstdint>

namespace queue::detail {

inline constexpr std::size_t fold_step_bytes = 256;

/// Times x mod P, both reflected: what a checksum becomes with one more bit of zero behind it.
[[nodiscard]] constexpr std::uint32_t step_bit(std::uint32_t crc) noexcept {
    return (crc >> 1) ^ ((crc & 1) != 0 ? 0x82F63B78U : 0U);
}

[[nodiscard]] bool cpu_folds() noexcept;

/// \param state  the checksum inside its two inversions
/// \param bytes  a multiple of fold_step_bytes, at least one
/// \pre  cpu_folds()
[[nodiscard]] std::uint32_t fold(std::uint32_t state, const std::byte* from,
                                 std::size_t bytes) noexcept;
/// The same, and copies them past the cache.
/// \param to  at the beginning of a cache line
[[nodiscard]] std::uint32_t fold_streamed(std::uint32_t state, std::byte* to, const std::byte* from,
                                          std::size_t bytes) noexcept;

} // namespace queue::detail
