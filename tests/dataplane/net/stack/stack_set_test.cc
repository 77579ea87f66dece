// Goal: with several ports each connection takes the right one, and a listener for all addresses hears all.
// Method: two stacks of ours on two lines, behind one StackSet; a stack of somebody else's at each other end.
#include "dataplane/net/stack/stack_set.h"
#include "tests/dataplane/net/stack/world.h"

namespace dataplane::net::stack {
namespace {

ip::LayerOptions layer(std::vector<ip::LayerOptions::Address> addresses,
                       std::vector<ip::Route> routes) {
    return {.addresses = std::move(addresses), .routes = std::move(routes)};
}
base::IpAddress ip(std::string_view text) {
    return *base::IpAddress::parse(text);
}
base::Network network(std::string_view text) {
    return *base::Network::parse(text);
}
StackOptions options(std::uint64_t secret) {
    return {.receive_slabs = 256, .send_slabs = 256, .secret = {secret, secret}};
}

struct StackSetTest : testing::Test {
    StackSetTest() {
        ours.add(near_a, ip_a);
        ours.add(near_b, ip_b);
    }
    ~StackSetTest() override { loop.drop_tasks(); }

    template <class Done>
    bool run_until(const Done& done, base::Duration limit = 20s) {
        const base::TimePoint end = clock.now() + limit;
        while (!done()) {
            if (clock.now() > end) return false;
            line_a.run_until(clock.now());
            line_b.run_until(clock.now());
            std::size_t frames = 0;
            for (Stack* stack : {&near_a, &near_b, &far_a, &far_b})
                frames += stack->poll();
            if (loop.turn() || frames > 0) continue;
            clock.advance_to(clock.now() + 50us);
        }
        return true;
    }
    Connected connect(base::Transport& from, std::string_view remote,
                      std::optional<base::IpAddress> source = std::nullopt) {
        Connected result;
        loop.spawn(connect_once(from, *base::SocketAddress::parse(remote), source,
                                base::Deadline::in(loop, 5s), result),
                   "connect");
        EXPECT_TRUE(run_until([&] { return result.has_value(); }));
        return result;
    }
    Connected accept(base::Listener& listener, base::Duration limit = 5s) {
        Connected result;
        loop.spawn(accept_once(listener, base::Deadline::in(loop, limit), result), "accept");
        EXPECT_TRUE(run_until([&] { return result.has_value(); }));
        return result;
    }
    std::unique_ptr<base::Listener> listen(base::Transport& at, std::string_view address) {
        auto listener = at.listen(*base::SocketAddress::parse(address), {});
        EXPECT_TRUE(listener) << base::to_string(listener.error());
        return listener ? std::move(*listener) : nullptr;
    }

