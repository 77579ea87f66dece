// routing_test.cc: the pure parts of routing: names, MX answers, the ledger, and the fair queue.
#include "dataplane/delivery/domain.h"
#include "dataplane/delivery/resolver.h"
#include "dataplane/delivery/site.h"
#include "dataplane/delivery/site_ledger.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <thread>

namespace {

using namespace dataplane;
using namespace dataplane::delivery;
using namespace std::chrono_literals;

TEST(Domain, FoldsAsciiOnly) {
    EXPECT_EQ(FoldedDomain{"Example.COM"}.text(), "example.com");
    EXPECT_EQ(FoldedDomain{"B\xc3\x9cRO.example"}.text(), "b\xc3\x9cro.example");
    EXPECT_EQ(FoldedDomain{std::string(300, 'a')}.text(), "");
}

TEST(Domain, ULabelsBecomeALabels) {
    EXPECT_EQ(to_ascii("b\xc3\xbc"
                       "cher.example"),
              "xn--bcher-kva.example");
    EXPECT_EQ(to_ascii("Example.COM."), "example.com");
    EXPECT_EQ(to_ascii("_dmarc.example"), "_dmarc.example");
}

TEST(Domain, WhatIsNoNameIsToldApart) {
    for (const std::string name :
         {"", ".", "a..b", ".a", "a b", "a/b", "[1.2.3.4", "a\xff", "-\x80"}) {
        EXPECT_FALSE(to_ascii(name).has_value()) << name;
    }
    EXPECT_FALSE(to_ascii(std::string(64, 'a') + ".example").has_value());
    EXPECT_FALSE(to_ascii(std::string(5000, 'a')).has_value());
}

TEST(Domain, AddressLiterals) {
    EXPECT_EQ(address_literal("[127.0.0.1]"), base::IpAddress::parse("127.0.0.1"));
    EXPECT_EQ(address_literal("[IPv6:2001:db8::1]"), base::IpAddress::parse("2001:db8::1"));
    EXPECT_EQ(address_literal("[ipv6:::1]"), base::IpAddress::parse("::1"));
    EXPECT_EQ(address_literal("192.0.2.1"),
              base::IpAddress::parse("192.0.2.1")); // in a route's hosts
    EXPECT_FALSE(address_literal("[::1]").has_value());
    EXPECT_FALSE(address_literal("[IPv6:1.2.3.4]").has_value());
    EXPECT_FALSE(address_literal("[x]").has_value());
    EXPECT_FALSE(address_literal("example.com").has_value());
}

std::string named(std::vector<std::string> hosts) {
    return site_name(hosts);
}

TEST(SiteName, RollsUpWhatDiffers) {
    EXPECT_EQ(named({"mx.example.com"}), "mx.example.com");
    EXPECT_EQ(named({"gmail-smtp-in.l.google.com", "alt1.gmail-smtp-in.l.google.com",
                     "alt2.gmail-smtp-in.l.google.com", "alt3.gmail-smtp-in.l.google.com",
                     "alt4.gmail-smtp-in.l.google.com"}),
              "(alt1|alt2|alt3|alt4)?.gmail-smtp-in.l.google.com");
    EXPECT_EQ(named({"mta5.am0.yahoodns.net", "mta7.am0.yahoodns.net", "mta6.am0.yahoodns.net"}),
              "(mta5|mta6|mta7).am0.yahoodns.net");
    EXPECT_EQ(named({"mx1.a.example", "mx2.b.example"}), "(mx1|mx2).(a|b).example");
}

TEST(SiteName, DoesNotDependOnTheOrder) {
    std::vector<std::string> hosts{"b.example", "a.example", "c.a.example"};
    const std::string name = site_name(hosts);
    while (std::ranges::next_permutation(hosts).found)
        EXPECT_EQ(site_name(hosts), name);
}

TEST(MxAnswer, IsOrderedByPreference) {
    const auto set =
        interpret_mx("example.com",
                     {{20, "c.example"}, {10, "b.example"}, {10, "a.example"}, {30, "a.example"}});
    ASSERT_TRUE(set.has_value());
    ASSERT_EQ(set->hosts.size(), 3U);
    EXPECT_EQ(set->hosts[0].host, "a.example");
    EXPECT_EQ(set->hosts[1].host, "b.example");
    EXPECT_EQ(set->hosts[2].host, "c.example");
    EXPECT_FALSE(set->implicit);
}

TEST(MxAnswer, NoRecordsMeanTheDomainItself) {
    const auto set = interpret_mx("example.com", {});
    ASSERT_TRUE(set.has_value());
    EXPECT_TRUE(set->implicit);
    EXPECT_EQ(set->hosts.at(0).host, "example.com");
}

TEST(MxAnswer, LoneRootMeansNoMail) {
    EXPECT_EQ(interpret_mx("example.com", {{0, ""}}).error(), ResolveError::no_mail);
    const auto set =
        interpret_mx("example.com", {{0, ""}, {10, "a.example"}}); // RFC 7505 §3: not a null MX
    ASSERT_TRUE(set.has_value());
    EXPECT_EQ(set->hosts.size(), 1U);
}

TEST(MxAnswer, IsBounded) {
    std::vector<MxRecord> records;
    for (std::uint16_t i = 0; i < 5000; ++i)
        records.push_back({i, "mx" + std::to_string(i) + ".example"});
    EXPECT_EQ(interpret_mx("example.com", records)->hosts.size(), mx_hosts_max);
}

// ---- the ledger

TEST(SiteLedger, ConnectionsNeverExceedTheLimit) {
    SiteLedger ledger;
    auto a = ledger.attach("site\nsource");
    auto b = ledger.attach("site\nsource"); // another shard
    EXPECT_TRUE(a->open_connection(3));
    EXPECT_TRUE(b->open_connection(3));
    EXPECT_TRUE(b->open_connection(3));
    EXPECT_FALSE(a->open_connection(3));
    b->close_connection();
    EXPECT_TRUE(a->open_connection(3));
    EXPECT_FALSE(b->open_connection(3));
    EXPECT_FALSE(b->open_connection(2)); // a lower limit after a reload
    auto other = ledger.attach("site\nother source");
    EXPECT_TRUE(other->open_connection(1));
    for (int i = 0; i < 3; ++i)
        a->close_connection();
    other->close_connection();
}

TEST(SiteLedger, ThreadsTogetherStayWithinTheLimit) {
    SiteLedger ledger;
    constexpr std::uint32_t limit = 3;
    std::atomic<std::uint32_t> open{0}, most{0}, opened{0};
    std::vector<std::thread> shards;
    for (int shard = 0; shard < 4; ++shard) {
        shards.emplace_back([&] {
            for (int i = 0; i < 20'000; ++i) {
                auto hold = ledger.attach("busy site");
                if (!hold || !hold->open_connection(limit)) continue;
                const std::uint32_t now = ++open;
                std::uint32_t seen = most.load();
                while (seen < now && !most.compare_exchange_weak(seen, now)) {
                }
                ++opened;
                --open;
                hold->close_connection();
            }
        });
    }
    for (std::thread& shard : shards)
        shard.join();
    EXPECT_LE(most.load(), limit);
    EXPECT_GT(opened.load(), 0U);
    auto hold = ledger.attach("busy site");
    ASSERT_TRUE(hold);
    EXPECT_EQ(hold->connections(), 0U);
}

TEST(SiteLedger, PlacesAreReusedAndAFullBucketSaysNotNow) {
    SiteLedger ledger{1};
    std::vector<SiteLedger::Hold> holds;
    for (std::size_t i = 0; i < ledger_bucket_slots; ++i) {
        holds.push_back(ledger.attach("site " + std::to_string(i)));
        ASSERT_TRUE(holds.back());
    }
    EXPECT_FALSE(ledger.attach("one more"));
    EXPECT_TRUE(ledger.attach("site 3"));
    holds.pop_back();
    EXPECT_TRUE(ledger.attach("one more"));
}

// Goal: the rate is exact over any window, whoever asks. Method: two shards ask as fast as they
// can, and the places they get are looked at.
TEST(SiteLedger, MessagePlacesAreARateApart) {
    SiteLedger ledger;
    auto a = ledger.attach("site"), b = ledger.attach("site");
    base::ManualClock clock;
    std::vector<base::TimePoint> places;
    for (int i = 0; i < 100; ++i)
        places.push_back((i % 3 == 0 ? a : b)->next_message(clock.now(), 10));
    for (std::size_t i = 1; i < places.size(); ++i)
        ASSERT_EQ(places[i] - places[i - 1], 100ms);
    EXPECT_LE(places[0], clock.now());
}

TEST(SiteLedger, IdleTimeEarnsNoBurst) {
    SiteLedger ledger;
    auto site = ledger.attach("site");
    base::ManualClock clock;
    static_cast<void>(site->next_message(clock.now(), 10));
    clock.advance(1h);
    int at_once = 0;
    while (site->next_message(clock.now(), 10) <= clock.now())
        ++at_once;
    EXPECT_EQ(at_once, 1);
}

// ---- the fair queue

TEST(ReadyQueue, TenantsTakeTurns) {
    std::vector<Job> jobs(9);
    ReadyQueue queue;
    for (int i = 0; i < 6; ++i)
        queue.push(jobs[static_cast<std::size_t>(i)], "bulk");
    queue.push(jobs[6], "small");
    queue.push(jobs[7], "small");
    queue.push(jobs[8], "other");
    std::vector<std::ptrdiff_t> order;
    while (Job* job = queue.pop())
        order.push_back(job - jobs.data());
    EXPECT_EQ(order, (std::vector<std::ptrdiff_t>{0, 6, 8, 1, 7, 2, 3, 4, 5}));
    EXPECT_TRUE(queue.empty());
}

TEST(ReadyQueue, WhatIsPutBackComesFirstOfItsTenant) {
    std::vector<Job> jobs(4);
    ReadyQueue queue;
    queue.push(jobs[0], "a");
    queue.push(jobs[1], "a");
    queue.push(jobs[2], "b");
    Job* first = queue.pop();
    ASSERT_EQ(first, &jobs[0]);
    queue.push_front(*first, "a");
    EXPECT_EQ(queue.size(), 3U);
    EXPECT_EQ(queue.pop(), &jobs[2]);
    EXPECT_EQ(queue.pop(), &jobs[0]);
    EXPECT_EQ(queue.pop(), &jobs[1]);
    queue.push_front(jobs[3], "c"); // of a tenant that had nothing
    EXPECT_EQ(queue.pop(), &jobs[3]);
    EXPECT_EQ(queue.pop(), nullptr);
}

} // namespace
