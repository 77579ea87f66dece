#include "control/config_network.h"

#include "control/notation.h"

#include <array>
#include <charconv>

namespace control {
namespace {

constexpr std::uint16_t ipv6_mtu_min = 1280; // RFC 8200 §5

/// EAL arguments that a setting makes already, and which one.
constexpr std::array<std::pair<std::string_view, std::string_view>, 15> settled_arguments{{
    {"--no-huge", "dpdk.hugepages"},
    {"--in-memory", "dpdk.hugepages"},
    {"-m", "dpdk.memory_mb"},
    {"--socket-mem", "dpdk.memory_mb"},
    {"--file-prefix", "dpdk.file_prefix"},
    {"--vdev", "port.device"},
    {"-a", "port.device"},
    {"--allow", "port.device"},
    {"-w", "port.device"},
    {"-l", "server.cpus"},
    {"-c", "server.cpus"},
    {"-s", "server.cpus"},
    {"-S", "server.cpus"},
    {"--lcores", "server.cpus"},
    {"--main-lcore", "server.cpus"},
}};

/// The setting that says the same as an EAL argument, or nothing.
std::string_view settled_by(std::string_view argument) {
    for (const auto& [option, setting] : settled_arguments) {
        const bool is_long = option.starts_with("--");
        // "-m512" is "-m 512"; a long option has its value behind '=' or in the next argument.
        if (is_long ? argument.substr(0, argument.find('=')) == option
                    : argument.starts_with(option)) {
            return setting;
        }
    }
    return {};
}

base::Network network_of(const base::IpAddress& ip, unsigned prefix_bits) {
    std::array<std::uint8_t, 16> bytes = ip.bytes();
    for (unsigned bit = prefix_bits; bit < ip.bit_count(); ++bit)
        bytes[bit / 8] = static_cast<std::uint8_t>(bytes[bit / 8] & ~(0x80U >> (bit % 8)));
    const base::IpAddress first =
        ip.is_v6() ? base::IpAddress::v6(bytes)
                   : base::IpAddress::v4({bytes[0], bytes[1], bytes[2], bytes[3]});
    return {first, prefix_bits};
}

bool is_unspecified(const base::IpAddress& ip) {
    return network_of(ip, 0).base == ip;
}

bool is_link_local(const base::IpAddress& ip) { // fe80::/10
    return ip.is_v6() && ip.bytes()[0] == 0xfe && (ip.bytes()[1] & 0xc0) == 0x80;
}

bool is_unicast(const base::IpAddress& ip) {
    const unsigned first = ip.bytes()[0];
    if (is_unspecified(ip) || ip.is_loopback()) return false;
    return ip.is_v6() ? first != 0xff : first != 0 && first < 224; // 224/4 groups, 240/4 reserved
}

bool is_broadcast(const base::IpAddress& ip, unsigned prefix_bits) {
    for (unsigned bit = prefix_bits; bit < ip.bit_count(); ++bit) {
        if ((ip.bytes()[bit / 8] & (0x80U >> (bit % 8))) == 0) return false;
    }
    return true;
}

/// "192.0.2.10/24"; nothing when it is not written so.
std::optional<std::pair<base::IpAddress, unsigned>> parse_own(std::string_view text) {
    const std::size_t slash = text.find('/');
    if (slash == std::string_view::npos) return std::nullopt;
    const auto ip = base::IpAddress::parse(text.substr(0, slash));
    const std::string_view digits = text.substr(slash + 1);
    unsigned bits = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), bits);
    if (!ip || error != std::errc{} || end != digits.data() + digits.size() || bits == 0 ||
        bits > ip->bit_count()) {
        return std::nullopt;
    }
    return std::pair{*ip, bits};
}

} // namespace

void NetworkReader::read() {
    dpdk();
    const std::size_t errors_before = tables_.errors().count();
    static constexpr std::array<std::string_view, 1> children{"routes"};
    tables_.each("port", children,
                 [&](const Section& from, const toml::table& node) { port(from, node); });
    whole_ = tables_.errors().count() == errors_before;
    tcp();
}

void NetworkReader::dpdk() {
    const Section from = tables_.one("dpdk");
    policy_.start_up->dpdk = std::make_unique<schema::DpdkT>();
    schema::DpdkT& to = *policy_.start_up->dpdk;
    to.hugepages = from.flag("hugepages");
    to.memory_mb = from.integer("memory_mb");
    to.busy_poll = from.flag("busy_poll");
    to.idle_sleep_us = from.integer("idle_sleep_us");
    to.file_prefix = from.text("file_prefix");
    if (from.has_text("file_prefix") && !is_name(to.file_prefix)) {
        from.error("file_prefix",
                   "expected a name of at most 64 letters, digits, '-', '_' and '.', got " +
                       in_quotes(to.file_prefix) + "; write file_prefix = \"millrace\"");
    }
    from.each_text("driver_args", [&](const std::string& argument, unsigned) -> std::string {
        if (argument.empty() || !is_printable(argument))
            return "expected an argument in printable ASCII, got " + in_quotes(argument);
        if (const std::string_view setting = settled_by(argument); !setting.empty()) {
            return in_quotes(argument) + " is said by " + std::string{setting} +
                   "; set that, and remove it here";
        }
        to.driver_args.push_back(argument);
        return "";
    });
    if (to.busy_poll && from.given("idle_sleep_us")) {
        from.error("idle_sleep_us", "is of no use while shards never sleep; write busy_poll = "
                                    "false, or remove it");
    }
    if (!to.busy_poll && policy_.start_up->busy_poll) {
        from.error("busy_poll", "false contradicts server.busy_poll = true, by which no shard "
                                "sleeps; change one of them");
    }
}

