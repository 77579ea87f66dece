// account.h: `millracectl account`: who may send.
//
// Scope      Its command line; the admin API, or the database itself when nobody answers.
// Threading  One.
// Failure    Exit codes of output.h.
#pragma once

#include "control/cli/admin_client.h"
#include "control/cli/command.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace control::cli {

struct AccountOptions {
    std::string tenant, name, source, password_file;
    std::vector<std::string> sender_domains, certificates;
    std::uint32_t messages_per_hour = 0;
};

/// Adds the commands below `app`; `client` is asked for only when one of them runs.
/// \param config  the configuration file, which tells where the database is; these outlive the commands
void add_account_commands(CLI::App& app, AccountOptions& options, const std::string& config,
                          const bool& json, const AddCommand& command,
                          const std::function<AdminClient()>& client);

} // namespace control::cli
