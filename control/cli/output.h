// output.h: what millracectl's commands share when they print.
//
// Scope      Exit codes, errors on standard error, JSON on standard output, bytes of others made
//            harmless.
// Threading  One.
#pragma once

#include "control/cli/admin_client.h"

#include <string>

namespace control::cli {

inline constexpr int exit_ok = 0, exit_failed = 1, exit_usage = 2;

/// The value as text: a string's own, anything else's JSON, "" when the key is not there.
[[nodiscard]] std::string text(const Json& object, const char* key);
/// What others wrote (addresses, replies) goes to a terminal only in harmless bytes.
[[nodiscard]] std::string harmless(std::string line);
/// Says why on standard error. Returns exit_failed.
int complain(const std::string& why);
/// Says on standard error what is wrong with the command line. Returns exit_usage.
int misused(const std::string& why);
void print(const Json& json);

} // namespace control::cli
