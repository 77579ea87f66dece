#include "queue/disk/crc32c_fold.h"

#include <array>
#ifdef __SSE4_2__
#include <immintrin.h>
#endif

namespace queue::detail {

#ifdef __SSE4_2__
namespace {

/// x^n mod P, reflected, in the place where a carry-less product of reflected numbers wants it.
constexpr long long power(unsigned n) {
    std::uint32_t value = 0x80000000; // 1
    for (; n > 0; --n)
        value = step_bit(value);
    return static_cast<long long>(std::uint64_t{value} << 1);
}

// For moving 16 bytes on by so many bits: their first half stands 64 bits higher than their second, and a
// reflected product one bit too low, which the powers make up for.
template <unsigned bits>
struct Move {
    static constexpr long long first = power(bits + 32);
    static constexpr long long second = power(bits - 32);
};

#define FOLDS gnu::target("avx512f,avx512vl,vpclmulqdq,pclmul,sse4.2")

template <unsigned bits>
[[FOLDS, gnu::always_inline]] inline __m512i move_on(__m512i value, __m512i onto) noexcept {
    const __m512i by = _mm512_set_epi64(Move<bits>::second, Move<bits>::first, Move<bits>::second,
                                        Move<bits>::first, Move<bits>::second, Move<bits>::first,
                                        Move<bits>::second, Move<bits>::first);
    const __m512i first = _mm512_clmulepi64_epi128(value, by, 0x00);
    const __m512i second = _mm512_clmulepi64_epi128(value, by, 0x11);
    return _mm512_ternarylogic_epi64(first, second, onto, 0x96); // of all three, the exclusive or
}

template <bool streamed>
[[FOLDS, gnu::always_inline]] inline __m512i take(std::byte* to, const std::byte* from,
                                                  std::size_t at) noexcept {
    const __m512i line = _mm512_loadu_si512(from + at);
    if constexpr (streamed) _mm512_stream_si512(reinterpret_cast<__m512i*>(to + at), line);
    return line;
}

template <bool streamed>
[[FOLDS, gnu::always_inline]] inline std::uint32_t
fold_all(std::uint32_t state, std::byte* to, const std::byte* from, std::size_t bytes) noexcept {
    const __m512i start = _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(state)));
    __m512i a = _mm512_xor_si512(take<streamed>(to, from, 0), start);
    __m512i b = take<streamed>(to, from, 64);
    __m512i c = take<streamed>(to, from, 128);
    __m512i d = take<streamed>(to, from, 192);
    for (std::size_t at = fold_step_bytes; at < bytes; at += fold_step_bytes) {
        a = move_on<2048>(a, take<streamed>(to, from, at));
        b = move_on<2048>(b, take<streamed>(to, from, at + 64));
        c = move_on<2048>(c, take<streamed>(to, from, at + 128));
        d = move_on<2048>(d, take<streamed>(to, from, at + 192));
    }
    const __m512i line = move_on<512>(move_on<512>(move_on<512>(a, b), c), d);
    alignas(64) std::array<std::uint64_t, 8> words;
    _mm512_store_si512(words.data(), line);
    std::uint64_t crc = 0;
    for (const std::uint64_t word : words)
        crc = _mm_crc32_u64(crc, word);
    return static_cast<std::uint32_t>(crc);
}

} // namespace

bool cpu_folds() noexcept {
    return __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512vl") != 0 &&
           __builtin_cpu_supports("vpclmulqdq") != 0 && __builtin_cpu_supports("pclmul") != 0;
}

[[FOLDS]] std::uint32_t fold(std::uint32_t state, const std::byte* from,
                             std::size_t bytes) noexcept {
    return fold_all<false>(state, nullptr, from, bytes);
}

[[FOLDS]] std::uint32_t fold_streamed(std::uint32_t state, std::byte* to, const std::byte* from,
                                      std::size_t bytes) noexcept {
    return fold_all<true>(state, to, from, bytes);
}

#undef FOLDS

#else

bool cpu_folds() noexcept {
    return false;
}

#endif

} // namespace queue::detail
