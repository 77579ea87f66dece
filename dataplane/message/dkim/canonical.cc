#include "dataplane/message/dkim/canonical.h"

#include <bit>
#include <emmintrin.h>

namespace dataplane::message::dkim {

const char* find_blank_to_mend(const char* at, const char* end) noexcept {
    const __m128i space = _mm_set1_epi8(' '), tab = _mm_set1_epi8('\t'), cr = _mm_set1_epi8('\r');
    for (; end - at > 16; at += 16) { // one byte more than a block is looked at
        const __m128i here = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
        const __m128i next = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 1));
        const __m128i tabs = _mm_cmpeq_epi8(here, tab);
        const __m128i spaces = _mm_cmpeq_epi8(here, space);
        const __m128i mends =
            _mm_or_si128(_mm_cmpeq_epi8(next, space),
                         _mm_or_si128(_mm_cmpeq_epi8(next, tab), _mm_cmpeq_epi8(next, cr)));
        const auto found = static_cast<unsigned>(
            _mm_movemask_epi8(_mm_or_si128(tabs, _mm_and_si128(spaces, mends))));
        if (found != 0) return at + std::countr_zero(found);
    }
    for (; at != end; ++at) {
        if (*at == '\t') return at;
        if (*at == ' ' && at + 1 != end && (at[1] == ' ' || at[1] == '\t' || at[1] == '\r'))
            return at;
    }
    return end;
}

} // namespace dataplane::message::dkim
