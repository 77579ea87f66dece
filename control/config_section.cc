#include "control/config_section.h"

#include "control/notation.h"
#include "dataplane/base/check.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

namespace control {
namespace {

/// The default of each setting as a TOML value, so that defaults pass the checks that values do.
const toml::node& default_of(const Setting& setting) {
    static const auto all = [] {
        std::map<const Setting*, toml::table> tables;
        for (const Setting& each : settings()) {
            tables.emplace(&each, toml::parse("value = " + std::string{each.value}));
        }
        return tables;
    }();
    return *all.at(&setting).get("value");
}

bool in_range(const Setting& setting, double number) {
    return (setting.least == 0 && setting.most == 0) ||
           (number >= setting.least && number <= setting.most);
}

std::string example(const Setting& setting) {
    return std::string{setting.key} + " = " + std::string{setting.value};
}

} // namespace

void Errors::add(unsigned line, std::string key, std::string text) {
    if (errors_.size() >= errors_max) return;
    std::replace_if(
        text.begin(), text.end(),
        [](char byte) { return static_cast<unsigned char>(byte) < ' ' || byte == 0x7f; }, '?');
    errors_.push_back({file_, line, std::move(key), std::move(text)});
}

std::string shown(const toml::node& node) {
    if (const auto* text = node.as_string()) return in_quotes(text->get());
    if (const auto* number = node.as_integer()) return std::to_string(number->get());
    if (const auto* number = node.as_floating_point()) {
        std::string text = std::to_string(number->get());
        text.erase(text.find_last_not_of('0') + 1);
        return text.ends_with('.') ? text + '0' : text;
    }
    if (const auto* flag = node.as_boolean()) return flag->get() ? "true" : "false";
    if (node.is_array()) return "a list";
    if (node.is_table()) return "a table";
    return "a date or time";
}

Section::Section(Errors& errors, const toml::table* node, std::string_view table, std::string label,
                 unsigned line, std::span<const std::string_view> children,
                 const toml::table* inherited)
    : errors_(errors), node_(node), inherited_(inherited), table_(table), label_(std::move(label)),
      line_(line) {
    if (node_ != nullptr) refuse_unknown(children);
}

unsigned Section::line(std::string_view key) const {
    const toml::node* node = node_ != nullptr ? node_->get(key) : nullptr;
    return node != nullptr && node->source().begin.line != 0 ? node->source().begin.line : line_;
}

void Section::error(std::string_view key, std::string text) const {
    errors_.add(line(key), label_ + (key.empty() ? "" : "." + std::string{key}), std::move(text));
}

std::string Section::text(std::string_view key) const {
    const Setting& setting = known(key);
    const toml::node& node = value(setting);
    const auto* found = node.as_string();
    if (found == nullptr) return refuse(setting, node), std::string{};
    const std::string& got = found->get();
    if (got.size() > text_bytes_max || got.find('\0') != std::string::npos) {
        error(key, "expected at most " + std::to_string(text_bytes_max) + " bytes without NUL");
        return {};
    }
    return got;
}

std::string Section::name(std::string_view key, std::map<std::string, unsigned>& taken) const {
    std::string got = text(key);
    if (!given(key) || got.empty()) {
        if (given(key)) error(key, "expected a name, got \"\"; write " + example(known(key)));
        return {};
    }
    if (!is_name(got)) {
        error(key, "expected a name of at most 64 letters, digits, '-', '_' and '.', got " +
                       in_quotes(got));
        return {};
    }
    const auto [first, fresh] = taken.emplace(got, line(key));
    if (!fresh) {
        error(key, "the name " + in_quotes(got) + " is taken by line " +
                       std::to_string(first->second) + "; give each its own");
    }
    return got;
}

bool Section::flag(std::string_view key) const {
    const Setting& setting = known(key);
    const toml::node& node = value(setting);
    if (const auto* found = node.as_boolean()) return found->get();
    refuse(setting, node);
    return false;
}

std::int64_t Section::whole_number(std::string_view key) const {
    const Setting& setting = known(key);
    const toml::node& node = value(setting);
    const auto* found = node.as_integer();
    if (found != nullptr && in_range(setting, static_cast<double>(found->get())))
        return found->get();
    refuse(setting, node);
    return static_cast<std::int64_t>(setting.least);
}

double Section::real(std::string_view key) const {
    const Setting& setting = known(key);
    const toml::node& node = value(setting);
    const auto found = node.is_number() ? node.value<double>() : std::nullopt;
    if (found && std::isfinite(*found) && in_range(setting, *found)) return *found;
    refuse(setting, node);
    return setting.least;
}

std::uint32_t Section::seconds(std::string_view key) const {
    return static_cast<std::uint32_t>(quantity(key, parse_duration));
}

std::uint64_t Section::bytes(std::string_view key) const {
    return quantity(key, parse_size);
}

std::uint32_t Section::per_second(std::string_view key) const {
    const Setting& setting = known(key);
    const toml::node& node = value(setting);
    double rate = 0;
    const auto* found = node.as_string();
    if (found != nullptr && parse_rate(found->get(), rate) && in_range(setting, rate) &&
        rate == std::floor(rate)) {
        return static_cast<std::uint32_t>(rate);
    }
    refuse(setting, node);
    return 0;
}

unsigned Section::choice_index(std::string_view key) const {
    const Setting& setting = known(key);
    const toml::node& node = value(setting);
    std::string_view rest = setting.choices;
    for (unsigned index = 0; !rest.empty(); ++index) {
        const std::size_t end = std::min(rest.find('|'), rest.size());
        if (node.is_string() && node.as_string()->get() == rest.substr(0, end)) return index;
        rest.remove_prefix(std::min(end + 1, rest.size()));
    }
    refuse(setting, node);
    return 0;
}

std::string Section::host_name(std::string_view key) const {
    std::string got = lower(text(key));
    if (got.empty() && !given(key)) return got;
    if (got.empty() && known(key).presence == Presence::optional) return got;
    if (!is_host_name(got)) refuse(known(key), value(known(key)));
    return got;
}

base::SocketAddress Section::address(std::string_view key) const {
    const Setting& setting = known(key);
    const toml::node& node = value(setting);
    const auto* found = node.as_string();
    const auto parsed = found != nullptr ? base::SocketAddress::parse(found->get()) : std::nullopt;
    if (parsed && parsed->port != 0) return *parsed;
    refuse(setting, node);
    return {};
}

std::string Section::ip(std::string_view key, bool v6) const {
    std::string got = text(key);
    if (got.empty()) return got;
    const auto parsed = base::IpAddress::parse(got);
    if (parsed && parsed->is_v6() == v6) return parsed->to_string();
    refuse(known(key), value(known(key)));
    return {};
}

base::IpAddress Section::ip(std::string_view key) const {
    const Setting& setting = known(key);
    const toml::node& node = value(setting);
    const auto* found = node.as_string();
    const auto parsed = found != nullptr ? base::IpAddress::parse(found->get()) : std::nullopt;
    if (!parsed) refuse(setting, node);
    return parsed.value_or(base::IpAddress{});
}

base::Network Section::network(std::string_view key) const {
    const Setting& setting = known(key);
    const toml::node& node = value(setting);
    const auto* found = node.as_string();
    const auto parsed = found != nullptr ? base::Network::parse(found->get()) : std::nullopt;
    if (!parsed) refuse(setting, node);
    return parsed.value_or(base::Network{});
}

std::string Section::device(std::string_view key) const {
    const Setting& setting = known(key);
    const toml::node& node = value(setting);
    const auto* found = node.as_string();
    std::string kept = found != nullptr ? normal_device(found->get()) : std::string{};
    if (kept.empty()) refuse(setting, node);
    return kept;
}

std::string Section::path(std::string_view key) const {
    std::string got = text(key);
    if (got.empty()) return got;
    std::error_code ignored;
    const auto folder = std::filesystem::absolute(errors_.file(), ignored).parent_path();
    return (folder / got).lexically_normal().string();
}

std::string Section::file(std::string_view key) const {
    std::string got = path(key);
    if (got.empty()) return got;
    std::error_code failure;
    const bool regular = std::filesystem::is_regular_file(got, failure);
    if (!regular || !std::ifstream(got)) {
        error(key,
              std::string{"no file can be read at "} + in_quotes(got) +
                  "; put it there, correct the path, or let the user that runs the relay read it");
    }
    return got;
}

std::vector<std::int32_t> Section::integers(std::string_view key) const {
    std::vector<std::int32_t> result;
    each_of(key, [&](const Setting& setting, const toml::node& element) {
        const auto* found = element.as_integer();
        if (found == nullptr || !in_range(setting, static_cast<double>(found->get())))
            return refuse(setting, element);
        result.push_back(static_cast<std::int32_t>(found->get()));
    });
    return result;
}

void Section::refuse(const Setting& setting, const toml::node& node) const {
    const unsigned at =
        node.source().begin.line != 0 ? node.source().begin.line : line(setting.key);
    errors_.add(at, label_ + "." + std::string{setting.key},
                "expected " + describe(setting) + ", got " + shown(node) + "; write " +
                    example(setting));
}

const Setting& Section::known(std::string_view key) const {
    const Setting* setting = find_setting(table_, key);
    CHECK(setting != nullptr);
    return *setting;
}

const toml::node& Section::value(const Setting& setting) const {
    if (node_ != nullptr) {
        if (const toml::node* node = node_->get(setting.key)) return *node;
    }
    if (inherited_ != nullptr) {
        if (const toml::node* node = inherited_->get(setting.key)) return *node;
    }
    if (setting.presence == Presence::required && !std::exchange(missing_[&setting], true)) {
        errors_.add(line_, label_ + "." + std::string{setting.key},
                    "is missing, and has no default; write " + example(setting));
    }
    return default_of(setting);
}

std::uint64_t Section::quantity(std::string_view key,
                                bool (*parse)(std::string_view, std::uint64_t&)) const {
    const Setting& setting = known(key);
    const toml::node& node = value(setting);
    std::uint64_t got = 0;
    const auto* found = node.as_string();
    if (found != nullptr && parse(found->get(), got) && in_range(setting, static_cast<double>(got)))
        return got;
    refuse(setting, node);
    return static_cast<std::uint64_t>(setting.least);
}

void Section::refuse_unknown(std::span<const std::string_view> children) const {
    std::vector<std::string_view> names(children.begin(), children.end());
    for (const Setting& setting : settings()) {
        if (setting.table == table_) names.push_back(setting.key);
    }
    for (const auto& [key, node] : *node_) {
        const std::string_view got = key.str();
        if (std::find(names.begin(), names.end(), got) != names.end()) continue;
        std::string text = "unknown key";
        if (const std::string_view meant = nearest(got, names); !meant.empty()) {
            text += "; did you mean " + std::string{meant} + "?";
        } else {
            text += "; known here:";
            for (const std::string_view name : names)
                text += " " + std::string{name};
        }
        const unsigned at = key.source().begin.line != 0 ? key.source().begin.line : line_;
        errors_.add(at, label_ + "." + (is_printable(got) ? std::string{got} : in_quotes(got)),
                    std::move(text));
    }
}

} // namespace control
