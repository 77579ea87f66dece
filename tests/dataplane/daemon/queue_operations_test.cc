// queue_operations_test.cc: what an operator does to queued mail, with the real queue and dispatcher.
#include "dataplane/daemon/queue_operations.h"
#include "tests/dataplane/delivery/delivery_fixture.h"

#include <nlohmann/json.hpp>

namespace tests {
namespace {

using dataplane::daemon::parse_orders;
using dataplane::daemon::QueueOperations;
using nlohmann::json;
using Kind = policy::ShardCommand::Kind;
using telemetry::Counter;

class QueueOperationsTest : public DeliveryFixture {
protected:
    /// Two sites that take nothing: one is down, the other answers 450.
    void SetUp() override {
        DeliveryFixture::SetUp();
        rules.retry.first = 3600s;
        rules.retry.delay_notice = 0s;
        simple_site("late.example", "192.0.2.1").reply("RCPT", "450 4.2.0 mailbox busy");
        simple_site("down.example", "192.0.2.2");
        net.fail_connects_to(*base::SocketAddress::parse("192.0.2.2:25"), base::NetError::refused);
        simple_site("sender.example", "192.0.2.3"); // where reports go
        start();
        operations = std::make_unique<QueueOperations>(loop, *queue, *dispatcher);
        for (int i = 0; i < 6; ++i) {
            submit({"r" + std::to_string(i) + "@late.example"}, "x\r\n",
                   [&](auto& envelope) { envelope.set_tenant(i % 2 == 0 ? "even" : "odd"); });
        }
        for (int i = 0; i < 4; ++i)
            submit({"r@down.example"}, "x\r\n",
                   [](auto& envelope) { envelope.set_tenant("even"); });
        pass(10s);
        ASSERT_EQ(queue->counters().queued_messages, 10U);
    }
    void TearDown() override {
        loop.drop_tasks();
        operations.reset();
        DeliveryFixture::TearDown();
    }
    json ask(Kind kind, const json& arguments) {
        std::optional<std::string> answer;
        operations->start(kind, arguments.dump(),
                          [&](std::string text) { answer = std::move(text); });
        CHECK(wait_for([&] { return answer.has_value(); }, 30s));
        return json::parse(*answer);
    }
    json orders(const json& list) { return ask(Kind::queue_orders, {{"orders", list}}); }
    ScriptedPeer& late() { return *peers[0]; }
    ScriptedPeer& reports() { return *peers[2]; }

