#include "dataplane/message/header_add.h"

#include "dataplane/message/date.h"

#include <array>

namespace dataplane::message {

std::string_view protocol_name(bool extended, bool tls, bool authenticated, bool utf8) noexcept {
    if (!extended) return "SMTP";
    static constexpr std::array<std::string_view, 8> names{
        "ESMTP", "ESMTPA", "ESMTPS", "ESMTPSA", "UTF8SMTP", "UTF8SMTPA", "UTF8SMTPS", "UTF8SMTPSA"};
    return names[(utf8 ? 4U : 0U) + (tls ? 2U : 0U) + (authenticated ? 1U : 0U)];
}

void append_received(std::string& prelude, const Received& received) {
    prelude.append("Received: from ").append(received.helo);
    prelude.append(" (").append(received.client_literal).append(")\r\n\tby ").append(received.host);
    prelude.append(" with ").append(received.protocol).append(" id ").append(received.id);
    if (!received.recipient.empty())
        prelude.append("\r\n\tfor <").append(received.recipient).append(">");
    prelude.append(";\r\n\t").append(DateText{received.time}.view()).append("\r\n");
}

void append_date(std::string& prelude, base::WallTime time) {
    prelude.append("Date: ").append(DateText{time}.view()).append("\r\n");
}

void append_message_id(std::string& prelude, std::string_view id, std::string_view host) {
    prelude.append("Message-ID: <").append(id).append("@").append(host).append(">\r\n");
}

bool append_field(std::string& prelude, std::string_view name, std::string_view value,
                  std::size_t prelude_bytes_max) {
    if (name.empty() || name.size() >= line_bytes_target) return false;
    for (const char c : name) {
        if (c <= ' ' || c >= 0x7f || c == ':') return false;
    }
    for (const char c : value) {
        if ((static_cast<unsigned char>(c) < ' ' && c != '\t') || c == 0x7f) return false;
    }
    const std::size_t start = prelude.size();
    prelude.append(name).append(":");
    std::size_t line_bytes = name.size() + 1;
    bool fits = true;
    while (!value.empty()) {
        const std::size_t text = value.find_first_not_of(" \t");
        if (text == std::string_view::npos) break;
        const std::size_t word_end = value.find_first_of(" \t", text);
        const std::string_view word = value.substr(text, word_end - text);
        value.remove_prefix(word_end == std::string_view::npos ? value.size() : word_end);
        if (line_bytes + 1 + word.size() > line_bytes_target && line_bytes > name.size() + 1) {
            prelude.append("\r\n");
            line_bytes = 0;
        }
        prelude.append(" ").append(word);
        line_bytes += 1 + word.size();
        fits = fits && line_bytes <= line_bytes_max;
    }
    prelude.append("\r\n");
    if (fits && prelude.size() <= prelude_bytes_max) return true;
    prelude.resize(start);
    return false;
}

} // namespace dataplane::message
