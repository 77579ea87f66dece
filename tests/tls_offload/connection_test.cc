#include "tests/tls_offload/tls_pair.h"

#include <algorithm>
#include <cstring>
#include <random>

namespace tests {
namespace {

using tls_offload::tls_state;
using tls_offload::TlsFailureReason;

class TlsConnection : public TlsPair {};

// --- Data

struct Transfer {
    std::string sent;
    std::string received;
    bool sender_done = false;
    bool receiver_done = false;
};

Task<void> send_all(base::Stream* stream, Transfer* transfer, std::uint64_t seed) {
    std::mt19937_64 random{seed};
    std::string_view rest = transfer->sent;
    while (!rest.empty()) {
        const std::size_t bytes =
            std::min<std::size_t>(rest.size(), 1 + random() % (random() % 8 == 0 ? 100'000 : 900));
        const auto written =
            co_await stream->write(base::as_bytes(rest.substr(0, bytes)), Deadline::never());
        CHECK(written.has_value());
        rest.remove_prefix(bytes);
    }
    const auto shut = co_await stream->shutdown_write(Deadline::never());
    CHECK(shut.has_value());
    transfer->sender_done = true;
}

Task<void> receive_all(base::Stream* stream, Transfer* transfer, std::uint64_t seed) {
    std::mt19937_64 random{seed};
    for (;;) {
        const auto filled = co_await stream->fill(Deadline::never());
        if (!filled) {
            CHECK(filled.error() == NetError::end_of_stream);
            break;
        }
        const auto text = base::as_text(stream->unread());
        const std::size_t bytes = random() % 2 == 0 ? text.size() : 1 + random() % text.size();
        transfer->received += text.substr(0, bytes);
        stream->consume(bytes);
    }
    transfer->receiver_done = true;
}

std::string random_text(std::size_t bytes, std::uint64_t seed) {
    std::mt19937_64 random{seed};
    std::string text(bytes, '\0');
    for (std::size_t i = 0; i + 8 <= bytes; i += 8) {
        const std::uint64_t draw = random();
        std::memcpy(text.data() + i, &draw, 8);
    }
    return text;
}

class TlsTransfer : public TlsConnection, public ::testing::WithParamInterface<bool> {};

TEST_P(TlsTransfer, FiveMegabytesEachWayAtOnceArriveWhole) {
    auto server = GetParam() ? make_tls12_server() : make_server();
    auto client = make_client();
    connect(server, client);
    Transfer up{.sent = random_text(5'000'000, 1)};
    Transfer down{.sent = random_text(5'000'000, 2)};
    loop.spawn(send_all(client_end.get(), &up, 3), "up");
    loop.spawn(receive_all(server_end.get(), &up, 4), "up");
    loop.spawn(send_all(server_end.get(), &down, 5), "down");
    loop.spawn(receive_all(client_end.get(), &down, 6), "down");
    ASSERT_TRUE(run_until(loop, clock, [&] {
        return up.sender_done && up.receiver_done && down.sender_done && down.receiver_done;
    }));
    EXPECT_TRUE(up.received == up.sent);
    EXPECT_TRUE(down.received == down.sent);
    EXPECT_EQ(server_library.counters().truncated, 0U);
    EXPECT_EQ(server_library.lent_blocks(), 0U);
    EXPECT_EQ(client_library.lent_blocks(), 0U);
}
INSTANTIATE_TEST_SUITE_P(Versions, TlsTransfer, ::testing::Bool(),
                         [](const auto& param) { return param.param ? "Tls12" : "Tls13"; });

Task<void> write_pieces(base::Stream* stream, int count, bool* done) {
    for (int i = 0; i < count; ++i) {
        const auto written = co_await stream->write(
            base::as_bytes("RCPT TO:<someone@example.com>\r\n"), Deadline::never());
        CHECK(written.has_value());
    }
    *done = true;
}

TEST_F(TlsConnection, SmallWritesOfOneTurnLeaveAsOneRecord) {
    connect();
    tap->write_count = tap->write_bytes = 0;
    bool done = false;
    loop.spawn(write_pieces(client_end.get(), 100, &done), "pieces");
    ASSERT_TRUE(run_until(loop, clock, [&] { return done && tap->write_count != 0; }));
    EXPECT_EQ(read(*server_end, 3100).size(), 3100U);
    EXPECT_EQ(tap->write_count, 1U);
    EXPECT_LT(tap->write_bytes, 3100U + 64U); // one record's overhead, not a hundred's
}

TEST_F(TlsConnection, SlabsArriveInOrderBehindStagedBytes) {
    connect();
    base::SlabPool slabs{4096, 2};
    base::SlabChain chain;
    for (int i = 0; i < 2; ++i) {
        base::SlabView view{slabs.take(), 0, 4096};
        std::memset(view.slab.data(), 'a' + i, 4096);
        chain.push(std::move(view));
    }
    write(*client_end, "first ");
    ASSERT_TRUE(run(loop, clock, client_end->write(std::move(chain), Deadline::in(loop, 1s))));
    EXPECT_EQ(read(*server_end, 6 + 8192),
              "first " + std::string(4096, 'a') + std::string(4096, 'b'));
    EXPECT_EQ(slabs.free_count(), 2U);
}

TEST_F(TlsConnection, DrainReachesTheLowerStream) {
    connect();
    write(*client_end, "QUIT\r\n");
    const std::size_t before = tap->write_count;
    ASSERT_TRUE(run(loop, clock, client_end->drain(Deadline::in(loop, 1s))));
    EXPECT_EQ(tap->drain_count, 1U);
    EXPECT_LE(tap->write_count, before + 1);
    EXPECT_EQ(client_library.lent_blocks(), 0U);
}

// Goal: a peer that does not read is pushed back on within a bound, and a write that timed out
// under it does not break the records. Method: write until nothing fits, then let the peer read.
TEST_F(TlsConnection, SlowReaderIsPushedBackOnAndRecoversAfterATimeout) {
    connect();
    const std::string text = random_text(1'000'000, 7);
    const auto written =
        run(loop, clock, client_end->write(base::as_bytes(text), Deadline::in(loop, 5s)));
    ASSERT_FALSE(written.has_value());
    EXPECT_EQ(written.error(), NetError::timed_out);
    EXPECT_LE(client_library.lent_blocks(), tls_offload::send_blocks_max + 1);

    // What was taken arrives in order, up to where the write was cut; then the stream still works.
    std::string received;
    while (received.size() < text.size()) {
        const std::string piece = read(*server_end, 1);
        if (last_error) break;
        const auto more = base::as_text(server_end->unread());
        received += piece;
        received += more;
        server_end->consume(more.size());
    }
    EXPECT_EQ(last_error, NetError::timed_out);
    EXPECT_GT(received.size(), 60'000U);
    EXPECT_LT(received.size(), 250'000U);
    EXPECT_TRUE(text.starts_with(received));
    write(*client_end, "RSET\r\n");
    EXPECT_EQ(read(*server_end, 6), "RSET\r\n");
}

TEST_F(TlsConnection, IdleConnectionHoldsNoBlocks) {
    connect();
    std::optional<NetResult<>> at_client, at_server;
    loop.spawn(store(client_end->fill(Deadline::never()), &at_client), "idle");
    loop.spawn(store(server_end->fill(Deadline::never()), &at_server), "idle");
    // The tickets come in and are no bytes for the reader.
    run_until(loop, clock, [] { return false; }, 1s);
    EXPECT_FALSE(at_client.has_value() || at_server.has_value());
    EXPECT_EQ(server_library.lent_blocks(), 0U);
    EXPECT_EQ(client_library.lent_blocks(), 0U);

    write(*server_end, "220 mx.example.com\r\n");
    ASSERT_TRUE(run_until(loop, clock, [&] { return at_client.has_value(); }));
    EXPECT_EQ(client_library.lent_blocks(), 1U);
    EXPECT_EQ(base::as_text(client_end->unread()), "220 mx.example.com\r\n");
    client_end->consume(20);
    EXPECT_EQ(server_library.lent_blocks(), 0U);
    EXPECT_EQ(client_library.lent_blocks(), 0U);
}

TEST_F(TlsConnection, ContextsMayGoWhileTheirConnectionsGoOn) {
    auto server = std::make_unique<tls_offload::ServerContext>(make_server());
    auto client = std::make_unique<tls_offload::ClientContext>(make_client());
    connect(*server, *client);
    server.reset();
    client.reset();
    converse(); // the client files its tickets in a cache that only this connection holds
}

// --- Ends

TEST_F(TlsConnection, CloseSendsWhatIsStagedAndCloseNotify) {
    connect();
    write(*client_end, std::string(40'000, 'x'));
    client_end->close();
    EXPECT_EQ(read(*server_end, 50'000).size(), 40'000U);
    EXPECT_EQ(last_error, NetError::end_of_stream);
    EXPECT_EQ(server_library.counters().truncated, 0U);
    const auto written =
        run(loop, clock, client_end->write(base::as_bytes("x"), Deadline::in(loop, 1s)));
    ASSERT_FALSE(written.has_value());
    EXPECT_EQ(written.error(), NetError::closed);
}

TEST_F(TlsConnection, FinWithoutCloseNotifyIsTheEndAndCounted) {
    auto server = make_server();
    auto client = make_client();
    auto pair = make_pair();
    auto tapped = std::make_unique<Tap>(std::move(pair.client));
    base::Stream* lower = tapped.get();
    pair.client = std::move(tapped);
    auto ends = shake(std::move(pair), client, server);
    server_end = std::move(**ends.server);
    write(***ends.client, "QUIT\r\n");
    EXPECT_EQ(read(*server_end, 6), "QUIT\r\n");
    lower->close();
    EXPECT_EQ(read(*server_end, 1), "");
    EXPECT_EQ(last_error, NetError::end_of_stream);
    EXPECT_EQ(server_library.counters().truncated, 1U);
}

TEST_F(TlsConnection, HalfCloseStillReads) {
    connect();
    write(*client_end, "QUIT\r\n");
    ASSERT_TRUE(run(loop, clock, client_end->shutdown_write(Deadline::in(loop, 1s))));
    EXPECT_EQ(read(*server_end, 100), "QUIT\r\n");
    EXPECT_EQ(last_error, NetError::end_of_stream);
    write(*server_end, "221 bye\r\n");
    EXPECT_EQ(read(*client_end, 9), "221 bye\r\n");
    const auto written =
        run(loop, clock, client_end->write(base::as_bytes("x"), Deadline::in(loop, 1s)));
    EXPECT_EQ(written.error(), NetError::closed);
}

TEST_F(TlsConnection, SpoiledRecordIsATlsErrorWithItsReason) {
    connect();
    converse();
    tap->spoil_next = true;
    write(*client_end, "DATA\r\n");
    EXPECT_EQ(read(*server_end, 6), "");
    EXPECT_EQ(last_error, NetError::tls);
    ASSERT_TRUE(tls_state(*server_end)->failure.has_value());
    EXPECT_EQ(tls_state(*server_end)->failure->reason, TlsFailureReason::protocol);
    EXPECT_NE(tls_state(*server_end)->failure->text.find("bad record mac"), std::string::npos)
        << tls_state(*server_end)->failure->text;
    EXPECT_EQ(server_library.counters().broken, 1U);
    // Dead for good, and the peer hears why.
    EXPECT_EQ(
        run(loop, clock, server_end->write(base::as_bytes("x"), Deadline::in(loop, 1s))).error(),
        NetError::tls);
    EXPECT_EQ(read(*client_end, 1), "");
    EXPECT_EQ(last_error, NetError::tls);
    EXPECT_EQ(tls_state(*client_end)->failure->alert, SSL_AD_BAD_RECORD_MAC);
}

TEST_F(TlsConnection, BytesBeforeASpoiledRecordAreReadFirst) {
    connect();
    write(*client_end, "one");
    ASSERT_TRUE(run(loop, clock, client_end->drain(Deadline::in(loop, 1s))));
    tap->spoil_next = true;
    write(*client_end, "two");
    ASSERT_TRUE(run(loop, clock, client_end->drain(Deadline::in(loop, 1s))));
    EXPECT_EQ(read(*server_end, 6), "one");
    EXPECT_EQ(last_error, NetError::tls);
}

TEST_F(TlsConnection, PeersResetReachesReaderAndWriter) {
    connect();
    server_end->abort();
    EXPECT_EQ(read(*client_end, 1), "");
    EXPECT_EQ(last_error, NetError::reset);
    EXPECT_EQ(
        run(loop, clock, client_end->write(base::as_bytes("x"), Deadline::in(loop, 1s))).error(),
        NetError::reset);
}

TEST_F(TlsConnection, AbortEndsAPendingWriteAndItsFlush) {
    connect();
    const std::string text = random_text(1'000'000, 8);
    std::optional<NetResult<>> written;
    loop.spawn(store(client_end->write(base::as_bytes(text), Deadline::never()), &written),
               "writer");
    run_until(loop, clock, [] { return false; }, 5s);
    ASSERT_FALSE(written.has_value());
    client_end->abort();
    ASSERT_TRUE(run_until(loop, clock, [&] { return written.has_value(); }));
    EXPECT_EQ(written->error(), NetError::closed);
}

TEST_F(TlsConnection, CloseGivesUpOnAPeerThatNeverReads) {
    connect();
    const std::string text = random_text(1'000'000, 9);
    static_cast<void>(
        run(loop, clock, client_end->write(base::as_bytes(text), Deadline::in(loop, 5s))));
    client_end->close();
    client_end.reset();
    EXPECT_GT(loop.spawned_count(), 0U);
    ASSERT_TRUE(run_until(loop, clock, [&] { return loop.spawned_count() == 0; }, 20s));
    EXPECT_EQ(client_library.lent_blocks(), 0U);
}

TEST_F(TlsConnection, StreamDestroyedUnderItsReaderEndsTheReader) {
    connect();
    std::optional<NetResult<>> filled;
    loop.spawn(store(client_end->fill(Deadline::never()), &filled), "reader");
    run_until(loop, clock, [] { return false; }, 1s);
    client_end.reset();
    ASSERT_TRUE(run_until(loop, clock, [&] { return filled.has_value(); }, 1s));
    EXPECT_FALSE(filled->has_value());
}

} // namespace
} // namespace tests