    std::unique_ptr<QueueOperations> operations;
};

TEST_F(QueueOperationsTest, CountGroupsByWhatIsAsked) {
    const json by_domain = ask(Kind::queue_count, {{"by", "domain"}});
    EXPECT_EQ(by_domain["messages"], 10);
    EXPECT_EQ(by_domain["groups"]["late.example"], 6);
    EXPECT_EQ(by_domain["groups"]["down.example"], 4);
    EXPECT_EQ(ask(Kind::queue_count, {{"by", "tenant"}})["groups"]["even"], 7);
    EXPECT_EQ(ask(Kind::queue_count, {{"by", "site"}})["groups"]["mx.down.example"], 4);
    EXPECT_EQ(ask(Kind::queue_count, {{"by", "state"}})["groups"]["waiting for its site"], 4);
    EXPECT_EQ(ask(Kind::queue_count, {{"by", "age"}})["groups"]["under 1 min"], 10);
    const json errors = ask(Kind::queue_count, {{"by", "error"}});
    EXPECT_EQ(errors["groups"].size(), 2U) << errors;
}

TEST_F(QueueOperationsTest, FiltersSelectExactlyWhatTheyName) {
    const auto count = [&](const json& filter) {
        return ask(Kind::queue_count, filter)["messages"].get<int>();
    };
    EXPECT_EQ(count({{"domain", "LATE.example"}}), 6);
    EXPECT_EQ(count({{"tenant", "odd"}}), 3);
    EXPECT_EQ(count({{"domain", "late.example"}, {"tenant", "even"}}), 3);
    EXPECT_EQ(count({{"recipient", "r3@late.example"}}), 1);
    EXPECT_EQ(count({{"sender", "alice@sender.example"}}), 10);
    EXPECT_EQ(count({{"sender", "bob@sender.example"}}), 0);
    EXPECT_EQ(count({{"site", "mx.down.example"}}), 4);
    EXPECT_EQ(count({{"error", "mailbox busy"}}), 6);
    EXPECT_EQ(count({{"error", "refused"}}), 4);
    EXPECT_EQ(count({{"code", 450}}), 6);
    EXPECT_EQ(count({{"older_s", 5}}), 10);
    EXPECT_EQ(count({{"older_s", 500}}), 0);
    EXPECT_TRUE(ask(Kind::queue_count, {{"id", "nonsense"}}).contains("error"));
}

TEST_F(QueueOperationsTest, ListAndShowReadWhatTheIndexDoesNotHave) {
    const json listed = ask(Kind::queue_list, {{"domain", "late.example"}, {"limit", 2}});
    EXPECT_EQ(listed["total"], 6);
    ASSERT_EQ(listed["messages"].size(), 2U);
    EXPECT_EQ(listed["messages"][0]["sender"], "alice@sender.example");
    EXPECT_EQ(listed["messages"][0]["recipients"][0]["last_code"], 450);
    const json shown = ask(Kind::queue_show, {{"id", listed["messages"][1]["id"]}});
    EXPECT_EQ(shown["message"]["id"], listed["messages"][1]["id"]);
}

TEST_F(QueueOperationsTest, DryRunTouchesNothingAndShowsSome) {
    const json dry =
        ask(Kind::queue_end, {{"how", "remove"}, {"domain", "late.example"}, {"dry_run", true}});
    EXPECT_EQ(dry["messages"], 6);
    EXPECT_EQ(dry["sample"].size(), 6U);
    EXPECT_FALSE(dry.contains("touched"));
    EXPECT_EQ(queue->counters().queued_messages, 10U);
}

TEST_F(QueueOperationsTest, DeletedMailIsGoneAfterARestartAndNobodyIsTold) {
    const json reply = ask(Kind::queue_end, {{"how", "remove"}, {"tenant", "odd"}});
    EXPECT_EQ(reply["touched"], 3);
    EXPECT_EQ(reply["pending"], 0);
    EXPECT_EQ(queue->counters().queued_messages, 7U);
    pass(5s);
    EXPECT_TRUE(reports().accepted.empty());
    // What was answered is on the disk: a power cut at this moment brings none of it back.
    base::ManualClock later;
    base::Loop next{later};
    SimDisk image{next, {.bytes = disk.bytes().size()}, disk.bytes()};
    queue::RecoveryReport report;
    auto opened = run(next, later,
                      queue::MessageQueue::open(next, image, {.segment_bytes = 1U << 20}, report));
    ASSERT_TRUE(opened.has_value());
    EXPECT_EQ((*opened)->counters().queued_messages, 7U);
    static_cast<void>(run(next, later, (*opened)->close(base::Deadline::never())));
}

// The index has 32 bits of a sender; what is ended is compared with the envelope.
TEST_F(QueueOperationsTest, MailOfASenderWithTheSameHashIsLeftAlone) {
    const std::string one = "dlpjrry@sender.example", other = "aiyifwg@sender.example";
    ASSERT_EQ(queue::text_hash(one), queue::text_hash(other));
    submit({"x@late.example"}, "x\r\n", [&](auto& envelope) { envelope.set_sender(one); });
    pass(10s); // it is deferred
    EXPECT_EQ(ask(Kind::queue_count, {{"sender", other}})["messages"], 1) << "count trusts the hash";
    static_cast<void>(ask(Kind::queue_end, {{"how", "remove"}, {"sender", other}}));
    EXPECT_EQ(queue->counters().queued_messages, 11U);
    EXPECT_EQ(ask(Kind::queue_end, {{"how", "remove"}, {"sender", one}})["touched"], 1);
    EXPECT_EQ(queue->counters().queued_messages, 10U);
}

TEST_F(QueueOperationsTest, DeleteWithDsnTellsEachSender) {
    const json reply = ask(Kind::queue_end, {{"how", "dsn"}, {"domain", "down.example"}});
    EXPECT_EQ(reply["touched"], 4);
    ASSERT_TRUE(wait_for([&] { return reports().accepted.size() == 4; }, 60s));
    EXPECT_NE(reports().accepted[0].content.find("removed from the queue by an operator"),
              std::string::npos);
    EXPECT_TRUE(wait_for([&] { return queue->counters().queued_messages == 6; }, 60s));
}

TEST_F(QueueOperationsTest, ExpireGivesMailUpAsItsTimeWould) {
    EXPECT_EQ(ask(Kind::queue_end, {{"how", "expire"}, {"code", 450}})["touched"], 6);
    ASSERT_TRUE(wait_for([&] { return reports().accepted.size() == 6; }, 60s));
    EXPECT_EQ(counted(Counter::messages_expired), 6U);
}

TEST_F(QueueOperationsTest, SuspendedMailStaysAndComesBackWhenItsOrderEnds) {
    orders({{{"order", 1}, {"kind", "suspend"}, {"domain", "late.example"}, {"tenant", "even"}}});
    late().forget_rules();
    EXPECT_EQ(ask(Kind::queue_flush, {{"domain", "late.example"}})["touched"], 6);
    submit({"new@late.example"}, "x\r\n", [](auto& envelope) { envelope.set_tenant("even"); });
    pass(60s);
    EXPECT_EQ(late().accepted.size(), 3U); // the odd ones
    EXPECT_EQ(queue->schedule().counts().held, 4U);
    orders(json::array());
    ASSERT_TRUE(wait_for([&] { return late().accepted.size() == 7; }, 60s));
}

TEST_F(QueueOperationsTest, SuspensionEndsByItselfAtItsTime) {
    const auto until =
        std::chrono::duration_cast<std::chrono::seconds>(loop.wall_now().time_since_epoch())
            .count() +
        300;
    orders({{{"order", 1},
             {"kind", "suspend"},
             {"domain", "late.example"},
             {"until_s", static_cast<std::uint64_t>(until)}}});
    late().forget_rules();
    static_cast<void>(ask(Kind::queue_flush, {{"domain", "late.example"}}));
    pass(280s);
    EXPECT_TRUE(late().accepted.empty());
    ASSERT_TRUE(wait_for([&] { return late().accepted.size() == 6; }, 200s));
}

TEST_F(QueueOperationsTest, RerouteSendsFromTheOtherSource) {
    rules.sources.push_back({.name = "spare", .helo_name = "spare.example"});
    rules.source_index["spare"] = 1;
    start();
    late().forget_rules();
    const auto now = static_cast<std::uint64_t>(loop.wall_now().time_since_epoch().count() / 1000);
    orders({{{"order", 1},
             {"kind", "reroute"},
             {"tenant", "odd"},
             {"to", "spare"},
             {"arrived_by_s", now}}});
    static_cast<void>(ask(Kind::queue_flush, {{"domain", "late.example"}}));
    ASSERT_TRUE(wait_for([&] { return late().accepted.size() == 6; }, 60s));
    EXPECT_EQ(std::ranges::count(late().accepted, "spare.example", &AcceptedMail::helo), 3);
}

TEST_F(QueueOperationsTest, FlushTriesAPausedSiteOnceNotItsWholeMail) {
    const auto before = net.connection_count();
    EXPECT_EQ(ask(Kind::queue_flush, {{"site", "mx.down.example"}})["touched"], 4);
    pass(5s);
    EXPECT_EQ(queue->schedule().counts().parked, 4U); // still down
    EXPECT_EQ(net.connection_count(), before);
    net.heal(*base::SocketAddress::parse("192.0.2.2:25"));
    EXPECT_EQ(ask(Kind::queue_flush, {{"site", "mx.down.example"}})["touched"], 4);
    ASSERT_TRUE(wait_for([&] { return peers[1]->accepted.size() == 4; }, 30s));
}

TEST(QueueOrders, NonsenseIsRefused) {
    EXPECT_TRUE(parse_orders(R"({"orders":[]})").has_value());
    for (const char* wrong :
         {"", "[]", "{}", R"({"orders":1})", R"({"orders":[1]})", R"({"orders":[{"kind":"x"}]})",
          R"({"orders":[{"kind":"reroute"}]})", R"({"orders":[{"kind":"suspend","id":"zz"}]})"}) {
        EXPECT_FALSE(parse_orders(wrong).has_value()) << wrong;
    }
}

} // namespace
} // namespace tests
