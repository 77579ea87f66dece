// Goal: two warm stacks talk without calling malloc: no allocation for a request, its answer, an ACK, a timer or a wait,
// nor for a connection that comes and goes. Method: this binary counts operator new. The simulated link below
// them is warm as well by then.
#include "dataplane/base/frame_pool.h"
#include "tests/dataplane/net/kernel/counting_new.h"
#include "tests/dataplane/net/stack/world.h"

namespace dataplane::net::stack {
namespace {

using kernel::allocation_count;

constexpr std::string_view request = "MAIL FROM:<somebody@example.com> SIZE=4096\r\n";

base::Task<void> ask(World& world, base::Stream& stream, int rounds, int& answered) {
    for (int i = 0; i < rounds; ++i) {
        const auto written = co_await stream.write(base::as_bytes(request), world.in(60s));
        if (!written) co_return;
        for (std::size_t got = 0; got < request.size();) {
            const auto filled = co_await stream.fill(world.in(60s));
            if (!filled) co_return;
            got += stream.unread().size();
            stream.consume(stream.unread().size());
        }
        ++answered;
    }
}

base::Task<void> call_once(World& world, base::SocketAddress remote, int& answered) {
    auto stream = co_await world.client.connect(remote, std::nullopt, world.in(60s));
    if (!stream) co_return;
    co_await ask(world, **stream, 1, answered);
    (*stream)->close();
}

struct StackAllocation : testing::Test {
    void SetUp() override {
        if (!base::frames_are_pooled)
            GTEST_SKIP() << "AddressSanitizer builds do not pool coroutine frames";
        listener = world.listen();
        world.loop.spawn(serve_echo(world.loop, *listener), "serve");
    }
    static WorldOptions options() {
        WorldOptions options;
        options.client.time_wait_max = options.server.time_wait_max = 64;
        return options;
    }
    World world{options()};
    std::unique_ptr<base::Listener> listener;
    int answered = 0;
};

TEST_F(StackAllocation, TenThousandRequestsOfAWarmPairAllocateNothing) {
    constexpr int connections = 20;
    std::vector<base::StreamPtr> streams;
    for (int i = 0; i < connections; ++i) {
        Connected opened;
        world.loop.spawn(
            connect_once(world.client, listener->local(), std::nullopt, world.in(60s), opened),
            "connect");
        ASSERT_TRUE(world.run_until([&] { return opened.has_value(); }));
        streams.push_back(std::move(**opened));
    }
    const auto play = [&](int rounds) {
        answered = 0;
        for (const base::StreamPtr& stream : streams)
            world.loop.spawn(ask(world, *stream, rounds, answered), "ask");
        world.run_until([&] { return answered == rounds * connections; });
    };
    play(100);
    const std::uint64_t before = allocation_count();
    play(500);
    EXPECT_EQ(allocation_count() - before, 0U);
    EXPECT_EQ(answered, 500 * connections);
    streams.clear();
    world.loop.drop_tasks();
}

TEST_F(StackAllocation, ConnectionsThatComeAndGoAllocateNothing) {
    const auto play = [&](int count) {
        answered = 0;
        for (int i = 0; i < count; i += 10) {
            for (int j = 0; j < 10; ++j)
                world.loop.spawn(call_once(world, listener->local(), answered), "call");
            world.run_until([&] { return answered == i + 10; });
        }
    };
    play(500);
    const std::uint64_t before = allocation_count();
    play(1000);
    EXPECT_EQ(allocation_count() - before, 0U);
    EXPECT_EQ(answered, 1000);
    world.loop.drop_tasks();
}

} // namespace
} // namespace dataplane::net::stack
