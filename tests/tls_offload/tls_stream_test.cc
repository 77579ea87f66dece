#include "tests/tls_offload/tls_fixture.h"

#include <algorithm>
#include <random>

namespace tests {
namespace {

using tls_offload::tls_state;
using tls_offload::TlsFailureReason;
using tls_offload::TlsLevel;

/// Counts what reaches the lower stream, and can spoil one byte of it.
class Tap final : public base::Stream {
public:
    explicit Tap(StreamPtr inner) : inner_(std::move(inner)) {}
    std::span<const std::byte> unread() const noexcept override { return inner_->unread(); }
    void consume(std::size_t bytes) noexcept override { inner_->consume(bytes); }
    Task<NetResult<>> fill(Deadline deadline) override { return inner_->fill(deadline); }
    Task<NetResult<>> write(std::span<const std::byte> bytes, Deadline deadline) override {
        ++write_count;
        write_bytes += bytes.size();
        copy_.assign(bytes.begin(), bytes.end());
        if (spoil_next) copy_.back() ^= std::byte{1};
        spoil_next = false;
        return inner_->write(copy_, deadline);
    }
    Task<NetResult<>> write(base::SlabChain slabs, Deadline deadline) override {
        return inner_->write(std::move(slabs), deadline);
    }
    Task<NetResult<>> drain(Deadline deadline) override {
        ++drain_count;
        return inner_->drain(deadline);
    }
    Task<NetResult<>> shutdown_write(Deadline deadline) override {
        return inner_->shutdown_write(deadline);
    }
    void close() noexcept override { inner_->close(); }
    void abort() noexcept override { inner_->abort(); }
    const base::StreamInfo& info() const noexcept override { return inner_->info(); }

    std::size_t write_count = 0;
    std::size_t write_bytes = 0;
    std::size_t drain_count = 0;
    bool spoil_next = false;

private:
    StreamPtr inner_;
    std::vector<std::byte> copy_;
};

class TlsStreamTest : public TlsFixture {
protected:
    /// A connected pair, its client's lower stream tapped.
    void connect(tls_offload::ServerContext& server, tls_offload::ClientContext& client,
                 const tls_offload::ClientOptions& options = {.server_name = "mx.example.com"}) {
        auto pair = make_pair();
        auto tapped = std::make_unique<Tap>(std::move(pair.client));
        tap = tapped.get();
        pair.client = std::move(tapped);
        auto ends = shake(std::move(pair), client, server, options);
        ASSERT_TRUE(ends.client->has_value()) << ends.client->error().text;
        ASSERT_TRUE(ends.server->has_value()) << ends.server->error().text;
        client_end = std::move(**ends.client);
        server_end = std::move(**ends.server);
    }
    void connect() {
        auto server = make_server();
        auto client = make_client();
        connect(server, client);
    }
    /// One message each way, as SMTP's greeting and EHLO, so that tickets arrive.
    void converse() {
        write(*server_end, "220 mx.example.com\r\n");
        EXPECT_EQ(read(*client_end, 20), "220 mx.example.com\r\n");
        write(*client_end, "QUIT\r\n");
        EXPECT_EQ(read(*server_end, 6), "QUIT\r\n");
    }
    void part() {
        client_end->close();
        server_end->close();
        run_until(loop, clock, [] { return false; }, 20s);
        client_end.reset();
        server_end.reset();
    }

