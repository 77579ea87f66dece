// control_process.h: millrace-control, put together: configuration, accounts, snapshot, link,
// statistics.
//
// Scope      What the daemon knows and can do, for the admin API (admin_server.h) and the signals
//            (main.cc).
// Owns       The current Config, the account store, the credential checker, the link to millraced.
// Threading  Any thread, after start(). One lock makes changes of policy and accounts one after the
//            other.
// Failure    start() returns sentences. Later failures are returned to whoever asked; the published
//            policy stays. When this process dies the data plane goes on with it.
#pragma once

#include "control/accounts.h"
#include "control/config.h"
#include "control/credentials.h"
#include "control/link_server.h"
#include "control/metrics.h"
#include "control/queue_desk.h"

#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace control {

struct ReloadReport {
    std::vector<std::string> errors; // any: nothing was changed
    std::vector<std::string>
        warnings; // among them what waits for a restart, and a data plane that did not answer
    std::uint64_t version = 0; // published
    bool in_use = false;       // the data plane has said so
};

class ControlProcess {
public:
    using Log = std::function<void(std::string_view)>; // one line, "event key=value ..."

    /// Reads the configuration, makes the folders, publishes the first snapshot, opens the socket.
    [[nodiscard]] static std::expected<std::unique_ptr<ControlProcess>, std::vector<std::string>>
    start(const std::string& config_file, Log log);
    ~ControlProcess();
    ControlProcess(const ControlProcess&) = delete;
    ControlProcess& operator=(const ControlProcess&) = delete;

    [[nodiscard]] ReloadReport reload();
    /// Publishes again when another process has changed the accounts. Cheap: called every second.
    void follow_accounts();

    [[nodiscard]] AccountResult<Account> add_account(const Account& account,
                                                     std::string_view password);
    [[nodiscard]] AccountResult<Account> set_password(std::string_view name,
                                                      std::string_view password);
    [[nodiscard]] AccountResult<Account> set_enabled(std::string_view name, bool enabled);
    [[nodiscard]] AccountResult<Account> set_certificates(std::string_view name,
                                                          std::vector<std::string> certificates);
    [[nodiscard]] AccountResult<Account> remove_account(std::string_view name);
    [[nodiscard]] AccountResult<std::vector<Account>> accounts() const { return accounts_->list(); }

    [[nodiscard]] std::expected<std::string, std::string> command(const CommandRequest& request) {
        return link_->command(request);
    }
    /// A `queue` command of the admin API; see queue_desk.h.
    [[nodiscard]] std::expected<std::string, QueueRefusal> queue(std::string_view verb,
                                                                 std::string_view body) {
        return desk_->run(verb, body);
    }
    /// The events of a message as a JSON array.
    [[nodiscard]] std::expected<std::string, std::string> trace(std::string_view message_id) const;
    [[nodiscard]] std::string metrics();
    [[nodiscard]] std::string status_json();
    /// Of our own TCP/IP, by shard; nothing when there is no statistics page.
    [[nodiscard]] std::optional<std::string> net_stats();
    /// Whether new mail can be accepted as far as this process sees.
    [[nodiscard]] bool alive() const { return link_->status().connected; }

    [[nodiscard]] const base::SocketAddress& admin_address() const noexcept {
        return admin_address_;
    }
    [[nodiscard]] const std::string& admin_token_file() const noexcept { return admin_token_file_; }

private:
    ControlProcess(Config config, Log log);
    [[nodiscard]] std::vector<std::string> open();
    /// \pre  lock_ held
    [[nodiscard]] std::expected<std::uint64_t, std::string>
    publish(std::vector<std::string>& warnings);
    [[nodiscard]] AccountResult<Account> changed(AccountResult<Account> account,
                                                 std::string_view what);

    Log log_;
    mutable std::mutex lock_; // config_, version_, generation_, stats_
    Config config_;
    const base::SocketAddress admin_address_; // these three hold until a restart
    const std::string admin_token_file_, state_dir_, run_dir_;
    std::string event_log_;
    std::uint64_t version_ = 0;    // published last
    std::uint64_t generation_ = 0; // of the accounts in it
    int state_lock_ = -1;          // control.lock: two control processes would fight for the socket
    StatsReader stats_;
    std::unique_ptr<AccountStore> accounts_;
    std::unique_ptr<CredentialChecker> checker_;
    std::unique_ptr<LinkServer> link_;
    std::unique_ptr<QueueDesk> desk_; // asks through the link
};

} // namespace control
