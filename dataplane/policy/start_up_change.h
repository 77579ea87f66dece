// start_up_change.h: what a new policy asks for that only a start of the process can give.
//
// Threading  Pure.
#pragma once

#include "dataplane/policy/policy.h"

#include <string>

namespace dataplane::policy {

/// The settings that differ and wait for the next start, "server.shards, listener"; empty when none does.
/// \param first  as this process was started
[[nodiscard]] std::string changed_at_start(const Policy& first, const Policy& next);

} // namespace dataplane::policy
