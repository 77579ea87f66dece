// Goal: bytes go out and come back unchanged, over both families.
#include "tests/dataplane/net/kernel/shard_fixture.h"

namespace dataplane::net::kernel {
namespace {

using namespace std::chrono_literals;

base::Task<void> greet(Shard& shard, base::SocketAddress remote, std::string& answer) {
    auto stream = co_await shard.transport.connect(remote, std::nullopt, shard.in(5s));
    if (!stream) co_return;
    EXPECT_EQ((*stream)->info().peer, remote);
    EXPECT_EQ((*stream)->info().client, remote);
    EXPECT_NE((*stream)->info().local.port, 0);
    const auto written = co_await (*stream)->write(base::as_bytes("hello"), shard.in(5s));
    EXPECT_TRUE(written);
    const auto text = co_await read_exactly(**stream, 5, shard.in(5s));
    if (text) answer = *text;
    (*stream)->close();
}

TEST(KernelEcho, AnswersOverIpv4) {
    Shard shard;
    const auto listener = shard.listen("127.0.0.1:0");
    shard.loop.spawn(serve_echo(shard.loop, *listener), "serve");
    std::string answer;
    shard.loop.spawn(greet(shard, listener->local(), answer), "greet");
    EXPECT_TRUE(shard.run_until([&] { return shard.loop.spawned_count() == 1; }));
    EXPECT_EQ(answer, "hello");
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.connection_count() == 0; }));
}

TEST(KernelEcho, AnswersOverIpv6) {
    Shard shard;
    const auto listener = shard.listen("[::1]:0");
    shard.loop.spawn(serve_echo(shard.loop, *listener), "serve");
    std::string answer;
    shard.loop.spawn(greet(shard, listener->local(), answer), "greet");
    EXPECT_TRUE(shard.run_until([&] { return shard.loop.spawned_count() == 1; }));
    EXPECT_EQ(answer, "hello");
}

} // namespace
} // namespace dataplane::net::kernel
