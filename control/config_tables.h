// config_tables.h: the tables of one configuration file, found by name.
//
// Scope      [name] and [[name]]: whether they are written as what they are, and a Section for each.
// Owns       Nothing: TOML and error list are the caller's.
// Threading  Any; no state beyond the object.
// Failure    What is no table is an error in the list, and read as if it were not there.
#pragma once

#include "control/config_section.h"

#include <algorithm>
#include <span>
#include <string>
#include <string_view>

namespace control {

[[nodiscard]] inline unsigned line_of(const toml::node& node) {
    return node.source().begin.line;
}

class Tables {
public:
    Tables(const toml::table& root, Errors& errors) : root_(root), errors_(errors) {}

    [[nodiscard]] const toml::table& root() const noexcept { return root_; }
    [[nodiscard]] Errors& errors() const noexcept { return errors_; }
    [[nodiscard]] bool has(std::string_view name) const { return root_.contains(name); }

    [[nodiscard]] Section one(std::string_view name,
                              std::span<const std::string_view> children = {}) const {
        const toml::node* node = root_.get(name);
        if (node != nullptr && !node->is_table()) {
            errors_.add(line_of(*node), std::string{name},
                        "expected a table; write [" + std::string{name} + "] on a line of its own");
            node = nullptr;
        }
        return Section(errors_, node == nullptr ? nullptr : node->as_table(), name,
                       std::string{name}, node == nullptr ? 1 : std::max(1U, line_of(*node)),
                       children);
    }

    /// Every table of [[name]]: visit(section, its TOML).
    template <class Visit>
    void each(std::string_view name, std::span<const std::string_view> children,
              Visit visit) const {
        const toml::node* node = root_.get(name);
        if (node == nullptr) return;
        const auto* list = node->as_array();
        if (list == nullptr || list->size() > list_entries_max) {
            errors_.add(line_of(*node), std::string{name},
                        "expected a list of tables; write [[" + std::string{name} +
                            "]] above each");
            return;
        }
        for (const toml::node& element : *list) {
            if (const auto* found = element.as_table()) {
                visit(Section(errors_, found, name, std::string{name}, line_of(element), children),
                      *found);
            } else {
                errors_.add(line_of(element), std::string{name},
                            "expected a table; write [[" + std::string{name} + "]] above each");
            }
        }
    }

private:
    const toml::table& root_;
    Errors& errors_;
};

} // namespace control
