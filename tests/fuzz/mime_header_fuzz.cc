// Any header, cut anywhere, reads the same; and no field that the relay adds can forge another one.
#include "dataplane/base/check.h"
#include "dataplane/base/slab.h"
#include "dataplane/message/header_add.h"
#include "dataplane/message/header_scan.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>

namespace {

using namespace dataplane::message;
namespace base = dataplane::base;

HeaderScan scan(std::string_view content, unsigned seed, std::size_t piece_max) {
    std::minstd_rand random{seed};
    HeaderScan headers;
    while (!content.empty()) {
        const std::size_t bytes = std::min<std::size_t>(1 + random() % piece_max, content.size());
        headers.feed(base::as_bytes(content.substr(0, bytes)));
        content.remove_prefix(bytes);
    }
    return headers;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2) return 0;
    const std::string_view content{reinterpret_cast<const char*>(data) + 1, size - 1};

    HeaderScan whole;
    whole.feed(base::as_bytes(content));
    const HeaderScan cut = scan(content, data[0] + 1U, 1 + data[0] % 9);
    CHECK(whole.header_bytes() <= content.size());
    if (whole.end() != HeaderEnd::too_large) {
        CHECK(whole.end() == cut.end());
        CHECK(whole.header_bytes() == cut.header_bytes());
        CHECK(whole.field_count() == cut.field_count());
        CHECK(whole.received_count() == cut.received_count());
        CHECK(whole.has_date() == cut.has_date());
        CHECK(whole.has_message_id() == cut.has_message_id());
        CHECK(whole.has_from() == cut.has_from());
    }
    CHECK(whole.received_count() <= whole.field_count());

    const std::size_t colon = std::min(content.find(':'), content.size());
    std::string prelude = "Received: x\r\n";
    const bool added = append_field(prelude, content.substr(0, colon),
                                    content.substr(std::min(colon + 1, content.size())), 4096);
    prelude += "\r\n";
    HeaderScan fields;
    fields.feed(base::as_bytes(prelude));
    CHECK(fields.end() == HeaderEnd::blank_line);
    CHECK(fields.header_bytes() == prelude.size());
    CHECK(fields.field_count() == (added ? 2U : 1U));
    return 0;
}
