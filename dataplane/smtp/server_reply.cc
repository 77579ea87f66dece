#include "dataplane/smtp/server_reply.h"

#include "dataplane/smtp/limits.h"

#include <algorithm>
#include <charconv>

namespace dataplane::smtp {
namespace {

void append_number(std::string& out, unsigned value) {
    std::array<char, 8> digits{};
    const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), value);
    static_cast<void>(error); // eight digits hold every code there is
    out.append(digits.data(), end);
}

} // namespace

void append_reply(std::string& out, const ServerReply& reply) {
    const std::size_t line_start = out.size();
    append_number(out, reply.code);
    out.push_back(' ');
    if (reply.enhanced[0] != 0) {
        append_number(out, reply.enhanced[0]);
        out.push_back('.');
        append_number(out, reply.enhanced[1]);
        out.push_back('.');
        append_number(out, reply.enhanced[2]);
        out.push_back(' ');
    }
    const std::size_t text_start = out.size();
    const std::size_t room = reply_line_bytes_max - (text_start - line_start) - 2;
    out.append(reply.text.substr(0, room));
    std::replace_if(
        out.begin() + static_cast<std::ptrdiff_t>(text_start), out.end(),
        [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }, '?');
    out.append("\r\n");
}

} // namespace dataplane::smtp
