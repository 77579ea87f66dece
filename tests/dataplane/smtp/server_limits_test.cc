// Goal: every bound holds, and says what it must. The clock is stepped by hand, so hours cost
// nothing.
#include "dataplane/smtp/limits.h"

#include "tests/dataplane/smtp/server_harness.h"

#include <gtest/gtest.h>
#include <string>

namespace tests {
namespace {

using dataplane::policy::AuthVerdict;
using dataplane::policy::ListenerKind;
using dataplane::smtp::auth_line_bytes_max;
using dataplane::telemetry::Counter;
using dataplane::telemetry::Gauge;
using namespace std::chrono_literals;

constexpr const char* closed = "<connection closed by peer>";

ServerHarness::Client greeted(ServerHarness& world, ListenerKind kind = ListenerKind::relay) {
    auto client = world.connect(kind);
    client.ask("EHLO client.example");
    return client;
}

ServerHarness::Client at_rcpt(ServerHarness& world) {
    auto client = greeted(world);
    EXPECT_EQ(client.ask("MAIL FROM:<a@b.example>").substr(0, 3), "250");
    EXPECT_EQ(client.ask("RCPT TO:<c@d.example>").substr(0, 3), "250");
    return client;
}

std::string deliver(ServerHarness::Client& client) {
    client.ask("MAIL FROM:<a@b.example>");
    client.ask("RCPT TO:<c@d.example>");
    const std::string start = client.ask("DATA");
    return start.starts_with("354") ? client.ask("hello\r\n.") : start;
}

// Time.

TEST(Time, ASilentClientIsTold421AfterTheCommandTimeout) {
    ServerHarness world;
    auto client = greeted(world);
    world.pass(299s);
    EXPECT_EQ(world.sessions(), 1U);
    world.pass(2s);
    EXPECT_EQ(client.reply().substr(0, 9), "421 4.4.2");
    EXPECT_EQ(client.reply(), closed);
    EXPECT_EQ(world.sessions(), 0U);
}

TEST(Time, ACommandThatTricklesInDoesNotHoldTheSession) {
    ServerHarness world;
    auto client = greeted(world);
    for (int i = 0; i < 30; ++i) {
        client.send("N");
        world.pass(11s);
    }
    EXPECT_EQ(client.reply().substr(0, 9), "421 4.4.2");
}

/// Sends as a client does that neither ends its line nor minds the time. Returns how much it got rid of.
std::size_t flood(ServerHarness& world, ServerHarness::Client& client, std::size_t bytes_max) {
    const std::string piece(4096, 'x');
    std::size_t sent = 0;
    while (sent < bytes_max && world.sessions() != 0) {
        client.send(piece);
        sent += piece.size();
        world.pass(1ms);
    }
    return sent;
}

TEST(Lines, ALineWithoutAnEndEndsTheSession) {
    constexpr std::size_t bound = auth_line_bytes_max + base::skipped_bytes_max;
    ServerHarness world;
    auto client = greeted(world);
    const std::size_t sent = flood(world, client, 100 * bound);
    EXPECT_GT(sent, bound);
    EXPECT_LT(sent, bound + (32U << 10));
    EXPECT_EQ(client.reply(), "421 4.7.0 Line without an end, closing connection");
    EXPECT_EQ(client.reply(), closed);
    EXPECT_EQ(world.count(Counter::rejected_syntax), 1U);
}

TEST(Lines, ALongLineThatEndsIsRefusedAndTheSessionGoesOn) {
    ServerHarness world;
    auto client = greeted(world);
    const std::string most(auth_line_bytes_max + base::skipped_bytes_max - 8, 'x');
    EXPECT_EQ(client.ask("NOOP " + most), "500 5.5.2 Line too long");
    EXPECT_EQ(client.ask("NOOP").substr(0, 3), "250");
}

TEST(Lines, AnAnswerToAuthWithoutAnEndEndsTheSession) {
    ServerHarness world;
    for (auto& listener : world.policy.listeners)
        listener.allow_plain_auth = true;
    world.publish_policy();
    auto client = greeted(world, ListenerKind::submission);
    ASSERT_EQ(client.ask("AUTH PLAIN").substr(0, 3), "334");
    flood(world, client, 1U << 20);
    EXPECT_EQ(client.reply(), "421 4.7.0 Line without an end, closing connection");
    EXPECT_EQ(client.reply(), closed);
}

TEST(Time, DataThatStopsIsGivenUp) {
    ServerHarness world;
    auto client = at_rcpt(world);
    ASSERT_EQ(client.ask("DATA").substr(0, 3), "354");
    client.send("half a li");
    world.pass(179s);
    EXPECT_EQ(world.sessions(), 1U);
    world.pass(2s);
    EXPECT_EQ(client.reply().substr(0, 9), "421 4.4.2");
    EXPECT_EQ(client.reply(), closed);
    EXPECT_EQ(world.stored.size(), 0U);
}

TEST(Time, AChunkThatStopsIsGivenUp) {
    ServerHarness world;
    auto client = at_rcpt(world);
    client.send("BDAT 100 LAST\r\nhalf");
    world.pass(181s);
    EXPECT_EQ(client.reply().substr(0, 9), "421 4.4.2");
    EXPECT_EQ(world.stored.size(), 0U);
}

TEST(Time, NoSessionOutlivesItsMaximum) {
    ServerHarness world;
    auto client = greeted(world);
    for (int i = 0; i < 35; ++i) {
        ASSERT_EQ(client.ask("NOOP").substr(0, 3), "250");
        world.pass(100s);
    }
    world.pass(101s);
    EXPECT_EQ(client.reply().substr(0, 3), "421");
    EXPECT_EQ(world.sessions(), 0U);
}

TEST(Time, AHandshakeThatNeverComesIsGivenUp) {
    ServerHarness world{{.tls = true}};
    auto implicit = world.dial(ListenerKind::submissions);
    auto started = greeted(world);
    ASSERT_EQ(started.ask("STARTTLS").substr(0, 3), "220");
    world.pass(29s);
    EXPECT_EQ(world.sessions(), 2U);
    world.pass(2s);
    EXPECT_EQ(world.sessions(), 0U);
    EXPECT_EQ(world.count(Counter::tls_failed_in), 2U);
}

TEST(Time, ImplicitTlsWithoutACertificateServesNobody) {
    ServerHarness world;
    auto client = world.dial(ListenerKind::submissions);
    EXPECT_EQ(client.reply().substr(0, 1), "<");
    EXPECT_EQ(world.sessions(), 0U);
}

TEST(Time, AClientThatReadsNothingIsDropped) {
    ServerHarness world{{.pipe_bytes_max = 2048}};
    auto client = world.dial(ListenerKind::relay);
    std::string noops;
    for (int i = 0; i < 300; ++i)
        noops += "NOOP\r\n";
    // The pipe towards us is bounded as well: this write ends only when the server has given up.
    client.send("EHLO x\r\n" + noops);
    world.pass(301s);
    EXPECT_EQ(world.sessions(), 0U);
}

// Numbers.

TEST(Numbers, TooManyErrorsEndTheSession) {
    ServerHarness world;
    auto client = greeted(world);
    for (int i = 0; i < 20; ++i)
        ASSERT_EQ(client.ask("FOO").substr(0, 3), "500") << i;
    EXPECT_EQ(client.ask("FOO").substr(0, 3), "500");
    EXPECT_EQ(client.reply().substr(0, 9), "421 4.7.0");
    EXPECT_EQ(client.reply(), closed);
}

TEST(Numbers, MailForgivesErrors) {
    ServerHarness world;
    auto client = greeted(world);
    for (int round = 0; round < 4; ++round) {
        for (int i = 0; i < 15; ++i)
            ASSERT_EQ(client.ask("FOO").substr(0, 3), "500");
        ASSERT_EQ(deliver(client).substr(0, 3), "250");
    }
}

TEST(Numbers, ThousandsOfRecipientsAreRefusedOneByOne) {
    ServerHarness world;
    auto client = greeted(world);
    client.ask("MAIL FROM:<a@b.example>");
    unsigned taken = 0;
    for (int i = 0; i < 5000; ++i) {
        const std::string reply = client.ask("RCPT TO:<r" + std::to_string(i) + "@d.example>");
        if (reply.starts_with("250")) {
            ++taken;
        } else {
            ASSERT_EQ(reply.substr(0, 9), "452 4.5.3");
        }
    }
    EXPECT_EQ(taken, 1000U);
    EXPECT_EQ(world.count(Counter::rejected_recipients), 4000U);
    EXPECT_EQ(world.events.events.size(), 1U); // and the log is not flooded
    client.ask("DATA");
    EXPECT_EQ(client.ask(".").substr(0, 3), "250");
    world.pass(1s);
    ASSERT_EQ(world.stored.size(), 1U);
    EXPECT_EQ(world.stored[0].recipients.size(), 1000U);
}

TEST(Numbers, AnEnvelopeTooBigForItsRecordIsRefusedInTime) {
    ServerHarness world;
    world.policy.limits.recipients_max = 60'000;
    world.publish_policy();
    auto client = greeted(world);
    client.ask("MAIL FROM:<a@b.example>");
    const std::string filler(180, 'r');
    std::string reply;
    for (int i = 0; i < 4000 && !reply.starts_with("452"); ++i) {
        reply = client.ask("RCPT TO:<r" + std::to_string(i) + "@" + filler.substr(0, 60) + "." +
                           filler.substr(0, 60) + "." + filler.substr(0, 50) + ".example>");
    }
    EXPECT_EQ(reply.substr(0, 9), "452 4.5.3");
    client.ask("DATA");
    EXPECT_EQ(client.ask(".").substr(0, 3), "250");
}

TEST(Numbers, CommandsWithoutMailAreLimited) {
    ServerHarness world;
    auto client = greeted(world);
    std::string reply;
    unsigned count = 0;
    while (reply.empty() || reply.starts_with("250")) {
        reply = client.ask("NOOP");
        ASSERT_LT(++count, 2000U);
    }
    EXPECT_EQ(reply.substr(0, 9), "421 4.7.0");
    EXPECT_GE(count, dataplane::smtp::idle_commands_max - 10);
}

TEST(Numbers, MessagesPerSessionAreLimited) {
    ServerHarness world;
    world.policy.limits.messages_per_session_max = 3;
    world.publish_policy();
    auto client = greeted(world);
    for (int i = 0; i < 3; ++i)
        ASSERT_EQ(deliver(client).substr(0, 3), "250");
    EXPECT_EQ(client.ask("MAIL FROM:<>").substr(0, 9), "421 4.7.0");
    EXPECT_EQ(client.reply(), closed);
}

TEST(Numbers, ConnectionsPerClientAreLimited) {
    ServerHarness world;
    world.policy.limits.connections_per_client_max = 2;
    world.publish_policy();
    auto first = greeted(world);
    auto second = greeted(world);
    auto third = world.dial(ListenerKind::relay);
    EXPECT_EQ(third.reply().substr(0, 9), "421 4.7.0");
    EXPECT_EQ(third.reply(), closed);
    auto elsewhere = world.connect(ListenerKind::relay, ServerHarness::other_client);
    EXPECT_EQ(world.count(Counter::connections_denied), 1U);
    second.ask("QUIT");
    world.pass(1s);
    auto fourth = greeted(world);
    first.vanish();
    second.vanish();
    fourth.vanish();
    elsewhere.vanish();
    world.pass(1s);
    EXPECT_EQ(world.sessions(), 0U);
    EXPECT_EQ(world.context->connections.client_count(), 0U);
}

TEST(Numbers, OverlongLinesAreAnsweredAndSkipped) {
    ServerHarness world;
    auto client = greeted(world);
    EXPECT_EQ(client.ask("NOOP " + std::string(3'000, 'x')).substr(0, 9), "500 5.5.2");
    EXPECT_EQ(client.ask("NOOP " + std::string(70'000, 'x')).substr(0, 9), "500 5.5.2");
    EXPECT_EQ(client.ask("NOOP").substr(0, 3), "250");
}

// AUTH.

class AuthLimits : public testing::Test {
protected:
    AuthLimits() {
        for (auto& listener : world.policy.listeners)
            listener.allow_plain_auth = true;
        world.policy.limits.auth_failures_max = 6;
        world.publish_policy();
    }
    base::Duration time_of(ServerHarness::Client& client, std::string_view line,
                           std::string_view expected) {
        const base::TimePoint before = world.clock.now();
        EXPECT_EQ(client.ask(line).substr(0, 9), expected);
        return world.clock.now() - before;
    }
    ServerHarness world;
};

TEST_F(AuthLimits, EachFailureIsAnsweredMoreSlowly) {
    auto client = greeted(world, ListenerKind::submission);
    const std::string guess = auth_plain("alice", "guess");
    for (const auto delay : {1s, 2s, 4s, 8s, 16s}) {
        const base::Duration took = time_of(client, guess, "535 5.7.8");
        EXPECT_GE(took, delay);
        EXPECT_LT(took, delay + 1s);
    }
    EXPECT_EQ(client.ask(guess).substr(0, 9), "421 4.7.0");
    EXPECT_EQ(client.reply(), closed);
    EXPECT_EQ(world.count(Counter::auth_rejected), 6U);
}

TEST_F(AuthLimits, OtherSessionsAreNotSlowed) {
    auto guesser = greeted(world, ListenerKind::submission);
    guesser.send(auth_plain("alice", "guess") + "\r\n");
    auto client = greeted(world, ListenerKind::submission);
    EXPECT_LT(time_of(client, auth_plain("alice", "wonderland"), "235 2.7.0"), 100ms);
}

TEST_F(AuthLimits, AnAbsentControlIsATemporaryFailureAndNoOffence) {
    world.authenticator.always = AuthVerdict::unavailable;
    auto client = greeted(world, ListenerKind::submission);
    for (int i = 0; i < 8; ++i)
        EXPECT_LT(time_of(client, auth_plain("alice", "wonderland"), "454 4.7.0"), 100ms);
    EXPECT_EQ(world.count(Counter::auth_unavailable), 8U);
    world.authenticator.always.reset();
    EXPECT_EQ(client.ask(auth_plain("alice", "wonderland")).substr(0, 3), "235");
}

TEST_F(AuthLimits, AThrottledClientWaits) {
    world.authenticator.always = AuthVerdict::throttled;
    auto client = greeted(world, ListenerKind::submission);
    EXPECT_GE(time_of(client, auth_plain("alice", "wonderland"), "454 4.7.0"), 1s);
}

TEST_F(AuthLimits, ASlowControlIsWaitedForButNotForEver) {
    world.authenticator.takes = 10s;
    auto client = greeted(world, ListenerKind::submission);
    EXPECT_EQ(client.ask(auth_plain("alice", "wonderland")).substr(0, 3), "235");
    world.authenticator.takes = 10min;
    auto second = greeted(world, ListenerKind::submission);
    EXPECT_LE(time_of(second, auth_plain("alice", "wonderland"), "454 4.7.0"), 31s);
}

TEST_F(AuthLimits, AnOverlongExchangeIsRefused) {
    auto client = greeted(world, ListenerKind::submission);
    EXPECT_EQ(client.ask("AUTH PLAIN").substr(0, 3), "334");
    EXPECT_EQ(client.ask(std::string(13'000, 'A')).substr(0, 9), "500 5.5.6");
    EXPECT_EQ(client.ask("AUTH PLAIN").substr(0, 3), "334");
    EXPECT_EQ(client.ask(std::string(12'000, 'A')).substr(0, 9),
              "535 5.7.8");                   // long, but within RFC 4954
    EXPECT_EQ(world.authenticator.asked, 0U); // no account looks like that
}

// Spool.

TEST(Spool, NothingIsAcknowledgedBeforeItIsDurable) {
    ServerHarness world;
    auto client = at_rcpt(world);
    ASSERT_EQ(client.ask("DATA").substr(0, 3), "354");
    world.disk.hold(true);
    client.send("hello\r\n.\r\n");
    world.pass(dataplane::smtp::commit_time - 1s);
    EXPECT_EQ(world.count(Counter::messages_received), 0U);
    EXPECT_EQ(world.stored.size(), 0U);
    world.disk.hold(false);
    EXPECT_EQ(client.reply().substr(0, 9), "250 2.0.0");
    world.pass(1s);
    EXPECT_EQ(world.stored.size(), 1U);
}

TEST(Spool, AWriteThatDoesNotComeBackIsATemporaryFailureAfterItsTime) {
    ServerHarness world;
    auto client = at_rcpt(world);
    ASSERT_EQ(client.ask("DATA").substr(0, 3), "354");
    world.disk.hold(true);
    client.send("hello\r\n.\r\n");
    world.pass(dataplane::smtp::commit_time + 1s);
    EXPECT_EQ(client.reply().substr(0, 9), "451 4.4.5");
    world.disk.hold(false);
    world.pass(1s);
    EXPECT_EQ(world.stored.size(), 0U); // it was refused, so it is not delivered
}

TEST(Spool, AFailedWriteIsATemporaryFailureAndTheSessionGoesOn) {
    ServerHarness world;
    auto client = greeted(world);
    ASSERT_EQ(deliver(client).substr(0, 3), "250");
    world.pass(1s);
    world.disk.fail_writes(SimDisk::Fault::io, SimDisk::always);
    EXPECT_EQ(deliver(client).substr(0, 9), "451 4.3.0");
    EXPECT_EQ(world.count(Counter::rejected_spool), 1U);
    world.pass(1s);
    EXPECT_EQ(world.stored.size(), 1U);
}

TEST(Spool, AFullDiskIsTold452AndNothingIsLost) {
    ServerHarness world{{.disk_bytes = 10U << 20}};
    world.keep_messages = true;
    auto client = greeted(world);
    std::string body;
    for (int i = 0; i < 4000; ++i)
        body += "sixty characters of text that fill the disk a little more...\r\n";
    unsigned accepted = 0;
    std::string reply;
    for (int i = 0; i < 100; ++i) {
        reply = client.ask("MAIL FROM:<a@b.example> SIZE=" + std::to_string(body.size()));
        if (!reply.starts_with("250")) break;
        client.ask("RCPT TO:<c@d.example>");
        client.ask("DATA");
        reply = client.ask(body + ".");
        if (!reply.starts_with("250")) break;
        ++accepted;
    }
    EXPECT_EQ(reply.substr(0, 9), "452 4.3.1");
    EXPECT_GE(accepted, 3U);
    world.pass(1s);
    EXPECT_EQ(world.stored.size(), accepted);
}

// Goal: a client that pipelines is not cut off because the relay could not take its mail. Method: whole groups behind
// a MAIL that is told to wait, far more often than errors are forgiven; then one without a MAIL, which counts.
TEST(Spool, WhatWasPipelinedBehindAMailThatMustWaitIsNoError) {
    ServerHarness world{{.disk_bytes = 10U << 20}};
    auto client = greeted(world);
    for (int i = 0; i < 100; ++i) {
        client.send("MAIL FROM:<a@b.example> SIZE=40000000\r\nRCPT TO:<c@d.example>\r\nDATA\r\n");
        ASSERT_EQ(client.reply().substr(0, 9), "452 4.3.1") << i;
        ASSERT_EQ(client.reply().substr(0, 9), "503 5.5.1") << i;
        ASSERT_EQ(client.reply().substr(0, 9), "503 5.5.1") << i;
    }
    EXPECT_EQ(world.count(Counter::rejected_syntax), 0U);
    EXPECT_EQ(client.ask("RSET").substr(0, 3), "250");
    EXPECT_EQ(client.ask("RCPT TO:<c@d.example>").substr(0, 9), "503 5.5.1");
    EXPECT_EQ(world.count(Counter::rejected_syntax), 1U);
}

TEST(Spool, MemoryAtItsBoundPushesBackThenRefuses) {
    ServerHarness world;
    std::vector<ServerHarness::Client> hoarders;
    for (int i = 0; i < 390; ++i)
        hoarders.push_back(at_rcpt(world));
    auto client = at_rcpt(world);
    for (auto& hoarder : hoarders)
        hoarder.send("DATA\r\n" + std::string(4'000, 'x')); // and never ends it
    world.pass(1s);
    auto late = greeted(world);
    EXPECT_EQ(late.ask("MAIL FROM:<>").substr(0, 9),
              "451 4.4.5"); // a new message is refused at once
    const base::TimePoint before = world.clock.now();
    EXPECT_EQ(client.ask("DATA").substr(0, 9), "451 4.4.5");
    EXPECT_GE(world.clock.now() - before, 50s); // one that was begun waits for room first
    hoarders.clear();
    world.pass(1s);
    EXPECT_EQ(deliver(client).substr(0, 3), "250");
}

// Ends.

TEST(End, ShutdownTellsAnIdleClient421) {
    ServerHarness world;
    auto client = greeted(world);
    world.shutdown.cancel();
    EXPECT_EQ(client.reply().substr(0, 9), "421 4.3.2");
    EXPECT_EQ(client.reply(), closed);
    EXPECT_EQ(world.sessions(), 0U);
}

TEST(End, ShutdownInsideDataLeavesNoMessage) {
    ServerHarness world;
    auto client = at_rcpt(world);
    client.ask("DATA");
    client.send("half");
    world.pass(1s);
    world.shutdown.cancel();
    EXPECT_EQ(client.reply().substr(0, 9), "421 4.3.2");
    world.pass(1s);
    EXPECT_EQ(world.stored.size(), 0U);
}

TEST(End, ShutdownDuringTheCommitStillAnswersIt) {
    ServerHarness world;
    auto client = at_rcpt(world);
    client.ask("DATA");
    world.disk.hold(true);
    client.send("hello\r\n.\r\n");
    world.pass(1s);
    world.shutdown.cancel();
    world.pass(1s);
    world.disk.hold(false);
    EXPECT_EQ(client.reply().substr(0, 9), "250 2.0.0");
    EXPECT_EQ(client.reply().substr(0, 9), "421 4.3.2");
    world.pass(1s);
    EXPECT_EQ(world.stored.size(), 1U);
}

TEST(End, AVanishedClientLeavesNothingBehind) {
    const std::string script =
        "EHLO x\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\nSubject: "
        "x\r\n\r\nbody\r\n.\r\nQUIT\r\n";
    const std::size_t end = script.find("\r\nQUIT") + 2;
    for (std::size_t cut = 0; cut <= script.size(); ++cut) {
        ServerHarness world{{.seed = cut + 1}};
        auto client = world.dial(ListenerKind::relay);
        client.send(script.substr(0, cut));
        world.pass(1s);
        client.vanish();
        world.pass(1s);
        ASSERT_EQ(world.sessions(), 0U) << cut;
        ASSERT_EQ(world.stored.size(), cut >= end ? 1U : 0U) << cut;
        ASSERT_EQ(world.context->connections.client_count(), 0U) << cut;
    }
}

} // namespace
} // namespace tests
