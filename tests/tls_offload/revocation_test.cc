// Goal: a certificate that its authority has taken back is refused, on either side, and nobody else is.
// Method: two authorities, lists in files, handshakes over a simulated network.
#include "tests/tls_offload/pki.h"
#include "tests/tls_offload/tls_fixture.h"
#include "tls_offload/revocation.h"

namespace tests {
namespace {

using tls_offload::ClientAuth;
using tls_offload::tls_state;
using tls_offload::TlsContextErrorKind;
using tls_offload::TlsFailureReason;
using tls_offload::TlsLevel;

class Revocation : public TlsFixture {
protected:
    void SetUp() override {
        TlsFixture::SetUp();
        leaf = authority.issue(KeyKind::ec);
        write_pair(leaf, &authority, folder.file("cert.pem"), folder.file("key.pem"));
        write_file(folder.file("root.pem"), pem_of(authority.certificate()));
    }
    Ends meet(tls_offload::ClientContext& client, tls_offload::ServerContext& server,
              TlsLevel level = TlsLevel::verify) {
        return shake(make_pair(), client, server,
                     {.server_name = "mx.example.com", .level = level});
    }
    tls_offload::ClientContext client_with(const std::string& lists) {
        write_file(folder.file("lists.pem"), lists);
        return make_client(
            {.ca_file = folder.file("root.pem"), .crl_file = folder.file("lists.pem")});
    }
    void expect_refused(const Ends& ends, std::string_view why) {
        ASSERT_FALSE(ends.client->has_value());
        EXPECT_EQ(ends.client->error().reason, TlsFailureReason::certificate);
        EXPECT_NE(ends.client->error().text.find(why), std::string::npos)
            << ends.client->error().text;
    }

    Authority authority{KeyKind::ec, clock.wall_now()};
    Authority stranger{KeyKind::ec, clock.wall_now(), "Another Root"};
    Identity leaf;
};

TEST_F(Revocation, RevokedHostIsRefusedWhereVerified) {
    auto server = make_server();
    auto client = client_with(authority.revocation_list({leaf.certificate.get()}, 24h));
    expect_refused(meet(client, server), "revoked");
    auto ends = meet(client, server, TlsLevel::may); // better than none, and told
    ASSERT_TRUE(ends.client->has_value());
    EXPECT_FALSE(tls_state(***ends.client)->verified);
    EXPECT_EQ(tls_state(***ends.client)->verify_result, "certificate revoked");
}

TEST_F(Revocation, OthersOfTheListPass) {
    auto server = make_server();
    const Identity other = authority.issue(KeyKind::ec);
    auto client = client_with(authority.revocation_list({other.certificate.get()}, 24h));
    auto ends = meet(client, server);
    ASSERT_TRUE(ends.client->has_value()) << ends.client->error().text;
    EXPECT_TRUE(tls_state(***ends.client)->verified);
    EXPECT_EQ(tls_state(***ends.client)->authenticated_by, "ca");
}

TEST_F(Revocation, IssuerWithoutAListIsNotAskedAbout) {
    auto server = make_server();
    const Identity theirs = stranger.issue(KeyKind::ec);
    auto client = client_with(stranger.revocation_list({theirs.certificate.get()}, 24h));
    EXPECT_TRUE(meet(client, server).client->has_value());
}

TEST_F(Revocation, OtherFaultsAreNotForgiven) {
    auto server = make_server();
    auto client = client_with(stranger.revocation_list({}, 24h));
    auto ends = shake(make_pair(), client, server,
                      {.server_name = "mx.example.net", .level = TlsLevel::verify});
    expect_refused(ends, "ostname mismatch");
    write_file(folder.file("root.pem"), pem_of(stranger.certificate()));
    auto wary = client_with(stranger.revocation_list({}, 24h));
    EXPECT_FALSE(meet(wary, server).client->has_value());
}

TEST_F(Revocation, ListThatHasRunOutRefusesItsIssuersCertificates) {
    auto server = make_server();
    auto client = client_with(authority.revocation_list({}, -1h));
    expect_refused(meet(client, server), "CRL has expired");
    const auto lists =
        tls_offload::read_revocation_lists(*tls_offload::read_file(folder.file("lists.pem")));
    ASSERT_TRUE(lists.has_value());
    const auto told = tls_offload::concerns("lists.pem", *lists, clock.wall_now());
    ASSERT_EQ(told.size(), 1U);
    EXPECT_NE(told[0].find("CN=Test Root"), std::string::npos) << told[0];
    EXPECT_TRUE(tls_offload::concerns("lists.pem", *lists, clock.wall_now() - 2h).empty());
}

TEST_F(Revocation, SeveralListsInOneFileAllCount) {
    auto server = make_server();
    auto client = client_with(stranger.revocation_list({}, 24h) +
                              authority.revocation_list({leaf.certificate.get()}, 24h));
    expect_refused(meet(client, server), "revoked");
}

TEST_F(Revocation, FileThatIsNoneIsRefusedByName) {
    for (const std::string& bad :
         {std::string{}, std::string{"nonsense"}, pem_of(authority.certificate()),
          authority.revocation_list({}, 24h) +
              "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"}) {
        write_file(folder.file("lists.pem"), bad);
        const auto made = tls_offload::ClientContext::create(
            client_library,
            {.ca_file = folder.file("root.pem"), .crl_file = folder.file("lists.pem")});
        ASSERT_FALSE(made.has_value()) << bad;
        EXPECT_EQ(made.error().kind, TlsContextErrorKind::crl_file);
        EXPECT_NE(made.error().text.find("lists.pem"), std::string::npos) << made.error().text;
    }
}

TEST_F(Revocation, RevokedClientDoesNotVerifyNorResumeWhatItHad) {
    const Identity user = authority.issue(KeyKind::ec, {.names = {"esp.example"}});
    write_pair(user, nullptr, folder.file("user.pem"), folder.file("user.key"));
    const auto server_with = [&](const std::string& lists) {
        write_file(folder.file("clients.pem"), lists);
        auto made = tls_offload::ServerContext::create(
            server_library, {.certificate_file = folder.file("cert.pem"),
                             .key_file = folder.file("key.pem"),
                             .client_auth = ClientAuth::request,
                             .client_ca_file = folder.file("root.pem"),
                             .client_crl_file = folder.file("clients.pem")});
        CHECK(made.has_value());
        return std::move(*made);
    };
    auto client = make_client({.ca_file = folder.file("root.pem"),
                               .certificate_file = folder.file("user.pem"),
                               .key_file = folder.file("user.key")});
    const auto verified_by = [&](tls_offload::ServerContext& server, bool resumed) {
        auto ends = meet(client, server);
        EXPECT_TRUE(ends.client->has_value() && ends.server->has_value());
        StreamPtr near = std::move(**ends.client), far = std::move(**ends.server);
        EXPECT_EQ(far->info().tls_resumed, resumed);
        write(*far, "220\r\n");
        EXPECT_EQ(read(*near, 5), "220\r\n");
        const bool verified = tls_state(*far)->verified;
        near->close();
        far->close();
        run_until(loop, clock, [] { return false; }, 20s);
        return verified;
    };
    auto before = server_with(authority.revocation_list({}, 24h));
    EXPECT_TRUE(verified_by(before, false));
    EXPECT_TRUE(verified_by(before, true));
    auto after = server_with(authority.revocation_list({user.certificate.get()}, 24h));
    EXPECT_FALSE(verified_by(after, false));
}

} // namespace
} // namespace tests
