#include "dataplane/screen/screen.h"

#include "control/screen/screen_compiler.h"
#include "dataplane/base/slab.h"

#include <cstdlib>
#include <gtest/gtest.h>
#include <hs/hs.h>
#include <limits>
#include <new>

namespace {
std::size_t allocation_count = 0;
void* counted_malloc(std::size_t bytes) {
    ++allocation_count;
    return std::malloc(bytes);
}
} // namespace

// GCC 12 inlines these at -O2 and then takes the pair for a mistake.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

void* operator new(std::size_t bytes) {
    void* memory = counted_malloc(bytes);
    if (memory == nullptr) throw std::bad_alloc{};
    return memory;
}
void* operator new(std::size_t bytes,
                   const std::nothrow_t&) noexcept { // Hyperscan's compiler uses it
    return counted_malloc(bytes);
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}

namespace dataplane::screen {
namespace {

using Where = control::screen::Pattern::Where;
using RuleAction = Rule::Action;

struct TestRule {
    std::string name, pattern;
    Where where = Where::any;
    RuleAction action = RuleAction::score;
    std::int32_t score = 1;
    std::string text = {};
    std::string header = {}, value = {};
    std::string flags = {};
};

struct Compiled {
    control::screen::CompiledPatterns databases;
    std::vector<Rule> rules;

    [[nodiscard]] auto load(std::int32_t score_reject = 0) const {
        return RuleSet::load(base::as_bytes(databases.header_database),
                             base::as_bytes(databases.body_database), rules, score_reject);
    }
};

Compiled compile(const std::vector<TestRule>& rules) {
    std::vector<control::screen::Pattern> patterns;
    Compiled compiled;
    for (const TestRule& rule : rules) {
        patterns.push_back({rule.name, rule.pattern, rule.flags, rule.where});
        compiled.rules.push_back(
            {rule.name, rule.action, rule.text, rule.header, rule.value, rule.score});
    }
    auto databases = control::screen::compile_patterns(patterns);
    CHECK(databases.has_value());
    compiled.databases = std::move(*databases);
    return compiled;
}

std::shared_ptr<const RuleSet> load(const std::vector<TestRule>& rules,
                                    std::int32_t score_reject = 0) {
    auto loaded = compile(rules).load(score_reject);
    CHECK(loaded.has_value());
    return *loaded;
}

struct Result {
    Verdict::Action action;
    std::string text;
    std::int32_t score;
    std::vector<std::string> rules;
    std::vector<std::pair<std::string, std::string>> headers;
    bool operator==(const Result&) const = default;
};

Result finish(Scan& scan) {
    const Verdict verdict = scan.finish();
    Result result{verdict.action, std::string{verdict.text}, verdict.score, {}, {}};
    for (const auto name : verdict.rules)
        result.rules.emplace_back(name);
    for (const auto& header : verdict.headers)
        result.headers.emplace_back(header.name, header.value);
    return result;
}

class Screen : public ::testing::Test {
protected:
    void use(const std::vector<TestRule>& rules, std::int32_t score_reject = 0) {
        ASSERT_TRUE(screener.use(load(rules, score_reject)));
    }
    Result screen(std::string_view message) {
        Scan scan = screener.begin();
        scan.feed(base::as_bytes(message));
        return finish(scan);
    }
    /// Names of the rules that hit.
    std::vector<std::string> hits(std::string_view message) { return screen(message).rules; }

