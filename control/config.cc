#include "control/config.h"

#include "control/config_section.h"
#include "control/notation.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <set>
#include <sys/un.h>

namespace control {
namespace {

constexpr std::size_t config_bytes_max = 16U << 20;

class Loader {
public:
    Loader(const toml::table& root, Errors& errors, Config& config,
           std::vector<std::string>& warnings)
        : root_(root), errors_(errors), config_(config), policy_(config.policy),
          warnings_(warnings) {}

    void load() {
        refuse_unknown_tables();
        server();
        listeners();
        relay();
        limits();
        timeouts();
        tls();
        sources();
        pools();
        sites(); // before routes, which inherit the default site
        routes();
        retry();
        screen();
        admin();
    }

private:
    static constexpr std::array<std::string_view, 14> tables{
        "server", "listener", "relay", "limits", "timeouts", "tls",    "dns",
        "source", "pool",     "route", "site",   "retry",    "screen", "admin"};

    [[nodiscard]] static unsigned line_of(const toml::node& node) {
        return node.source().begin.line;
    }

    void refuse_unknown_tables() {
        for (const auto& [key, node] : root_) {
            const std::string_view got = key.str();
            if (std::find(tables.begin(), tables.end(), got) != tables.end()) continue;
            std::string text = node.is_table() || node.is_array_of_tables()
                                   ? "unknown table"
                                   : "unknown key outside of any table";
            if (const std::string_view meant = nearest(got, tables); !meant.empty()) {
                text += "; did you mean [" + std::string{meant} + "]?";
            } else {
                text += "; known tables:";
                for (const std::string_view name : tables)
                    text += " " + std::string{name};
            }
            errors_.add(key.source().begin.line,
                        is_printable(got) ? std::string{got} : in_quotes(got), std::move(text));
        }
    }

    [[nodiscard]] Section table(std::string_view name,
                                std::span<const std::string_view> children = {}) {
        const toml::node* node = root_.get(name);
        if (node != nullptr && !node->is_table()) {
            errors_.add(line_of(*node), std::string{name},
                        "expected a table; write [" + std::string{name} + "] on a line of its own");
            node = nullptr;
        }
        return Section(errors_, node == nullptr ? nullptr : node->as_table(), name,
                       std::string{name}, node == nullptr ? 1 : std::max(1U, line_of(*node)),
                       children);
    }

    /// Every table of [[name]].
    template <class Visit>
    void each(std::string_view name, std::span<const std::string_view> children, Visit visit) {
        const toml::node* node = root_.get(name);
        if (node == nullptr) return;
        const auto* list = node->as_array();
        if (list == nullptr || list->size() > list_entries_max) {
            errors_.add(line_of(*node), std::string{name},
                        "expected a list of tables; write [[" + std::string{name} +
                            "]] above each");
            return;
        }
        for (const toml::node& element : *list) {
            if (const auto* found = element.as_table()) {
                visit(Section(errors_, found, name, std::string{name}, line_of(element), children),
                      *found);
            } else {
                errors_.add(line_of(element), std::string{name},
                            "expected a table; write [[" + std::string{name} + "]] above each");
            }
        }
    }