    Tap* tap = nullptr;
    StreamPtr client_end, server_end;
};

// --- Handshake

TEST_F(TlsStreamTest, ModernPolicySpeaksTls13AndSaysSo) {
    auto server = make_server(tls_offload::TlsPolicy::modern);
    auto client = make_client();
    connect(server, client);
    EXPECT_EQ(client_end->info().tls_version, "TLSv1.3");
    EXPECT_EQ(server_end->info().tls_version, "TLSv1.3");
    EXPECT_EQ(client_end->info().tls_cipher, server_end->info().tls_cipher);
    EXPECT_FALSE(client_end->info().tls_resumed);
    EXPECT_EQ(client_end->info().peer.to_string(), "192.0.2.25:25");
    converse();
}

TEST_F(TlsStreamTest, IntermediatePolicyServesTls12WithAeadAndForwardSecrecy) {
    auto server = make_tls12_server();
    auto client = make_client();
    connect(server, client);
    EXPECT_EQ(server_end->info().tls_version, "TLSv1.2");
    EXPECT_TRUE(server_end->info().tls_cipher.starts_with("ECDHE-ECDSA-"))
        << server_end->info().tls_cipher;
    converse();
}

TEST_F(TlsStreamTest, ModernServerRefusesATls12ClientWithAnAlert) {
    auto server = make_server(tls_offload::TlsPolicy::modern);
    auto client = make_client();
    SSL_CTX_set_max_proto_version(client.state()->set->opportunistic.get(), TLS1_2_VERSION);
    auto ends = shake(make_pair(), client, server);
    ASSERT_FALSE(ends.server->has_value());
    EXPECT_EQ(ends.server->error().reason, TlsFailureReason::protocol);
    ASSERT_FALSE(ends.client->has_value());
    EXPECT_EQ(ends.client->error().reason, TlsFailureReason::alert) << ends.client->error().text;
    EXPECT_EQ(ends.client->error().alert, SSL_AD_PROTOCOL_VERSION);
    EXPECT_EQ(server_library.counters().handshake_failed, 1U);
}

TEST_F(TlsStreamTest, Tls13ResumesAndEachTicketServesOnce) {
    auto server = make_server();
    auto client = make_client();
    connect(server, client);
    converse();
    part();
    ASSERT_EQ(client.session_key_count(), 1U);
    for (int round = 0; round < 3; ++round) {
        connect(server, client);
        EXPECT_TRUE(client_end->info().tls_resumed);
        EXPECT_TRUE(server_end->info().tls_resumed);
        converse();
        part();
    }
    EXPECT_EQ(client_library.counters().connected, 4U);
    EXPECT_EQ(client_library.counters().resumed, 3U);

    // A full handshake brings two tickets, a resumed one one. Without the conversation that fetches
    // them the stock of two runs dry: none is offered twice.
    for (int i = 0; i < 2; ++i) {
        connect(server, client);
        EXPECT_TRUE(client_end->info().tls_resumed) << i;
        client_end->abort();
        server_end->abort();
    }
    connect(server, client);
    EXPECT_FALSE(client_end->info().tls_resumed);
}

TEST_F(TlsStreamTest, Tls12Resumes) {
    auto server = make_tls12_server();
    auto client = make_client();
    connect(server, client);
    part();
    connect(server, client);
    EXPECT_TRUE(client_end->info().tls_resumed);
    EXPECT_TRUE(server_end->info().tls_resumed);
    converse();
}

TEST_F(TlsStreamTest, SessionsAreNotSharedAcrossLevelsNamesOrScopes) {
    auto server = make_tls12_server();
    auto client = make_client();
    const tls_offload::ClientOptions options{.server_name = "mx.example.com",
                                             .session_scope = "192.0.2.25"};
    connect(server, client, options);
    part();
    auto other = options;
    other.level = TlsLevel::verify;
    connect(server, client, other);
    EXPECT_FALSE(client_end->info().tls_resumed);
    other = options;
    other.server_name = "mx2.example.com";
    connect(server, client, other);
    EXPECT_FALSE(client_end->info().tls_resumed);
    other = options;
    other.session_scope = "192.0.2.26";
    connect(server, client, other);
    EXPECT_FALSE(client_end->info().tls_resumed);
    connect(server, client, options);
    EXPECT_TRUE(client_end->info().tls_resumed);
}

TEST_F(TlsStreamTest, SessionOfAnotherServersTicketKeyFallsBackToAFullHandshake) {
    auto client = make_client();
    auto server = make_tls12_server();
    connect(server, client);
    part();
    server_library.use_ticket_keys(tls_offload::make_ticket_keys()); // as after a restart
    connect(server, client);
    EXPECT_FALSE(client_end->info().tls_resumed);
    converse();
}

TEST_F(TlsStreamTest, VerifyAcceptsTheKnownCaAndName) {
    auto server = make_server();
    auto client = make_client();
    connect(server, client, {.server_name = "mx.example.com", .level = TlsLevel::verify});
    EXPECT_TRUE(tls_state(*client_end)->verified);
    EXPECT_EQ(tls_state(*client_end)->verify_result, "ok");
    EXPECT_FALSE(tls_state(*server_end)->verified); // no client certificate was asked for
    converse();
}

TEST_F(TlsStreamTest, VerifyRefusesAnUnknownCaAndTheServerHearsWhy) {
    ASSERT_TRUE(tls_offload::make_self_signed("ca.example", folder.file("ca.pem"),
                                              folder.file("ca.key"), clock.wall_now()));
    auto server = make_server();
    auto client = make_client({.ca_file = folder.file("ca.pem")});
    auto ends = shake(make_pair(), client, server,
                      {.server_name = "mx.example.com", .level = TlsLevel::verify});
    ASSERT_FALSE(ends.client->has_value());
    EXPECT_EQ(ends.client->error().reason, TlsFailureReason::certificate);
    EXPECT_NE(ends.client->error().text.find("self-signed"), std::string::npos)
        << ends.client->error().text;
    ASSERT_FALSE(ends.server->has_value());
    EXPECT_EQ(ends.server->error().reason, TlsFailureReason::alert);
    EXPECT_EQ(ends.server->error().alert, SSL_AD_UNKNOWN_CA) << ends.server->error().text;
    EXPECT_EQ(client.session_key_count(), 0U);
}

TEST_F(TlsStreamTest, MayTakesTheSameCertificateAndNotesThatItDoesNotVerify) {
    ASSERT_TRUE(tls_offload::make_self_signed("ca.example", folder.file("ca.pem"),
                                              folder.file("ca.key"), clock.wall_now()));
    auto server = make_server();
    auto client = make_client({.ca_file = folder.file("ca.pem")});
    connect(server, client);
    EXPECT_FALSE(tls_state(*client_end)->verified);
    EXPECT_NE(tls_state(*client_end)->verify_result.find("self-signed"), std::string_view::npos);
    converse();
}

TEST_F(TlsStreamTest, VerifyRefusesAnotherNameAndAnExpiredCertificate) {
    auto server = make_server();
    auto client = make_client();
    auto wrong_name = shake(make_pair(), client, server,
                            {.server_name = "mx.example.org", .level = TlsLevel::verify});
    ASSERT_FALSE(wrong_name.client->has_value());
    EXPECT_EQ(wrong_name.client->error().reason, TlsFailureReason::certificate);

    clock.step_wall(std::chrono::hours{24 * 366 * 11});
    loop.turn();
    auto expired = shake(make_pair(), client, server,
                         {.server_name = "mx.example.com", .level = TlsLevel::verify});
    ASSERT_FALSE(expired.client->has_value());
    EXPECT_NE(expired.client->error().text.find("expired"), std::string::npos)
        << expired.client->error().text;
}

TEST_F(TlsStreamTest, VerifyWithoutANameFails) {
    auto client = make_client();
    auto result = run(loop, clock,
                      connect_tls(std::move(make_pair().client), client,
                                  {.level = TlsLevel::verify}, Deadline::in(loop, 10s)));
    EXPECT_FALSE(result.has_value());
}

TEST_F(TlsStreamTest, PlainTextClientFailsTheServersHandshakeCleanly) {
    auto server = make_server();
    auto pair = make_pair();
    write(*pair.client, "EHLO client.example\r\nMAIL FROM:<a@b.example>\r\n");
    auto result =
        run(loop, clock, accept_tls(std::move(pair.server), server, Deadline::in(loop, 10s)));
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().reason, TlsFailureReason::protocol) << result.error().text;
    EXPECT_FALSE(result.error().text.empty());
}

TEST_F(TlsStreamTest, PlainTextServerFailsTheClientsHandshakeCleanly) {
    auto client = make_client();
    auto pair = make_pair();
    write(*pair.server, "220 mx.example.com ESMTP\r\n");
    auto result = run(loop, clock,
                      connect_tls(std::move(pair.client), client, {.server_name = "mx.example.com"},
                                  Deadline::in(loop, 10s)));
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().reason, TlsFailureReason::protocol);
    EXPECT_EQ(result.error().text, "wrong version number");
}

