// Goal: every kind of chain, in both versions, is accepted and refused for the right reason.
// Method: one authority for each kind of key, two ends of ours over a simulated network.
#include "tests/tls_offload/pki.h"
#include "tests/tls_offload/tls_fixture.h"

#include <array>
#include <openssl/ocsp.h>

namespace tests {
namespace {

using tls_offload::ClientAuth;
using tls_offload::ClientOptions;
using tls_offload::tls_state;
using tls_offload::TlsFailureReason;
using tls_offload::TlsLevel;

struct Combination {
    int version;
    KeyKind kind;
};

class TlsMatrix : public TlsFixture, public ::testing::WithParamInterface<Combination> {
protected:
    void SetUp() override {
        TlsFixture::SetUp();
        put_certificate({});
        write_file(folder.file("root.pem"), pem_of(authority.certificate()));
    }
    void put_certificate(const LeafOptions& options) {
        leaf = authority.issue(GetParam().kind, options);
        write_pair(leaf, &authority, folder.file("chain.pem"), folder.file("chain.key"));
    }
    tls_offload::ServerContext make_matrix_server(ClientAuth client_auth = ClientAuth::none,
                                                  bool trusts_clients = true) {
        auto made = tls_offload::ServerContext::create(
            server_library,
            {.certificate_file = folder.file("chain.pem"),
             .key_file = folder.file("chain.key"),
             .client_auth = client_auth,
             .client_ca_file =
                 client_auth != ClientAuth::none && trusts_clients ? folder.file("root.pem") : ""});
        CHECK(made.has_value());
        for (const auto& context : made->state()->set->contexts())
            CHECK(SSL_CTX_set_max_proto_version(context.get(), GetParam().version) == 1);
        return std::move(*made);
    }
    tls_offload::ClientContext make_matrix_client(const std::string& certificate = {}) {
        return make_client({.ca_file = folder.file("root.pem"),
                            .certificate_file = certificate.empty() ? "" : certificate + ".pem",
                            .key_file = certificate.empty() ? "" : certificate + ".key"});
    }
    /// Handshakes, exchanges a line each way, parts. The client's end, or why there is none.
    struct Meeting {
        std::optional<tls_offload::TlsFailure> failure;
        tls_offload::TlsState client, server;
        bool resumed = false;
        std::string version;
    };
    Meeting meet(tls_offload::ClientContext& client, tls_offload::ServerContext& server,
                 const ClientOptions& options) {
        Meeting met;
        auto ends = shake(make_pair(), client, server, options);
        if (!ends.client->has_value()) {
            met.failure = ends.client->error();
            return met;
        }
        StreamPtr near = std::move(**ends.client);
        EXPECT_TRUE(ends.server->has_value());
        if (!ends.server->has_value()) return met;
        StreamPtr far = std::move(**ends.server);
        write(*far, "220 hello\r\n");
        EXPECT_EQ(read(*near, 11), "220 hello\r\n");
        write(*near, "QUIT\r\n");
        EXPECT_EQ(read(*far, 6), "QUIT\r\n");
        met.client = *tls_state(*near);
        met.server = *tls_state(*far);
        met.resumed = near->info().tls_resumed;
        met.version = near->info().tls_version;
        near->close();
        far->close();
        run_until(loop, clock, [] { return false; }, 20s);
        return met;
    }
    void expect_refusal(const Meeting& met, std::string_view why) {
        ASSERT_TRUE(met.failure.has_value());
        EXPECT_EQ(met.failure->reason, TlsFailureReason::certificate);
        EXPECT_NE(met.failure->text.find(why), std::string::npos) << met.failure->text;
    }
    const ClientOptions verified{.server_name = "mx.example.com", .level = TlsLevel::verify};
    ClientOptions dane(std::vector<tls_offload::TlsaRecord> records) {
        return {
            .server_name = "mx.example.com", .level = TlsLevel::dane, .tlsa = std::move(records)};
    }

