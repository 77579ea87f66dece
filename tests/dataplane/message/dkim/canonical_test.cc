// The canonical forms against RFC 6376's own examples and against the plain reference.
#include "dataplane/message/dkim/base64.h"
#include "dataplane/message/dkim/canonical.h"
#include "dataplane/message/dkim/sha256.h"
#include "tests/dataplane/message/dkim/reference.h"

#include <gtest/gtest.h>
#include <random>

namespace {

using namespace dataplane::message::dkim;
namespace reference = tests::dkim_reference;
using reference::Text;

std::string body(Canonical form, std::string_view text, std::size_t piece_max, unsigned seed = 1) {
    std::minstd_rand random{seed};
    Text out;
    BodyCanonical<Text> canonical{form, out};
    while (!text.empty()) {
        const std::size_t bytes = std::min<std::size_t>(1 + random() % piece_max, text.size());
        canonical.feed(text.substr(0, bytes));
        text.remove_prefix(bytes);
    }
    canonical.finish();
    return out.text;
}

std::string hash_text(Canonical form, std::string_view text) {
    Sha256 hash;
    BodyCanonical<Sha256> canonical{form, hash};
    canonical.feed(text);
    canonical.finish();
    const Digest digest = hash.finish();
    std::string out;
    append_base64(out, {reinterpret_cast<const char*>(digest.data()), digest.size()});
    return out;
}

std::string field(Canonical form, std::string_view text) {
    Text out;
    canonical_field(form, text, out);
    return out.text;
}

TEST(DkimCanonical, ExamplesOfTheRfc) { // §3.4.5
    EXPECT_EQ(body(Canonical::relaxed, " C \r\nD \t E\r\n\r\n\r\n", 100), " C\r\nD E\r\n");
    EXPECT_EQ(body(Canonical::simple, " C \r\nD \t E\r\n\r\n\r\n", 100), " C \r\nD \t E\r\n");
    EXPECT_EQ(field(Canonical::relaxed, "A: X"), "a:X");
    EXPECT_EQ(field(Canonical::relaxed, "B : Y\t\r\n\tZ  "), "b:Y Z");
    EXPECT_EQ(field(Canonical::simple, "B : Y\t\r\n\tZ  "), "B : Y\t\r\n\tZ  ");
}

TEST(DkimCanonical, EmptyBodiesHashAsTheRfcSays) { // §3.4.3, §3.4.4
    for (const std::string_view empty : {"", "\r\n", "\r\n\r\n\r\n"}) {
        EXPECT_EQ(hash_text(Canonical::simple, empty),
                  "frcCV1k9oG9oKj3dpUqdJg1PxRT2RSN/XKdLCPjaYaY=");
        EXPECT_EQ(hash_text(Canonical::relaxed, empty),
                  "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
    }
    EXPECT_EQ(body(Canonical::relaxed, " \t\r\n \r\n\t", 100), "");
    EXPECT_EQ(body(Canonical::simple, " \r\n", 100), " \r\n");
}

TEST(DkimCanonical, LastLineWithoutItsEndIsGivenOne) {
    EXPECT_EQ(body(Canonical::simple, "a", 100), "a\r\n");
    EXPECT_EQ(body(Canonical::relaxed, "a \t", 100), "a\r\n");
    EXPECT_EQ(body(Canonical::simple, "a\r", 100), "a\r\r\n");
}

/// Every kind of byte that matters, in runs.
std::string random_text(std::mt19937& random, std::size_t parts) {
    static constexpr std::string_view tokens[] = {"\r\n",
                                                  "\r\n",
                                                  " ",
                                                  "\t",
                                                  "  ",
                                                  " \t ",
                                                  "\r",
                                                  "\n",
                                                  "a",
                                                  "bc",
                                                  ".",
                                                  "\xc3\xa4",
                                                  "word and another word, long enough for a block"};
    std::string text;
    for (std::size_t i = 0; i < parts; ++i) {
        const std::string_view token = tokens[random() % std::size(tokens)];
        for (std::size_t times = random() % 8 == 0 ? 1 + random() % 40 : 1; times != 0; --times)
            text += token;
    }
    return text;
}

TEST(DkimCanonical, AgreesWithThePlainReferenceHoweverItIsCut) {
    for (unsigned seed = 0; seed < 20'000; ++seed) {
        std::mt19937 random{seed};
        const std::string text = random_text(random, 1 + seed % 40);
        const std::size_t piece_max = seed % 3 == 0 ? 1 : 1 + random() % 600;
        for (const Canonical form : {Canonical::simple, Canonical::relaxed}) {
            ASSERT_EQ(body(form, text, piece_max, seed),
                      reference::body(form == Canonical::relaxed, text))
                << "seed " << seed;
        }
        std::string value = random_text(random, 1 + seed % 10);
        ASSERT_EQ(field(Canonical::relaxed, "X-Name\t : " + value),
                  reference::field(true, "X-Name\t : " + value))
            << "seed " << seed;
    }
}

TEST(DkimCanonical, LongTextsPassAsTheyAre) {
    std::string text;
    for (int i = 0; i < 2000; ++i)
        text += "A line like most lines of mail are, with single blanks between its words.\r\n";
    EXPECT_EQ(body(Canonical::relaxed, text, 70'000), text);
    EXPECT_EQ(body(Canonical::simple, text, 70'000), text);
    const std::string one_line(300'000, 'x'); // longer than any limit
    EXPECT_EQ(body(Canonical::relaxed, one_line, 1000), one_line + "\r\n");
}

TEST(DkimCanonical, AbsurdlyManyEmptyLinesAreGivenUpOn) {
    Text out;
    BodyCanonical<Text> canonical{Canonical::relaxed, out};
    std::string lines;
    for (std::uint32_t i = 0; i < line_ends_max; ++i)
        lines += "\r\n";
    canonical.feed(lines);
    EXPECT_FALSE(canonical.overflowed());
    canonical.feed("\r\n");
    EXPECT_TRUE(canonical.overflowed());
}

} // namespace
