// Goal: nobody relays without a login or a listed network. Method: every combination of listener,
// network, TLS, plain-text permission and login goes through a whole dialogue that ignores every
// refusal; what is in the queue afterwards is compared with a rule written down here a second time.
#include "dataplane/smtp/admission.h"

#include "tests/dataplane/smtp/server_harness.h"

#include <gtest/gtest.h>
#include <string>

namespace tests {
namespace {

using dataplane::policy::ListenerKind;
using dataplane::telemetry::Counter;

enum class Login : std::uint8_t {
    none,
    good,
    wrong_password,
    disabled_account,
    account_without_policy,
    after_helo_only
};
constexpr Login all_logins[] = {Login::none,
                                Login::good,
                                Login::wrong_password,
                                Login::disabled_account,
                                Login::account_without_policy,
                                Login::after_helo_only};

TEST(Admission, NobodyRelaysWithoutLoginOrListedNetwork) {
    unsigned combinations = 0;
    unsigned relayed = 0;
    for (const ListenerKind kind :
         {ListenerKind::relay, ListenerKind::submission, ListenerKind::submissions}) {
        for (const bool listed : {false, true}) {
            for (const bool tls : {false, true}) {
                for (const bool plain_allowed : {false, true}) {
                    for (const Login login : all_logins) {
                        if (kind == ListenerKind::submissions && !tls)
                            continue; // there is no such session
                        SCOPED_TRACE(testing::Message()
                                     << "listener " << static_cast<int>(kind) << " listed "
                                     << listed << " tls " << tls << " plain " << plain_allowed
                                     << " login " << static_cast<int>(login));
                        ServerHarness world{{.seed = ++combinations, .tls = tls}};
                        for (auto& listener : world.policy.listeners)
                            listener.allow_plain_auth = plain_allowed;
                        if (login == Login::disabled_account)
                            world.policy.accounts.at("alice").enabled = false;
                        if (login == Login::account_without_policy) world.policy.accounts.clear();
                        world.publish_policy();

                        auto client = world.connect(kind, listed ? ServerHarness::listed_client
                                                                 : ServerHarness::other_client);
                        const char* hello = login == Login::after_helo_only ? "HELO x" : "EHLO x";
                        client.ask(hello);
                        if (tls && kind != ListenerKind::submissions) {
                            ASSERT_EQ(client.ask("STARTTLS").substr(0, 3), "220");
                            ASSERT_TRUE(client.start_tls());
                            client.ask(hello);
                        }
                        if (login != Login::none)
                            client.ask(auth_plain(
                                "alice", login == Login::wrong_password ? "guess" : "wonderland"));
                        client.ask("MAIL FROM:<a@b.example>");
                        client.ask("RCPT TO:<victim@elsewhere.example>");
                        client.ask("DATA");
                        client.ask("Subject: spam\r\n\r\nbuy\r\n.");
                        client.ask("MAIL FROM:<>");
                        client.ask("RCPT TO:<victim@elsewhere.example>");
                        client.send("BDAT 2 LAST\r\n\r\n");
                        client.reply();
                        world.pass(std::chrono::seconds{1});

                        const bool logged_in = login == Login::good && (tls || plain_allowed);
                        const bool may_send = logged_in || (kind == ListenerKind::relay && listed);
                        // HELO sessions have no chunks: their second message does not exist.
                        const std::size_t expected = !may_send                         ? 0
                                                     : login == Login::after_helo_only ? 1
                                                                                       : 2;
                        ASSERT_EQ(world.stored.size(), expected);
                        if (may_send) ++relayed;
                        ASSERT_EQ(world.count(Counter::rejected_policy) == 0,
                                  may_send && (logged_in || login == Login::none ||
                                               login == Login::after_helo_only));
                        for (const Stored& message : world.stored)
                            ASSERT_EQ(message.account, logged_in ? "alice" : "");
                    }
                }
            }
        }
    }
    EXPECT_EQ(combinations, 3U * 2 * 2 * 2 * 6 - 2 * 2 * 6);
    EXPECT_GE(relayed, 20U); // the table is no use when nothing gets through
}

TEST(Admission, ListsHoldForIpv6AndForMappedAddresses) {
    ServerHarness world;
    const auto answer = [&](std::string_view from) {
        auto client = world.connect(ListenerKind::relay, from);
        client.ask("EHLO x");
        return client.ask("MAIL FROM:<>").substr(0, 9);
    };
    EXPECT_EQ(answer("2001:db8:1::99"), "250 2.1.0");
    EXPECT_EQ(answer("2001:db8:2::99"), "550 5.7.1");
    EXPECT_EQ(answer("::ffff:198.51.100.7"), "250 2.1.0"); // the same host, written another way
    EXPECT_EQ(answer("::ffff:203.0.113.9"), "550 5.7.1");
}

TEST(Admission, APolicyThatTakesTheNetworkAwayHoldsForOpenSessions) {
    ServerHarness world;
    auto client = world.connect(ListenerKind::relay);
    client.ask("EHLO x");
    EXPECT_EQ(client.ask("MAIL FROM:<>").substr(0, 3), "250");
    client.ask("RSET");
    world.policy.relay_networks.clear();
    world.publish_policy();
    EXPECT_EQ(client.ask("MAIL FROM:<>").substr(0, 9), "550 5.7.1");
}

class LoggedIn : public testing::Test {
protected:
    LoggedIn() {
        for (auto& listener : world.policy.listeners)
            listener.allow_plain_auth = true;
        world.publish_policy();
    }
    ServerHarness::Client log_in() {
        auto client = world.connect(ListenerKind::submission);
        client.ask("EHLO x");
        EXPECT_EQ(client.ask(auth_plain("alice", "wonderland")).substr(0, 3), "235");
        return client;
    }
    dataplane::policy::AccountPolicy& alice() { return world.policy.accounts.at("alice"); }

