// delivery_fixture.h: a dispatcher over a simulated network, with the real queue on a simulated
// disk.
#pragma once

#include "dataplane/delivery/dispatcher.h"
#include "tests/support/scripted_peer.h"
#include "tests/support/sim_disk.h"
#include "tests/support/sim_net.h"

#include <algorithm>
#include <deque>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace tests {

using namespace std::chrono_literals;
namespace delivery = dataplane::delivery;
namespace policy = dataplane::policy;
namespace telemetry = dataplane::telemetry;

/// A Resolver that answers from tables, after a while.
class TableResolver final : public delivery::Resolver {
public:
    explicit TableResolver(base::Loop& loop) : loop_(loop) {}

    base::Task<delivery::MxResult> mx(std::string domain, base::Deadline deadline) override {
        ++questions;
        const auto why = co_await base::sleep_for(loop_, 2ms, deadline.cancel);
        if (why == base::Wake::cancelled)
            co_return std::unexpected(delivery::ResolveError::cancelled);
        if (const auto failing = errors.find(domain); failing != errors.end()) {
            co_return std::unexpected(failing->second);
        }
        const auto found = records.find(domain);
        if (found == records.end() && !hosts.contains(domain)) {
            co_return std::unexpected(delivery::ResolveError::no_such_domain);
        }
        auto set = delivery::interpret_mx(
            domain, found == records.end() ? std::vector<delivery::MxRecord>{} : found->second);
        if (!set) co_return std::unexpected(set.error());
        set->valid_until = loop_.now() + ttl;
        set->secure = secure;
        co_return std::make_shared<const delivery::MxSet>(std::move(*set));
    }
    base::Task<delivery::AddressResult> addresses(std::string host,
                                                  base::Deadline deadline) override {
        ++questions;
        const auto why = co_await base::sleep_for(loop_, 2ms, deadline.cancel);
        if (why == base::Wake::cancelled)
            co_return std::unexpected(delivery::ResolveError::cancelled);
        if (const auto failing = errors.find(host); failing != errors.end()) {
            co_return std::unexpected(failing->second);
        }
        const auto found = hosts.find(host);
        if (found == hosts.end()) co_return std::unexpected(delivery::ResolveError::no_such_domain);
        auto set = std::make_shared<delivery::AddressSet>();
        for (const std::string& text : found->second)
            set->addresses.push_back(*base::IpAddress::parse(text));
        set->valid_until = loop_.now() + ttl;
        set->secure = secure;
        co_return delivery::AddressResult{std::move(set)};
    }
    base::Task<delivery::TlsaResult> tlsa(std::string name, base::Deadline deadline) override {
        ++questions;
        const auto why = co_await base::sleep_for(loop_, 2ms, deadline.cancel);
        if (why == base::Wake::cancelled)
            co_return std::unexpected(delivery::ResolveError::cancelled);
        if (const auto failing = errors.find(name); failing != errors.end()) {
            co_return std::unexpected(failing->second);
        }
        auto set = std::make_shared<delivery::TlsaSet>();
        const auto found = tlsa_records.find(name);
        if (found != tlsa_records.end()) set->records = found->second;
        set->secure = secure;
        co_return delivery::TlsaResult{std::move(set)};
    }

    std::map<std::string, std::vector<delivery::MxRecord>> records;
    std::map<std::string, std::vector<std::string>> hosts;
    std::map<std::string, std::vector<tls_offload::TlsaRecord>> tlsa_records;
    std::map<std::string, delivery::ResolveError> errors;
    bool secure = false; // all its answers are signed
    base::Duration ttl = 1h;
    int questions = 0;

private:
    base::Loop& loop_;
};

struct EventList final : telemetry::EventSink {
    telemetry::Event* claim() noexcept override { return &next; }
    void publish() noexcept override { events.push_back(next); }
    [[nodiscard]] std::vector<telemetry::Event> of(telemetry::EventType type) const {
        std::vector<telemetry::Event> found;
        std::ranges::copy_if(events, std::back_inserter(found),
                             [&](const auto& event) { return event.type == type; });
        return found;
    }
    telemetry::Event next;
    std::deque<telemetry::Event> events;
};

/// Counts rounds on the way between queue and dispatcher.
struct WatchedSink final : queue::ReadySink {
    void message_ready(queue::MessageRef message) override {
        ++rounds;
        inner->message_ready(std::move(message));
    }
    [[nodiscard]] std::size_t room(bool fresh) const noexcept override {
        return inner->room(fresh);
    }
    queue::ReadySink* inner = nullptr;
    int rounds = 0;
};

