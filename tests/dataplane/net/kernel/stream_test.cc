// Goal: what a Stream promises holds over real sockets, with peers that are slow, rude or gone.
#include "tests/dataplane/net/kernel/raw_peer.h"
#include "tests/dataplane/net/kernel/shard_fixture.h"

#include "dataplane/net/kernel/kernel_stream.h"

#include <algorithm>
#include <optional>
#include <vector>

namespace dataplane::net::kernel {
namespace {

using namespace std::chrono_literals;

base::Task<void> accept_one(Shard& shard, base::Listener& listener, base::StreamPtr& out) {
    auto stream = co_await listener.accept(shard.in(10s));
    if (stream) out = std::move(*stream);
}

base::Task<void> fill_once(base::Stream& stream, base::Deadline deadline,
                           std::optional<base::NetResult<>>& result) {
    result = co_await stream.fill(deadline);
}

base::Task<void> write_all(base::Stream& stream, std::string_view text, base::Deadline deadline,
                           std::optional<base::NetResult<>>& result) {
    result = co_await stream.write(base::as_bytes(text), deadline);
}

base::Task<void> drain_all(base::Stream& stream, base::Deadline deadline,
                           std::optional<base::NetResult<>>& result) {
    result = co_await stream.drain(deadline);
}

base::Task<void> shut_write(base::Stream& stream, base::Deadline deadline,
                            std::optional<base::NetResult<>>& result) {
    result = co_await stream.shutdown_write(deadline);
}

struct KernelStreamTest : testing::Test {
    explicit KernelStreamTest(KernelTransportOptions options = {}) : shard(options) {}

    base::StreamPtr accept() {
        base::StreamPtr stream;
        shard.loop.spawn(accept_one(shard, *listener, stream), "accept");
        EXPECT_TRUE(shard.run_all());
        EXPECT_NE(stream, nullptr);
        return stream;
    }
    base::NetResult<> fill(base::Stream& stream, base::Duration limit = 10s) {
        std::optional<base::NetResult<>> result;
        shard.loop.spawn(fill_once(stream, shard.in(limit), result), "fill");
        EXPECT_TRUE(shard.run_until([&] { return result.has_value(); }));
        return result.value_or(base::NetResult<>{});
    }
    base::NetResult<> write(base::Stream& stream, std::string_view text,
                            base::Duration limit = 10s) {
        std::optional<base::NetResult<>> result;
        shard.loop.spawn(write_all(stream, text, shard.in(limit), result), "write");
        EXPECT_TRUE(shard.run_until([&] { return result.has_value(); }));
        return result.value_or(base::NetResult<>{});
    }
    void pass(base::Duration time) {
        const base::TimePoint end = shard.clock.now() + time;
        shard.run_until([&] { return shard.clock.now() >= end; });
    }
    [[nodiscard]] static std::size_t staged(const base::Stream& stream) {
        return static_cast<const KernelStream&>(stream).staged_bytes();
    }
    bool run_until_gone() {
        return shard.run_until([&] { return shard.transport.connection_count() == 0; });
    }

