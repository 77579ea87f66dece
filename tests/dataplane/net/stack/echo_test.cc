// Goal: bytes go out and come back unchanged between two stacks, over both families.
#include "tests/dataplane/net/stack/world.h"

namespace dataplane::net::stack {
namespace {

base::Task<void> greet(World& world, base::SocketAddress remote, std::string& answer) {
    auto stream = co_await world.client.connect(remote, std::nullopt, world.in(5s));
    EXPECT_TRUE(stream) << base::to_string(stream.error());
    if (!stream) co_return;
    EXPECT_EQ((*stream)->info().peer, remote);
    EXPECT_EQ((*stream)->info().client, remote);
    EXPECT_NE((*stream)->info().local.port, 0);
    const auto written = co_await (*stream)->write(base::as_bytes("hello"), world.in(5s));
    EXPECT_TRUE(written);
    const auto text = co_await read_exactly(**stream, 5, world.in(5s));
    EXPECT_TRUE(text);
    if (text) answer = *text;
    (*stream)->close();
}

void echo_over(std::string_view address) {
    World world;
    const auto listener = world.listen(address);
    world.loop.spawn(serve_echo(world.loop, *listener), "serve");
    std::string answer;
    world.loop.spawn(greet(world, listener->local(), answer), "greet");
    EXPECT_TRUE(world.run_until([&] { return world.loop.spawned_count() == 1; }));
    EXPECT_EQ(answer, "hello");
    world.expect_nothing_left();
}

TEST(StackEcho, AnswersOverIpv4) {
    echo_over("10.0.0.2:25");
}
TEST(StackEcho, AnswersOverIpv6) {
    echo_over("[fd00::2]:25");
}
TEST(StackEcho, AnswersOnAPortOfItsOwnChoice) {
    echo_over("10.0.0.2:0");
}

} // namespace
} // namespace dataplane::net::stack