TEST_F(TlsStreamTest, SilentPeerTimesOut) {
    auto server = make_server();
    auto pair = make_pair();
    const auto before = loop.now();
    auto result =
        run(loop, clock, accept_tls(std::move(pair.server), server, Deadline::in(loop, 30s)));
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().reason, TlsFailureReason::timed_out);
    EXPECT_GE(loop.now() - before, 30s);
    // The lower stream is gone, not merely forgotten.
    const auto filled = run(loop, clock, pair.client->fill(Deadline::in(loop, 1s)));
    ASSERT_FALSE(filled.has_value());
    EXPECT_EQ(filled.error(), NetError::reset);
}

TEST_F(TlsStreamTest, CancelEndsTheHandshake) {
    auto client = make_client();
    auto pair = make_pair();
    base::CancelSource cancel;
    std::optional<TlsResult> result;
    loop.spawn(store(connect_tls(std::move(pair.client), client, {},
                                 Deadline{base::TimePoint::max(), &cancel}),
                     &result),
               "client");
    run_until(loop, clock, [] { return false; }, 1s);
    ASSERT_FALSE(result.has_value());
    cancel.cancel();
    ASSERT_TRUE(run_until(loop, clock, [&] { return result.has_value(); }));
    EXPECT_EQ(result->error().reason, TlsFailureReason::cancelled);
}

