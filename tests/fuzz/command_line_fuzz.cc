// Any line: parsing it ends, and what comes out is what the session may rely on.
#include "dataplane/base/check.h"
#include "dataplane/smtp/command_parser.h"
#include "dataplane/smtp/limits.h"
#include "dataplane/smtp/sasl.h"

#include <cstddef>
#include <cstdint>
#include <string>

namespace {

using namespace dataplane::smtp;

bool inside(std::string_view part, std::string_view line) {
    return part.empty() ||
           (part.data() >= line.data() && part.data() + part.size() <= line.data() + line.size());
}

void check_path(const Path& path, std::string_view line) {
    CHECK(inside(path.address, line));
    CHECK(path.address.size() + 2 <= path_bytes_max);
    CHECK(path.local_part.size() <= local_part_bytes_max);
    CHECK(path.domain.size() <= domain_bytes_max);
    CHECK(is_utf8(path.address));
    for (const char c : path.address)
        CHECK(static_cast<unsigned char>(c) >= ' ' && c != 0x7f);
    if (path.address.empty() || path.domain.empty()) return;
    CHECK(path.address == std::string{path.local_part} + "@" + std::string{path.domain});
    CHECK(path.domain.find_first_of("@<> ") == std::string_view::npos);
    // What was taken is taken again, alone: nothing depended on what stood around it.
    const auto again = parse_command("MAIL FROM:<" + std::string{path.address} + "> SMTPUTF8");
    CHECK(again.has_value());
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view line{reinterpret_cast<const char*>(data), size};
    const auto command = parse_command(line);
    if (!command) {
        CHECK(reply_to(command.error()).code >= 500);
    } else if (const auto* mail = std::get_if<Mail>(&*command)) {
        check_path(mail->from, line);
        CHECK(inside(mail->envid, line) && mail->envid.size() <= envid_bytes_max);
        CHECK(mail->smtputf8 || !mail->from.utf8);
    } else if (const auto* rcpt = std::get_if<Rcpt>(&*command)) {
        check_path(rcpt->to, line);
        CHECK(!rcpt->to.address.empty());
        CHECK(inside(rcpt->orcpt, line) && rcpt->orcpt.size() <= orcpt_bytes_max);
        CHECK((rcpt->notify & queue::notify_never) == 0 || rcpt->notify == queue::notify_never);
    } else if (const auto* ehlo = std::get_if<Ehlo>(&*command)) {
        CHECK(!ehlo->name.empty() &&
              ehlo->name.find_first_of(" ()<>;,\r\n") == std::string_view::npos);
    }
    if (const auto decoded = decode_base64(line)) {
        CHECK(decoded->size() <= line.size() * 3 / 4);
        if (const auto credentials = split_plain(*decoded))
            CHECK(inside(credentials->user, *decoded));
    }
    return 0;
}
