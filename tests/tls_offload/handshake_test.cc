#include "tests/tls_offload/tls_pair.h"

#include <algorithm>

namespace tests {
namespace {

using tls_offload::tls_state;
using tls_offload::TlsFailureReason;
using tls_offload::TlsLevel;

class TlsHandshake : public TlsPair {};

TEST_F(TlsHandshake, ModernPolicySpeaksTls13AndSaysSo) {
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

TEST_F(TlsHandshake, IntermediatePolicyServesTls12WithAeadAndForwardSecrecy) {
    auto server = make_tls12_server();
    auto client = make_client();
    connect(server, client);
    EXPECT_EQ(server_end->info().tls_version, "TLSv1.2");
    EXPECT_TRUE(server_end->info().tls_cipher.starts_with("ECDHE-ECDSA-"))
        << server_end->info().tls_cipher;
    converse();
}

TEST_F(TlsHandshake, ModernServerRefusesATls12ClientWithAnAlert) {
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

TEST_F(TlsHandshake, Tls13ResumesAndEachTicketServesOnce) {
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

TEST_F(TlsHandshake, Tls12Resumes) {
    auto server = make_tls12_server();
    auto client = make_client();
    connect(server, client);
    part();
    connect(server, client);
    EXPECT_TRUE(client_end->info().tls_resumed);
    EXPECT_TRUE(server_end->info().tls_resumed);
    converse();
}

TEST_F(TlsHandshake, SessionsAreNotSharedAcrossLevelsNamesOrScopes) {
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

TEST_F(TlsHandshake, SessionOfAnotherServersTicketKeyFallsBackToAFullHandshake) {
    auto client = make_client();
    auto server = make_tls12_server();
    connect(server, client);
    part();
    server_library.use_ticket_keys(tls_offload::make_ticket_keys()); // as after a restart
    connect(server, client);
    EXPECT_FALSE(client_end->info().tls_resumed);
    converse();
}

TEST_F(TlsHandshake, VerifyAcceptsTheKnownCaAndName) {
    auto server = make_server();
    auto client = make_client();
    connect(server, client, {.server_name = "mx.example.com", .level = TlsLevel::verify});
    EXPECT_TRUE(tls_state(*client_end)->verified);
    EXPECT_EQ(tls_state(*client_end)->verify_result, "ok");
    EXPECT_FALSE(tls_state(*server_end)->verified); // no client certificate was asked for
    converse();
}

TEST_F(TlsHandshake, VerifyRefusesAnUnknownCaAndTheServerHearsWhy) {
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

TEST_F(TlsHandshake, MayTakesTheSameCertificateAndNotesThatItDoesNotVerify) {
    ASSERT_TRUE(tls_offload::make_self_signed("ca.example", folder.file("ca.pem"),
                                              folder.file("ca.key"), clock.wall_now()));
    auto server = make_server();
    auto client = make_client({.ca_file = folder.file("ca.pem")});
    connect(server, client);
    EXPECT_FALSE(tls_state(*client_end)->verified);
    EXPECT_NE(tls_state(*client_end)->verify_result.find("self-signed"), std::string_view::npos);
    converse();
}

TEST_F(TlsHandshake, VerifyRefusesAnotherNameAndAnExpiredCertificate) {
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

TEST_F(TlsHandshake, VerifyWithoutANameFails) {
    auto client = make_client();
    auto result = run(loop, clock,
                      connect_tls(std::move(make_pair().client), client,
                                  {.level = TlsLevel::verify}, Deadline::in(loop, 10s)));
    EXPECT_FALSE(result.has_value());
}

TEST_F(TlsHandshake, PlainTextClientFailsTheServersHandshakeCleanly) {
    auto server = make_server();
    auto pair = make_pair();
    write(*pair.client, "EHLO client.example\r\nMAIL FROM:<a@b.example>\r\n");
    auto result =
        run(loop, clock, accept_tls(std::move(pair.server), server, Deadline::in(loop, 10s)));
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().reason, TlsFailureReason::protocol) << result.error().text;
    EXPECT_FALSE(result.error().text.empty());
}

TEST_F(TlsHandshake, PlainTextServerFailsTheClientsHandshakeCleanly) {
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

TEST_F(TlsHandshake, SilentPeerTimesOut) {
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

TEST_F(TlsHandshake, CancelEndsTheHandshake) {
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

TEST_F(TlsHandshake, PeerThatHangsUpOrResetsInTheHandshakeIsToldApart) {
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
TEST_F(TlsHandshake, HandshakeDroppedAtEveryPointLeavesNothingBehind) {
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

TEST_F(TlsHandshake, PlainStreamHasNoTlsState) {
    auto pair = make_pair();
    EXPECT_EQ(tls_state(*pair.client), nullptr);
}

} // namespace
} // namespace tests
