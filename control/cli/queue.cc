#include "control/cli/queue.h"

#include "control/cli/output.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <ctime>
#include <iomanip>
#include <iostream>
#include <optional>
#include <sstream>
#include <vector>

namespace control::cli {
namespace {

/// "90", "90s", "15m", "2h", "3d" in seconds.
std::optional<std::uint64_t> seconds_of(const std::string& given) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(given.data(), given.data() + given.size(), value);
    if (error != std::errc{} || value > 100'000'000) return std::nullopt;
    const std::string unit{end, given.data() + given.size()};
    if (unit.empty() || unit == "s") return value;
    if (unit == "m") return value * 60;
    if (unit == "h") return value * 3600;
    if (unit == "d") return value * 86400;
    return std::nullopt;
}

/// What the options select, or what is wrong with them.
std::optional<Json> filter_of(const QueueOptions& options, std::string& wrong) {
    Json body = Json::object();
    for (const auto& [key, value] :
         {std::pair{"domain", &options.domain}, std::pair{"tenant", &options.tenant},
          std::pair{"account", &options.account}, std::pair{"sender", &options.sender},
          std::pair{"recipient", &options.recipient}, std::pair{"site", &options.site},
          std::pair{"error", &options.error}, std::pair{"id", &options.id}}) {
        if (!value->empty()) body[key] = *value;
    }
    if (options.code != 0) body["code"] = options.code;
    if (!options.older.empty()) {
        const auto older = seconds_of(options.older);
        if (!older || *older == 0) {
            wrong = "--older is a time: 90s, 15m, 2h or 3d";
            return std::nullopt;
        }
        body["older_s"] = *older;
    }
    return body;
}

void print_message(const Json& message) {
    std::string recipients;
    for (const Json& recipient : message.value("recipients", Json::array()))
        recipients += (recipients.empty() ? "" : ",") + text(recipient, "address");
    std::cout << text(message, "id") << "  " << text(message, "size") << " B  age "
              << text(message, "age_s") << " s  tries " << text(message, "attempts") << "  "
              << text(message, "state") << '\n'
              << "  from <" << harmless(text(message, "sender")) << "> to " << harmless(recipients)
              << '\n';
    if (!text(message, "last_error").empty())
        std::cout << "  " << harmless(text(message, "last_error")) << '\n';
}

void print_groups(const Json& groups, std::uint32_t limit) {
    std::vector<std::pair<std::uint64_t, std::string>> sorted;
    for (const auto& [name, count] : groups.items())
        sorted.emplace_back(count.get<std::uint64_t>(), name);
    std::ranges::sort(sorted, std::greater{});
    std::uint64_t left = 0;
    for (std::size_t i = 0; i < sorted.size(); ++i) {
        if (i >= limit) {
            left += sorted[i].first;
        } else {
            std::cout << std::setw(10) << sorted[i].first << "  " << harmless(sorted[i].second)
                      << '\n';
        }
    }
    if (left > 0)
        std::cout << std::setw(10) << left << "  in " << sorted.size() - limit << " more\n";
}

int look(const QueueOptions& options, bool json, const AdminClient& client,
         const std::string& verb) {
    std::string wrong;
    auto body = filter_of(options, wrong);
    if (!body) return misused(wrong);
    const bool top = verb == "top";
    if (verb == "list") (*body)["limit"] = options.limit;
    if (top || !options.by.empty()) (*body)["by"] = options.by.empty() ? "domain" : options.by;
    const auto reply =
        client.post("/api/admin/queue/" + (top ? std::string{"count"} : verb), *body);
    if (!reply) return complain(reply.error().text);
    if (verb == "show" && !reply->contains("message"))
        return complain("no message in the queue has the id " + options.id);
    if (json || verb == "show") {
        print(verb == "show" && !json ? (*reply)["message"] : *reply);
        return exit_ok;
    }
    for (const Json& message : reply->value("messages", Json::array())) {
        if (message.is_object()) print_message(message);
    }
    if (verb == "list") {
        std::cout << text(*reply, "total") << " message(s) in all\n";
        return exit_ok;
    }
    if (reply->contains("groups")) print_groups((*reply)["groups"], options.limit);
    std::uint64_t arrival = 0;
    for (const Json& oldest : reply->value("oldest", Json::array())) {
        const auto each = oldest.value("arrival", std::uint64_t{0});
        arrival = arrival == 0 ? each : std::min(arrival, each);
    }
    std::cout << text(*reply, "messages") << " message(s), " << text(*reply, "recipients")
              << " recipient(s), " << text(*reply, "bytes") << " bytes";
    if (arrival != 0)
        std::cout << ", the oldest " << std::time(nullptr) - static_cast<std::time_t>(arrival)
                  << " s";
    std::cout << '\n';
    return exit_ok;
}

int change(const QueueOptions& options, bool json, const AdminClient& client,
           const std::string& verb) {
    std::string wrong;
    auto body = filter_of(options, wrong);
    if (!body) return misused(wrong);
    if (options.order != 0) (*body)["order"] = options.order;
    if (body->empty() && !options.everything)
        return misused("say which mail: --domain, --tenant, ..., or --everything");
    if (options.everything) (*body)["everything"] = true;
    if (options.dry_run) (*body)["dry_run"] = true;
    if (!options.reason.empty()) (*body)["reason"] = options.reason;
    if (!options.to.empty()) (*body)["to"] = options.to;
    if (!options.duration.empty()) {
        const auto lasts = seconds_of(options.duration);
        if (!lasts || *lasts == 0) return misused("--for is a time: 90s, 15m, 2h or 3d");
        (*body)["for_s"] = *lasts;
    }
    if (verb == "delete") {
        if (!options.dry_run && options.dsn == options.no_dsn)
            return misused("say whether senders are told: --dsn or --no-dsn");
        (*body)["dsn"] = options.dsn;
    }
    const auto reply = client.post("/api/admin/queue/" + verb, *body);
    if (!reply) return complain(reply.error().text);
    if (json) {
        print(*reply);
        return exit_ok;
    }
    if (verb == "resume") {
        for (const Json& order : reply->value("orders", Json::array()))
            std::cout << (options.dry_run ? "would end " : "ended ") << harmless(order.dump())
                      << '\n';
        std::cout << text(*reply, "ended") << " order(s)\n";
        return exit_ok;
    }
    if (options.dry_run) {
        for (const Json& message : reply->value("sample", Json::array()))
            print_message(message);
        std::cout << "would touch " << text(*reply, "messages") << " message(s), "
                  << text(*reply, "recipients") << " recipient(s), " << text(*reply, "bytes")
                  << " bytes; nothing was done\n";
        return exit_ok;
    }
    if (reply->contains("order")) std::cout << "order " << text(*reply, "order") << ": ";
    if (reply->contains("text")) {
        std::cout << text(*reply, "text") << '\n';
        return exit_ok;
    }
    std::cout << text(*reply, "touched") << " message(s)";
    if (reply->value("busy", std::uint64_t{0}) > 0)
        std::cout << "; " << text(*reply, "busy") << " being delivered at this moment left alone";
    if (reply->value("pending", std::uint64_t{0}) > 0)
        std::cout << "; " << text(*reply, "pending") << " of them still under way";
    std::cout << '\n';
    return exit_ok;
}

int orders(bool json, const AdminClient& client) {
    const auto reply = client.post("/api/admin/queue/orders", Json::object());
    if (!reply) return complain(reply.error().text);
    if (json) {
        print(*reply);
        return exit_ok;
    }
    for (const Json& order : reply->value("orders", Json::array()))
        std::cout << harmless(order.dump()) << '\n';
    std::cout << reply->value("orders", Json::array()).size() << " order(s)\n";
    return exit_ok;
}

void add_lasting_filters(CLI::App& command, QueueOptions& options) {
    command.add_option("--domain", options.domain, "recipient domain");
    command.add_option("--tenant", options.tenant, "tenant");
    command.add_option("--account", options.account, "account it was submitted by");
    command.add_option("--sender", options.sender, "MAIL FROM address");
    command.add_option("--recipient", options.recipient, "address that it still has to reach");
    command.add_option("--id", options.id, "one message");
}

void add_filters(CLI::App& command, QueueOptions& options) {
    add_lasting_filters(command, options);
    command.add_option("--site", options.site, "destination site, as `count --by site` names it");
    command.add_option("--error", options.error, "part of the last error");
    command.add_option("--code", options.code, "last reply code, such as 421")
        ->check(CLI::Range(100U, 599U));
    command.add_option("--older", options.older, "queued at least so long: 90s, 15m, 2h, 3d");
}

} // namespace

