#include "dataplane/smtp/data_decoder.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <emmintrin.h>
#include <utility>

namespace dataplane::smtp {
namespace {

constexpr std::byte cr{'\r'};
constexpr std::byte lf{'\n'};
constexpr std::byte dot{'.'};

constexpr std::size_t block_bytes = 64;

/// Which bytes of a block are CR, LF and dots: bit i stands for byte i.
struct BlockMasks {
    std::uint64_t cr = 0;
    std::uint64_t lf = 0;
    std::uint64_t dot = 0;
};

BlockMasks look_at(const std::byte* block) noexcept {
    BlockMasks masks;
    for (unsigned part = 0; part < block_bytes; part += sizeof(__m128i)) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block + part));
        const auto where = [&](char wanted) {
            const int mask = _mm_movemask_epi8(_mm_cmpeq_epi8(bytes, _mm_set1_epi8(wanted)));
            return std::uint64_t{static_cast<std::uint32_t>(mask)} << part;
        };
        masks.cr |= where('\r');
        masks.lf |= where('\n');
        masks.dot |= where('.');
    }
    return masks;
}

enum class Odd : std::uint8_t { none, line_dot, lone_cr, lone_lf };

struct Run {
    std::size_t bytes = 0; // up to the odd byte, or all
    Odd odd = Odd::none;   // what stands behind them
};

/// How far `text` needs no thought. Lone CR: a CR as the very last byte is none yet.
Run measure_run(std::span<const std::byte> text, bool dotted) noexcept {
    const std::uint64_t dots_count = dotted ? ~std::uint64_t{0} : 0;
    std::uint64_t after_cr = 0; // 1: the byte before this block is one
    std::uint64_t after_lf = 0;
    for (std::size_t at = 0; at < text.size(); at += block_bytes) {
        const std::size_t here = std::min(block_bytes, text.size() - at);
        BlockMasks masks;
        if (here == block_bytes) {
            masks = look_at(text.data() + at);
        } else {
            std::array<std::byte, block_bytes> padded{};
            std::memcpy(padded.data(), text.data() + at, here);
            masks = look_at(padded.data());
        }
        const std::uint64_t behind_cr = masks.cr << 1 | after_cr;
        const std::uint64_t behind_lf = masks.lf << 1 | after_lf;
        const std::uint64_t inside =
            here == block_bytes ? ~std::uint64_t{0} : (std::uint64_t{1} << here) - 1;
        const std::uint64_t lone_cr = behind_cr & ~masks.lf & inside; // the byte behind it
        const std::uint64_t lone_lf = masks.lf & ~behind_cr;
        const std::uint64_t line_dot = masks.dot & behind_lf & dots_count;
        if (const std::uint64_t odd = lone_cr | lone_lf | line_dot; odd != 0) {
            const std::uint64_t first = odd & -odd;
            const std::size_t place = at + static_cast<std::size_t>(std::countr_zero(odd));
            if ((lone_cr & first) != 0) return {place - 1, Odd::lone_cr};
            return {place, (lone_lf & first) != 0 ? Odd::lone_lf : Odd::line_dot};
        }
        after_cr = masks.cr >> (block_bytes - 1);
        after_lf = masks.lf >> (block_bytes - 1);
    }
    return {text.size(), Odd::none};
}

} // namespace

void DataDecoder::reset(Framing framing, BareNewlines newlines) noexcept {
    *this = DataDecoder{};
    framing_ = framing;
    newlines_ = newlines;
}

DataDecoder::Progress DataDecoder::decode(std::span<const std::byte> input,
                                          std::span<std::byte> output) noexcept {
    CHECK(!finished_);
    Progress progress;
    while (true) {
        if (discarding_) carry_bytes_ = 0;
        const std::size_t flushed = std::min(carry_bytes_, output.size() - progress.written);
        std::copy_n(carry_.begin(), flushed,
                    output.begin() + static_cast<std::ptrdiff_t>(progress.written));
        std::copy(carry_.begin() + static_cast<std::ptrdiff_t>(flushed),
                  carry_.begin() + static_cast<std::ptrdiff_t>(carry_bytes_), carry_.begin());
        carry_bytes_ -= flushed;
        progress.written += flushed;

        if (finished_) {
            progress.stop = Stop::finished;
            return progress;
        }
        const bool room = discarding_ || progress.written < output.size();
        if (progress.consumed == input.size()) {
            progress.stop = carry_bytes_ == 0 ? Stop::need_input : Stop::need_room;
            return progress;
        }
        if (!room) {
            progress.stop = Stop::need_room;
            return progress;
        }
        const bool at_dot = state_ == State::line_start && framing_ == Framing::dotted &&
                            input[progress.consumed] == dot;
        if ((state_ == State::in_line || state_ == State::line_start) && !at_dot) {
            decode_run(progress, input, output);
        } else {
            step(input[progress.consumed], progress, output);
            ++progress.consumed;
        }
    }
}

