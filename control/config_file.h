// config_file.h: a file's text, and the TOML in it.
//
// Scope      Reading and parsing, for millrace.toml and the rule file alike; bounded in size.
// Threading  Any; no state.
// Failure    Nothing, and the reason in the list of errors.
#pragma once

#include "control/config_section.h"

#include <optional>
#include <string>
#include <string_view>

namespace control {

/// Syntax errors come one at a time: TOML cannot be read on behind one.
[[nodiscard]] std::optional<toml::table> parse_toml(std::string_view text, Errors& errors);
[[nodiscard]] std::optional<std::string> read_file(const std::string& path, Errors& errors);

} // namespace control