    Shard shard;
    std::unique_ptr<base::Listener> listener = shard.listen();
};

TEST_F(KernelStreamTest, BytesBeforeTheEndAreReadFirstAndTheEndIsRemembered) {
    RawPeer peer{listener->local()};
    auto stream = accept();
    peer.send("last words");
    peer.shutdown_write();
    EXPECT_TRUE(fill(*stream));
    EXPECT_EQ(base::as_text(stream->unread()), "last words");
    stream->consume(4);
    EXPECT_EQ(base::as_text(stream->unread()), " words");
    stream->consume(6);
    EXPECT_EQ(fill(*stream).error(), base::NetError::end_of_stream);
    EXPECT_EQ(fill(*stream).error(), base::NetError::end_of_stream);
    // The peer only said that it sends no more: it may still be answered.
    EXPECT_TRUE(write(*stream, "answer"));
    stream->close();
    stream.reset();
    int error = 0;
    EXPECT_TRUE(run_until_gone());
    EXPECT_EQ(peer.read_to_end(error), "answer");
    EXPECT_EQ(error, 0);
}

TEST_F(KernelStreamTest, ShutdownWriteSendsWhatIsStagedAndStillReads) {
    RawPeer peer{listener->local()};
    const auto stream = accept();
    EXPECT_TRUE(write(*stream, "all I have"));
    std::optional<base::NetResult<>> shut;
    shard.loop.spawn(shut_write(*stream, shard.in(5s), shut), "shutdown");
    EXPECT_TRUE(shard.run_all());
    ASSERT_TRUE(shut);
    EXPECT_TRUE(*shut);
    pass(5ms);
    int error = 0;
    EXPECT_EQ(peer.read_to_end(error), "all I have");
    EXPECT_EQ(error, 0);
    EXPECT_EQ(write(*stream, "more").error(), base::NetError::closed);
    peer.send("thanks");
    EXPECT_TRUE(fill(*stream));
    EXPECT_EQ(base::as_text(stream->unread()), "thanks");
}

TEST_F(KernelStreamTest, AResetIsTheErrorOfEveryLaterCall) {
    RawPeer peer{listener->local()};
    const auto stream = accept();
    peer.reset();
    EXPECT_EQ(fill(*stream).error(), base::NetError::reset);
    EXPECT_EQ(fill(*stream).error(), base::NetError::reset);
    EXPECT_EQ(write(*stream, "x").error(), base::NetError::reset);
}

TEST_F(KernelStreamTest, AResetEndsAWriterThatWaits) {
    RawPeer peer{listener->local(), 4096};
    const auto stream = accept();
    const std::string much(8 << 20, 'x');
    std::optional<base::NetResult<>> written;
    shard.loop.spawn(write_all(*stream, much, shard.in(10s), written), "write");
    pass(20ms);
    EXPECT_FALSE(written);
    peer.reset();
    EXPECT_TRUE(shard.run_all());
    ASSERT_TRUE(written);
    EXPECT_EQ(written->error(), base::NetError::reset);
    EXPECT_TRUE(shard.run_until([&] { return shard.transport.free_send_chunks() == send_chunks; }));
}

TEST_F(KernelStreamTest, ADeadlineEndsAReadAndTheStreamLivesOn) {
    RawPeer peer{listener->local()};
    const auto stream = accept();
    EXPECT_EQ(fill(*stream, 20ms).error(), base::NetError::timed_out);
    peer.send("late");
    EXPECT_TRUE(fill(*stream));
    EXPECT_EQ(base::as_text(stream->unread()), "late");
}

TEST_F(KernelStreamTest, CancellationEndsAReadAndTheStreamLivesOn) {
    RawPeer peer{listener->local()};
    const auto stream = accept();
    base::CancelSource cancel;
    std::optional<base::NetResult<>> result;
    shard.loop.spawn(fill_once(*stream, base::Deadline::in(shard.loop, 10s, &cancel), result),
                     "fill");
    pass(5ms);
    EXPECT_FALSE(result);
    cancel.cancel();
    EXPECT_TRUE(shard.run_all());
    ASSERT_TRUE(result);
    EXPECT_EQ(result->error(), base::NetError::cancelled);
    peer.send("late");
    EXPECT_TRUE(fill(*stream));
}

TEST_F(KernelStreamTest, AbortResetsThePeerAndEndsWaitsWithClosed) {
    RawPeer peer{listener->local()};
    auto stream = accept();
    std::optional<base::NetResult<>> result;
    shard.loop.spawn(fill_once(*stream, shard.in(10s), result), "fill");
    pass(5ms);
    stream->abort();
    EXPECT_TRUE(shard.run_all());
    ASSERT_TRUE(result);
    EXPECT_EQ(result->error(), base::NetError::closed);
    EXPECT_EQ(fill(*stream).error(), base::NetError::closed);
    EXPECT_EQ(write(*stream, "x").error(), base::NetError::closed);
    stream.reset();
    EXPECT_TRUE(run_until_gone());
    int error = 0;
    EXPECT_EQ(peer.read_to_end(error), "");
    EXPECT_EQ(error, ECONNRESET);
}

TEST_F(KernelStreamTest, DestroyingAnOpenStreamResetsEvenWhileSomebodyWaitsOnIt) {
    RawPeer peer{listener->local()};
    auto stream = accept();
    std::optional<base::NetResult<>> result;
    shard.loop.spawn(fill_once(*stream, shard.in(10s), result), "fill");
    pass(5ms);
    stream.reset();
    EXPECT_TRUE(shard.run_all());
    ASSERT_TRUE(result);
    EXPECT_EQ(result->error(), base::NetError::closed);
    EXPECT_TRUE(run_until_gone());
    int error = 0;
    EXPECT_EQ(peer.read_to_end(error), "");
    EXPECT_EQ(error, ECONNRESET);
}

TEST_F(KernelStreamTest, CloseLetsStagedBytesLeave) {
    RawPeer peer{listener->local(), 4096};
    auto stream = accept();
    const std::string text(200'000, 'x');
    EXPECT_TRUE(write(*stream, text));
    stream->close();
    stream.reset();
    std::string got;
    EXPECT_TRUE(shard.run_until([&] {
        got += peer.take();
        return got.size() == text.size();
    }));
    peer.close();
    EXPECT_TRUE(run_until_gone());
    EXPECT_EQ(shard.transport.counters().resets_sent, 0U);
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

// No receive is in flight any more, and the send is not yet: nothing else holds the connection.
TEST_F(KernelStreamTest, BytesStagedInTheTurnOfTheCloseLeaveAfterThePeersEnd) {
    RawPeer peer{listener->local()};
    auto stream = accept();
    peer.send("QUIT");
    peer.shutdown_write();
    shard.loop.spawn(answer_and_leave(std::move(stream), shard.in(5s)), "leave");
    EXPECT_TRUE(shard.run_all());
    EXPECT_TRUE(run_until_gone());
    int error = 0;
    EXPECT_EQ(peer.read_to_end(error), "221 bye");
    EXPECT_EQ(error, 0);
}

// SMTP's 421: the server says why it leaves while the client is still talking.
TEST_F(KernelStreamTest, TheLastReplySurvivesAPeerThatIsStillSending) {
    RawPeer peer{listener->local()};
    auto stream = accept();
    peer.send(std::string(50'000, 'x'));
    EXPECT_TRUE(write(*stream, "421 4.7.0 Too many errors\r\n"));
    stream->close();
    stream.reset();
    for (int i = 0; i < 3; ++i) { // after a reset the second of these would fail
        pass(5ms);
        peer.send(std::string(20'000, 'x'));
    }
    pass(5ms);
    peer.shutdown_write();
    EXPECT_TRUE(run_until_gone());
    int error = 0;
    EXPECT_EQ(peer.read_to_end(error), "421 4.7.0 Too many errors\r\n");
    EXPECT_EQ(error, 0);
}

TEST_F(KernelStreamTest, APeerThatNeverStopsSendingIsCutOffAfterClose) {
    RawPeer peer{listener->local()};
    auto stream = accept();
    stream->close();
    stream.reset();
    const std::string piece(65536, 'x');
    EXPECT_TRUE(shard.run_until(
        [&] {
            peer.send_what_fits(piece);
            return shard.transport.connection_count() == 0;
        },
        4s)); // well before close_limit
}

struct ImpatientStreamTest : KernelStreamTest {
    ImpatientStreamTest() : KernelStreamTest({.close_limit = 100ms}) {}
};

TEST_F(ImpatientStreamTest, ClosingTowardsAPeerThatReadsNothingEndsWithAReset) {
    RawPeer peer{listener->local(), 4096};
    auto stream = accept();
    const std::string much(8 << 20, 'x');
    std::optional<base::NetResult<>> written;
    shard.loop.spawn(write_all(*stream, much, shard.in(30ms), written), "write");
    EXPECT_TRUE(shard.run_all());
    EXPECT_GT(staged(*stream), 0U);
    stream->close();
    stream.reset();
    EXPECT_TRUE(run_until_gone());
    EXPECT_EQ(shard.transport.counters().resets_sent, 1U);
    EXPECT_EQ(shard.transport.free_send_chunks(), send_chunks);
}

TEST_F(ImpatientStreamTest, ClosingTowardsAPeerThatStaysEndsAllTheSame) {
    RawPeer peer{listener->local()};
    auto stream = accept();
    EXPECT_TRUE(write(*stream, "bye"));
    stream->close();
    stream.reset();
    EXPECT_TRUE(run_until_gone());
    EXPECT_EQ(peer.take(), "bye");
    EXPECT_EQ(shard.transport.counters().resets_sent, 0U);
}

TEST_F(KernelStreamTest, AReaderThatReadsNothingHoldsTheWriterBack) {
    RawPeer peer{listener->local(), 4096};
    const auto stream = accept();
    const std::string much(16 << 20, 'x');
    EXPECT_EQ(write(*stream, much, 100ms).error(), base::NetError::timed_out);
    EXPECT_LE(staged(*stream), send_bytes_max);
    EXPECT_GT(staged(*stream), 0U);
    EXPECT_GE(shard.transport.free_send_chunks(),
              send_chunks - send_bytes_max / send_chunk_bytes - 1);
}

TEST_F(KernelStreamTest, AWriterThatIsNotReadIsHeldBackThroughItsWindow) {
    RawPeer peer{listener->local()};
    const auto stream = accept();
    const std::string piece(65536, 'y');
    std::size_t sent = 0;
    const base::TimePoint end = shard.clock.now() + 200ms;
    shard.run_until([&] {
        sent += peer.send_what_fits(piece);
        return shard.clock.now() > end;
    });
    // The bound and one burst over it; the rest waits in the kernel and at the peer.
    EXPECT_GE(shard.transport.free_receive_buffers(), receive_buffers - stream_buffers_max - 40);
    EXPECT_GE(shard.transport.counters().receive_pauses, 1U);
    const std::uint64_t held = shard.transport.counters().received_bytes;
    pass(50ms);
    EXPECT_EQ(shard.transport.counters().received_bytes, held);
    // And all of it arrives once it is read.
    std::size_t got = 0;
    while (got < sent) {
        if (!fill(*stream, 2s)) break;
        got += stream->unread().size();
        stream->consume(stream->unread().size());
    }
    EXPECT_EQ(got, sent);
    EXPECT_EQ(shard.transport.free_receive_buffers(), receive_buffers);
}

TEST_F(KernelStreamTest, APeerThatSendsByteByByteHoldsOneBuffer) {
    RawPeer peer{listener->local()};
    const int on = 1;
    setsockopt(peer.descriptor(), IPPROTO_TCP, 1 /* TCP_NODELAY */, &on, sizeof on);
    const auto stream = accept();
    std::string sent;
    for (int i = 0; i < 300; ++i) {
        sent += static_cast<char>('a' + i % 26);
        peer.send(std::string_view{sent}.substr(sent.size() - 1));
        const std::size_t expected = sent.size();
        ASSERT_TRUE(
            shard.run_until([&] { return shard.transport.counters().received_bytes == expected; }));
    }
    EXPECT_GE(shard.transport.counters().receives, 250U);
    EXPECT_EQ(shard.transport.free_receive_buffers(), receive_buffers - 1);
    EXPECT_EQ(base::as_text(stream->unread()), sent);
    stream->consume(sent.size());
}

struct FewBuffersTest : KernelStreamTest {
    FewBuffersTest() : KernelStreamTest({.receive_buffers = 4, .receive_buffer_bytes = 4096}) {}
};

TEST_F(FewBuffersTest, StreamsThatFindNoBufferReceiveWhenOneComesBack) {
    std::vector<RawPeer> peers;
    std::vector<base::StreamPtr> streams;
    for (int i = 0; i < 12; ++i) {
        peers.emplace_back(listener->local());
        streams.push_back(accept());
    }
    const std::string text(4096, 'z');
    for (const RawPeer& peer : peers)
        peer.send(text);
    pass(20ms);
    EXPECT_EQ(shard.transport.free_receive_buffers(), 0U);
    EXPECT_GE(shard.transport.counters().receive_starved, 1U);
    std::vector<std::size_t> got(streams.size());
    EXPECT_TRUE(shard.run_until([&] {
        bool all = true;
        for (std::size_t i = 0; i < streams.size(); ++i) {
            got[i] += streams[i]->unread().size();
            streams[i]->consume(streams[i]->unread().size());
            all = all && got[i] == text.size();
        }
        return all;
    }));
    EXPECT_EQ(shard.transport.free_receive_buffers(), 4U);
}

struct FewChunksTest : KernelStreamTest {
    FewChunksTest() : KernelStreamTest({.send_chunks = 2, .send_chunk_bytes = 4096}) {}
};

TEST_F(FewChunksTest, AWriterWithoutAChunkWaitsForAnother) {
    RawPeer greedy{listener->local(), 4096};
    const auto first = accept();
    RawPeer modest{listener->local()};
    const auto second = accept();
    const std::string much(8 << 20, 'x');
    std::optional<base::NetResult<>> written;
    shard.loop.spawn(write_all(*first, much, shard.in(20s), written), "greedy");
    std::uint64_t sent = 0;
    do { // until its peer's window is full
        sent = shard.transport.counters().sent_bytes;
        pass(50ms);
    } while (shard.transport.counters().sent_bytes > sent);
    EXPECT_EQ(shard.transport.free_send_chunks(), 0U);
    std::optional<base::NetResult<>> other;
    shard.loop.spawn(write_all(*second, "250 ok", shard.in(20s), other), "modest");
    pass(5ms);
    EXPECT_FALSE(other);
    std::string got;
    EXPECT_TRUE(shard.run_until([&] {
        static_cast<void>(greedy.take());
        got += modest.take();
        return other.has_value() && got == "250 ok";
    }));
    EXPECT_TRUE(shard.run_until([&] {
        static_cast<void>(greedy.take());
        return written.has_value();
    }));
    EXPECT_TRUE(*written);
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

TEST_F(KernelStreamTest, BytesAndSlabsLeaveInTheOrderTheyWereStaged) {
    base::SlabPool pool{4096, 512};
    RawPeer peer{listener->local()};
    auto stream = accept();
    std::string sent;
    std::string got;
    shard.loop.spawn(write_mixed(*stream, pool, sent, 400, shard.in(10s)), "write");
    EXPECT_TRUE(shard.run_until([&] {
        got += peer.take(7000);
        return shard.loop.spawned_count() == 0 && got.size() >= sent.size();
    }));
    EXPECT_EQ(got, sent);
    EXPECT_EQ(pool.free_count(), 512U); // nothing is held once it has left
    stream.reset();
    EXPECT_TRUE(run_until_gone());
}

base::Task<void> write_around(base::Stream& stream, base::SlabRef slab, base::Deadline deadline) {
    base::SlabChain chain;
    chain.push({std::move(slab), 10, 20});
    const auto before = co_await stream.write(base::as_bytes("<"), deadline);
    const auto referred = co_await stream.write(std::move(chain), deadline);
    const auto after = co_await stream.write(base::as_bytes(">"), deadline);
    EXPECT_TRUE(before && referred && after);
}

TEST_F(KernelStreamTest, ASlabIsNotWrittenTo) {
    base::SlabPool pool{4096, 1};
    RawPeer peer{listener->local()};
    const auto stream = accept();
    const base::SlabRef slab = pool.take();
    std::fill_n(slab.data(), slab.capacity(), std::byte{'s'});
    shard.loop.spawn(write_around(*stream, slab, shard.in(5s)), "write");
    std::string got;
    EXPECT_TRUE(shard.run_until([&] {
        got += peer.take();
        return got.size() == 22;
    }));
    EXPECT_EQ(got, "<" + std::string(20, 's') + ">");
    EXPECT_TRUE(std::all_of(slab.data(), slab.data() + slab.capacity(),
                            [](std::byte byte) { return byte == std::byte{'s'}; }));
    EXPECT_TRUE(shard.run_until([&] { return slab.references() == 1; }));
}

TEST_F(KernelStreamTest, WhatOneTurnStagesLeavesWithOneSend) {
    base::SlabPool pool{4096, 512};
    RawPeer peer{listener->local()};
    const auto stream = accept();
    std::string sent;
    const std::uint64_t before = shard.transport.counters().sends;
    shard.loop.spawn(write_mixed(*stream, pool, sent, 5, shard.in(10s)), "write");
    EXPECT_TRUE(shard.run_all());
    std::string got;
    EXPECT_TRUE(shard.run_until([&] {
        got += peer.take();
        return got.size() == sent.size();
    }));
    EXPECT_EQ(got, sent);
    EXPECT_EQ(shard.transport.counters().sends - before, 1U);
}

TEST_F(KernelStreamTest, SlabsOfAnAbortedStreamComeBack) {
    base::SlabPool pool{4096, 512};
    RawPeer peer{listener->local(), 4096};
    auto stream = accept();
    std::string sent;
    const std::string much(8 << 20, 'x');
    EXPECT_EQ(write(*stream, much, 30ms).error(), base::NetError::timed_out);
    shard.loop.spawn(write_mixed(*stream, pool, sent, 100, shard.in(30ms)), "write");
    shard.loop.turn();
    shard.loop.drop_tasks(); // in the middle of it
    stream.reset();
    EXPECT_TRUE(run_until_gone());
    EXPECT_EQ(pool.free_count(), 512U);
    EXPECT_EQ(shard.transport.free_send_chunks(), send_chunks);
}

TEST_F(KernelStreamTest, DrainWaitsUntilEverythingIsWithTheKernel) {
    RawPeer peer{listener->local(), 4096};
    const auto stream = accept();
    const std::string text(3 << 20, 'x');
    std::optional<base::NetResult<>> written;
    shard.loop.spawn(write_all(*stream, text, shard.in(10s), written), "write");
    std::size_t got = 0;
    EXPECT_TRUE(shard.run_until([&] {
        if (!written) got += peer.take().size();
        return written.has_value();
    }));
    std::optional<base::NetResult<>> drained;
    shard.loop.spawn(drain_all(*stream, shard.in(10s), drained), "drain");
    EXPECT_TRUE(shard.run_until([&] {
        if (!drained) got += peer.take().size();
        return drained.has_value();
    }));
    EXPECT_TRUE(*drained);
    EXPECT_EQ(staged(*stream), 0U);
}

} // namespace
} // namespace dataplane::net::kernel
