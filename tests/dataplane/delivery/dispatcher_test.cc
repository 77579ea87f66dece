// dispatcher_test.cc: whole rounds: routing, connections, results, retries. Limits are in
// limits_test.cc.
#include "tests/dataplane/delivery/delivery_fixture.h"

#include <algorithm>

namespace tests {
namespace {

using delivery::ResolveError;
using telemetry::Counter;
using telemetry::EventText;
using telemetry::EventType;

class Dispatcher : public DeliveryFixture {};

TEST_F(Dispatcher, DeliversToTheBestMxHost) {
    resolver.records["dest.example"] = {{20, "backup.example"}, {10, "main.example"}};
    resolver.hosts["main.example"] = {"192.0.2.1"};
    resolver.hosts["backup.example"] = {"192.0.2.2"};
    ScriptedPeer& main = peer("192.0.2.1:25");
    ScriptedPeer& backup = peer("192.0.2.2:25");
    start();
    const auto id = submit({"bob@Dest.Example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    ASSERT_EQ(main.accepted.size(), 1U);
    EXPECT_EQ(backup.connections, 0U);
    EXPECT_EQ(main.accepted[0].helo, "relay.example");
    EXPECT_EQ(main.accepted[0].content, "Subject: a\r\n\r\nbody\r\n");
    EXPECT_EQ(counted(Counter::messages_delivered), 1U);

    const auto delivered = events.of(EventType::delivery);
    ASSERT_EQ(delivered.size(), 1U);
    const telemetry::Event& event = delivered[0];
    EXPECT_EQ(event.message_id, id.value);
    EXPECT_EQ(event.get(EventText::recipient), "bob@Dest.Example");
    EXPECT_EQ(event.get(EventText::site), "(backup|main).example");
    EXPECT_EQ(event.get(EventText::peer_name), "main.example");
    EXPECT_EQ(event.get(EventText::response), "accepted");
    EXPECT_EQ(event.get(EventText::egress_source), "default");
    EXPECT_EQ(event.code, 250);
    EXPECT_EQ(event.enhanced, (std::array<std::uint16_t, 3>{2, 0, 0}));
    EXPECT_EQ(event.attempts, 1U);
    EXPECT_EQ(event.peer.to_string(), "192.0.2.1:25");
}

TEST_F(Dispatcher, FallsBackInTheOrderOfPreferences) {
    resolver.records["dest.example"] = {
        {10, "a.example"}, {20, "b.example"}, {30, "c.example"}, {40, "d.example"}};
    resolver.hosts["a.example"] = {"192.0.2.1", "192.0.2.2"};
    resolver.hosts["b.example"] = {"192.0.2.3"};
    resolver.hosts["c.example"] = {"192.0.2.4"};
    resolver.hosts["d.example"] = {"192.0.2.5"};
    net.fail_connects_to(*base::SocketAddress::parse("192.0.2.1:25"), base::NetError::refused);
    net.fail_connects_to(*base::SocketAddress::parse("192.0.2.2:25"), base::NetError::timed_out);
    ScriptedPeer& greeting = peer("192.0.2.3:25");
    greeting.reply("connect", "421 4.3.2 busy");
    ScriptedPeer& third = peer("192.0.2.4:25");
    ScriptedPeer& fourth = peer("192.0.2.5:25");
    start();
    submit({"bob@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(greeting.connections, 1U);
    EXPECT_EQ(third.accepted.size(), 1U);
    EXPECT_EQ(fourth.connections, 0U);
    EXPECT_TRUE(events.of(EventType::transient_failure).empty()); // one round, one result
}

TEST_F(Dispatcher, HostThatBreaksAmidTheMailIsFollowedByTheNext) {
    resolver.records["dest.example"] = {{10, "a.example"}, {20, "b.example"}};
    resolver.hosts["a.example"] = {"192.0.2.1"};
    resolver.hosts["b.example"] = {"192.0.2.2"};
    ScriptedPeer& first = peer("192.0.2.1:25");
    first.when("RCPT", {.reset = true});
    ScriptedPeer& second = peer("192.0.2.2:25");
    start();
    submit({"bob@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(second.accepted.size(), 1U);
    EXPECT_EQ(first.connections, 1U);
}

TEST_F(Dispatcher, RecipientsOfOneSiteShareATransaction) {
    for (const std::string domain : {"one.example", "two.example"})
        resolver.records[domain] = {{10, "mx.example"}};
    resolver.hosts["mx.example"] = {"192.0.2.1"};
    ScriptedPeer& host = peer("192.0.2.1:25");
    start();
    submit({"a@one.example", "b@two.example", "c@one.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    std::size_t recipients = 0;
    for (const auto& mail : host.accepted)
        recipients += mail.recipients.size();
    EXPECT_EQ(recipients, 3U);
    EXPECT_EQ(host.accepted.size(), 1U);
    submit({"a@one.example", "b@two.example", "c@one.example"}); // now from the cache
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(host.accepted.size(), 2U);
    EXPECT_EQ(dispatcher->site_count(), 1U);
    EXPECT_EQ(dispatcher->domain_count(), 2U);
}

TEST_F(Dispatcher, RecipientsPerTransactionAreBounded) {
    rules.default_site.recipients_per_message_max = 10;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    start();
    std::vector<std::string> recipients;
    for (int i = 0; i < 25; ++i)
        recipients.push_back("r" + std::to_string(i) + "@dest.example");
    submit(recipients);
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    std::vector<std::size_t> sizes;
    for (const auto& mail : host.accepted)
        sizes.push_back(mail.recipients.size());
    std::ranges::sort(sizes);
    EXPECT_EQ(sizes, (std::vector<std::size_t>{5, 10, 10}));
}

TEST_F(Dispatcher, EachRecipientHasItsOwnEnd) {
    ScriptedPeer& good = simple_site("good.example", "192.0.2.1");
    ScriptedPeer& mixed = simple_site("mixed.example", "192.0.2.2");
    simple_site("sender.example", "192.0.2.3");
    mixed.reply("RCPT", "550 5.1.1 unknown", "<gone@");
    mixed.reply("RCPT", "450 4.2.1 busy", "<later@", 1);
    start();
    submit({"a@good.example", "gone@mixed.example", "later@mixed.example", "b@mixed.example"});
    ASSERT_TRUE(wait_for([&] { return counted(Counter::dsn_sent) == 1; }));
    EXPECT_EQ(good.accepted.size(), 1U);
    ASSERT_EQ(mixed.accepted.size(), 1U);
    EXPECT_EQ(mixed.accepted[0].recipients.size(), 1U);
    EXPECT_EQ(events.of(EventType::bounce).size(), 1U);
    EXPECT_EQ(events.of(EventType::transient_failure).size(), 1U);

    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    ASSERT_EQ(mixed.accepted.size(), 2U);
    ASSERT_EQ(mixed.accepted[1].recipients.size(), 1U); // only who was still waiting
    EXPECT_EQ(mixed.accepted[1].recipients[0].address, "later@mixed.example");
    EXPECT_EQ(good.accepted.size(), 1U);
    EXPECT_EQ(counted(Counter::messages_delivered), 4U); // the report included
}

// Goal: silence after the dot is retried, not bounced, though it makes a duplicate (RFC 1047).
TEST_F(Dispatcher, SilenceAfterTheDotIsRetriedNotBounced) {
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when(".", {.silent = true}, "", 1);
    start();
    submit({"bob@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }, 3h));
    EXPECT_EQ(host.accepted.size(), 2U);
    EXPECT_TRUE(events.of(EventType::bounce).empty());
    EXPECT_EQ(events.of(EventType::transient_failure).size(), 1U);
}

TEST_F(Dispatcher, RetriesBackOffExponentially) {
    rules.retry.first = 100s;
    rules.retry.factor = 3.0;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.reply("RCPT", "451 4.7.1 greylisted", "", 3);
    start();
    submit({"bob@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }, 10h));
    std::vector<telemetry::Event> tries = events.of(EventType::transient_failure);
    ASSERT_EQ(tries.size(), 3U);
    EXPECT_NEAR(static_cast<double>((tries[1].time - tries[0].time).count()), 100e3, 3e3);
    EXPECT_NEAR(static_cast<double>((tries[2].time - tries[1].time).count()), 300e3, 3e3);
    const auto done = events.of(EventType::delivery);
    EXPECT_NEAR(static_cast<double>((done[0].time - tries[2].time).count()), 900e3, 3e3);
    EXPECT_EQ(done[0].attempts, 4U);
    EXPECT_EQ(tries[0].get(EventText::command), "RCPT TO:<bob@dest.example>");
    EXPECT_EQ(tries[0].get(EventText::response), "greylisted");
}

TEST_F(Dispatcher, ExpiredMailIsReturnedAtItsTime) {
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    ScriptedPeer& home = simple_site("sender.example", "192.0.2.2");
    host.reply("RCPT", "451 4.7.1 never today");
    start();
    const auto begin = loop.wall_now();
    submit({"bob@dest.example"}, "Subject: a\r\n\r\nbody\r\n",
           [&](queue::Envelope& envelope) { envelope.expiry = begin + 2h; });
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }, 24h));
    const auto expired = events.of(EventType::expiration);
    ASSERT_EQ(expired.size(), 1U);
    EXPECT_LT(expired[0].time - begin, 2h + 5s);
    EXPECT_GE(expired[0].time - begin, 2h);
    EXPECT_EQ(counted(Counter::messages_expired), 1U);
    ASSERT_EQ(home.accepted.size(), 1U);
    EXPECT_NE(home.accepted[0].content.find("Status: 5.4.7"), std::string::npos);
    EXPECT_NE(home.accepted[0].content.find("never today"), std::string::npos);
}

TEST_F(Dispatcher, DomainsWithoutMailAreReturned) {
    ScriptedPeer& home = simple_site("sender.example", "192.0.2.2");
    resolver.records["null.example"] = {{0, ""}};
    resolver.records["dead.example"] = {{10, "mx.dead.example"}}; // a host without address
    start();
    submit({"a@null.example"});
    submit({"a@missing.example"});
    submit({"a@dead.example"});
    submit({"a@bad_\x01name"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    std::vector<std::string> statuses;
    for (const auto& event : events.of(EventType::bounce)) {
        statuses.push_back(std::to_string(event.enhanced[0]) + '.' +
                           std::to_string(event.enhanced[1]) + '.' +
                           std::to_string(event.enhanced[2]));
    }
    std::ranges::sort(statuses);
    EXPECT_EQ(statuses, (std::vector<std::string>{"5.1.10", "5.1.2", "5.1.2", "5.4.4"}));
    EXPECT_EQ(home.accepted.size(), 4U);
}

TEST_F(Dispatcher, DnsTroubleIsOnlyADelay) {
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    resolver.errors["dest.example"] = ResolveError::temporary;
    start();
    submit({"bob@dest.example"});
    ASSERT_TRUE(wait_for([&] { return events.of(EventType::transient_failure).size() == 1; }));
    resolver.errors.clear();
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(host.accepted.size(), 1U);
}

TEST_F(Dispatcher, ImplicitMxAndAddressLiterals) {
    resolver.hosts["host.example"] = {"192.0.2.1"};
    ScriptedPeer& host = peer("192.0.2.1:25");
    ScriptedPeer& v6 = peer("[2001:db8::1]:25");
    start();
    submit({"a@host.example"});
    submit({"a@[192.0.2.1]"});
    submit({"a@[IPv6:2001:db8::1]"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(host.accepted.size(), 2U);
    EXPECT_EQ(v6.accepted.size(), 1U);
}

TEST_F(Dispatcher, MailIsNeverSentBackToOurselves) {
    simple_site("sender.example", "192.0.2.9");
    resolver.records["loop.example"] = {{10, "relay.example"}, {20, "other.example"}};
    resolver.records["better.example"] = {
        {5, "first.example"}, {10, "relay.example"}, {10, "aaa.example"}};
    resolver.hosts["first.example"] = {"192.0.2.1"};
    resolver.hosts["aaa.example"] = {"192.0.2.2"};
    ScriptedPeer& first = peer("192.0.2.1:25");
    ScriptedPeer& equal = peer("192.0.2.2:25");
    start();
    submit({"a@loop.example"});
    submit({"a@better.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(first.accepted.size(), 1U);
    EXPECT_EQ(equal.connections, 0U);
    ASSERT_EQ(events.of(EventType::bounce).size(), 1U);
    EXPECT_EQ(events.of(EventType::bounce)[0].enhanced, (std::array<std::uint16_t, 3>{5, 4, 6}));
}

TEST_F(Dispatcher, RoutesGoToTheirHosts) {
    policy::RoutePolicy smart{.kind = policy::RoutePolicy::Kind::smart_host};
    smart.hosts = {{.name = "127.0.0.5", .port = 2525}, {.name = "backup.example", .port = 2526}};
    rules.routes["routed.example"] = smart;
    rules.routes[".discard.example"] = {.kind = policy::RoutePolicy::Kind::discard};
    resolver.hosts["backup.example"] = {"192.0.2.7"};
    ScriptedPeer& backup = peer("192.0.2.7:2526"); // nobody listens on the first
    start();
    submit({"a@routed.example"});
    submit({"a@x.discard.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(backup.accepted.size(), 1U);
    EXPECT_EQ(counted(Counter::messages_delivered), 2U);
    bool found = false;
    for (const auto& event : events.of(EventType::delivery)) {
        found |= event.get(EventText::site) == "127.0.0.5:2525,backup.example:2526";
    }
    EXPECT_TRUE(found);
}

// A route is the operator's: a host name that is wrong there must not return everybody's mail.
TEST_F(Dispatcher, RouteToAHostWithoutAddressKeepsTheMail) {
    policy::RoutePolicy smart{.kind = policy::RoutePolicy::Kind::smart_host};
    smart.hosts = {{.name = "typo.example"}};
    rules.routes["routed.example"] = smart;
    start();
    submit({"a@routed.example"});
    ASSERT_TRUE(wait_for([&] { return !events.of(EventType::transient_failure).empty(); }));
    EXPECT_TRUE(events.of(EventType::bounce).empty());
    ScriptedPeer& host = peer("192.0.2.1:25");
    resolver.hosts["typo.example"] = {"192.0.2.1"};
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(host.accepted.size(), 1U);
}

TEST_F(Dispatcher, SourcesAndPoolsChooseAddressAndName) {
    rules.sources.push_back({.name = "ip-1",
                             .address_v4 = base::IpAddress::parse("198.51.100.1"),
                             .helo_name = "one.example"});
    rules.sources.push_back({.name = "ip-2",
                             .address_v4 = base::IpAddress::parse("198.51.100.2"),
                             .helo_name = "two.example"});
    rules.source_index["ip-1"] = 1;
    rules.source_index["ip-2"] = 2;
    rules.pools["pool"] = {.name = "pool", .members = {{1, 3}, {2, 1}}};
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    start();
    for (int i = 0; i < 200; ++i) {
        submit({"a@dest.example"}, "a\r\n",
               [](queue::Envelope& envelope) { envelope.set_source("pool"); });
    }
    submit({"a@dest.example"}, "a\r\n",
           [](queue::Envelope& envelope) { envelope.set_source("ip-2"); });
    submit({"a@dest.example"}); // the default source
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    std::map<std::string, int> by_helo;
    for (const auto& mail : host.accepted) {
        ++by_helo[mail.helo];
        const std::string ip = mail.client.ip.to_string();
        if (mail.helo == "one.example") {
            EXPECT_EQ(ip, "198.51.100.1");
        }
        if (mail.helo == "two.example") {
            EXPECT_EQ(ip, "198.51.100.2");
        }
    }
    EXPECT_EQ(by_helo["relay.example"], 1);
    EXPECT_NEAR(by_helo["one.example"], 150, 35); // three of four
    EXPECT_EQ(by_helo["one.example"] + by_helo["two.example"], 201);
    EXPECT_EQ(events.of(EventType::delivery)[0].get(EventText::egress_pool), "pool");
}

TEST_F(Dispatcher, SourceOfOneFamilyUsesAddressesOfThatFamily) {
    rules.sources[0].address_v6 = base::IpAddress::parse("2001:db8::99");
    resolver.records["dest.example"] = {{10, "mx.example"}};
    resolver.hosts["mx.example"] = {"192.0.2.1", "2001:db8::1"};
    ScriptedPeer& v4 = peer("192.0.2.1:25");
    ScriptedPeer& v6 = peer("[2001:db8::1]:25");
    start();
    submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(v4.connections, 0U);
    EXPECT_EQ(v6.accepted.size(), 1U);
}

// Goal: a connection that its peer closed while it was idle costs the next mail nothing.
TEST_F(Dispatcher, KeptConnectionThatWasClosedIsNotAnAttempt) {
    rules.default_site.idle = 600s;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    start();
    submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    net.reset_all();
    submit({"b@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(host.accepted.size(), 2U);
    EXPECT_TRUE(events.of(EventType::transient_failure).empty());
    EXPECT_EQ(events.of(EventType::delivery)[1].attempts, 1U);

    host.when("MAIL", {.reply = "421 4.4.2 idle too long", .hang_up = true}, "", 1);
    submit({"c@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(host.accepted.size(), 3U);
    EXPECT_TRUE(events.of(EventType::transient_failure).empty());
}

// Goal: a site that is down costs one connection attempt per pause, whatever waits for it, and its
// mail goes out soon after it is back.
TEST_F(Dispatcher, SiteThatIsDownIsPausedAsAWhole) {
    resolver.records["down.example"] = {{10, "mx.example"}};
    resolver.hosts["mx.example"] = {"192.0.2.1"};
    const auto address = *base::SocketAddress::parse("192.0.2.1:25");
    net.fail_connects_to(address, base::NetError::refused);
    start();
    for (int i = 0; i < 50; ++i)
        submit({"r" + std::to_string(i) + "@down.example"});
    pass(20min);
    EXPECT_EQ(queue->counters().queued_messages, 50U);
    EXPECT_EQ(dispatcher->round_count(), 0U);
    EXPECT_EQ(counted(Counter::connections_out), 0U);
    const auto failures = events.of(EventType::transient_failure).size();
    EXPECT_GE(failures, 1U);
    EXPECT_LE(failures, 50U + 5); // after that, one goes ahead after each pause
    const auto& waiting = queue->index();
    queue->for_each({}, [&](queue::EntryRef ref, const queue::Entry& entry) {
        EXPECT_EQ(waiting.status(entry)[0].attempts, 0);
        const queue::SiteRef site = queue->schedule().site_of(ref);
        EXPECT_NE(site, queue::no_site);
        if (site == queue::no_site) return true;
        EXPECT_NE(queue->site_view(site).why.find("connection refused"), std::string::npos);
        return true;
    });

    ScriptedPeer& host = peer("192.0.2.1:25");
    net.heal(address);
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }, 30min));
    EXPECT_EQ(host.accepted.size(), 50U);
}

TEST_F(Dispatcher, GreetingThatRefusesPausesTheSiteAndKeepsTheMail) {
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.reply("connect", "554 5.7.1 blocked for now");
    start();
    for (int i = 0; i < 5; ++i)
        submit({"a@dest.example"});
    pass(50s);
    EXPECT_EQ(host.connections, 1U);
    EXPECT_TRUE(events.of(EventType::bounce).empty());
    host.forget_rules();
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(host.accepted.size(), 5U);
}

TEST_F(Dispatcher, MessagesBeyondTheHotLimitAreDeferredAndComeBack) {
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when("connect", {.delay = 5s});
    start(10);
    for (int i = 0; i < 40; ++i) {
        submit({"a@dest.example"});
        EXPECT_LE(dispatcher->round_count(), 10U);
    }
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(host.accepted.size(), 40U);
    EXPECT_TRUE(
        events.of(EventType::transient_failure).empty()); // the peer never saw them: no attempt
}

base::Task<base::StreamPtr> break_handshake(base::StreamPtr stream) {
    static_cast<void>(co_await stream->fill(base::Deadline::never()));
    stream->abort();
    co_return base::StreamPtr{};
}

// Goal: with TLS optional a peer whose TLS is broken gets its mail in the clear, and is not asked
// again for a while; with TLS required it gets nothing.
TEST_F(Dispatcher, BrokenTlsFallsBackToPlainOnlyWhereThatIsAllowed) {
    tls_offload::TlsLibrary library{loop};
    auto context = tls_offload::ClientContext::create(library, {});
    ASSERT_TRUE(context.has_value());
    tls = &*context;
    rules.default_site.idle = 1s;
    rules.sites["strict.example"].tls = policy::TlsLevel::encrypt;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    ScriptedPeer& strict = simple_site("strict.example", "192.0.2.2");
    for (ScriptedPeer* each : {&host, &strict}) {
        each->upgrade = [](base::StreamPtr stream) { return break_handshake(std::move(stream)); };
    }
    start();
    submit({"a@dest.example"});
    submit({"a@strict.example"});
    pass(10s);
    EXPECT_EQ(host.accepted.size(), 1U);
    EXPECT_EQ(host.connections, 2U);
    EXPECT_EQ(strict.accepted.size(), 0U);
    EXPECT_EQ(counted(Counter::tls_failed_out), 2U);
    submit({"b@dest.example"});
    pass(10s);
    EXPECT_EQ(host.accepted.size(), 2U);
    EXPECT_EQ(host.connections, 3U); // it was remembered
    EXPECT_EQ(queue->counters().queued_messages, 1U);
    loop.drop_tasks(); // before the library goes
}

TEST_F(Dispatcher, ReloadMovesMailToTheNewRoute) {
    ScriptedPeer& old_host = simple_site("dest.example", "192.0.2.1");
    ScriptedPeer& new_host = peer("192.0.2.2:26");
    start();
    submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    policy::RoutePolicy smart{.kind = policy::RoutePolicy::Kind::smart_host};
    smart.hosts = {{.name = "192.0.2.2", .port = 26}};
    rules.routes["dest.example"] = smart;
    start();
    submit({"b@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(old_host.accepted.size(), 1U);
    EXPECT_EQ(new_host.accepted.size(), 1U);
}

// What is delivered then could not be written down, and would be delivered again after the next start.
TEST_F(Dispatcher, ShardThatCannotWriteBeginsNoTransaction) {
    rules.default_site.connections_max = 1;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when(".", {.delay = 30s});
    start();
    submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return host.count("BDAT") == 1; }));
    submit({"b@dest.example"});
    pass(1s);
    ASSERT_EQ(sink.rounds, 2) << "the second waits for the connection of the first";
    disk.fail_writes(SimDisk::Fault::io, SimDisk::always);
    auto refused = [](queue::MessageQueue* to) -> base::Task<bool> {
        auto draft = to->begin(10);
        if (!draft) co_return true;
        draft->envelope().set_sender("s@sender.example");
        draft->envelope().add_recipient("c@dest.example", "", queue::notify_absent);
        const auto committed = co_await draft->commit("", base::Deadline::never());
        co_return !committed;
    };
    for (int i = 0; i < 4 && !queue->read_only(); ++i) {
        EXPECT_TRUE(run(loop, clock, refused(queue.get())));
        pass(1s);
    }
    ASSERT_TRUE(queue->read_only());
    pass(1h);
    EXPECT_EQ(host.count("MAIL"), 1U);
    EXPECT_EQ(sink.rounds, 2) << "nor is anything handed out";
    EXPECT_EQ(host.count("BDAT"), 1U);
}

TEST_F(Dispatcher, CloseFinishesWhatRunsAndSaysQuit) {
    rules.default_site.idle = 600s;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when(".", {.delay = 2s});
    start();
    submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return host.count("BDAT") == 1; }));
    auto close = [](delivery::Dispatcher* which, base::Loop* time) -> base::Task<int> {
        co_await which->close(base::Deadline::in(*time, 10s));
        co_return 0;
    };
    const auto before = loop.now();
    run(loop, clock, close(dispatcher, &loop));
    EXPECT_LT(loop.now() - before, 4s);
    EXPECT_EQ(host.accepted.size(), 1U);
    EXPECT_EQ(dispatcher->connection_count(), 0U);
    pass(1s);
    EXPECT_EQ(host.count("QUIT"), 1U);
}

TEST_F(Dispatcher, CloseCutsOffWhatTakesTooLong) {
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when("MAIL", {.silent = true});
    start();
    submit({"a@dest.example"});
    ASSERT_TRUE(wait_for([&] { return host.count("MAIL") == 1; }));
    auto close = [](delivery::Dispatcher* which, base::Loop* time) -> base::Task<int> {
        co_await which->close(base::Deadline::in(*time, 3s));
        co_return 0;
    };
    const auto before = loop.now();
    run(loop, clock, close(dispatcher, &loop));
    EXPECT_LT(loop.now() - before, 4s);
    EXPECT_EQ(queue->counters().queued_messages, 1U); // still ours
}

} // namespace
} // namespace tests
