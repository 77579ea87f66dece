// queue.h: `millracectl queue`: queued mail, looked at and steered.
//
// Scope      Its command line, the questions to the admin API, tables or JSON.
// Threading  One.
// Failure    Exit codes of output.h.
#pragma once

#include "control/cli/admin_client.h"

#include <cstdint>
#include <functional>
#include <string>

namespace CLI {
class App;
}

namespace control::cli {

struct QueueOptions {
    std::string domain, tenant, account, sender, recipient, site, error, id;
    std::uint32_t code = 0;
    std::string older, duration; // "90", "15m", "2h", "3d"
    std::string by, to, reason;
    std::uint32_t limit = 100, order = 0;
    bool everything = false, dry_run = false, dsn = false, no_dsn = false;
};

/// Adds the commands below `app`. `add` makes a command that, when it is chosen, runs what it is given;
/// `client` is asked for only then.
void add_queue_commands(
    CLI::App& app, QueueOptions& options, const bool& json,
    const std::function<CLI::App*(CLI::App&, const std::string& name, const std::string& help,
                                  std::function<int()>)>& add,
    const std::function<AdminClient()>& client);

} // namespace control::cli