/// Copies everything up to the first byte that needs thought: a dot at a line's start, a CR or LF
/// that stands alone, or a CR at the very end of the input.
void DataDecoder::decode_run(Progress& progress, std::span<const std::byte> input,
                             std::span<std::byte> output) noexcept {
    std::span<const std::byte> text = input.subspan(progress.consumed);
    if (!discarding_) text = text.first(std::min(text.size(), output.size() - progress.written));
    const Run run = framing_ == Framing::binary ? Run{text.size(), Odd::none}
                                                : measure_run(text, framing_ == Framing::dotted);
    if (run.bytes != 0) {
        if (!discarding_) {
            std::memcpy(output.data() + progress.written, text.data(), run.bytes);
            progress.written += run.bytes;
        }
        progress.consumed += run.bytes;
        if (framing_ != Framing::binary) {
            const std::byte last = text[run.bytes - 1];
            state_ = last == lf ? State::line_start : last == cr ? State::after_cr : State::in_line;
        }
    }
    if (run.odd == Odd::none || run.odd == Odd::line_dot) return;
    // The byte itself, in `odd` order: there is input for it, its output may have to be carried.
    ++progress.consumed;
    if (run.odd == Odd::lone_cr) {
        put(cr, progress, output);
        lone_cr(progress, output);
    } else {
        lone_lf(progress, output);
    }
    state_ = State::in_line;
}

/// One byte in one of the states that last a byte or two.
void DataDecoder::step(std::byte byte, Progress& progress, std::span<std::byte> output) noexcept {
    switch (state_) {
    case State::line_start: // only for a dot
        state_ = State::after_dot;
        return;
    case State::in_line:
        CHECK(state_ != State::in_line);
        return;
    case State::after_cr:
        if (byte == lf) {
            put(lf, progress, output);
            state_ = State::line_start;
            return;
        }
        lone_cr(progress, output);
        break;
    case State::after_dot:
        if (byte == cr) {
            state_ = State::after_dot_cr;
            return;
        }
        break; // a stuffed dot: it is gone, its line goes on
    case State::after_dot_cr:
        if (byte == lf) {
            finished_ = true;
            return;
        }
        put(cr, progress, output);
        lone_cr(progress, output);
        break;
    }
    // `byte` is an ordinary one of the line, unless it is a CR or LF itself.
    state_ = State::in_line;
    if (byte == lf) {
        lone_lf(progress, output);
        return;
    }
    put(byte, progress, output);
    if (byte == cr) state_ = State::after_cr;
}

void DataDecoder::put(std::byte byte, Progress& progress, std::span<std::byte> output) noexcept {
    if (discarding_) return;
    if (carry_bytes_ == 0 && progress.written < output.size()) {
        output[progress.written++] = byte;
        return;
    }
    CHECK(carry_bytes_ < carry_.size());
    carry_[carry_bytes_++] = byte;
}

/// The CR that was just written has no LF.
void DataDecoder::lone_cr(Progress& progress, std::span<std::byte> output) noexcept {
    if (newlines_ == BareNewlines::make_crlf) {
        put(lf, progress, output);
        return;
    }
    bare_newline_ = true;
    discarding_ = true;
}

/// An LF came without CR before it.
void DataDecoder::lone_lf(Progress& progress, std::span<std::byte> output) noexcept {
    if (newlines_ == BareNewlines::make_crlf) {
        put(cr, progress, output);
        put(lf, progress, output);
        return;
    }
    bare_newline_ = true;
    discarding_ = true;
}

std::span<const std::byte> DataDecoder::finish_counted() noexcept {
    CHECK(framing_ != Framing::dotted);
    if (framing_ == Framing::counted && state_ == State::after_cr) {
        Progress progress;
        lone_cr(progress, {});
        state_ = State::in_line;
    }
    if (discarding_) carry_bytes_ = 0;
    return std::span{carry_}.first(std::exchange(carry_bytes_, 0));
}

} // namespace dataplane::smtp