    Screener screener;
};
using Names = std::vector<std::string>;

constexpr std::string_view message =
    "From: a@b.example\r\nSubject: cheap\r\n watches\r\n\r\ncheap pills\r\nend\r\n";

TEST_F(Screen, HeaderBodyAndAnyLookWhereTheySay) {
    use({{"h", "watches", Where::header},
         {"b", "pills", Where::body},
         {"any-h", "Subject"},
         {"any-b", "end"}});
    EXPECT_EQ(hits(message), (Names{"h", "b", "any-h", "any-b"}));
    use({{"h", "pills", Where::header}, {"b", "watches", Where::body}});
    EXPECT_EQ(hits(message), Names{});
}

TEST_F(Screen, RuleThatHitsOftenAndOnBothSidesCountsOnce) {
    use({{.name = "cheap", .pattern = "cheap", .score = 3}});
    const auto result = screen(std::string{message} + "cheap cheap cheap\r\n");
    EXPECT_EQ(result.rules, Names{"cheap"});
    EXPECT_EQ(result.score, 3);
}

// Goal: where a chunk ends changes nothing, be it inside a match or inside the empty line. Method:
// every two-way split of messages with each kind of newline, and byte by byte.
TEST_F(Screen, VerdictIsTheSameAtEverySplit) {
    use({{"folded", "cheap\\s+watches", Where::header, RuleAction::score, 2},
         {"not-body", "Subject", Where::body},
         {"pills", "cheap pills", Where::body, RuleAction::tag, 0, "", "X-Pills", "yes"},
         {"not-header", "pills", Where::header},
         {"end", "end\\r?\\n\\z", Where::body, RuleAction::score, 5}});
    for (const std::string_view newline : {"\r\n", "\n"}) {
        std::string text{message};
        if (newline == "\n") std::erase(text, '\r');
        const Result whole = screen(text);
        EXPECT_EQ(whole.rules, (Names{"folded", "pills", "end"}));
        EXPECT_EQ(whole.score, 7);
        for (std::size_t split = 0; split <= text.size(); ++split) {
            Scan scan = screener.begin();
            scan.feed(base::as_bytes(std::string_view{text}.substr(0, split)));
            scan.feed({});
            scan.feed(base::as_bytes(std::string_view{text}.substr(split)));
            EXPECT_EQ(finish(scan), whole) << "split at " << split;
        }
        Scan scan = screener.begin();
        for (const char& byte : text)
            scan.feed(base::as_bytes(std::string_view{&byte, 1}));
        EXPECT_EQ(finish(scan), whole);
    }
}

TEST_F(Screen, HeaderEndsAtTheFirstEmptyLineOnly) {
    use({{"h", "XX", Where::header}, {"b", "XX", Where::body}});
    EXPECT_EQ(hits("\r\nXX"), Names{"b"}); // no header at all
    EXPECT_EQ(hits("\nXX"), Names{"b"});
    EXPECT_EQ(hits("A: b\r\n\r\nXX"), Names{"b"});
    EXPECT_EQ(hits("A: b\n\r\nXX"), Names{"b"}); // mixed newlines
    EXPECT_EQ(hits("A: b\r\n\nXX"), Names{"b"});
    EXPECT_EQ(hits("A: b\r\n\rXX"), Names{"h"}); // a bare CR ends nothing
    EXPECT_EQ(hits("A: b\r\n\r\rXX"), Names{"h"});
    EXPECT_EQ(hits("A: b\r\n\r\r\nXX"), Names{"h"});
    EXPECT_EQ(hits("A: b\r\n \r\nXX"), Names{"h"}); // a folded line of white space
    EXPECT_EQ(hits("A: XX\r\n"), Names{"h"});       // and none: all header
}

TEST_F(Screen, EachActionDoesItsPart) {
    use({{.name = "tag",
          .pattern = "one",
          .action = RuleAction::tag,
          .header = "X-One",
          .value = "1"},
         {.name = "defer", .pattern = "two", .action = RuleAction::defer, .text = "wait a while"},
         {.name = "reject", .pattern = "three", .action = RuleAction::reject, .text = "no thanks"},
         {.name = "quiet", .pattern = "four", .action = RuleAction::reject}});
    EXPECT_EQ(screen("A: b\r\n\r\nnothing").action, Verdict::Action::accept);
    EXPECT_TRUE(screen("A: b\r\n\r\nnothing").text.empty());

    const auto tagged = screen("A: b\r\n\r\none");
    EXPECT_EQ(tagged.action, Verdict::Action::accept);
    EXPECT_EQ(tagged.headers, (std::vector<std::pair<std::string, std::string>>{{"X-One", "1"}}));

    const auto deferred = screen("A: b\r\n\r\none two");
    EXPECT_EQ(deferred.action, Verdict::Action::defer);
    EXPECT_EQ(deferred.text, "wait a while");

    const auto rejected =
        screen("A: b\r\n\r\nfour three two one"); // the rule file's order decides, not the text's
    EXPECT_EQ(rejected.action, Verdict::Action::reject);
    EXPECT_EQ(rejected.text, "no thanks");
    EXPECT_EQ(rejected.rules, (Names{"tag", "defer", "reject", "quiet"}));

    EXPECT_FALSE(screen("A: b\r\n\r\nfour").text.empty());
}

TEST_F(Screen, ScoresAddUpAndRejectAtTheThreshold) {
    const std::vector<TestRule> rules{{.name = "three", .pattern = "aaa", .score = 3},
                                      {.name = "four", .pattern = "bbb", .score = 4},
                                      {.name = "minus", .pattern = "ccc", .score = -2}};
    use(rules, 7);
    EXPECT_EQ(screen("\r\naaa").action, Verdict::Action::accept);
    EXPECT_EQ(screen("\r\naaa bbb").action, Verdict::Action::reject);
    EXPECT_FALSE(screen("\r\naaa bbb").text.empty());
    EXPECT_EQ(screen("\r\naaa bbb ccc").action, Verdict::Action::accept);
    EXPECT_EQ(screen("\r\naaa bbb ccc").score, 5);
    use(rules, 0); // no threshold
    EXPECT_EQ(screen("\r\naaa bbb").action, Verdict::Action::accept);
}

TEST_F(Screen, ScoreSaturates) {
    constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
    use({{.name = "a", .pattern = "aaa", .score = most},
         {.name = "b", .pattern = "bbb", .score = most}},
        100);
    const auto result = screen("\r\naaa bbb");
    EXPECT_EQ(result.score, most);
    EXPECT_EQ(result.action, Verdict::Action::reject);
}

TEST_F(Screen, FlagsReachHyperscan) {
    use({{.name = "i", .pattern = "viagra", .flags = "i"},
         {.name = "plain", .pattern = "viagra"},
         {.name = "m", .pattern = "^begin", .where = Where::body, .flags = "m"},
         {.name = "s", .pattern = "alpha.omega", .flags = "s"},
         {.name = "u", .pattern = "\u00fc", .flags = "iu"}});
    EXPECT_EQ(hits("\r\nVIAGRA\r\nbegin alpha\nomega \u00dc"), (Names{"i", "m", "s", "u"}));
}

TEST_F(Screen, OneMessageLeavesNothingToTheNext) {
    use({{"split", "abcdef", Where::body}, {"h", "X-Spam", Where::header}});
    EXPECT_EQ(hits("X-Spam: 1\r\n\r\nabc"), Names{"h"});
    EXPECT_EQ(hits("A: b\r\n\r\ndef"), Names{});
    { // dropped in the middle
        Scan scan = screener.begin();
        scan.feed(base::as_bytes("X-Spam: 1\r\n\r\nabc"));
    }
    EXPECT_EQ(hits("A: b\r\n\r\ndef"), Names{});
}

TEST_F(Screen, MessagesInterleave) {
    use({{"ab", "aaabbb", Where::body}, {"cd", "cccddd", Where::body}});
    Scan first = screener.begin();
    Scan second = screener.begin();
    first.feed(base::as_bytes("\r\naaa"));
    second.feed(base::as_bytes("\r\nccc"));
    first.feed(base::as_bytes("bbb"));
    second.feed(base::as_bytes("ddd"));
    EXPECT_EQ(finish(first).rules, Names{"ab"});
    EXPECT_EQ(finish(second).rules, Names{"cd"});
}

TEST_F(Screen, OpenScanEndsWithTheRulesItBeganWith) {
    use({{"old", "needle", Where::body}});
    Scan open = screener.begin();
    open.feed(base::as_bytes("\r\nnee"));
    use({{"new-one", "haystack"}, {"new-two", "needle"}});
    EXPECT_EQ(hits("\r\nneedle"), Names{"new-two"});
    open.feed(base::as_bytes("dle haystack"));
    EXPECT_EQ(finish(open).rules, Names{"old"});
    ASSERT_TRUE(screener.use(nullptr));
    EXPECT_FALSE(screener.active());
    EXPECT_EQ(hits("\r\nneedle"), Names{});
}

TEST_F(Screen, ScanOutlivesItsScreener) {
    auto own = std::make_unique<Screener>();
    ASSERT_TRUE(own->use(load({{"old", "needle"}})));
    Scan open = own->begin();
    own.reset();
    open.feed(base::as_bytes("\r\nneedle"));
    Scan moved = std::move(open);
    EXPECT_EQ(finish(moved).rules, Names{"old"});
}

TEST_F(Screen, NoRulesAcceptEverything) {
    EXPECT_EQ(screen(message).action, Verdict::Action::accept);
    use({});
    EXPECT_FALSE(screener.active());
    EXPECT_EQ(screen(message).action, Verdict::Action::accept);
}

TEST_F(Screen, WarmScreeningAllocatesNothing) {
    hs_set_allocator(counted_malloc, std::free);
    use({{"h", "watches", Where::header},
         {"b", "pills", Where::body, RuleAction::tag, 0, "", "X-Pills", "yes"}});
    const auto once = [&] {
        Scan scan = screener.begin();
        scan.feed(base::as_bytes(message.substr(0, 30)));
        scan.feed(base::as_bytes(message.substr(30)));
        return scan.finish().rules.size();
    };
    EXPECT_EQ(once(), 2U);
    const std::size_t before = allocation_count;
    std::size_t total = 0;
    for (int i = 0; i < 100; ++i)
        total += once();
    EXPECT_EQ(allocation_count, before);
    EXPECT_EQ(total, 200U);
    hs_set_allocator(nullptr, nullptr);
}

// Goal: what could not be screened is not accepted. Method: Hyperscan's memory ends when a stream
// is opened.
TEST_F(Screen, FailureInTheMiddleDefers) {
    use({{"a", "needle"}});
    hs_set_stream_allocator([](std::size_t) -> void* { return nullptr; }, std::free);
    const auto result = screen("\r\nneedle");
    hs_set_stream_allocator(nullptr, nullptr);
    EXPECT_EQ(result.action, Verdict::Action::defer);
    EXPECT_FALSE(result.text.empty());
    EXPECT_EQ(hits("\r\nneedle"), Names{"a"}); // and the broken one was not kept
}

TEST_F(Screen, DamagedDatabasesAreRefusedAndTheOldRulesStay) {
    use({{"old", "needle"}});
    const auto good = compile({{"a", "foo"}, {"b", "bar", Where::body}});
    const std::size_t bytes =
        good.databases.body_database.size(); // the last 72 are padding that nothing reads
    for (const std::size_t at : {std::size_t{0}, bytes / 4, bytes / 2, bytes - 100}) {
        auto damaged = good;
        damaged.databases.body_database[at] ^= 0x55;
        const auto loaded = damaged.load();
        ASSERT_FALSE(loaded.has_value()) << at;
        EXPECT_EQ(loaded.error().kind, ScreenErrorKind::bad_database);
        EXPECT_NE(loaded.error().text.find("body"), std::string::npos) << loaded.error().text;
    }
    auto cut = good;
    cut.databases.header_database.resize(cut.databases.header_database.size() / 2);
    EXPECT_FALSE(cut.load().has_value());
    auto garbage = good;
    garbage.databases.header_database =
        "this was never a database, but it is long enough to look like one";
    EXPECT_FALSE(garbage.load().has_value());
    EXPECT_EQ(hits("\r\nneedle"), Names{"old"});
}

TEST_F(Screen, BlockModeDatabaseIsRefused) {
    hs_database_t* database = nullptr;
    hs_compile_error_t* error = nullptr;
    ASSERT_EQ(hs_compile("foo", 0, HS_MODE_BLOCK, nullptr, &database, &error), HS_SUCCESS);
    char* bytes = nullptr;
    std::size_t length = 0;
    ASSERT_EQ(hs_serialize_database(database, &bytes, &length), HS_SUCCESS);
    Compiled block;
    block.databases.header_database.assign(bytes, length);
    std::free(bytes);
    hs_free_database(database);
    const auto loaded = block.load();
    ASSERT_FALSE(loaded.has_value());
    EXPECT_NE(loaded.error().text.find("streaming"), std::string::npos) << loaded.error().text;
}

TEST_F(Screen, IdsBeyondTheRuleTableAreIgnored) {
    auto compiled = compile({{"a", "foo"}, {"b", "bar"}});
    compiled.rules.pop_back();
    auto loaded = compiled.load();
    ASSERT_TRUE(loaded.has_value());
    ASSERT_TRUE(screener.use(*loaded));
    EXPECT_EQ(hits("\r\nfoo bar"), Names{"a"});
}

} // namespace
} // namespace dataplane::screen
