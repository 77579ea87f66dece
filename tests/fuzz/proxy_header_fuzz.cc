// Goal: no bytes in front of a connection break the PROXY header parser, and its verdict does not
// depend on how they were split: bad stays bad, and a header stays the same header, as more comes.
#include "dataplane/base/check.h"
#include "dataplane/net/proxy_header.h"

#include <algorithm>

using dataplane::net::parse_proxy_header;
using dataplane::net::proxy_header_look_bytes;
using dataplane::net::ProxyHeaderError;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span<const std::byte> all{reinterpret_cast<const std::byte*>(data), size};
    const auto whole = parse_proxy_header(all);
    const std::size_t looked = std::min(size, proxy_header_look_bytes);
    bool decided = false;
    for (std::size_t bytes = 0; bytes <= looked; ++bytes) {
        const auto part = parse_proxy_header(all.first(bytes));
        if (!part && part.error() == ProxyHeaderError::need_more) {
            CHECK(!decided);                        // no verdict is taken back
            CHECK(bytes < proxy_header_look_bytes); // and none is put off beyond the bound
            continue;
        }
        decided = true;
        CHECK(part.has_value() == whole.has_value());
        if (!part) {
            CHECK(whole.error() == ProxyHeaderError::bad);
            continue;
        }
        CHECK(part->bytes == whole->bytes);
        CHECK(part->bytes > 0);
        CHECK(part->told == whole->told);
        CHECK(part->source == whole->source);
        CHECK(part->destination == whole->destination);
    }
    return 0;
}
