// Goal: behind a balancer a listener believes the PROXY header and nothing else, and a silent balancer holds up
// nobody.
#include "tests/dataplane/net/stack/world.h"

#include <vector>

namespace dataplane::net::stack {
namespace {

base::Task<void> accept_all(base::Listener& listener, std::vector<base::StreamPtr>& out) {
    for (;;) {
        auto stream = co_await listener.accept(base::Deadline::never());
        if (!stream) co_return;
        out.push_back(std::move(*stream));
    }
}

base::Task<void> say(World& world, base::SocketAddress remote, std::string text,
                     base::NetResult<base::StreamPtr>& stream) {
    stream = co_await world.client.connect(remote, std::nullopt, world.in(5s));
    if (!stream) co_return;
    const auto written = co_await (*stream)->write(base::as_bytes(text), world.in(5s));
    EXPECT_TRUE(written);
}

struct StackProxyTest : testing::Test {
    StackProxyTest()
        : world([] {
              WorldOptions options;
              options.server.proxy_limit = 100ms;
              return options;
          }()) {
        world.loop.spawn(accept_all(*listener, accepted), "accept");
    }
    base::StreamPtr peer_saying(std::string text) {
        base::NetResult<base::StreamPtr> stream = nullptr;
        world.loop.spawn(say(world, listener->local(), std::move(text), stream), "say");
        world.pass(20ms);
        EXPECT_TRUE(stream && *stream);
        return stream ? std::move(*stream) : nullptr;
    }
    World world;
    std::unique_ptr<base::Listener> listener =
        world.listen("10.0.0.2:25", {.proxy_protocol = true});
    std::vector<base::StreamPtr> accepted;
};

TEST_F(StackProxyTest, TheToldClientIsTheClientAndTheDialogueFollows) {
    const auto peer = peer_saying("PROXY TCP6 2001:db8::1 2001:db8::2 4660 25\r\nEHLO a\r\n");
    ASSERT_EQ(accepted.size(), 1U);
    EXPECT_EQ(accepted[0]->info().client, *base::SocketAddress::parse("[2001:db8::1]:4660"));
    EXPECT_EQ(accepted[0]->info().peer, peer->info().local);
    EXPECT_EQ(base::as_text(accepted[0]->unread()), "EHLO a\r\n");
}

TEST_F(StackProxyTest, AConnectionWithoutAHeaderIsResetAndCounted) {
    const auto peer = peer_saying("EHLO impostor.example\r\n");
    world.pass(10ms);
    EXPECT_EQ(world.server.statistics().stack.proxy_refused, 1U);
    EXPECT_EQ(world.server.connection_count(), 0U);
    EXPECT_TRUE(accepted.empty());
}

TEST_F(StackProxyTest, SilentConnectionsHoldUpNobodyAndAreDroppedInTime) {
    std::vector<base::StreamPtr> silent;
    for (int i = 0; i < 3; ++i)
        silent.push_back(peer_saying("PROXY TCP4 "));
    const auto quick = peer_saying("PROXY TCP4 192.0.2.1 198.51.100.2 4660 25\r\n");
    EXPECT_EQ(accepted.size(), 1U);
    world.pass(200ms);
    EXPECT_EQ(world.server.statistics().stack.proxy_refused, 3U);
    EXPECT_EQ(world.server.connection_count(), 1U);
}

TEST_F(StackProxyTest, ClosingTheListenerEndsConnectionsThatStillGreet) {
    const auto peer = peer_saying("PROXY ");
    listener->close();
    world.pass(300ms);
    EXPECT_EQ(world.server.connection_count(), 0U);
    EXPECT_TRUE(accepted.empty());
}

} // namespace
} // namespace dataplane::net::stack