TEST_F(TlsStreamTest, PeerThatHangsUpOrResetsInTheHandshakeIsToldApart) {
    auto server = make_server();
    auto closing = make_pair();
    closing.client->close();
    auto closed =
        run(loop, clock, accept_tls(std::move(closing.server), server, Deadline::in(loop, 30s)));
    ASSERT_FALSE(closed.has_value());
    EXPECT_EQ(closed.error().reason, TlsFailureReason::peer_closed);

    auto resetting = make_pair();
    resetting.client->abort();
    auto reset =
        run(loop, clock, accept_tls(std::move(resetting.server), server, Deadline::in(loop, 30s)));
    ASSERT_FALSE(reset.has_value());
    EXPECT_EQ(reset.error().reason, TlsFailureReason::network);
    EXPECT_EQ(reset.error().net_error, NetError::reset);
}

// Goal: nothing leaks or dangles wherever a handshake is cut. Method: the world ends after n turns,
// for every n; the sanitizer build says what is left.
TEST_F(TlsStreamTest, HandshakeDroppedAtEveryPointLeavesNothingBehind) {
    bool finished = false;
    for (int turns = 0; !finished; ++turns) {
        base::ManualClock own_clock;
        base::Loop own_loop{own_clock};
        SimNet own_net{own_loop};
        tls_offload::TlsLibrary library{own_loop};
        auto server = tls_offload::ServerContext::create(
            library,
            {.certificate_file = folder.file("cert.pem"), .key_file = folder.file("key.pem")});
        auto client =
            tls_offload::ClientContext::create(library, {.ca_file = folder.file("cert.pem")});
        auto pair = own_net.make_pair(*base::SocketAddress::parse("192.0.2.1:40000"),
                                      *base::SocketAddress::parse("192.0.2.25:25"));
        Ends ends;
        const Deadline deadline = Deadline::never();
        own_loop.spawn(
            store(connect_tls(std::move(pair.client), *client, {}, deadline), &ends.client),
            "client");
        own_loop.spawn(store(accept_tls(std::move(pair.server), *server, deadline), &ends.server),
                       "server");
        for (int i = 0; i < turns; ++i) {
            if (!own_loop.turn())
                own_clock.advance_to(std::min(own_loop.next_due(), own_clock.now() + 1s));
        }
        finished = ends.client && ends.server;
        ASSERT_LT(turns, 200);
    }
}

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

