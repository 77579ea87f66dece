#include "control/config.h"

#include "control/config_dkim.h"
#include "control/config_file.h"
#include "control/config_network.h"
#include "control/config_routing.h"
#include "control/config_tables.h"
#include "control/config_tls.h"
#include "control/notation.h"

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <sys/un.h>

namespace control {
namespace {

class Loader {
public:
    Loader(const toml::table& root, Errors& errors, Config& config,
           std::vector<std::string>& warnings)
        : tables_(root, errors), errors_(errors), config_(config), policy_(config.policy),
          warnings_(warnings), network_(tables_, policy_, warnings_) {}

    void load() {
        refuse_unknown_tables();
        const Section from = tables_.one("server");
        server(from);
        network_.read(); // before those who use its addresses
        const schema::Transport egress = network_.egress_transport(from);
        listeners();
        relay();
        limits();
        timeouts();
        read_routing(tables_, policy_, network_, egress);
        network_.warn_of_unused();
        read_tls(tables_, policy_, warnings_);
        retry();
        read_dkim(tables_, config_, warnings_);
        screen();
        offload();
        admin();
    }

private:
    static constexpr std::array<std::string_view, 20> known{
        "server", "listener", "relay", "limits", "timeouts",    "tls",    "dns",
        "source", "pool",     "route", "site",   "retry",       "screen", "admin",
        "port",   "dpdk",     "tcp",   "dkim",   "certificate", "offload"};

    void refuse_unknown_tables() {
        for (const auto& [key, node] : tables_.root()) {
            const std::string_view got = key.str();
            if (std::find(known.begin(), known.end(), got) != known.end()) continue;
            std::string text = node.is_table() || node.is_array_of_tables()
                                   ? "unknown table"
                                   : "unknown key outside of any table";
            if (const std::string_view meant = nearest(got, known); !meant.empty()) {
                text += "; did you mean [" + std::string{meant} + "]?";
            } else {
                text += "; known tables:";
                for (const std::string_view name : known)
                    text += " " + std::string{name};
            }
            errors_.add(key.source().begin.line,
                        is_printable(got) ? std::string{got} : in_quotes(got), std::move(text));
        }
    }

