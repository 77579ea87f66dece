// Goal: a connection whose owner has left ends in a way that tells the peer the truth, takes nothing away from it, and
// holds memory for a bounded time, in bounded number. Method: the frames on the link are looked at, not only what
// the peer's Stream makes of them.
#include "tests/dataplane/net/stack/forged_frame.h"
#include "tests/dataplane/net/stack/world.h"

#include "dataplane/net/stack/engine.h"
#include "dataplane/net/stack/tcp_stream.h"

#include <vector>

namespace dataplane::net::stack {
namespace {

struct ClosingTest : testing::Test {
    explicit ClosingTest(WorldOptions options = {}) : world(options) {
        world.link.set_tap([this](unsigned from, SimLink::TapPoint point,
                                  std::span<const std::byte> frame, base::TimePoint) {
            const bool tcp = frame.size() >= 54 && frame[12] == std::byte{8} &&
                             frame[13] == std::byte{0} && frame[23] == std::byte{6};
            if (from != 1 || point != SimLink::TapPoint::sent || !tcp) return;
            const auto flags = std::to_integer<std::uint8_t>(frame[47]);
            if ((flags & tcp::flag::fin) != 0) ++fins;
            if ((flags & tcp::flag::rst) != 0) ++resets;
        });
    }
    struct Pair {
        base::StreamPtr peer, stream;
    };
    Pair open() {
        Connected opened, accepted;
        world.loop.spawn(accept_once(*listener, world.in(10s), accepted), "accept");
        world.loop.spawn(
            connect_once(world.client, listener->local(), std::nullopt, world.in(10s), opened),
            "connect");
        EXPECT_TRUE(world.run_until([&] { return opened && accepted; }));
        return {std::move(**opened), std::move(**accepted)};
    }
    void write(base::Stream& stream, std::string_view text) {
        world.loop.spawn(write_text(stream, std::string{text}), "write");
        world.pass(10ms);
    }
    static base::Task<void> write_text(base::Stream& stream, std::string text) {
        const auto written = co_await stream.write(base::as_bytes(text), base::Deadline::never());
        EXPECT_TRUE(written);
    }
    static base::Task<void> read_rest(base::Stream& stream, std::string& text,
                                      std::optional<base::NetError>& end) {
        for (;;) {
            const auto filled = co_await stream.fill(base::Deadline::never());
            if (!filled) {
                end = filled.error();
                co_return;
            }
            text.append(base::as_text(stream.unread()));
            stream.consume(stream.unread().size());
        }
    }
    /// What the peer reads, and how it ends, within `limit`.
    std::optional<base::NetError> ends(Pair& pair, std::string& text, base::Duration limit) {
        std::optional<base::NetError> end;
        world.loop.spawn(read_rest(*pair.peer, text, end), "read");
        EXPECT_TRUE(world.run_until([&] { return end.has_value(); }, limit));
        if (!end) world.loop.drop_tasks();
        return end;
    }