    Authority authority{GetParam().kind, clock.wall_now()};
    Identity leaf;
};

TEST_P(TlsMatrix, FullHandshakeVerifies) {
    auto server = make_matrix_server();
    auto client = make_matrix_client();
    const Meeting met = meet(client, server, verified);
    ASSERT_FALSE(met.failure) << met.failure->text;
    EXPECT_TRUE(met.client.verified);
    EXPECT_EQ(met.client.authenticated_by, "ca");
    EXPECT_EQ(met.version, GetParam().version == TLS1_3_VERSION ? "TLSv1.3" : "TLSv1.2");
    EXPECT_FALSE(met.resumed);
    EXPECT_FALSE(met.client.group.empty());
}

TEST_P(TlsMatrix, SecondHandshakeResumesAndStaysVerified) {
    auto server = make_matrix_server();
    auto client = make_matrix_client();
    ASSERT_FALSE(meet(client, server, verified).failure);
    const Meeting met = meet(client, server, verified);
    ASSERT_FALSE(met.failure) << met.failure->text;
    EXPECT_TRUE(met.resumed);
    EXPECT_TRUE(met.client.verified);
}

TEST_P(TlsMatrix, AnotherPolicyNeverResumesTheSession) {
    auto server = make_matrix_server();
    auto client = make_matrix_client();
    ASSERT_FALSE(meet(client, server, {.server_name = "mx.example.com", .level = TlsLevel::encrypt})
                     .failure);
    EXPECT_FALSE(meet(client, server, verified).resumed);
    ClientOptions other = verified;
    other.peer_names = {"mx.example.com", "other.example"};
    EXPECT_FALSE(meet(client, server, other).resumed);
    EXPECT_FALSE(meet(client, server, dane({tlsa_of(*leaf.certificate, 3, 1, 1)})).resumed);
    EXPECT_FALSE(meet(client, server, dane({tlsa_of(*leaf.certificate, 3, 1, 2)})).resumed);
    EXPECT_TRUE(meet(client, server, verified).resumed);
}

TEST_P(TlsMatrix, WrongNameIsRefused) {
    auto server = make_matrix_server();
    auto client = make_matrix_client();
    expect_refusal(
        meet(client, server, {.server_name = "mx.example.net", .level = TlsLevel::verify}),
        "ostname mismatch");
}

TEST_P(TlsMatrix, AnyOfSeveralNamesWillDo) {
    auto server = make_matrix_server();
    auto client = make_matrix_client();
    ClientOptions options{.server_name = "mx7.provider.example", .level = TlsLevel::verify};
    options.peer_names = {"example.com", ".example.com"};
    const Meeting met = meet(client, server, options);
    EXPECT_FALSE(met.failure) << met.failure->text;
    options.peer_names = {"example.net", ".example.net"};
    expect_refusal(meet(client, server, options), "ostname mismatch");
}

TEST_P(TlsMatrix, ExpiredIsRefusedButEncryptsWhereThatSuffices) {
    put_certificate({.valid_from = -48h, .valid_for = 24h});
    auto server = make_matrix_server();
    auto client = make_matrix_client();
    expect_refusal(meet(client, server, verified), "expired");
    const Meeting met =
        meet(client, server, {.server_name = "mx.example.com", .level = TlsLevel::encrypt});
    ASSERT_FALSE(met.failure);
    EXPECT_FALSE(met.client.verified);
    EXPECT_EQ(met.client.verify_result, "certificate has expired");
}

TEST_P(TlsMatrix, UnknownRootIsRefused) {
    const Authority other{GetParam().kind == KeyKind::rsa ? KeyKind::ec : GetParam().kind,
                          clock.wall_now()};
    write_file(folder.file("root.pem"), pem_of(other.certificate()));
    auto server = make_matrix_server();
    auto client = make_matrix_client();
    const Meeting met = meet(client, server, verified);
    ASSERT_TRUE(met.failure.has_value());
    EXPECT_EQ(met.failure->reason, TlsFailureReason::certificate);
}

TEST_P(TlsMatrix, ClientCertificateIsSeenAndSurvivesResumption) {
    const Identity user = authority.issue(
        GetParam().kind, {.names = {"esp.example", "Robot@esp.example"}, .common_name = "esp"});
    write_pair(user, nullptr, folder.file("user.pem"), folder.file("user.key"));
    auto server = make_matrix_server(ClientAuth::request);
    auto client = make_matrix_client(folder.file("user"));
    for (const bool again : {false, true}) {
        const Meeting met = meet(client, server, verified);
        ASSERT_FALSE(met.failure) << met.failure->text;
        EXPECT_EQ(met.resumed, again);
        ASSERT_TRUE(met.server.peer.has_value());
        EXPECT_TRUE(met.server.verified);
        EXPECT_EQ(met.server.peer->fingerprint, tls_offload::fingerprint_of(*user.certificate));
        EXPECT_EQ(met.server.peer->subject, "CN=esp");
        EXPECT_EQ(met.server.peer->names,
                  (std::vector<std::string>{"esp.example", "robot@esp.example"}));
    }
    // A server that trusts nobody sees it all the same, and says that it does not verify. The
    // session from the other one is of no use here.
    auto wary = make_matrix_server(ClientAuth::request, false);
    const Meeting met = meet(client, wary, verified);
    ASSERT_FALSE(met.failure) << met.failure->text;
    EXPECT_FALSE(met.resumed);
    ASSERT_TRUE(met.server.peer.has_value());
    EXPECT_FALSE(met.server.verified);
}

TEST_P(TlsMatrix, RequiredClientCertificateThatIsMissingEndsIt) {
    auto server = make_matrix_server(ClientAuth::require);
    auto client = make_matrix_client();
    auto ends = shake(make_pair(), client, server, verified);
    EXPECT_FALSE(ends.server->has_value());
    auto lenient = make_matrix_server(ClientAuth::request);
    const Meeting met = meet(client, lenient, verified);
    ASSERT_FALSE(met.failure);
    EXPECT_FALSE(met.server.peer.has_value());
}

TEST_P(TlsMatrix, DaneEndEntityAloneDecides) {
    // Neither the name, nor the dates, nor the root count with usage 3 (RFC 7672 §3.1.1).
    put_certificate({.names = {"wrong.example"}, .valid_from = -48h, .valid_for = 24h});
    auto server = make_matrix_server();
    auto client = make_client();
    for (const std::uint8_t selector : {0, 1}) {
        for (const std::uint8_t matching : {0, 1, 2}) {
            const Meeting met =
                meet(client, server, dane({tlsa_of(*leaf.certificate, 3, selector, matching)}));
            ASSERT_FALSE(met.failure) << met.failure->text;
            EXPECT_TRUE(met.client.verified);
            EXPECT_EQ(met.client.authenticated_by, "dane-ee");
        }
    }
}

TEST_P(TlsMatrix, DaneEndEntityOfAnotherKeyIsRefused) {
    auto server = make_matrix_server();
    auto client = make_matrix_client(); // whom the web trusts helps nothing
    auto record = tlsa_of(*leaf.certificate, 3, 1, 1);
    record.data[0] ^= 1;
    const Meeting met = meet(client, server, dane({record}));
    ASSERT_TRUE(met.failure.has_value());
    EXPECT_EQ(met.failure->reason, TlsFailureReason::certificate);
    // During a change of keys the zone has both.
    EXPECT_FALSE(meet(client, server, dane({record, tlsa_of(*leaf.certificate, 3, 1, 1)})).failure);
}

TEST_P(TlsMatrix, DaneTrustAnchorWantsTheRightNameAndDates) {
    auto server = make_matrix_server();
    auto client = make_client(); // does not trust the root otherwise
    const auto record = tlsa_of(authority.certificate(), 2, 0, 1);
    const Meeting met = meet(client, server, dane({record}));
    ASSERT_FALSE(met.failure) << met.failure->text;
    EXPECT_EQ(met.client.authenticated_by, "dane-ta");

    put_certificate({.names = {"wrong.example"}});
    auto misnamed = make_matrix_server();
    auto second = make_client(); // without a session, which would skip it all
    const Meeting wrong = meet(second, misnamed, dane({record}));
    ASSERT_TRUE(wrong.failure.has_value());
    EXPECT_EQ(wrong.failure->reason, TlsFailureReason::certificate);

    put_certificate({.valid_from = -48h, .valid_for = 24h});
    auto expired = make_matrix_server();
    const Meeting late = meet(second, expired, dane({record}));
    ASSERT_TRUE(late.failure.has_value());
    EXPECT_EQ(late.failure->reason, TlsFailureReason::certificate);
}

TEST_P(TlsMatrix, DaneWithoutAUsableRecordIsNotSpoken) {
    auto server = make_matrix_server();
    auto client = make_matrix_client();
    const auto pkix = tlsa_of(*leaf.certificate, 1, 1, 1); // for the web, not for mail
    EXPECT_FALSE(tls_offload::is_usable(pkix));
    auto ends = shake(make_pair(), client, server, dane({pkix}));
    EXPECT_FALSE(ends.client->has_value());
}

INSTANTIATE_TEST_SUITE_P(All, TlsMatrix,
                         ::testing::Values(Combination{TLS1_2_VERSION, KeyKind::rsa},
                                           Combination{TLS1_2_VERSION, KeyKind::ec},
                                           Combination{TLS1_2_VERSION, KeyKind::ed25519},
                                           Combination{TLS1_3_VERSION, KeyKind::rsa},
                                           Combination{TLS1_3_VERSION, KeyKind::ec},
                                           Combination{TLS1_3_VERSION, KeyKind::ed25519}),
                         [](const auto& combination) {
                             return std::string{combination.param.version == TLS1_3_VERSION
                                                    ? "Tls13"
                                                    : "Tls12"} +
                                    to_string(combination.param.kind);
                         });

TEST(Tlsa, RecordsThatNothingCanBeHeldAgainstAreNotUsable) {
    const Authority authority{KeyKind::ec, base::ManualClock{}.wall_now()};
    const auto good = tlsa_of(authority.certificate(), 2, 0, 0);
    EXPECT_TRUE(tls_offload::is_usable(good));
    for (auto [usage, selector, matching] : {std::array<int, 3>{0, 0, 0},
                                             {1, 0, 0},
                                             {4, 0, 0},
                                             {255, 0, 0},
                                             {2, 2, 0},
                                             {2, 0, 3},
                                             {2, 0, 1},    // a whole certificate is no SHA-256
                                             {2, 1, 0}}) { // and no key
        auto bad = good;
        bad.usage = static_cast<std::uint8_t>(usage);
        bad.selector = static_cast<std::uint8_t>(selector);
        bad.matching_type = static_cast<std::uint8_t>(matching);
        EXPECT_FALSE(tls_offload::is_usable(bad)) << usage << ' ' << selector << ' ' << matching;
    }
    auto cut = good;
    cut.data.pop_back();
    EXPECT_FALSE(tls_offload::is_usable(cut));
    auto longer = good;
    longer.data.push_back(0);
    EXPECT_FALSE(tls_offload::is_usable(longer));
}

} // namespace
} // namespace tests
