#include "control/cli/account.h"

#include "control/accounts.h"
#include "control/cli/output.h"
#include "control/cli/password_input.h"
#include "control/config.h"

#include <CLI/CLI.hpp>
#include <ctime>
#include <expected>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <utility>

namespace control::cli {
namespace {

// What every command of an account is called with.
struct Call {
    AccountOptions& options;
    const std::string& config;
    const bool& json;
    std::function<AdminClient()> client;
};

std::string when(std::int64_t unix_s) {
    if (unix_s <= 0) return "-";
    const auto time = static_cast<std::time_t>(unix_s);
    std::tm parts{};
    gmtime_r(&time, &parts);
    std::ostringstream out;
    out << std::put_time(&parts, "%Y-%m-%d %H:%M:%SZ");
    return out.str();
}

Json as_json(const Account& account) {
    return {{"name", account.name},
            {"enabled", account.enabled},
            {"generation", account.generation},
            {"tenant", account.tenant},
            {"source", account.source},
            {"sender_domains", account.sender_domains},
            {"messages_per_hour", account.messages_per_hour_max},
            {"certificates", account.certificates},
            {"created", account.created_s},
            {"changed", account.changed_s}};
}

std::expected<Json, std::string>
on_database(const Call& call,
            const std::function<std::expected<Json, std::string>(control::AccountStore&)>& act) {
    const control::ConfigResult loaded = control::load_config(call.config);
    if (!loaded.errors.empty()) {
        return std::unexpected("millrace-control does not answer, and without a right "
                               "configuration the database cannot be found: " +
                               loaded.errors.front().to_string());
    }
    std::error_code failure; // before the first start there is no folder yet
    if (std::filesystem::create_directories(loaded.config.policy.start_up->state_dir, failure)) {
        std::filesystem::permissions(loaded.config.policy.start_up->state_dir,
                                     std::filesystem::perms{0750}, failure);
    }
    auto store = control::AccountStore::open(loaded.config.accounts_file());
    if (!store) return std::unexpected(store.error().text);
    std::cerr << "millrace-control does not answer; working on " << loaded.config.accounts_file()
              << " itself\n";
    return act(**store);
}

std::expected<Json, std::string>
ask(const Call& call, const std::string& path, const Json* body,
    const std::function<std::expected<Json, std::string>(control::AccountStore&)>& act) {
    const AdminClient admin = call.client();
    auto reply = body == nullptr ? admin.get(path) : admin.post(path, *body);
    if (reply) return std::move(*reply);
    if (!reply.error().not_running) return std::unexpected(reply.error().text);
    return on_database(call, act);
}

std::expected<Json, std::string> as_reply(const AccountResult<Account>& result) {
    if (!result) return std::unexpected(result.error().text);
    return as_json(*result);
}

int finish(const std::expected<Json, std::string>& reply, const Call& call,
           const std::string& what) {
    if (!reply) return complain(reply.error());
    if (call.json) {
        print(*reply);
    } else {
        std::cout << "account " << text(*reply, "name") << ' ' << what << '\n';
    }
    return exit_ok;
}

int add(const Call& call) {
    const auto password = read_password(call.options.password_file);
    if (!password) return complain(password.error());
    const Json body{{"name", call.options.name},
                    {"password", *password},
                    {"tenant", call.options.tenant},
                    {"source", call.options.source},
                    {"sender_domains", call.options.sender_domains},
                    {"messages_per_hour", call.options.messages_per_hour}};
    Account account;
    account.name = call.options.name;
    account.tenant = call.options.tenant;
    account.source = call.options.source;
    account.sender_domains = call.options.sender_domains;
    account.messages_per_hour_max = call.options.messages_per_hour;
    return finish(
        ask(call, "/api/admin/accounts/add", &body,
            [&](control::AccountStore& store) { return as_reply(store.add(account, *password)); }),
        call, "added");
}

int passwd(const Call& call) {
    const auto password = read_password(call.options.password_file);
    if (!password) return complain(password.error());
    const Json body{{"name", call.options.name}, {"password", *password}};
    return finish(ask(call, "/api/admin/accounts/passwd", &body,
                      [&](control::AccountStore& store) {
                          return as_reply(store.set_password(call.options.name, *password));
                      }),
                  call, "has a new password");
}

int change(const Call& call, const std::string& verb, const std::string& done,
           const std::function<AccountResult<Account>(control::AccountStore&)>& act) {
    const Json body{{"name", call.options.name}};
    return finish(ask(call, "/api/admin/accounts/" + verb, &body,
                      [&](control::AccountStore& store) { return as_reply(act(store)); }),
                  call, done);
}

int certificates(const Call& call) {
    const Json body{{"name", call.options.name}, {"certificates", call.options.certificates}};
    return finish(ask(call, "/api/admin/accounts/certificates", &body,
                      [&](control::AccountStore& store) {
                          return as_reply(
                              store.set_certificates(call.options.name, call.options.certificates));
                      }),
                  call,
                  call.options.certificates.empty() ? "has no certificate"
                                                    : "is known by its certificates");
}

int list(const Call& call) {
    const auto reply = ask(call, "/api/admin/accounts", nullptr,
                           [](control::AccountStore& store) -> std::expected<Json, std::string> {
                               const auto accounts = store.list();
                               if (!accounts) return std::unexpected(accounts.error().text);
                               Json list = Json::array();
                               for (const Account& account : *accounts)
                                   list.push_back(as_json(account));
                               return Json{{"accounts", std::move(list)}};
                           });
    if (!reply) return complain(reply.error());
    const Json& accounts = (*reply)["accounts"];
    if (call.json) {
        print(accounts);
        return exit_ok;
    }
    for (const Json& account : accounts) {
        std::cout << text(account, "name") << (account["enabled"] == true ? "" : "  disabled")
                  << "  changed " << when(account["changed"].get<std::int64_t>());
        if (!text(account, "tenant").empty()) std::cout << "  tenant " << text(account, "tenant");
        if (!text(account, "source").empty()) std::cout << "  source " << text(account, "source");
        if (account["messages_per_hour"] != 0)
            std::cout << "  at most " << account["messages_per_hour"] << "/h";
        for (const Json& domain : account["sender_domains"])
            std::cout << "  @" << domain.get<std::string>();
        for (const Json& certificate : account.value("certificates", Json::array()))
            std::cout << "  " << harmless(certificate.get<std::string>());
        std::cout << '\n';
    }
    std::cout << accounts.size() << " account(s)\n";
    return exit_ok;
}

} // namespace

void add_account_commands(CLI::App& app, AccountOptions& options, const std::string& config,
                          const bool& json, const AddCommand& command,
                          const std::function<AdminClient()>& client) {
    const Call call{options, config, json, client};
    CLI::App* account = app.add_subcommand("account", "who may send");
    account->require_subcommand(1);
    constexpr const char* password_help =
        "file whose first line is the password; otherwise standard input, or a prompt";
    CLI::App* adding = command(*account, "add",
                               "a new account; its password comes from standard input or a prompt",
                               [call] { return add(call); });
    adding->add_option("name", options.name, "what the client says in AUTH")->required();
    adding->add_option("--tenant", options.tenant, "tenant that its mail belongs to");
    adding->add_option("--source", options.source, "source or pool that its mail leaves from");
    adding->add_option("--sender-domain", options.sender_domains,
                       "domain it may use in MAIL FROM; repeat for more, none for any");
    adding->add_option("--messages-per-hour", options.messages_per_hour, "0 for no limit")
        ->capture_default_str();
    adding->add_option("--password-file", options.password_file, password_help);
    command(*account, "list", "all accounts", [call] { return list(call); });
    CLI::App* password = command(*account, "passwd", "a new password for an account",
                                 [call] { return passwd(call); });
    password->add_option("name", options.name, "account")->required();
    password->add_option("--password-file", options.password_file, password_help);
    CLI::App* certificate = command(*account, "certificates",
                                    "the client certificates that are an account (AUTH EXTERNAL)",
                                    [call] { return certificates(call); });
    certificate->add_option("name", options.name, "account")->required();
    certificate->add_option(
        "certificate", options.certificates,
        "sha256:FINGERPRINT, name:HOST, name:ADDRESS or subject:NAME; these instead of the "
        "present ones, none to have none");
    command(*account, "disable", "refuse an account's logins from now on",
            [call] {
                return change(call, "disable", "disabled", [&call](auto& store) {
                    return store.set_enabled(call.options.name, false);
                });
            })
        ->add_option("name", options.name, "account")
        ->required();
    command(*account, "enable", "take an account's logins again",
            [call] {
                return change(call, "enable", "enabled", [&call](auto& store) {
                    return store.set_enabled(call.options.name, true);
                });
            })
        ->add_option("name", options.name, "account")
        ->required();
    command(*account, "remove", "delete an account",
            [call] {
                return change(call, "remove", "removed",
                              [&call](auto& store) { return store.remove(call.options.name); });
            })
        ->add_option("name", options.name, "account")
        ->required();
}

} // namespace control::cli