    World world;
    std::unique_ptr<base::Listener> listener = world.listen();
    int fins = 0, resets = 0; // of the server
};

// T56
TEST_F(ClosingTest, SomethingUnreadEndsWithAResetAfterTheLastReplyAndWithoutAFin) {
    Pair pair = open();
    write(*pair.peer, std::string(1448, 'x'));
    write(*pair.stream, "221 2.0.0 Bye\r\n");
    pair.stream->close();
    std::string text;
    EXPECT_EQ(ends(pair, text, 1s), base::NetError::reset);
    EXPECT_EQ(text, "221 2.0.0 Bye\r\n");
    EXPECT_EQ(fins, 0);
    EXPECT_EQ(resets, 1);
    EXPECT_EQ(world.server.statistics().stack.closed_unread, 1U);
    pair = {};
    world.expect_nothing_left();
}

// T56
TEST_F(ClosingTest, APeerThatHasClosedTooIsToldAtOnceThatSomethingWasNotRead) {
    Pair pair = open();
    write(*pair.peer, "QUIT\r\nMAIL FROM:<>\r\n");
    pair.peer->close();
    world.pass(10ms);
    write(*pair.stream, "221 2.0.0 Bye\r\n");
    pair.stream->close();
    pair.stream.reset();
    const base::TimePoint start = world.clock.now();
    EXPECT_TRUE(world.run_until([&] { return world.server.connection_count() == 0; }, 5s));
    EXPECT_LT(world.clock.now() - start, 100ms);
    EXPECT_EQ(fins, 0);
    EXPECT_EQ(resets, 1);
}

// T56
TEST_F(ClosingTest, APeerThatKeepsTalkingIsListenedToUntilTheCloseLimit) {
    Pair pair = open();
    write(*pair.peer, "NOOP\r\n");
    const base::TimePoint start = world.clock.now();
    pair.stream->close();
    while (resets == 0 && world.clock.now() - start < 10s)
        write(*pair.peer, "NOOP\r\n");
    EXPECT_GT(world.clock.now() - start, close_limit - 100ms);
    EXPECT_LT(world.clock.now() - start, close_limit + 100ms);
    EXPECT_EQ(fins, 0);
}

TEST_F(ClosingTest, NothingUnreadEndsInGoodOrder) {
    Pair pair = open();
    write(*pair.stream, "221 2.0.0 Bye\r\n");
    pair.stream->close();
    std::string text;
    EXPECT_EQ(ends(pair, text, 1s), base::NetError::end_of_stream);
    pair.peer->close();
    world.pass(1s);
    EXPECT_EQ(fins, 1);
    EXPECT_EQ(resets, 0);
    EXPECT_EQ(world.server.statistics().orphans, 0U); // in TIME_WAIT nobody is one
}

struct AtOnceTest : ClosingTest {
    static WorldOptions options() {
        WorldOptions options;
        options.server.linger_bytes_max = 0;
        return options;
    }
    AtOnceTest() : ClosingTest(options()) {}
};

TEST_F(AtOnceTest, WithoutLingeringTheResetComesAtOnce) {
    Pair unread = open();
    write(*unread.peer, "x");
    unread.stream->close();
    Pair later = open();
    later.stream->close();
    world.pass(10ms);
    EXPECT_EQ(resets, 1);
    write(*later.peer, "x"); // for nobody
    EXPECT_EQ(resets, 2);
    EXPECT_EQ(fins, 1);
}

struct OrphanTest : ClosingTest {
    static WorldOptions options() {
        WorldOptions options;
        options.server.orphans_max = 8;
        return options;
    }
    OrphanTest() : ClosingTest(options()) {}
};

TEST_F(OrphanTest, BeyondTheirNumberTheOldestIsReset) {
    std::vector<Pair> pairs;
    for (int i = 0; i < 12; ++i) {
        pairs.push_back(open());
        pairs.back().stream->close(); // and the peer does not
        pairs.back().stream.reset();
        world.pass(10ms);
        EXPECT_LE(world.server.statistics().orphans, 8U);
    }
    EXPECT_EQ(world.server.statistics().stack.orphans_reset, 4U);
    EXPECT_EQ(world.server.connection_count(), 8U);
    EXPECT_EQ(resets, 4);
    for (std::size_t i = 0; i < pairs.size(); ++i) { // the first four have had their reset
        const auto& peer = static_cast<TcpStream&>(*pairs[i].peer).connection();
        EXPECT_EQ(peer.state(), i < 4 ? tcp::State::closed : tcp::State::close_wait) << i;
    }
    pairs.clear();
    world.expect_nothing_left();
    EXPECT_EQ(world.server.statistics().orphans, 0U);
}

TEST_F(OrphanTest, ManyInOneTurnAreBoundedToo) {
    std::vector<Pair> pairs;
    for (int i = 0; i < 40; ++i)
        pairs.push_back(open());
    for (Pair& pair : pairs) {
        pair.stream->close();
        pair.stream.reset();
    }
    EXPECT_EQ(world.server.statistics().orphans, 8U);
    world.pass(50ms);
    EXPECT_EQ(world.server.connection_count(), 8U);
    EXPECT_EQ(world.server.statistics().stack.orphans_reset, 32U);
    pairs.clear();
    world.expect_nothing_left();
}

TEST_F(OrphanTest, OneWhosePeerNeverClosesIsGoneAfterTheLimits) {
    Pair pair = open();
    pair.stream->close();
    pair.stream.reset();
    world.pass(close_limit + tcp::Config{}.fin_wait_2 + 1s);
    EXPECT_EQ(world.server.connection_count(), 0U);
    EXPECT_EQ(world.server.statistics().orphans, 0U);
}

// RFC 1122 §2.3.2.2. Nobody has talked to this host before: its address is asked for, and then it is answered.
struct AnswerTest : testing::Test {
    /// A SYN from a host that is not there, to a port that nobody listens at.
    static std::vector<std::byte> syn_from(std::uint8_t host, std::uint16_t port) {
        return forge({.host = host,
                      .source_port = port,
                      .destination_port = 99,
                      .seq = 1,
                      .flags = tcp::flag::syn});
    }
    AnswerTest() {
        world.link.set_tap([this](unsigned from, SimLink::TapPoint point,
                                  std::span<const std::byte> frame, base::TimePoint) {
            if (from != 1 || point != SimLink::TapPoint::sent) return;
            if (frame[12] == std::byte{8} && frame[13] == std::byte{6}) ++questions;
            if (frame[12] == std::byte{8} && frame[13] == std::byte{0} &&
                (std::to_integer<unsigned>(frame[47]) & tcp::flag::rst) != 0) {
                reset_to = std::to_integer<unsigned>(frame[36]) << 8 |
                           std::to_integer<unsigned>(frame[37]);
                ++resets;
            }
        });
    }
    World world;
    int questions = 0, resets = 0;
    unsigned reset_to = 0;
};

TEST_F(AnswerTest, ARefusalWaitsForItsNextHopAndTheLatestIsKept) {
    for (std::uint16_t port = 1000; port < 1005; ++port)
        world.link.deliver(1, syn_from(77, port));
    world.pass(5ms);
    EXPECT_EQ(resets, 0);
    EXPECT_EQ(questions, 1);
    world.server.learn(*base::IpAddress::parse("10.0.0.77"), {2, 0, 0, 0, 0, 0x77});
    world.pass(5ms);
    EXPECT_EQ(resets, 1);
    EXPECT_EQ(reset_to, 1004U);
    EXPECT_EQ(world.server.statistics().stack.answers_dropped, 4U);
}

TEST_F(AnswerTest, ThoseOfHostsThatAreNotThereAreForgottenAndBoundedInAll) {
    for (unsigned host = 3; host < 250; ++host)
        for (std::uint16_t port = 1; port < 4; ++port)
            world.link.deliver(1, syn_from(static_cast<std::uint8_t>(host), port));
    world.pass(20s);
    const StackCounters counters = world.server.statistics().stack;
    EXPECT_EQ(resets, 0);
    EXPECT_EQ(counters.answers_held + counters.resets_suppressed, 247U * 3);
    EXPECT_EQ(counters.answers_dropped, counters.answers_held); // none waits any more
}

} // namespace
} // namespace dataplane::net::stack
