// net_commands_test.cc: an operator's questions about a shard's own TCP/IP.

#include "dataplane/policy/net_commands.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace dataplane::policy {
namespace {

using Json = nlohmann::json;

base::SocketAddress socket_of(std::string_view text) {
    return base::SocketAddress::parse(text).value();
}

/// Two connections, and what a capture has kept.
class FakeNet final : public NetCommands {
public:
    std::size_t
    net_connections(std::uint32_t limit,
                    const std::function<void(const NetConnection&)>& visit) const override {
        for (std::uint32_t index = 0; index < 2 && (limit == 0 || index < limit); ++index) {
            visit({.local = socket_of("192.0.2.1:25"),
                   .remote = socket_of("[2001:db8::1]:4000"),
                   .state = "established",
                   .outgoing = index == 1,
                   .rtt = std::chrono::microseconds{1500},
                   .cwnd_bytes = 14600});
        }
        return 2;
    }
    std::expected<void, std::string> capture_start(const CaptureRequest& request) override {
        if (running != 0) return std::unexpected("a capture is running");
        running = request.id;
        return {};
    }
    std::optional<CaptureState> capture_read(const CaptureRequest& request) override {
        if (request.id != running) return std::nullopt;
        return CaptureState{.running = true,
                            .frames = 3,
                            .dropped = 4,
                            .blocks = std::as_bytes(std::span{std::exchange(blocks, {})})};
    }
    bool capture_stop(std::uint64_t id) override { return id == std::exchange(running, 0); }
    std::uint64_t running = 0;
    std::string_view blocks{"three blocks"};
};

Json ask(NetCommands* net, ShardCommand command) {
    return Json::parse(run_net_command(net, 3, command));
}

ShardCommand capture(ShardCommand::Kind kind, std::uint64_t id) {
    ShardCommand command{.kind = kind};
    command.capture.id = id;
    command.capture.filter.port = 25;
    return command;
}

TEST(NetCommands, ShardWithoutAPortSaysSo) {
    for (const auto kind : {ShardCommand::Kind::net_connections, ShardCommand::Kind::capture_start,
                            ShardCommand::Kind::capture_read, ShardCommand::Kind::capture_stop}) {
        EXPECT_TRUE(is_net_command(kind));
        EXPECT_EQ(ask(nullptr, {.kind = kind}),
                  (Json{{"error", "this shard has no DPDK transport"}}));
    }
    EXPECT_FALSE(is_net_command(ShardCommand::Kind::status));
}

TEST(NetCommands, ConnectionsAreListedToTheLimitAndCountedWhole) {
    FakeNet net;
    const Json reply = ask(&net, {.kind = ShardCommand::Kind::net_connections, .limit = 1});
    EXPECT_EQ(reply["total"], 2);
    ASSERT_EQ(reply["connections"].size(), 1u);
    const Json& first = reply["connections"][0];
    EXPECT_EQ(first["local"], "192.0.2.1:25");
    EXPECT_EQ(first["remote"], "[2001:db8::1]:4000");
    EXPECT_EQ(first["state"], "established");
    EXPECT_EQ(first["rtt_us"], 1500);
    EXPECT_EQ(first["cwnd"], 14600);
    EXPECT_EQ(first["shard"], 3);
}

TEST(NetCommands, CaptureIsOneAtATimeAndOfItsOwner) {
    FakeNet net;
    EXPECT_TRUE(ask(&net, {.kind = ShardCommand::Kind::capture_start}).contains("error"))
        << "without a filter";
    EXPECT_EQ(ask(&net, capture(ShardCommand::Kind::capture_start, 7)), (Json{{"shards", {3}}}));
    EXPECT_EQ(ask(&net, capture(ShardCommand::Kind::capture_start, 8)),
              (Json{{"error", "a capture is running"}}));
    EXPECT_TRUE(ask(&net, capture(ShardCommand::Kind::capture_read, 8)).contains("error"));
    EXPECT_EQ(ask(&net, capture(ShardCommand::Kind::capture_stop, 7)), (Json{{"stopped", 1}}));
}

TEST(NetCommands, BlocksTravelAsBase64AndEachOnce) {
    FakeNet net;
    net.running = 7;
    const Json reply = ask(&net, capture(ShardCommand::Kind::capture_read, 7));
    EXPECT_EQ(reply["running"], 1);
    EXPECT_EQ(reply["frames"], 3);
    EXPECT_EQ(reply["dropped"], 4);
    EXPECT_EQ(reply["blocks"], Json::array({"dGhyZWUgYmxvY2tz"}));
    EXPECT_EQ(ask(&net, capture(ShardCommand::Kind::capture_read, 7))["blocks"], Json::array());
}

} // namespace
} // namespace dataplane::policy
