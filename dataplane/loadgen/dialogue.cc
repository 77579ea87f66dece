#include "dataplane/loadgen/dialogue.h"

#include "dataplane/base/slab.h"

#include <utility>

namespace dataplane::loadgen {
namespace {

bool is_digit(char c) noexcept {
    return c >= '0' && c <= '9';
}

} // namespace

std::string printable(std::string_view text) {
    std::string safe(text);
    for (char& c : safe) {
        if (c < ' ' || c > '~') c = '?';
    }
    return safe;
}

base::Task<base::NetResult<>> Dialogue::flush(base::Deadline deadline) {
    if (out.empty()) co_return base::NetResult<>{};
    auto written = co_await stream_->write(base::as_bytes(out), deadline);
    out.clear();
    co_return written;
}

base::Task<base::NetResult<Reply>> Dialogue::read_reply(base::Deadline deadline,
                                                        std::string* lines) {
    Reply reply;
    for (std::size_t count = 0; count < reply_lines_max; ++count) {
        auto line = co_await reader_.read_line(deadline);
        if (!line) co_return std::unexpected(line.error());
        const std::string_view text = line->text;
        if (text.size() < 3 || !is_digit(text[0]) || !is_digit(text[1]) || !is_digit(text[2]))
            break;
        const std::string_view words = text.size() > 4 ? text.substr(4) : std::string_view{};
        if (lines != nullptr) {
            *lines += words;
            *lines += '\n';
        }
        if (text.size() > 3 && text[3] == '-') continue;
        reply.code = static_cast<std::uint16_t>((text[0] - '0') * 100 + (text[1] - '0') * 10 +
                                                (text[2] - '0'));
        reply.text = printable(words.substr(0, reply_text_bytes_max));
        co_return reply;
    }
    co_return std::unexpected(base::NetError::reset);
}

base::Task<base::NetResult<Reply>> Dialogue::exchange(std::string_view line,
                                                      base::Deadline deadline, std::string* lines) {
    out += line;
    out += "\r\n";
    const auto sent = co_await flush(deadline);
    if (!sent) co_return std::unexpected(sent.error());
    auto reply = co_await read_reply(deadline, lines);
    co_return reply;
}

base::Task<base::NetResult<>> Dialogue::start_tls(TlsWrapper& tls, base::Deadline deadline,
                                                  std::size_t client) {
    reader_.release();
    auto wrapped = co_await tls.wrap(std::move(stream_), deadline, client);
    if (!wrapped) co_return std::unexpected(wrapped.error());
    stream_ = std::move(*wrapped);
    reader_.switch_to(*stream_);
    co_return base::NetResult<>{};
}

} // namespace dataplane::loadgen