void NetworkReader::tcp() {
    const Section from = tables_.one("tcp");
    policy_.start_up->tcp = std::make_unique<schema::TcpT>();
    schema::TcpT& to = *policy_.start_up->tcp;
    to.congestion = from.choice<schema::Congestion>("congestion");
    to.ecn = from.flag("ecn");
    to.initial_window_segments = from.integer("initial_window");
    to.receive_bytes_max = static_cast<std::uint32_t>(from.bytes("receive_buffer_max"));
    to.send_bytes_max = static_cast<std::uint32_t>(from.bytes("send_buffer_max"));
    to.keepalive_idle_s = from.seconds("keepalive_idle");
    to.user_timeout_s = from.seconds("user_timeout");
    to.time_wait_s = from.seconds("time_wait");
    to.connections_max = from.integer("connections_max");
}

void NetworkReader::port(const Section& from, const toml::table& node) {
    auto to = std::make_unique<schema::PortT>();
    to->name = from.name("name", names_);
    to->device = from.device("device");
    to->vlan = from.integer<std::uint16_t>("vlan");
    to->mtu = from.integer<std::uint16_t>("mtu");
    const std::string device = to->device.substr(0, to->device.find(','));
    const auto [first, fresh] = devices_.emplace(device, from.line("device"));
    if (!fresh && !device.empty()) {
        from.error("device", "the device " + device + " is taken by line " +
                                 std::to_string(first->second) + "; a device is one [[port]]");
    }
    PortNetworks own;
    addresses(from, *to, own);
    routes(from, node, *to, own);
    if (own.v6 && to->mtu < ipv6_mtu_min) {
        from.error("mtu", "expected at least 1280, which IPv6 needs, got " +
                              std::to_string(to->mtu) +
                              "; raise it or remove the port's IPv6 addresses");
    }
    policy_.start_up->ports.push_back(std::move(to));
}

void NetworkReader::addresses(const Section& from, schema::PortT& to, PortNetworks& own) {
    const std::size_t errors_before = tables_.errors().count();
    from.each_text(
        "addresses", [&](const std::string& text, unsigned line) -> std::optional<std::string> {
            const auto parsed = parse_own(text);
            if (!parsed) return std::nullopt;
            const auto& [ip, bits] = *parsed;
            if (!is_unicast(ip))
                return in_quotes(text) +
                       " is no address that one host can have; write the host's own";
            const base::Network network = network_of(ip, bits);
            // A network of one or two addresses has neither (RFC 3021, 6164).
            const bool small = ip.bit_count() - bits < 2;
            if (!small && network.base == ip) {
                return in_quotes(text) +
                       " is the network itself; write the address of the host in it";
            }
            if (!small && !ip.is_v6() && is_broadcast(ip, bits))
                return in_quotes(text) +
                       " is the network's broadcast address; write the host's own";
            const auto [first, fresh] = addresses_.emplace(ip, line);
            if (!fresh) {
                return "the address " + ip.to_string() + " is there twice, first in line " +
                       std::to_string(first->second) + "; keep one of them";
            }
            own.networks.insert(network);
            own.prefixes.insert(bits);
            own.v6 |= ip.is_v6();
            to.addresses.push_back(ip.to_string() + "/" + std::to_string(bits));
            return "";
        });
    if (to.addresses.empty() && tables_.errors().count() == errors_before) {
        from.error("addresses", "expected at least one; write addresses = [\"192.0.2.10/24\"]");
    }
}

