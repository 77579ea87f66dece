// config_dkim.h: the part of a configuration that says who signs which mail: [[dkim]].
//
// Scope      The tables. Whether the key files that they name can be used is policy_compiler.h's.
// Threading  Any; no state.
// Failure    Errors and warnings go into the file's lists.
#pragma once

#include "control/config.h"
#include "control/config_tables.h"

#include <string>
#include <vector>

namespace control {

/// \pre  [retry] is read
void read_dkim(const Tables& tables, Config& config, std::vector<std::string>& warnings);

} // namespace control
