// Key files and DNS records may be anything: what is read is right, the rest is refused.
#include "dataplane/base/check.h"
#include "dataplane/message/dkim/base64.h"
#include "dataplane/message/dkim/key.h"
#include "dataplane/message/dkim/record.h"

#include <cstdint>
#include <string>

namespace {

using namespace dataplane::message::dkim;

const SigningKey& some_key() {
    static const auto key = *SigningKey::parse("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=");
    return *key;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text{reinterpret_cast<const char*>(data), size};
    if (const auto key = SigningKey::parse(text)) {
        CHECK(!(*key)->public_text().empty());
        CHECK(check_record(record_text(**key, false), **key, "example.com", "").problems.empty());
    }
    const RecordCheck check = check_record(text, some_key(), "example.com", "");
    if (check.problems.empty()) CHECK(text.find(";") != std::string_view::npos);
    std::string bytes, again;
    if (decode_base64(text, bytes)) {
        append_base64(again, bytes);
        std::string back;
        CHECK(decode_base64(again, back) && back == bytes);
    }
    return 0;
}
