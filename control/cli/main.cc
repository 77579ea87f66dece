// main.cc: millracectl: the operator's command line.
//
// Scope      Parses the command line, asks the running millrace-control (admin_client.h), prints.
//            `check` and `config-doc` need nobody; `account` works on the database itself when
//            nobody answers.
// Failure    Exit code 0: done. 1: refused or failed, the reason on standard error. 2: wrong
//            command line.

#include "control/cli/account.h"
#include "control/cli/admin_client.h"
#include "control/cli/capture.h"
#include "control/cli/cert.h"
#include "control/cli/dkim.h"
#include "control/cli/net.h"
#include "control/cli/offload.h"
#include "control/cli/output.h"
#include "control/cli/queue.h"
#include "control/config.h"
#include "control/policy_compiler.h"
#include "control/schema/capture_limits.h"
#include "control/settings.h"

#include <CLI/CLI.hpp>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>

namespace {

using control::cli::AdminClient;
using control::cli::AdminPlace;
using control::cli::complain;
using control::cli::exit_failed;
using control::cli::exit_ok;
using control::cli::exit_usage;
using control::cli::harmless;
using control::cli::Json;
using control::cli::print;
using control::cli::text;

struct Options {
    std::string config = "/etc/millrace/millrace.toml";
    std::string admin, token_file;
    bool json = false;
    control::cli::QueueOptions queue;
    std::string id;            // trace
    std::uint32_t limit = 100; // net connections
    std::string file;          // config-doc, check
    control::cli::AccountOptions account;
    control::cli::CaptureOptions capture;
    control::cli::DkimOptions dkim;
    control::cli::CertOptions cert;
};

/// From the command line, or from the configuration; an error in some other line of it is no
/// obstacle.
AdminClient client(const Options& options) {
    const control::Config config = control::load_config(options.config).config;
    AdminPlace place{config.admin_address.ip.to_string(), config.admin_address.port,
                     config.admin_token_file};
    if (const auto given = control::base::SocketAddress::parse(options.admin)) {
        place.host = given->ip.to_string();
        place.port = given->port;
    }
    if (!options.token_file.empty()) place.token_file = options.token_file;
    return AdminClient(std::move(place));
}

int check(const Options& options) {
    control::ConfigResult loaded = control::load_config(options.file);
    if (loaded.errors.empty()) loaded.errors = control::compile_screening(loaded.config);
    if (loaded.errors.empty())
        loaded.errors = control::check_dkim_keys(loaded.config, loaded.warnings);
    const control::schema::PolicyT& policy = loaded.config.policy;
    if (options.json) {
        Json errors = Json::array();
        for (const auto& error : loaded.errors) {
            errors.push_back({{"file", error.file},
                              {"line", error.line},
                              {"key", error.key},
                              {"text", error.text}});
        }
        print({{"ok", loaded.errors.empty()},
               {"errors", std::move(errors)},
               {"warnings", loaded.warnings}});
        return loaded.errors.empty() ? exit_ok : exit_failed;
    }
    for (const auto& error : loaded.errors)
        std::cerr << harmless(error.to_string()) << '\n';
    for (const std::string& warning : loaded.warnings)
        std::cerr << "warning: " << harmless(warning) << '\n';
    if (!loaded.errors.empty()) {
        std::cerr << loaded.errors.size() << (loaded.errors.size() == 1 ? " error" : " errors")
                  << " in " << options.file << '\n';
        return exit_failed;
    }
    std::cout << "OK: " << options.file << ": host " << policy.hostname << ", "
              << policy.start_up->shards << " shard(s), " << policy.listeners.size()
              << " listener(s), " << policy.start_up->ports.size() << " port(s), "
              << policy.sources.size() << " source(s), " << policy.pools.size() << " pool(s), "
              << policy.routes.size() << " route(s), " << policy.sites.size() << " site(s), "
              << loaded.config.patterns.size() << " screening rule(s)\n";
    return exit_ok;
}

int reload(const Options& options) {
    auto reply = client(options).post("/api/admin/reload", Json::object());
    const bool refused =
        !reply && reply.error().body.is_object() && reply.error().body.contains("errors");
    if (!reply && !refused) return complain(reply.error().text);
    const Json& report = reply ? *reply : reply.error().body;
    if (options.json) {
        print(report);
        return reply ? exit_ok : exit_failed;
    }
    for (const Json& error : report["errors"])
        std::cerr << harmless(error.get<std::string>()) << '\n';
    for (const Json& warning : report["warnings"])
        std::cerr << "warning: " << harmless(warning.get<std::string>()) << '\n';
    if (!reply) return complain("the policy in use stays as it was");
    std::cout << "policy version " << report["version"]
              << (report["in_use"] == true ? " is in use\n" : " is published\n");
    return exit_ok;
}

int status(const Options& options) {
    const auto reply = client(options).get("/status");
    if (!reply) return complain(reply.error().text);
    if (options.json) {
        print(*reply);
        return exit_ok;
    }
    const Json& plane = (*reply)["data_plane"];
    const Json& policy = (*reply)["policy"];
    std::cout << "host        " << text(*reply, "hostname") << "\nconfig      "
              << text(*reply, "config") << '\n';
    if (plane["connected"] == true) {
        std::cout << "data plane  running, pid " << plane["process_id"] << ", " << plane["shards"]
                  << " shard(s)\n";
    } else {
        std::cout << "data plane  not connected\n";
    }
    std::cout << "policy      published " << policy["published"] << ", in use " << policy["in_use"]
              << '\n';
    if (!text(policy, "text").empty())
        std::cout << "            " << harmless(text(policy, "text")) << '\n';
    std::cout << "accounts    " << (*reply)["accounts"] << '\n';
    const Json& stats = (*reply)["stats"];
    if (!stats.is_object()) return exit_ok;
    const Json& counters = stats["counters"];
    const Json& gauges = stats["gauges"];
    std::cout << "in          " << counters["messages_received"] << " messages, "
              << gauges["open_in"] << " connections open\n"
              << "out         " << counters["messages_delivered"] << " delivered, "
              << counters["messages_deferred"] << " deferred, " << counters["messages_bounced"]
              << " failed, " << gauges["open_out"] << " connections open\n"
              << "queue       " << gauges["queued_messages"]
              << " messages: " << gauges["ready_messages"] << " ready, "
              << gauges["deferred_messages"] << " waiting\n";
    if (gauges.value("spool_read_only", 0) != 0)
        std::cout
            << "spool       READ-ONLY on " << gauges["spool_read_only"]
            << " shard(s): the device refused too many writes; no mail is taken or delivered there "
               "until it is mended and millraced started again\n";
    return exit_ok;
}

int stats(const Options& options) {
    const auto reply = client(options).get("/status");
    if (!reply) return complain(reply.error().text);
    const Json& page = (*reply)["stats"];
    if (!page.is_object())
        return complain("there is no statistics page: millraced has not run with this run_dir");
    if (options.json) {
        print(page);
        return exit_ok;
    }
    for (const char* group : {"counters", "gauges"}) {
        for (const auto& [name, value] : page[group].items()) {
            std::cout << name << std::string(name.size() < 26 ? 26 - name.size() : 1, ' ') << value
                      << '\n';
        }
    }
    for (const auto& [name, value] : page["latencies"].items()) {
        std::cout << name << " latency below: p50 " << value["p50_us_below"] << " us, p99 "
                  << value["p99_us_below"] << " us, p99.9 " << value["p999_us_below"] << " us ("
                  << value["count"] << " values)\n";
    }
    return exit_ok;
}

int trace(const Options& options) {
    const auto reply = client(options).get("/api/admin/trace/" + options.id);
    if (!reply)
        return complain(reply.error().status == 404 ? "that is no message id: 16 hex digits are"
                                                    : reply.error().text);
    const Json events = reply->value("events", Json::array());
    if (options.json) {
        print(events);
        return exit_ok;
    }
    if (events.empty()) return complain("the event log has nothing on " + options.id);
    for (const Json& event : events) {
        const Json response = event.value("response", Json::object());
        std::cout << text(event, "event_time") << "  " << text(event, "type") << "  "
                  << harmless(text(event, "sender")) << " -> " << harmless(text(event, "recipient"))
                  << "  " << text(response, "code") << " " << harmless(text(response, "content"))
                  << '\n';
    }
    return exit_ok;
}

int config_doc(const Options& options) {
    const std::string page = control::settings_page();
    if (options.file.empty()) {
        std::cout << page;
        return exit_ok;
    }
    std::ifstream stream(options.file, std::ios::binary);
    const std::string there{std::istreambuf_iterator<char>(stream), {}};
    if (stream && there == page) return exit_ok;
    return complain(
        options.file +
        " differs from the settings in the code; write it anew with: millracectl config-doc > " +
        options.file);
}

/// `millracectl dkim ...`
template <class Command>
void add_dkim(CLI::App& app, Options& options, Command command) {
    control::cli::DkimOptions& to = options.dkim;
    CLI::App* dkim = app.add_subcommand("dkim", "DKIM keys and their DNS records");
    dkim->require_subcommand(1);
    const auto run = [&options](int (*act)(const control::cli::DkimOptions&)) {
        return [&options, act] {
            options.dkim.config = options.config;
            options.dkim.json = options.json;
            return act(options.dkim);
        };
    };
    CLI::App* keygen = command(*dkim, "keygen", "make a private key, and print its record",
                               run(&control::cli::dkim_keygen));
    keygen->add_option("--domain", to.domain, "d= of the signatures")->required();
    keygen->add_option("--selector", to.selector, "s= of the signatures")->required();
    keygen->add_option("--out", to.out, "the new file; one that is there is not replaced")
        ->required();
    keygen->add_option("--type", to.type, "rsa or ed25519")
        ->capture_default_str()
        ->check(CLI::IsMember({"rsa", "ed25519"}));
    keygen->add_option("--bits", to.bits, "of an RSA key: 2048, 3072 or 4096")
        ->capture_default_str()
        ->check(CLI::IsMember({2048, 3072, 4096}));
    CLI::App* dns =
        command(*dkim, "dns", "print the TXT records of the configuration's keys, or of one file",
                run(&control::cli::dkim_dns));
    CLI::App* check = command(*dkim, "check", "compare the TXT records that DNS has with the keys",
                              run(&control::cli::dkim_check));
    for (CLI::App* added : {dns, check}) {
        added->add_option("--domain", to.domain, "only this domain");
        added->add_option("--selector", to.selector, "only this selector");
        added->add_option("--key", to.key, "a key file, instead of the configuration's");
    }
    for (CLI::App* added : {keygen, dns}) {
        added->add_flag("--plain", to.plain,
                        "name and text on a line each, instead of a zone file's entry");
        added->add_flag("--testing", to.testing, "with t=y: receivers are to ignore failures");
    }
    check->add_option("--server", to.servers, "IP or IP@PORT of a name server; repeat for more");
}

} // namespace

