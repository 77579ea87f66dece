#include "dataplane/smtp/reply_parser.h"

#include <gtest/gtest.h>

namespace {

using namespace dataplane::smtp;

/// Feeds all lines; the reply must be complete with the last and not before.
Reply parse(std::initializer_list<std::string_view> lines) {
    ReplyParser parser;
    std::size_t left = lines.size();
    for (const std::string_view line : lines) {
        const auto complete = parser.feed(line);
        EXPECT_TRUE(complete.has_value()) << line;
        EXPECT_EQ(complete.value_or(false), --left == 0) << line;
    }
    return parser.reply();
}

TEST(ReplyParser, OneLineIsAReply) {
    const Reply reply = parse({"250 2.1.5 recipient ok"});
    EXPECT_EQ(reply.code, 250);
    EXPECT_EQ(reply.enhanced, (EnhancedCode{2, 1, 5}));
    EXPECT_EQ(reply.text, "recipient ok");
    EXPECT_TRUE(reply.positive());
}

TEST(ReplyParser, LinesOfOneReplyAreJoinedWithoutTheirCodes) {
    const Reply reply = parse({"550-5.7.1 we do not", "550-5.7.1 like you", "550 5.7.1 at all"});
    EXPECT_EQ(reply.code, 550);
    EXPECT_EQ(reply.enhanced, (EnhancedCode{5, 7, 1}));
    EXPECT_EQ(reply.text, "we do not like you at all");
    EXPECT_TRUE(reply.permanent());
}

TEST(ReplyParser, CodeAloneIsAReply) {
    EXPECT_EQ(parse({"250"}).code, 250);
    EXPECT_EQ(parse({"354 "}).code, 354);
    EXPECT_EQ(parse({"220-", "220"}).code, 220);
}

TEST(ReplyParser, EnhancedCodeOfAnotherClassIsText) {
    const Reply reply = parse({"450 5.7.1 odd"});
    EXPECT_FALSE(reply.enhanced);
    EXPECT_EQ(reply.text, "5.7.1 odd");
    EXPECT_FALSE(parse({"550 5.1 short"}).enhanced);
    EXPECT_FALSE(parse({"550 5.01.1 zero"}).enhanced);
    EXPECT_FALSE(parse({"550 5.1.1234 long"}).enhanced);
    EXPECT_FALSE(parse({"550 5.1.1x"}).enhanced);
    EXPECT_EQ(parse({"550 5.1.123"}).enhanced, (EnhancedCode{5, 1, 123}));
}

TEST(ReplyParser, WhatIsNoReplyIsRefused) {
    for (const std::string_view line :
         {"", "25", "2x0 a", "650 a", "150 a", "250_a", "hello", "250\t a"}) {
        ReplyParser parser;
        const auto complete = parser.feed(line);
        ASSERT_FALSE(complete.has_value()) << line;
        EXPECT_EQ(complete.error(), ReplyError::bad_code) << line;
    }
}

TEST(ReplyParser, CodeThatChangesWithinAReplyIsRefused) {
    ReplyParser parser;
    EXPECT_EQ(parser.feed("250-a"), false);
    EXPECT_EQ(parser.feed("251 b").error(), ReplyError::code_changed);
}

TEST(ReplyParser, EndlessReplyEnds) {
    ReplyParser parser;
    for (std::size_t i = 0; i < reply_lines_max; ++i)
        ASSERT_EQ(parser.feed("250-more"), false);
    EXPECT_EQ(parser.feed("250-more").error(), ReplyError::too_many_lines);
}

TEST(ReplyParser, TextIsBoundedAndCarriesNoControlCharacters) {
    ReplyParser parser;
    const std::string line = "550-" + std::string(300, 'a');
    for (int i = 0; i < 10; ++i)
        ASSERT_EQ(parser.feed(line), false);
    ASSERT_EQ(parser.feed("550 end"), true);
    EXPECT_LE(parser.reply().text.size(), reply_text_bytes_max);

    ASSERT_EQ(parser.feed(std::string_view{"550 a\0b\rc\x1b[1m", 13}), true);
    EXPECT_EQ(parser.reply().text, "a b c [1m");
}

TEST(ReplyParser, IsReadyForTheNextReplyAfterAComplete) {
    ReplyParser parser;
    ASSERT_EQ(parser.feed("550 5.1.1 gone"), true);
    ASSERT_EQ(parser.feed("250 ok"), true);
    EXPECT_EQ(parser.reply().code, 250);
    EXPECT_FALSE(parser.reply().enhanced);
    EXPECT_EQ(parser.reply().text, "ok");
}

} // namespace
