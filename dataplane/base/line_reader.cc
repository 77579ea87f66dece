#include "dataplane/base/line_reader.h"

namespace dataplane::base {

LineReader::LineReader(Stream& stream, std::size_t line_bytes_max)
    : stream_(&stream), line_bytes_max_(line_bytes_max) {}

std::string_view LineReader::strip(std::string_view line, LineEnd& end) const noexcept {
    end = LineEnd::bare_lf;
    line.remove_suffix(1);
    if (!line.empty() && line.back() == '\r') {
        line.remove_suffix(1);
        end = LineEnd::crlf;
    }
    return line;
}

Task<NetResult<Line>> LineReader::read_line(Deadline deadline) {
    release();
    if (returned_) {
        collected_.clear();
        skipping_ = false;
        line_bytes_ = 0;
        returned_ = false;
    }
    for (;;) {
        const std::string_view text = as_text(stream_->unread());
        const std::size_t lf = text.find('\n');
        if (lf != std::string_view::npos) {
            Line line;
            returned_ = true;
            if (endless(line_bytes_ + lf)) {
                stream_->consume(lf + 1);
                line.end = LineEnd::endless;
            } else if (skipping_ || collected_.size() + lf + 1 > line_bytes_max_) {
                stream_->consume(lf + 1);
                line.end = LineEnd::too_long;
            } else if (collected_.empty()) {
                line.text = strip(text.substr(0, lf + 1), line.end);
                held_bytes_ = lf + 1;
            } else {
                collected_.append(text.substr(0, lf + 1));
                stream_->consume(lf + 1);
                line.text = strip(collected_, line.end);
            }
            co_return line;
        }
        if (!text.empty()) {
            if (skipping_ || collected_.size() + text.size() > line_bytes_max_) {
                skipping_ = true;
            } else {
                collected_.append(text);
            }
            line_bytes_ += text.size();
            stream_->consume(text.size());
            if (endless(line_bytes_)) co_return Line{.text = {}, .end = LineEnd::endless};
            continue;
        }
        const auto filled = co_await stream_->fill(deadline);
        if (!filled) co_return std::unexpected(filled.error());
    }
}

bool LineReader::line_waiting() const noexcept {
    const std::string_view text = as_text(stream_->unread().subspan(held_bytes_));
    return text.find('\n') != std::string_view::npos;
}

void LineReader::release() noexcept {
    if (held_bytes_ == 0) return;
    stream_->consume(held_bytes_);
    held_bytes_ = 0;
}

void LineReader::switch_to(Stream& stream) noexcept {
    stream_ = &stream;
    held_bytes_ = 0;
    returned_ = true;
}

} // namespace dataplane::base
