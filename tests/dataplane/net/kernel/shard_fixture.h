// shard_fixture.h: one shard with real time, a ring and a kernel transport, driven by a test.
//
// Scope      Runs a dialogue to its end, with a limit so that a hang is a failure and not a hang.
// Threading  Everything on the thread that constructs it.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/base/uring.h"
#include "dataplane/net/kernel/kernel_transport.h"

#include <algorithm>
#include <concepts>
#include <gtest/gtest.h>
#include <string>
#include <string_view>

namespace dataplane::net::kernel {

struct Shard {
    explicit Shard(KernelTransportOptions options = {}) : transport(loop, ring, options) {}
    ~Shard() { loop.drop_tasks(); }

    /// Turns the loop until `done()`, which is asked more than once, or the limit; returns whether
    /// it was done.
    bool run_until(const std::predicate auto& done,
                   base::Duration limit = std::chrono::seconds{20}) {
        const base::TimePoint end = clock.now() + limit;
        while (!done()) {
            if (clock.now() > end) return false;
            ring.poll();
            const bool more = loop.turn();
            if (more || done()) continue;
            // What `done` looks at may lie outside the shard: look again soon.
            const base::TimePoint soon = loop.now() + std::chrono::milliseconds{2};
            ring.sleep_until(loop.now(), std::min(loop.next_due(), soon));
        }
        return true;
    }
    /// Runs every task that was spawned to its end.
    bool run_all(base::Duration limit = std::chrono::seconds{20}) {
        return run_until([&] { return loop.spawned_count() == 0; }, limit);
    }
    std::unique_ptr<base::Listener> listen(std::string_view address = "127.0.0.1:0",
                                           const base::ListenOptions& options = {}) {
        auto listener = transport.listen(*base::SocketAddress::parse(address), options);
        EXPECT_TRUE(listener) << base::to_string(listener.error());
        return listener ? std::move(*listener) : nullptr;
    }
    [[nodiscard]] base::Deadline in(base::Duration limit) const {
        return base::Deadline::in(loop, limit);
    }

    base::RealClock clock;
    base::Loop loop{clock};
    base::Uring ring;
    KernelTransport transport;
};

/// Echoes until the peer's end, then says goodbye in good order.
inline base::Task<void> echo(base::StreamPtr stream) {
    for (;;) {
        const auto filled = co_await stream->fill(base::Deadline::never());
        if (!filled) break;
        const auto written = co_await stream->write(stream->unread(), base::Deadline::never());
        if (!written) break;
        stream->consume(stream->unread().size());
    }
    stream->close();
}

/// Accepts and echoes until the listener closes.
inline base::Task<void> serve_echo(base::Loop& loop, base::Listener& listener) {
    for (;;) {
        auto stream = co_await listener.accept(base::Deadline::never());
        if (!stream) co_return;
        loop.spawn(echo(std::move(*stream)), "echo");
    }
}

/// Reads exactly `bytes` bytes, or up to the first error.
inline base::Task<base::NetResult<std::string>>
read_exactly(base::Stream& stream, std::size_t bytes, base::Deadline deadline) {
    std::string text;
    while (text.size() < bytes) {
        const auto filled = co_await stream.fill(deadline);
        if (!filled) co_return std::unexpected(filled.error());
        const std::size_t count = std::min(bytes - text.size(), stream.unread().size());
        text.append(base::as_text(stream.unread().first(count)));
        stream.consume(count);
    }
    co_return text;
}

} // namespace dataplane::net::kernel
