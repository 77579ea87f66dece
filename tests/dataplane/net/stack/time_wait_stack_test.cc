// Goal: a stack keeps its last ACK at hand for a peer that missed it, and lets a new incarnation in.
#include "tests/dataplane/net/stack/world.h"

#include "dataplane/net/stack/engine.h"

namespace dataplane::net::stack {
namespace {

bool is_tcp_with(std::span<const std::byte> frame, std::uint8_t flag) {
    return frame.size() >= 54 && frame[12] == std::byte{8} && frame[13] == std::byte{0} &&
           frame[23] == std::byte{6} && (std::to_integer<unsigned>(frame[47]) & flag) != 0;
}

base::Task<void> hello_and_close(World& world, base::SocketAddress remote, bool& done) {
    auto stream = co_await world.client.connect(remote, std::nullopt, world.in(60s));
    EXPECT_TRUE(stream);
    if (!stream) co_return;
    (*stream)->close();
    done = true;
}

// T54
TEST(StackTimeWait, AFinThatComesAgainIsAcknowledgedFromTheRecord) {
    World world; // the client's last ACK is lost
    const auto listener = world.listen();
    world.loop.spawn(serve_echo(world.loop, *listener), "serve");
    std::uint64_t server_fins = 0;
    world.link.set_tap([&](unsigned from, SimLink::TapPoint point, std::span<const std::byte> frame,
                           base::TimePoint) {
        if (from != 1 || point != SimLink::TapPoint::sent || !is_tcp_with(frame, tcp::flag::fin))
            return;
        if (++server_fins == 1) {
            ImpairmentOptions line = world.link.line(0).options();
            line.rules = {
                {.matches = [](auto one) { return is_tcp_with(one, tcp::flag::ack); }, .count = 1}};
            world.link.line(0).change(line);
        }
    });
    bool done = false;
    world.loop.spawn(hello_and_close(world, listener->local(), done), "hello");
    ASSERT_TRUE(world.run_until([&] { return done; }));
    ASSERT_TRUE(world.run_until([&] { return world.server.connection_count() == 0; }));
    world.link.set_tap({});
    EXPECT_GE(server_fins, 2U);
    EXPECT_EQ(world.client.connection_count(), 0U);
    EXPECT_EQ(world.client.statistics().time_waiting, 1U);
    EXPECT_GE(world.client.statistics().time_wait.acknowledged, 1U);
    EXPECT_EQ(world.client.statistics().stack.resets_unknown, 0U);
    world.expect_nothing_left();
}

// T18
TEST(StackTimeWait, ANewConnectionOverThePeersTimeWaitIsAccepted) {
    World world;
    const auto listener = world.listen();
    Connected opened, accepted;
    world.loop.spawn(accept_once(*listener, world.in(5s), accepted), "accept");
    world.loop.spawn(
        connect_once(world.client, listener->local(), std::nullopt, world.in(5s), opened),
        "connect");
    ASSERT_TRUE(world.run_all());
    const base::SocketAddress used = (**opened)->info().local;
    (**accepted)->close(); // the server closes first: TIME_WAIT is there
    accepted.reset();
    world.pass(50ms);
    (**opened)->close();
    opened.reset();
    world.pass(100ms);
    ASSERT_EQ(world.server.statistics().time_waiting, 1U);
    ASSERT_EQ(world.client.statistics().time_waiting, 0U);
    Engine& engine = world.client.engine();
    bool reopened = false;
    for (std::uint32_t i = 0; i < source_port_count && !reopened; ++i) {
        auto one = engine.open(listener->local(), std::nullopt);
        ASSERT_TRUE(one);
        if ((*one)->key.local_port != used.port) {
            engine.abort(**one);
            continue;
        }
        const base::Ref<Tcb> again = *one;
        EXPECT_TRUE(world.run_until([&] { return again->established; }, 5s));
        reopened = true;
        engine.abort(*again);
    }
    EXPECT_TRUE(reopened);
    EXPECT_EQ(world.server.statistics().time_wait.reopened, 1U);
}

} // namespace
} // namespace dataplane::net::stack
