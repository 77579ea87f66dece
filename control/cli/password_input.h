// password_input.h: a new password from a file, a pipe or a prompt; never from the command line,
// where every user of the machine could read it.
#pragma once

#include <expected>
#include <string>

namespace control::cli {

/// The first line of `file`; with no file the first line of standard input, asked for twice and
/// without echo when that is a terminal. Or a sentence.
[[nodiscard]] std::expected<std::string, std::string> read_password(const std::string& file);

} // namespace control::cli