    ServerHarness world;
};

TEST_F(LoggedIn, ADisabledAccountSendsNoMore) {
    auto client = log_in();
    alice().enabled = false;
    world.publish_policy();
    EXPECT_EQ(client.ask("MAIL FROM:<a@b.example>").substr(0, 9), "550 5.7.1");
}

TEST_F(LoggedIn, ARemovedAccountSendsNoMore) {
    auto client = log_in();
    world.policy.accounts.clear();
    world.publish_policy();
    EXPECT_EQ(client.ask("MAIL FROM:<a@b.example>").substr(0, 9), "550 5.7.1");
}

TEST_F(LoggedIn, AChangedAccountMustLogInAgain) {
    auto client = log_in();
    ++alice().generation;
    world.publish_policy();
    EXPECT_EQ(client.ask("MAIL FROM:<a@b.example>").substr(0, 9), "421 4.7.0");
    EXPECT_EQ(client.reply(), "<connection closed by peer>");
}

TEST_F(LoggedIn, AMailUnderWayIsFinishedUnderTheOldPolicy) {
    auto client = log_in();
    client.ask("MAIL FROM:<a@b.example>");
    alice().enabled = false;
    world.publish_policy();
    EXPECT_EQ(client.ask("RCPT TO:<c@d.example>").substr(0, 3), "250");
    EXPECT_EQ(client.ask("DATA").substr(0, 3), "354");
    EXPECT_EQ(client.ask(".").substr(0, 3), "250");
}

TEST_F(LoggedIn, SenderDomainsAreHeldTo) {
    alice().sender_domains = {"example.com", "news.example"};
    world.publish_policy();
    auto client = log_in();
    EXPECT_EQ(client.ask("MAIL FROM:<a@other.example>").substr(0, 9), "553 5.7.1");
    EXPECT_EQ(client.ask("MAIL FROM:<a@sub.example.com>").substr(0, 9), "553 5.7.1");
    EXPECT_EQ(client.ask("MAIL FROM:<a@xexample.com>").substr(0, 9), "553 5.7.1");
    EXPECT_EQ(client.ask("MAIL FROM:<\"a@example.com\"@other.example>").substr(0, 9), "553 5.7.1");
    for (const char* sender : {"a@example.com", "a@EXAMPLE.Com", "b@news.example", ""}) {
        EXPECT_EQ(client.ask("MAIL FROM:<" + std::string{sender} + ">").substr(0, 3), "250")
            << sender;
        client.ask("RSET");
    }
}

TEST_F(LoggedIn, TheAccountGoesIntoTheEnvelope) {
    auto client = log_in();
    client.ask("MAIL FROM:<a@b.example>");
    client.ask("RCPT TO:<c@d.example>");
    client.ask("DATA");
    EXPECT_EQ(client.ask(".").substr(0, 3), "250");
    world.pass(std::chrono::seconds{1});
    ASSERT_EQ(world.stored.size(), 1U);
    EXPECT_EQ(world.stored[0].account, "alice");
    EXPECT_EQ(world.stored[0].tenant, "acme");
    EXPECT_EQ(world.stored[0].source, "pool-a");
}

TEST_F(LoggedIn, TheHourlyRateCountsWhatWasSent) {
    alice().messages_per_hour_max = 3;
    world.publish_policy();
    auto client = log_in();
    const auto mail = [&] { return client.ask("MAIL FROM:<a@b.example>").substr(0, 9); };
    const auto send = [&] {
        client.ask("RCPT TO:<c@d.example>");
        client.ask("DATA");
        return client.ask(".").substr(0, 3);
    };
    for (int i = 0; i < 10; ++i) { // what is not sent does not count
        EXPECT_EQ(mail(), "250 2.1.0");
        client.ask("RSET");
    }
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(mail(), "250 2.1.0");
        EXPECT_EQ(send(), "250");
    }
    EXPECT_EQ(mail(), "450 4.7.1");
    auto other = log_in(); // another session does not help
    EXPECT_EQ(other.ask("MAIL FROM:<a@b.example>").substr(0, 9), "450 4.7.1");
    world.pass(std::chrono::minutes{61});
    auto later = log_in();
    EXPECT_EQ(later.ask("MAIL FROM:<a@b.example>").substr(0, 9), "250 2.1.0");
}

TEST_F(LoggedIn, AVanishedClientsMessageDoesNotCount) {
    alice().messages_per_hour_max = 1;
    world.publish_policy();
    {
        auto client = log_in();
        client.ask("MAIL FROM:<a@b.example>");
        client.vanish();
        world.pass(std::chrono::seconds{1});
    }
    auto client = log_in();
    EXPECT_EQ(client.ask("MAIL FROM:<a@b.example>").substr(0, 3), "250");
}

TEST_F(LoggedIn, ShardsSplitTheRate) {
    alice().messages_per_hour_max = 5;
    world.policy.start_up.shards = 4;
    world.publish_policy();
    auto client = log_in();
    for (int i = 0; i < 2; ++i) { // 5 over 4 shards, rounded up
        EXPECT_EQ(client.ask("MAIL FROM:<a@b.example>").substr(0, 3), "250");
        client.ask("RCPT TO:<c@d.example>");
        client.ask("DATA");
        EXPECT_EQ(client.ask(".").substr(0, 3), "250");
    }
    EXPECT_EQ(client.ask("MAIL FROM:<a@b.example>").substr(0, 9), "450 4.7.1");
}

} // namespace
} // namespace tests
