// proxy_greeting.h: reads a connection's PROXY header from whatever carries the connection.
//
// Scope      For listeners of any transport. The format is proxy_header.h's; how long it may take comes with the
//            deadline.
// Failure    `closed` for a header that is not one; otherwise the connection's own error.
#pragma once

#include "dataplane/base/stream.h"
#include "dataplane/net/proxy_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

namespace dataplane::net {

/// Consumes the header from `source`, which has a Stream's fill(), unread() and consume(). The value is the
/// client that the header tells, if it tells one. \pre  `source` outlives the task
template <class Source>
base::Task<base::NetResult<std::optional<base::SocketAddress>>>
read_proxy_greeting(Source& source, base::Deadline deadline) {
    std::array<std::byte, proxy_header_look_bytes> head;
    std::size_t have = 0;
    for (;;) {
        const auto filled = co_await source.fill(deadline);
        if (!filled) co_return std::unexpected(filled.error());
        const std::span<const std::byte> fresh = source.unread();
        const std::size_t count = std::min(fresh.size(), head.size() - have);
        std::memcpy(head.data() + have, fresh.data(), count);
        const auto header = parse_proxy_header({head.data(), have + count});
        if (!header && header.error() == ProxyHeaderError::bad) {
            co_return std::unexpected(base::NetError::closed);
        }
        if (!header) {
            // The parser never needs more than head holds, so there is room for the next bytes.
            CHECK(have + count < head.size());
            have += count;
            source.consume(count);
            continue;
        }
        std::size_t rest = header->bytes - have; // of the header, in front of the dialogue
        while (rest > 0) {
            const std::size_t step = std::min(rest, source.unread().size());
            source.consume(step);
            rest -= step;
            if (rest == 0) break;
            const auto more = co_await source.fill(deadline);
            if (!more) co_return std::unexpected(more.error());
        }
        std::optional<base::SocketAddress> client;
        if (header->told) client = header->source;
        co_return client;
    }
}

} // namespace dataplane::net
