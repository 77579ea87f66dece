// The two dialogues against each other, over the simulated net.
#include "dataplane/loadgen/audit.h"
#include "dataplane/loadgen/sink.h"
#include "dataplane/loadgen/source.h"
#include "tests/support/sim_net.h"

#include <filesystem>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <unistd.h>

namespace dataplane::loadgen {
namespace {

using namespace std::chrono_literals;

struct World {
    base::ManualClock clock;
    base::Loop loop{clock};
    tests::SimNet net{loop};
    std::optional<LedgerWriter> source_ledger, sink_ledger;
    std::optional<Sink> sink;
    std::optional<Source> source;

    ~World() { loop.drop_tasks(); }

    void start(SinkOptions sink_options, SourceOptions source_options, MessagePattern pattern) {
        const auto address = *base::SocketAddress::parse("192.0.2.1:25");
        sink_options.addresses = {address};
        source_options.targets = {address};
        sink.emplace(loop, net, sink_options, nullptr, sink_ledger ? &*sink_ledger : nullptr);
        ASSERT_TRUE(sink->start());
        source.emplace(loop, net, source_options, MessageMaker(pattern), nullptr,
                       source_ledger ? &*source_ledger : nullptr);
        source->start();
    }
    [[nodiscard]] bool finish() {
        return tests::run_until(loop, clock, [&] { return source->finished(); }, 10min);
    }
};

struct Manner {
    bool pipelining, chunking;
};
class EveryManner : public testing::TestWithParam<Manner> {};
INSTANTIATE_TEST_SUITE_P(SourceSink, EveryManner,
                         testing::Values(Manner{true, true}, Manner{true, false},
                                         Manner{false, true}, Manner{false, false}));

TEST_P(EveryManner, EachMessageArrivesOnceAndWhole) {
    World world;
    world.start({},
                {.connections = 7,
                 .messages = 200,
                 .pipelining = GetParam().pipelining,
                 .chunking = GetParam().chunking},
                {.recipient_count = 3, .domain_count = 4, .bytes_min = 600, .bytes_max = 20'000});
    ASSERT_TRUE(world.finish());
    EXPECT_EQ(world.source->tally().accepted, 200U);
    EXPECT_EQ(world.source->tally().unknown, 0U);
    EXPECT_EQ(world.source->tally().accept_latency_ns.count(), 200U);
    EXPECT_EQ(world.sink->tally().messages, 200U);
    EXPECT_EQ(world.sink->tally().unique, 600U);
    EXPECT_EQ(world.sink->tally().duplicated, 0U);
    EXPECT_EQ(world.sink->tally().altered, 0U);
    EXPECT_EQ(world.sink->tally().foreign, 0U);
}

TEST_P(EveryManner, RefusedRecipientsAreCountedAndTheConnectionGoesOn) {
    World world;
    world.start({.manner = {.reply_4xx_share = 0.3, .reply_5xx_share = 0.2}},
                {.connections = 3,
                 .messages = 300,
                 .pipelining = GetParam().pipelining,
                 .chunking = GetParam().chunking},
                {.recipient_count = 2, .bytes_min = 600, .bytes_max = 600});
    ASSERT_TRUE(world.finish());
    const SourceTally& source = world.source->tally();
    const SinkTally& sink = world.sink->tally();
    EXPECT_EQ(source.sent, 300U);
    EXPECT_EQ(source.accepted, sink.messages);
    EXPECT_EQ(source.accepted + source.transient + source.permanent, 300U);
    EXPECT_GT(source.transient, 10U);
    EXPECT_EQ(source.connections_made, 3U);
    EXPECT_EQ(sink.unique + sink.refused_4xx + sink.refused_5xx, 600U);
    EXPECT_GT(sink.refused_4xx, 100U);
    EXPECT_GT(sink.refused_5xx, 60U);
}

TEST(SourceSink, RefusalAtTheEndOfDataIsNoAcceptance) {
    World world;
    world.start({.manner = {.reply_4xx_share = 1, .refuse_at = RefuseAt::data}}, {.messages = 20},
                {});
    ASSERT_TRUE(world.finish());
    EXPECT_EQ(world.source->tally().accepted, 0U);
    EXPECT_EQ(world.source->tally().transient, 20U);
    EXPECT_EQ(world.sink->tally().received, 0U);
}

TEST(SourceSink, OpenLoopLatencyCountsFromWhenAMessageWasDue) {
    World world;
    // One connection, 100 ms for each answer, but 20 messages a second are due: each waits 50 ms
    // longer than the one before.
    world.start({.manner = {.delay = 100ms}}, {.connections = 1, .messages = 40, .rate_per_s = 20},
                {});
    ASSERT_TRUE(world.finish());
    const Histogram& latency = world.source->tally().accept_latency_ns;
    EXPECT_GT(latency.max(), 2'000'000'000U);
    EXPECT_LT(latency.max(), 2'400'000'000U);
}

TEST(SourceSink, ClosedLoopLatencyIsTheAnswersAlone) {
    World world;
    world.start({.manner = {.delay = 100ms}}, {.connections = 1, .messages = 10}, {});
    ASSERT_TRUE(world.finish());
    const Histogram& latency = world.source->tally().accept_latency_ns;
    EXPECT_GE(latency.percentile(0.01), 100'000'000U);
    EXPECT_LT(latency.max(), 120'000'000U);
}

// Goal: a message whose answer was cut off is neither accepted nor refused, and the ledgers still
// add up. Method: reset everything every 7 ms of simulated time while 500 messages go through.
TEST(SourceSink, BrokenConnectionsLeaveNothingUnaccountedFor) {
    const std::filesystem::path folder = std::filesystem::temp_directory_path() /
                                         ("millrace-loadgen-test-" + std::to_string(getpid()));
    std::filesystem::create_directories(folder);
    {
        World world;
        world.source_ledger.emplace(world.loop, folder / "source");
        world.sink_ledger.emplace(world.loop, folder / "sink");
        world.start({.manner = {.delay = 2ms}},
                    {.connections = 10, .messages = 500, .reconnect_limit = 60s}, {});
        const auto done = [&] { return world.source->finished(); };
        for (int i = 0; i < 4000 && !done(); ++i) {
            const base::TimePoint until = world.clock.now() + 7ms;
            static_cast<void>(tests::run_until(world.loop, world.clock, done, 7ms));
            world.clock.advance_to(until);
            world.net.reset_all();
        }
        ASSERT_TRUE(world.finish());
        const SourceTally& tally = world.source->tally();
        EXPECT_EQ(tally.sent, 500U);
        EXPECT_EQ(tally.accepted + tally.transient + tally.unknown, 500U);
        EXPECT_GT(tally.unknown, 0U);
        EXPECT_GT(tally.connections_made, 20U);
    }
    std::ifstream source(folder / "source"), sink(folder / "sink");
    const Audit result = audit(source, sink);
    EXPECT_TRUE(result.passed()) << to_text(result);
    EXPECT_EQ(result.unexplained.count, 0U) << to_text(result);
    EXPECT_GT(result.unknown_delivered, 0U);
    std::filesystem::remove_all(folder);
}

// Goal: what a relay says cannot take over the terminal it is shown on, nor spoil a page or a file.
TEST(SourceSink, AHostileBannerIsShownAsText) {
    World world;
    const auto address = *base::SocketAddress::parse("192.0.2.1:25");
    struct Hostile {
        static base::Task<void> serve(base::Listener& listener) {
            for (;;) {
                auto stream = co_await listener.accept(base::Deadline::never());
                if (!stream) co_return;
                Dialogue dialogue(std::move(*stream));
                dialogue.out = "554 \x1b]0;owned\a\x1b[2J\xff <script>\r\n";
                static_cast<void>(co_await dialogue.flush(base::Deadline::never()));
                dialogue.close();
            }
        }
    };
    auto listener = world.net.listen(address, {});
    ASSERT_TRUE(listener);
    world.loop.spawn(Hostile::serve(**listener), "hostile");
    world.source.emplace(
        world.loop, world.net,
        SourceOptions{.targets = {address}, .messages = 1, .reconnect_limit = 300ms},
        MessageMaker({}), nullptr, nullptr);
    world.source->start();
    ASSERT_TRUE(world.finish());
    EXPECT_EQ(world.source->tally().last_error, "554 ?]0;owned??[2J? <script>");
    world.loop.drop_tasks();
}

TEST(SourceSink, SourceGivesUpWhenNobodyListensAnyMore) {
    World world;
    SourceOptions options{.connections = 2, .messages = 10, .reconnect_limit = 300ms};
    options.targets = {*base::SocketAddress::parse("192.0.2.1:25")};
    world.net.fail_connects_to(options.targets[0], base::NetError::refused);
    world.source.emplace(world.loop, world.net, options, MessageMaker({}), nullptr, nullptr);
    world.source->start();
    ASSERT_TRUE(world.finish());
    EXPECT_EQ(world.source->tally().sent, 0U);
    EXPECT_NE(world.source->tally().last_error.find("refused"), std::string::npos);
}

TEST(SourceSink, StopGivesUpConnectionsThatAreStillBeingOpened) {
    World world;
    world.start({.manner = {.tarpit = 1h}}, {.connections = 3, .time = 24h, .reply_limit = 2h}, {});
    tests::run_until(world.loop, world.clock, [] { return false; }, 1s);
    EXPECT_EQ(world.source->tally().connections_open, 3U);
    world.source->stop();
    EXPECT_TRUE(
        tests::run_until(world.loop, world.clock, [&] { return world.source->finished(); }, 1s));
    EXPECT_EQ(world.source->tally().connections_open, 0U);
    EXPECT_EQ(world.source->tally().connections_broken, 0U);
    EXPECT_EQ(world.source->tally().last_error, "");
}

/// TLS without encryption. A client that has been here before, once, resumes; it can be watched who came.
class Turnstile final : public TlsWrapper {
public:
    base::Task<base::NetResult<base::StreamPtr>> wrap(base::StreamPtr plain, base::Deadline,
                                                      std::size_t client) override {
        ++visits[client];
        co_return std::move(plain);
    }
    std::map<std::size_t, int> visits;
};

TEST(SourceSink, EachConnectionComesAgainAsTheClientThatItWas) {
    World world;
    Turnstile sink_tls, resuming, fresh;
    const auto address = *base::SocketAddress::parse("192.0.2.1:25");
    world.sink.emplace(world.loop, world.net, SinkOptions{.addresses = {address}}, &sink_tls,
                       nullptr);
    ASSERT_TRUE(world.sink->start());
    world.source.emplace(world.loop, world.net,
                         SourceOptions{.targets = {address},
                                       .connections = 5,
                                       .messages = 1000,
                                       .tls = SourceTls::starttls,
                                       .resumption_share = 0.5,
                                       .messages_per_connection = 2},
                         MessageMaker({.bytes_min = 600, .bytes_max = 600}), &resuming, nullptr,
                         &fresh);
    world.source->start();
    ASSERT_TRUE(world.finish());
    ASSERT_EQ(resuming.visits.size(), 5U); // and no client is two connections
    int may_resume = 0, may_not = 0;
    for (std::size_t client = 0; client < 5; ++client) {
        EXPECT_GT(resuming.visits[client], 25) << client;
        may_resume += resuming.visits[client];
        may_not += fresh.visits[client];
    }
    EXPECT_GE(may_resume + may_not, 500);
    EXPECT_NEAR(static_cast<double>(may_resume) / (may_resume + may_not), 0.5, 0.08);
}

TEST(SourceSink, TheFirstConnectionsAreSpreadOverTheRamp) {
    World world;
    world.start({}, {.connections = 10, .messages = 1000, .rate_per_s = 10, .ramp = 10s}, {});
    tests::run_until(world.loop, world.clock, [] { return false; }, 4500ms);
    EXPECT_EQ(world.source->tally().connections_made, 5U);
    tests::run_until(world.loop, world.clock, [] { return false; }, 10s);
    EXPECT_EQ(world.source->tally().connections_made, 10U);
}

TEST(SourceSink, SinkCountsASecondCopyAsDuplicate) {
    World world;
    world.start({}, {.messages = 5}, {});
    ASSERT_TRUE(world.finish());
    Source again(world.loop, world.net,
                 {.targets = {*base::SocketAddress::parse("192.0.2.1:25")},
                  .messages = 3,
                  .first_sequence = 1},
                 MessageMaker({}), nullptr, nullptr);
    again.start();
    ASSERT_TRUE(tests::run_until(world.loop, world.clock, [&] { return again.finished(); }, 1min));
    EXPECT_EQ(world.sink->tally().unique, 5U);
    EXPECT_EQ(world.sink->tally().duplicated, 3U);
}

} // namespace
} // namespace dataplane::loadgen
