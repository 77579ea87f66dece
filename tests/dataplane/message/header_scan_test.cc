#include "dataplane/message/header_scan.h"

#include "dataplane/base/slab.h"

#include <gtest/gtest.h>
#include <random>
#include <string>

namespace dataplane::message {
namespace {

HeaderScan scan(std::string_view content) {
    HeaderScan headers;
    headers.feed(base::as_bytes(content));
    return headers;
}

TEST(HeaderScan, FindsTheFieldsTheRelayCaresAbout) {
    const HeaderScan headers =
        scan("Received: one\r\nreceived: two\r\nDATE: x\r\nMessage-Id: <a@b>\r\n"
             "From : a@b\r\nX-Date: no\r\n\r\nReceived: in the body\r\n");
    EXPECT_EQ(headers.end(), HeaderEnd::blank_line);
    EXPECT_EQ(headers.received_count(), 2U);
    EXPECT_EQ(headers.field_count(), 6U);
    EXPECT_TRUE(headers.has_date());
    EXPECT_TRUE(headers.has_message_id());
    EXPECT_TRUE(headers.has_from());
    EXPECT_EQ(headers.header_bytes(), 84U); // up to and with the blank line
}

TEST(HeaderScan, MissesWhatIsOnlyAPrefixOrAContinuation) {
    const HeaderScan headers =
        scan("Subject: a\r\n Date: folded\r\n\tMessage-ID: folded\r\nDateX: 1\r\nDat: 2\r\n\r\n");
    EXPECT_EQ(headers.field_count(), 3U);
    EXPECT_FALSE(headers.has_date());
    EXPECT_FALSE(headers.has_message_id());
}

TEST(HeaderScan, SaysHowAHeaderEnds) {
    EXPECT_EQ(scan("A: b\r\n\r\n").end(), HeaderEnd::blank_line);
    EXPECT_EQ(scan("A: b\n\nbody").end(), HeaderEnd::blank_line);
    EXPECT_EQ(scan("\r\nbody").end(), HeaderEnd::blank_line);
    EXPECT_EQ(scan("A: b\r\n").end(), HeaderEnd::open);
    EXPECT_EQ(scan("hello world\r\n").end(), HeaderEnd::not_a_header);
    EXPECT_EQ(scan("A: b\r\nhello world: x\r\n").end(), HeaderEnd::not_a_header);
    EXPECT_EQ(scan(" folded: first\r\n").end(), HeaderEnd::not_a_header);
    EXPECT_EQ(scan(": no name\r\n").end(), HeaderEnd::not_a_header);
    EXPECT_EQ(scan("A: b\r\n\rx").end(), HeaderEnd::not_a_header);
    EXPECT_EQ(scan(std::string(200, 'n') + ": v\r\n").end(), HeaderEnd::not_a_header);
}

TEST(HeaderScan, KnowsWhenAPreludeMustNotRunIntoTheBody) {
    EXPECT_TRUE(scan("hello\r\n").needs_blank_line());
    EXPECT_TRUE(scan("hello").needs_blank_line());
    EXPECT_TRUE(scan("").needs_blank_line());
    EXPECT_FALSE(scan("\r\nbody\r\n").needs_blank_line());
    EXPECT_FALSE(scan("A: b\r\n").needs_blank_line());
    EXPECT_FALSE(scan("A: b\r\nbody without blank line\r\n").needs_blank_line());
}

TEST(HeaderScan, GivesUpOnAnEndlessHeader) {
    HeaderScan headers;
    const std::string field = "X-Endless: " + std::string(1000, 'v') + "\r\n";
    std::size_t fed = 0;
    while (!headers.done() && fed < 10 * HeaderScan::bytes_max) {
        headers.feed(base::as_bytes(field));
        fed += field.size();
    }
    EXPECT_EQ(headers.end(), HeaderEnd::too_large);
    EXPECT_LE(fed, HeaderScan::bytes_max + field.size());
}

TEST(HeaderScan, SeesTheSameHoweverContentIsCut) {
    const std::string content =
        "Received: a\r\n\tfolded\r\nDate : b\r\nMESSAGE-ID: c\r\nTo: d\r\n\r\nDate: body\r\n";
    const HeaderScan whole = scan(content);
    for (unsigned seed = 1; seed <= 200; ++seed) {
        std::mt19937 random{seed};
        HeaderScan pieces;
        for (std::size_t at = 0; at < content.size();) {
            const std::size_t bytes = std::min<std::size_t>(random() % 7, content.size() - at);
            pieces.feed(base::as_bytes(std::string_view{content}.substr(at, bytes)));
            at += bytes;
        }
        ASSERT_EQ(pieces.end(), whole.end()) << "seed " << seed;
        ASSERT_EQ(pieces.header_bytes(), whole.header_bytes()) << "seed " << seed;
        ASSERT_EQ(pieces.field_count(), 4U) << "seed " << seed;
        ASSERT_EQ(pieces.received_count(), 1U) << "seed " << seed;
        ASSERT_TRUE(pieces.has_date() && pieces.has_message_id()) << "seed " << seed;
    }
}

} // namespace
} // namespace dataplane::message
