// The sink as the world, the source's open loop, the auditor and the intruders, over the simulated net.
#include "dataplane/loadgen/audit.h"
#include "dataplane/loadgen/run/intruders.h"
#include "dataplane/loadgen/sink.h"
#include "dataplane/loadgen/source.h"
#include "tests/support/sim_net.h"

#include <gtest/gtest.h>
#include <map>

namespace dataplane::loadgen {
namespace {

using namespace std::chrono_literals;

struct World {
    base::ManualClock clock;
    base::Loop loop{clock};
    tests::SimNet net{loop, {.fragment = false}};
    base::SocketAddress address = *base::SocketAddress::parse("192.0.2.1:25");
    Auditor auditor;
    std::optional<Sink> sink;
    std::optional<Source> source;

    ~World() { loop.drop_tasks(); }
    void start(SinkOptions sink_options, SourceOptions source_options, MessagePattern pattern) {
        sink_options.addresses = {address};
        sink.emplace(loop, net, sink_options, nullptr, &auditor);
        ASSERT_TRUE(sink->start());
        send(std::move(source_options), std::move(pattern));
    }
    void send(SourceOptions source_options, MessagePattern pattern) {
        source_options.targets = {address};
        source.emplace(loop, net, source_options, MessageMaker(pattern), nullptr, &auditor);
        source->start();
    }
    [[nodiscard]] bool finish() {
        return tests::run_until(loop, clock, [&] { return source->finished(); }, 30min);
    }
};

MessagePattern to_domains(std::vector<WeightedDomain> domains) {
    return {
        .recipient = "r{seq}-{n}@{domain}", .bytes_min = 600, .bytes_max = 600, .domains = domains};
}

TEST(World, ProvidersAnswerEachInTheirManner) {
    World world;
    Provider strict{
        .name = "strict", .domains = {"strict.example"}, .manner = {.reply_5xx_share = 1}};
    Provider busy{.name = "busy", .domains = {"busy.example"}, .manner = {.reply_4xx_share = 1}};
    world.start({.providers = {strict, busy}}, {.connections = 4, .messages = 900},
                to_domains({{"strict.example", 1}, {"mx.busy.example", 1}, {"kind.example", 1}}));
    ASSERT_TRUE(world.finish());
    const SinkTally& tally = world.sink->tally();
    ASSERT_EQ(tally.providers.size(), 3U);
    EXPECT_EQ(tally.providers[0].taken, tally.unique);
    EXPECT_EQ(tally.providers[1].refused_5xx, world.source->tally().permanent);
    EXPECT_EQ(tally.providers[2].refused_4xx, world.source->tally().transient);
    EXPECT_EQ(tally.providers[1].taken + tally.providers[2].taken, 0U);
    for (const ProviderTally& provider : tally.providers)
        EXPECT_GT(provider.taken + provider.refused_4xx + provider.refused_5xx, 200U)
            << provider.name;
}

TEST(World, ADomainThatOnlyEndsAlikeIsAnother) {
    World world;
    Provider strict{
        .name = "strict", .domains = {"strict.example"}, .manner = {.reply_5xx_share = 1}};
    world.start({.providers = {strict}}, {.messages = 5}, to_domains({{"notstrict.example", 1}}));
    ASSERT_TRUE(world.finish());
    EXPECT_EQ(world.source->tally().accepted, 5U);
}

TEST(World, GreylistingTurnsAwayTheFirstAttemptOnly) {
    World world;
    const SinkOptions sink{.manner = {.greylist = 5s}};
    world.start(sink, {.messages = 10}, to_domains({{"a.example", 1}}));
    ASSERT_TRUE(world.finish());
    EXPECT_EQ(world.source->tally().transient, 10U);
    world.send({.messages = 10}, to_domains({{"a.example", 1}})); // at once: too early
    ASSERT_TRUE(world.finish());
    EXPECT_EQ(world.source->tally().transient, 10U);
    world.clock.advance(5s);
    world.send({.messages = 10}, to_domains({{"a.example", 1}}));
    ASSERT_TRUE(world.finish());
    EXPECT_EQ(world.source->tally().accepted, 10U);
    EXPECT_EQ(world.sink->tally().greylisted, 20U);
}

TEST(World, ConnectionAndMessageLimitsAreKept) {
    World world;
    world.start({.manner = {.delay = 50ms, .connections_max = 2, .messages_per_connection_max = 3}},
                {.connections = 6, .messages = 60, .reconnect_limit = 600s},
                to_domains({{"a.example", 1}}));
    std::uint64_t most = 0;
    ASSERT_TRUE(tests::run_until(
        world.loop, world.clock,
        [&] {
            most = std::max(most, world.source->tally().connections_open);
            return world.source->finished();
        },
        30min));
    EXPECT_GT(world.sink->tally().connections_refused, 0U);
    EXPECT_EQ(world.sink->tally().providers[0].connections_refused,
              world.sink->tally().connections_refused);
    EXPECT_LE(world.sink->tally().unique,
              3 * (world.sink->tally().connections - world.sink->tally().connections_refused));
}

TEST(World, ACutConnectionTakesNoMessage) {
    World world;
    world.start({.manner = {.disconnect_share = 0.3}},
                {.connections = 3, .messages = 300, .reconnect_limit = 600s},
                to_domains({{"a.example", 1}}));
    ASSERT_TRUE(world.finish());
    EXPECT_GT(world.sink->tally().disconnected, 50U);
    EXPECT_EQ(world.source->tally().unknown, world.sink->tally().disconnected);
    const Audit audit = world.auditor.finish();
    EXPECT_EQ(audit.lost.count, 0U);
    EXPECT_EQ(audit.delivered, world.source->tally().accepted);
}

TEST(World, MailOfAnotherRunIsNoneOfThisOne) {
    World world;
    world.start({.run_prefix = "today-"}, {.messages = 3}, to_domains({{"a.example", 1}}));
    ASSERT_TRUE(world.finish());
    MessagePattern ours = to_domains({{"a.example", 1}});
    ours.run = "today-1";
    world.send({.messages = 4}, ours);
    ASSERT_TRUE(world.finish());
    EXPECT_EQ(world.sink->tally().other_runs, 3U);
    EXPECT_EQ(world.sink->tally().foreign, 3U);
    EXPECT_EQ(world.sink->tally().unique, 4U);
}

TEST(World, DomainsAreDrawnByTheirWeights) {
    const MessageMaker maker(to_domains({{"big.example", 67.4}, {"small.example", 32.6}}));
    std::map<std::string, int> seen;
    Message message;
    for (std::uint64_t i = 0; i < 20'000; ++i) {
        maker.make(i, "now", message);
        ++seen[message.recipients[0].substr(message.recipients[0].find('@') + 1)];
    }
    EXPECT_NEAR(seen["big.example"], 13'480, 300);
    EXPECT_NEAR(seen["small.example"], 6'520, 300);
}

TEST(World, SizesAndRecipientsFollowThePattern) {
    MessagePattern pattern = to_domains({{"a.example", 1}, {"b.example", 1}});
    pattern.sizes = {{.bytes_min = 1000, .bytes_max = 1000, .weight = 3},
                     {.bytes_min = 5000, .bytes_max = 6000, .weight = 1}};
    pattern.recipient_count_max = 4;
    ASSERT_EQ(check_pattern(pattern), "");
    const MessageMaker maker(pattern);
    std::map<std::size_t, int> recipients;
    int small = 0;
    Message message;
    for (std::uint64_t i = 0; i < 4'000; ++i) {
        maker.make(i, "now", message);
        ++recipients[message.recipients.size()];
        if (message.content.size() <= 1002)
            ++small;
        else
            EXPECT_GE(message.content.size(), 4990U);
    }
    EXPECT_NEAR(small, 3'000, 120);
    EXPECT_EQ(recipients.size(), 4U);
}

// Goal: no coordinated omission. Method: a relay that answers at once but stands still for the second half of every
// second, open loop at 100/s on 10 connections: a message due in a stall waits for its end, so that latencies are
// evenly spread over 0 to 500 ms for half of the messages, although 40 of 50 cannot even be begun in the stall.
TEST(OpenLoop, LatencyOfKnownStallsIsAsComputed) {
    base::ManualClock clock;
    base::Loop loop{clock};
    tests::SimNet net{loop, {.latency = 10us, .fragment = false}};
    const auto address = *base::SocketAddress::parse("192.0.2.1:25");
    struct Stalling {
        static base::Task<void> serve(base::Loop& loop, base::StreamPtr stream) {
            Dialogue dialogue(std::move(stream));
            dialogue.out += "220 stalling\r\n";
            for (;;) {
                const auto phase = loop.now().time_since_epoch() % 1s;
                if (phase >= 500ms) static_cast<void>(co_await base::sleep_for(loop, 1s - phase));
                const auto sent = co_await dialogue.flush(base::Deadline::never());
                if (!sent) co_return;
                const auto line = co_await dialogue.read_line(base::Deadline::never());
                if (!line) co_return;
                const std::string verb = std::string(line->text.substr(0, 4));
                if (verb == "BDAT") {
                    std::size_t left = std::stoul(std::string(line->text.substr(5)));
                    base::Stream& content = dialogue.content();
                    while (left != 0) {
                        if (content.unread().empty()) {
                            const auto filled = co_await content.fill(base::Deadline::never());
                            if (!filled) co_return;
                        }
                        const std::size_t some = std::min(left, content.unread().size());
                        content.consume(some);
                        left -= some;
                    }
                }
                dialogue.out += verb == "EHLO"
                                    ? "250-stalling\r\n250-PIPELINING\r\n250 CHUNKING\r\n"
                                    : "250 OK\r\n";
            }
        }
        static base::Task<void> accept(base::Loop& loop, base::Listener& listener) {
            for (;;) {
                auto stream = co_await listener.accept(base::Deadline::never());
                if (!stream) co_return;
                loop.spawn(serve(loop, std::move(*stream)), "stalling");
            }
        }
    };
    auto listener = net.listen(address, {});
    ASSERT_TRUE(listener);
    loop.spawn(Stalling::accept(loop, **listener), "accept");
    Source source(
        loop, net,
        {.targets = {address}, .connections = 10, .time = 20s, .rate_per_s = 100, .chunking = true},
        MessageMaker({.bytes_min = 600, .bytes_max = 600}), nullptr, nullptr);
    source.start();
    ASSERT_TRUE(tests::run_until(loop, clock, [&] { return source.finished(); }, 2min));
    const Histogram& latency = source.tally().accept_latency_ns;
    EXPECT_EQ(source.tally().accepted + source.tally().overdue, 2'000U);
    const auto ms = [&](double share) {
        return static_cast<double>(latency.percentile(share)) / 1e6;
    };
    EXPECT_LT(ms(0.45), 5);
    EXPECT_NEAR(ms(0.75), 250, 25);
    EXPECT_NEAR(ms(0.95), 450, 25);
    EXPECT_NEAR(ms(1.0), 500, 12);
    loop.drop_tasks();
}

TEST(OpenLoop, WhatWasDueAndNeverBegunCountsWithItsWait) {
    World world;
    // One connection, a second for each message, ten due a second, for ten seconds: some 90 are never begun.
    world.start({.manner = {.delay = 1s}}, {.connections = 1, .time = 10s, .rate_per_s = 10},
                to_domains({{"a.example", 1}}));
    ASSERT_TRUE(world.finish());
    const SourceTally& tally = world.source->tally();
    EXPECT_EQ(tally.due, 100U);
    EXPECT_EQ(tally.accepted + tally.overdue, 100U);
    EXPECT_GE(tally.overdue, 89U);
    EXPECT_GT(tally.accept_latency_ns.percentile(0.5), 3'000'000'000U);
    EXPECT_EQ(tally.accept_latency_ns.count(), 100U);
}

TEST(OpenLoop, StopEndsTheWaitForMessagesThatAreNotDueYet) {
    World world;
    world.start({}, {.connections = 20, .time = 1h, .rate_per_s = 0.1},
                to_domains({{"a.example", 1}}));
    const base::TimePoint began = world.clock.now();
    static_cast<void>(tests::run_until(world.loop, world.clock, [&] { return false; }, 15s));
    world.source->stop();
    ASSERT_TRUE(world.finish());
    EXPECT_LT(world.clock.now() - began, 20s);
    EXPECT_EQ(world.source->tally().accepted, 2U); // at 0 s and at 10 s
    EXPECT_EQ(world.source->tally().overdue, 0U);
}

// The auditor, with faults put in by hand between a true source and a true sink.
class Tampering : public testing::Test {
protected:
    struct Copy final : Ledger { // keeps what it is given, so that a test can spoil it
        void append(const SourceLine& line) override { sent.push_back(line); }
        void append(const SinkLine& line) override { came.push_back(line); }
        std::vector<SourceLine> sent;
        std::vector<SinkLine> came;
    };
    // Whom each message was for, kept beyond the call that lent it.
    std::map<std::uint64_t, std::vector<std::string>> addresses_;
    void SetUp() override {
        const auto address = *base::SocketAddress::parse("192.0.2.1:25");
        base::ManualClock clock;
        base::Loop loop{clock};
        tests::SimNet net{loop, {.fragment = false}};
        Sink sink(loop, net, {.addresses = {address}}, nullptr, &copy_);
        ASSERT_TRUE(sink.start());
        Source source(loop, net, {.targets = {address}, .connections = 5, .messages = 200},
                      MessageMaker(to_domains({{"a.example", 1}})), nullptr, &copy_);
        source.start();
        ASSERT_TRUE(tests::run_until(loop, clock, [&] { return source.finished(); }, 10min));
        loop.drop_tasks();
        ASSERT_EQ(copy_.sent.size(), 200U);
        ASSERT_EQ(copy_.came.size(), 200U);
        for (SourceLine& line : copy_.sent) {
            for (const SinkLine& arrival : copy_.came) {
                if (arrival.sequence == line.sequence)
                    addresses_[line.sequence].push_back(arrival.recipient);
            }
            line.addresses = &addresses_[line.sequence];
        }
    }
    Audit judged() {
        Auditor one, two; // of two threads
        for (std::size_t i = 0; i < copy_.sent.size(); ++i)
            (i % 2 == 0 ? one : two).append(copy_.sent[i]);
        for (std::size_t i = 0; i < copy_.came.size(); ++i)
            (i % 3 == 0 ? one : two).append(copy_.came[i]);
        one.take_over(std::move(two));
        return one.finish();
    }
    Copy copy_;
};

TEST_F(Tampering, NothingWrongIsNothingFound) {
    const Audit audit = judged();
    EXPECT_TRUE(audit.passed());
    EXPECT_EQ(audit.delivered, 200U);
    for (const Fault* fault : {&audit.lost, &audit.duplicated, &audit.altered, &audit.unexplained,
                               &audit.late, &audit.reordered})
        EXPECT_EQ(fault->count, 0U);
}

TEST_F(Tampering, LossIsFoundAndNamed) {
    const std::uint64_t gone = copy_.came[77].sequence;
    copy_.came.erase(copy_.came.begin() + 77);
    const Audit audit = judged();
    EXPECT_EQ(audit.lost.count, 1U);
    EXPECT_EQ(audit.lost.examples.at(0), "run/" + std::to_string(gone));
    EXPECT_FALSE(audit.passed());
}

TEST_F(Tampering, SwappedEnvelopesAreMisdeliveredAndLost) {
    std::swap(copy_.came[20].recipient, copy_.came[21].recipient);
    const Audit audit = judged();
    EXPECT_EQ(audit.misdelivered.count, 2U);
    EXPECT_EQ(audit.lost.count, 2U);
    EXPECT_FALSE(audit.passed());
}

TEST_F(Tampering, ACopyForSomebodyElseIsMisdeliveredThoughAllHaveTheirs) {
    copy_.came.push_back(copy_.came[20]);
    copy_.came.back().recipient = "spy@z.example";
    const Audit audit = judged();
    EXPECT_EQ(audit.misdelivered.count, 1U);
    EXPECT_EQ(audit.misdelivered.examples.at(0),
              "run/" + std::to_string(copy_.came.back().sequence));
    EXPECT_EQ(audit.lost.count, 0U);
    EXPECT_FALSE(audit.passed());
}

TEST_F(Tampering, TheDomainsCaseIsNobodysChange) {
    for (char& c : copy_.came[20].recipient)
        c = static_cast<char>(c == 'x' ? 'X' : c); // of a.example
    EXPECT_TRUE(judged().passed());
}

TEST_F(Tampering, DuplicationCorruptionAndForgeryAreFound) {
    copy_.came.push_back(copy_.came[5]);
    copy_.came[9].altered = true;
    copy_.came.push_back(copy_.came[11]);
    copy_.came.back().sequence = 999'999;
    const Audit audit = judged();
    EXPECT_EQ(audit.duplicated.count, 1U);
    EXPECT_EQ(audit.altered.count, 1U);
    EXPECT_EQ(audit.unexplained.count, 1U);
    EXPECT_EQ(audit.unexplained.examples.at(0), "run/999999");
    EXPECT_EQ(audit.lost.count, 0U);
}

TEST_F(Tampering, LateAndOvertakenDeliveriesAreFound) {
    for (SinkLine& line : copy_.came) { // one message an hour later than it was
        if (line.sequence == 30) line.time_us += 3'600'000'000;
    }
    for (SourceLine& line :
         copy_.sent) { // the last ten: accepted 5 s later, and so are their arrivals
        if (line.sequence >= 190) line.time_us += 5'000'000;
    }
    for (SinkLine& line : copy_.came) {
        if (line.sequence >= 190) line.time_us += 5'000'000;
    }
    const Audit audit = judged();
    EXPECT_EQ(audit.late.count, 1U);
    EXPECT_EQ(audit.late.examples.at(0), "run/30");
    EXPECT_EQ(audit.reordered.count, 1U); // it came behind messages that were accepted 5 s after it
    EXPECT_EQ(audit.reordered.examples.at(0), "run/30");
    EXPECT_TRUE(audit.passed());
}

TEST(Auditor, WhatTheSinkRefusedForGoodIsNotLost) {
    Auditor auditor;
    const std::vector<std::string> addresses{"a@x.example", "b@x.example", "c@x.example"};
    SourceLine line{.sequence = 1,
                    .outcome = Outcome::accepted,
                    .recipients = 3,
                    .run = "r",
                    .reply = "250",
                    .addresses = &addresses};
    auditor.append(line);
    auditor.append(SinkLine{.sequence = 1, .recipient = "a@x.example", .run = "r"});
    auditor.append_refusal({.recipient = "b@x.example"});
    const Audit audit = auditor.finish();
    EXPECT_EQ(audit.delivered, 1U);
    EXPECT_EQ(audit.refused, 1U);
    EXPECT_EQ(audit.lost.count, 1U);
}

/// A message to these, accepted.
void promise(Auditor& auditor, std::uint64_t sequence, const std::vector<std::string>& addresses) {
    auditor.append(SourceLine{.sequence = sequence,
                              .outcome = Outcome::accepted,
                              .recipients = static_cast<std::uint32_t>(addresses.size()),
                              .run = "r",
                              .reply = "250",
                              .addresses = &addresses});
}

TEST(Auditor, OneRefusalExcusesOneOfTwoMessagesToTheSameAddress) {
    Auditor auditor;
    promise(auditor, 1, {"same@x.example"});
    promise(auditor, 2, {"same@x.example"});
    auditor.append_refusal({.recipient = "same@x.example"});
    EXPECT_EQ(auditor.finish().refused, 1U);
    EXPECT_EQ(auditor.finish().lost.count, 1U); // asked twice: the same answer
    auditor.append_refusal({.recipient = "same@x.example"});
    EXPECT_EQ(auditor.finish().lost.count, 0U);
}

TEST(Auditor, ARefusedMessageExcusesNoOtherMessageAndNoOtherRun) {
    Auditor auditor;
    promise(auditor, 1, {"same@x.example"});
    promise(auditor, 2, {"same@x.example"});
    auditor.append_refusal({.recipient = "same@x.example", .run = "r", .sequence = 7});
    auditor.append_refusal({.recipient = "same@x.example", .run = "older", .sequence = 1});
    EXPECT_EQ(auditor.finish().lost.count, 2U);
    auditor.append_refusal({.recipient = "same@x.example", .run = "r", .sequence = 2});
    const Audit audit = auditor.finish();
    EXPECT_EQ(audit.lost.count, 1U);
    EXPECT_EQ(audit.lost.examples.at(0), "r/1");
}

TEST(Auditor, WhatTheSinkPutOffIsNoLossUntilItIsKnownNotToCome) {
    Auditor one, two;
    promise(one, 1, {"a@x.example"});
    promise(one, 2, {"b@x.example"});
    two.append_refusal({.recipient = "a@x.example", .for_good = false});
    two.append_refusal({.recipient = "b@x.example", .for_good = false});
    two.append(SinkLine{.sequence = 2, .recipient = "b@x.example", .run = "r"});
    one.take_over(std::move(two));
    const Audit audit = one.finish();
    EXPECT_EQ(audit.put_off.count, 1U);
    EXPECT_EQ(audit.put_off.examples.at(0), "r/1");
    EXPECT_EQ(audit.lost.count, 0U);
    EXPECT_EQ(audit.outstanding(), 1U);
    EXPECT_TRUE(audit.passed());
}

TEST(Auditor, MailOfUnknownFateThatCameStandsForNobodyElse) {
    Auditor auditor;
    promise(auditor, 1, {"a@x.example"});
    auditor.append(SourceLine{.sequence = 2, .outcome = Outcome::unknown, .run = "r"});
    auditor.append(SinkLine{.sequence = 2, .recipient = "b@x.example", .run = "r"});
    EXPECT_EQ(auditor.finish().outstanding(), 1U); // as many came as were promised
}

TEST(Reception, LimitsAndGreylistingHoldAcrossThreads) {
    World world;
    const auto reception = std::make_shared<Reception>();
    const auto second = *base::SocketAddress::parse("192.0.2.2:25");
    Sink other(world.loop, world.net,
               {.addresses = {second}, .manner = {.greylist = 5s}, .reception = reception}, nullptr,
               nullptr);
    ASSERT_TRUE(other.start());
    world.start({.manner = {.greylist = 5s}, .reception = reception}, {.messages = 5},
                to_domains({{"a.example", 1}}));
    ASSERT_TRUE(world.finish());
    EXPECT_EQ(world.source->tally().transient, 5U);
    world.clock.advance(6s);
    Source again(world.loop, world.net, {.targets = {second}, .messages = 5},
                 MessageMaker(to_domains({{"a.example", 1}})), nullptr, nullptr);
    again.start();
    ASSERT_TRUE(tests::run_until(world.loop, world.clock, [&] { return again.finished(); }, 1min));
    EXPECT_EQ(again.tally().accepted, 5U); // the other thread has seen them before

    EXPECT_TRUE(reception->enter(3, 1));
    EXPECT_FALSE(reception->enter(3, 1));
    reception->leave(3);
    reception->leave(3);
    EXPECT_TRUE(reception->enter(3, 1));
    reception->leave(3);
    world.loop.drop_tasks(); // before the sink that they serve
}

TEST(World, ATarpitHoldsUpEveryGroupOfCommands) {
    World world;
    world.start({.manner = {.tarpit = 500ms}},
                {.connections = 1, .messages = 4, .pipelining = false, .chunking = true},
                to_domains({{"a.example", 1}}));
    const base::TimePoint began = world.clock.now();
    ASSERT_TRUE(world.finish());
    // Greeting, EHLO, and MAIL, RCPT, BDAT of each message.
    EXPECT_GT(world.clock.now() - began, 14 * 500ms);
    EXPECT_LT(world.clock.now() - began, 17 * 500ms);
    EXPECT_EQ(world.source->tally().accepted, 4U);
}

TEST(World, AProviderWithAnAddressOfItsOwnKeepsItsLimitsThere) {
    World world;
    const auto own = *base::SocketAddress::parse("192.0.2.9:25");
    Provider plain{
        .name = "plain",
        .addresses = {own},
        .manner = {.messages_per_connection_max = 2, .chunking = false, .pipelining = false}};
    world.start({.providers = {plain}}, {.messages = 1}, to_domains({{"a.example", 1}}));
    ASSERT_TRUE(world.finish());
    Source there(world.loop, world.net,
                 {.targets = {own}, .connections = 1, .messages = 6, .chunking = true},
                 MessageMaker(to_domains({{"a.example", 1}})), nullptr, nullptr);
    there.start();
    ASSERT_TRUE(tests::run_until(world.loop, world.clock, [&] { return there.finished(); }, 5min));
    EXPECT_GE(there.tally().connections_made, 2U);
    EXPECT_GT(there.tally().transient, 0U); // 421 for the third on each
    EXPECT_EQ(world.sink->tally().providers.at(1).taken, there.tally().accepted);
}

// Goal: an outage is neither the end of the sending nor left out of the figures. Method: the relay's address refuses
// connections for 30 of 60 seconds, open loop at 10/s.
TEST(OpenLoop, AnOutageIsInTheFiguresAndSendingGoesOnBehindIt) {
    World world;
    world.start({}, {.connections = 5, .time = 60s, .rate_per_s = 10, .reconnect_limit = 0s},
                to_domains({{"a.example", 1}}));
    const auto never = [] { return false; };
    tests::run_until(world.loop, world.clock, never, 15s);
    world.net.fail_connects_to(world.address, base::NetError::refused);
    world.net.reset_all();
    tests::run_until(world.loop, world.clock, never, 30s);
    world.net.heal(world.address);
    ASSERT_TRUE(world.finish());
    const SourceTally& tally = world.source->tally();
    EXPECT_EQ(tally.due, 600U);
    EXPECT_GE(tally.accepted, 590U);
    EXPECT_EQ(tally.sent, 600U);
    EXPECT_EQ(tally.overdue, 0U);
    EXPECT_NEAR(static_cast<double>(tally.accept_latency_ns.percentile(0.74)) / 1e9, 15, 1.5);
}

TEST(OpenLoop, ASourceThatGivesUpAccountsForWhatWasDueByThen) {
    World world;
    world.start({}, {.connections = 5, .time = 1h, .rate_per_s = 10, .reconnect_limit = 10s},
                to_domains({{"a.example", 1}}));
    tests::run_until(world.loop, world.clock, [] { return false; }, 5s);
    world.net.fail_connects_to(world.address, base::NetError::refused);
    world.net.reset_all();
    ASSERT_TRUE(world.finish());
    const SourceTally& tally = world.source->tally();
    EXPECT_GT(tally.overdue, 90U); // ten seconds of ten
    EXPECT_EQ(tally.due, tally.sent + tally.overdue);
}

// A relay that hangs on some messages must not have the latencies of the others alone.
TEST(OpenLoop, AnAnswerThatNeverComesCountsAsNoQuickerThanTheSlowest) {
    World world;
    world.start({.manner = {.disconnect_share = 0.2}},
                {.connections = 5, .messages = 200, .rate_per_s = 50, .reconnect_limit = 0s},
                to_domains({{"a.example", 1}}));
    ASSERT_TRUE(world.finish());
    const SourceTally& tally = world.source->tally();
    ASSERT_GT(tally.unknown, 20U);
    EXPECT_EQ(tally.accept_latency_ns.count(), 200U);
    EXPECT_GE(tally.accept_latency_ns.percentile(0.95), 60'000'000'000U);
    EXPECT_LT(tally.accept_latency_ns.percentile(0.5), 100'000'000U);
}

TEST(Source, TheTurnGoesOnWhereAnotherThreadsConnectionsEnded) {
    World world;
    const auto second = *base::SocketAddress::parse("192.0.2.2:25");
    SinkOptions both;
    both.addresses = {world.address, second};
    Sink sink(world.loop, world.net, both, nullptr, nullptr);
    ASSERT_TRUE(sink.start());
    Source source(world.loop, world.net,
                  {.targets = {world.address, second}, .first_connection = 1, .messages = 3},
                  MessageMaker(to_domains({{"a.example", 1}})), nullptr, nullptr);
    source.start();
    ASSERT_TRUE(tests::run_until(world.loop, world.clock, [&] { return source.finished(); }, 1min));
    ASSERT_EQ(source.tally().targets.size(), 2U);
    EXPECT_EQ(source.tally().targets[0].accepted, 0U);
    EXPECT_EQ(source.tally().targets[1].accepted, 3U);
    EXPECT_EQ(source.tally().targets[1].accept_latency_ns.count(), 3U);
    EXPECT_EQ(source.tally().targets[1].name, "192.0.2.2:25");
    world.loop.drop_tasks(); // before the sink that they serve
}

TEST(Source, ARecipientThatRcptRefusedIsCountedAndPromisedToNobody) {
    World world;
    Provider strict{
        .name = "strict", .domains = {"strict.example"}, .manner = {.reply_5xx_share = 1}};
    MessagePattern pattern = to_domains({{"strict.example", 1}, {"kind.example", 1}});
    pattern.recipient_count = 4;
    SinkOptions strict_sink;
    strict_sink.providers = {strict};
    for (const bool pipelining : {true, false}) {
        SourceOptions source{.messages = 50, .pipelining = pipelining};
        if (pipelining) {
            world.start(strict_sink, source, pattern);
        } else {
            source.first_sequence = 50;
            world.send(source, pattern);
        }
        ASSERT_TRUE(world.finish());
        const SourceTally& tally = world.source->tally();
        EXPECT_GT(tally.recipients_refused, 50U);
        EXPECT_EQ(tally.recipients + tally.recipients_refused, 4 * tally.accepted);
    }
    const Audit audit = world.auditor.finish();
    EXPECT_TRUE(audit.passed());
    EXPECT_EQ(audit.misdelivered.count, 0U);
    EXPECT_EQ(audit.delivered, audit.promised);
}

TEST(Intruders, EachKindComesAgainAndTheHonestStillGetThrough) {
    World world;
    world.start({}, {.connections = 4, .messages = 200, .rate_per_s = 20},
                to_domains({{"a.example", 1}}));
    IntruderOptions options{.targets = {world.address}, .life = 2s};
    options.connections.fill(3);
    Intruders intruders(world.loop, world.net, options);
    intruders.start();
    ASSERT_TRUE(world.finish());
    intruders.stop();
    EXPECT_EQ(world.source->tally().accepted, 200U);
    EXPECT_EQ(world.sink->tally().foreign, 0U); // none of them completes a message
    for (std::size_t kind = 0; kind < mischief_count; ++kind)
        EXPECT_GT(intruders.tally()[kind].connections, 6U)
            << to_string(static_cast<Mischief>(kind));
    // It hangs up itself once it is told to go on, and does not sit its life out.
    const IntruderTally& aborts =
        intruders.tally()[static_cast<std::size_t>(Mischief::abort_in_data)];
    EXPECT_GT(aborts.connections, 100U);
    EXPECT_EQ(aborts.ended, 0U);
    EXPECT_TRUE(tests::run_until(
        world.loop, world.clock, [&] { return world.sink->tally().connections_open == 0; }, 1min));
}

} // namespace
} // namespace dataplane::loadgen
