// Whole messages: what is signed, what the signature says, and what happens when there is none.
#include "dataplane/message/dkim/inline_signer.h"
#include "dataplane/message/dkim/message_signer.h"
#include "tests/dataplane/message/dkim/fixtures.h"
#include "tests/dataplane/message/dkim/verifier.h"

#include <gtest/gtest.h>
#include <random>

namespace {

using namespace dataplane::message::dkim;
namespace base = dataplane::base;
using tests::table;

constexpr std::string_view plain_prelude = "Received: from client (host [192.0.2.1])\r\n"
                                           "\tby relay.example with ESMTPSA id 1;\r\n"
                                           "\tThu, 01 Jan 2026 00:00:00 +0000\r\n"
                                           "Message-ID: <1@relay.example>\r\n";
constexpr std::string_view plain_header = "From: Joe <joe@a.example>\r\nTo: ann@b.example\r\n"
                                          "Subject: hello\r\n\r\n";

/// Signs as it is told to.
class ScriptedSigner final : public Signer {
public:
    base::Task<SignResult> sign(std::shared_ptr<const SigningKey> key, Digest digest,
                                base::Deadline) override {
        ++asked;
        if (asked == fail_at || fail_at == 0) co_return std::unexpected(SignError::timed_out);
        co_return sign_inline(*key, digest);
    }
    int asked = 0;
    int fail_at = -1; // 0: always
};

class DkimMessageSigner : public testing::Test {
protected:
    void load(const std::vector<KeyTable>& tables) {
        auto loaded = load_key_set(tables, cache);
        ASSERT_TRUE(loaded.has_value()) << loaded.error().front().text;
        keys = std::move(loaded->keys);
    }
    /// Sends a message through in pieces; `signed_message` is what would be sent.
    SignReport sign(std::string_view header, std::string_view body, unsigned seed = 1,
                    std::string_view tenant = "") {
        std::minstd_rand random{seed};
        const auto cut = [&](std::string_view text, auto&& take) {
            while (!text.empty()) {
                const std::size_t bytes = std::min<std::size_t>(1 + random() % 900, text.size());
                take(text.substr(0, bytes));
                text.remove_prefix(bytes);
            }
        };
        signer.begin(keys, tenant);
        cut(header, [&](std::string_view piece) { signer.header(piece); });
        if (header.ends_with("\r\n\r\n")) {
            signer.header_ended(true);
            cut(body, [&](std::string_view piece) { signer.body(piece); });
        }
        std::string prelude{first_lines};
        auto task = signer.sign(key_user, prelude, 16'384, now, base::Deadline::never());
        task.start();
        EXPECT_TRUE(task.done());
        signed_message = prelude + std::string{header} + std::string{body};
        return task.result();
    }
    void expect_verifies(std::size_t count, const SigningKey& key) const {
        const auto seen = tests::DkimVerifier{signed_message}.check(key);
        ASSERT_EQ(seen.size(), count);
        for (const auto& each : seen)
            EXPECT_EQ(each.problem, "") << each.text;
    }
    [[nodiscard]] std::map<std::string, std::string> tags() const {
        return tests::DkimVerifier{signed_message}.check(*key).front().tags;
    }

    tests::TempFolder folder;
    std::string ed_file = folder.write("ed", tests::rfc8463_seed);
    std::string rsa_file = folder.write("rsa", tests::rsa_pem());
    std::shared_ptr<const SigningKey> key = *SigningKey::parse(tests::rfc8463_seed);
    KeyCache cache;
    std::shared_ptr<const KeySet> keys;
    MessageSigner signer;
    ScriptedSigner key_user;
    std::string_view first_lines = plain_prelude;
    base::WallTime now{std::chrono::milliseconds{1'767'225'600'999}};
    std::string signed_message;
};

TEST_F(DkimMessageSigner, SignatureSaysWhatItIs) {
    KeyTable made = table("a.example", "s1", ed_file);
    made.expire_after = std::chrono::hours{24};
    made.identity = "@news.%d";
    load({made});
    const SignReport report = sign(plain_header, "hello\r\n");
    EXPECT_EQ(report.signed_count, 1U);
    EXPECT_EQ(signer.signed_by(), "a.example/s1");
    expect_verifies(1, *key);
    const auto seen = tags();
    EXPECT_EQ(seen.at("v"), "1");
    EXPECT_EQ(seen.at("a"), "ed25519-sha256");
    EXPECT_EQ(seen.at("c"), "relaxed/relaxed");
    EXPECT_EQ(seen.at("d"), "a.example");
    EXPECT_EQ(seen.at("s"), "s1");
    EXPECT_EQ(seen.at("i"), "@news.a.example");
    EXPECT_EQ(seen.at("q"), "dns/txt");
    EXPECT_EQ(seen.at("t"), "1767225600");
    EXPECT_EQ(seen.at("x"), "1767312000");
    EXPECT_EQ(seen.count("l"), 0U);
    // What is there, once more than it is there; Date is not there, and must not be added.
    EXPECT_EQ(seen.at("h"), "From:From:To:To:Subject:Subject:Date:Message-ID:Message-ID");
    EXPECT_TRUE(signed_message.starts_with("DKIM-Signature: v=1; a=ed25519-sha256;"));
}

TEST_F(DkimMessageSigner, EveryPairOfFormsVerifiesWithBothAlgorithms) {
    const auto rsa = *SigningKey::parse(tests::rsa_pem());
    for (const Canonical header : {Canonical::simple, Canonical::relaxed}) {
        for (const Canonical body : {Canonical::simple, Canonical::relaxed}) {
            for (const bool use_rsa : {false, true}) {
                KeyTable made = table("a.example", "s", use_rsa ? rsa_file : ed_file);
                made.header_form = header;
                made.body_form = body;
                load({made});
                sign(plain_header, " odd \t body \r\n\r\n\r\n");
                expect_verifies(1, use_rsa ? *rsa : *key);
            }
        }
    }
}

TEST_F(DkimMessageSigner, NastyMessagesVerify) {
    KeyTable relaxed = table("a.example", "r", ed_file), simple = table("a.example", "s", ed_file);
    simple.header_form = simple.body_form = Canonical::simple;
    relaxed.headers.emplace_back("Comments"); // may be there more than once
    load({relaxed, simple});
    static const std::string many_lines(200, '\n');
    const std::string_view headers[] = {
        plain_header,
        "from : joe@a.example\r\nSUBJECT:\t folded\r\n\t \r\n  twice  \r\nTo:\r\n\r\n",
        "Comments: one\r\nComments: two\r\nFrom: joe@a.example\r\nComments: three\r\n\r\n",
        "Subject: \xc3\xa4\xff\r\nFrom: joe@a.example\r\nDate: \r\n\r\n",
        "From: joe@a.example\r\n\r\n",
    };
    const std::string bodies[] = {"",
                                  "\r\n",
                                  "\r\n\r\n\r\n",
                                  " \t\r\n",
                                  "no end",
                                  "text \t \r\n \r\n\t\r\n",
                                  "\xff\xfe 8 bit \xc3\xa4\r\n",
                                  std::string(300'000, 'x') + "\r\n",
                                  ".\r\n..\r\n.x\r\n",
                                  "a\r\n" + std::string(5000, ' ') + "\r\nb" +
                                      std::string(5000, '\t')};
    unsigned seed = 0;
    for (const std::string_view header : headers) {
        for (const std::string& body : bodies) {
            sign(header, body, ++seed);
            expect_verifies(2, *key);
        }
    }
}

TEST_F(DkimMessageSigner, HeaderWithoutABodyVerifies) {
    load({table("a.example", "s", ed_file)});
    sign("From: joe@a.example\r\nSubject: nothing more\r\n", "");
    expect_verifies(1, *key);
}

TEST_F(DkimMessageSigner, AddedFieldsAreSignedAndTraceFieldsAreNot) {
    load({table("a.example", "s", ed_file)});
    sign(plain_header, "hello\r\n");
    const auto breaks = [&](std::string_view what, std::string_view by) {
        std::string changed = signed_message;
        changed.replace(changed.find(what), what.size(), by);
        return tests::DkimVerifier{changed}.check(*key).front().problem;
    };
    EXPECT_EQ(breaks("<1@relay.example>", "<2@relay.example>"), "signature");
    EXPECT_EQ(breaks("Subject: hello", "Subject: jello"), "signature");
    EXPECT_EQ(breaks("\r\nhello", "\r\njello"), "body hash");
    EXPECT_EQ(breaks("192.0.2.1", "192.0.2.2"), "");
}

TEST_F(DkimMessageSigner, OversignedFieldThatIsAddedLaterBreaksTheSignature) {
    KeyTable made = table("a.example", "s", ed_file);
    made.oversign = {"from", "Subject"};
    load({made});
    sign(plain_header, "hello\r\n");
    const std::string original = signed_message;
    for (const auto& [field, problem] :
         {std::pair{"Subject: other\r\n", "signature"}, std::pair{"From: x@y.z\r\n", "signature"},
          std::pair{"To: eve@x.example\r\n", ""}, std::pair{"Reply-To: eve@x.example\r\n", ""}}) {
        EXPECT_EQ(tests::DkimVerifier{field + original}.check(*key).front().problem, problem)
            << field;
    }
}

TEST_F(DkimMessageSigner, LinesStayWithinTheColumns) {
    KeyTable made = table(std::string(60, 'd') + ".a.example", std::string(40, 's'), rsa_file);
    made.identity = "@%d";
    for (int i = 0; i < 40; ++i)
        made.headers.push_back("X-Header-Number-" + std::to_string(i));
    made.oversign = made.headers;
    load({made});
    sign("From: joe@" + std::string(60, 'd') + ".a.example\r\n\r\n", "x\r\n");
    expect_verifies(1, **SigningKey::parse(tests::rsa_pem()));
    const std::string field = tests::DkimVerifier{signed_message}.check(*key).front().text;
    for (const std::string& line : tests::dkim_reference::lines_of(field))
        EXPECT_LE(line.size(), 78U) << line;
}

TEST_F(DkimMessageSigner, TwoDomainsAndTwoAlgorithmsSignOneMessage) {
    KeyTable esp = table("esp.example", "e", rsa_file);
    esp.scope = Scope::always;
    esp.body_form = Canonical::simple;
    load({table("a.example", "s", rsa_file), table("a.example", "t", ed_file), esp});
    const SignReport report = sign(plain_header, "a  b\r\n");
    EXPECT_EQ(report.signed_count, 3U);
    EXPECT_EQ(signer.signed_by(), "a.example/s a.example/t esp.example/e");
    const auto seen =
        tests::DkimVerifier{signed_message}.check(**SigningKey::parse(tests::rsa_pem()));
    ASSERT_EQ(seen.size(), 3U);
    EXPECT_EQ(seen[0].problem + seen[2].problem, "");
    EXPECT_EQ(tests::DkimVerifier{signed_message}.check(*key)[1].problem, "");
}

TEST_F(DkimMessageSigner, MailOfOthersStaysUnsigned) {
    load({table("a.example", "s", ed_file)});
    const auto why = [&](std::string_view header) {
        const SignReport report = sign(header, "x\r\n");
        EXPECT_EQ(report.signed_count, 0U);
        EXPECT_FALSE(report.defer);
        EXPECT_EQ(signed_message, std::string{plain_prelude} + std::string{header} + "x\r\n");
        return report.why;
    };
    EXPECT_EQ(why("From: joe@other.example\r\n\r\n"), Unsigned::no_key);
    EXPECT_EQ(why("From: joe\r\n\r\n"), Unsigned::no_key);
    EXPECT_EQ(why("To: joe@a.example\r\n\r\n"), Unsigned::no_author);
    EXPECT_EQ(why("From: joe@a.example\r\nFrom: ann@a.example\r\n\r\n"), Unsigned::no_author);
    EXPECT_EQ(why("From: joe@a.example\nTo: x\r\n\r\n"), Unsigned::malformed);
    EXPECT_EQ(key_user.asked, 0);
    std::string many = "From: joe@a.example\r\n";
    for (int i = 0; i < 300; ++i)
        many += "Subject: x\r\n";
    EXPECT_EQ(why(many + "\r\n"), Unsigned::malformed);
    first_lines = "From: tag@x.example\r\n";
    sign(plain_header, "");
    EXPECT_EQ(key_user.asked, 0);
}

TEST_F(DkimMessageSigner, HeaderBeyondTheBoundIsNotSigned) {
    load({table("a.example", "s", ed_file)});
    const std::string large =
        "From: joe@a.example\r\nX: " + std::string(header_bytes_max, 'x') + "\r\n\r\n";
    EXPECT_EQ(sign(large, "").why, Unsigned::malformed);
    sign(plain_header, "x\r\n"); // and the next message is
    expect_verifies(1, *key);
}

TEST_F(DkimMessageSigner, FailureDefersOrSendsUnsigned) {
    KeyTable strict = table("a.example", "s", ed_file), lenient = table("a.example", "l", ed_file);
    lenient.on_failure = OnFailure::send_unsigned;
    load({strict, lenient});
    key_user.fail_at = 1; // the strict one
    SignReport report = sign(plain_header, "x\r\n");
    EXPECT_TRUE(report.defer);
    EXPECT_EQ(report.failed_count, 1U);
    EXPECT_EQ(report.error, SignError::timed_out);
    EXPECT_TRUE(signed_message.starts_with(plain_prelude));

    key_user = {};
    key_user.fail_at = 2; // the lenient one: the other's signature stays
    report = sign(plain_header, "x\r\n");
    EXPECT_FALSE(report.defer);
    EXPECT_EQ(report.signed_count, 1U);
    expect_verifies(1, *key);

    load({lenient});
    key_user = {};
    key_user.fail_at = 0;
    report = sign(plain_header, "x\r\n");
    EXPECT_FALSE(report.defer);
    EXPECT_EQ(report.signed_count, 0U);
    EXPECT_EQ(report.why, Unsigned::failed);
    EXPECT_TRUE(signed_message.starts_with(plain_prelude));
}

TEST_F(DkimMessageSigner, SignatureThatDoesNotFitFails) {
    load({table("a.example", "s", rsa_file)});
    signer.begin(keys, "");
    signer.header(plain_header);
    signer.header_ended(true);
    std::string prelude{plain_prelude};
    auto task = signer.sign(key_user, prelude, prelude.size() + 300, now, base::Deadline::never());
    task.start();
    const SignReport report = task.result();
    EXPECT_TRUE(report.defer);
    EXPECT_EQ(prelude, plain_prelude);
}

TEST_F(DkimMessageSigner, DeskGivesSignersOnlyWhenThereAreKeys) {
    InlineSigner inline_signer;
    SigningDesk desk{inline_signer};
    EXPECT_EQ(desk.begin(""), nullptr);
    load({});
    desk.use(keys);
    EXPECT_EQ(desk.begin(""), nullptr);
    load({table("a.example", "s", ed_file)});
    desk.use(keys);
    auto made = desk.begin("");
    ASSERT_NE(made, nullptr);
    const MessageSigner* first = made.get();
    desk.give_back(std::move(made));
    EXPECT_EQ(desk.begin("").get(), first);
}

} // namespace
