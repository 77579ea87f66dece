#include "control/control_process.h"

#include "control/event_search.h"
#include "control/notation.h"
#include "control/policy_compiler.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sys/file.h>
#include <sys/stat.h>
#include <system_error>
#include <thread>
#include <unistd.h>

namespace control {
namespace {

constexpr auto policy_wait =
    std::chrono::milliseconds{3000}; // how long a reload waits for the shards' word
constexpr unsigned credential_workers_max = 4;

std::vector<std::string> texts(const std::vector<ConfigError>& errors) {
    std::vector<std::string> result;
    for (const ConfigError& error : errors)
        result.push_back(error.to_string());
    return result;
}

std::string make_folder(const std::string& path) {
    std::error_code failure;
    if (std::filesystem::is_directory(path, failure)) return "";
    std::filesystem::create_directories(path, failure);
    if (failure) return path + ": " + failure.message();
    chmod(path.c_str(), 0750);
    return "";
}

} // namespace

ControlProcess::ControlProcess(Config config, Log log)
    : log_(std::move(log)), config_(std::move(config)), admin_address_(config_.admin_address),
      admin_token_file_(config_.admin_token_file), state_dir_(config_.policy.start_up->state_dir),
      run_dir_(config_.policy.start_up->run_dir), event_log_(config_.policy.start_up->event_log),
      stats_(config_.stats_file()) {}

ControlProcess::~ControlProcess() {
    // Workers answer through the link, so it goes last; its server ignores answers to lost
    // connections.
    checker_.reset();
    desk_.reset();
    link_.reset();
    if (state_lock_ >= 0) close(state_lock_);
}

std::expected<std::unique_ptr<ControlProcess>, std::vector<std::string>>
ControlProcess::start(const std::string& config_file, Log log) {
    ConfigResult loaded = load_config(config_file);
    if (!loaded.errors.empty()) return std::unexpected(texts(loaded.errors));
    if (const auto errors = compile_screening(loaded.config); !errors.empty())
        return std::unexpected(texts(errors));
    if (const auto errors = check_dkim_keys(loaded.config, loaded.warnings); !errors.empty())
        return std::unexpected(texts(errors));
    for (const std::string& warning : loaded.warnings)
        log("warning text=" + in_quotes(warning));
    std::unique_ptr<ControlProcess> process(
        new ControlProcess(std::move(loaded.config), std::move(log)));
    if (auto errors = process->open(); !errors.empty()) return std::unexpected(std::move(errors));
    return process;
}

std::vector<std::string> ControlProcess::open() {
    for (const std::string& folder : {state_dir_, run_dir_}) {
        if (std::string failure = make_folder(folder); !failure.empty()) return {failure};
    }
    const std::string lock_file = state_dir_ + "/control.lock";
    state_lock_ = ::open(lock_file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (state_lock_ < 0) return {lock_file + ": " + std::strerror(errno)};
    if (flock(state_lock_, LOCK_EX | LOCK_NB) != 0)
        return {lock_file + " is held: another millrace-control uses this state_dir"};

    auto accounts = AccountStore::open(config_.accounts_file());
    if (!accounts) return {accounts.error().text};
    accounts_ = std::move(*accounts);
    std::vector<std::string> warnings;
    const std::lock_guard hold(lock_);
    const auto published = publish(warnings);
    if (!published) return {published.error()};
    for (const std::string& warning : warnings)
        log_("warning text=" + in_quotes(warning));

    const unsigned workers =
        std::clamp(std::thread::hardware_concurrency() / 2, 1U, credential_workers_max);
    checker_ = std::make_unique<CredentialChecker>(*accounts_, workers, GuessOptions{}, log_);
    try {
        link_ = std::make_unique<LinkServer>(LinkServerOptions{
            .socket_path = config_.control_socket(),
            .on_login = [this](Login login) { checker_->check(std::move(login)); },
            .policy_version =
                [this] {
                    const std::lock_guard hold_version(lock_);
                    return version_;
                },
            .log = log_});
    } catch (const std::system_error& error) {
        return {error.what()};
    }
    desk_ = std::make_unique<QueueDesk>(
        config_.queue_orders_file(),
        [this](const CommandRequest& request) { return link_->command(request); },
        [this](std::string_view name) {
            const std::lock_guard hold_config(lock_);
            const auto named = [&](const auto& each) { return each->name == name; };
            const schema::PolicyT& policy = config_.policy;
            return std::any_of(policy.sources.begin(), policy.sources.end(), named) ||
                   std::any_of(policy.pools.begin(), policy.pools.end(), named);
        });
    if (std::string failure = desk_->open(); !failure.empty()) return {failure};
    return {};
}

std::expected<std::uint64_t, std::string>
ControlProcess::publish(std::vector<std::string>& warnings) {
    // The generation first: a change that comes in between is then published again by
    // follow_accounts().
    const auto generation = accounts_->last_generation();
    if (!generation) return std::unexpected(generation.error().text);
    const auto accounts = accounts_->list();
    if (!accounts) return std::unexpected(accounts.error().text);
    const auto more = add_accounts(config_.policy, *accounts);
    warnings.insert(warnings.end(), more.begin(), more.end());
    if (link_) link_->await_policy(); // it may see the file before it hears of it
    auto version = publish_snapshot(config_.policy, config_.snapshot_file());
    if (!version) return version;
    version_ = *version;
    generation_ = *generation;
    if (link_) link_->policy_published(version_);
    log_("policy_published version=" + std::to_string(version_) +
         " accounts=" + std::to_string(accounts->size()));
    return version;
}

ReloadReport ControlProcess::reload() {
    ReloadReport report;
    std::string file;
    {
        const std::lock_guard hold(lock_);
        file = config_.file;
    }
    // Compiling may take seconds: not under the lock that account changes need.
    ConfigResult loaded = load_config(file);
    report.errors = texts(loaded.errors);
    if (report.errors.empty()) report.errors = texts(compile_screening(loaded.config));
    if (report.errors.empty())
        report.errors = texts(check_dkim_keys(loaded.config, loaded.warnings));
    if (!report.errors.empty()) {
        log_("reload_refused errors=" + std::to_string(report.errors.size()) +
             " first=" + in_quotes(report.errors.front()));
        return report;
    }
    report.warnings = loaded.warnings;
    schema::StartUpT& start_up = *loaded.config.policy.start_up;
    const auto keep = [&](std::string_view key, const std::string& running, std::string& wanted) {
        if (wanted == running) return;
        report.warnings.push_back(std::string{key} +
                                  " takes effect at the next start of millrace-control");
        wanted = running;
    };
    keep("server.state_dir", state_dir_, start_up.state_dir);
    keep("server.run_dir", run_dir_, start_up.run_dir);
    keep("admin.token_file", admin_token_file_, loaded.config.admin_token_file);
    if (loaded.config.admin_address != admin_address_) {
        report.warnings.push_back(
            "admin.address takes effect at the next start of millrace-control");
    }
    {
        const std::lock_guard hold(lock_);
        Config before = std::move(config_);
        config_ = std::move(loaded.config);
        const auto published = publish(report.warnings);
        if (!published) {
            config_ = std::move(before);
            report.errors.push_back(published.error());
            return report;
        }
        report.version = *published;
    }
    if (!link_->status().connected) {
        report.warnings.push_back("millraced is not connected; it takes the policy when it starts");
        return report;
    }
    const bool answered = link_->wait_for_policy(report.version, policy_wait);
    const DataPlaneStatus status = link_->status();
    if (!answered) {
        report.warnings.push_back("millraced has not yet said that it uses the new policy");
    } else if (!status.policy_ok) {
        report.errors.push_back("millraced refused the policy and stays with version " +
                                std::to_string(status.policy_version) + ": " + status.policy_text);
    } else {
        report.in_use = true;
        if (!status.policy_text.empty()) report.warnings.push_back(status.policy_text);
    }
    return report;
}

void ControlProcess::follow_accounts() {
    if (link_->status().connected) desk_->follow();
    const std::lock_guard hold(lock_);
    const auto generation = accounts_->last_generation();
    if (!generation || *generation == generation_) return;
    std::vector<std::string> warnings;
    if (const auto published = publish(warnings); !published)
        log_("publish_failed text=" + in_quotes(published.error()));
}

AccountResult<Account> ControlProcess::changed(AccountResult<Account> account,
                                               std::string_view what) {
    if (!account) return account;
    log_("account_" + std::string{what} + " name=" + in_quotes(account->name) +
         " generation=" + std::to_string(account->generation));
    // First the cached logins, then the policy: nobody gets in on an old password in between.
    link_->account_changed(account->name, account->generation);
    const std::lock_guard hold(lock_);
    std::vector<std::string> warnings;
    if (const auto published = publish(warnings); !published) {
        log_("publish_failed text=" + in_quotes(published.error()));
        return std::unexpected(
            AccountFailure{AccountError::storage,
                           "the account is changed, but not published: " + published.error()});
    }
    return account;
}

AccountResult<Account> ControlProcess::add_account(const Account& account,
                                                   std::string_view password) {
    {
        const std::lock_guard hold(lock_);
        const auto named = [&](const auto& each) { return each->name == account.source; };
        const schema::PolicyT& policy = config_.policy;
        if (!account.source.empty() &&
            std::none_of(policy.sources.begin(), policy.sources.end(), named) &&
            std::none_of(policy.pools.begin(), policy.pools.end(), named)) {
            return std::unexpected(
                AccountFailure{AccountError::bad_value,
                               "no [[source]] or [[pool]] is called " + in_quotes(account.source)});
        }
    }
    return changed(accounts_->add(account, password), "added");
}

AccountResult<Account> ControlProcess::set_password(std::string_view name,
                                                    std::string_view password) {
    return changed(accounts_->set_password(name, password), "password_changed");
}

AccountResult<Account> ControlProcess::set_enabled(std::string_view name, bool enabled) {
    return changed(accounts_->set_enabled(name, enabled), enabled ? "enabled" : "disabled");
}

AccountResult<Account> ControlProcess::set_certificates(std::string_view name,
                                                        std::vector<std::string> certificates) {
    return changed(accounts_->set_certificates(name, std::move(certificates)),
                   "certificates_changed");
}

AccountResult<Account> ControlProcess::remove_account(std::string_view name) {
    return changed(accounts_->remove(name), "removed");
}

std::expected<std::string, std::string> ControlProcess::trace(std::string_view message_id) const {
    if (!is_message_id(message_id))
        return std::unexpected(in_quotes(message_id) + " is no message id: 16 hex digits are");
    const auto lines = find_events(event_log_, lower(message_id));
    if (!lines) return std::unexpected(lines.error());
    std::string json = "[";
    for (const std::string& line : *lines)
        json += (json.size() > 1 ? "," : "") + line;
    return json + "]";
}

std::string ControlProcess::metrics() {
    const LoginCounters logins = checker_->counters();
    const DataPlaneStatus status = link_->status();
    const std::lock_guard hold(lock_);
    return prometheus_text(
        stats_.page(),
        {{"millrace_up", "", "whether the data plane is connected to the control process", "gauge",
          status.connected ? 1U : 0U},
         {"millrace_policy_published", "", "version of the policy that was published last", "gauge",
          version_},
         {"millrace_login_checks", "result=\"accepted\"", "logins checked by the control process",
          "counter", logins.accepted},
         {"millrace_login_checks", "result=\"rejected\"", "", "counter", logins.rejected},
         {"millrace_login_checks", "result=\"throttled\"", "", "counter", logins.throttled},
         {"millrace_login_checks", "result=\"unavailable\"", "", "counter", logins.unavailable}});
}

std::optional<std::string> ControlProcess::net_stats() {
    const std::lock_guard hold(lock_);
    const schema::StatsPage* page = stats_.page();
    if (page == nullptr) return std::nullopt;
    return net_stats_json(*page);
}

std::string ControlProcess::status_json() {
    const DataPlaneStatus status = link_->status();
    const LoginCounters logins = checker_->counters();
    const std::lock_guard hold(lock_);
    const schema::StatsPage* page = stats_.page();
    nlohmann::ordered_json result{
        {"hostname", config_.policy.hostname},
        {"config", config_.file},
        {"policy",
         {{"published", version_},
          {"in_use", status.policy_version},
          {"accepted", status.policy_ok},
          {"text", status.policy_text}}},
        {"data_plane",
         {{"connected", status.connected},
          {"process_id", status.process_id},
          {"shards", status.shards}}},
        {"logins",
         {{"accepted", logins.accepted},
          {"rejected", logins.rejected},
          {"throttled", logins.throttled},
          {"unavailable", logins.unavailable}}},
        {"accounts", config_.policy.accounts.size()},
        {"stats", page == nullptr ? nlohmann::ordered_json(nullptr)
                                  : nlohmann::ordered_json::parse(stats_json(*page))}};
    return result.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

} // namespace control
