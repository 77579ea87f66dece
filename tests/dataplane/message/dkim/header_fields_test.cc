// Cutting a header into fields, and finding the author's domain in it.
#include "dataplane/message/dkim/header_fields.h"

#include <gtest/gtest.h>

namespace {

using namespace dataplane::message::dkim;

std::string author(std::string_view value) {
    std::string domain;
    author_domain(value, domain);
    return domain;
}

TEST(DkimHeaderFields, FieldsEndWhereNoBlankFollows) {
    std::vector<HeaderField> fields;
    ASSERT_TRUE(
        parse_fields("From: a@b\r\nSubject : one\r\n\ttwo\r\n \r\n three\r\nX:\r\n\r\n", fields));
    ASSERT_EQ(fields.size(), 3U);
    EXPECT_TRUE(fields[0].is("from"));
    EXPECT_EQ(fields[1].name(), "Subject");
    EXPECT_EQ(fields[1].text, "Subject : one\r\n\ttwo\r\n \r\n three");
    EXPECT_EQ(fields[2].text, "X:");
}

TEST(DkimHeaderFields, HeaderWithoutBodyMayEndAnywhere) {
    for (const std::string_view text : {"A: b", "A: b\r\n", "A: b\r\n\r\n"}) {
        std::vector<HeaderField> fields;
        ASSERT_TRUE(parse_fields(text, fields));
        ASSERT_EQ(fields.size(), 1U);
        EXPECT_EQ(fields[0].text, "A: b");
    }
}

TEST(DkimHeaderFields, WhatVerifiersReadDifferentlyIsRefused) {
    for (const std::string_view text :
         {" folded: x\r\n", "no colon\r\n", ": no name\r\n", "A: b\nB: c\r\n", "A: b\rc\r\n",
          "A: b\r", "two words: x\r\n", "\r\nA: b\r\n", "A\x7f: b\r\n", "\xc3\xa4: b\r\n"}) {
        std::vector<HeaderField> fields;
        EXPECT_FALSE(parse_fields(text, fields)) << text;
    }
}

TEST(DkimHeaderFields, AuthorIsTheFirstAddress) {
    EXPECT_EQ(author(" joe@Example.COM"), "example.com");
    EXPECT_EQ(author(" Joe <joe@example.com>"), "example.com");
    EXPECT_EQ(author(" \"Joe, a@b.c <x@y.z>\" <joe@example.com>"), "example.com");
    EXPECT_EQ(author(" joe@first.example, ann@second.example"), "first.example");
    EXPECT_EQ(author(" Joe (at <home@x.y> (really)) <joe@\r\n\texample.com>"), "example.com");
    EXPECT_EQ(author(" joe@example.com (Joe)"), "example.com");
    EXPECT_EQ(author(" not@this.example <joe@example.com>"), "example.com");
    EXPECT_EQ(author(" Friends: joe@example.com, ann@x.y;"), "example.com");
    EXPECT_EQ(author(" <@relay.example:joe@example.com>"), "example.com");
    EXPECT_EQ(author(" \"a@b\"@example.com"), "example.com");
    EXPECT_EQ(author(" , joe@example.com."), "example.com");
    EXPECT_EQ(author(" =?utf-8?q?J=C3=B6?= <joe@example.com>"), "example.com");
    EXPECT_EQ(author(" \"quoted \\\" <x@y>\" <joe@example.com>"), "example.com");
    EXPECT_EQ(author(" jö@bücher.example"), "bücher.example");
}

TEST(DkimHeaderFields, NoDomainIsNoDomain) {
    for (const std::string_view value :
         {"", " ", " joe", " <>", " <joe>", " undisclosed:;", " joe@", " joe@.example", " joe@a..b",
          " joe@[192.0.2.1]", " \"open <joe@example.com>", " joe@example.com (open",
          " joe@../../etc", " joe@exa/mple", " a@b \" \""}) {
        EXPECT_EQ(author(value), "") << value;
    }
    // An angle that never closes can mean nothing else.
    EXPECT_EQ(author(" <joe@example.com"), "example.com");
    EXPECT_EQ(author(" a@" + std::string(300, 'x')), "");
    EXPECT_EQ(author(std::string(10'000, '(') + "a@b"), "");
}

} // namespace