    /// A file that can be read, or env: and the name of a variable, which only the relay can look at.
    static std::string key_source(const Section& from, const std::string& text) {
        constexpr std::string_view environment = "env:";
        if (!text.starts_with(environment)) return from.file("spool_key");
        const std::string_view name = std::string_view{text}.substr(environment.size());
        const bool valid = !name.empty() && std::ranges::all_of(name, [](char c) {
            return (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
        });
        if (!valid)
            from.error("spool_key", "expected env: and the name of a variable in capitals, digits "
                                    "and _; write spool_key = \"env:MILLRACE_SPOOL_KEY\"");
        return text;
    }

    void server(const Section& from) {
        const Section dns = tables_.one("dns");
        policy_.start_up = std::make_unique<schema::StartUpT>();
        schema::StartUpT& to = *policy_.start_up;
        policy_.hostname = from.host_name("hostname");
        to.shards = from.integer("shards");
        to.cpus = from.integers("cpus");
        to.state_dir = from.path("state_dir");
        to.run_dir = from.path("run_dir");
        to.spool_dir = from.path("spool_dir");
        to.event_log = from.path("event_log");
        if (to.event_log.empty()) to.event_log = to.state_dir + "/events.jsonl";
        to.spool_bytes_per_shard = from.bytes("spool_size");
        const std::uint64_t segment = from.bytes("segment_size");
        to.spool_segment_bytes = static_cast<std::uint32_t>(segment);
        to.scrub_bytes_per_s = from.bytes("scrub_rate");
        to.spool_key = from.text("spool_key");
        if (!to.spool_key.empty()) to.spool_key = key_source(from, to.spool_key);
        to.commit = from.choice<schema::Commit>("commit");
        to.durability = from.choice<schema::Durability>("durability");
        to.mirror_dir = from.path("mirror_dir");
        to.mirror_copy_bytes_per_s = from.bytes("mirror_copy_rate");
        if (to.durability != schema::Durability::local && to.mirror_dir.empty()) {
            from.error("durability", "a mirror needs a second folder; write mirror_dir = "
                                     "\"/second/device/millrace\"");
        } else if (to.durability != schema::Durability::local && to.mirror_dir == to.spool_dir) {
            from.error("mirror_dir", "expected another folder than spool_dir, on another device");
        }
        to.resident_bytes_per_shard = from.bytes("memory");
        to.busy_poll = from.flag("busy_poll");
        policy_.bare_newline = from.choice<schema::BareNewline>("bare_newline");
        to.dns_servers = dns.texts("servers", dns_server);
        to.resolver_threads = dns.integer("resolver_threads");
        to.dnssec = dns.flag("dnssec");

        if (!to.cpus.empty() && to.cpus.size() != to.shards) {
            from.error("cpus", "expected one core for each of the " + std::to_string(to.shards) +
                                   " shards, got " + std::to_string(to.cpus.size()) +
                                   "; list as many as server.shards says, or none");
        }
        if (std::set<std::int32_t>(to.cpus.begin(), to.cpus.end()).size() != to.cpus.size()) {
            from.error("cpus", "a core is listed twice; give each shard its own");
        }
        constexpr std::uint64_t segments_min = 8; // queue/limits.h, segment_count_min
        if (segment % (1U << 20) != 0)
            from.error("segment_size",
                       "expected a whole number of MiB; write segment_size = \"64MiB\"");
        if (segment != 0 && (to.spool_bytes_per_shard % segment != 0 ||
                             to.spool_bytes_per_shard / segment < segments_min)) {
            from.error("spool_size", "expected a multiple of segment_size (" +
                                         std::to_string(segment >> 20) +
                                         "MiB), at least eight; raise it or lower segment_size");
        }
        // bind() and connect() take a path of this size and no longer.
        if (config_.control_socket().size() >= sizeof(sockaddr_un::sun_path)) {
            from.error("run_dir", "the path of the socket in it is longer than the kernel's 107 "
                                  "bytes; use a shorter folder");
        }
        for (const auto& [key, folder] :
             {std::pair{"state_dir", &to.state_dir}, std::pair{"run_dir", &to.run_dir},
              std::pair{"spool_dir", &to.spool_dir}}) {
            // A value of the wrong type was refused already.
            if (!folder->empty()) continue;
            *folder = "/";
            if (from.has_text(key))
                from.error(key, "expected a folder, got \"\"; leave the key out for the default");
        }
    }

    void listeners() {
        std::map<std::string, unsigned> names;
        std::map<std::pair<schema::Transport, base::SocketAddress>, unsigned> addresses;
        tables_.each("listener", {}, [&](const Section& from, const toml::table&) {
            auto to = std::make_unique<schema::ListenerT>();
            to->name = from.name("name", names);
            const base::SocketAddress address = from.address("address");
            to->address = address.to_string();
            to->kind = from.choice<schema::ListenerKind>("kind");
            to->proxy_protocol = from.flag("proxy_protocol");
            to->allow_plain_auth = from.flag("allow_plain_auth");
            to->connections_max = from.integer("connections_max");
            to->transport = network_.listener_transport(from, address);
            const auto [first, fresh] =
                addresses.emplace(std::pair{to->transport, address}, from.line("address"));
            if (!fresh && address.port != 0) {
                from.error("address", "the address " + to->address + " is taken by line " +
                                          std::to_string(first->second) +
                                          "; give each listener its own");
            }
            if (to->allow_plain_auth && !address.ip.is_loopback()) {
                warnings_.push_back("listener " + to->name +
                                    " takes passwords without TLS from other machines");
            }
            policy_.listeners.push_back(std::move(to));
        });
        if (policy_.listeners.empty() && !tables_.has("listener")) {
            errors_.add(1, "listener",
                        "there is none, so no mail could come in; write [[listener]] with name, "
                        "address and kind");
        }
    }

    void relay() {
        const Section from = tables_.one("relay");
        policy_.relay_networks = from.texts("networks", network);
        policy_.proxy_networks = from.texts("proxy_networks", network);
        for (const std::string& each_network : policy_.relay_networks) {
            if (each_network.ends_with("/0")) {
                from.error("networks",
                           "\"" + each_network +
                               "\" is everyone, which makes an open relay; list your own hosts");
            }
        }
    }

    void limits() {
        const Section from = tables_.one("limits");
        policy_.limits = std::make_unique<schema::LimitsT>();
        schema::LimitsT& to = *policy_.limits;
        to.message_bytes_max = from.bytes("message_size");
        to.recipients_max = from.integer("recipients_max");
        to.errors_max = from.integer("errors_max");
        to.messages_per_session_max = from.integer("messages_per_session_max");
        to.connections_per_client_max = from.integer("connections_per_client_max");
        to.auth_failures_max = from.integer("auth_failures_max");
        to.received_headers_max = from.integer("received_headers_max");
        if (to.message_bytes_max > policy_.start_up->spool_bytes_per_shard / 2) {
            from.error(
                "message_size",
                "expected at most half of server.spool_size; lower it or raise server.spool_size");
        }
    }

    void timeouts() {
        const Section from = tables_.one("timeouts");
        policy_.timeouts = std::make_unique<schema::TimeoutsT>();
        schema::TimeoutsT& to = *policy_.timeouts;
        to.command_s = from.seconds("command");
        to.data_block_s = from.seconds("data_block");
        to.tls_handshake_s = from.seconds("tls_handshake");
        to.session_max_s = from.seconds("session_max");
        to.connect_s = from.seconds("connect");
        to.greeting_s = from.seconds("greeting");
        to.helo_s = from.seconds("helo");
        to.mail_s = from.seconds("mail");
        to.rcpt_s = from.seconds("rcpt");
        to.data_init_s = from.seconds("data_init");
        to.data_send_s = from.seconds("data_send");
        to.data_done_s = from.seconds("data_done");
        to.idle_s = from.seconds("idle");
    }

    void retry() {
        const Section from = tables_.one("retry");
        policy_.retry = std::make_unique<schema::RetryT>();
        schema::RetryT& to = *policy_.retry;
        to.first_s = from.seconds("first");
        to.factor = from.real("factor");
        to.interval_max_s = from.seconds("interval_max");
        to.jitter = from.real("jitter");
        to.expiry_s = from.seconds("expiry");
        to.delay_notice_s = from.seconds("delay_notice");
        to.site_pause_first_s = from.seconds("site_pause_first");
        to.site_pause_max_s = from.seconds("site_pause_max");
        if (to.interval_max_s < to.first_s)
            from.error("interval_max",
                       "is shorter than retry.first; raise it or lower retry.first");
        if (to.site_pause_max_s < to.site_pause_first_s) {
            from.error("site_pause_max",
                       "is shorter than retry.site_pause_first; raise it or lower the other");
        }
        if (to.delay_notice_s >= to.expiry_s) {
            from.error("delay_notice", "is not before retry.expiry, so it would never be sent; "
                                       "lower it, or write \"0s\" for never");
        }
    }

    void screen() {
        const Section from = tables_.one("screen");
        policy_.screen = std::make_unique<schema::ScreenT>();
        policy_.screen->score_reject = from.integer<std::int32_t>("score_reject");
        const std::size_t before = errors_.count();
        config_.rules_file = from.file("rules");
        if (errors_.count() != before) config_.rules_file.clear();
    }

    void offload() {
        const Section from = tables_.one("offload");
        policy_.start_up->offload = std::make_unique<schema::OffloadT>();
        schema::OffloadT& to = *policy_.start_up->offload;
        to.backend = from.choice<schema::OffloadBackend>("backend");
        to.workers = from.integer("workers");
        to.cores = from.integers("cores");
        to.device = from.text("device");
        to.engine = from.path("engine");
        const auto only_for = [&](std::string_view key, schema::OffloadBackend backend) {
            if (!from.given(key) || to.backend == backend ||
                to.backend == schema::OffloadBackend::auto_)
                return;
            from.error(key, "is of no use with this backend; remove it, or write backend = \"" +
                                std::string{schema::EnumNameOffloadBackend(backend)} + "\"");
        };
        only_for("device", schema::OffloadBackend::cryptodev);
        only_for("engine", schema::OffloadBackend::qatengine);
    }

    void admin() {
        const Section from = tables_.one("admin");
        config_.admin_address = from.address("address");
        if (config_.admin_address.port != 0 && !config_.admin_address.ip.is_loopback()) {
            from.error("address", "expected a loopback address, got " +
                                      config_.admin_address.to_string() +
                                      "; write address = \"127.0.0.1:8000\" and put an "
                                      "authenticating proxy in front");
        }
        config_.admin_token_file = from.path("token_file");
        if (config_.admin_token_file.empty())
            config_.admin_token_file = policy_.start_up->run_dir + "/admin.token";
    }

    // What one element of a list may be; returns how it is kept.

    static std::optional<std::string> network(const std::string& text) {
        const auto parsed = base::Network::parse(text);
        if (!parsed) return std::nullopt;
        return parsed->base.to_string() + "/" + std::to_string(parsed->prefix_bits);
    }
    static std::optional<std::string> dns_server(const std::string& text) {
        const std::size_t at = text.find('@');
        if (!base::IpAddress::parse(std::string_view{text}.substr(0, at))) return std::nullopt;
        if (at == std::string::npos) return text;
        std::uint16_t port = 0;
        if (!parse_port(std::string_view{text}.substr(at + 1), port)) return std::nullopt;
        return text;
    }

    Tables tables_;
    Errors& errors_;
    Config& config_;
    schema::PolicyT& policy_;
    std::vector<std::string>& warnings_;
    NetworkReader network_;
};

} // namespace

std::string ConfigError::to_string() const {
    std::string result = file;
    if (line != 0) result += ":" + std::to_string(line);
    if (!key.empty()) result += ": " + key;
    return result + ": " + text;
}

ConfigResult parse_config(std::string_view text, const std::string& path) {
    ConfigResult result;
    result.config.file = path;
    Errors errors(path, result.errors);
    const auto root = parse_toml(text, errors);
    const toml::table nothing;
    std::vector<ConfigError>
        noise; // of a file that could not be read: the syntax error says it all
    Errors ignored(path, noise);
    Loader(root ? *root : nothing, root ? errors : ignored, result.config, result.warnings).load();
    if (!root || result.config.rules_file.empty()) return result;
    Errors rule_errors(result.config.rules_file, result.errors);
    if (const auto rules = read_file(result.config.rules_file, rule_errors)) {
        parse_rules(*rules, result.config.rules_file, result.config, result.errors);
    }
    return result;
}

ConfigResult load_config(const std::string& path) {
    std::vector<ConfigError> failures;
    Errors errors(path, failures);
    const auto text = read_file(path, errors);
    ConfigResult result = parse_config(text ? *text : std::string{}, path);
    if (!text) result.errors = std::move(failures);
    return result;
}

} // namespace control