class TlsTransfer : public TlsStreamTest, public ::testing::WithParamInterface<bool> {};

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

TEST_F(TlsStreamTest, SmallWritesOfOneTurnLeaveAsOneRecord) {
    connect();
    tap->write_count = tap->write_bytes = 0;
    bool done = false;
    loop.spawn(write_pieces(client_end.get(), 100, &done), "pieces");
    ASSERT_TRUE(run_until(loop, clock, [&] { return done && tap->write_count != 0; }));
    EXPECT_EQ(read(*server_end, 3100).size(), 3100U);
    EXPECT_EQ(tap->write_count, 1U);
    EXPECT_LT(tap->write_bytes, 3100U + 64U); // one record's overhead, not a hundred's
}

TEST_F(TlsStreamTest, SlabsArriveInOrderBehindStagedBytes) {
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

TEST_F(TlsStreamTest, DrainReachesTheLowerStream) {
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
TEST_F(TlsStreamTest, SlowReaderIsPushedBackOnAndRecoversAfterATimeout) {
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

TEST_F(TlsStreamTest, IdleConnectionHoldsNoBlocks) {
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

TEST_F(TlsStreamTest, ContextsMayGoWhileTheirConnectionsGoOn) {
    auto server = std::make_unique<tls_offload::ServerContext>(make_server());
    auto client = std::make_unique<tls_offload::ClientContext>(make_client());
    connect(*server, *client);
    server.reset();
    client.reset();
    converse(); // the client files its tickets in a cache that only this connection holds
}

// --- Ends

TEST_F(TlsStreamTest, CloseSendsWhatIsStagedAndCloseNotify) {
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

TEST_F(TlsStreamTest, FinWithoutCloseNotifyIsTheEndAndCounted) {
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

TEST_F(TlsStreamTest, HalfCloseStillReads) {
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

TEST_F(TlsStreamTest, SpoiledRecordIsATlsErrorWithItsReason) {
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

TEST_F(TlsStreamTest, BytesBeforeASpoiledRecordAreReadFirst) {
    connect();
    write(*client_end, "one");
    ASSERT_TRUE(run(loop, clock, client_end->drain(Deadline::in(loop, 1s))));
    tap->spoil_next = true;
    write(*client_end, "two");
    ASSERT_TRUE(run(loop, clock, client_end->drain(Deadline::in(loop, 1s))));
    EXPECT_EQ(read(*server_end, 6), "one");
    EXPECT_EQ(last_error, NetError::tls);
}

TEST_F(TlsStreamTest, PeersResetReachesReaderAndWriter) {
    connect();
    server_end->abort();
    EXPECT_EQ(read(*client_end, 1), "");
    EXPECT_EQ(last_error, NetError::reset);
    EXPECT_EQ(
        run(loop, clock, client_end->write(base::as_bytes("x"), Deadline::in(loop, 1s))).error(),
        NetError::reset);
}

TEST_F(TlsStreamTest, AbortEndsAPendingWriteAndItsFlush) {
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

TEST_F(TlsStreamTest, CloseGivesUpOnAPeerThatNeverReads) {
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

TEST_F(TlsStreamTest, StreamDestroyedUnderItsReaderEndsTheReader) {
    connect();
    std::optional<NetResult<>> filled;
    loop.spawn(store(client_end->fill(Deadline::never()), &filled), "reader");
    run_until(loop, clock, [] { return false; }, 1s);
    client_end.reset();
    ASSERT_TRUE(run_until(loop, clock, [&] { return filled.has_value(); }, 1s));
    EXPECT_FALSE(filled->has_value());
}

TEST_F(TlsStreamTest, PlainStreamHasNoTlsState) {
    auto pair = make_pair();
    EXPECT_EQ(tls_state(*pair.client), nullptr);
}

} // namespace
} // namespace tests