class DeliveryFixture : public ::testing::Test {
protected:
    explicit DeliveryFixture(std::uint64_t bytes = 16U << 20) : disk_bytes(bytes) {
        rules.hostname = "relay.example";
        rules.version = 1;
        rules.sources.push_back({.name = "default"});
        rules.source_index["default"] = 0;
        rules.retry.jitter = 0.0;
    }
    void SetUp() override {
        queue::RecoveryReport report;
        auto opened =
            run(loop, clock,
                queue::MessageQueue::open(loop, disk, {.segment_bytes = 1U << 20}, report));
        ASSERT_TRUE(opened.has_value());
        queue = std::move(*opened);
    }
    void TearDown() override {
        loop.drop_tasks();
        dispatchers.clear();
    }

    /// Publishes `rules` and, at the first call, starts the dispatcher.
    void start(std::size_t messages_max = delivery::ready_messages_max) {
        ++rules.version;
        slot.replace(std::make_shared<const policy::Policy>(rules));
        if (!dispatchers.empty()) return;
        dispatcher = &add_dispatcher(messages_max);
        sink.inner = dispatcher;
        queue->set_sink(sink);
    }
    delivery::Dispatcher& add_dispatcher(std::size_t messages_max = delivery::ready_messages_max) {
        delivery::DeliveryContext context{.loop = loop,
                                          .transports = {.kernel = net},
                                          .queue = *queue,
                                          .policy = slot,
                                          .resolver = resolver,
                                          .tls = tls,
                                          .stats = stats,
                                          .events = events,
                                          .ledger = ledger,
                                          .dkim = desk,
                                          .seed = 1 + dispatchers.size(),
                                          .messages_max = messages_max};
        dispatchers.push_back(std::make_unique<delivery::Dispatcher>(context));
        return *dispatchers.back();
    }

    /// Queues one message as if it had been submitted.
    queue::MessageId submit(std::vector<std::string> recipients,
                            std::string_view content = "Subject: a\r\n\r\nbody\r\n",
                            const std::function<void(queue::Envelope&)>& adjust = {}) {
        auto put = [](queue::MessageQueue* to, std::string text, std::vector<std::string> rcpts,
                      const std::function<void(queue::Envelope&)>* tune,
                      base::Loop* time) -> base::Task<queue::MessageId> {
            auto begun = to->begin(text.size());
            CHECK(begun.has_value());
            queue::Draft draft = std::move(*begun);
            draft.envelope().set_sender("alice@sender.example");
            for (const std::string& rcpt : rcpts)
                draft.envelope().add_recipient(rcpt, "", queue::notify_absent);
            draft.envelope().arrival = time->wall_now();
            draft.envelope().expiry = time->wall_now() + 120h;
            if (*tune) (*tune)(draft.envelope());
            const auto appended =
                co_await draft.append(base::as_bytes(text), base::Deadline::never());
            CHECK(appended.has_value());
            const auto committed = co_await draft.commit("", base::Deadline::never());
            CHECK(committed.has_value());
            co_return (*committed)->id;
        };
        return run(loop, clock, put(queue.get(), std::string{content}, recipients, &adjust, &loop));
    }
    ScriptedPeer& peer(const std::string& address) {
        peers.push_back(
            std::make_unique<ScriptedPeer>(loop, net, *base::SocketAddress::parse(address)));
        return *peers.back();
    }
    /// One domain with one host with one address, and a peer there.
    ScriptedPeer& simple_site(const std::string& domain, const std::string& address) {
        resolver.records[domain] = {{10, "mx." + domain}};
        resolver.hosts["mx." + domain] = {address};
        return peer(address + ":25");
    }
    bool wait_for(const std::function<bool()>& done, base::Duration limit = 1h) {
        return run_until(loop, clock, done, limit);
    }
    void pass(base::Duration time) {
        const auto end = clock.now() + time;
        struct Alarm : base::Timer {
            using Timer::Timer;
        } alarm{[](base::Timer&) noexcept {}};
        loop.arm(alarm, end);
        run_until(loop, clock, [&] { return clock.now() >= end; }, time + 1s);
    }
    [[nodiscard]] bool queue_empty() const { return queue->counters().queued_messages == 0; }
    [[nodiscard]] std::uint64_t counted(telemetry::Counter counter) const {
        return stats.get(counter);
    }

    const std::uint64_t disk_bytes;
    base::ManualClock clock;
    base::Loop loop{clock};
    SimDisk disk{loop, {.bytes = disk_bytes}};
    SimNet net{loop};
    TableResolver resolver{loop};
    EventList events;
    std::unique_ptr<control::schema::ShardStats> page =
        std::make_unique<control::schema::ShardStats>();
    telemetry::Stats stats{*page};
    delivery::SiteLedger ledger;
    tls_offload::ClientContext* tls = nullptr;
    dataplane::message::dkim::SigningDesk* desk = nullptr;
    policy::Policy rules;
    policy::PolicySlot slot{std::make_shared<const policy::Policy>()};
    WatchedSink sink;
    std::unique_ptr<queue::MessageQueue> queue;
    std::vector<std::unique_ptr<ScriptedPeer>> peers;
    std::vector<std::unique_ptr<delivery::Dispatcher>> dispatchers;
    delivery::Dispatcher* dispatcher = nullptr;
};

} // namespace tests
