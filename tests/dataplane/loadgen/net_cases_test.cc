// The measured dialogues of `millrace-bench net`, client against server, over the simulated net.
#include "dataplane/loadgen/net_cases.h"
#include "tests/support/sim_net.h"

#include <gtest/gtest.h>

namespace dataplane::loadgen {
namespace {

using namespace std::chrono_literals;

struct World {
    base::ManualClock clock;
    base::Loop loop{clock};
    tests::SimNet net{loop};
    base::SlabPool pool{32768, 1};
    NetServer server{loop, net};
    std::optional<NetClient> client;

    ~World() { loop.drop_tasks(); }

    void start(NetCase which, std::size_t connections) {
        const auto address = *base::SocketAddress::parse("192.0.2.1:7400");
        ASSERT_TRUE(server.listen(address));
        client.emplace(
            loop, net, pool,
            NetClientOptions{.which = which, .connections = connections, .servers = {address}});
        client->start();
    }
    [[nodiscard]] bool until(const std::function<bool()>& done) {
        return tests::run_until(loop, clock, done, 1min);
    }
};

class EachExchange : public testing::TestWithParam<NetCase> {};
INSTANTIATE_TEST_SUITE_P(NetCases, EachExchange,
                         testing::Values(NetCase::short_connections, NetCase::request,
                                         NetCase::half_close),
                         [](const auto& each) { return std::string(to_string(each.param)); });

TEST_P(EachExchange, IsCountedOnceAtBothEnds) {
    World world;
    world.start(GetParam(), 5);
    ASSERT_TRUE(world.until([&] { return world.client->tally().exchanges >= 100; }));
    const NetTally& asked = world.client->tally();
    const NetTally& answered = world.server.tally();
    EXPECT_EQ(asked.failed, 0U);
    EXPECT_EQ(answered.failed, 0U);
    EXPECT_LE(asked.open, 5U);
    EXPECT_EQ(asked.bytes, asked.exchanges * 600);
    EXPECT_GE(answered.exchanges, asked.exchanges); // the last answers are on their way
    EXPECT_LE(answered.exchanges, asked.exchanges + 5);
}

TEST_P(EachExchange, ThatBreaksCountsAsFailedAndTheNextGoesOn) {
    World world;
    world.start(GetParam(), 5);
    const NetTally& tally = world.client->tally();
    ASSERT_TRUE(world.until([&] { return tally.exchanges >= 20 && tally.open > 0; }));
    world.net.reset_all();
    ASSERT_TRUE(world.until([&] { return tally.exchanges >= 60; }));
    EXPECT_GT(tally.failed, 0U);
    EXPECT_LE(tally.failed, 5U);
}

TEST(NetCases, BulkArrivesAsItWasSent) {
    World world;
    world.start(NetCase::bulk, 1);
    ASSERT_TRUE(world.until([&] { return world.server.tally().bytes >= 4'000'000; }));
    EXPECT_EQ(world.client->tally().open, 1U);
    EXPECT_EQ(world.client->tally().failed, 0U);
    // What the client counts was taken by the transport; at most a write's worth more is under way.
    EXPECT_LE(world.server.tally().bytes, world.client->tally().bytes + 4U * 32768);
}

TEST(NetCases, IdleConnectionsAreAllOpenWhenTheyHaveSettled) {
    World world;
    world.start(NetCase::idle, 50);
    ASSERT_TRUE(world.until([&] { return world.server.tally().open == 50; }));
    EXPECT_TRUE(world.client->settled());
    EXPECT_EQ(world.client->tally().open, 50U);
    EXPECT_EQ(world.net.connection_count(), 50U);
}

TEST(NetCases, ServerCountsWhatNobodyUnderstands) {
    World world;
    const auto address = *base::SocketAddress::parse("192.0.2.1:7400");
    ASSERT_TRUE(world.server.listen(address));
    const auto ask = [](World& in, base::SocketAddress where) -> base::Task<bool> {
        auto stream = co_await in.net.connect(where, std::nullopt, base::Deadline::in(in.loop, 5s));
        if (!stream) co_return false;
        auto written =
            co_await (*stream)->write(base::as_bytes("?"), base::Deadline::in(in.loop, 5s));
        if (!written) co_return false;
        auto answer = co_await (*stream)->fill(base::Deadline::in(in.loop, 5s));
        co_return !answer.has_value();
    };
    EXPECT_TRUE(tests::run(world.loop, world.clock, ask(world, address)));
    EXPECT_EQ(world.server.tally().failed, 1U);
    EXPECT_EQ(world.server.tally().open, 0U);
}

} // namespace
} // namespace dataplane::loadgen