int main(int argc, char** argv) {
    Options options;
    std::function<int()> run;
    CLI::App app{"millracectl: checks, watches and steers a Millrace relay.\nExit codes: 0 done, 1 "
                 "refused or failed, 2 wrong command line."};
    app.require_subcommand(1);
    app.fallthrough(); // --json and --config may stand behind the command
    app.add_option("--config", options.config, "configuration file; tells where the admin API is")
        ->capture_default_str();
    app.add_option("--admin", options.admin,
                   "IP:PORT of the admin API, instead of the configuration's");
    app.add_option("--token-file", options.token_file,
                   "file with the API's token, instead of the configuration's");
    app.add_flag("--json", options.json, "print JSON");

    const auto command = [&](CLI::App& parent, const std::string& name, const std::string& help,
                             std::function<int()> act) {
        CLI::App* added = parent.add_subcommand(name, help);
        // CLI11 calls a command after its subcommand, which would otherwise be forgotten.
        added->callback([&run, added, act = std::move(act)] {
            if (added->get_subcommands().empty()) run = act;
        });
        return added;
    };
    command(app, "check", "say everything that is wrong with a configuration file and its rules",
            [&] { return check(options); })
        ->add_option("file", options.file, "configuration file")
        ->required();
    command(app, "reload", "put the changed configuration into use",
            [&] { return reload(options); });
    command(app, "status", "what runs, and how much mail is where",
            [&] { return status(options); });
    command(app, "stats", "every counter", [&] { return stats(options); });

    control::cli::add_queue_commands(app, options.queue, options.json, command,
                                     [&options] { return client(options); });
    command(app, "trace", "what happened to a message, from the event log",
            [&] { return trace(options); })
        ->add_option("id", options.id, "message id")
        ->required();

    CLI::App* net = command(app, "net", "our own TCP/IP, shard by shard",
                            [&] { return control::cli::net_stats(client(options), options.json); });
    command(
        *net, "connections", "its connections",
        [&] { return control::cli::net_connections(client(options), options.limit, options.json); })
        ->add_option("--limit", options.limit, "how many")
        ->capture_default_str()
        ->check(CLI::Range(1U, 10'000U));
    CLI::App* capture =
        command(app, "capture", "frames of our own TCP/IP into a pcapng file, for Wireshark",
                [&] { return control::cli::capture(client(options), options.capture); });
    capture->add_option("--connection", options.capture.connection,
                        "IP:PORT,IP:PORT: one connection, our end first");
    capture->add_option("--address", options.capture.address, "all frames of this address");
    capture->add_option("--port", options.capture.port, "all frames of this TCP port")
        ->check(CLI::Range(1U, 65'535U));
    capture->add_option("--out", options.capture.out, "the file; - is standard output")->required();
    capture->add_option("--seconds", options.capture.seconds, "how long")
        ->capture_default_str()
        ->check(CLI::Range(1U, control::schema::capture_seconds_max));
    capture->add_option("--bytes", options.capture.bytes, "how large the file may become")
        ->capture_default_str();

    command(app, "offload", "who does the private-key operations, and how well",
            [&] { return control::cli::offload(client(options), options.json); });

    CLI::App* cert = app.add_subcommand("cert", "the relay's certificates");
    cert->require_subcommand(1);
    command(*cert, "list", "those in use",
            [&] { return control::cli::cert_list(client(options), options.json); });
    command(*cert, "reload", "read the files again now; changes are noticed without it, too",
            [&] { return control::cli::cert_reload(client(options), options.json); });
    CLI::App* cert_check =
        command(*cert, "check", "whether files fit together, without a relay",
                [&] { return control::cli::cert_check(options.cert, options.json); });
    cert_check->add_option("certificate", options.cert.certificate, "PEM chain, the leaf first")
        ->required();
    cert_check->add_option("key", options.cert.key, "PEM private key")->required();
    cert_check->add_option("--ocsp", options.cert.ocsp, "OCSP response in DER");
    cert_check->add_option("--name", options.cert.names,
                           "a name that the certificate must be for; repeat for more");

    add_dkim(app, options, command);

    control::cli::add_account_commands(app, options.account, options.config, options.json, command,
                                       [&options] { return client(options); });

    command(app, "config-doc", "print docs/configuration.md", [&] {
        return config_doc(options);
    })->add_option("--check", options.file, "compare with this file instead");

    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? exit_ok : exit_usage;
    }
    try {
        return run();
    } catch (const std::exception& error) {
        return complain(error.what());
    }
}
