// data_decoder.h: turns what follows DATA or BDAT into the message's content.
//
// Scope      Dot-unstuffing and the end of DATA (RFC 5321 §4.5.2), and what happens to a CR or LF
//            that stands alone (§2.3.8). Nothing else is changed. Chunks of BDAT are counted by the
//            session; here they only lack the dots.
// Owns       Four bytes of carry. Input and output are spans of the caller's, of any size.
// Threading  Pure.
// Failure    bare_newline() says that the message must be refused; the rest is decoded all the
//            same, so that the real end is found: only CR LF dot CR LF ends a message, never a
//            sloppy variant of it, because a peer that disagrees about the end can be made to see a
//            second message.
//
// Cost: 64 bytes are looked at together, whatever the length of the lines, and one memcpy per run. No
// state machine runs over the body.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace dataplane::smtp {

enum class Framing : std::uint8_t {
    dotted,  // DATA
    counted, // BDAT of text
    binary,  // BDAT under BODY=BINARYMIME: CR and LF are bytes like any other (RFC 3030 §3)
};

enum class BareNewlines : std::uint8_t {
    refuse,
    make_crlf, // each becomes CRLF; a dot behind it is not unstuffed, and it never ends the message
};

class DataDecoder {
public:
    enum class Stop : std::uint8_t {
        need_input, // all input is consumed
        need_room,  // the output is full and there is more to say
        finished,   // dotted only: the final dot was read; input behind it is left alone
    };
    struct Progress {
        std::size_t consumed = 0;
        std::size_t written = 0;
        Stop stop = Stop::need_input;
    };

    /// Starts a message.
    void reset(Framing framing, BareNewlines newlines) noexcept;

    /// Decodes until one side is exhausted. After Stop::finished only reset() may follow.
    [[nodiscard]] Progress decode(std::span<const std::byte> input,
                                  std::span<std::byte> output) noexcept;

    /// Decodes without output from now on: the message is refused, its end must still be found.
    void discard() noexcept { discarding_ = true; }

    /// Ends a counted message: a CR still waiting for its LF is a bare one. Returns its last bytes,
    /// which belong behind the content; valid until the next call.
    [[nodiscard]] std::span<const std::byte> finish_counted() noexcept;

    /// A CR or LF stood alone, under BareNewlines::refuse.
    [[nodiscard]] bool bare_newline() const noexcept { return bare_newline_; }

private:
    enum class State : std::uint8_t {
        line_start, // behind CRLF, or at the very beginning
        in_line,
        after_cr,     // the CR is written, the LF expected
        after_dot,    // line start, dot held back
        after_dot_cr, // line start, dot and CR held back
    };

    void decode_run(Progress& progress, std::span<const std::byte> input,
                    std::span<std::byte> output) noexcept;
    void step(std::byte byte, Progress& progress, std::span<std::byte> output) noexcept;
    void put(std::byte byte, Progress& progress, std::span<std::byte> output) noexcept;
    void lone_cr(Progress& progress, std::span<std::byte> output) noexcept;
    void lone_lf(Progress& progress, std::span<std::byte> output) noexcept;

    State state_ = State::line_start;
    Framing framing_ = Framing::dotted;
    BareNewlines newlines_ = BareNewlines::refuse;
    bool bare_newline_ = false;
    bool discarding_ = false;
    bool finished_ = false;
    std::array<std::byte, 4> carry_{}; // decoded, for want of room not yet written
    std::size_t carry_bytes_ = 0;
};

} // namespace dataplane::smtp
