#include "dataplane/smtp/data_decoder.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace dataplane::smtp {
namespace {

constexpr std::byte cr{'\r'};
constexpr std::byte lf{'\n'};
constexpr std::byte dot{'.'};

const std::byte* find(const std::byte* from, const std::byte* to, std::byte wanted) noexcept {
    if (from == to) return nullptr;
    return static_cast<const std::byte*>(
        std::memchr(from, std::to_integer<int>(wanted), static_cast<std::size_t>(to - from)));
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
    const std::byte* const begin = input.data() + progress.consumed;
    std::size_t limit = input.size() - progress.consumed;
    if (!discarding_) limit = std::min(limit, output.size() - progress.written);
    const std::byte* const end = begin + limit;

    const std::byte* at = begin;
    State next = state_;
    enum class Odd : std::uint8_t { none, lone_cr, lone_lf } odd = Odd::none;
    if (framing_ == Framing::binary) {
        at = end;
    }
    while (at != end) {
        if (next == State::line_start && framing_ == Framing::dotted && *at == dot) break;
        next = State::in_line;
        const std::byte* const newline = find(at, end, lf);
        const std::byte* const line_end = newline != nullptr ? newline : end;
        const std::byte* const carriage_return = find(at, line_end, cr);
        if (carriage_return != nullptr && carriage_return + 1 != line_end) {
            at = carriage_return;
            odd = Odd::lone_cr;
            break;
        }
        if (newline == nullptr) {
            at = end;
            if (carriage_return != nullptr) next = State::after_cr;
            break;
        }
        at = newline;
        if (carriage_return == nullptr) {
            odd = Odd::lone_lf;
            break;
        }
        ++at;
        next = State::line_start;
    }

    const auto run_bytes = static_cast<std::size_t>(at - begin);
    if (!discarding_ && run_bytes != 0) {
        std::memcpy(output.data() + progress.written, begin, run_bytes);
        progress.written += run_bytes;
    }
    progress.consumed += run_bytes;
    state_ = next;
    if (odd == Odd::none) return;
    // The byte itself, in `odd` order: there is input for it, its output may have to be carried.
    ++progress.consumed;
    if (odd == Odd::lone_cr) {
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
