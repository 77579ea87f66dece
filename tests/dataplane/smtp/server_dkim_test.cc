// Goal: what goes into the spool carries signatures that verify, by DATA and BDAT alike; a key that does not sign
// costs the message only where the policy says so.
#include "dataplane/message/dkim/message_signer.h"
#include "tests/dataplane/message/dkim/fixtures.h"
#include "tests/dataplane/message/dkim/verifier.h"
#include "tests/dataplane/smtp/server_harness.h"

#include <gtest/gtest.h>
#include <string>

namespace tests {
namespace {

namespace base = dataplane::base;
namespace dkim = dataplane::message::dkim;
using dataplane::policy::ListenerKind;
using dataplane::telemetry::Counter;
using dataplane::telemetry::EventText;

/// Takes its time, and fails when it is told to.
class SlowSigner final : public dkim::Signer {
public:
    explicit SlowSigner(base::Loop& loop) : loop_(loop) {}
    base::Task<dkim::SignResult> sign(std::shared_ptr<const dkim::SigningKey> key,
                                      dkim::Digest digest, base::Deadline deadline) override {
        ++asked;
        const auto woke = co_await base::sleep_until(loop_, deadline.sooner(loop_.now() + takes));
        static_cast<void>(woke);
        if (fails) co_return std::unexpected(dkim::SignError::failed);
        if (loop_.now() >= deadline.at) co_return std::unexpected(dkim::SignError::timed_out);
        co_return dkim::sign_inline(*key, digest);
    }
    base::Duration takes = std::chrono::milliseconds{1};
    bool fails = false;
    int asked = 0;

private:
    base::Loop& loop_;
};

class ServerDkim : public testing::Test {
protected:
    void SetUp() override {
        key = *dkim::SigningKey::parse(rfc8463_seed);
        use({table("customer.example", "s", folder.write("key", rfc8463_seed))});
        world.context->dkim = &desk;
    }
    void use(const std::vector<dkim::KeyTable>& tables) {
        dkim::KeyCache cache;
        auto loaded = dkim::load_key_set(tables, cache);
        ASSERT_TRUE(loaded.has_value()) << loaded.error().front().text;
        desk.use(loaded->keys);
    }
    ServerHarness::Client client() {
        auto made = world.connect(ListenerKind::relay);
        made.ask("EHLO client.example");
        return made;
    }
    static void envelope(ServerHarness::Client& from) {
        EXPECT_TRUE(from.ask("MAIL FROM:<a@customer.example>").starts_with("250"));
        EXPECT_TRUE(from.ask("RCPT TO:<c@d.example>").starts_with("250"));
    }
    static std::string data(ServerHarness::Client& from, std::string_view content) {
        envelope(from);
        EXPECT_TRUE(from.ask("DATA").starts_with("354"));
        from.send(std::string{content} + ".\r\n");
        return from.reply();
    }
    std::vector<SeenSignature> seen(std::size_t message) {
        world.pass(std::chrono::seconds{1});
        return DkimVerifier{world.stored.at(message).content}.check(*key);
    }

