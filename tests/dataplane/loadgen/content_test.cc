// What the source makes, the sink must find whole, however it was cut; and must notice any change.
#include "dataplane/base/slab.h"
#include "dataplane/loadgen/content_check.h"
#include "dataplane/loadgen/digest.h"
#include "dataplane/loadgen/key_set.h"
#include "dataplane/loadgen/message_maker.h"

#include <gtest/gtest.h>
#include <random>
#include <set>

namespace dataplane::loadgen {
namespace {

constexpr std::string_view date = "Thu, 01 Jan 2026 00:00:00 +0000";

ContentState check_in_pieces(std::string_view content, std::mt19937_64& random) {
    ContentCheck check;
    check.begin();
    while (!content.empty()) {
        const std::size_t take = std::min<std::size_t>(content.size(), 1 + random() % 700);
        check.feed(base::as_bytes(content.substr(0, take)));
        content.remove_prefix(take);
    }
    return check.finish();
}

TEST(Digest, DoesNotDependOnHowTheBytesWereCut) {
    std::mt19937_64 random(3);
    std::string text(5'000, 'x');
    for (char& c : text)
        c = static_cast<char>(random());
    const std::uint64_t whole = digest_of(base::as_bytes(text));
    for (int round = 0; round < 50; ++round) {
        BodyDigest digest;
        for (std::string_view rest = text; !rest.empty();) {
            const std::size_t take = std::min<std::size_t>(rest.size(), random() % 100);
            digest.update(base::as_bytes(rest.substr(0, take)));
            rest.remove_prefix(take);
        }
        ASSERT_EQ(digest.finish(), whole);
    }
}

TEST(Digest, TellsTrailingZerosAndSwappedWordsApart) {
    const std::string zeros(64, '\0');
    std::set<std::uint64_t> seen;
    for (std::size_t length = 0; length <= zeros.size(); ++length) {
        seen.insert(digest_of(base::as_bytes(std::string_view{zeros}.substr(0, length))));
    }
    EXPECT_EQ(seen.size(), zeros.size() + 1);
    EXPECT_NE(digest_of(base::as_bytes("aaaaaaaabbbbbbbb")),
              digest_of(base::as_bytes("bbbbbbbbaaaaaaaa")));
}

TEST(MessageMaker, MakesCleanLinesOfTheWantedSizeWithSomeDots) {
    MessagePattern pattern;
    pattern.bytes_min = 600;
    pattern.bytes_max = 9'000;
    const MessageMaker maker(pattern);
    Message message;
    std::size_t dot_lines = 0;
    for (std::uint64_t sequence = 0; sequence < 500; ++sequence) {
        maker.make(sequence, date, message);
        const std::string& text = message.content;
        ASSERT_GE(text.size(), pattern.bytes_min);
        ASSERT_LE(text.size(), pattern.bytes_max);
        ASSERT_TRUE(text.ends_with("\r\n"));
        for (std::size_t i = 0; i < text.size(); ++i) {
            ASSERT_TRUE(text[i] != '\r' || text[i + 1] == '\n') << "a CR alone in " << sequence;
            ASSERT_TRUE(text[i] != '\n' || text[i - 1] == '\r') << "an LF alone in " << sequence;
        }
        for (std::size_t at = text.find("\n."); at != std::string::npos;
             at = text.find("\n.", at + 1))
            ++dot_lines;
    }
    EXPECT_GT(dot_lines, 100U);
}

TEST(MessageMaker, SameSequenceGivesTheSameMessageAndAnotherGivesAnother) {
    const MessageMaker maker(MessagePattern{});
    Message one, two, other;
    maker.make(7, date, one);
    maker.make(7, date, two);
    maker.make(8, date, other);
    EXPECT_EQ(one.content, two.content);
    EXPECT_NE(one.content, other.content);
}

TEST(MessageMaker, ExpandsAddresses) {
    MessagePattern pattern;
    pattern.recipient = "u{seq}.{n}@d{domain}.example";
    pattern.recipient_count = 2;
    pattern.domain_count = 10;
    ASSERT_EQ(check_pattern(pattern), "");
    Message message;
    MessageMaker(pattern).make(123, date, message);
    ASSERT_EQ(message.recipients.size(), 2U);
    EXPECT_EQ(message.recipients[0], "u123.0@d3.example");
    EXPECT_EQ(message.recipients[1], "u123.1@d3.example");
    pattern.run = "run-9";
    pattern.recipient = "u{seq}.{n}.{run}@d.example";
    ASSERT_EQ(check_pattern(pattern), "");
    MessageMaker(pattern).make(123, date, message);
    EXPECT_EQ(message.recipients[1], "u123.1.run-9@d.example");
}

TEST(MessageMaker, PatternsThatCannotWorkAreRefused) {
    MessagePattern pattern;
    pattern.recipient = "u{number}@d.example";
    EXPECT_NE(check_pattern(pattern), "");
    pattern.recipient = "same@d.example";
    EXPECT_EQ(check_pattern(pattern), "");
    pattern.recipient_count = 2;
    EXPECT_NE(check_pattern(pattern), "");
    pattern.recipient = "r{n}";
    EXPECT_NE(check_pattern(pattern), "");
}

TEST(ContentCheck, FindsItsFieldsBehindWhatARelayAdds) {
    std::mt19937_64 random(11);
    const MessageMaker maker(MessagePattern{.run = "r9"});
    Message message;
    for (std::uint64_t sequence = 0; sequence < 100; ++sequence) {
        maker.make(sequence, date, message);
        std::string relayed = "Received: from a (b [127.0.0.1]) by c\r\n\twith ESMTPSA id 1;\r\n\t";
        relayed += std::string(date) + "\r\nDKIM-Signature: v=1; h=X-Millrace-Seq: no\r\n" +
                   message.content;
        ContentCheck check;
        check.begin();
        for (const char& c : relayed)
            check.feed(base::as_bytes(std::string_view{&c, 1}));
        EXPECT_EQ(check.finish(), ContentState::whole);
        EXPECT_EQ(check.sequence(), sequence);
        EXPECT_EQ(check.run(), "r9");
        EXPECT_EQ(check_in_pieces(relayed, random), ContentState::whole);
    }
}

// Goal: no single-byte change of a body passes, nor a lost or doubled byte.
TEST(ContentCheck, AnyChangeOfTheBodyShows) {
    std::mt19937_64 random(5);
    Message message;
    MessageMaker(MessagePattern{.bytes_min = 1500, .bytes_max = 1500}).make(1, date, message);
    const std::size_t body = message.content.find("\r\n\r\n") + 4;
    for (std::size_t at = body; at < message.content.size(); ++at) {
        std::string changed = message.content;
        changed[at] = static_cast<char>(changed[at] ^ (1 << random() % 7));
        ASSERT_EQ(check_in_pieces(changed, random), ContentState::altered) << at;
        std::string shorter = message.content;
        shorter.erase(at, 1);
        ASSERT_EQ(check_in_pieces(shorter, random), ContentState::altered) << at;
    }
}

// Goal: what the message came with arrives as it was, and damage to our own fields makes no foreigner of it.
TEST(ContentCheck, ChangedFieldsShowAndTraceFieldsDoNot) {
    std::mt19937_64 random(5);
    Message message;
    MessageMaker(MessagePattern{.run = "r9"}).make(7, date, message);
    const auto with = [&](const std::string& from, const std::string& to) {
        std::string changed = message.content;
        const std::size_t at = changed.find(from);
        EXPECT_NE(at, std::string::npos) << from;
        return changed.replace(at, from.size(), to);
    };
    for (const char* name : {"From: <", "To: <", "Subject: b", "Message-ID: <", "Content-Type: t"})
        EXPECT_EQ(check_in_pieces(with(name, std::string(name) + "x"), random),
                  ContentState::altered)
            << name;
    EXPECT_EQ(check_in_pieces(with("MIME-Version: 1.0\r\n", ""), random), ContentState::altered);
    EXPECT_EQ(check_in_pieces(with("X-Millrace-Seq: 7", "X-Millrace-Seq: \x01"), random),
              ContentState::altered);
    EXPECT_EQ(check_in_pieces(with("X-Millrace-Digest: ", "X-Millrace-Digest: z"), random),
              ContentState::altered);
    EXPECT_EQ(check_in_pieces("Received: from a\r\nX-Spam: no\r\nTo-Whom: it\r\n" + message.content,
                              random),
              ContentState::whole);
}

TEST(ContentCheck, TellsWhetherThereIsASignature) {
    Message message;
    MessageMaker(MessagePattern{}).make(1, date, message);
    for (const bool is_signed : {false, true}) {
        ContentCheck check;
        check.begin();
        check.feed(base::as_bytes(std::string_view{is_signed ? "DKIM-Signature: v=1\r\n" : ""}));
        check.feed(base::as_bytes(std::string_view{message.content}));
        EXPECT_EQ(check.finish(), ContentState::whole);
        EXPECT_EQ(check.is_signed(), is_signed);
    }
}

TEST(ContentCheck, OtherMailIsForeign) {
    std::mt19937_64 random(5);
    EXPECT_EQ(check_in_pieces("Subject: hi\r\n\r\nX-Millrace-Run: r\r\n", random),
              ContentState::foreign);
    EXPECT_EQ(check_in_pieces("no header at all", random), ContentState::foreign);
    EXPECT_EQ(check_in_pieces(std::string(200'000, 'h'), random), ContentState::foreign);
}

TEST(DotReader, UndoesStuffingHoweverItIsCut) {
    std::mt19937_64 random(17);
    const MessageMaker maker(MessagePattern{});
    Message message;
    for (std::uint64_t sequence = 0; sequence < 200; ++sequence) {
        maker.make(sequence, date, message);
        std::string wire;
        append_dot_stuffed(wire, message.content);
        const std::size_t end = wire.size();
        wire += "MAIL FROM:<next@one>\r\n"; // must be left alone
        ContentCheck check;
        DotReader dots;
        check.begin();
        std::string_view rest = wire;
        for (;;) {
            ASSERT_FALSE(rest.empty());
            const std::size_t piece = std::min<std::size_t>(rest.size(), 1 + random() % 90);
            const DotReader::Step step = dots.step(base::as_bytes(rest.substr(0, piece)), check);
            rest.remove_prefix(step.consumed);
            if (step.ended) break;
            ASSERT_EQ(step.consumed, piece);
        }
        EXPECT_EQ(wire.size() - rest.size(), end);
        EXPECT_EQ(check.finish(), ContentState::whole);
    }
}

TEST(DotReader, DotThatIsNotDoubledShowsAsAltered) {
    Message message;
    MessageMaker(MessagePattern{}).make(1, date, message);
    ASSERT_NE(message.content.find("\n."), std::string::npos);
    const std::string wire = message.content + ".\r\n"; // not stuffed
    ContentCheck check;
    DotReader dots;
    check.begin();
    EXPECT_TRUE(dots.step(base::as_bytes(wire), check).ended);
    EXPECT_EQ(check.finish(), ContentState::altered);
}

TEST(KeySet, KnowsWhatItHasSeenAcrossGrowth) {
    KeySet set;
    for (std::uint64_t i = 0; i < 300'000; ++i)
        ASSERT_TRUE(set.insert(scramble(i + 1)));
    for (std::uint64_t i = 0; i < 300'000; ++i)
        ASSERT_FALSE(set.insert(scramble(i + 1)));
    EXPECT_EQ(set.size(), 300'000U);
}

} // namespace
} // namespace dataplane::loadgen
