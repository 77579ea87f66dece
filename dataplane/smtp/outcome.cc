#include "dataplane/smtp/outcome.h"

namespace dataplane::smtp {

std::string_view to_string(Stage stage) noexcept {
    switch (stage) {
    case Stage::route:
    case Stage::connect:
    case Stage::greeting:
        return "";
    case Stage::hello:
        return "EHLO";
    case Stage::starttls:
        return "STARTTLS";
    case Stage::mail:
        return "MAIL FROM";
    case Stage::rcpt:
        return "RCPT TO";
    case Stage::data:
        return "DATA";
    case Stage::body:
        return "content";
    case Stage::last_dot:
        return "end of content";
    }
    return "";
}

std::string Outcome::to_string() const {
    if (code == 0) return text;
    std::string out;
    out += std::to_string(code);
    if (enhanced) {
        out += ' ';
        out += std::to_string(enhanced.status_class);
        out += '.';
        out += std::to_string(enhanced.subject);
        out += '.';
        out += std::to_string(enhanced.detail);
    }
    if (!text.empty()) (out += ' ') += text;
    return out;
}

} // namespace dataplane::smtp
