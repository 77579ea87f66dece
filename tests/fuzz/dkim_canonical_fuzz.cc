// Bodies and fields cut anywhere have the canonical forms of the plain reference; a whole message goes through the
// signing side without a fault, and whatever From says is no path.
#include "dataplane/base/check.h"
#include "dataplane/message/dkim/canonical.h"
#include "dataplane/message/dkim/header_fields.h"
#include "tests/dataplane/message/dkim/reference.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace dataplane::message::dkim;
namespace reference = tests::dkim_reference;

std::string body(Canonical form, std::string_view text, unsigned seed, std::size_t piece_max) {
    std::minstd_rand random{seed};
    reference::Text out;
    BodyCanonical<reference::Text> canonical{form, out};
    while (!text.empty()) {
        const std::size_t bytes = std::min<std::size_t>(1 + random() % piece_max, text.size());
        canonical.feed(text.substr(0, bytes));
        text.remove_prefix(bytes);
    }
    if (canonical.overflowed()) return "overflow";
    canonical.finish();
    return out.text;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < 2 || size > 100'000) return 0;
    const std::string_view text{reinterpret_cast<const char*>(data) + 1, size - 1};
    const std::size_t piece_max = data[0] % 2 == 0 ? 1 + data[0] / 8 : 5000;
    for (const Canonical form : {Canonical::simple, Canonical::relaxed})
        CHECK(body(form, text, data[0], piece_max) ==
              reference::body(form == Canonical::relaxed, text));

    std::vector<HeaderField> fields;
    if (!parse_fields(text, fields)) return 0;
    std::size_t bytes = 0;
    std::string domain;
    for (const HeaderField& field : fields) {
        CHECK(!field.name().empty() && field.text.find(':') != std::string_view::npos);
        reference::Text out;
        canonical_field(Canonical::relaxed, field.text, out);
        CHECK(out.text == reference::field(true, field.text));
        CHECK(out.text.find('\n') == std::string::npos);
        bytes += field.text.size();
        author_domain(field.value(), domain);
        CHECK(domain.find('/') == std::string::npos && !domain.starts_with('.') &&
              domain.size() <= 255);
        CHECK(domain.find("..") == std::string::npos);
    }
    CHECK(bytes <= text.size());
    return 0;
}
