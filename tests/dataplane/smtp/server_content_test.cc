// Goal: what the client sent is what the queue holds, byte for byte; nothing else becomes a
// message.
#include "tests/dataplane/smtp/server_harness.h"

#include <gtest/gtest.h>
#include <hs/hs.h>
#include <random>
#include <string>

namespace tests {
namespace {

using dataplane::policy::ListenerKind;
using dataplane::telemetry::Counter;
using dataplane::telemetry::EventText;
using dataplane::telemetry::EventType;

std::string random_content(std::mt19937_64& random, std::size_t bytes) {
    std::string content = "Subject: test\r\n\r\n";
    while (content.size() < bytes) {
        if (random() % 4 == 0) content.append(1 + random() % 3, '.');
        for (std::uint64_t i = random() % (random() % 16 == 0 ? 3000 : 100); i > 0; --i) {
            char c = static_cast<char>(random() % 256);
            if (c == '\r' || c == '\n') c = 'n';
            content.push_back(c);
        }
        content += "\r\n";
    }
    return content;
}

std::string dot_stuffed(std::string_view content) {
    std::string stuffed;
    bool line_start = true;
    for (const char c : content) {
        if (line_start && c == '.') stuffed += '.';
        stuffed += c;
        line_start = c == '\n';
    }
    return stuffed + ".\r\n";
}

/// A client on the relay listener that has given sender and recipient.
ServerHarness::Client at_rcpt(ServerHarness& world, std::string_view mail_parameters = "") {
    auto client = world.connect(ListenerKind::relay);
    client.ask("EHLO client.example");
    EXPECT_EQ(client.ask("MAIL FROM:<a@b.example>" + std::string{mail_parameters}).substr(0, 3),
              "250");
    EXPECT_EQ(client.ask("RCPT TO:<c@d.example>").substr(0, 3), "250");
    return client;
}

std::string send_data(ServerHarness::Client& client, std::string_view raw) {
    const std::string start = client.ask("DATA");
    if (!start.starts_with("354")) return start;
    client.send(raw);
    return client.reply();
}

TEST(Content, ArrivesUnchangedByData) {
    for (std::uint64_t seed = 1; seed <= 25; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        std::mt19937_64 random{seed};
        const std::string content =
            random_content(random, random() % (seed % 5 == 0 ? 700'000 : 20'000));
        ServerHarness world{{.seed = seed}};
        auto client = at_rcpt(world);
        ASSERT_EQ(send_data(client, dot_stuffed(content)).substr(0, 9), "250 2.0.0");
        world.pass(std::chrono::seconds{1});
        ASSERT_EQ(world.stored.size(), 1U);
        ASSERT_TRUE(world.stored[0].client_bytes() == content);
    }
}

TEST(Content, ArrivesUnchangedInChunks) {
    for (std::uint64_t seed = 1; seed <= 25; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        std::mt19937_64 random{seed};
        const bool binary = seed % 2 == 0;
        std::string content = random_content(random, random() % (seed % 5 == 0 ? 700'000 : 20'000));
        if (binary) content += std::string{"\r.\r\n.\n\0\r", 8};
        ServerHarness world{{.seed = seed}};
        auto client = at_rcpt(world, binary ? " BODY=BINARYMIME" : "");
        std::string pipelined;
        std::size_t chunk_count = 0;
        for (std::size_t at = 0; at < content.size(); ++chunk_count) {
            const std::size_t bytes =
                std::min<std::size_t>(random() % (content.size() / 3 + 2), content.size() - at);
            at += bytes;
            pipelined +=
                "BDAT " + std::to_string(bytes) + (at == content.size() ? " LAST\r\n" : "\r\n");
            pipelined += content.substr(at - bytes, bytes);
        }
        client.send(pipelined);
        for (; chunk_count > 1; --chunk_count)
            ASSERT_EQ(client.reply(), "250 2.0.0 Ok");
        ASSERT_EQ(client.reply().substr(0, 23), "250 2.0.0 Ok: queued as");
        world.pass(std::chrono::seconds{1});
        ASSERT_EQ(world.stored.size(), 1U);
        ASSERT_TRUE(world.stored[0].client_bytes() == content);
    }
}

TEST(Content, ManyMessagesOfOneSessionStayApart) {
    ServerHarness world{{.seed = 3}};
    std::mt19937_64 random{3};
    auto client = world.connect(ListenerKind::relay);
    client.ask("EHLO client.example");
    std::vector<std::string> sent;
    for (int i = 0; i < 50; ++i) {
        sent.push_back(random_content(random, random() % 3000));
        client.ask("MAIL FROM:<a@b.example>");
        client.ask("RCPT TO:<c@d.example>");
        ASSERT_EQ(send_data(client, dot_stuffed(sent.back())).substr(0, 3), "250");
    }
    world.pass(std::chrono::seconds{1});
    ASSERT_EQ(world.stored.size(), sent.size());
    for (std::size_t i = 0; i < sent.size(); ++i)
        ASSERT_TRUE(world.stored[i].client_bytes() == sent[i]) << i;
}

// Smuggling: each of these may at most become part of one message; a second one with the smuggled
// sender must never exist, whatever the policy for bare newlines is.
TEST(Smuggling, NoVariantMakesASecondMessage) {
    const std::vector<std::string> ends{"\n.\n",      "\n.\r\n",     "\r\n.\n",     "\r.\r",
                                        "\r.\r\n",    "\r\n.\r",     "\n.\r",       "\r.\n",
                                        "\r\r\n.\n",  "\n\n.\r\n",   "\r\n\n.\n",   "\r\n.\n.\n",
                                        "\r\n.\r.",   "\n\r\n.\n",   "\r\n\0.\r\n", "\r\n.\0\r\n",
                                        "\r\n. \r\n", "\r\n.\t\r\n", "\r\n..\r\n",  "\r\n.\r\r\n"};
    const std::string inner = "MAIL FROM:<admin@victim.example>\r\nRCPT "
                              "TO:<x@y.example>\r\nDATA\r\nSubject: smuggled\r\n\r\nevil\r\n.\r\n";
    for (const auto newlines :
         {dataplane::policy::BareNewline::reject, dataplane::policy::BareNewline::normalise}) {
        for (std::size_t i = 0; i < ends.size(); ++i) {
            for (std::uint64_t seed = 1; seed <= 3; ++seed) {
                const std::string end = i == 14   ? std::string{"\r\n\0.\r\n", 6}
                                        : i == 15 ? std::string{"\r\n.\0\r\n", 6}
                                                  : ends[i];
                SCOPED_TRACE(testing::PrintToString(end) + " seed " + std::to_string(seed));
                ServerHarness world{{.seed = seed}};
                world.policy.bare_newline = newlines;
                world.publish_policy();
                auto client = at_rcpt(world);
                client.ask("DATA");
                client.send("Subject: outer\r\n\r\nhello" + end + inner);
                const std::string reply = client.reply();
                ASSERT_TRUE(reply.starts_with("250 2.0.0 Ok: queued") ||
                            reply.starts_with("550 5.6.0"))
                    << reply;
                // The inner dot ended the outer mail; nothing of the rest was taken for commands.
                ASSERT_EQ(client.ask("NOOP"), "250 2.0.0 Ok");
                world.pass(std::chrono::seconds{1});
                ASSERT_EQ(world.stored.size(), reply.starts_with("250") ? 1U : 0U);
                for (const Stored& message : world.stored)
                    ASSERT_EQ(message.sender, "a@b.example");
                const bool refused = reply.starts_with("550");
                ASSERT_FALSE(refused && newlines == dataplane::policy::BareNewline::normalise);
                ASSERT_EQ(world.count(Counter::rejected_smuggling), refused ? 1U : 0U);
            }
        }
    }
}

TEST(Smuggling, NothingBareIsPassedOn) {
    ServerHarness world;
    world.policy.bare_newline = dataplane::policy::BareNewline::normalise;
    world.publish_policy();
    auto client = at_rcpt(world);
    ASSERT_EQ(send_data(client, "S: x\n\nbody\n.\nmore\r.\r\r\nend\r\n.\r\n").substr(0, 3), "250");
    world.pass(std::chrono::seconds{1});
    ASSERT_EQ(world.stored.size(), 1U);
    EXPECT_EQ(world.stored[0].client_bytes(), "S: x\r\n\r\nbody\r\n.\r\nmore\r\n.\r\n\r\nend\r\n");
}

TEST(StartTls, DropsWhatWasInjectedBehindIt) {
    for (std::uint64_t seed = 1; seed <= 5; ++seed) {
        ServerHarness world{{.seed = seed, .fragment = false, .tls = true}};
        auto client = world.connect(ListenerKind::relay);
        client.ask("EHLO x");
        client.send("STARTTLS\r\nEHLO evil\r\nMAIL FROM:<evil@x.example>\r\n");
        ASSERT_EQ(client.reply().substr(0, 3), "220");
        ASSERT_TRUE(client.start_tls());
        ASSERT_EQ(client.ask("RCPT TO:<c@d.example>"),
                  "503 5.5.1 MAIL first"); // neither EHLO nor MAIL happened
        ASSERT_EQ(client.ask("MAIL FROM:<>"), "503 5.5.1 Say EHLO or HELO first");
        EXPECT_GE(world.count(Counter::rejected_syntax), 1U);
    }
}

// Size.

std::string sized(std::size_t bytes) {
    std::string content = "Subject: x\r\n\r\n";
    content.append(bytes - content.size() - 2, 'x');
    return content + "\r\n";
}

TEST(Size, TheByteThatCrossesTheLimitRefusesTheMessage) {
    for (const std::size_t bytes : {9'999U, 10'000U, 10'001U, 200'000U}) {
        for (const bool chunked : {false, true}) {
            for (std::uint64_t seed = 1; seed <= 3; ++seed) {
                SCOPED_TRACE(testing::Message()
                             << bytes << " bytes, chunked " << chunked << ", seed " << seed);
                ServerHarness world{{.seed = seed}};
                world.policy.limits.message_bytes_max = 10'000;
                world.publish_policy();
                auto client = at_rcpt(world);
                const std::string content = sized(bytes);
                std::string reply;
                if (chunked) {
                    client.send("BDAT " + std::to_string(bytes) + " LAST\r\n" + content);
                    reply = client.reply();
                } else {
                    reply = send_data(client, content + ".\r\n");
                }
                ASSERT_EQ(reply.substr(0, 9), bytes <= 10'000 ? "250 2.0.0" : "552 5.3.4");
                ASSERT_EQ(client.ask("NOOP"), "250 2.0.0 Ok"); // the rest was swallowed
                world.pass(std::chrono::seconds{1});
                ASSERT_EQ(world.stored.size(), bytes <= 10'000 ? 1U : 0U);
                ASSERT_EQ(world.count(Counter::rejected_size), bytes <= 10'000 ? 0U : 1U);
            }
        }
    }
}

TEST(Size, ChunksAreAddedUp) {
    ServerHarness world;
    world.policy.limits.message_bytes_max = 100;
    world.publish_policy();
    auto client = at_rcpt(world);
    client.send("BDAT 60\r\n" + std::string(60, 'x'));
    EXPECT_EQ(client.reply().substr(0, 3), "250");
    client.send("BDAT 60\r\n" + std::string(60, 'x'));
    EXPECT_EQ(client.reply().substr(0, 9), "552 5.3.4");
    client.send("BDAT 10\r\n" + std::string(10, 'x'));
    EXPECT_EQ(client.reply().substr(0, 9), "552 5.3.4");
    client.send("BDAT 0 LAST\r\n");
    EXPECT_EQ(client.reply().substr(0, 9), "552 5.3.4");
    EXPECT_EQ(client.ask("MAIL FROM:<>").substr(0, 3), "250");
}

TEST(Size, AnAbsurdChunkEndsTheSession) {
    ServerHarness world;
    auto client = at_rcpt(world);
    EXPECT_EQ(client.ask("BDAT 18446744073709551615 LAST").substr(0, 9), "552 5.3.4");
    EXPECT_EQ(client.reply(), "<connection closed by peer>");
}

TEST(Size, AnEndlessHeaderIsRefused) {
    ServerHarness world;
    auto client = at_rcpt(world);
    std::string header;
    while (header.size() < 300'000)
        header += "X-Endless: " + std::string(500, 'x') + "\r\n";
    EXPECT_EQ(send_data(client, header + "\r\nbody\r\n.\r\n").substr(0, 9), "552 5.3.4");
    EXPECT_EQ(client.ask("NOOP").substr(0, 3), "250");
}

TEST(Loop, TooManyReceivedFieldsEndIt) {
    for (const unsigned hops : {50U, 51U}) {
        ServerHarness world;
        auto client = at_rcpt(world);
        std::string content;
        for (unsigned i = 0; i < hops; ++i)
            content += "Received: from here by there\r\n";
        EXPECT_EQ(send_data(client, content + "\r\nx\r\n.\r\n").substr(0, 9),
                  hops <= 50 ? "250 2.0.0" : "554 5.4.6");
    }
}

// What is added, and what is kept.

TEST(Prelude, NamesTheHopAndNothingElseOnARelay) {
    ServerHarness world;
    auto client = at_rcpt(world);
    const std::string reply = send_data(client, "Subject: x\r\n\r\nhi\r\n.\r\n");
    world.pass(std::chrono::seconds{1});
    ASSERT_EQ(world.stored.size(), 1U);
    const std::string id = reply.substr(reply.rfind(' ') + 1);
    EXPECT_EQ(id.size(), 16U);
    EXPECT_EQ(
        world.stored[0].content,
        "Received: from client.example ([198.51.100.7])\r\n\tby relay.example with ESMTP id " + id +
            "\r\n\tfor <c@d.example>;\r\n\tThu, 01 Jan 2026 00:00:00 +0000\r\nSubject: "
            "x\r\n\r\nhi\r\n");
}

class Submission : public testing::Test {
protected:
    Submission() {
        for (auto& listener : world.policy.listeners)
            listener.allow_plain_auth = true;
        world.publish_policy();
    }
    std::string submit(std::string_view raw, unsigned recipients = 1) {
        auto client = world.connect(ListenerKind::submission);
        client.ask("EHLO client.example");
        client.ask(auth_plain("alice", "wonderland"));
        client.ask("MAIL FROM:<a@b.example>");
        for (unsigned i = 0; i < recipients; ++i)
            client.ask("RCPT TO:<c" + std::to_string(i) + "@d.example>");
        EXPECT_EQ(send_data(client, raw).substr(0, 3), "250");
        world.pass(std::chrono::seconds{1});
        return world.stored.empty() ? "" : world.stored.back().content;
    }
    ServerHarness world;
};

TEST_F(Submission, GetsDateAndMessageIdWhereMissing) {
    const std::string content = submit("Subject: x\r\n\r\nhi\r\n.\r\n");
    EXPECT_TRUE(content.starts_with("Received: from client.example "));
    EXPECT_NE(content.find(" with ESMTPA id "), std::string::npos);
    EXPECT_NE(content.find("\r\nMessage-ID: <"), std::string::npos);
    EXPECT_NE(content.find("@relay.example>\r\n"), std::string::npos);
    EXPECT_NE(content.find("\r\nDate: Thu, 01 Jan 2026 "), std::string::npos);
    EXPECT_TRUE(content.ends_with(" +0000\r\nSubject: x\r\n\r\nhi\r\n"));
}

TEST_F(Submission, KeepsTheClientsOwn) {
    const std::string content = submit("date: mine\r\nMESSAGE-ID: <mine@x>\r\n\r\nhi\r\n.\r\n");
    EXPECT_EQ(content.find("Date: "), std::string::npos);
    EXPECT_EQ(content.find("Message-ID: "), std::string::npos);
}

TEST_F(Submission, ABodyWithoutHeaderStaysABody) {
    const std::string content = submit("just text\r\n.\r\n");
    EXPECT_TRUE(content.ends_with("+0000\r\n\r\njust text\r\n"));
}

TEST_F(Submission, AnEmptyMessageGetsAWholeHeader) {
    const std::string content = submit(".\r\n");
    EXPECT_TRUE(content.ends_with("+0000\r\n\r\n"));
}

TEST_F(Submission, ManyRecipientsAreNotNamed) {
    const std::string content = submit("Subject: x\r\n\r\nhi\r\n.\r\n", 2);
    EXPECT_EQ(content.find("c0@d.example"), std::string::npos);
    EXPECT_EQ(content.find("c1@d.example"), std::string::npos);
}

TEST(Envelope, KeepsWhatTheClientAskedFor) {
    ServerHarness world;
    world.policy.retry.expiry = std::chrono::seconds{7777};
    world.publish_policy();
    auto client = world.connect(ListenerKind::relay);
    client.ask("EHLO x");
    ASSERT_EQ(client
                  .ask("MAIL FROM:<@hop.example:j\xc3\xb6rg@b.example> SMTPUTF8 BODY=8BITMIME "
                       "RET=HDRS ENVID=id+2B1")
                  .substr(0, 3),
              "250");
    ASSERT_EQ(client.ask("RCPT TO:<c@d.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;orig@d.example")
                  .substr(0, 3),
              "250");
    ASSERT_EQ(client.ask("RCPT TO:<\"q q\"@d.example>").substr(0, 3), "250");
    ASSERT_EQ(client.ask("RCPT TO:<postmaster>").substr(0, 3), "250");
    ASSERT_EQ(send_data(client, "x\r\n.\r\n").substr(0, 3), "250");
    world.pass(std::chrono::seconds{1});
    ASSERT_EQ(world.stored.size(), 1U);
    const Stored& message = world.stored[0];
    EXPECT_EQ(message.sender, "j\xc3\xb6rg@b.example");
    EXPECT_EQ(message.envid, "id+2B1");
    EXPECT_EQ(message.dsn_return, queue::DsnReturn::headers);
    EXPECT_EQ(message.body, queue::BodyKind::eight_bit_mime);
    EXPECT_TRUE(message.smtputf8);
    EXPECT_FALSE(message.client_tls);
    EXPECT_EQ(message.recipients, (std::vector<std::string>{"c@d.example", "\"q q\"@d.example",
                                                            "postmaster@relay.example"}));
    EXPECT_EQ(message.orcpts, (std::vector<std::string>{"rfc822;orig@d.example", "", ""}));
    EXPECT_EQ(message.notifies,
              (std::vector<int>{queue::notify_success | queue::notify_delay, 0, 0}));
    EXPECT_EQ(message.lifetime, std::chrono::seconds{7777});
    EXPECT_NE(message.content.find(" with UTF8SMTP id "), std::string::npos);
}

TEST(Envelope, ForgetsTheParametersOfThePreviousMessage) {
    ServerHarness world;
    auto client = at_rcpt(world, " SMTPUTF8 BODY=8BITMIME RET=HDRS ENVID=x");
    ASSERT_EQ(send_data(client, "x\r\n.\r\n").substr(0, 3), "250");
    client.ask("MAIL FROM:<>");
    ASSERT_EQ(client.ask("RCPT TO:<j\xc3\xb6rg@d.example>").substr(0, 9), "553 5.6.7");
    client.ask("RCPT TO:<c@d.example>");
    ASSERT_EQ(send_data(client, "x\r\n.\r\n").substr(0, 3), "250");
    world.pass(std::chrono::seconds{1});
    ASSERT_EQ(world.stored.size(), 2U);
    EXPECT_EQ(world.stored[1].envid, "");
    EXPECT_EQ(world.stored[1].dsn_return, queue::DsnReturn::unspecified);
    EXPECT_EQ(world.stored[1].body, queue::BodyKind::seven_bit);
    EXPECT_FALSE(world.stored[1].smtputf8);
}

TEST(Events, ReceptionTellsTheStory) {
    ServerHarness world;
    auto client = at_rcpt(world);
    const std::string reply = send_data(client, "Subject: x\r\n\r\nhi\r\n.\r\n");
    ASSERT_EQ(world.events.events.size(), 1U);
    const auto& event = world.events.events[0];
    EXPECT_EQ(event.type, EventType::reception);
    EXPECT_EQ(event.code, 250);
    EXPECT_EQ(event.size_bytes, 18U);
    EXPECT_EQ(event.get(EventText::sender), "a@b.example");
    EXPECT_EQ(event.get(EventText::recipient), "c@d.example");
    EXPECT_EQ(event.get(EventText::peer_name), "client.example");
    EXPECT_EQ(event.get(EventText::session).size(), 16U);
    EXPECT_EQ(event.peer.ip.to_string(), "198.51.100.7");
    EXPECT_EQ("250 2.0.0 " + std::string{event.get(EventText::response)}, reply);
    EXPECT_EQ(world.count(Counter::messages_received), 1U);
    EXPECT_EQ(world.count(Counter::bytes_received), 18U);
    EXPECT_EQ(world.count(Counter::recipients_received), 1U);
    EXPECT_EQ(world.count(Counter::connections_in), 1U);
}

TEST(Events, RejectionNamesCommandAndReason) {
    ServerHarness world;
    auto client = world.connect(ListenerKind::relay, ServerHarness::other_client);
    client.ask("EHLO x");
    client.ask("MAIL FROM:<spammer@x.example>");
    ASSERT_EQ(world.events.events.size(), 1U);
    const auto& event = world.events.events[0];
    EXPECT_EQ(event.type, EventType::rejection);
    EXPECT_EQ(event.code, 550);
    EXPECT_EQ(event.enhanced, (std::array<std::uint16_t, 3>{5, 7, 1}));
    EXPECT_EQ(event.get(EventText::command), "MAIL FROM:<spammer@x.example>");
}

TEST(Events, PasswordsAreInNone) {
    ServerHarness world;
    for (auto& listener : world.policy.listeners)
        listener.allow_plain_auth = true;
    world.publish_policy();
    auto client = world.connect(ListenerKind::submission);
    client.ask("EHLO x");
    EXPECT_EQ(client.ask(auth_plain("alice", "guess")).substr(0, 3), "535");
    ASSERT_EQ(world.events.events.size(), 1U);
    EXPECT_EQ(world.events.events[0].get(EventText::command), "AUTH");
    EXPECT_EQ(world.count(Counter::auth_rejected), 1U);
}

TEST(Events, AFullRingNeverHoldsUpMail) {
    ServerHarness world;
    world.events.full = true;
    auto client = at_rcpt(world);
    EXPECT_EQ(send_data(client, "x\r\n.\r\n").substr(0, 3), "250");
}

// Screening.

class Screened : public testing::Test {
protected:
    using Rule = dataplane::screen::Rule;
    void SetUp() override {
        const char* patterns[] = {"viagra", "lottery", "newsletter"};
        const unsigned flags[] = {HS_FLAG_CASELESS, HS_FLAG_CASELESS, HS_FLAG_CASELESS};
        const unsigned ids[] = {0, 1, 2};
        hs_database_t* database = nullptr;
        hs_compile_error_t* error = nullptr;
        if (hs_compile_multi(patterns, flags, ids, 3, HS_MODE_STREAM, nullptr, &database, &error) !=
            HS_SUCCESS) {
            hs_free_compile_error(error);
            GTEST_SKIP() << "Hyperscan does not run on this processor";
        }
        char* bytes = nullptr;
        std::size_t length = 0;
        ASSERT_EQ(hs_serialize_database(database, &bytes, &length), HS_SUCCESS);
        const std::string serialised{bytes, length};
        std::free(bytes);
        hs_free_database(database);
        std::vector<Rule> rules{
            Rule{.name = "pills", .action = Rule::Action::reject, .text = "No pills here"},
            Rule{.name = "lotto", .action = Rule::Action::defer, .text = ""},
            Rule{.name = "bulk",
                 .action = Rule::Action::tag,
                 .header = "X-Class",
                 .value = "bulk mail"}};
        auto loaded = dataplane::screen::RuleSet::load({}, std::as_bytes(std::span{serialised}),
                                                       std::move(rules), 0);
        ASSERT_TRUE(loaded.has_value()) << loaded.error().text;
        ASSERT_TRUE(screener.use(*loaded).has_value());
        world.context->screener = &screener;
    }
    std::string send(std::string_view body) {
        auto client = at_rcpt(world);
        const std::string reply =
            send_data(client, "Subject: x\r\n\r\n" + std::string{body} + "\r\n.\r\n");
        world.pass(std::chrono::seconds{1});
        return reply;
    }
    dataplane::screen::Screener screener;
    ServerHarness world;
};

TEST_F(Screened, RejectsWithTheRulesText) {
    EXPECT_EQ(send("cheap via\r\n..\r\nVIAGRA"), "550 5.7.1 No pills here");
    EXPECT_EQ(world.stored.size(), 0U);
    ASSERT_EQ(world.events.events.size(), 1U);
    EXPECT_EQ(world.events.events[0].get(EventText::rules), "pills");
    EXPECT_EQ(world.count(Counter::rejected_content), 1U);
}

TEST_F(Screened, Defers) {
    EXPECT_EQ(send("you won the lottery").substr(0, 9), "451 4.7.1");
    EXPECT_EQ(world.stored.size(), 0U);
}

TEST_F(Screened, TagsAndAccepts) {
    EXPECT_EQ(send("our newsletter").substr(0, 3), "250");
    ASSERT_EQ(world.stored.size(), 1U);
    EXPECT_NE(world.stored[0].content.find("+0000\r\nX-Class: bulk mail\r\nSubject: x\r\n"),
              std::string::npos);
    EXPECT_EQ(world.events.events[0].get(EventText::rules), "bulk");
}

// Goal: no content escapes the body rules by leaving the blank line out.
TEST_F(Screened, ABodyWithoutABlankLineInFrontIsScreenedAsBody) {
    auto client = at_rcpt(world);
    EXPECT_EQ(send_data(client, "cheap viagra here\r\n.\r\n"), "550 5.7.1 No pills here");
    EXPECT_EQ(world.stored.size(), 0U);
}

TEST_F(Screened, LetsTheRestPass) {
    EXPECT_EQ(send("hello").substr(0, 3), "250");
    EXPECT_EQ(send("hello again").substr(0, 3), "250");
    EXPECT_EQ(world.count(Counter::screen_hits), 0U);
}

} // namespace
} // namespace tests
