#include "tests/dataplane/smtp/client/session_fixture.h"

#include <algorithm>
#include <deque>
#include <random>

namespace tests {
namespace {

using smtp::Cause;
using smtp::EnhancedCode;
using smtp::Stage;

const std::string short_mail = "Subject: a\r\n\r\nbody\r\n";

class ClientSession : public SessionFixture {};

// ---- opening

TEST_F(ClientSession, ReadsWhatThePeerOffers) {
    ASSERT_TRUE(open());
    EXPECT_EQ(peer.commands, std::deque<std::string>{"EHLO relay.example"});
    EXPECT_TRUE(session->capabilities().offers(smtp::Extension::pipelining));
    EXPECT_TRUE(session->capabilities().offers(smtp::Extension::chunking));
    EXPECT_FALSE(session->capabilities().offers(smtp::Extension::starttls));
    EXPECT_FALSE(session->capabilities().offers(smtp::Extension::binary_mime));
    EXPECT_EQ(session->capabilities().size_max, 52428800U);
}

TEST_F(ClientSession, FallsBackToHeloWhenEhloIsUnknown) {
    peer.reply("EHLO", "502 5.5.1 what?");
    ASSERT_TRUE(open());
    EXPECT_EQ(peer.commands.back(), "HELO relay.example");
    const auto mail = message(short_mail, {"bob@peer.example", "eve@peer.example"});
    const auto results = transact(mail);
    EXPECT_TRUE(results[0].positive() && results[1].positive());
    ASSERT_EQ(peer.accepted.size(), 1U);
    EXPECT_EQ(peer.accepted[0].mail_parameters, "");
    EXPECT_EQ(peer.accepted[0].content, short_mail);
}

TEST_F(ClientSession, ReportsARefusalByTheGreeting) {
    peer.reply("connect", "554 5.7.1 go away");
    EXPECT_FALSE(open());
    EXPECT_EQ(session->failure().stage, Stage::greeting);
    EXPECT_EQ(session->failure().code, 554);
    EXPECT_EQ(session->failure().enhanced, (EnhancedCode{5, 7, 1}));
    EXPECT_EQ(session->failure().to_string(), "554 5.7.1 go away");
}

TEST_F(ClientSession, SilentGreetingEndsAtItsTimeLimit) {
    peer.when("connect", {.silent = true});
    const auto before = loop.now();
    EXPECT_FALSE(open());
    EXPECT_EQ(session->failure().stage, Stage::greeting);
    EXPECT_EQ(session->failure().cause, Cause::network);
    EXPECT_EQ(session->failure().net, base::NetError::timed_out);
    EXPECT_NEAR(std::chrono::duration<double>(loop.now() - before).count(), 300.0, 1.0);
}

TEST_F(ClientSession, NonsenseInPlaceOfAReplyEndsTheSession) {
    peer.reply("EHLO", "hello yourself");
    EXPECT_FALSE(open());
    EXPECT_EQ(session->failure().cause, Cause::protocol);
    EXPECT_FALSE(session->usable());
}

TEST_F(ClientSession, RequiredTlsThatIsNotOfferedFailsTheOpening) {
    options.tls = dataplane::policy::TlsLevel::encrypt;
    EXPECT_FALSE(open());
    EXPECT_EQ(session->failure().stage, Stage::starttls);
    EXPECT_EQ(session->failure().cause, Cause::local);
    EXPECT_EQ(session->failure().enhanced, (EnhancedCode{4, 7, 4}));
}

// ---- transactions

// Goal: with PIPELINING and CHUNKING a small mail costs one round trip. Method: the simulated
// network takes 100 us each way, so that the clock counts round trips.
TEST_F(ClientSession, SmallMailTakesOneRoundTrip) {
    ASSERT_TRUE(open());
    const auto mail = message(short_mail);
    const auto before = loop.now();
    const auto results = transact(mail);
    EXPECT_TRUE(results[0].positive());
    EXPECT_EQ(results[0].stage, Stage::last_dot);
    EXPECT_LT(loop.now() - before, 3ms); // timers of 1 ms: one step there, one back
    ASSERT_EQ(peer.accepted.size(), 1U);
    EXPECT_EQ(peer.accepted[0].sender, "alice@sender.example");
    EXPECT_EQ(peer.accepted[0].mail_parameters, "SIZE=" + std::to_string(short_mail.size()));
    EXPECT_EQ(peer.accepted[0].content, short_mail);
    EXPECT_EQ(peer.accepted[0].chunks, 1U);
}

TEST_F(ClientSession, ManyTransactionsShareAConnection) {
    ASSERT_TRUE(open());
    for (int i = 0; i < 20; ++i) {
        const auto results = transact(message(short_mail + std::to_string(i)));
        ASSERT_TRUE(results[0].positive());
    }
    EXPECT_EQ(peer.connections, 1U);
    ASSERT_EQ(peer.accepted.size(), 20U);
    EXPECT_EQ(peer.accepted[19].content, short_mail + "19");
}

TEST_F(ClientSession, EachRecipientHasItsOwnAnswer) {
    peer.reply("RCPT", "550 5.1.1 no such user", "<eve@");
    peer.reply("RCPT", "451 4.2.1 later", "<dan@");
    ASSERT_TRUE(open());
    const auto results =
        transact(message(short_mail, {"eve@peer.example", "bob@peer.example", "dan@peer.example"}));
    ASSERT_EQ(results.size(), 3U);
    EXPECT_EQ(results[0].code, 550);
    EXPECT_EQ(results[0].stage, Stage::rcpt);
    EXPECT_EQ(results[0].text, "no such user");
    EXPECT_EQ(results[1].code, 250);
    EXPECT_EQ(results[1].stage, Stage::last_dot);
    EXPECT_EQ(results[2].code, 451);
    ASSERT_EQ(peer.accepted.size(), 1U);
    ASSERT_EQ(peer.accepted[0].recipients.size(), 1U);
    EXPECT_EQ(peer.accepted[0].recipients[0].address, "bob@peer.example");
}

struct Dialect {
    const char* name;
    bool pipelining, chunking;
};
class ClientSessionDialect : public SessionFixture, public ::testing::WithParamInterface<Dialect> {
protected:
    void SetUp() override {
        SessionFixture::SetUp();
        if (!GetParam().pipelining) peer.without("PIPELINING");
        if (!GetParam().chunking) peer.without("CHUNKING");
    }
};
INSTANTIATE_TEST_SUITE_P(All, ClientSessionDialect,
                         ::testing::Values(Dialect{"Bdat", true, true},
                                           Dialect{"Data", true, false},
                                           Dialect{"StepsBdat", false, true},
                                           Dialect{"StepsData", false, false}),
                         [](const auto& one) { return std::string{one.param.name}; });

TEST_P(ClientSessionDialect, AllRecipientsRefusedLeavesTheConnectionUsable) {
    ASSERT_TRUE(open());
    peer.reply("RCPT", "550 5.1.1 no such user", "", 2);
    auto results = transact(message(short_mail, {"a@peer.example", "b@peer.example"}));
    EXPECT_EQ(results[0].code, 550);
    EXPECT_EQ(results[1].code, 550);
    EXPECT_EQ(results[1].stage, Stage::rcpt);
    ASSERT_TRUE(session->usable());
    results = transact(message(short_mail));
    EXPECT_TRUE(results[0].positive());
    ASSERT_EQ(peer.accepted.size(), 1U);
    EXPECT_EQ(peer.accepted[0].recipients.size(), 1U);
}

TEST_P(ClientSessionDialect, RefusedSenderLeavesTheConnectionUsable) {
    ASSERT_TRUE(open());
    peer.reply("MAIL", "451 4.7.1 greylisted", "", 1);
    auto results = transact(message(short_mail, {"a@peer.example", "b@peer.example"}));
    for (const auto& result : results) {
        EXPECT_EQ(result.code, 451);
        EXPECT_EQ(result.stage, Stage::mail);
    }
    results = transact(message(short_mail));
    EXPECT_TRUE(results[0].positive());
    EXPECT_EQ(peer.connections, 1U);
    EXPECT_EQ(peer.accepted.size(), 1U);
}

TEST_P(ClientSessionDialect, RefusedContentIsTheAcceptedRecipientsAnswer) {
    ASSERT_TRUE(open());
    peer.reply("RCPT", "550 5.1.1 no", "<a@");
    peer.reply(".", "554 5.7.1 spam", "", 1);
    auto results = transact(message(short_mail, {"a@peer.example", "b@peer.example"}));
    EXPECT_EQ(results[0].code, 550);
    EXPECT_EQ(results[1].code, 554);
    EXPECT_EQ(results[1].stage, Stage::last_dot);
    results = transact(message(short_mail));
    EXPECT_TRUE(results[0].positive());
}

// Goal: every shape of content arrives byte for byte, over every dialect, however the network cuts
// it.
TEST_P(ClientSessionDialect, ContentArrivesUnchanged) {
    ASSERT_TRUE(open());
    std::vector<std::string> contents{
        ".\r\n",         "..\r\n",      "a\r\n.\r\nb\r\n", ".a\r\n..b\r\n...\r\n",
        "\r\n\r\n.\r\n", "x\r\n.y",     "no line end",     "ends in cr\r",
        "a\r\n.",        "a\n.\nb\r\n",
    };
    std::mt19937_64 random{7};
    for (int i = 0; i < 12; ++i) { // up to several slabs, and dots wherever a slab may end
        std::string text;
        const std::size_t bytes = 1 + random() % 150'000;
        while (text.size() < bytes) {
            const auto draw = random() % 8;
            text += draw < 3    ? "."
                    : draw == 3 ? "\r\n."
                    : draw == 4 ? "\r\n"
                                : std::string(random() % 60, 'x');
        }
        contents.push_back(text + "\r\n");
    }
    contents.push_back(std::string(900'000, '.') + "\r\n");
    for (const std::string& content : contents) {
        peer.accepted.clear();
        const auto results = transact(message(content));
        ASSERT_TRUE(results[0].positive()) << results[0].to_string();
        ASSERT_EQ(peer.accepted.size(), 1U);
        std::string expected = content;
        if (peer.accepted[0].chunks == 0 && !content.ends_with("\r\n"))
            expected += "\r\n"; // §4.1.1.4
        ASSERT_EQ(peer.accepted[0].content.size(), expected.size());
        ASSERT_TRUE(peer.accepted[0].content == expected);
    }
}

// Goal: silence after the dot never looks like a refusal, nor like a failure before it.
TEST_P(ClientSessionDialect, SilenceAfterTheContentIsToldApart) {
    ASSERT_TRUE(open());
    peer.when(".", {.silent = true});
    const auto results = transact(message(short_mail));
    EXPECT_EQ(results[0].stage, Stage::last_dot);
    EXPECT_EQ(results[0].cause, Cause::network);
    EXPECT_EQ(results[0].net, base::NetError::timed_out);
    EXPECT_FALSE(session->usable());
}

TEST_P(ClientSessionDialect, HangUpIsAnOutcomeWhereverItHappens) {
    for (const std::string verb : {"MAIL", "RCPT", "."}) {
        peer.forget_rules();
        peer.when(verb, {.hang_up = true});
        ASSERT_TRUE(open());
        const auto results = transact(message(short_mail, {"a@peer.example", "b@peer.example"}));
        for (const auto& result : results) {
            EXPECT_EQ(result.cause, Cause::network) << verb;
            EXPECT_TRUE(result.refused());
        }
        EXPECT_FALSE(session->usable());
    }
}

TEST_P(ClientSessionDialect, ServiceClosingReplyEndsTheSession) {
    ASSERT_TRUE(open());
    peer.when("RCPT", {.reply = "421 4.3.2 shutting down", .hang_up = true}, "<b@");
    const auto results =
        transact(message(short_mail, {"a@peer.example", "b@peer.example", "c@peer.example"}));
    for (const auto& result : results)
        EXPECT_EQ(result.code, 421);
    EXPECT_FALSE(session->usable());
}

TEST_F(ClientSession, RefusedDataCommandIsTheRecipientsAnswer) {
    peer.without("CHUNKING");
    ASSERT_TRUE(open());
    peer.reply("DATA", "451 4.3.0 no room", "", 1);
    auto results = transact(message(short_mail));
    EXPECT_EQ(results[0].code, 451);
    EXPECT_EQ(results[0].stage, Stage::data);
    results = transact(message(short_mail));
    EXPECT_TRUE(results[0].positive());
    EXPECT_GE(peer.count("RSET"), 1U);
}

// RFC 2920 §3.1: a server may ask for content although it refused every recipient.
TEST_F(ClientSession, InvitationWithoutRecipientsIsAnsweredWithAnEmptyMail) {
    peer.without("CHUNKING");
    ASSERT_TRUE(open());
    peer.reply("RCPT", "550 5.1.1 no", "", 1);
    peer.reply("DATA", "354 whatever", "", 1);
    peer.reply(".", "554 5.5.1 no recipients", "", 1);
    auto results = transact(message(short_mail));
    EXPECT_EQ(results[0].code, 550);
    results = transact(message(short_mail));
    EXPECT_TRUE(results[0].positive());
    EXPECT_EQ(peer.connections, 1U);
    EXPECT_EQ(peer.accepted.size(), 1U);
}

TEST_F(ClientSession, LargeMailWaitsForItsRecipientsAndGoesInChunks) {
    ASSERT_TRUE(open());
    const std::string content = std::string(700'000, 'a') + "\r\n";
    auto results = transact(message(content));
    EXPECT_TRUE(results[0].positive());
    ASSERT_EQ(peer.accepted.size(), 1U);
    EXPECT_EQ(peer.accepted[0].content.size(), content.size());
    peer.reply("RCPT", "550 5.1.1 no");
    const auto chunks = peer.count("BDAT");
    results = transact(message(content));
    EXPECT_EQ(results[0].code, 550);
    EXPECT_EQ(peer.count("BDAT"), chunks); // nothing was sent in vain
}

// ---- what the peer cannot take

TEST_F(ClientSession, MailOverThePeersSizeIsRefusedWithoutAsking) {
    peer.without("SIZE");
    peer.extensions.push_back("SIZE 1000");
    ASSERT_TRUE(open());
    const auto results = transact(message(std::string(2000, 'a')));
    EXPECT_EQ(results[0].cause, Cause::local);
    EXPECT_EQ(results[0].code, 552);
    EXPECT_EQ(results[0].enhanced, (EnhancedCode{5, 3, 4}));
    EXPECT_EQ(peer.count("MAIL"), 0U);
    EXPECT_TRUE(session->usable());
}

TEST_F(ClientSession, EightBitMailNeedsEightBitMime) {
    peer.without("8BITMIME");
    ASSERT_TRUE(open());
    const auto eight_bit = [](queue::Envelope& envelope) {
        envelope.body = queue::BodyKind::eight_bit_mime;
    };
    auto results =
        transact(message("Subject: a\r\n\r\ncaf\xc3\xa9\r\n", {"bob@peer.example"}, eight_bit));
    EXPECT_EQ(results[0].code, 554);
    EXPECT_EQ(results[0].enhanced, (EnhancedCode{5, 6, 1}));
    // Declared, but plain ASCII: there is nothing to convert.
    results = transact(message(short_mail, {"bob@peer.example"}, eight_bit));
    EXPECT_TRUE(results[0].positive());
    EXPECT_EQ(peer.accepted[0].mail_parameters.find("BODY"), std::string::npos);
}

TEST_F(ClientSession, BinaryMailNeedsBinaryMime) {
    ASSERT_TRUE(open());
    const auto binary = [](queue::Envelope& envelope) {
        envelope.body = queue::BodyKind::binary_mime;
    };
    auto results = transact(message(short_mail, {"bob@peer.example"}, binary));
    EXPECT_EQ(results[0].enhanced, (EnhancedCode{5, 6, 1}));
    peer.extensions.push_back("BINARYMIME");
    ASSERT_TRUE(open());
    results = transact(message(std::string{"a\0b\n.\nc", 7}, {"bob@peer.example"}, binary));
    EXPECT_TRUE(results[0].positive());
    EXPECT_EQ(peer.accepted[0].content, (std::string{"a\0b\n.\nc", 7}));
    EXPECT_NE(peer.accepted[0].mail_parameters.find("BODY=BINARYMIME"), std::string::npos);
}

TEST_F(ClientSession, InternationalMailNeedsSmtpUtf8) {
    const auto utf8 = [](queue::Envelope& envelope) { envelope.smtputf8 = true; };
    ASSERT_TRUE(open());
    auto results = transact(message(short_mail, {"j\xc3\xb6rg@peer.example"}, utf8));
    EXPECT_TRUE(results[0].positive());
    EXPECT_NE(peer.accepted[0].mail_parameters.find("SMTPUTF8"), std::string::npos);
    peer.without("SMTPUTF8");
    ASSERT_TRUE(open());
    results = transact(message(short_mail, {"j\xc3\xb6rg@peer.example"}, utf8));
    EXPECT_EQ(results[0].enhanced, (EnhancedCode{5, 6, 7}));
}

// ---- DSN

TEST_F(ClientSession, DsnParametersArePassedOnToWhoeverUnderstandsThem) {
    const auto dsn = [](queue::Envelope& envelope) {
        envelope.set_envid("id+2B1");
        envelope.dsn_return = queue::DsnReturn::headers;
        envelope.add_recipient("eve@peer.example", "rfc822;eve@old.example",
                               queue::notify_success | queue::notify_delay);
        envelope.add_recipient("dan@peer.example", "", queue::notify_never);
    };
    ASSERT_TRUE(open());
    auto results = transact(message(short_mail, {"bob@peer.example"}, dsn));
    ASSERT_EQ(peer.accepted.size(), 1U);
    const AcceptedMail& with = peer.accepted[0];
    EXPECT_NE(with.mail_parameters.find("RET=HDRS ENVID=id+2B1"), std::string::npos);
    ASSERT_EQ(with.recipients.size(), 3U);
    EXPECT_EQ(with.recipients[0].parameters, "");
    EXPECT_EQ(with.recipients[1].parameters, "NOTIFY=SUCCESS,DELAY ORCPT=rfc822;eve@old.example");
    EXPECT_EQ(with.recipients[2].parameters, "NOTIFY=NEVER");

    peer.without("DSN");
    ASSERT_TRUE(open());
    results = transact(message(short_mail, {"bob@peer.example"}, dsn));
    EXPECT_EQ(peer.accepted[1].mail_parameters.find("RET"), std::string::npos);
    EXPECT_EQ(peer.accepted[1].recipients[1].parameters, "");
}

// ---- bytes that must not become commands

TEST_F(ClientSession, AddressesWithLineEndsNeverReachTheWire) {
    ASSERT_TRUE(open());
    const auto results =
        transact(message(short_mail, {"bob@peer.example", "x>\r\nRCPT TO:<eve@peer.example"}));
    EXPECT_TRUE(results[0].positive());
    EXPECT_EQ(results[1].cause, Cause::local);
    EXPECT_EQ(results[1].code, 553);
    EXPECT_EQ(peer.accepted[0].recipients.size(), 1U);
}

// A lone LF before a dot could be taken for a line's end by a careless peer, and what follows for
// commands.
TEST_F(ClientSession, DotBehindABareLineFeedIsStuffed) {
    peer.without("CHUNKING");
    ASSERT_TRUE(open());
    const auto results = transact(message("a\n.\nMAIL FROM:<evil@x>\r\n"));
    EXPECT_TRUE(results[0].positive());
    EXPECT_EQ(peer.count("MAIL"), 1U);
}

} // namespace
} // namespace tests
