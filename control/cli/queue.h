// queue.h: `millracectl queue`: queued mail, looked at and steered.
//
// Scope      Its command line, the questions to the admin API, tables or JSON.
// Threading  One.
// Failure    Exit codes of output.h.
#pragma once

#include "control/cli/admin_client.h"
#include "control/cli/command.h"

#include <cstdint>
#include <functional>
#include <string>

namespace control::cli {

struct QueueOptions {
    std::string domain, tenant, account, sender, recipient, site, error, id;
    std::uint32_t code = 0;
    std::string older, duration; // "90", "15m", "2h", "3d"
    std::string by, to, reason;
    std::uint32_t limit = 100, order = 0;
    bool everything = false, dry_run = false, dsn = false, no_dsn = false;
};

/// Adds the commands below `app`; `client` is asked for only when one of them runs.
void add_queue_commands(CLI::App& app, QueueOptions& options, const bool& json,
                        const AddCommand& add, const std::function<AdminClient()>& client);

} // namespace control::cli