void add_queue_commands(CLI::App& app, QueueOptions& options, const bool& json,
                        const AddCommand& add, const std::function<AdminClient()>& client) {
    CLI::App* queues = app.add_subcommand("queue", "look at queued mail and steer it");
    queues->require_subcommand(1);
    const auto looks = [&](const std::string& verb, const std::string& help) {
        return add(*queues, verb, help,
                   [&options, &json, client, verb] { return look(options, json, client(), verb); });
    };
    const auto changes = [&](const std::string& verb, const std::string& help) {
        CLI::App* added = add(*queues, verb, help, [&options, &json, client, verb] {
            return change(options, json, client(), verb);
        });
        added->add_flag("--everything", options.everything, "all mail");
        added->add_flag("--dry-run", options.dry_run, "only say how many, and show some of them");
        return added;
    };
    const CLI::Range some{1U, 10'000U};
    CLI::App* list = looks("list", "messages in the queue");
    add_filters(*list, options);
    list->add_option("--limit", options.limit, "how many")->capture_default_str()->check(some);
    looks("show", "one message")->add_option("id", options.id, "message id")->required();
    for (const auto& [verb, help] : {std::pair{"count", "how many messages"},
                                     std::pair{"top", "where most of the messages are"}}) {
        CLI::App* counts = looks(verb, help);
        add_filters(*counts, options);
        counts
            ->add_option("--by", options.by,
                         "group by domain, tenant, account, site, age, error or state")
            ->check(
                CLI::IsMember({"domain", "tenant", "account", "site", "age", "error", "state"}));
        counts->add_option("--limit", options.limit, "how many groups")
            ->capture_default_str()
            ->check(some);
    }
    add_filters(*changes("flush", "try waiting mail now; a paused site is tried again, slowly"),
                options);
    add_filters(*changes("expire", "give mail up as if its time were over; senders are told"),
                options);
    CLI::App* removes = changes("delete", "take mail out of the queue for good");
    add_filters(*removes, options);
    removes->add_flag("--dsn", options.dsn, "tell the senders");
    removes->add_flag("--no-dsn", options.no_dsn, "tell nobody");
    CLI::App* suspends = changes("suspend", "hold mail back, also what comes later");
    add_lasting_filters(*suspends, options);
    CLI::App* reroutes = changes("reroute", "send what is queued now from another source");
    add_lasting_filters(*reroutes, options);
    reroutes->add_option("--to", options.to, "source or pool")->required();
    for (CLI::App* order : {suspends, reroutes}) {
        order->add_option("--reason", options.reason, "for `queue orders`");
        order->add_option("--for", options.duration, "ends by itself after 90s, 15m, 2h, 3d");
    }
    CLI::App* resumes = changes("resume", "end suspensions, or any order by its number");
    add_lasting_filters(*resumes, options);
    resumes->add_option("--order", options.order, "number of an order");
    add(*queues, "orders", "suspensions and reroutes that stand",
        [&json, client] { return orders(json, client()); });
}

} // namespace control::cli
