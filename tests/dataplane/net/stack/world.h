// world.h: two Stacks, a simulated link between them, and virtual time.
//
// Scope      Runs everything until something holds or a limit of virtual time has passed. A step in which
//            both stacks stay busy for ever without time moving is a failure: nothing may spin.
// Threading  One thread.
#pragma once

#include "dataplane/base/loop.h"
#include "dataplane/net/port/sim_link.h"
#include "dataplane/net/stack/stack.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <string>
#include <string_view>

namespace dataplane::net::stack {

using namespace std::chrono_literals;

struct WorldOptions {
    SimLinkOptions link;
    StackOptions client, server;
    ip::LayerOptions client_ip, server_ip;

    WorldOptions() {
        link.lines[0].delay = link.lines[1].delay = 1ms;
        client.secret = {1, 2};
        server.secret = {3, 4};
        for (StackOptions* side : {&client, &server}) {
            side->receive_slabs = 2048;
            side->send_slabs = 2048;
        }
        client_ip.addresses = {{*base::IpAddress::parse("10.0.0.1"), 24},
                               {*base::IpAddress::parse("fd00::1"), 64}};
        server_ip.addresses = {{*base::IpAddress::parse("10.0.0.2"), 24},
                               {*base::IpAddress::parse("fd00::2"), 64}};
    }
};

struct World {
    explicit World(WorldOptions options = {})
        : link(options.link), client(loop, link.port(0), options.client_ip, options.client),
          server(loop, link.port(1), options.server_ip, options.server),
          client_slabs(options.client.send_slabs), server_slabs(options.server.send_slabs) {}
    ~World() { loop.drop_tasks(); }

    /// One turn of everything; moves time on when nothing is left to do now.
    void step(base::TimePoint not_beyond) {
        link.run_until(clock.now());
        std::size_t frames = client.poll();
        frames += server.poll();
        const bool more = loop.turn();
        link.run_until(clock.now());
        if (more || frames > 0) {
            ASSERT_LT(++busy, 200'000U) << "busy without time moving";
            return;
        }
        busy = 0;
        base::TimePoint next = std::min(
            {link.next_event(), loop.next_due(), client.next_due(), server.next_due(), not_beyond});
        clock.advance_to(std::max(next, clock.now() + 50us)); // the wheels may say `now` early
    }
    template <class Done>
    bool run_until(const Done& done, base::Duration limit = 120s) {
        const base::TimePoint end = clock.now() + limit;
        while (!done()) {
            if (clock.now() > end + 1ms || testing::Test::HasFatalFailure()) return false;
            step(end);
        }
        return true;
    }
    bool run_all(base::Duration limit = 120s) {
        return run_until([&] { return loop.spawned_count() == 0; }, limit);
    }
    void pass(base::Duration time) {
        const base::TimePoint end = clock.now() + time;
        run_until([&] { return clock.now() >= end; }, time);
    }
    /// Every connection is gone, TIME_WAIT too, and everything it had borrowed is back.
    void expect_nothing_left() {
        run_until(
            [&] {
                return client.connection_count() == 0 && server.connection_count() == 0 &&
                       client.statistics().time_waiting == 0 &&
                       server.statistics().time_waiting == 0;
            },
            400s);
        pass(1s); // what the ports still hold
        for (const StackStatistics& all : {client.statistics(), server.statistics()}) {
            EXPECT_EQ(all.connections, 0U);
            EXPECT_EQ(all.half_open, 0U);
            EXPECT_EQ(all.time_waiting, 0U);
            EXPECT_EQ(all.flow_table_entries, 0U);
            EXPECT_EQ(all.receive_slabs_free, all.receive_slabs_total);
            EXPECT_EQ(all.send_slabs_free, all.send_slabs_total);
        }
        EXPECT_EQ(link.port(0).rewritten_in_flight() + link.port(1).rewritten_in_flight(), 0U);
    }
    std::unique_ptr<base::Listener> listen(std::string_view address = "10.0.0.2:25",
                                           const base::ListenOptions& options = {}) {
        auto listener = server.listen(*base::SocketAddress::parse(address), options);
        EXPECT_TRUE(listener) << base::to_string(listener.error());
        return listener ? std::move(*listener) : nullptr;
    }
    [[nodiscard]] base::Deadline in(base::Duration limit, base::CancelSource* cancel = nullptr) {
        return base::Deadline::in(loop, limit, cancel);
    }

    base::ManualClock clock;
    base::Loop loop{clock};
    SimLink link;
    Stack client;
    Stack server;
    std::uint32_t client_slabs, server_slabs;
    unsigned busy = 0;
};

/// Echoes until the peer's end, then says goodbye in good order.
inline base::Task<void> echo(base::StreamPtr stream) {
    for (;;) {
        const auto filled = co_await stream->fill(base::Deadline::never());
        if (!filled) break;
        const std::span<const std::byte> bytes = stream->unread(); // more may come while we wait
        const auto written = co_await stream->write(bytes, base::Deadline::never());
        if (!written) break;
        stream->consume(bytes.size());
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

using Connected = std::optional<base::NetResult<base::StreamPtr>>;

inline base::Task<void> connect_once(base::Transport& transport, base::SocketAddress remote,
                                     std::optional<base::IpAddress> source, base::Deadline deadline,
                                     Connected& result) {
    auto stream = co_await transport.connect(remote, source, deadline);
    result.emplace(std::move(stream));
}

inline base::Task<void> accept_once(base::Listener& listener, base::Deadline deadline,
                                    Connected& result) {
    auto stream = co_await listener.accept(deadline);
    result.emplace(std::move(stream));
}

} // namespace dataplane::net::stack
