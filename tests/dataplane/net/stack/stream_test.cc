// Goal: what a Stream promises holds on our own TCP, with peers that are slow, rude or gone. The scenarios are
// those of the kernel transport's stream_test.cc; the peer is another stack.
#include "tests/dataplane/net/stack/world.h"

#include "dataplane/net/stack/tcp_stream.h"

#include <optional>
#include <vector>

namespace dataplane::net::stack {
namespace {

using Outcome = std::optional<base::NetResult<>>;

base::Task<void> fill_once(base::Stream& stream, base::Deadline deadline, Outcome& result) {
    result = co_await stream.fill(deadline);
}
base::Task<void> write_all(base::Stream& stream, std::string_view text, base::Deadline deadline,
                           Outcome& result) {
    result = co_await stream.write(base::as_bytes(text), deadline);
}
base::Task<void> drain_all(base::Stream& stream, base::Deadline deadline, Outcome& result) {
    result = co_await stream.drain(deadline);
}
base::Task<void> shut_write(base::Stream& stream, base::Deadline deadline, Outcome& result) {
    result = co_await stream.shutdown_write(deadline);
}
base::Task<void> read_to_end(base::Stream& stream, std::string& text, Outcome& result) {
    for (;;) {
        const auto filled = co_await stream.fill(base::Deadline::never());
        if (!filled) {
            result = filled;
            co_return;
        }
        text.append(base::as_text(stream.unread()));
        stream.consume(stream.unread().size());
    }
}

struct StackStreamTest : testing::Test {
    explicit StackStreamTest(WorldOptions options = {}) : world(options) {
        Connected opened, accepted;
        world.loop.spawn(accept_once(*listener, world.in(10s), accepted), "accept");
        world.loop.spawn(
            connect_once(world.client, listener->local(), std::nullopt, world.in(10s), opened),
            "connect");
        EXPECT_TRUE(world.run_all());
        EXPECT_TRUE(*opened && *accepted);
        peer = std::move(**opened);
        stream = std::move(**accepted);
    }
    base::NetResult<> fill(base::Stream& of, base::Duration limit = 10s) {
        Outcome result;
        world.loop.spawn(fill_once(of, world.in(limit), result), "fill");
        EXPECT_TRUE(world.run_until([&] { return result.has_value(); }));
        return result.value_or(base::NetResult<>{});
    }
    base::NetResult<> write(base::Stream& of, std::string_view text, base::Duration limit = 10s) {
        Outcome result;
        world.loop.spawn(write_all(of, text, world.in(limit), result), "write");
        EXPECT_TRUE(world.run_until([&] { return result.has_value(); }));
        return result.value_or(base::NetResult<>{});
    }
    base::NetError read_rest(base::Stream& of, std::string& text) {
        Outcome result;
        world.loop.spawn(read_to_end(of, text, result), "read");
        EXPECT_TRUE(world.run_until([&] { return result.has_value(); }, 400s));
        return result ? result->error() : base::NetError::closed;
    }

