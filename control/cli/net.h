// net.h: `millracectl net`: our own TCP/IP as its counters show it, and its connections.
//
// Scope      Asks, and prints tables or JSON. What is counted is in schema/stats_layout.h.
// Threading  One.
// Failure    Exit codes of output.h.
#pragma once

#include "control/cli/admin_client.h"

#include <cstdint>

namespace control::cli {

/// One column for each shard, and one for all of them.
int net_stats(const AdminClient& client, bool json);
int net_connections(const AdminClient& client, std::uint32_t limit, bool json);

} // namespace control::cli