    ServerHarness world;
    TempFolder folder;
    SlowSigner signer{world.loop};
    dkim::SigningDesk desk{signer};
    std::shared_ptr<const dkim::SigningKey> key;
};

constexpr std::string_view mail = "From: Joe <joe@customer.example>\r\nSubject: x\r\n\r\n"
                                  "a  b \t\r\n..dot\r\n\r\n\r\n";

TEST_F(ServerDkim, MessagesOfASessionAreSignedEach) {
    auto from = client();
    for (int i = 0; i < 3; ++i)
        EXPECT_TRUE(data(from, mail).starts_with("250"));
    for (std::size_t i = 0; i < 3; ++i) {
        const auto signatures = seen(i);
        ASSERT_EQ(signatures.size(), 1U);
        EXPECT_EQ(signatures[0].problem, "");
        EXPECT_EQ(signatures[0].tags.at("d"), "customer.example");
    }
    EXPECT_EQ(world.count(Counter::dkim_signed), 3U);
    EXPECT_EQ(world.count(Counter::dkim_signatures), 3U);
    EXPECT_EQ(world.events.events.back().get(EventText::dkim), "customer.example/s");
}

TEST_F(ServerDkim, ChunksAreSignedWithTheirHeldBackEnd) {
    world.policy.bare_newline = dataplane::policy::BareNewline::normalise;
    world.publish_policy();
    auto from = client();
    envelope(from);
    const std::string header = "From: joe@customer.example\r\nSubject: x\r\n\r\nbody";
    from.send("BDAT " + std::to_string(header.size()) + "\r\n" + header);
    EXPECT_TRUE(from.reply().starts_with("250"));
    from.send("BDAT 1 LAST\r\n\r"); // becomes CRLF, whose LF comes behind the last chunk
    EXPECT_TRUE(from.reply().starts_with("250"));
    const auto signatures = seen(0);
    ASSERT_EQ(signatures.size(), 1U);
    EXPECT_EQ(signatures[0].problem, "");
    EXPECT_TRUE(world.stored[0].content.ends_with("\r\n\r\nbody\r\n"));
}

TEST_F(ServerDkim, LargeMessageIsSignedThoughItWentToDiskInPieces) {
    std::string large = "From: joe@customer.example\r\n\r\n";
    for (int i = 0; i < 20'000; ++i)
        large += "line " + std::to_string(i) + " with  two blanks \r\n";
    ASSERT_GT(large.size(), queue::inline_content_bytes_max);
    auto from = client();
    EXPECT_TRUE(data(from, large).starts_with("250"));
    const auto signatures = seen(0);
    ASSERT_EQ(signatures.size(), 1U);
    EXPECT_EQ(signatures[0].problem, "");
}

TEST_F(ServerDkim, MailOfOthersGoesUnsignedAndIsCounted) {
    auto from = client();
    EXPECT_TRUE(data(from, "From: joe@other.example\r\n\r\nx\r\n").starts_with("250"));
    EXPECT_TRUE(data(from, "Subject: nobody\r\n\r\nx\r\n").starts_with("250"));
    EXPECT_TRUE(
        data(from, "From: joe@customer.example\r\nno field\r\n\r\nx\r\n").starts_with("250"));
    world.pass(std::chrono::seconds{1});
    EXPECT_EQ(world.count(Counter::dkim_unsigned_no_key), 1U);
    EXPECT_EQ(world.count(Counter::dkim_unsigned_no_author), 1U);
    EXPECT_EQ(world.count(Counter::dkim_unsigned_malformed), 1U);
    EXPECT_EQ(world.count(Counter::dkim_signed), 0U);
    EXPECT_EQ(signer.asked, 0);
    EXPECT_EQ(world.events.events.back().get(EventText::dkim), "none: malformed");
}

TEST_F(ServerDkim, KeyThatDoesNotSignDefersTheMessageAndTheSessionGoesOn) {
    auto from = client();
    signer.fails = true;
    EXPECT_TRUE(data(from, mail).starts_with("451 4.7.5 "));
    EXPECT_EQ(world.count(Counter::dkim_failed), 1U);
    EXPECT_EQ(world.count(Counter::rejected_signing), 1U);
    signer.fails = false;
    EXPECT_TRUE(data(from, mail).starts_with("250"));
    EXPECT_EQ(seen(0).at(0).problem, "");
    EXPECT_EQ(world.stored.size(), 1U);
}

TEST_F(ServerDkim, SignatureThatNeverComesEndsAtTheDeadline) {
    auto from = client();
    signer.takes = std::chrono::hours{1};
    const auto before = world.loop.now();
    EXPECT_TRUE(data(from, mail).starts_with("451 4.7.5 "));
    EXPECT_LE(world.loop.now() - before, dkim::sign_time + std::chrono::seconds{2});
}

TEST_F(ServerDkim, MessageMaySayThatItGoesUnsigned) {
    dkim::KeyTable lenient = table("customer.example", "s", folder / "key");
    lenient.on_failure = dkim::OnFailure::send_unsigned;
    use({lenient});
    signer.fails = true;
    auto from = client();
    EXPECT_TRUE(data(from, mail).starts_with("250"));
    EXPECT_EQ(seen(0).size(), 0U);
    EXPECT_EQ(world.count(Counter::dkim_unsigned_failed), 1U);
    EXPECT_EQ(world.events.events.back().get(EventText::dkim), "none: failed");
}

TEST_F(ServerDkim, ClientThatLeavesDuringASignatureLeavesNothing) {
    signer.takes = std::chrono::seconds{2};
    auto from = client();
    envelope(from);
    EXPECT_TRUE(from.ask("DATA").starts_with("354"));
    from.send(std::string{mail} + ".\r\n");
    world.pass(std::chrono::seconds{1});
    from.vanish();
    world.pass(std::chrono::seconds{10});
    EXPECT_EQ(world.sessions(), 0U); // the message was complete: it is kept, signed
    EXPECT_EQ(seen(0).at(0).problem, "");
}

TEST_F(ServerDkim, KeysThatComeInTheMiddleOfAMessageWaitForTheNext) {
    auto from = client();
    envelope(from);
    EXPECT_TRUE(from.ask("DATA").starts_with("354"));
    from.send("From: joe@customer.example\r\n");
    world.pass(std::chrono::seconds{1});
    use({table("customer.example", "new", folder / "key")});
    from.send("Subject: x\r\n\r\nbody\r\n.\r\n");
    EXPECT_TRUE(from.reply().starts_with("250"));
    EXPECT_EQ(seen(0).at(0).tags.at("s"), "s");
    EXPECT_TRUE(data(from, mail).starts_with("250"));
    EXPECT_EQ(seen(1).at(0).tags.at("s"), "new");
}

} // namespace
} // namespace tests
