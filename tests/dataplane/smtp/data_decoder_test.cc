#include "dataplane/smtp/data_decoder.h"

#include "dataplane/base/slab.h"

#include <gtest/gtest.h>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace dataplane::smtp {
namespace {

struct Decoded {
    std::string content;
    std::string rest; // behind the final dot
    bool finished = false;
    bool bare_newline = false;
    bool operator==(const Decoded&) const = default;
};

/// Decodes `input` cut into pieces of 1 to `piece_max` bytes, into outputs of 1 to `room_max`
/// bytes.
Decoded decode(std::string_view input, BareNewlines newlines, unsigned seed = 0,
               std::size_t piece_max = 1 << 20, std::size_t room_max = 1 << 20,
               Framing framing = Framing::dotted) {
    std::mt19937 random{seed};
    DataDecoder decoder;
    decoder.reset(framing, newlines);
    Decoded result;
    std::vector<std::byte> output(room_max);
    std::size_t given = 0; // bytes of `input` shown to the decoder so far
    std::size_t at = 0;    // of which consumed
    for (unsigned spins = 0; spins < 10'000'000; ++spins) {
        if (at == given)
            given += std::min<std::size_t>(1 + random() % piece_max, input.size() - given);
        const auto room = std::span{output}.first(1 + random() % room_max);
        const auto progress = decoder.decode(base::as_bytes(input.substr(at, given - at)), room);
        EXPECT_LE(progress.written, room.size());
        at += progress.consumed;
        result.content += base::as_text(room.first(progress.written));
        if (progress.stop == DataDecoder::Stop::finished) {
            result.finished = true;
            break;
        }
        if (progress.stop == DataDecoder::Stop::need_input && at == input.size()) break;
    }
    if (framing != Framing::dotted) result.content += base::as_text(decoder.finish_counted());
    result.rest = input.substr(at);
    result.bare_newline = decoder.bare_newline();
    return result;
}

Decoded refuse(std::string_view input) {
    return decode(input, BareNewlines::refuse);
}

TEST(DataDecoder, EndsAtTheDotAlone) {
    const Decoded mail = refuse("Subject: x\r\n\r\nbody\r\n.\r\nNOOP\r\n");
    EXPECT_TRUE(mail.finished);
    EXPECT_FALSE(mail.bare_newline);
    EXPECT_EQ(mail.content, "Subject: x\r\n\r\nbody\r\n");
    EXPECT_EQ(mail.rest, "NOOP\r\n");
}

TEST(DataDecoder, TakesAnEmptyMessage) {
    const Decoded mail = refuse(".\r\n");
    EXPECT_TRUE(mail.finished);
    EXPECT_EQ(mail.content, "");
}

TEST(DataDecoder, RemovesOneDotFromTheFrontOfALine) {
    EXPECT_EQ(refuse("..\r\n.a\r\n...b\r\na.\r\n.. \r\n.\r\n").content,
              ".\r\na\r\n..b\r\na.\r\n. \r\n");
}

TEST(DataDecoder, KeepsEveryOtherByte) {
    std::string all;
    for (int c = 0; c < 256; ++c) {
        if (c != '\r' && c != '\n') all.push_back(static_cast<char>(c));
    }
    EXPECT_EQ(refuse(all + "\r\n.\r\n").content, all + "\r\n");
}

// Each of these is what some server has taken for the end of the mail. None may end it here, and
// each makes the message refused, except where only dots are involved.
const std::vector<std::string> sloppy_ends{
    "\n.\n",     "\n.\r\n",      "\r\n.\n",   "\r.\r",     "\r\n.\r",   "\r.\r\n",
    "\n.\r",     "\r\n.\r.\r\n", "\r\r\n.\n", "\n\n.\r\n", "\r\n\n.\n", "\r\n.\n.\n",
    "\r\n.\r\r", "\r\n.\r\nX\n", "\n\r\n.\n", "\r\n..\n",  "\r.\n",     "\n.\n\r\n"};

TEST(DataDecoder, RefusesEverySloppyEndAndReadsOnToTheRealOne) {
    for (const std::string& end : sloppy_ends) {
        const std::string smuggled =
            "Subject: a\r\n\r\nbody" + end + "MAIL FROM:<evil@x.example>\r\n";
        const Decoded mail = refuse(smuggled + "\r\n.\r\nQUIT\r\n");
        EXPECT_TRUE(mail.finished);
        if (end == "\r\n.\r\nX\n") { // that one is the real end
            EXPECT_FALSE(mail.bare_newline);
            continue;
        }
        EXPECT_TRUE(mail.bare_newline) << testing::PrintToString(end);
        EXPECT_EQ(mail.rest, "QUIT\r\n") << testing::PrintToString(end);
    }
}

TEST(DataDecoder, NormalisesSloppyEndsWithoutEndingTheMail) {
    for (const std::string& end : sloppy_ends) {
        if (end == "\r\n.\r\nX\n") continue;
        const Decoded mail = decode("body" + end + "MAIL FROM:<evil@x.example>\r\n.\r\nQUIT\r\n",
                                    BareNewlines::make_crlf);
        EXPECT_TRUE(mail.finished);
        EXPECT_FALSE(mail.bare_newline);
        EXPECT_EQ(mail.rest, "QUIT\r\n") << testing::PrintToString(end);
        EXPECT_NE(mail.content.find("MAIL FROM"), std::string::npos) << testing::PrintToString(end);
        for (std::size_t i = 0; i < mail.content.size(); ++i) { // and no bare one is left in it
            if (mail.content[i] == '\n') {
                ASSERT_TRUE(i > 0 && mail.content[i - 1] == '\r');
            }
            if (mail.content[i] == '\r') {
                ASSERT_TRUE(i + 1 < mail.content.size() && mail.content[i + 1] == '\n');
            }
        }
    }
}

TEST(DataDecoder, NormalisesEachBareNewlineToOneCrlf) {
    EXPECT_EQ(decode("a\nb\rc\r\r\nd\n\ne\r\n.\r\n", BareNewlines::make_crlf).content,
              "a\r\nb\r\nc\r\n\r\nd\r\n\r\ne\r\n");
}

TEST(DataDecoder, GoesOnWithoutAnEndWhenTheInputHasNone) {
    for (const char* input : {"body\r\n.", "body\r\n.\r", "body\r\n", ".", "", "body"}) {
        EXPECT_FALSE(refuse(input).finished) << input;
    }
}

TEST(DataDecoder, DecodesTheSameHoweverInputAndOutputAreCut) {
    std::mt19937 random{1};
    constexpr std::string_view alphabet = "\r\r\n\n..ab";
    for (unsigned round = 0; round < 3000; ++round) {
        std::string input;
        for (unsigned i = random() % 40; i > 0; --i)
            input.push_back(alphabet[random() % alphabet.size()]);
        input += "\r\n.\r\n";
        for (const auto newlines : {BareNewlines::refuse, BareNewlines::make_crlf}) {
            Decoded whole = decode(input, newlines);
            Decoded cut = decode(input, newlines, round, 3, 2);
            if (whole.bare_newline)
                whole.content = cut.content = ""; // refused: its content goes nowhere
            ASSERT_EQ(whole.content, cut.content)
                << testing::PrintToString(input) << " round " << round;
            ASSERT_EQ(whole, cut) << testing::PrintToString(input) << " round " << round;
        }
    }
}

/// The meaning of the rules, written as slowly and plainly as possible.
std::optional<Decoded> reference_decode(std::string_view input) {
    Decoded result;
    std::string content{"\r\n"}; // as if a line had just ended
    std::size_t i = 0;
    bool line_start = true;
    while (i < input.size()) {
        if (line_start && input.substr(i).starts_with(".\r\n")) {
            result.finished = true;
            i += 3;
            break;
        }
        if (line_start && input[i] == '.') ++i;
        line_start = false;
        while (i < input.size() && !line_start) {
            if (input.substr(i).starts_with("\r\n")) {
                content += "\r\n";
                i += 2;
                line_start = true;
            } else {
                if (input[i] == '\r' || input[i] == '\n') result.bare_newline = true;
                content += input[i++];
            }
        }
    }
    if (!result.finished) return std::nullopt;
    result.content = content.substr(2);
    result.rest = input.substr(i);
    return result;
}

TEST(DataDecoder, AgreesWithAPlainReading) {
    std::mt19937 random{2};
    constexpr std::string_view alphabet = "\r\n..ab";
    unsigned compared = 0;
    for (unsigned round = 0; round < 20'000; ++round) {
        std::string input;
        for (unsigned i = random() % 30; i > 0; --i) {
            if (random() % 3 == 0) input += "\r\n";
            input.push_back(alphabet[random() % alphabet.size()]);
        }
        input += "\r\n.\r\nrest";
        const auto expected = reference_decode(input);
        ASSERT_TRUE(expected.has_value());
        const Decoded mail = decode(input, BareNewlines::refuse, round, 5, 5);
        ASSERT_TRUE(mail.finished);
        ASSERT_EQ(mail.bare_newline, expected->bare_newline) << testing::PrintToString(input);
        ASSERT_EQ(mail.rest, expected->rest) << testing::PrintToString(input);
        if (mail.bare_newline) continue;
        ASSERT_EQ(mail.content, expected->content) << testing::PrintToString(input);
        ++compared;
    }
    EXPECT_GT(compared, 1000U);
}

TEST(DataDecoder, FindsTheEndAfterDiscard) {
    DataDecoder decoder;
    decoder.reset(Framing::dotted, BareNewlines::refuse);
    decoder.discard();
    const std::string input = "lots\r\n..of\r\ntext\r\n.\r\nNOOP\r\n";
    const auto progress = decoder.decode(base::as_bytes(input), {});
    EXPECT_EQ(progress.stop, DataDecoder::Stop::finished);
    EXPECT_EQ(progress.written, 0U);
    EXPECT_EQ(input.substr(progress.consumed), "NOOP\r\n");
}

// BDAT.

TEST(DataDecoder, LeavesDotsOfCountedTextAlone) {
    const Decoded chunk =
        decode("..a\r\n.\r\n.b\r\n", BareNewlines::refuse, 0, 4, 4, Framing::counted);
    EXPECT_EQ(chunk.content, "..a\r\n.\r\n.b\r\n");
    EXPECT_FALSE(chunk.bare_newline);
    EXPECT_FALSE(chunk.finished);
}

TEST(DataDecoder, RefusesBareNewlinesInCountedText) {
    for (const char* text : {"a\nb\r\n", "a\rb\r\n", "\n", "\r", "a\r\n\r", "a\r\r\n"}) {
        EXPECT_TRUE(decode(text, BareNewlines::refuse, 0, 2, 2, Framing::counted).bare_newline)
            << testing::PrintToString(std::string{text});
    }
    EXPECT_EQ(decode("a\nb\r", BareNewlines::make_crlf, 0, 2, 2, Framing::counted).content,
              "a\r\nb\r\n");
}

TEST(DataDecoder, PassesBinaryThroughUntouched) {
    std::string bytes;
    for (int i = 0; i < 1000; ++i)
        bytes += std::string{"\r.\n\0\r\n.", 7};
    const Decoded chunk = decode(bytes, BareNewlines::refuse, 7, 9, 11, Framing::binary);
    EXPECT_EQ(chunk.content, bytes);
    EXPECT_FALSE(chunk.bare_newline);
}

} // namespace
} // namespace dataplane::smtp
