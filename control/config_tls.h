// config_tls.h: the part of a configuration that says which certificates there are: [tls] and
// [[certificate]].
//
// Scope      The tables. Whether the files fit together is found out by the data plane, which keeps
//            what it has when they do not; `millracectl cert check` tells beforehand.
// Threading  Any; no state.
// Failure    Errors and warnings go into the file's lists.
#pragma once

#include "control/config_tables.h"
#include "control/schema/policy_generated.h"

#include <string>
#include <vector>

namespace control {

/// \pre  [server], [dns], the sites and the routes are read
void read_tls(const Tables& tables, schema::PolicyT& policy, std::vector<std::string>& warnings);

} // namespace control