    base::ManualClock clock;
    base::Loop loop{clock};
    SimLink line_a{{}}, line_b{{}};
    ip::LayerOptions ip_a = layer({{ip("10.0.0.1"), 24}}, {{network("0.0.0.0/0"), ip("10.0.0.2")}});
    ip::LayerOptions ip_b = layer({{ip("10.1.0.1"), 24}, {ip("10.1.0.3"), 24}},
                                  {{network("192.0.2.0/24"), ip("10.1.0.2")}});
    Stack near_a{loop, line_a.port(0), ip_a, options(1)};
    Stack near_b{loop, line_b.port(0), ip_b, options(2)};
    Stack far_a{loop, line_a.port(1), layer({{ip("10.0.0.2"), 24}, {ip("198.51.100.1"), 32}}, {}),
                options(3)};
    Stack far_b{loop, line_b.port(1), layer({{ip("10.1.0.2"), 24}, {ip("192.0.2.9"), 32}}, {}),
                options(4)};
    StackSet ours{loop};
};

TEST_F(StackSetTest, DestinationDecidesByTheLongestMatch) {
    const auto at_a = listen(far_a, "0.0.0.0:25");
    const auto at_b = listen(far_b, "0.0.0.0:25");
    for (const auto& [remote, local] :
         {std::pair{"10.0.0.2:25", "10.0.0.1"}, std::pair{"10.1.0.2:25", "10.1.0.1"},
          std::pair{"192.0.2.9:25", "10.1.0.1"}, std::pair{"198.51.100.1:25", "10.0.0.1"}}) {
        const Connected stream = connect(ours, remote);
        ASSERT_TRUE(stream && *stream) << remote;
        EXPECT_EQ((**stream)->info().local.ip, ip(local)) << remote;
    }
    EXPECT_EQ(near_a.statistics().stack.connected, 2U);
    EXPECT_EQ(near_b.statistics().stack.connected, 2U);
}

TEST_F(StackSetTest, SourceAddressDecidesBeforeTheDestination) {
    const auto at_b = listen(far_b, "0.0.0.0:25");
    const Connected stream = connect(ours, "10.1.0.2:25", ip("10.1.0.3"));
    ASSERT_TRUE(stream && *stream);
    EXPECT_EQ((**stream)->info().local.ip, ip("10.1.0.3"));
    const Connected other = connect(ours, "192.0.2.9:25", ip("10.0.0.1"));
    EXPECT_FALSE(other && *other); // the line of that source does not reach it
    EXPECT_EQ(near_b.statistics().stack.connected, 1U);
}

TEST_F(StackSetTest, ListenerForAllAddressesHearsEveryPort) {
    const auto listener = listen(ours, "0.0.0.0:25");
    const Connected from_b = connect(far_b, "10.1.0.1:25");
    const Connected from_a = connect(far_a, "10.0.0.1:25");
    ASSERT_TRUE(from_a && *from_a && from_b && *from_b);
    std::vector<base::IpAddress> heard;
    for (int i = 0; i < 2; ++i) {
        const Connected stream = accept(*listener);
        ASSERT_TRUE(stream && *stream);
        heard.push_back((**stream)->info().local.ip);
    }
    std::ranges::sort(heard);
    EXPECT_EQ(heard, (std::vector{ip("10.0.0.1"), ip("10.1.0.1")}));
    const Connected none = accept(*listener, 1s);
    ASSERT_TRUE(none && !*none);
    EXPECT_EQ(none->error(), base::NetError::timed_out);
}

TEST_F(StackSetTest, PortZeroIsTheSameOnAllPorts) {
    const auto listener = listen(ours, "0.0.0.0:0");
    const std::string port = std::to_string(listener->local().port);
    const Connected from_a = connect(far_a, "10.0.0.1:" + port);
    const Connected from_b = connect(far_b, "10.1.0.1:" + port);
    EXPECT_TRUE(from_a && *from_a);
    EXPECT_TRUE(from_b && *from_b);
}

TEST_F(StackSetTest, ListenerOfOneAddressHearsOnlyItsPort) {
    const auto listener = listen(ours, "10.1.0.3:25");
    const Connected from_b = connect(far_b, "10.1.0.3:25");
    EXPECT_TRUE(from_b && *from_b);
    const Connected from_a = connect(far_a, "10.0.0.1:25");
    ASSERT_TRUE(from_a && !*from_a);
    EXPECT_EQ(from_a->error(), base::NetError::refused);
}

TEST_F(StackSetTest, ClosedListenerAcceptsNoMoreAndEndsTheWait) {
    auto listener = listen(ours, "0.0.0.0:25");
    Connected waiting;
    loop.spawn(accept_once(*listener, base::Deadline::never(), waiting), "accept");
    ASSERT_FALSE(run_until([&] { return waiting.has_value(); }, 1s));
    listener->close();
    ASSERT_TRUE(run_until([&] { return waiting.has_value(); }));
    ASSERT_FALSE(*waiting);
    EXPECT_EQ(waiting->error(), base::NetError::closed);
    listener.reset();
    EXPECT_TRUE(run_until([&] { return loop.spawned_count() == 0; }));
    const Connected late = connect(far_b, "10.1.0.1:25");
    EXPECT_FALSE(late && *late);
}

TEST_F(StackSetTest, ListenerThatGoesWithWhatItAcceptedLeavesNothing) {
    auto listener = listen(ours, "0.0.0.0:25");
    Connected from_b = connect(far_b, "10.1.0.1:25");
    Connected second = connect(far_b, "10.1.0.1:25");
    Connected third = connect(far_b, "10.1.0.1:25"); // more than wait outside of the stack
    ASSERT_TRUE(third && *third);
    ASSERT_FALSE(run_until([] { return false; }, 1s));
    listener.reset();
    EXPECT_TRUE(run_until([&] { return loop.spawned_count() == 0; }));
    from_b.reset();
    second.reset();
    third.reset();
    EXPECT_TRUE(run_until([&] { return near_b.connection_count() == 0; }, 60s));
}

} // namespace
} // namespace dataplane::net::stack
