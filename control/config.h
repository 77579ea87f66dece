// config.h: millrace.toml and its rule file, read and validated as a whole.
//
// Scope      Text in, a policy (all but its version, accounts and screening databases) and the
//            control process's own settings out. What each setting is, is in settings.h. Compiling
//            is policy_compiler.h.
// Threading  Any; no state.
// Failure    Every error in the file is collected, each with file, line, key, what was expected and
//            what to do. The Config is then as good as the file allows, and only good for finding
//            the admin address.
#pragma once

#include "control/schema/policy_generated.h"
#include "control/screen/screen_compiler.h"
#include "dataplane/base/address.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace control {

namespace base = dataplane::base;

struct ConfigError {
    std::string file;
    unsigned line = 0; // 0: the file as a whole
    std::string key;   // "server.shards"; empty for the file as a whole
    std::string text;  // what was expected, what was found, what to do

    [[nodiscard]] std::string to_string() const; // "millrace.toml:7: server.shards: expected ..."
};

struct Config {
    std::string file;
    schema::PolicyT policy;
    std::string rules_file;                // empty: no screening
    std::vector<screen::Pattern> patterns; // of the rules in policy.screen, at the same index
    std::vector<unsigned> pattern_lines;   // in the rule file, at the same index
    std::vector<unsigned> dkim_lines;      // of the keys in policy.dkim, at the same index
    base::SocketAddress admin_address;
    std::string admin_token_file;

    [[nodiscard]] std::string control_socket() const {
        return policy.start_up->run_dir + "/control.sock";
    }
    [[nodiscard]] std::string queue_orders_file() const {
        return policy.start_up->state_dir + "/queue_orders.json";
    }
    [[nodiscard]] std::string snapshot_file() const {
        return policy.start_up->state_dir + "/policy.snapshot";
    }
    [[nodiscard]] std::string stats_file() const {
        return policy.start_up->run_dir + "/stats.page";
    }
    [[nodiscard]] std::string accounts_file() const {
        return policy.start_up->state_dir + "/accounts.db";
    }
};

struct ConfigResult {
    Config config;
    std::vector<ConfigError> errors;
    std::vector<std::string> warnings; // legal, but seldom meant
};

/// Reads `path` and the files it names.
[[nodiscard]] ConfigResult load_config(const std::string& path);
/// The same for a text that is already in memory. Relative paths in it are relative to the folder
/// of `path`.
[[nodiscard]] ConfigResult parse_config(std::string_view text, const std::string& path);
/// The [[rule]] tables of a rule file, added to `config`.
void parse_rules(std::string_view text, const std::string& path, Config& config,
                 std::vector<ConfigError>& errors);

} // namespace control
