// Goal: shards that share a port without RSS each get their own flows' segments; what does not fit is counted and
// comes again.
#include "tests/dataplane/net/stack/world.h"

#include "dataplane/net/stack/neighbour_exchange.h"
#include "dataplane/net/stack/steering.h"

#include <vector>

namespace dataplane::net::stack {
namespace {

constexpr unsigned shards = 3;

/// One client stack per shard on one port; a server with a port of its own. All on one thread, by turns.
struct SteeredWorld {
    SteeredWorld() {
        WorldOptions options;
        for (unsigned shard = 0; shard < shards; ++shard) {
            options.client.shard_count = shards;
            options.client.shard = shard;
            clients.push_back(std::make_unique<Stack>(loop, steering.port(shard), options.client_ip,
                                                      options.client));
            exchange.attach(shard, *clients.back());
        }
        server = std::make_unique<Stack>(loop, link.port(1), options.server_ip, options.server);
    }
    ~SteeredWorld() { loop.drop_tasks(); }
    template <class Done>
    bool run_until(const Done& done, base::Duration limit = 60s) {
        const base::TimePoint end = clock.now() + limit;
        while (!done()) {
            if (clock.now() > end) return false;
            link.run_until(clock.now());
            std::size_t frames = server->poll();
            for (unsigned shard = 0; shard < shards; ++shard) {
                if (shard != stopped) frames += clients[shard]->poll();
                exchange.inbox(shard).drain();
            }
            if (loop.turn() || frames > 0) continue;
            clock.advance(100us);
        }
        return true;
    }
    base::ManualClock clock;
    base::Loop loop{clock};
    SimLink link{WorldOptions{}.link};
    Steering steering{link.port(0), shards};
    NeighbourExchange exchange{shards};
    std::vector<std::unique_ptr<Stack>> clients;
    std::unique_ptr<Stack> server;
    unsigned stopped = shards; // a shard that is not polled
};

base::Task<void> ask(SteeredWorld& world, unsigned shard, base::SocketAddress remote,
                     std::size_t bytes, std::size_t& answered) {
    auto stream = co_await world.clients[shard]->connect(remote, std::nullopt,
                                                         base::Deadline::in(world.loop, 30s));
    EXPECT_TRUE(stream) << base::to_string(stream.error());
    if (!stream) co_return;
    const std::string text(bytes, static_cast<char>('a' + shard));
    const auto written =
        co_await (*stream)->write(base::as_bytes(text), base::Deadline::in(world.loop, 30s));
    EXPECT_TRUE(written);
    const auto got = co_await read_exactly(**stream, bytes, base::Deadline::in(world.loop, 60s));
    if (got && *got == text) ++answered;
    (*stream)->close();
}

// T10
TEST(Steering, EveryShardTalksThroughOnePortAndLearnsItsNeighbours) {
    SteeredWorld world;
    auto listener = *world.server->listen(*base::SocketAddress::parse("[::]:25"), {});
    auto listener4 = *world.server->listen(*base::SocketAddress::parse("0.0.0.0:25"), {});
    world.loop.spawn(serve_echo(world.loop, *listener), "serve");
    world.loop.spawn(serve_echo(world.loop, *listener4), "serve");
    std::size_t answered = 0;
    for (unsigned i = 0; i < 60; ++i) {
        const auto remote = base::SocketAddress::parse(i % 2 == 0 ? "10.0.0.2:25" : "[fd00::2]:25");
        world.loop.spawn(ask(world, i % shards, *remote, 100 + i * 997, answered), "ask");
    }
    EXPECT_TRUE(world.run_until([&] { return answered == 60; }));
    EXPECT_EQ(answered, 60U);
    EXPECT_GT(world.steering.counters().forwarded, 100U);
    EXPECT_EQ(world.steering.counters().dropped_full, 0U);
    for (const auto& client : world.clients)
        EXPECT_EQ(client->statistics().stack.segments_unknown, 0U);
    world.loop.drop_tasks();
    listener.reset();
    listener4.reset();
}

// T72
TEST(Steering, AFullRingDropsAreCountedAndTheFlowRecovers) {
    SteeredWorld world;
    auto listener = *world.server->listen(*base::SocketAddress::parse("10.0.0.2:25"), {});
    world.loop.spawn(serve_echo(world.loop, *listener), "serve");
    std::size_t answered = 0;
    for (unsigned i = 0; i < 40; ++i)
        world.loop.spawn(ask(world, 2, listener->local(), 150'000, answered), "ask");
    EXPECT_TRUE(world.run_until([&] { return world.steering.counters().forwarded > 1500; }));
    world.stopped = 2; // as if that shard's thread stood still for a while
    EXPECT_FALSE(world.run_until([&] { return false; }, 300ms));
    EXPECT_GT(world.steering.counters().dropped_full, 0U);
    world.stopped = shards;
    EXPECT_TRUE(world.run_until([&] { return answered == 40; }));
    EXPECT_EQ(answered, 40U);
    world.loop.drop_tasks();
    listener.reset();
}

} // namespace
} // namespace dataplane::net::stack
