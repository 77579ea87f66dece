// herd_test.cc: what a site with very much mail does to the others, and when it comes back.
//
// HERD_MESSAGES says how much that is; HERD_CSV names a file for the plot: seconds since the site came
// back, its connections, its messages in that second, what is parked, the longest wait of another
// tenant's mail in that second.
#include "tests/dataplane/delivery/delivery_fixture.h"

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <fstream>

namespace tests {
namespace {

using telemetry::Counter;

class DeliveryHerd : public DeliveryFixture {
protected:
    DeliveryHerd() : DeliveryFixture((64ULL << 20) + (messages() * 4096 >> 20 << 20)) {}
    static std::size_t messages() {
        const char* given = std::getenv("HERD_MESSAGES");
        return given == nullptr ? 5000 : std::strtoull(given, nullptr, 10);
    }
    /// Many at once: one after the other would wait for a write each.
    void submit_many(const std::string& recipient, const std::string& tenant, std::size_t count) {
        std::size_t done = 0;
        auto put = [](DeliveryHerd* self, std::string rcpt, std::string owner, std::size_t number,
                      std::size_t* finished) -> base::Task<void> {
            for (std::size_t i = 0; i < number; ++i) {
                auto begun = self->queue->begin(20);
                for (int again = 0; !begun && again < 1000; ++again) { // as a client does after 4xx
                    static_cast<void>(co_await base::sleep_for(self->loop, 100ms));
                    begun = self->queue->begin(20);
                }
                CHECK(begun.has_value());
                queue::Draft draft = std::move(*begun);
                draft.envelope().set_sender("alice@sender.example");
                draft.envelope().set_tenant(owner);
                draft.envelope().add_recipient(rcpt, "", queue::notify_never);
                draft.envelope().arrival = self->loop.wall_now();
                draft.envelope().expiry = self->loop.wall_now() + 120h;
                const std::string_view text = "Subject: a\r\n\r\nbody\r\n";
                const auto appended =
                    co_await draft.append(base::as_bytes(text), base::Deadline::never());
                CHECK(appended.has_value());
                const auto committed = co_await draft.commit("", base::Deadline::never());
                CHECK(committed.has_value());
            }
            ++*finished;
        };
        constexpr std::size_t clients = 100;
        for (std::size_t i = 0; i < clients; ++i)
            loop.spawn(put(this, recipient, tenant, count / clients, &done), "client");
        ASSERT_TRUE(wait_for([&] { return done == clients; }));
    }
    /// One message of another tenant each second, to another site: how long does it take?
    static base::Task<void> other_tenant(DeliveryHerd* self) {
        for (;;) {
            const auto began = self->loop.now();
            static_cast<void>(co_await base::sleep_until(self->loop, {began + 1s, nullptr}));
            auto begun = self->queue->begin(20);
            CHECK(begun.has_value());
            queue::Draft draft = std::move(*begun);
            draft.envelope().set_sender("bob@sender.example");
            draft.envelope().set_tenant("other");
            draft.envelope().add_recipient("a@other.example", "", queue::notify_never);
            draft.envelope().arrival = self->loop.wall_now();
            draft.envelope().expiry = self->loop.wall_now() + 120h;
            self->other_sent.push_back(self->loop.now());
            const auto committed = co_await draft.commit("x\r\n", base::Deadline::never());
            CHECK(committed.has_value());
        }
    }
    std::deque<base::TimePoint> other_sent; // and not yet there
};

// Goal: an outage of a site with very many messages costs a connection attempt for each pause, one
// timer and no attempt of any message; when the site is back its load grows by one connection for each round of
// successes; other tenants notice neither. Method: the site takes a second for each message, so that
// what it sees in one second is the concurrency.
TEST_F(DeliveryHerd, HerdOfASiteThatComesBackFollowsTheSlowStart) {
    rules.retry.jitter = 0.25;
    rules.retry.delay_notice = 0s;
    rules.retry.expiry = 120h;
    rules.default_site.connections_max = 20;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when(".", {.delay = 1s});
    ScriptedPeer& other = simple_site("other.example", "192.0.2.2");
    net.fail_connects_to(*base::SocketAddress::parse("192.0.2.1:25"), base::NetError::refused);
    std::map<std::int64_t, std::size_t> by_second; // since the site came back
    base::TimePoint back = base::TimePoint::max();
    const auto second = [&] {
        return std::chrono::floor<std::chrono::seconds>(loop.now() - back).count();
    };
    host.on_accepted = [&](const AcceptedMail&) {
        ++by_second[second()];
        return false;
    };
    base::Duration slowest_before{}, slowest_after{}, slowest_now{};
    start();
    loop.spawn(other_tenant(this), "other tenant");
    other.on_accepted = [&](const AcceptedMail&) {
        const base::Duration took = loop.now() - other_sent.front();
        other_sent.pop_front();
        slowest_now = std::max(slowest_now, took);
        base::Duration& slowest = loop.now() < back ? slowest_before : slowest_after;
        slowest = std::max(slowest, took);
        return false;
    };
    pass(10s);
    const std::size_t count = messages() / 100 * 100;
    submit_many("a@dest.example", "bulk", count);
    pass(2h); // some pauses
    const auto counts = queue->schedule().counts();
    EXPECT_GE(counts.parked + counts.ready_retry + 10, count);
    EXPECT_LE(counts.timed, 20U); // what was on its way at the first failure, at most
    const std::uint64_t attempts_before = net.connection_count();
    pass(4h);
    // At most an hour's pause, a quarter less: at least four probes; the other tenant's mail is 14,400.
    EXPECT_LE(net.connection_count() - attempts_before, 14'400U);
    std::size_t attempted = 0;
    queue->for_each({}, [&](queue::EntryRef, const queue::Entry& entry) {
        attempted += entry.attempts > 0 ? 1U : 0U;
        return true;
    });
    EXPECT_LE(attempted, 20U);
    EXPECT_TRUE(by_second.empty());

    net.heal(*base::SocketAddress::parse("192.0.2.1:25"));
    ASSERT_TRUE(wait_for([&] { return host.open > 0; }, 2h));
    back = loop.now();
    std::ofstream csv;
    if (const char* name = std::getenv("HERD_CSV")) csv.open(name);
    csv << "second,connections,messages,parked,other_tenant_slowest_ms\n";
    std::vector<unsigned> open;
    while (!by_second.contains(0) || open.size() < 300 || csv.is_open()) {
        slowest_now = {};
        pass(1s);
        open.push_back(host.open);
        csv << open.size() << ',' << host.open << ','
            << by_second[static_cast<std::int64_t>(open.size()) - 1] << ','
            << queue->schedule().counts().parked << ','
            << std::chrono::duration<double, std::milli>(slowest_now).count() << '\n';
        if (queue->counters().queued_messages < 10 || open.size() > 200'000) break;
        if (open.size() >= 300 && csv.is_open() && open.size() > count / 10) break;
    }
    // One connection more for each round of one second, and a round's worth of slack: no herd.
    for (std::size_t i = 0; i < std::min<std::size_t>(open.size(), 19); ++i) {
        EXPECT_LE(open[i], i + 2) << "second " << i;
        EXPECT_LE(by_second[static_cast<std::int64_t>(i)], i + 2) << "second " << i;
    }
    EXPECT_EQ(host.open_max, 20U);
    ASSERT_GE(open.size(), 100U);
    for (std::size_t i = 60; i < 100; ++i) // and then it is used to the full
        EXPECT_GE(by_second[static_cast<std::int64_t>(i)], 19U) << "second " << i;
    EXPECT_LE(slowest_after, slowest_before + 5ms);
    EXPECT_LE(slowest_after, 50ms);
}

// Goal: mail that parked only because the lane was full goes out as fast as the site takes it. Method: more than
// a lane holds comes before the site's first answer; the site takes what is called for within less than the pause
// between two calls.
TEST_F(DeliveryHerd, WhatParkedForWantOfRoomFollowsWithoutPause) {
    rules.default_site.connections_max = 20;
    rules.default_site.messages_per_connection_max = 100'000;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when("EHLO", {.delay = 2s});
    std::size_t arrived = 0;
    host.on_accepted = [&](const AcceptedMail&) {
        ++arrived;
        return false;
    };
    start(10000);
    constexpr std::size_t count = 12'000;
    const base::TimePoint began = loop.now();
    submit_many("a@dest.example", "t", count);
    ASSERT_GT(queue->counters().deferred_messages, count / 2) << "they are parked";
    host.forget_rules();
    ASSERT_TRUE(wait_for([&] { return arrived == count; }));
    EXPECT_LT(loop.now() - began, 10s);
}

// Goal: mail that was deferred long ago and is due now, whatever there is of it, leaves new mail to the
// same site its turns.
TEST_F(DeliveryHerd, DeferredMassDoesNotStarveNewMail) {
    rules.default_site.connections_max = 4;
    rules.retry.first = 60s;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when("RCPT", {.reply = "450 4.2.0 later"}, "old@");
    start(400);
    submit_many("old@dest.example", "one", 3000);
    ASSERT_TRUE(wait_for([&] { return counted(Counter::messages_deferred) >= 3000; }));
    host.forget_rules();
    host.when(".", {.delay = 1s}); // 4 a second: 3,000 need 12 minutes
    std::vector<base::Duration> waits;
    host.on_accepted = [&](const AcceptedMail& mail) {
        if (mail.recipients.front().address.starts_with("new"))
            waits.push_back(loop.now().time_since_epoch());
        return false;
    };
    pass(90s); // they are due
    ASSERT_GT(queue->counters().queued_messages, 2000U);
    const auto began = loop.now().time_since_epoch();
    submit_many("new@dest.example", "one", 100); // of the same tenant
    ASSERT_TRUE(wait_for([&] { return waits.size() == 100; }));
    // Three of four turns: 100 of them take 34 s of the four connections' time, and what was ahead.
    EXPECT_LE(waits.back() - began, 60s);
    EXPECT_GT(queue->counters().queued_messages, 1500U);
}

TEST_F(DeliveryHerd, TenantsShareASiteEvenlyWhateverTheyHaveQueued) {
    rules.default_site.connections_max = 2;
    ScriptedPeer& host = simple_site("dest.example", "192.0.2.1");
    host.when(".", {.delay = 100ms});
    std::map<std::string, std::size_t> accepted;
    host.on_accepted = [&](const AcceptedMail& mail) {
        ++accepted[mail.recipients.front().address];
        return false;
    };
    start(1000); // far fewer than there are: most of it waits in the schedule
    submit_many("big@dest.example", "big", 5000);
    submit_many("middle@dest.example", "middle", 500);
    submit_many("small@dest.example", "small", 100);
    accepted.clear();
    ASSERT_TRUE(wait_for([&] { return accepted["small@dest.example"] == 100; }));
    EXPECT_NEAR(static_cast<double>(accepted["middle@dest.example"]), 100, 20);
    ASSERT_TRUE(wait_for([&] { return accepted["middle@dest.example"] == 500; }));
    EXPECT_LE(accepted["big@dest.example"], 560U + 300U); // and what was ahead of the others
}

} // namespace
} // namespace tests