    World world;
    std::unique_ptr<base::Listener> listener = world.listen();
    base::StreamPtr peer;   // the client's
    base::StreamPtr stream; // the server's: the one under test
};

TEST_F(StackStreamTest, BytesBeforeTheEndAreReadFirstAndTheEndIsRemembered) {
    EXPECT_TRUE(write(*peer, "last words"));
    Outcome shut;
    world.loop.spawn(shut_write(*peer, world.in(5s), shut), "shutdown");
    EXPECT_TRUE(world.run_all());
    EXPECT_TRUE(fill(*stream));
    EXPECT_EQ(base::as_text(stream->unread()), "last words");
    stream->consume(4);
    EXPECT_EQ(base::as_text(stream->unread()), " words");
    stream->consume(6);
    EXPECT_EQ(fill(*stream).error(), base::NetError::end_of_stream);
    EXPECT_EQ(fill(*stream).error(), base::NetError::end_of_stream);
    // The peer only said that it sends no more: it may still be answered (T53).
    EXPECT_TRUE(write(*stream, "answer"));
    stream->close();
    stream.reset();
    std::string got;
    EXPECT_EQ(read_rest(*peer, got), base::NetError::end_of_stream);
    EXPECT_EQ(got, "answer");
    peer->close();
    peer.reset();
    world.expect_nothing_left();
}

TEST_F(StackStreamTest, ShutdownWriteSendsWhatIsStagedAndStillReads) {
    EXPECT_TRUE(write(*stream, "all I have"));
    Outcome shut;
    world.loop.spawn(shut_write(*stream, world.in(5s), shut), "shutdown");
    EXPECT_TRUE(world.run_all());
    ASSERT_TRUE(shut && *shut);
    std::string got;
    EXPECT_EQ(read_rest(*peer, got), base::NetError::end_of_stream);
    EXPECT_EQ(got, "all I have");
    EXPECT_EQ(write(*stream, "more").error(), base::NetError::closed);
    EXPECT_TRUE(write(*peer, "thanks"));
    EXPECT_TRUE(fill(*stream));
    EXPECT_EQ(base::as_text(stream->unread()), "thanks");
}

TEST_F(StackStreamTest, AResetIsTheErrorOfEveryLaterCall) {
    peer->abort();
    EXPECT_EQ(fill(*stream).error(), base::NetError::reset);
    EXPECT_EQ(fill(*stream).error(), base::NetError::reset);
    EXPECT_EQ(write(*stream, "x").error(), base::NetError::reset);
}

TEST_F(StackStreamTest, BytesThatCameBeforeAResetAreReadFirst) {
    EXPECT_TRUE(write(*peer, "so far"));
    world.pass(100ms);
    peer->abort();
    world.pass(100ms);
    EXPECT_TRUE(fill(*stream));
    EXPECT_EQ(base::as_text(stream->unread()), "so far");
    stream->consume(6);
    EXPECT_EQ(fill(*stream).error(), base::NetError::reset);
}

TEST_F(StackStreamTest, AResetEndsAWriterThatWaits) {
    const std::string much(8 << 20, 'x');
    Outcome written;
    world.loop.spawn(write_all(*stream, much, world.in(10s), written), "write");
    world.pass(200ms);
    EXPECT_FALSE(written);
    peer->abort();
    EXPECT_TRUE(world.run_all());
    ASSERT_TRUE(written);
    EXPECT_EQ(written->error(), base::NetError::reset);
    stream.reset();
    peer.reset();
    world.expect_nothing_left();
}

TEST_F(StackStreamTest, ADeadlineEndsAReadAndTheStreamLivesOn) {
    EXPECT_EQ(fill(*stream, 20ms).error(), base::NetError::timed_out);
    EXPECT_TRUE(write(*peer, "late"));
    EXPECT_TRUE(fill(*stream));
    EXPECT_EQ(base::as_text(stream->unread()), "late");
}

TEST_F(StackStreamTest, CancellationEndsAReadAndTheStreamLivesOn) {
    base::CancelSource cancel;
    Outcome result;
    world.loop.spawn(fill_once(*stream, world.in(10s, &cancel), result), "fill");
    world.pass(5ms);
    EXPECT_FALSE(result);
    cancel.cancel();
    EXPECT_TRUE(world.run_all());
    ASSERT_TRUE(result);
    EXPECT_EQ(result->error(), base::NetError::cancelled);
    EXPECT_TRUE(write(*peer, "late"));
    EXPECT_TRUE(fill(*stream));
}

// T57
TEST_F(StackStreamTest, AbortResetsThePeerOnceAndEndsWaitsWithClosed) {
    Outcome result;
    world.loop.spawn(fill_once(*stream, world.in(10s), result), "fill");
    world.pass(5ms);
    stream->abort();
    EXPECT_TRUE(world.run_all());
    ASSERT_TRUE(result);
    EXPECT_EQ(result->error(), base::NetError::closed);
    EXPECT_EQ(fill(*stream).error(), base::NetError::closed);
    EXPECT_EQ(write(*stream, "x").error(), base::NetError::closed);
    EXPECT_EQ(fill(*peer).error(), base::NetError::reset);
    EXPECT_EQ(world.server.statistics().tcp.resets_sent, 1U);
    EXPECT_EQ(world.client.statistics().tcp.resets_sent, 0U); // T58: nothing answers a reset
    EXPECT_EQ(world.client.statistics().stack.resets_unknown, 0U);
    stream.reset();
    peer.reset();
    world.expect_nothing_left();
}

TEST_F(StackStreamTest, DestroyingAnOpenStreamResetsEvenWhileSomebodyWaitsOnIt) {
    Outcome result;
    world.loop.spawn(fill_once(*stream, world.in(10s), result), "fill");
    world.pass(5ms);
    stream.reset();
    EXPECT_TRUE(world.run_all());
    ASSERT_TRUE(result);
    EXPECT_EQ(result->error(), base::NetError::closed);
    EXPECT_EQ(fill(*peer).error(), base::NetError::reset);
    peer.reset();
    world.expect_nothing_left();
}

TEST_F(StackStreamTest, CloseLetsStagedBytesLeave) {
    const std::string text(200'000, 'x');
    EXPECT_TRUE(write(*stream, text));
    stream->close();
    stream.reset();
    std::string got;
    EXPECT_EQ(read_rest(*peer, got), base::NetError::end_of_stream);
    EXPECT_EQ(got, text);
    peer->close();
    peer.reset();
    world.expect_nothing_left();
    EXPECT_EQ(world.server.statistics().tcp.resets_sent, 0U);
}

base::Task<void> answer_and_leave(base::StreamPtr stream, base::Deadline deadline) {
    for (;;) {
        const auto filled = co_await stream->fill(deadline);
        if (!filled) break; // the peer has said that it is done
        stream->consume(stream->unread().size());
    }
    const auto written = co_await stream->write(base::as_bytes("221 bye"), deadline);
    EXPECT_TRUE(written);
    stream->close();
}

TEST_F(StackStreamTest, BytesStagedInTheTurnOfTheCloseLeaveAfterThePeersEnd) {
    EXPECT_TRUE(write(*peer, "QUIT"));
    Outcome shut;
    world.loop.spawn(shut_write(*peer, world.in(5s), shut), "shutdown");
    world.loop.spawn(answer_and_leave(std::move(stream), world.in(5s)), "leave");
    EXPECT_TRUE(world.run_all());
    std::string got;
    EXPECT_EQ(read_rest(*peer, got), base::NetError::end_of_stream);
    EXPECT_EQ(got, "221 bye");
    peer->close();
    peer.reset();
    world.expect_nothing_left();
}

// SMTP's 421: the server says why it leaves while the client is still talking.
TEST_F(StackStreamTest, TheLastReplySurvivesAPeerThatIsStillSending) {
    EXPECT_TRUE(write(*peer, std::string(50'000, 'x')));
    world.pass(20ms);
    EXPECT_TRUE(write(*stream, "421 4.7.0 Too many errors\r\n"));
    stream->close();
    stream.reset();
    for (int i = 0; i < 3; ++i) { // after a reset the second of these would fail
        world.pass(5ms);
        EXPECT_TRUE(write(*peer, std::string(20'000, 'x')));
    }
    Outcome shut;
    world.loop.spawn(shut_write(*peer, world.in(5s), shut), "shutdown");
    std::string got;
    EXPECT_EQ(read_rest(*peer, got), base::NetError::reset); // what it said was not all read
    EXPECT_EQ(got, "421 4.7.0 Too many errors\r\n");
    peer->close();
    peer.reset();
    world.expect_nothing_left();
}

TEST_F(StackStreamTest, APeerThatNeverStopsSendingIsCutOffAfterClose) {
    stream->close();
    stream.reset();
    const base::TimePoint start = world.clock.now();
    const std::string much(4 << 20, 'x');
    EXPECT_EQ(write(*peer, much).error(), base::NetError::reset);
    EXPECT_LT(world.clock.now() - start, 4s); // well before close_limit
}

struct ImpatientStreamTest : StackStreamTest {
    static WorldOptions impatient() {
        WorldOptions options;
        options.server.close_limit = 100ms;
        options.server.tcp.fin_wait_2 = 1s;
        return options;
    }
    ImpatientStreamTest() : StackStreamTest(impatient()) {}
};

// T48
TEST_F(ImpatientStreamTest, ClosingTowardsAPeerThatReadsNothingEndsWithAReset) {
    const std::string much(8 << 20, 'x');
    EXPECT_EQ(write(*stream, much, 300ms).error(), base::NetError::timed_out);
    stream->close();
    stream.reset();
    EXPECT_TRUE(world.run_until([&] { return world.server.connection_count() == 0; }, 1s));
    EXPECT_EQ(world.server.statistics().tcp.resets_sent, 1U);
    peer.reset();
    world.expect_nothing_left();
}

// T52
TEST_F(ImpatientStreamTest, ClosingTowardsAPeerThatStaysEndsAllTheSame) {
    EXPECT_TRUE(write(*stream, "bye"));
    stream->close();
    stream.reset();
    EXPECT_TRUE(world.run_until([&] { return world.server.connection_count() == 0; }, 3s));
    EXPECT_TRUE(fill(*peer));
    EXPECT_EQ(base::as_text(peer->unread()), "bye");
    EXPECT_EQ(world.server.statistics().tcp.resets_sent, 0U);
}

TEST_F(StackStreamTest, AReaderThatReadsNothingHoldsTheWriterBackAndLosesNothing) {
    const std::string much(2 << 20, 'x');
    Outcome written;
    world.loop.spawn(write_all(*stream, much, world.in(300s), written), "write");
    world.pass(2s);
    EXPECT_FALSE(written);
    const StackStatistics held = world.server.statistics();
    EXPECT_LE(held.send_slabs_total - held.send_slabs_free, (256U << 10) / 4096 + 2);
    EXPECT_GT(held.send_slabs_total - held.send_slabs_free, 0U);
    std::size_t got = 0;
    while (got < much.size()) {
        ASSERT_TRUE(fill(*peer, 60s));
        got += peer->unread().size();
        peer->consume(peer->unread().size());
    }
    EXPECT_EQ(got, much.size());
    EXPECT_TRUE(world.run_all());
    ASSERT_TRUE(written && *written);
}

struct FewSlabsTest : StackStreamTest {
    static WorldOptions few() {
        WorldOptions options;
        options.server.send_slabs = 2;
        return options;
    }
    FewSlabsTest() : StackStreamTest(few()) {}
};

TEST_F(FewSlabsTest, AWriterWithoutASlabWaitsForAnother) {
    const std::string much(600'000, 'x'); // more than the peer takes unread
    Outcome written;
    world.loop.spawn(write_all(*stream, much, world.in(100s), written), "greedy");
    world.pass(3s);
    EXPECT_EQ(world.server.statistics().send_slabs_free, 0U);
    EXPECT_GE(world.server.statistics().stack.slabs_starved, 1U);
    EXPECT_FALSE(written);
    std::size_t got = 0;
    while (got < much.size()) {
        ASSERT_TRUE(fill(*peer, 60s));
        got += peer->unread().size();
        peer->consume(peer->unread().size());
    }
    EXPECT_TRUE(world.run_all());
    ASSERT_TRUE(written && *written);
}

base::Task<void> write_mixed(base::Stream& stream, base::SlabPool& pool, std::string& sent,
                             int rounds, base::Deadline deadline) {
    for (int i = 0; i < rounds; ++i) {
        const std::string bytes(static_cast<std::size_t>(1 + i * 37 % 900),
                                static_cast<char>('a' + i % 26));
        const auto copied = co_await stream.write(base::as_bytes(bytes), deadline);
        EXPECT_TRUE(copied);
        sent += bytes;
        base::SlabChain chain;
        for (int part = 0; part < i % 7; ++part) {
            base::SlabRef slab = pool.take();
            if (!slab) break;
            const std::string text(static_cast<std::size_t>(part * 300),
                                   static_cast<char>('A' + i % 26));
            std::copy(text.begin(), text.end(), reinterpret_cast<char*>(slab.data()));
            sent += text;
            chain.push({std::move(slab), 0, static_cast<std::uint32_t>(text.size())});
        }
        const auto referred = co_await stream.write(std::move(chain), deadline);
        EXPECT_TRUE(referred);
    }
}

struct MixedStreamTest : StackStreamTest {
    // Apart from the fixture's members, so that it outlives the ports that hold its slabs.
    static base::SlabPool& pool() {
        static base::SlabPool slabs{4096, 1024};
        return slabs;
    }
};

TEST_F(MixedStreamTest, BytesAndSlabsLeaveInTheOrderTheyWereStaged) {
    std::string sent, got;
    Outcome ended;
    world.loop.spawn(read_to_end(*peer, got, ended), "read");
    world.loop.spawn(write_mixed(*stream, pool(), sent, 400, world.in(60s)), "write");
    EXPECT_TRUE(world.run_until([&] { return world.loop.spawned_count() == 1; }));
    stream->close();
    stream.reset();
    EXPECT_TRUE(world.run_all());
    EXPECT_EQ(got, sent);
    world.pass(1s);
    EXPECT_EQ(pool().free_count(), 1024U); // nothing is held once it has left
}

base::Task<void> write_crumbs(base::Stream& stream, base::SlabPool& pool, std::string& sent,
                              int count, base::Deadline deadline) {
    base::SlabRef slab = pool.take();
    for (std::uint32_t i = 0; i < slab.capacity(); ++i)
        slab.data()[i] = static_cast<std::byte>('a' + i % 23);
    for (int i = 0; i < count; ++i) {
        base::SlabChain chain;
        for (std::uint32_t j = 0; j < 20; ++j) {
            const std::uint32_t offset = (static_cast<std::uint32_t>(i) * 31 + j * 7) % 4000;
            base::SlabView view{slab, offset, 1 + j % 5};
            sent.append(base::as_text(view.bytes()));
            chain.push(std::move(view));
        }
        const auto written = co_await stream.write(std::move(chain), deadline);
        EXPECT_TRUE(written);
    }
}

TEST_F(MixedStreamTest, PiecesOfAFewBytesEachArriveTooThoughAFrameHoldsFew) {
    std::string sent, got;
    Outcome ended;
    world.loop.spawn(read_to_end(*peer, got, ended), "read");
    world.loop.spawn(write_crumbs(*stream, pool(), sent, 500, world.in(60s)), "write");
    EXPECT_TRUE(world.run_until([&] { return world.loop.spawned_count() == 1; }));
    stream->close();
    stream.reset();
    EXPECT_TRUE(world.run_all());
    EXPECT_EQ(got, sent);
    EXPECT_GT(world.server.statistics().stack.payload_copied, 0U);
    world.pass(1s);
    EXPECT_EQ(pool().free_count(), 1024U);
}

// T42
TEST_F(MixedStreamTest, WhatOneTurnStagesLeavesInOneSegment) {
    std::uint64_t segments = 0;
    world.link.set_tap([&](unsigned from, SimLink::TapPoint point, std::span<const std::byte> frame,
                           base::TimePoint) {
        if (from == 1 && point == SimLink::TapPoint::sent && frame.size() > 100) ++segments;
    });
    Outcome a, b, c;
    world.loop.spawn(write_all(*stream, "MAIL FROM:<a@example.com>\r\n", world.in(5s), a), "a");
    world.loop.spawn(write_all(*stream, "RCPT TO:<b@example.com>\r\n", world.in(5s), b), "b");
    world.loop.spawn(write_all(*stream, "DATA and something more\r\n", world.in(5s), c), "c");
    EXPECT_TRUE(world.run_all());
    world.pass(1s);
    world.link.set_tap({});
    EXPECT_EQ(segments, 1U);
}

TEST_F(StackStreamTest, AnAnswerCarriesTheAcknowledgementOfItsQuestion) {
    world.loop.spawn(echo(std::move(stream)), "echo");
    std::uint64_t frames = 0;
    world.link.set_tap(
        [&](unsigned from, SimLink::TapPoint point, std::span<const std::byte>, base::TimePoint) {
            if (from == 1 && point == SimLink::TapPoint::sent) ++frames;
        });
    for (int i = 0; i < 10; ++i) {
        EXPECT_TRUE(write(*peer, "NOOP\r\n"));
        EXPECT_TRUE(fill(*peer));
        peer->consume(peer->unread().size());
    }
    world.link.set_tap({});
    EXPECT_EQ(frames, 10U);
}

TEST_F(StackStreamTest, DrainWaitsUntilEverythingIsOnItsWay) {
    const std::string text(200'000, 'x');
    EXPECT_TRUE(write(*stream, text));
    Outcome drained;
    world.loop.spawn(drain_all(*stream, world.in(10s), drained), "drain");
    world.pass(100ms);
    EXPECT_FALSE(drained); // more than the peer's window takes unread
    std::string got;
    Outcome ended;
    world.loop.spawn(read_to_end(*peer, got, ended), "read");
    EXPECT_TRUE(world.run_until([&] { return drained.has_value(); }));
    EXPECT_TRUE(*drained);
    EXPECT_EQ(static_cast<const TcpStream&>(*stream).connection().unsent_bytes(), 0U);
}

TEST_F(StackStreamTest, ListingShowsTheConnectionAndItsState) {
    std::array<ConnectionView, 4> views;
    std::size_t cursor = 0;
    ASSERT_EQ(world.server.list(views, cursor), 1U);
    EXPECT_EQ(views[0].local, listener->local());
    EXPECT_EQ(views[0].remote, peer->info().local);
    EXPECT_EQ(views[0].state, tcp::State::established);
    EXPECT_EQ(world.server.list(views, cursor), 0U);
}

} // namespace
} // namespace dataplane::net::stack
