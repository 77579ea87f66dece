// limits_test.cc: connections, reuse, rates and fairness, on one dispatcher and on several that
// share a ledger.
#include "tests/dataplane/delivery/delivery_fixture.h"

#include <algorithm>
#include <ranges>
#include <set>

namespace tests {
namespace {

using telemetry::Counter;

class DeliveryLimits : public DeliveryFixture {};

TEST_F(DeliveryLimits, ConnectionsGrowWithTheBacklogUpToTheLimit) {
    rules.default_site.connections_max = 7;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when(".", {.delay = 1s});
    start();
    for (int i = 0; i < 100; ++i)
        submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(host.open_max, 7U);
    EXPECT_EQ(host.accepted.size(), 100U);
}

TEST_F(DeliveryLimits, OneMailAtATimeNeedsOneConnection) {
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    start();
    for (int i = 0; i < 30; ++i) {
        submit({"a@dest.example"});
        ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    }
    EXPECT_EQ(host.connections, 1U);
}

TEST_F(DeliveryLimits, UnusedConnectionIsClosedAfterItsIdleTime) {
    rules.default_site.idle = 5s;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    start();
    submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    pass(4s);
    EXPECT_EQ(host.open, 1U);
    pass(2s);
    EXPECT_EQ(host.open, 0U);
    EXPECT_EQ(host.count("QUIT"), 1U);
    EXPECT_EQ(dispatcher->connection_count(), 0U);
}

TEST_F(DeliveryLimits, ConnectionCarriesItsShareAndNoMore) {
    rules.default_site.messages_per_connection_max = 8;
    rules.default_site.connections_max = 1;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    start();
    for (int i = 0; i < 30; ++i)
        submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    std::map<unsigned, int> per_connection;
    for (const auto& mail : host.accepted)
        ++per_connection[mail.connection];
    for (const auto& [connection, count] : per_connection)
        EXPECT_LE(count, 8) << connection;
    EXPECT_EQ(host.accepted.size(), 30U);
    EXPECT_EQ(host.open_max, 1U);
}

TEST_F(DeliveryLimits, DomainsOfOneSiteShareItsConnections) {
    rules.default_site.connections_max = 2;
    for (int i = 0; i < 20; ++i)
        resolver.records["d" + std::to_string(i) + ".example"] = {{10, "mx.example"}};
    resolver.hosts["mx.example"] = {"192.0.2.1"};
    ScriptedPeer& host = peer("192.0.2.1:25");
    host.when(".", {.delay = 100ms});
    start();
    for (int i = 0; i < 40; ++i)
        submit({"a@d" + std::to_string(i % 20) + ".example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(host.open_max, 2U);
    EXPECT_EQ(dispatcher->site_count(), 1U);
}

TEST_F(DeliveryLimits, LimitsAreFoundBySiteAndByDomain) {
    rules.sites["(mx1|mx2).big.example"].connections_max = 1;
    rules.sites["slow.example"].connections_max = 2;
    resolver.records["a.example"] = {{10, "mx1.big.example"}, {10, "mx2.big.example"}};
    resolver.hosts["mx1.big.example"] = {"192.0.2.1"};
    resolver.hosts["mx2.big.example"] = {"192.0.2.1"};
    ScriptedPeer& big = peer("192.0.2.1:25");
    ScriptedPeer& slow = simple_site("slow.example", "192.0.2.2");
    for (ScriptedPeer* each : {&big, &slow})
        each->when(".", {.delay = 1s});
    start();
    for (int i = 0; i < 20; ++i) {
        submit({"a@a.example"});
        submit({"a@slow.example"});
    }
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(big.open_max, 1U);
    EXPECT_EQ(slow.open_max, 2U);
}

// Goal: no window of a second holds more than the rate, and the rate is used up. Method: the peer
// keeps the time of each mail; several connections compete.
TEST_F(DeliveryLimits, MessageRateIsExact) {
    rules.default_site.messages_per_second_max = 20;
    rules.default_site.connections_max = 5;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    start();
    for (int i = 0; i < 200; ++i)
        submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    std::vector<base::TimePoint> times;
    for (const auto& mail : host.accepted)
        times.push_back(mail.time);
    std::ranges::sort(times);
    ASSERT_EQ(times.size(), 200U);
    for (std::size_t i = 20; i < times.size(); ++i) {
        // One window is 20 gaps of 50 ms; a timer's tick and the network may move each end by 2 ms.
        ASSERT_GE(times[i] - times[i - 20], 1s - 4ms) << i;
    }
    EXPECT_LE(times.back() - times.front(), 10s + 500ms); // and it is used
}

TEST_F(DeliveryLimits, ShardsShareConnectionsAndRate) {
    rules.default_site.connections_max = 3;
    rules.default_site.messages_per_second_max = 50;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when(".", {.delay = 20ms});
    // Two dispatchers with one ledger, as two shards; each message goes to either in turn.
    struct Split final : queue::ReadySink {
        void message_ready(queue::MessageRef message) override {
            shards[turn++ % 2]->message_ready(std::move(message));
        }
        std::array<delivery::Dispatcher*, 2> shards{};
        unsigned turn = 0;
    } split;
    slot.replace(std::make_shared<const policy::Policy>(rules));
    split.shards = {&add_dispatcher(), &add_dispatcher()};
    queue->set_sink(split);
    for (int i = 0; i < 200; ++i)
        submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_LE(host.open_max, 3U);
    std::vector<base::TimePoint> times;
    for (const auto& mail : host.accepted)
        times.push_back(mail.time);
    std::ranges::sort(times);
    ASSERT_EQ(times.size(), 200U);
    for (std::size_t i = 50; i < times.size(); ++i)
        ASSERT_GE(times[i] - times[i - 50], 1s - 5ms) << i;
}

/// Two dispatchers with one ledger, as two shards: the tenant "second" is the other one's.
class DeliveryShards : public DeliveryLimits {
protected:
    struct Split final : queue::ReadySink {
        void message_ready(queue::MessageRef message) override {
            const bool second = message->envelope.tenant() == "second";
            shards[second ? 1 : 0]->message_ready(std::move(message));
        }
        std::array<delivery::Dispatcher*, 2> shards{};
    };
    void start_shards() {
        rules.default_site.messages_per_connection_max = 1'000'000;
        slot.replace(std::make_shared<const policy::Policy>(rules));
        split_.shards = {&add_dispatcher(), &add_dispatcher()};
        queue->set_sink(split_);
    }
    void submit_to(unsigned shard, int count, const char* recipient = "a@dest.example") {
        for (int i = 0; i < count; ++i) {
            submit({recipient}, "a\r\n", [shard](queue::Envelope& envelope) {
                if (shard == 1) envelope.set_tenant("second");
            });
        }
    }
    [[nodiscard]] std::size_t open_of(unsigned shard) const {
        return split_.shards[shard]->connection_count();
    }

private:
    Split split_;
};

// Goal: with one connection for two shards that both have much to send, neither starves.
TEST_F(DeliveryShards, OneConnectionGoesRoundBetweenShards) {
    rules.default_site.connections_max = 1;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when(".", {.delay = 10ms});
    start_shards();
    for (int i = 0; i < 300; ++i) {
        submit_to(0, 1, "first@dest.example");
        submit_to(1, 1, "second@dest.example");
    }
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(host.open_max, 1U);
    ASSERT_EQ(host.accepted.size(), 600U);
    const auto first_half =
        std::ranges::count_if(host.accepted | std::views::take(300), [](const AcceptedMail& mail) {
            return mail.recipients[0].address.starts_with("second");
        });
    EXPECT_NEAR(static_cast<double>(first_half), 150.0, 60.0);
}

TEST_F(DeliveryShards, ShardThatComesSecondGetsItsShareOfConnectionsInUse) {
    rules.default_site.connections_max = 20;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when(".", {.delay = 50ms});
    start_shards();
    submit_to(0, 3000);
    ASSERT_TRUE(wait_for([&] { return open_of(0) == 20; }, 1s));
    submit_to(1, 3000);
    EXPECT_TRUE(wait_for([&] { return open_of(1) == 10; }, 4s));
    EXPECT_EQ(open_of(0), 10U);
    const unsigned made = host.connections;
    pass(500ms); // and there it stays
    EXPECT_EQ(host.connections, made);
    EXPECT_EQ(host.open_max, 20U);
}

// Goal: idle connections do not keep another shard waiting, not even one that has its share.
TEST_F(DeliveryShards, IdleConnectionsGoToTheShardThatHasMail) {
    rules.default_site.connections_max = 20;
    rules.default_site.idle = 60s;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when(".", {.delay = 50ms});
    start_shards();
    submit_to(0, 2000);
    ASSERT_TRUE(wait_for([&] { return open_of(0) == 20; }, 1s));
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    pass(1s);
    ASSERT_EQ(open_of(0), 20U);
    submit_to(1, 3000);
    EXPECT_TRUE(wait_for([&] { return open_of(1) == 20; }, 4s));
    EXPECT_EQ(open_of(0), 0U);
    EXPECT_EQ(host.open_max, 20U);
}

TEST_F(DeliveryShards, IdleConnectionsStayWhileNobodyWantsThem) {
    rules.default_site.connections_max = 20;
    rules.default_site.idle = 60s;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    start_shards();
    submit_to(0, 50);
    submit_to(1, 50);
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    const std::size_t open = host.open;
    pass(50s);
    EXPECT_EQ(host.open, open);
    pass(11s);
    EXPECT_EQ(host.open, 0U);
}

TEST_F(DeliveryLimits, TenantsOfOneSiteTakeTurns) {
    rules.default_site.connections_max = 1;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when(".", {.delay = 50ms});
    start();
    const auto from = [](std::string tenant) {
        return [tenant](queue::Envelope& envelope) { envelope.set_tenant(tenant); };
    };
    for (int i = 0; i < 100; ++i)
        submit({"bulk@dest.example"}, "a\r\n", from("bulk"));
    for (int i = 0; i < 5; ++i)
        submit({"urgent@dest.example"}, "a\r\n", from("small"));
    const std::size_t sent_before = host.accepted.size();
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    std::size_t last_urgent = 0;
    for (std::size_t i = 0; i < host.accepted.size(); ++i) {
        if (host.accepted[i].recipients[0].address.starts_with("urgent")) last_urgent = i;
    }
    EXPECT_LE(last_urgent, sent_before + 12);
}

// Goal: a site that answers "too many connections" while others work keeps what it has, and loses
// no mail.
TEST_F(DeliveryLimits, RefusedConnectionBesideWorkingOnesStopsTheGrowthOnly) {
    rules.default_site.connections_max = 10;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when(".", {.delay = 200ms});
    start();
    submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    host.reply("connect", "421 4.7.0 too many connections");
    for (int i = 0; i < 30; ++i)
        submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(host.accepted.size(), 31U);
    EXPECT_TRUE(events.of(telemetry::EventType::transient_failure).empty());
    EXPECT_LE(host.connections, 4U);
}

} // namespace
} // namespace tests
