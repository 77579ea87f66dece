#include "dataplane/delivery/dsn.h"
#include "dataplane/message/dkim/inline_signer.h"
#include "tests/dataplane/delivery/delivery_fixture.h"
#include "tests/dataplane/message/dkim/fixtures.h"
#include "tests/dataplane/message/dkim/verifier.h"

#include <algorithm>

namespace tests {
namespace {

using telemetry::Counter;

[[nodiscard]] bool has(const std::string& text, std::string_view part) {
    return text.find(part) != std::string::npos;
}

class Dsn : public DeliveryFixture {
protected:
    void SetUp() override {
        DeliveryFixture::SetUp();
        host = &simple_site("dest.example", "192.0.2.1");
        home = &simple_site("sender.example", "192.0.2.2");
    }
    ScriptedPeer* host = nullptr;
    ScriptedPeer* home = nullptr;
};

TEST_F(Dsn, FailureNamesRecipientStatusAndReply) {
    host->reply("RCPT", "550 5.1.1 no such user");
    start();
    submit({"bob@dest.example"}, "Subject: hello\r\nX-Id: 7\r\n\r\nsecret body\r\n",
           [](queue::Envelope& envelope) {
               envelope.set_envid("order+2B7");
               envelope.set_tenant("shop");
           });
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    ASSERT_EQ(home->accepted.size(), 1U);
    const AcceptedMail& report = home->accepted[0];
    EXPECT_EQ(report.sender, "");
    ASSERT_EQ(report.recipients.size(), 1U);
    EXPECT_EQ(report.recipients[0].address, "alice@sender.example");
    const std::string& text = report.content;
    EXPECT_TRUE(has(text, "Content-Type: multipart/report; report-type=delivery-status;"));
    EXPECT_TRUE(has(text, "Auto-Submitted: auto-replied\r\n"));
    EXPECT_TRUE(has(text, "Reporting-MTA: dns; relay.example\r\n"));
    EXPECT_TRUE(has(text, "Original-Envelope-Id: order+7\r\n"));
    EXPECT_TRUE(has(text, "Final-Recipient: rfc822; bob@dest.example\r\n"));
    EXPECT_TRUE(has(text, "Action: failed\r\n"));
    EXPECT_TRUE(has(text, "Status: 5.1.1\r\n"));
    EXPECT_TRUE(has(text, "Remote-MTA: dns; mx.dest.example\r\n"));
    EXPECT_TRUE(has(text, "Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n"));
    EXPECT_TRUE(has(text, "Subject: hello\r\nX-Id: 7\r\n\r\n"));
    EXPECT_FALSE(has(text, "secret body")); // headers only, unless asked
    EXPECT_EQ(counted(Counter::dsn_sent), 1U);
}

TEST_F(Dsn, FullReturnIsGivenWhenAskedForAndSmallEnough) {
    host->reply("RCPT", "550 5.1.1 no such user");
    start();
    const auto full = [](queue::Envelope& envelope) {
        envelope.dsn_return = queue::DsnReturn::full;
    };
    submit({"bob@dest.example"}, "Subject: hello\r\n\r\nsecret body\r\n", full);
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_TRUE(has(home->accepted.at(0).content, "Content-Type: message/rfc822\r\n"));
    EXPECT_TRUE(has(home->accepted.at(0).content, "\r\n\r\nsecret body\r\n"));
    submit({"bob@dest.example"}, "Subject: hello\r\n\r\n" + std::string(400'000, 'x') + "\r\n",
           full);
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_LT(home->accepted.at(1).content.size(), 4000U);
    EXPECT_TRUE(has(home->accepted.at(1).content, "Content-Type: text/rfc822-headers\r\n"));
}

TEST_F(Dsn, OneReportNamesAllThatFailed) {
    host->reply("RCPT", "550 5.1.1 gone", "<b");
    start();
    submit({"b1@dest.example", "ok@dest.example", "b2@dest.example", "x@missing.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    ASSERT_EQ(home->accepted.size(), 1U);
    const std::string& text = home->accepted[0].content;
    EXPECT_TRUE(has(text, "Final-Recipient: rfc822; b1@dest.example"));
    EXPECT_TRUE(has(text, "Final-Recipient: rfc822; b2@dest.example"));
    EXPECT_TRUE(has(text, "Final-Recipient: rfc822; x@missing.example"));
    EXPECT_FALSE(has(text, "Final-Recipient: rfc822; ok@dest.example"));
}

TEST_F(Dsn, NullSenderAndNotifyNeverGetNone) {
    host->reply("RCPT", "550 5.1.1 gone");
    start();
    submit({"bob@dest.example"}, "a\r\n",
           [](queue::Envelope& envelope) { envelope.set_sender(""); });
    submit({}, "a\r\n", [](queue::Envelope& envelope) {
        envelope.add_recipient("b@dest.example", "", queue::notify_never);
    });
    submit({}, "a\r\n", [](queue::Envelope& envelope) {
        envelope.add_recipient("b@dest.example", "", queue::notify_success);
    });
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(home->connections, 0U);
    EXPECT_EQ(counted(Counter::messages_bounced), 3U);
    EXPECT_EQ(counted(Counter::dsn_sent), 0U);
}

TEST_F(Dsn, SuccessIsReportedAsRelayedWhenTheNextHopCannot) {
    host->without("DSN");
    start();
    const auto ask = [](queue::Envelope& envelope) {
        envelope.add_recipient("bob@dest.example", "rfc822;old+2Bbob@dest.example",
                               queue::notify_success);
    };
    submit({}, "Subject: a\r\n\r\nb\r\n", ask);
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    ASSERT_EQ(home->accepted.size(), 1U);
    EXPECT_TRUE(has(home->accepted[0].content, "Action: relayed\r\n"));
    EXPECT_TRUE(has(home->accepted[0].content, "Status: 2.0.0\r\n"));
    EXPECT_TRUE(
        has(home->accepted[0].content, "Original-Recipient: rfc822; old+bob@dest.example\r\n"));

    host->extensions.push_back("DSN");
    pass(10s); // the connection that knows no DSN goes
    submit({}, "Subject: a\r\n\r\nb\r\n", ask);
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(home->accepted.size(), 1U);
    EXPECT_EQ(host->accepted.at(1).recipients.at(0).parameters,
              "NOTIFY=SUCCESS ORCPT=rfc822;old+2Bbob@dest.example");
}

TEST_F(Dsn, DelayIsReportedOnce) {
    rules.retry.delay_notice = 4h;
    host->reply("RCPT", "451 4.2.2 mailbox busy");
    start();
    const auto begin = loop.wall_now();
    submit({"bob@dest.example"}, "Subject: a\r\n\r\nb\r\n",
           [&](queue::Envelope& envelope) { envelope.expiry = begin + 48h; });
    submit({}, "Subject: a\r\n\r\nb\r\n", [&](queue::Envelope& envelope) {
        envelope.expiry = begin + 48h;
        envelope.add_recipient("eve@dest.example", "",
                               queue::notify_failure); // did not ask for delays
    });
    pass(3h);
    EXPECT_EQ(home->accepted.size(), 0U);
    pass(20h);
    ASSERT_EQ(home->accepted.size(), 1U);
    EXPECT_TRUE(has(home->accepted[0].content, "Action: delayed\r\n"));
    EXPECT_TRUE(has(home->accepted[0].content, "Status: 4.2.2\r\n"));
    EXPECT_TRUE(has(home->accepted[0].content, "Will-Retry-Until: "));
    EXPECT_TRUE(has(home->accepted[0].content, "bob@dest.example"));
    host->forget_rules();
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }, 48h));
    EXPECT_EQ(home->accepted.size(), 1U);
}

// Goal: a failure is never forgotten because its report could not be stored. Method: the disk
// refuses writes while the report is made.
TEST_F(Dsn, RecipientStaysPendingUntilTheReportIsSafe) {
    host->reply("RCPT", "550 5.1.1 gone");
    start();
    submit({"bob@dest.example"});
    ASSERT_TRUE(wait_for([&] { return host->count("RCPT") == 1; }));
    disk.fail_writes(SimDisk::Fault::io, 1);
    pass(10s);
    EXPECT_EQ(counted(Counter::messages_bounced), 0U);
    EXPECT_EQ(queue->counters().queued_messages, 1U);
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_EQ(counted(Counter::messages_bounced), 1U);
    EXPECT_EQ(home->accepted.size(), 1U);
}

// Goal: mail that rots on our own disk is not tried for days in silence: its sender is told at once.
TEST_F(Dsn, MailThatIsDamagedInTheSpoolIsReportedToItsSender) {
    host->reply("RCPT", "451 4.7.1 later");
    start();
    submit({"bob@dest.example"}, "Subject: hello\r\n\r\n" + std::string(30'000, 'd') + "\r\n");
    ASSERT_TRUE(wait_for([&] { return queue->counters().deferred_messages == 1; }));
    auto& bytes = disk.bytes();
    const auto body = std::search_n(bytes.begin(), bytes.end(), 1000, std::byte{'d'});
    ASSERT_NE(body, bytes.end());
    *(body + 20'000) ^= std::byte{1};
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }, 2h));
    EXPECT_TRUE(host->accepted.empty());
    ASSERT_EQ(home->accepted.size(), 1U);
    EXPECT_TRUE(has(home->accepted[0].content, "Action: failed\r\n"));
    EXPECT_TRUE(has(home->accepted[0].content, "Status: 5.3.0\r\n"));
    EXPECT_TRUE(has(home->accepted[0].content, "damaged on the relay's disk"));
    EXPECT_EQ(counted(Counter::messages_bounced), 1U);
}

TEST_F(Dsn, InternationalAddressesMakeAnInternationalReport) {
    start();
    const std::string address = "j\xc3\xb6rg@dest.example";
    host->reply("RCPT", "550 5.1.1 gone");
    submit({}, "Subject: a\r\n\r\nb\r\n", [&](queue::Envelope& envelope) {
        envelope.smtputf8 = true;
        envelope.add_recipient(address, "", queue::notify_absent);
    });
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    ASSERT_EQ(home->accepted.size(), 1U);
    EXPECT_TRUE(has(home->accepted[0].content, "Content-Type: message/global-delivery-status\r\n"));
    EXPECT_TRUE(has(home->accepted[0].content, "Final-Recipient: utf-8; " + address));
    EXPECT_TRUE(has(home->accepted[0].mail_parameters, "SMTPUTF8"));
}

// Goal: nothing a peer says becomes a header of ours.
TEST_F(Dsn, ForeignTextStaysOnItsLine) {
    host->reply("RCPT", "550-5.1.1 gone\x01\xff\r\n550 5.1.1 Status: 2.0.0");
    start();
    submit({"bob@dest.example"});
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    EXPECT_TRUE(has(home->accepted.at(0).content,
                    "Diagnostic-Code: smtp; 550 5.1.1 gone ? Status: 2.0.0\r\n"));
}

/// Signs when it likes to.
class MoodySigner final : public dataplane::message::dkim::Signer {
public:
    base::Task<dataplane::message::dkim::SignResult>
    sign(std::shared_ptr<const dataplane::message::dkim::SigningKey> key,
         dataplane::message::dkim::Digest digest, base::Deadline) override {
        if (!willing) co_return std::unexpected(dataplane::message::dkim::SignError::failed);
        co_return dataplane::message::dkim::sign_inline(*key, digest);
    }
    bool willing = true;
};

TEST_F(Dsn, IsSignedForTheRelaysOwnNameAndUnsignedRatherThanLost) {
    namespace dkim = dataplane::message::dkim;
    TempFolder folder;
    const auto key = dkim::SigningKey::parse(rsa_pem());
    ASSERT_TRUE(key.has_value());
    const std::array tables{table("relay.example", "r1", folder.write("key.pem", rsa_pem())),
                            table("sender.example", "s1", folder.write("key.pem", rsa_pem()))};
    dkim::KeyCache files;
    auto keys = dkim::load_key_set(tables, files);
    ASSERT_TRUE(keys.has_value());
    MoodySigner signer;
    dkim::SigningDesk signing{signer};
    signing.use(keys->keys);
    desk = &signing;
    host->reply("RCPT", "550 5.1.1 no such user");
    start();
    const std::string content = "Subject: hello\r\nX-Id: 7\r\n\r\nsecret body \r\n\r\n\r\n";
    for (const queue::DsnReturn wanted : {queue::DsnReturn::headers, queue::DsnReturn::full}) {
        submit({"bob@dest.example"}, content,
               [wanted](queue::Envelope& envelope) { envelope.dsn_return = wanted; });
        ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
        const auto seen = DkimVerifier{home->accepted.back().content}.check(**key);
        ASSERT_EQ(seen.size(), 1U);
        EXPECT_EQ(seen[0].problem, "");
        EXPECT_EQ(seen[0].tags.at("d"), "relay.example");
    }
    signer.willing = false;
    submit({"bob@dest.example"}, content);
    ASSERT_TRUE(wait_for([&] { return queue_empty(); }));
    ASSERT_EQ(home->accepted.size(), 3U);
    EXPECT_FALSE(has(home->accepted[2].content, "DKIM-Signature:"));
    EXPECT_TRUE(has(home->accepted[2].content, "Action: failed\r\n"));
}

TEST(MailDate, IsRfc5322) {
    using namespace std::chrono;
    EXPECT_EQ(delivery::mail_date(base::WallTime{0ms}), "Thu, 1 Jan 1970 00:00:00 +0000");
    EXPECT_EQ(delivery::mail_date(base::WallTime{1'767'225'599'999ms}),
              "Wed, 31 Dec 2025 23:59:59 +0000");
}

} // namespace
} // namespace tests
