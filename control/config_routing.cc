#include "control/config_routing.h"

#include "control/notation.h"

#include <array>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

namespace control {
namespace {

class RoutingReader {
public:
    RoutingReader(const Tables& tables, schema::PolicyT& policy, NetworkReader& network)
        : tables_(tables), errors_(tables.errors()), policy_(policy), network_(network) {}

    void read(schema::Transport egress) {
        sources(egress);
        pools();
        sites(); // before routes, which inherit the default site
        routes();
    }

private:
    void sources(schema::Transport egress) {
        tables_.each("source", {}, [&](const Section& from, const toml::table&) {
            auto to = std::make_unique<schema::SourceT>();
            to->name = from.name("name", source_names_);
            to->address_v4 = from.ip("address_v4", false);
            to->address_v6 = from.ip("address_v6", true);
            to->helo_name = from.host_name("helo_name");
            to->transport = network_.source_transport(from);
            policy_.sources.push_back(std::move(to));
        });
        if (!policy_.sources.empty()) return;
        auto made = std::make_unique<schema::SourceT>();
        made->name = "default";
        made->transport = egress;
        source_names_.emplace(made->name, 0);
        policy_.sources.push_back(std::move(made));
    }

    void pools() {
        static constexpr std::array<std::string_view, 1> children{"members"};
        tables_.each("pool", children, [&](const Section& from, const toml::table& node) {
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
        const toml::node* node = tables_.root().get("site");
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
        tables_.each("route", children, [&](const Section& from, const toml::table& node) {
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

    static std::optional<std::string> domain(const std::string& text) {
        std::string kept = lower(text);
        if (!is_host_name(kept.starts_with('.') ? std::string_view{kept}.substr(1) : kept))
            return std::nullopt;
        return kept;
    } /// "host", "host:port", "192.0.2.1:port", "[2001:db8::1]", "[2001:db8::1]:port", "mx:name",
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

    const Tables& tables_;
    Errors& errors_;
    schema::PolicyT& policy_;
    NetworkReader& network_;
    std::map<std::string, unsigned> source_names_, pool_names_;
    const toml::table* default_site_ = nullptr;
};

} // namespace

void read_routing(const Tables& tables, schema::PolicyT& policy, NetworkReader& network,
                  schema::Transport egress) {
    RoutingReader(tables, policy, network).read(egress);
}

} // namespace control
