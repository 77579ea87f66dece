#include "dataplane/telemetry/event_log.h"

#include <cstdlib>
#include <fstream>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <string>
#include <unistd.h>

namespace {

using namespace dataplane::telemetry;
namespace base = dataplane::base;

struct TempFile {
    TempFile() { close(mkstemp(path.data())); }
    ~TempFile() { unlink(path.c_str()); }
    std::string path = "/tmp/millrace-event-log-XXXXXX";
};

Event sample() {
    Event event;
    event.clear();
    event.type = EventType::delivery;
    event.message_id = 0x0100020000000003;
    event.time = base::WallTime{std::chrono::milliseconds{1'767'225'600'123}};
    event.created = base::WallTime{std::chrono::milliseconds{1'767'225'599'000}};
    event.size_bytes = 4096;
    event.attempts = 1;
    event.code = 250;
    event.enhanced = {2, 0, 0};
    event.peer = *base::SocketAddress::parse("127.0.0.1:25");
    event.set(EventText::sender, "news@example.com");
    event.set(EventText::recipient, "user@example.net");
    event.set(EventText::response, "Ok: queued as \"42\"\\\t");
    return event;
}

TEST(EventJson, UsesTheFieldNamesThatKumoMtaTailersRead) {
    std::string line;
    append_json(sample(), "node-1", line);
    const auto parsed = nlohmann::json::parse(line);
    EXPECT_EQ(parsed["type"], "Delivery");
    EXPECT_EQ(parsed["id"], "0100020000000003");
    EXPECT_EQ(parsed["sender"], "news@example.com");
    EXPECT_EQ(parsed["response"]["code"], 250);
    EXPECT_EQ(parsed["response"]["enhanced_code"]["class"], 2);
    EXPECT_EQ(parsed["response"]["content"], "Ok: queued as \"42\"\\\t");
    EXPECT_EQ(parsed["peer_address"]["addr"], "127.0.0.1:25");
    EXPECT_EQ(parsed["timestamp"], 1'767'225'600);
    EXPECT_EQ(parsed["event_time"], "2026-01-01T00:00:00.123Z");
    EXPECT_EQ(parsed["num_attempts"], 1);
    EXPECT_EQ(parsed["nodeid"], "node-1");
}

TEST(EventJson, BytesThatAreNotUtf8BecomeReplacementCharacters) {
    Event event = sample();
    event.set(EventText::response, "bad \xff\xc0\x80 cut \xe2\x82");
    event.set(EventText::peer_name, "good \xe2\x82\xac");
    std::string line;
    append_json(event, "n", line);
    const auto parsed = nlohmann::json::parse(line); // throws on invalid UTF-8
    EXPECT_EQ(parsed["response"]["content"], "bad \ufffd\ufffd\ufffd cut \ufffd\ufffd");
    EXPECT_EQ(parsed["peer_address"]["name"], "good \xe2\x82\xac");
}

TEST(Event, TextBeyondTheRecordIsCutNotGrown) {
    Event event = sample();
    event.set(EventText::rules, std::string(5000, 'x'));
    EXPECT_LT(event.get(EventText::rules).size(), 1025U);
    event.set(EventText::site, "lost");
    EXPECT_EQ(event.get(EventText::site), "");
    EXPECT_EQ(event.get(EventText::sender), "news@example.com");
}

TEST(EventLog, WritesEveryPublishedEventInOrderAndDropsOnlyWhenFull) {
    TempFile file;
    control::schema::ShardStats page{};
    Stats stats{page};
    std::uint64_t published = 0;
    {
        EventLog log(file.path, "node");
        EventSink& sink = log.add_shard(stats);
        while (Event* event = sink.claim()) { // no writer yet: fills the ring
            event->message_id = ++published;
            sink.publish();
        }
        EXPECT_EQ(stats.get(Counter::events_dropped), 1U);
        log.start();
        for (int more = 0; more < 20'000;) {
            Event* event = sink.claim();
            if (event == nullptr) continue;
            event->message_id = ++published;
            sink.publish();
            ++more;
        }
    }
    std::ifstream in(file.path);
    std::string line;
    std::uint64_t expected = 0;
    while (std::getline(in, line)) {
        const auto parsed = nlohmann::json::parse(line);
        ASSERT_EQ(std::stoull(parsed["id"].get<std::string>(), nullptr, 16), ++expected);
    }
    EXPECT_EQ(expected, published);
}

TEST(EventLog, AFileThatCannotBeOpenedIsAStartUpErrorThatNamesIt) {
    EventLog log("/nonexistent/events.log", "node");
    try {
        log.start();
        FAIL() << "started without a file";
    } catch (const std::system_error& error) {
        EXPECT_NE(std::string(error.what()).find("/nonexistent/events.log"), std::string::npos);
    }
}

} // namespace