void NetworkReader::routes(const Section& from, const toml::table& node, schema::PortT& to,
                           const PortNetworks& own) {
    const toml::node* value = node.get("routes");
    if (value == nullptr) return;
    const auto* list = value->as_array();
    if (list == nullptr || list->size() > list_entries_max) {
        from.error("routes",
                   "expected a list of tables, got " + shown(*value) +
                       "; write routes = [{ to = \"0.0.0.0/0\", gateway = \"192.0.2.1\" }]");
        return;
    }
    const auto reaches = [&](const base::IpAddress& gateway) {
        return std::any_of(own.prefixes.begin(), own.prefixes.end(), [&](unsigned bits) {
            return bits <= gateway.bit_count() && own.networks.contains(network_of(gateway, bits));
        });
    };
    std::map<base::Network, unsigned> seen;
    for (const toml::node& element : *list) {
        if (!element.is_table()) {
            tables_.errors().add(line_of(element), "port.routes",
                                 "expected a table, got " + shown(element) +
                                     "; write { to = \"0.0.0.0/0\", gateway = \"192.0.2.1\" }");
            continue;
        }
        const std::size_t errors_before = tables_.errors().count();
        const Section route(tables_.errors(), element.as_table(), "port.routes", "port.routes",
                            line_of(element));
        const base::Network network = route.network("to");
        const base::IpAddress gateway = route.ip("gateway");
        if (tables_.errors().count() != errors_before) continue;
        const std::string text =
            network.base.to_string() + "/" + std::to_string(network.prefix_bits);
        if (const auto [first, fresh] = seen.emplace(network, route.line("to")); !fresh) {
            route.error("to", text + " has a route in line " + std::to_string(first->second) +
                                  " already; keep one of them");
        }
        if (network.base.is_v6() != gateway.is_v6()) {
            route.error("gateway", "expected an address of the same family as " + text + ", got " +
                                       gateway.to_string());
        } else if (addresses_.contains(gateway)) {
            route.error("gateway", gateway.to_string() + " is our own address; write the router's");
        } else if (!is_link_local(gateway) && !reaches(gateway)) {
            route.error("gateway", gateway.to_string() +
                                       " is in no network of the port's addresses, so it cannot be "
                                       "reached; correct it, or the prefix of an address");
        }
        auto made = std::make_unique<schema::PortRouteT>();
        made->to = text;
        made->gateway = gateway.to_string();
        to.routes.push_back(std::move(made));
    }
}

schema::Transport NetworkReader::transport(const Section& from, std::string_view key) {
    const auto chosen = from.choice<schema::Transport>(key);
    if (chosen != schema::Transport::dpdk) return chosen;
    used_ = true;
    if (!tables_.has("port")) {
        from.error(key, "dpdk needs a [[port]], and there is none; add it, or write " +
                            std::string{key} + " = \"kernel\"");
    }
    return chosen;
}

bool NetworkReader::family_has_address(bool v6) const {
    return std::any_of(addresses_.begin(), addresses_.end(),
                       [&](const auto& each) { return each.first.is_v6() == v6; });
}

schema::Transport NetworkReader::listener_transport(const Section& from,
                                                    const base::SocketAddress& address) {
    const schema::Transport chosen = transport(from, "transport");
    const std::string ip = address.ip.to_string();
    if (!tables_.has("port") || !whole_ || address.port == 0) return chosen;
    if (chosen == schema::Transport::kernel) {
        if (addresses_.contains(address.ip)) {
            warnings_.push_back("a listener on " + address.to_string() +
                                " is on the kernel, and that address is a [[port]]'s: nothing "
                                "will reach it there; transport = \"dpdk\" would");
        }
        return chosen;
    }
    if (is_unspecified(address.ip)) {
        if (!family_has_address(address.ip.is_v6())) {
            from.error("address", ip +
                                      " stands for all addresses of the ports, and they have none "
                                      "of " +
                                      (address.ip.is_v6() ? "IPv6" : "IPv4") +
                                      "; add one to a [[port]]");
        }
    } else if (!addresses_.contains(address.ip)) {
        from.error("address", ip +
                                  " is no address of a [[port]], as transport = \"dpdk\" needs; "
                                  "add it to one, or write " +
                                  (address.ip.is_v6() ? "[::]" : "0.0.0.0") + " for all of them");
    }
    return chosen;
}

schema::Transport NetworkReader::source_transport(const Section& from) {
    const schema::Transport chosen = transport(from, "transport");
    if (chosen != schema::Transport::dpdk || !tables_.has("port") || !whole_) return chosen;
    for (const std::string_view key : {"address_v4", "address_v6"}) {
        const auto address =
            from.has_text(key) ? base::IpAddress::parse(from.text(key)) : std::nullopt;
        if (address && !addresses_.contains(*address)) {
            from.error(key, address->to_string() +
                                " is no address of a [[port]], as transport = \"dpdk\" needs; add "
                                "it to one, or write transport = \"kernel\"");
        }
    }
    return chosen;
}

schema::Transport NetworkReader::egress_transport(const Section& server) {
    if (server.given("egress_transport") && tables_.has("source")) {
        warnings_.push_back("server.egress_transport is for a relay without [[source]]; each of "
                            "those says its own transport");
        return server.choice<schema::Transport>("egress_transport");
    }
    return transport(server, "egress_transport");
}

void NetworkReader::warn_of_unused() {
    const bool ports = tables_.has("port");
    if (policy_.start_up->ports.size() > 1) {
        warnings_.push_back("there are " + std::to_string(policy_.start_up->ports.size()) +
                            " [[port]], and this version of millraced starts with one only");
    }
    if (ports && !used_) {
        warnings_.push_back("there is a [[port]], and no listener or source with transport = "
                            "\"dpdk\" uses it");
    }
    for (const std::string_view name : {"dpdk", "tcp"}) {
        if (!ports && tables_.has(name)) {
            warnings_.push_back("[" + std::string{name} +
                                "] is for transport = \"dpdk\", which needs a [[port]]; there is "
                                "none");
        }
    }
}

} // namespace control
