#include "control/screen/screen_compiler.h"

#include <gtest/gtest.h>
#include <vector>

namespace control::screen {
namespace {

CompileError error_of(std::vector<Pattern> patterns) {
    auto compiled = compile_patterns(patterns);
    EXPECT_FALSE(compiled.has_value());
    return compiled.has_value() ? CompileError{} : compiled.error();
}

TEST(ScreenCompiler, BadPatternIsNamedWithHyperscansReasonAndPlace) {
    const auto error = error_of(
        {{.name = "good", .pattern = "abc"}, {.name = "unclosed", .pattern = "viagra(pills"}});
    EXPECT_EQ(error.index, 1U);
    EXPECT_EQ(error.name, "unclosed");
    EXPECT_NE(error.reason.find("parenthes"), std::string::npos) << error.reason;
    EXPECT_EQ(error.offset, 6U) << error.reason;
}

TEST(ScreenCompiler, BadPatternIsFoundBehindPatternsOfTheOtherDatabase) {
    // The database's own numbering skips the header rules in front; the error must not.
    const auto error = error_of({{.name = "a", .pattern = "a", .where = Pattern::Where::header},
                                 {.name = "b", .pattern = "b", .where = Pattern::Where::header},
                                 {.name = "c", .pattern = "c(", .where = Pattern::Where::body}});
    EXPECT_EQ(error.index, 2U);
    EXPECT_EQ(error.name, "c");
}

TEST(ScreenCompiler, UnsupportedConstructsAreErrors) {
    EXPECT_FALSE(error_of({{.name = "back", .pattern = "(a)\\1"}}).reason.empty());
    EXPECT_FALSE(
        error_of({{.name = "empty", .pattern = "a*"}}).reason.empty()); // hits every message
}

TEST(ScreenCompiler, PatternThatIsNotUtf8IsRefusedOnlyWithTheFlag) {
    const auto error = error_of({{.name = "latin", .pattern = "caf\xe9", .flags = "u"}});
    EXPECT_EQ(error.name, "latin");
    EXPECT_NE(error.reason.find("UTF-8"), std::string::npos) << error.reason;
    EXPECT_TRUE(compile_patterns(std::vector<Pattern>{{.name = "latin", .pattern = "caf\xe9"}})
                    .has_value());
}

TEST(ScreenCompiler, FlagsThatDoNotExistOrFitAreRefused) {
    EXPECT_NE(error_of({{.name = "x", .pattern = "a", .flags = "ix"}}).reason.find("'x'"),
              std::string::npos);
    EXPECT_NE(error_of({{.name = "w", .pattern = "a", .flags = "w"}}).reason.find("needs flag 'u'"),
              std::string::npos);
}

TEST(ScreenCompiler, EmptyLongAndNulPatternsAreRefused) {
    EXPECT_EQ(error_of({{.name = "e", .pattern = ""}}).index, 0U);
    EXPECT_EQ(error_of({{.name = "l", .pattern = std::string(pattern_bytes_max + 1, 'a')}}).name,
              "l");
    EXPECT_EQ(error_of({{.name = "n", .pattern = std::string{"a\0b", 3}}}).name, "n");
}

TEST(ScreenCompiler, DatabasesAreMadeOnlyWhereARuleLooks) {
    auto header = compile_patterns(
        std::vector<Pattern>{{.name = "h", .pattern = "a", .where = Pattern::Where::header}});
    ASSERT_TRUE(header.has_value());
    EXPECT_FALSE(header->header_database.empty());
    EXPECT_TRUE(header->body_database.empty());
    auto none = compile_patterns({});
    ASSERT_TRUE(none.has_value());
    EXPECT_TRUE(none->header_database.empty() && none->body_database.empty());
}

TEST(ScreenCompiler, SamePatternsGiveTheSameBytes) {
    const std::vector<Pattern> patterns{{.name = "a", .pattern = "foo.*bar", .flags = "is"}};
    EXPECT_EQ(compile_patterns(patterns)->body_database, compile_patterns(patterns)->body_database);
}

} // namespace
} // namespace control::screen
