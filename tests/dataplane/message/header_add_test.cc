#include "dataplane/message/header_add.h"

#include <gtest/gtest.h>
#include <string>

namespace dataplane::message {
namespace {

constexpr base::WallTime noon{std::chrono::milliseconds{1'767'268'800'000}};

std::size_t longest_line(std::string_view text) {
    std::size_t longest = 0;
    while (!text.empty()) {
        const std::size_t end = text.find("\r\n");
        longest = std::max(longest, std::min(end, text.size()));
        text.remove_prefix(end == std::string_view::npos ? text.size() : end + 2);
    }
    return longest;
}

TEST(AppendReceived, NamesClientHostProtocolIdAndTime) {
    std::string prelude;
    append_received(prelude, {.helo = "app.example",
                              .client_literal = "[192.0.2.9]",
                              .host = "relay.example",
                              .protocol = "ESMTPSA",
                              .id = "00000000000000ff",
                              .time = noon});
    EXPECT_EQ(prelude, "Received: from app.example ([192.0.2.9])\r\n"
                       "\tby relay.example with ESMTPSA id 00000000000000ff;\r\n"
                       "\tThu, 01 Jan 2026 12:00:00 +0000\r\n");
}

TEST(AppendReceived, NamesASingleRecipient) {
    std::string prelude;
    append_received(prelude, {.helo = "a",
                              .client_literal = "[IPv6:::1]",
                              .host = "b",
                              .protocol = "SMTP",
                              .id = "1",
                              .recipient = "x@y.example",
                              .time = noon});
    EXPECT_NE(prelude.find("id 1\r\n\tfor <x@y.example>;\r\n\t"), std::string::npos);
}

TEST(AppendReceived, KeepsLinesWithinTheHardLimitWhateverTheNames) {
    std::string prelude;
    const std::string long_name(255, 'n');
    append_received(prelude, {.helo = long_name,
                              .client_literal = "[192.0.2.9]",
                              .host = long_name,
                              .protocol = "UTF8SMTPSA",
                              .id = "1",
                              .recipient = long_name,
                              .time = noon});
    EXPECT_LE(longest_line(prelude), line_bytes_max);
}

TEST(ProtocolName, FollowsRfc3848AndRfc6531) {
    EXPECT_EQ(protocol_name(false, false, false, false), "SMTP");
    EXPECT_EQ(protocol_name(true, false, false, false), "ESMTP");
    EXPECT_EQ(protocol_name(true, false, true, false), "ESMTPA");
    EXPECT_EQ(protocol_name(true, true, false, false), "ESMTPS");
    EXPECT_EQ(protocol_name(true, true, true, false), "ESMTPSA");
    EXPECT_EQ(protocol_name(true, false, false, true), "UTF8SMTP");
    EXPECT_EQ(protocol_name(true, true, true, true), "UTF8SMTPSA");
}

TEST(AppendDateAndMessageId, AreWholeFields) {
    std::string prelude;
    append_message_id(prelude, "0123", "relay.example");
    append_date(prelude, noon);
    EXPECT_EQ(prelude,
              "Message-ID: <0123@relay.example>\r\nDate: Thu, 01 Jan 2026 12:00:00 +0000\r\n");
}

TEST(AppendField, WritesAShortFieldOnOneLine) {
    std::string prelude = "A: b\r\n";
    EXPECT_TRUE(append_field(prelude, "X-Spam", "yes, very", 1000));
    EXPECT_EQ(prelude, "A: b\r\nX-Spam: yes, very\r\n");
}

TEST(AppendField, FoldsAtBlanksBelow78) {
    std::string prelude;
    std::string value;
    for (int i = 0; i < 60; ++i)
        value += "word ";
    EXPECT_TRUE(append_field(prelude, "X-Long", value, 1000));
    EXPECT_LE(longest_line(prelude), line_bytes_target);
    EXPECT_EQ(std::string::npos, prelude.find("\r\n\r\n"));
    std::size_t words = 0;
    for (std::size_t at = prelude.find("word"); at != std::string::npos;
         at = prelude.find("word", at + 1))
        ++words;
    EXPECT_EQ(words, 60U);
}

TEST(AppendField, RefusesWhatWouldForgeAHeader) {
    std::string prelude = "A: b\r\n";
    EXPECT_FALSE(append_field(prelude, "X", "a\r\nBcc: victim@example", 1000));
    EXPECT_FALSE(append_field(prelude, "X", "a\nb", 1000));
    EXPECT_FALSE(append_field(prelude, "X", std::string_view{"a\0b", 3}, 1000));
    EXPECT_FALSE(append_field(prelude, "X Y", "a", 1000));
    EXPECT_FALSE(append_field(prelude, "X:", "a", 1000));
    EXPECT_FALSE(append_field(prelude, "", "a", 1000));
    EXPECT_FALSE(append_field(prelude, "X\r\nY", "a", 1000));
    EXPECT_EQ(prelude, "A: b\r\n");
}

TEST(AppendField, LeavesOutWhatHasNoRoom) {
    std::string prelude = "A: b\r\n";
    EXPECT_FALSE(append_field(prelude, "X", std::string(100, 'v'), 50));
    EXPECT_FALSE(
        append_field(prelude, "X", std::string(line_bytes_max, 'v'), 10'000)); // cannot be folded
    EXPECT_EQ(prelude, "A: b\r\n");
}

} // namespace
} // namespace dataplane::message
