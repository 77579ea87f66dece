#include "control/config_file.h"
#include "control/config_section.h"
#include "control/notation.h"

#include <algorithm>
#include <map>
#include <memory>

namespace control {
namespace {

bool is_header_name(std::string_view text) {
    return !text.empty() && text.size() <= name_bytes_max &&
           std::all_of(text.begin(), text.end(),
                       [](char byte) { return byte > ' ' && byte <= '~' && byte != ':'; });
}

void check_rule(const Section& from, const schema::ScreenRuleT& rule,
                const screen::Pattern& pattern) {
    if (from.given("pattern") && pattern.pattern.empty())
        from.error("pattern", "expected an expression, got \"\", which is everywhere");
    if (pattern.flags.find_first_not_of("ismuw") != std::string::npos) {
        from.error("flags", "expected some of the letters i, s, m, u and w, got " +
                                in_quotes(pattern.flags) + "; write flags = \"i\"");
    }
    if (!is_printable(rule.text))
        from.error("text", "expected one line of printable ASCII: it goes into an SMTP reply");
    if (!is_printable(rule.value))
        from.error("value", "expected one line of printable ASCII: it goes into a header");
    const bool tags = rule.action == schema::ScreenAction::tag;
    if (tags && !is_header_name(rule.header)) {
        from.error("header",
                   "a tag rule needs the name of a header; write header = \"X-Screened\"");
    }
    if (!tags && (!rule.header.empty() || !rule.value.empty())) {
        from.error(rule.header.empty() ? "value" : "header",
                   "only a tag rule has one; write action = \"tag\", or remove it");
    }
    const bool scores = rule.action == schema::ScreenAction::score;
    if (scores && rule.score == 0)
        from.error("score", "a score rule needs one other than 0; write score = 5");
    if (!scores && rule.score != 0)
        from.error("score", "only a score rule has one; write action = \"score\", or remove it");
}
} // namespace

void parse_rules(std::string_view text, const std::string& path, Config& config,
                 std::vector<ConfigError>& errors) {
    Errors to(path, errors);
    const auto root = parse_toml(text, to);
    if (!root) return;
    for (const auto& [key, node] : *root) {
        if (key.str() != "rule")
            to.add(key.source().begin.line, in_quotes(key.str()),
                   "unknown; a rule file has [[rule]] tables only");
    }
    const toml::node* node = root->get("rule");
    const auto* list = node == nullptr ? nullptr : node->as_array();
    if (list == nullptr || list->size() > list_entries_max) {
        if (node != nullptr)
            to.add(node->source().begin.line, "rule",
                   "expected a list of tables; write [[rule]] above each");
        return;
    }
    std::map<std::string, unsigned> names;
    for (const toml::node& element : *list) {
        if (!element.is_table()) {
            to.add(element.source().begin.line, "rule",
                   "expected a table; write [[rule]] above each");
            continue;
        }
        const Section from(to, element.as_table(), "rule", "rule", element.source().begin.line);
        auto rule = std::make_unique<schema::ScreenRuleT>();
        screen::Pattern pattern;
        rule->name = pattern.name = from.name("name", names);
        pattern.pattern = from.text("pattern");
        pattern.flags = from.text("flags");
        pattern.where = from.choice<screen::Pattern::Where>("where");
        rule->action = from.choice<schema::ScreenAction>("action");
        rule->text = from.text("text");
        rule->header = from.text("header");
        rule->value = from.text("value");
        rule->score = from.integer<std::int32_t>("score");
        check_rule(from, *rule, pattern);
        config.policy.screen->rules.push_back(std::move(rule));
        config.patterns.push_back(std::move(pattern));
        config.pattern_lines.push_back(from.line("pattern"));
    }
}

} // namespace control
