#include "dataplane/loadgen/audit.h"

#include "dataplane/loadgen/ledger.h"

#include <gtest/gtest.h>
#include <sstream>

namespace dataplane::loadgen {
namespace {

std::string sent(std::uint64_t sequence, Outcome outcome, std::uint32_t recipients = 1) {
    return to_text(
               SourceLine{sequence, outcome, 1'000'000, recipients, "r1", "250 2.0.0 OK queued"}) +
           "\n";
}
std::string came(std::uint64_t sequence, const std::string& recipient = "a@b",
                 bool altered = false) {
    return to_text(SinkLine{sequence, altered, 2'000'000, recipient, "r1"}) + "\n";
}
Audit audit_texts(const std::string& source, const std::string& sink) {
    std::istringstream source_ledger(source);
    std::istringstream sink_ledger(sink);
    return audit(source_ledger, sink_ledger);
}

TEST(Audit, WholeRunPasses) {
    const Audit result =
        audit_texts("# remark\n" + sent(1, Outcome::accepted) + sent(2, Outcome::accepted, 2),
                    came(1) + came(2, "x@y") + came(2, "z@y"));
    EXPECT_TRUE(result.passed());
    EXPECT_EQ(result.promised, 3U);
    EXPECT_EQ(result.delivered, 3U);
    EXPECT_EQ(result.duplicated.count, 0U);
}

TEST(Audit, MissingMessageIsLostAndNamed) {
    const Audit result =
        audit_texts(sent(1, Outcome::accepted) + sent(2, Outcome::accepted), came(1));
    EXPECT_FALSE(result.passed());
    EXPECT_EQ(result.lost.count, 1U);
    ASSERT_EQ(result.lost.examples.size(), 1U);
    EXPECT_EQ(result.lost.examples[0], "r1/2");
    EXPECT_NE(to_text(result).find("lost 1 (r1/2)"), std::string::npos);
}

TEST(Audit, OneMissingRecipientOfManyIsLost) {
    const Audit result =
        audit_texts(sent(1, Outcome::accepted, 3), came(1, "a@b") + came(1, "c@d"));
    EXPECT_EQ(result.lost.count, 1U);
}

TEST(Audit, SecondCopyIsADuplicateAndNoSubstituteForAnother) {
    const Audit result =
        audit_texts(sent(1, Outcome::accepted, 2), came(1, "a@b") + came(1, "a@b"));
    EXPECT_EQ(result.duplicated.count, 1U);
    EXPECT_EQ(result.lost.count, 1U);
}

TEST(Audit, AlteredBodyFails) {
    const Audit result = audit_texts(sent(1, Outcome::accepted), came(1, "a@b", true));
    EXPECT_FALSE(result.passed());
    EXPECT_EQ(result.altered.count, 1U);
    EXPECT_EQ(result.lost.count, 0U);
}

TEST(Audit, UnknownOutcomeMayArriveOrNot) {
    const Audit result =
        audit_texts(sent(1, Outcome::unknown) + sent(2, Outcome::unknown), came(1));
    EXPECT_TRUE(result.passed());
    EXPECT_EQ(result.unknown_messages, 2U);
    EXPECT_EQ(result.unknown_delivered, 1U);
    EXPECT_EQ(result.unexplained.count, 0U);
}

TEST(Audit, RefusedOrNeverSentMailThatArrivesIsUnexplained) {
    const Audit result = audit_texts(sent(1, Outcome::transient) + sent(2, Outcome::permanent),
                                     came(1) + came(2) + came(3));
    EXPECT_EQ(result.unexplained.count, 3U);
}

TEST(Ledger, TornAndForeignLinesAreIgnored) {
    EXPECT_FALSE(parse_source_line("12 accep"));
    EXPECT_FALSE(parse_source_line(""));
    EXPECT_FALSE(parse_source_line("# run 1"));
    EXPECT_FALSE(parse_sink_line("12 whole 99"));
    EXPECT_FALSE(parse_sink_line("x whole 99 a@b r1"));
    const auto line = parse_source_line("12 unknown 99 1 r1 0 ");
    ASSERT_TRUE(line);
    EXPECT_EQ(line->outcome, Outcome::unknown);
    EXPECT_EQ(line->sequence, 12U);
}

} // namespace
} // namespace dataplane::loadgen
