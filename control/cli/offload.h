// offload.h: `millracectl offload`: who does the private-key operations of each shard, and how well.
//
// Scope      Asks the relay and prints.
// Failure    The commands' exit codes, with the reason on stderr.
#pragma once

#include "control/cli/admin_client.h"

namespace control::cli {

int offload(const AdminClient& client, bool json);

} // namespace control::cli
