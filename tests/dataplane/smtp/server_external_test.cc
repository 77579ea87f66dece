// Goal: a client certificate is an account's credential for AUTH EXTERNAL, and no more than that
// (RFC 4422 appendix A, RFC 4954).
#include "tests/dataplane/smtp/server_harness.h"
#include "tls_offload/certificate.h"

#include <gtest/gtest.h>
#include <string>

namespace tests {
namespace {

using dataplane::policy::ListenerKind;
using dataplane::telemetry::Counter;

/// The client shows the harness's own certificate, which is for relay.example.
class External : public ::testing::Test {
protected:
    void know(ServerHarness& world, const std::string& credential, bool enabled = true) {
        dataplane::policy::AccountPolicy account;
        account.name = "robot";
        account.tenant = "acme";
        account.enabled = enabled;
        account.certificates = {credential};
        world.policy.accounts["robot"] = account;
        world.policy.certificate_accounts[credential] = "robot";
        world.publish_policy();
    }
    ServerHarness::Client enter(ServerHarness& world) {
        auto client = world.connect(ListenerKind::submissions, ServerHarness::other_client);
        const std::string offers = client.ask("EHLO client.example");
        EXPECT_NE(offers.find("AUTH PLAIN LOGIN EXTERNAL"), std::string::npos) << offers;
        return client;
    }
};

class ExternalKinds : public External, public ::testing::WithParamInterface<const char*> {};

TEST_P(ExternalKinds, CredentialIsTheAccount) {
    ServerHarness world{{.tls = true, .client_certificate = true}};
    const std::string text = GetParam();
    know(world, text == "sha256:" ? text + world.certificate_fingerprint() : text);
    auto client = enter(world);
    EXPECT_EQ(client.ask("AUTH EXTERNAL =").substr(0, 3), "235");
    EXPECT_EQ(client.ask("MAIL FROM:<a@sender.example>").substr(0, 3), "250");
    EXPECT_EQ(world.count(Counter::auth_accepted), 1U);
}
INSTANTIATE_TEST_SUITE_P(All, ExternalKinds,
                         ::testing::Values("sha256:", "name:relay.example",
                                           "subject:CN=relay.example"));

TEST_F(External, IdentityMustBeTheCertificatesOwn) {
    ServerHarness world{{.tls = true, .client_certificate = true}};
    know(world, "name:relay.example");
    auto client = enter(world);
    // The answer to the challenge, then the initial response: "alice" and "robot" in base64.
    EXPECT_EQ(client.ask("AUTH EXTERNAL").substr(0, 3), "334");
    EXPECT_EQ(client.ask("YWxpY2U=").substr(0, 3), "535");
    EXPECT_EQ(client.ask("AUTH EXTERNAL cm9ib3Q=").substr(0, 3), "235");
}

TEST_F(External, UnknownCertificateAndDisabledAccountAreRefused) {
    ServerHarness world{{.tls = true, .client_certificate = true}};
    auto client = enter(world);
    EXPECT_EQ(client.ask("AUTH EXTERNAL =").substr(0, 3), "535");
    know(world, "name:relay.example", false);
    EXPECT_EQ(client.ask("AUTH EXTERNAL =").substr(0, 3), "535");
    EXPECT_EQ(client.ask("MAIL FROM:<a@sender.example>").substr(0, 3), "530");
    EXPECT_EQ(world.count(Counter::auth_rejected), 2U);
}

TEST_F(External, NameInACertificateThatDoesNotVerifyIsNobody) {
    ServerHarness world{{.tls = true, .client_certificate = true, .trusts_clients = false}};
    know(world, "name:relay.example");
    auto client = enter(world);
    EXPECT_EQ(client.ask("AUTH EXTERNAL =").substr(0, 3), "535");
    know(world, "sha256:" + world.certificate_fingerprint()); // which needs nobody's word
    EXPECT_EQ(client.ask("AUTH EXTERNAL =").substr(0, 3), "235");
}

TEST_F(External, WithoutACertificateThereIsNoSuchMechanism) {
    ServerHarness world{{.tls = true}};
    auto client = world.connect(ListenerKind::submissions, ServerHarness::other_client);
    EXPECT_EQ(client.ask("EHLO client.example").find("EXTERNAL"), std::string::npos);
    EXPECT_EQ(client.ask("AUTH EXTERNAL =").substr(0, 3), "504");
}

} // namespace
} // namespace tests
