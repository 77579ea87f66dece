// config_section.h: one TOML table, read by the settings of one name.
//
// Scope      Presence, type, range, unknown keys, and the error texts of all that, from the table
//            in settings.h. What the values mean together is config.cc's business.
// Owns       Nothing: the TOML and the error list are the caller's. toml++ is heavy: include this
//            in .cc files.
// Threading  Any; no state beyond the object.
// Failure    Each getter returns the default, or something harmless, when the value is wrong and
//            adds an error: so reading goes on and finds the next one.
#pragma once

#include "control/config.h"
#include "control/settings.h"

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <toml++/toml.h>
#include <utility>
#include <vector>

namespace control {

inline constexpr std::size_t list_entries_max = 100'000; // sources, routes, rules, domains
inline constexpr std::size_t text_bytes_max = 8192;      // of one value; a pattern is the longest
inline constexpr std::size_t errors_max = 200;           // a person mends a few at a time

/// The errors of one file.
class Errors {
public:
    Errors(std::string file, std::vector<ConfigError>& errors)
        : file_(std::move(file)), errors_(errors) {}
    /// Control characters of the file that got into `text` do not get out: an error is one line.
    void add(unsigned line, std::string key, std::string text);
    [[nodiscard]] std::size_t count() const noexcept { return errors_.size(); }
    [[nodiscard]] const std::string& file() const noexcept { return file_; }

private:
    std::string file_;
    std::vector<ConfigError>& errors_;
};

/// A value as error texts show it.
[[nodiscard]] std::string shown(const toml::node& node);

class Section {
public:
    /// \param node       may be null: then everything has its default
    /// \param label      as errors call it: "server", "site.\"gmail.com\""
    /// \param children   sub-tables that are read elsewhere
    /// \param inherited  where values come from that `node` does not have; may be null
    Section(Errors& errors, const toml::table* node, std::string_view table, std::string label,
            unsigned line, std::span<const std::string_view> children = {},
            const toml::table* inherited = nullptr);

    [[nodiscard]] bool given(std::string_view key) const {
        return node_ != nullptr && node_->contains(key);
    }
    [[nodiscard]] bool has_text(std::string_view key) const {
        return given(key) && node_->get(key)->is_string();
    }
    [[nodiscard]] const Errors& errors() const noexcept { return errors_; }
    [[nodiscard]] unsigned line() const noexcept { return line_; }
    [[nodiscard]] unsigned line(std::string_view key) const;
    /// An error about `key`, or about the table when it is empty.
    void error(std::string_view key, std::string text) const;

    [[nodiscard]] std::string text(std::string_view key) const;
    /// A text that is a name, unique among `taken`.
    [[nodiscard]] std::string name(std::string_view key,
                                   std::map<std::string, unsigned>& taken) const;
    [[nodiscard]] bool flag(std::string_view key) const;
    template <class Number = std::uint32_t>
    [[nodiscard]] Number integer(std::string_view key) const {
        return static_cast<Number>(whole_number(key));
    }
    [[nodiscard]] double real(std::string_view key) const;
    [[nodiscard]] std::uint32_t seconds(std::string_view key) const;
    [[nodiscard]] std::uint64_t bytes(std::string_view key) const;
    [[nodiscard]] std::uint32_t per_second(std::string_view key) const;
    /// \tparam Enum  an enumeration in the order of the setting's choices
    template <class Enum>
    [[nodiscard]] Enum choice(std::string_view key) const {
        return static_cast<Enum>(choice_index(key));
    }
    [[nodiscard]] std::string host_name(std::string_view key) const;
    [[nodiscard]] base::SocketAddress address(std::string_view key) const;
    [[nodiscard]] std::string ip(std::string_view key, bool v6) const;
    [[nodiscard]] base::IpAddress ip(std::string_view key) const;
    [[nodiscard]] base::Network network(std::string_view key) const;
    [[nodiscard]] std::string device(std::string_view key) const;
    /// A path, made absolute from the file's folder. Empty stays empty.
    [[nodiscard]] std::string path(std::string_view key) const;
    /// The same of a file that must be readable now.
    [[nodiscard]] std::string file(std::string_view key) const;
    /// A list of texts, each of which `accept(text)` turns into what is kept, or refuses with
    /// nothing.
    template <class Accept>
    [[nodiscard]] std::vector<std::string> texts(std::string_view key, Accept accept) const {
        std::vector<std::string> result;
        each_of(key, [&](const Setting& setting, const toml::node& element) {
            const auto* found = element.as_string();
            auto kept = found != nullptr && found->get().size() <= text_bytes_max
                            ? accept(found->get())
                            : std::optional<std::string>{};
            if (!kept) return refuse(setting, element);
            result.push_back(std::move(*kept));
        });
        return result;
    }
    /// The same where one element may be wrong for a reason of its own: `take(text, line)` returns
    /// it, "" when there is none, or nothing when the text is no such thing at all.
    template <class Take>
    void each_text(std::string_view key, Take take) const {
        each_of(key, [&](const Setting& setting, const toml::node& element) {
            const auto* found = element.as_string();
            if (found == nullptr || found->get().size() > text_bytes_max)
                return refuse(setting, element);
            const unsigned at = element.source().begin.line;
            const std::optional<std::string> wrong = take(found->get(), at != 0 ? at : line(key));
            if (!wrong) return refuse(setting, element);
            if (!wrong->empty())
                errors_.add(at != 0 ? at : line(key), label_ + "." + std::string{key}, *wrong);
        });
    }
    [[nodiscard]] std::vector<std::int32_t> integers(std::string_view key) const;

private:
    [[nodiscard]] const Setting& known(std::string_view key) const;
    [[nodiscard]] const toml::node& value(const Setting& setting) const;
    [[nodiscard]] std::int64_t whole_number(std::string_view key) const;
    [[nodiscard]] unsigned choice_index(std::string_view key) const;
    [[nodiscard]] std::uint64_t quantity(std::string_view key,
                                         bool (*parse)(std::string_view, std::uint64_t&)) const;
    template <class Visit>
    void each_of(std::string_view key, Visit visit) const {
        const Setting& setting = known(key);
        const toml::node& node = value(setting);
        const auto* list = node.as_array();
        if (list == nullptr || list->size() > list_entries_max) return refuse(setting, node);
        for (const toml::node& element : *list)
            visit(setting, element);
    }
    void refuse(const Setting& setting, const toml::node& node) const;
    void refuse_unknown(std::span<const std::string_view> children) const;

    Errors& errors_;
    const toml::table* node_;
    const toml::table* inherited_;
    std::string_view table_;
    std::string label_;
    unsigned line_;
    mutable std::map<const Setting*, bool> missing_; // said once, however often it is read
};

} // namespace control
