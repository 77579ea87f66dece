#include "queue/disk/crc32c.h"

#include "queue/disk/crc32c_fold.h"

#include <array>
#include <cstring>
#ifdef __SSE4_2__
#include <nmmintrin.h>
#endif

namespace queue {
namespace {

using detail::step_bit;

enum class Copy : std::uint8_t { no, cached, streamed };

#ifdef __SSE4_2__

constexpr std::size_t stream_bytes = 256;
constexpr std::size_t cache_line_bytes = 64;
constexpr std::size_t streamed_bytes_min = 1024;
using MoveTable = std::array<std::array<std::uint32_t, 256>, 4>;

// What each byte of a checksum becomes once stream_bytes of zeros have followed it.
constexpr MoveTable make_move_table() {
    MoveTable table{};
    for (unsigned bit = 0; bit < 32; ++bit) {
        std::uint32_t moved = std::uint32_t{1} << bit;
        for (std::size_t i = 0; i < stream_bytes * 8; ++i)
            moved = step_bit(moved);
        for (unsigned value = 0; value < 256; ++value) {
            if ((value >> (bit % 8) & 1) != 0) table[bit / 8][value] ^= moved;
        }
    }
    return table;
}
constexpr MoveTable move_table = make_move_table();

std::uint64_t move_over_stream(std::uint64_t crc) noexcept {
    return move_table[0][crc & 0xFF] ^ move_table[1][crc >> 8 & 0xFF] ^
           move_table[2][crc >> 16 & 0xFF] ^ move_table[3][crc >> 24 & 0xFF];
}

template <Copy copy>
std::uint64_t take_word(std::uint64_t crc, std::byte*& to, const std::byte* from,
                        std::size_t ahead) noexcept {
    std::uint64_t word;
    std::memcpy(&word, from + ahead, sizeof word);
    if constexpr (copy == Copy::cached) std::memcpy(to + ahead, &word, sizeof word);
    if constexpr (copy == Copy::streamed)
        _mm_stream_si64(reinterpret_cast<long long*>(to + ahead), static_cast<long long>(word));
    return _mm_crc32_u64(crc, word);
}

template <Copy copy>
std::uint32_t run(std::uint32_t start, std::byte* to, const std::byte* from,
                  std::size_t left) noexcept {
    std::uint64_t crc = ~start;
    if (copy != Copy::cached && crc32c_wide && left >= detail::fold_step_bytes) {
        const std::size_t steps = left / detail::fold_step_bytes * detail::fold_step_bytes;
        const auto state = static_cast<std::uint32_t>(crc);
        crc = copy == Copy::no ? detail::fold(state, from, steps)
                               : detail::fold_streamed(state, to, from, steps);
        from += steps;
        if constexpr (copy != Copy::no) to += steps;
        left -= steps;
    }
    while (left >= 3 * stream_bytes) {
        std::uint64_t second = 0;
        std::uint64_t third = 0;
        for (std::size_t i = 0; i < stream_bytes; i += 8) {
            crc = take_word<copy>(crc, to, from, i);
            second = take_word<copy>(second, to, from, i + stream_bytes);
            third = take_word<copy>(third, to, from, i + 2 * stream_bytes);
        }
        crc = move_over_stream(move_over_stream(crc) ^ second) ^ third;
        from += 3 * stream_bytes;
        if constexpr (copy != Copy::no) to += 3 * stream_bytes;
        left -= 3 * stream_bytes;
    }
    while (left >= 8) {
        crc = take_word<copy>(crc, to, from, 0);
        from += 8;
        if constexpr (copy != Copy::no) to += 8;
        left -= 8;
    }
    for (; left > 0; --left) {
        if constexpr (copy != Copy::no) *to++ = *from;
        crc = _mm_crc32_u8(static_cast<std::uint32_t>(crc), static_cast<std::uint8_t>(*from++));
    }
    return ~static_cast<std::uint32_t>(crc);
}

#else

constexpr std::array<std::uint32_t, 256> byte_table = [] {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t value = 0; value < 256; ++value) {
        std::uint32_t crc = value;
        for (int i = 0; i < 8; ++i)
            crc = step_bit(crc);
        table[value] = crc;
    }
    return table;
}();

template <Copy copy>
std::uint32_t run(std::uint32_t start, std::byte* to, const std::byte* from,
                  std::size_t left) noexcept {
    std::uint32_t crc = ~start;
    if constexpr (copy != Copy::no) std::memcpy(to, from, left);
    for (; left > 0; --left) {
        crc = (crc >> 8) ^ byte_table[(crc ^ static_cast<std::uint8_t>(*from++)) & 0xFF];
    }
    return ~crc;
}

#endif

} // namespace

bool crc32c_wide = detail::cpu_folds();

std::uint32_t crc32c(std::uint32_t crc, std::span<const std::byte> bytes) noexcept {
    return run<Copy::no>(crc, nullptr, bytes.data(), bytes.size());
}

std::uint32_t crc32c_copy(std::uint32_t crc, std::byte* to,
                          std::span<const std::byte> from) noexcept {
#ifdef __SSE4_2__
    if (from.size() >= streamed_bytes_min) {
        // Whole lines: what is written beside a part of one would fetch it again.
        const std::size_t head = -reinterpret_cast<std::uintptr_t>(to) % cache_line_bytes;
        const std::size_t lines = (from.size() - head) / cache_line_bytes * cache_line_bytes;
        const std::size_t end = head + lines;
        crc = run<Copy::cached>(crc, to, from.data(), head);
        crc = run<Copy::streamed>(crc, to + head, from.data() + head, lines);
        crc = run<Copy::cached>(crc, to + end, from.data() + end, from.size() - end);
        _mm_sfence(); // whoever is told of it must see it
        return crc;
    }
#endif
    return run<Copy::cached>(crc, to, from.data(), from.size());
}

} // namespace queue
