// line_reader.h: lines of a dialogue, read from any Stream.
//
// Scope      Finds line ends; says how each line ended, because SMTP must tell CRLF from a bare LF
//            (RFC 5321 §2.3.8). Bytes behind a line stay in the Stream for whoever reads next.
// Owns       One buffer of line_bytes_max, used only by lines that lie across two receive buffers.
// Threading  The reader of its Stream.
// Failure    NetError from the Stream; a line over the limit is LineEnd::too_long, and its rest is
//            dropped up to the next LF so that the dialogue can answer and go on. When that does not come
//            within skipped_bytes_max it is LineEnd::endless, and there is nothing to go on with.
#pragma once

#include "dataplane/base/stream.h"

#include <cstdint>
#include <string>
#include <string_view>

namespace dataplane::base {

/// Ours, by far more than any line of the protocols: who has sent as much behind a line's limit without ending it
/// is not in a dialogue, and every further byte would be read for nothing.
inline constexpr std::size_t skipped_bytes_max = 64U << 10;

enum class LineEnd : std::uint8_t { crlf, bare_lf, too_long, endless };

struct Line {
    std::string_view text; // without its line end; valid until the next read
    LineEnd end = LineEnd::crlf;
};

class LineReader {
public:
    LineReader(Stream& stream, std::size_t line_bytes_max);

    /// \note bytes of a returned line are consumed from the Stream at the next read_line() or by
    /// release(), so that text can point straight into the receive buffer. After timed_out or
    /// cancelled the next call goes on with the same line.
    [[nodiscard]] Task<NetResult<Line>> read_line(Deadline deadline);
    /// Whether a whole line has come already, so that read_line() would not wait.
    [[nodiscard]] bool line_waiting() const noexcept;
    /// Consumes the last line now: call it before reading the Stream directly.
    void release() noexcept;
    /// Goes on reading from another Stream: after STARTTLS. What was collected is dropped.
    void switch_to(Stream& stream) noexcept;

private:
    [[nodiscard]] std::string_view strip(std::string_view line, LineEnd& end) const noexcept;

    [[nodiscard]] bool endless(std::size_t bytes) const noexcept {
        return bytes > line_bytes_max_ + skipped_bytes_max;
    }

    Stream* stream_;
    std::size_t line_bytes_max_;
    std::size_t held_bytes_ = 0; // of the last line, still in the Stream
    std::string collected_;      // a line that lies across receive buffers
    bool skipping_ = false;      // inside a line that was too long
    std::size_t line_bytes_ = 0; // of the line, consumed already
    bool returned_ = true;       // what was collected has been handed out
};

} // namespace dataplane::base
