// reply_parser_fuzz.cc: whatever a server answers, the parser says "reply", "more", or "nonsense",
// within its bounds.
#include "dataplane/base/check.h"
#include "dataplane/smtp/client_session.h"
#include "dataplane/smtp/reply_parser.h"

#include <cstddef>
#include <cstdint>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace dataplane::smtp;
    std::string_view rest{reinterpret_cast<const char*>(data), size};
    ReplyParser parser;
    Capabilities capabilities;
    while (!rest.empty()) {
        const std::size_t lf = rest.find('\n');
        std::string_view line = rest.substr(0, lf);
        rest.remove_prefix(lf == std::string_view::npos ? rest.size() : lf + 1);
        if (line.ends_with('\r')) line.remove_suffix(1);
        const auto complete = parser.feed(line);
        if (!complete) return 0; // the session ends here
        const Reply& reply = parser.reply();
        CHECK(reply.code >= 200 && reply.code < 600);
        CHECK(reply.text.size() <= reply_text_bytes_max);
        CHECK(!reply.enhanced || reply.enhanced.status_class == reply.code / 100);
        CHECK(parser.line_count() <= reply_lines_max);
        for (const char c : reply.text)
            CHECK(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
        capabilities.add(parser.line_text());
    }
    return 0;
}
