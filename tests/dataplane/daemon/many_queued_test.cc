// many_queued_test.cc: what an operator's commands cost when very much is queued, and how long one turn of the shard takes.
//
// Method: the real queue with its index, schedule and log, on a disk in memory and under a clock that does not move by
// itself; what is measured is this thread's own CPU time, of all turns until the answer, and of the longest one.
// MILLRACE_QUEUED=1000000 for the figures of docs/benchmarks.md; by default few, and only the answers are checked.
#include "dataplane/daemon/queue_operations.h"
#include "tests/dataplane/delivery/delivery_fixture.h"

#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>

namespace tests {
namespace {

using dataplane::daemon::QueueOperations;
using nlohmann::json;
using Kind = policy::ShardCommand::Kind;

constexpr std::uint64_t domains = 10'000;
constexpr std::uint64_t tenants = 10;
constexpr std::uint64_t writers = 1000;

std::uint64_t queued_count() {
    const char* wanted = std::getenv("MILLRACE_QUEUED");
    return wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : 3000;
}

double cpu_ms() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6;
}

/// Every message has been tried, and waits a day for its next turn.
class LaterSink final : public queue::ReadySink {
public:
    LaterSink(base::Loop& loop, queue::MessageQueue& queue) : loop_(loop), queue_(queue) {}
    void message_ready(queue::MessageRef message) override {
        const std::string why = "450 4.2." + std::to_string(++count_ % 7) + " mailbox busy";
        queue_.defer(std::move(message), loop_.wall_now() + 24h, why);
    }

private:
    base::Loop& loop_;
    queue::MessageQueue& queue_;
    std::uint64_t count_ = 0;
};

class ManyQueued : public DeliveryFixture {
protected:
    ManyQueued() : DeliveryFixture((64U << 20) + queued_count() * 1500) {}

    void SetUp() override {
        DeliveryFixture::SetUp();
        rules.retry.delay_notice = 0s;
        simple_site("sender.example", "192.0.2.3"); // where reports go
        LaterSink later{loop, *queue};
        queue->set_sink(later);
        std::uint64_t left = queued_count(), running = writers;
        for (std::uint64_t i = 0; i < writers; ++i)
            loop.spawn(write(queue.get(), &loop, &left, &running), "writer");
        ASSERT_TRUE(wait_for([&] { return running == 0; }, 24h));
        ASSERT_TRUE(
            wait_for([&] { return queue->schedule().counts().timed == queued_count(); }, 1h));
        start();
        operations = std::make_unique<QueueOperations>(loop, *queue, *dispatcher);
    }
    void TearDown() override {
        loop.drop_tasks();
        operations.reset();
        DeliveryFixture::TearDown();
    }

    static base::Task<void> write(queue::MessageQueue* queue, base::Loop* loop, std::uint64_t* left,
                                  std::uint64_t* running) {
        while (*left > 0) {
            const std::uint64_t number = --*left;
            auto draft = queue->begin(3);
            CHECK(draft.has_value());
            draft->envelope().set_sender("alice@sender.example");
            draft->envelope().set_tenant("tenant" + std::to_string(number % tenants));
            draft->envelope().add_recipient("r@d" + std::to_string(number % domains) + ".example",
                                            "", queue::notify_absent);
            draft->envelope().arrival = loop->wall_now();
            draft->envelope().expiry = loop->wall_now() + 120h;
            const auto appended =
                co_await draft->append(base::as_bytes("x\r\n"), base::Deadline::never());
            const auto committed = co_await draft->commit("", base::Deadline::never());
            CHECK(appended.has_value() && committed.has_value());
        }
        --*running;
    }

    /// Turns until `done`; prints what they took.
    void turns(const std::string& what, const std::function<bool()>& done) {
        double all = 0, longest = 0;
        std::uint64_t count = 0;
        while (!done()) {
            const double began = cpu_ms();
            const bool more = loop.turn();
            const double took = cpu_ms() - began;
            all += took;
            longest = std::max(longest, took);
            events.events.clear(); // the fixture's lists are no part of it
            peers.front()->accepted.clear();
            ASSERT_LT(++count, 100'000'000U) << what;
            if (!more) clock.advance(std::max(base::Duration{1000}, loop.next_due() - clock.now()));
        }
        std::printf("| %s | %.1f | %llu | %.2f |\n", what.c_str(), all,
                    static_cast<unsigned long long>(count), longest);
    }
    json ask(const std::string& what, Kind kind, const json& arguments) {
        std::optional<std::string> answer;
        operations->start(kind, arguments.dump(),
                          [&](std::string text) { answer = std::move(text); });
        turns(what, [&] { return answer.has_value(); });
        return json::parse(*answer);
    }

    std::unique_ptr<QueueOperations> operations;
};

TEST_F(ManyQueued, EachCommandIsDoneInSlices) {
    const std::uint64_t all = queued_count();
    std::printf("| command, %llu messages | CPU ms | turns | longest ms |\n",
                static_cast<unsigned long long>(all));
    for (const char* by : {"domain", "tenant", "site", "age", "error", "state"}) {
        const json counted = ask(std::string{"count --by "} + by, Kind::queue_count, {{"by", by}});
        EXPECT_EQ(counted["messages"], all);
    }
    EXPECT_EQ(ask("count --tenant", Kind::queue_count, {{"tenant", "tenant3"}})["messages"],
              all / tenants);
    EXPECT_EQ(ask("count --error", Kind::queue_count, {{"error", "4.2.3"}})["messages"].get<int>(),
              static_cast<int>((all + 4) / 7));
    for (const char* how : {"remove", "dsn", "expire"}) {
        const json dry = ask(std::string{"--dry-run, "} + how, Kind::queue_end,
                             {{"how", how}, {"dry_run", true}});
        EXPECT_EQ(dry["messages"], all);
    }

    // A tenth is suspended, tried, held, and let go.
    const auto order = [](const char* kind) {
        return json{
            {"orders", {{{"order", 1}, {"kind", kind}, {"tenant", "tenant1"}, {"to", "default"}}}}};
    };
    ask("suspend --tenant", Kind::queue_orders, order("suspend"));
    EXPECT_EQ(ask("flush --tenant", Kind::queue_flush, {{"tenant", "tenant1"}})["touched"],
              all / tenants);
    turns("all of these are read and held",
          [&] { return queue->schedule().counts().held == all / tenants; });
    ask("resume, and move to another source", Kind::queue_orders, order("reroute"));
    turns("all of these are let go", [&] { return queue->schedule().counts().held == 0; });

    const json expired =
        ask("expire --tenant", Kind::queue_end, {{"how", "expire"}, {"tenant", "tenant2"}});
    EXPECT_EQ(expired["touched"], all / tenants);
    const json reported =
        ask("delete --dsn --tenant", Kind::queue_end, {{"how", "dsn"}, {"tenant", "tenant4"}});
    EXPECT_EQ(reported["touched"], all / tenants);
    const json removed = ask("delete --no-dsn --tenant", Kind::queue_end,
                             {{"how", "remove"}, {"tenant", "tenant5"}});
    EXPECT_EQ(removed["touched"], all / tenants);
    const json rest = ask("delete --no-dsn --everything", Kind::queue_end, {{"how", "remove"}});
    EXPECT_GE(rest["touched"].get<std::uint64_t>(), all / tenants * 6);
}

} // namespace
} // namespace tests