    void server() {
        const Section from = table("server");
        const Section dns = table("dns");
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
        constexpr std::uint64_t segments_min =
            4; // one filling, one full, one being emptied, one free
        if (segment % (1U << 20) != 0)
            from.error("segment_size",
                       "expected a whole number of MiB; write segment_size = \"64MiB\"");
        if (segment != 0 && (to.spool_bytes_per_shard % segment != 0 ||
                             to.spool_bytes_per_shard / segment < segments_min)) {
            from.error("spool_size", "expected a multiple of segment_size (" +
                                         std::to_string(segment >> 20) +
                                         "MiB), at least four; raise it or lower segment_size");
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
        std::map<base::SocketAddress, unsigned> addresses;
        each("listener", {}, [&](const Section& from, const toml::table&) {
            auto to = std::make_unique<schema::ListenerT>();
            to->name = from.name("name", names);
            const base::SocketAddress address = from.address("address");
            to->address = address.to_string();
            to->kind = from.choice<schema::ListenerKind>("kind");
            to->proxy_protocol = from.flag("proxy_protocol");
            to->allow_plain_auth = from.flag("allow_plain_auth");
            to->connections_max = from.integer("connections_max");
            const auto [first, fresh] = addresses.emplace(address, from.line("address"));
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
        if (policy_.listeners.empty() && !root_.contains("listener")) {
            errors_.add(1, "listener",
                        "there is none, so no mail could come in; write [[listener]] with name, "
                        "address and kind");
        }
    }

    void relay() {
        const Section from = table("relay");
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
        const Section from = table("limits");
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
        const Section from = table("timeouts");
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

    void tls() {
        const Section from = table("tls");
        policy_.tls = std::make_unique<schema::TlsT>();
        policy_.tls->certificate_file = from.file("certificate");
        policy_.tls->key_file = from.file("key");
        policy_.tls->modern = from.flag("modern");
        policy_.tls->ca_file = from.file("ca_file");
        if (policy_.tls->certificate_file.empty() != policy_.tls->key_file.empty()) {
            const bool no_key = policy_.tls->key_file.empty();
            from.error(
                no_key ? "key" : "certificate",
                std::string{"is missing; tls."} + (no_key ? "certificate" : "key") +
                    " is of no use without it: give both, or neither for a self-signed pair");
        }
    }

    void sources() {
        each("source", {}, [&](const Section& from, const toml::table&) {
            auto to = std::make_unique<schema::SourceT>();
            to->name = from.name("name", source_names_);
            to->address_v4 = from.ip("address_v4", false);
            to->address_v6 = from.ip("address_v6", true);
            to->helo_name = from.host_name("helo_name");
            policy_.sources.push_back(std::move(to));
        });
        if (!policy_.sources.empty()) return;
        auto kernel = std::make_unique<schema::SourceT>();
        kernel->name = "default";
        source_names_.emplace(kernel->name, 0);
        policy_.sources.push_back(std::move(kernel));
    }

    void pools() {
        static constexpr std::array<std::string_view, 1> children{"members"};
        each("pool", children, [&](const Section& from, const toml::table& node) {
            auto to = std::make_unique<schema::PoolT>();
            to->name = from.name("name", pool_names_);
            if (source_names_.contains(to->name)) {
                from.error("name", "a [[source]] is called " + in_quotes(to->name) +
                                       " as well; call one of them something else");
            }
            members(from, node, *to);
            policy_.pools.push_back(std::move(to));
        });
    }

    void members(const Section& from, const toml::table& node, schema::PoolT& to) {
        const toml::node* value = node.get("members");
        const auto* list = value == nullptr ? nullptr : value->as_array();
        if (list == nullptr || list->empty() || list->size() > list_entries_max) {
            from.error("members", "expected a list of at least one member; write members = [{ "
                                  "source = \"ip-1\", weight = 1 }]");
            return;
        }
        std::set<std::string> seen;
        for (const toml::node& element : *list) {
            if (!element.is_table()) {
                errors_.add(line_of(element), "pool.members",
                            "expected a table, got " + shown(element) +
                                "; write { source = \"ip-1\", weight = 1 }");
                continue;
            }
            const Section member(errors_, element.as_table(), "pool.members", "pool.members",
                                 line_of(element));
            const std::string source = member.text("source");
            auto made = std::make_unique<schema::PoolMemberT>();
            made->weight = member.integer("weight");
            const auto found =
                std::find_if(policy_.sources.begin(), policy_.sources.end(),
                             [&](const auto& each_source) { return each_source->name == source; });
            if (!member.given("source")) continue;
            if (found == policy_.sources.end()) {
                member.error("source", "no [[source]] is called " + in_quotes(source) +
                                           "; add it or correct the name");
                continue;
            }
            if (!seen.insert(source).second)
                member.error("source",
                             in_quotes(source) + " is a member twice; raise its weight instead");
            made->source_index = static_cast<std::uint32_t>(found - policy_.sources.begin());
            to.members.push_back(std::move(made));
        }
    }

    static void shape(const Section& from, schema::SiteT& to) {
        to.connections_max = from.integer("connections_max");
        to.messages_per_connection_max = from.integer("messages_per_connection_max");
        to.recipients_per_message_max = from.integer("recipients_per_message_max");
        to.messages_per_second_max = from.per_second("message_rate");
        to.idle_s = from.seconds("idle");
        to.tls = from.choice<schema::TlsLevel>("tls");
        to.pipelining = from.flag("pipelining");
        to.chunking = from.flag("chunking");
    }

    void sites() {
        policy_.default_site = std::make_unique<schema::SiteT>();
        const toml::node* node = root_.get("site");
        const toml::table* all = node == nullptr ? nullptr : node->as_table();
        if (node != nullptr && all == nullptr) {
            errors_.add(line_of(*node), "site",
                        "expected tables; write [site.default] or [site.\"example.com\"]");
        }
        const toml::node* base_node = all == nullptr ? nullptr : all->get("default");
        default_site_ = base_node == nullptr ? nullptr : base_node->as_table();
        shape(Section(errors_, default_site_, "site", "site.default",
                      base_node == nullptr ? 1 : line_of(*base_node)),
              *policy_.default_site);
        if (all == nullptr) return;
        std::set<std::string> names;
        for (const auto& [key, value] : *all) {
            const std::string name = lower(key.str());
            const unsigned line = key.source().begin.line;
            const std::string label = "site." + in_quotes(name);
            if (!value.is_table()) {
                errors_.add(line, label,
                            "expected a table, got " + shown(value) + "; write [site." +
                                in_quotes(name) + "] above the settings");
                continue;
            }
            if (name == "default" && value.as_table() == default_site_) continue;
            if (name.empty() || name.size() > text_bytes_max || !is_printable(name) ||
                name.find(' ') != std::string::npos) {
                errors_.add(line, label,
                            "expected a domain or a site name; write [site.\"example.com\"]");
            }
            if (!names.insert(name).second)
                errors_.add(line, label, "is there twice in different case; join the two");
            auto to = std::make_unique<schema::SiteT>();
            to->name = name;
            // What TOML says of a table made by a header is the header's own line.
            shape(Section(errors_, value.as_table(), "site", label, line_of(value), {},
                          default_site_),
                  *to);
            policy_.sites.push_back(std::move(to));
        }
    }

    void routes() {
        static constexpr std::array<std::string_view, 1> children{"shaping"};
        policy_.default_route = std::make_unique<schema::RouteT>();
        policy_.default_route->port = 25;
        unsigned default_line = 0;
        std::map<std::string, unsigned> domains;
        each("route", children, [&](const Section& from, const toml::table& node) {
            auto to = std::make_unique<schema::RouteT>();
            const std::size_t errors_before = errors_.count();
            to->domains = from.texts("domains", domain);
            const bool no_domains = to->domains.empty() && errors_.count() == errors_before;
            to->kind = from.choice<schema::RouteKind>("kind");
            to->port = from.integer<std::uint16_t>("port");
            to->source = from.text("source");
            hosts(from, *to);
            if (!to->source.empty() && !source_names_.contains(to->source) &&
                !pool_names_.contains(to->source)) {
                from.error("source", "no [[source]] or [[pool]] is called " +
                                         in_quotes(to->source) + "; add it or correct the name");
            }
            if (const toml::node* shaping = node.get("shaping")) {
                if (shaping->is_table()) {
                    to->shaping = std::make_unique<schema::SiteT>();
                    shape(Section(errors_, shaping->as_table(), "site", "route.shaping",
                                  line_of(*shaping), {}, default_site_),
                          *to->shaping);
                } else {
                    from.error("shaping",
                               "expected a table; write [route.shaping] below the [[route]]");
                }
            }
            for (const std::string& each_domain : to->domains) {
                const auto [first, fresh] = domains.emplace(each_domain, from.line("domains"));
                if (!fresh) {
                    from.error("domains", in_quotes(each_domain) + " has a route in line " +
                                              std::to_string(first->second) +
                                              " already; keep one of them");
                }
            }
            const bool is_default = from.flag("default");
            if (is_default && !to->domains.empty())
                from.error("default", "a default route has no domains; make it two routes");
            if (!is_default && no_domains) {
                from.error("domains", "expected at least one domain; write domains = "
                                      "[\"example.com\"], or default = true");
            }
            if (!is_default) return policy_.routes.push_back(std::move(to));
            if (default_line != 0) {
                from.error("default", "line " + std::to_string(default_line) +
                                          " is the default route already; keep one of them");
            }
            default_line = from.line();
            to->domains.clear();
            policy_.default_route = std::move(to);
        });
    }

    void hosts(const Section& from, schema::RouteT& to) {
        const std::size_t errors_before = errors_.count();
        const std::vector<std::string> texts =
            from.texts("hosts", [&](const std::string& text) -> std::optional<std::string> {
                auto host = std::make_unique<schema::RouteHostT>();
                if (!parse_host(text, to.port, *host)) return std::nullopt;
                to.hosts.push_back(std::move(host));
                return text;
            });
        if (to.kind == schema::RouteKind::smart_host && texts.empty() &&
            errors_.count() == errors_before) {
            from.error(
                "hosts",
                "a smart_host route needs at least one; write hosts = [\"smart.example.com:25\"]");
        }
        if (to.kind != schema::RouteKind::smart_host && !texts.empty()) {
            from.error(
                "hosts",
                "only a smart_host route has hosts; write kind = \"smart_host\", or remove them");
        }
    }

    void retry() {
        const Section from = table("retry");
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
        const Section from = table("screen");
        policy_.screen = std::make_unique<schema::ScreenT>();
        policy_.screen->score_reject = from.integer<std::int32_t>("score_reject");
        const std::size_t before = errors_.count();
        config_.rules_file = from.file("rules");
        if (errors_.count() != before) config_.rules_file.clear();
    }

    void admin() {
        const Section from = table("admin");
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
    static std::optional<std::string> domain(const std::string& text) {
        std::string kept = lower(text);
        if (!is_host_name(kept.starts_with('.') ? std::string_view{kept}.substr(1) : kept))
            return std::nullopt;
        return kept;
    }
    static std::optional<std::string> dns_server(const std::string& text) {
        const std::size_t at = text.find('@');
        if (!base::IpAddress::parse(std::string_view{text}.substr(0, at))) return std::nullopt;
        if (at == std::string::npos) return text;
        std::uint16_t port = 0;
        if (!parse_port(std::string_view{text}.substr(at + 1), port)) return std::nullopt;
        return text;
    }
    static bool parse_port(std::string_view text, std::uint16_t& port) {
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
        return error == std::errc{} && end == text.data() + text.size() && port != 0;
    }
    /// "host", "host:port", "192.0.2.1:port", "[2001:db8::1]", "[2001:db8::1]:port", "mx:name",
    /// "mx:name:port".
    static bool parse_host(std::string_view text, std::uint16_t default_port,
                           schema::RouteHostT& host) {
        host.port = default_port;
        host.mx_lookup = text.starts_with("mx:");
        if (host.mx_lookup) text.remove_prefix(3);
        if (text.starts_with('[')) {
            const std::size_t end = text.find(']');
            if (end == std::string_view::npos || host.mx_lookup) return false;
            const auto ip = base::IpAddress::parse(text.substr(1, end - 1));
            if (!ip) return false;
            host.name = ip->to_string();
            text.remove_prefix(end + 1);
            return text.empty() || (text.front() == ':' && parse_port(text.substr(1), host.port));
        }
        const std::size_t colon = text.find(':');
        if (colon != std::string_view::npos && !parse_port(text.substr(colon + 1), host.port))
            return false;
        host.name = lower(text.substr(0, colon));
        if (!is_host_name(host.name)) return false;
        // "1.2.3.400" is no host name either: names of digits and dots alone are addresses.
        const bool digits = host.name.find_first_not_of("0123456789.") == std::string::npos;
        return !digits || (base::IpAddress::parse(host.name) && !host.mx_lookup);
    }

    const toml::table& root_;
    Errors& errors_;
    Config& config_;
    schema::PolicyT& policy_;
    std::vector<std::string>& warnings_;
    std::map<std::string, unsigned> source_names_, pool_names_;
    const toml::table* default_site_ = nullptr;
};

/// Syntax errors come one at a time: TOML cannot be read on behind one.
std::optional<toml::table> parse_toml(std::string_view text, Errors& errors) {
    if (text.size() > config_bytes_max) {
        errors.add(0, "", "is larger than 16 MiB; that is no configuration");
        return std::nullopt;
    }
    try {
        return toml::parse(text, errors.file());
    } catch (const toml::parse_error& error) {
        errors.add(error.source().begin.line, "",
                   "not TOML: " + std::string{error.description()} +
                       "; mend the syntax, the rest was not read");
        return std::nullopt;
    }
}

std::optional<std::string> read_file(const std::string& path, Errors& errors) {
    std::error_code failure;
    if (!std::filesystem::is_regular_file(path, failure)) {
        errors.add(0, "", "no such file; give the path of a TOML file that is there");
        return std::nullopt;
    }
    std::ifstream stream(path, std::ios::binary);
    std::string text;
    if (stream) {
        std::array<char, 65536> part;
        while (text.size() <= config_bytes_max &&
               (stream.read(part.data(), part.size()), stream.gcount() > 0)) {
            text.append(part.data(), static_cast<std::size_t>(stream.gcount()));
        }
    }
    if (!stream.eof() && text.size() <= config_bytes_max) {
        errors.add(0, "", "cannot be read; let the user that runs this read it");
        return std::nullopt;
    }
    return text;
}

bool is_header_name(std::string_view text) {
    return !text.empty() && text.size() <= name_bytes_max &&
           std::all_of(text.begin(), text.end(),
                       [](char byte) { return byte > ' ' && byte <= '~' && byte != ':'; });
}

void check_rule(const Section& from, const schema::ScreenRuleT& rule,
                const screen::Pattern& pattern) {
    if (from.given("pattern") && pattern.pattern.empty())
        from.error("pattern", "expected an expression, got \"\", which is everywhere");
    if (pattern.flags.find_first_not_of("ismuw") != std::string::npos) {
        from.error("flags", "expected some of the letters i, s, m, u and w, got " +
                                in_quotes(pattern.flags) + "; write flags = \"i\"");
    }
    if (!is_printable(rule.text))
        from.error("text", "expected one line of printable ASCII: it goes into an SMTP reply");
    if (!is_printable(rule.value))
        from.error("value", "expected one line of printable ASCII: it goes into a header");
    const bool tags = rule.action == schema::ScreenAction::tag;
    if (tags && !is_header_name(rule.header)) {
        from.error("header",
                   "a tag rule needs the name of a header; write header = \"X-Screened\"");
    }
    if (!tags && (!rule.header.empty() || !rule.value.empty())) {
        from.error(rule.header.empty() ? "value" : "header",
                   "only a tag rule has one; write action = \"tag\", or remove it");
    }
    const bool scores = rule.action == schema::ScreenAction::score;
    if (scores && rule.score == 0)
        from.error("score", "a score rule needs one other than 0; write score = 5");
    if (!scores && rule.score != 0)
        from.error("score", "only a score rule has one; write action = \"score\", or remove it");
}

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

void parse_rules(std::string_view text, const std::string& path, Config& config,
                 std::vector<ConfigError>& errors) {
    Errors to(path, errors);
    const auto root = parse_toml(text, to);
    if (!root) return;
    for (const auto& [key, node] : *root) {
        if (key.str() != "rule")
            to.add(key.source().begin.line, in_quotes(key.str()),
                   "unknown; a rule file has [[rule]] tables only");
    }
    const toml::node* node = root->get("rule");
    const auto* list = node == nullptr ? nullptr : node->as_array();
    if (list == nullptr || list->size() > list_entries_max) {
        if (node != nullptr)
            to.add(node->source().begin.line, "rule",
                   "expected a list of tables; write [[rule]] above each");
        return;
    }
    std::map<std::string, unsigned> names;
    for (const toml::node& element : *list) {
        if (!element.is_table()) {
            to.add(element.source().begin.line, "rule",
                   "expected a table; write [[rule]] above each");
            continue;
        }
        const Section from(to, element.as_table(), "rule", "rule", element.source().begin.line);
        auto rule = std::make_unique<schema::ScreenRuleT>();
        screen::Pattern pattern;
        rule->name = pattern.name = from.name("name", names);
        pattern.pattern = from.text("pattern");
        pattern.flags = from.text("flags");
        pattern.where = from.choice<screen::Pattern::Where>("where");
        rule->action = from.choice<schema::ScreenAction>("action");
        rule->text = from.text("text");
        rule->header = from.text("header");
        rule->value = from.text("value");
        rule->score = from.integer<std::int32_t>("score");
        check_rule(from, *rule, pattern);
        config.policy.screen->rules.push_back(std::move(rule));
        config.patterns.push_back(std::move(pattern));
        config.pattern_lines.push_back(from.line("pattern"));
    }
}

} // namespace control
