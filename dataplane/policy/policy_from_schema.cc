#include "dataplane/policy/policy_from_schema.h"

#include "control/schema/snapshot_format.h"
#include "control/schema/stats_layout.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <unordered_set>
#include <utility>
#include <vector>

namespace dataplane::policy {
namespace {

namespace schema = control::schema;

[[noreturn]] void refuse(std::string_view field, std::string_view why) {
    throw InvalidValue{std::string{field} + ": " + std::string{why}};
}

template <class Target>
Target in_range(std::uint64_t value, std::uint64_t least, std::uint64_t most,
                std::string_view field) {
    if (value < least || value > most) refuse(field, std::to_string(value) + " is out of range");
    return static_cast<Target>(value);
}

template <class Target, class Source>
Target as_enum(Source value, std::string_view field) {
    if (value > Source::MAX)
        refuse(field, "unknown value " + std::to_string(static_cast<unsigned>(value)));
    return static_cast<Target>(
        value); // the same enumerators in the same order: see the asserts below
}
#define SAME(mine, theirs) static_assert(static_cast<int>(mine) == static_cast<int>(theirs))
SAME(ListenerKind::relay, schema::ListenerKind::relay);
SAME(ListenerKind::submissions, schema::ListenerKind::submissions);
SAME(BareNewline::normalise, schema::BareNewline::normalise);
SAME(TlsLevel::may, schema::TlsLevel::may);
SAME(TlsLevel::encrypt, schema::TlsLevel::encrypt);
SAME(TlsLevel::verify, schema::TlsLevel::verify);
SAME(TlsLevel::dane, schema::TlsLevel::dane);
SAME(TlsLevel::dane_only, schema::TlsLevel::dane_only);
SAME(TlsLevel::secure, schema::TlsLevel::secure);
SAME(TlsPolicy::ClientCertificates::require, schema::ClientCertificates::require);
SAME(OpensslRelief::off, schema::OpensslRelief::off);
SAME(Commit::flush, schema::Commit::flush);
SAME(Durability::mirror_alone, schema::Durability::mirror_alone);
SAME(RoutePolicy::Kind::smart_host, schema::RouteKind::smart_host);
SAME(RoutePolicy::Kind::discard, schema::RouteKind::discard);
SAME(ScreenRule::Action::defer, schema::ScreenAction::defer);
SAME(ScreenRule::Action::tag, schema::ScreenAction::tag);
SAME(ScreenRule::Action::score, schema::ScreenAction::score);
SAME(TransportKind::dpdk, schema::Transport::dpdk);
SAME(OffloadPolicy::Backend::qatengine, schema::OffloadBackend::qatengine);
SAME(TcpPolicy::Congestion::new_reno, schema::Congestion::new_reno);
SAME(message::dkim::Scope::always, schema::DkimScope::always);
SAME(message::dkim::KeyKind::ed25519, schema::DkimAlgorithm::ed25519_sha256);
SAME(message::dkim::Canonical::relaxed, schema::DkimForm::relaxed);
SAME(message::dkim::OnFailure::send_unsigned, schema::DkimFailure::send_unsigned);
#undef SAME

std::chrono::seconds seconds(std::uint32_t value) {
    return std::chrono::seconds{value};
}

std::vector<base::Network> networks(const std::vector<std::string>& texts, std::string_view field) {
    std::vector<base::Network> result;
    result.reserve(texts.size());
    for (const std::string& text : texts) {
        const auto network = base::Network::parse(text);
        if (!network) refuse(field, "not a network: " + text);
        result.push_back(*network);
    }
    return result;
}

std::optional<base::IpAddress> source_address(const std::string& text, bool v6,
                                              std::string_view field) {
    if (text.empty()) return std::nullopt;
    const auto ip = base::IpAddress::parse(text);
    if (!ip || ip->is_v6() != v6) refuse(field, "not an address of this family: " + text);
    return ip;
}

SitePolicy site(const schema::SiteT& from) {
    SitePolicy to;
    to.connections_max =
        in_range<std::uint32_t>(from.connections_max, 1, 1'000'000, "site.connections_max");
    to.messages_per_connection_max = in_range<std::uint32_t>(
        from.messages_per_connection_max, 1, 1'000'000, "site.messages_per_connection_max");
    to.recipients_per_message_max = in_range<std::uint32_t>(
        from.recipients_per_message_max, 1, 1'000'000, "site.recipients_per_message_max");
    to.messages_per_second_max = from.messages_per_second_max;
    to.idle = seconds(from.idle_s);
    to.tls = as_enum<TlsLevel>(from.tls, "site.tls");
    to.pipelining = from.pipelining;
    to.chunking = from.chunking;
    return to;
}

RoutePolicy route(schema::RouteT& from, const Policy& policy) {
    RoutePolicy to;
    to.kind = as_enum<RoutePolicy::Kind>(from.kind, "route.kind");
    to.port = in_range<std::uint16_t>(from.port, 1, 65535, "route.port");
    if (to.kind == RoutePolicy::Kind::smart_host && from.hosts.empty())
        refuse("route.hosts", "a smart host is missing");
    for (auto& host : from.hosts) {
        if (host->name.empty()) refuse("route.hosts", "a host has no name");
        to.hosts.push_back({std::move(host->name),
                            in_range<std::uint16_t>(host->port, 1, 65535, "route.hosts"),
                            host->mx_lookup});
    }
    if (!from.source.empty() && !policy.source_index.contains(from.source) &&
        !policy.pools.contains(from.source)) {
        refuse("route.source", "no source or pool is called " + from.source);
    }
    to.source = std::move(from.source);
    if (from.shaping) to.shaping = site(*from.shaping);
    return to;
}

void fill_dpdk(schema::DpdkT& from, DpdkPolicy& to) {
    to.hugepages = from.hugepages;
    to.memory_mb = in_range<std::uint32_t>(from.memory_mb, 1, 1U << 24, "dpdk.memory_mb");
    to.busy_poll = from.busy_poll;
    to.idle_sleep = std::chrono::microseconds{
        in_range<std::uint32_t>(from.idle_sleep_us, 0, 1000, "dpdk.idle_sleep_us")};
    to.driver_args = std::move(from.driver_args);
    to.file_prefix = std::move(from.file_prefix);
    if (to.file_prefix.empty()) refuse("dpdk.file_prefix", "is missing");
}

PortPolicy port(schema::PortT& from) {
    PortPolicy to;
    to.name = std::move(from.name);
    to.device = std::move(from.device);
    if (to.name.empty() || to.device.empty()) refuse("port", "has no name or no device");
    for (const std::string& text : from.addresses) {
        const std::size_t slash = std::min(text.find('/'), text.size());
        const auto ip = base::IpAddress::parse(std::string_view{text}.substr(0, slash));
        unsigned bits = 0;
        const char* end = text.data() + text.size();
        if (!ip || slash == text.size() ||
            std::from_chars(text.data() + slash + 1, end, bits).ptr != end || bits == 0 ||
            bits > ip->bit_count()) {
            refuse("port.addresses", "not IP/PREFIX: " + text);
        }
        to.addresses.push_back({*ip, bits});
    }
    if (to.addresses.empty()) refuse("port.addresses", "there is none");
    for (const auto& route : from.routes) {
        const auto destination = base::Network::parse(route->to);
        const auto gateway = base::IpAddress::parse(route->gateway);
        if (!destination || !gateway || destination->base.is_v6() != gateway->is_v6())
            refuse("port.routes", "no route: " + route->to + " by " + route->gateway);
        to.routes.push_back({*destination, *gateway});
    }
    if (from.vlan != 0) to.vlan = in_range<std::uint16_t>(from.vlan, 1, 4094, "port.vlan");
    to.mtu = in_range<std::uint16_t>(from.mtu, 576, 9000, "port.mtu");
    return to;
}

void fill_tcp(const schema::TcpT& from, TcpPolicy& to) {
    to.congestion = as_enum<TcpPolicy::Congestion>(from.congestion, "tcp.congestion");
    to.ecn = from.ecn;
    to.initial_window_segments =
        in_range<std::uint32_t>(from.initial_window_segments, 1, 64, "tcp.initial_window");
    to.receive_bytes_max =
        in_range<std::uint32_t>(from.receive_bytes_max, 4096, 64U << 20, "tcp.receive_buffer_max");
    to.send_bytes_max =
        in_range<std::uint32_t>(from.send_bytes_max, 4096, 1U << 30, "tcp.send_buffer_max");
    to.keepalive_idle = seconds(from.keepalive_idle_s);
    to.user_timeout = seconds(from.user_timeout_s);
    to.time_wait = seconds(from.time_wait_s);
    for (const auto value : {to.keepalive_idle, to.user_timeout, to.time_wait}) {
        if (value < std::chrono::seconds{1}) refuse("tcp", "a time of 0");
    }
    to.connections_max =
        in_range<std::uint32_t>(from.connections_max, 1, 1U << 28, "tcp.connections_max");
}

void fill_offload(schema::OffloadT& from, OffloadPolicy& to) {
    to.backend = as_enum<OffloadPolicy::Backend>(from.backend, "offload.backend");
    to.workers = in_range<std::uint32_t>(from.workers, 0, 64, "offload.workers");
    to.cores = std::move(from.cores);
    to.device = std::move(from.device);
    to.engine = std::move(from.engine);
}

/// What a snapshot of a release without ports does not say has its defaults.
void fill_network(schema::StartUpT& from, StartUp& to) {
    if (from.offload) fill_offload(*from.offload, to.offload);
    if (from.dpdk) fill_dpdk(*from.dpdk, to.dpdk);
    if (from.tcp) fill_tcp(*from.tcp, to.tcp);
    std::unordered_set<base::IpAddress, base::IpAddressHash> taken;
    for (const auto& each : from.ports) {
        to.ports.push_back(port(*each));
        for (const PortPolicy::Address& address : to.ports.back().addresses) {
            if (!taken.insert(address.ip).second)
                refuse("port.addresses", "there twice: " + address.ip.to_string());
        }
    }
}

void fill_start_up(schema::StartUpT& from, StartUp& to) {
    to.shards = in_range<unsigned>(from.shards, 1, schema::stats_shards_max, "start_up.shards");
    to.cpus.assign(from.cpus.begin(), from.cpus.end());
    if (!to.cpus.empty() && to.cpus.size() != to.shards)
        refuse("start_up.cpus", "needs one for each shard");
    to.state_dir = std::move(from.state_dir);
    to.run_dir = std::move(from.run_dir);
    to.spool_dir = std::move(from.spool_dir);
    to.event_log = std::move(from.event_log);
    if (to.state_dir.empty() || to.run_dir.empty() || to.spool_dir.empty())
        refuse("start_up", "a folder is missing");
    to.spool_bytes_per_shard = from.spool_bytes_per_shard;
    to.spool_segment_bytes = in_range<std::uint32_t>(from.spool_segment_bytes, 1U << 20, 1U << 30,
                                                     "start_up.spool_segment_bytes");
    if (to.spool_bytes_per_shard < to.spool_segment_bytes)
        refuse("start_up.spool_bytes_per_shard", "less than one segment");
    to.scrub_bytes_per_s = from.scrub_bytes_per_s;
    to.spool_key = std::move(from.spool_key);
    to.commit = as_enum<Commit>(from.commit, "start_up.commit");
    to.durability = as_enum<Durability>(from.durability, "start_up.durability");
    to.mirror_dir = std::move(from.mirror_dir);
    if (to.durability != Durability::local && to.mirror_dir.empty())
        refuse("start_up.mirror_dir", "a mirror needs one");
    to.mirror_copy_bytes_per_s = from.mirror_copy_bytes_per_s;
    to.resident_bytes_per_shard = from.resident_bytes_per_shard;
    to.dns_servers = std::move(from.dns_servers);
    to.resolver_threads =
        in_range<unsigned>(from.resolver_threads, 1, 64, "start_up.resolver_threads");
    to.dnssec = from.dnssec;
    to.busy_poll = from.busy_poll;
    to.openssl_relief = as_enum<OpensslRelief>(from.openssl_relief, "start_up.openssl_relief");
    fill_network(from, to);
}

Timeouts timeouts(const schema::TimeoutsT& from) {
    Timeouts to;
    to.command = seconds(from.command_s);
    to.data_block = seconds(from.data_block_s);
    to.tls_handshake = seconds(from.tls_handshake_s);
    to.session_max = seconds(from.session_max_s);
    to.connect = seconds(from.connect_s);
    to.greeting = seconds(from.greeting_s);
    to.helo = seconds(from.helo_s);
    to.mail = seconds(from.mail_s);
    to.rcpt = seconds(from.rcpt_s);
    to.data_init = seconds(from.data_init_s);
    to.data_send = seconds(from.data_send_s);
    to.data_done = seconds(from.data_done_s);
    to.idle = seconds(from.idle_s);
    for (const auto value :
         {to.command, to.data_block, to.tls_handshake, to.session_max, to.connect, to.greeting,
          to.helo, to.mail, to.rcpt, to.data_init, to.data_send, to.data_done, to.idle}) {
        if (value < std::chrono::seconds{1}) refuse("timeouts", "a time limit of 0");
    }
    return to;
}

Limits limits(const schema::LimitsT& from) {
    constexpr std::uint64_t any = std::numeric_limits<std::uint32_t>::max();
    Limits to;
    to.message_bytes_max =
        in_range<std::uint64_t>(from.message_bytes_max, 1, 1ULL << 40, "limits.message_bytes_max");
    to.recipients_max =
        in_range<std::uint32_t>(from.recipients_max, 1, any, "limits.recipients_max");
    to.errors_max = in_range<std::uint32_t>(from.errors_max, 1, any, "limits.errors_max");
    to.messages_per_session_max = in_range<std::uint32_t>(from.messages_per_session_max, 1, any,
                                                          "limits.messages_per_session_max");
    to.connections_per_client_max = in_range<std::uint32_t>(from.connections_per_client_max, 1, any,
                                                            "limits.connections_per_client_max");
    to.auth_failures_max =
        in_range<std::uint32_t>(from.auth_failures_max, 1, any, "limits.auth_failures_max");
    to.received_headers_max =
        in_range<std::uint32_t>(from.received_headers_max, 1, any, "limits.received_headers_max");
    return to;
}

RetryPolicy retry(const schema::RetryT& from) {
    RetryPolicy to;
    to.first = seconds(from.first_s);
    to.factor = from.factor;
    to.interval_max = seconds(from.interval_max_s);
    to.jitter = from.jitter;
    to.expiry = seconds(from.expiry_s);
    to.delay_notice = seconds(from.delay_notice_s);
    to.site_pause_first = seconds(from.site_pause_first_s);
    to.site_pause_max = seconds(from.site_pause_max_s);
    if (!(to.factor >= 1.0 && to.factor <= 100.0)) refuse("retry.factor", "must be from 1 to 100");
    if (!(to.jitter >= 0.0 && to.jitter < 1.0))
        refuse("retry.jitter", "must be at least 0 and below 1");
    if (to.first < std::chrono::seconds{1} || to.site_pause_first < std::chrono::seconds{1}) {
        refuse("retry", "an interval of 0");
    }
    return to;
}

ScreenPolicy screen(schema::ScreenT& from) {
    ScreenPolicy to;
    to.header_database.assign(from.header_database.begin(), from.header_database.end());
    to.body_database.assign(from.body_database.begin(), from.body_database.end());
    to.score_reject = from.score_reject;
    for (auto& rule : from.rules) {
        if (rule->name.empty()) refuse("screen.rules", "a rule has no name");
        to.rules.push_back({std::move(rule->name),
                            as_enum<ScreenRule::Action>(rule->action, "screen.rules.action"),
                            std::move(rule->text), std::move(rule->header), std::move(rule->value),
                            rule->score});
    }
    return to;
}

TransportKind transport(schema::Transport from, const StartUp& start_up, std::string_view field) {
    const auto to = as_enum<TransportKind>(from, field);
    if (to == TransportKind::dpdk && start_up.ports.empty()) refuse(field, "dpdk without a port");
    return to;
}

void fill_sources(schema::PolicyT& from, Policy& to) {
    if (from.sources.empty()) refuse("sources", "there is none");
    for (auto& source : from.sources) {
        const auto index = static_cast<std::uint32_t>(to.sources.size());
        if (source->name.empty() || !to.source_index.emplace(source->name, index).second) {
            refuse("sources", "a name is missing or there twice: " + source->name);
        }
        to.sources.push_back({std::move(source->name),
                              source_address(source->address_v4, false, "source.address_v4"),
                              source_address(source->address_v6, true, "source.address_v6"),
                              std::move(source->helo_name),
                              transport(source->transport, to.start_up, "source.transport")});
    }
    for (auto& pool : from.pools) {
        PoolPolicy made;
        for (const auto& member : pool->members) {
            if (member->source_index >= to.sources.size()) refuse("pool.members", "no such source");
            made.members.push_back(
                {member->source_index,
                 in_range<std::uint32_t>(member->weight, 1, 1'000'000, "pool.members.weight")});
        }
        if (pool->name.empty() || made.members.empty())
            refuse("pools", "a pool has no name or no member");
        made.name = pool->name;
        if (!to.pools.emplace(std::move(pool->name), std::move(made)).second)
            refuse("pools", "a name is there twice");
    }
}

void fill_accounts(schema::PolicyT& from, Policy& to) {
    to.accounts.reserve(from.accounts.size());
    for (auto& account : from.accounts) {
        AccountPolicy made{account->name,
                           account->generation,
                           account->enabled,
                           std::move(account->tenant),
                           std::move(account->source),
                           std::move(account->sender_domains),
                           account->messages_per_hour_max,
                           std::move(account->certificates)};
        for (const std::string& certificate : made.certificates) {
            if (!to.certificate_accounts.emplace(certificate, made.name).second)
                refuse("accounts.certificates", "two accounts have " + certificate);
        }
        if (made.name.empty() ||
            !to.accounts.emplace(std::move(account->name), std::move(made)).second) {
            refuse("accounts", "a name is missing or there twice");
        }
    }
}

message::dkim::KeyTable dkim_table(schema::DkimT& from) {
    namespace dkim = message::dkim;
    dkim::KeyTable to;
    to.scope = as_enum<dkim::Scope>(from.scope, "dkim.scope");
    to.kind = as_enum<dkim::KeyKind>(from.algorithm, "dkim.algorithm");
    to.header_form = as_enum<dkim::Canonical>(from.header_form, "dkim.header_form");
    to.body_form = as_enum<dkim::Canonical>(from.body_form, "dkim.body_form");
    to.on_failure = as_enum<dkim::OnFailure>(from.on_failure, "dkim.on_failure");
    to.domains = std::move(from.domains);
    to.selector = std::move(from.selector);
    to.key_file = std::move(from.key_file);
    to.tenant = std::move(from.tenant);
    to.headers = std::move(from.headers);
    to.oversign = std::move(from.oversign);
    to.expire_after = seconds(from.expire_after_s);
    to.identity = std::move(from.identity);
    if (to.domains.empty() || to.selector.empty() || to.key_file.empty())
        refuse("dkim", "a table has no domain, selector or key");
    for (const std::string& domain : to.domains) {
        const std::size_t stars = std::ranges::count(domain, '*');
        if (domain.empty() || domain == "." || (stars != 0 && domain != "*"))
            refuse("dkim.domains", "no domain: " + domain);
        if (domain == "*" &&
            (to.scope != dkim::Scope::author || to.key_file.find("%d") == std::string::npos))
            refuse("dkim.domains", "* needs %d in the key's path, and the scope author");
    }
    return to;
}

void fill_tls(schema::TlsT& from, TlsPolicy& to) {
    to.certificate_file = std::move(from.certificate_file);
    to.key_file = std::move(from.key_file);
    to.modern = from.modern;
    to.ca_file = std::move(from.ca_file);
    to.crl_file = std::move(from.crl_file);
    to.ocsp_file = std::move(from.ocsp_file);
    to.ocsp_command = std::move(from.ocsp_command);
    to.client_certificates =
        as_enum<TlsPolicy::ClientCertificates>(from.client_certificates, "tls.client_certificates");
    to.client_ca_file = std::move(from.client_ca_file);
    to.client_crl_file = std::move(from.client_crl_file);
    to.delivery_certificate_file = std::move(from.delivery_certificate_file);
    to.delivery_key_file = std::move(from.delivery_key_file);
    for (auto& each : from.certificates) {
        if (each->certificate_file.empty() || each->key_file.empty())
            refuse("tls.certificates", "one has no certificate or no key");
        to.certificates.push_back({std::move(each->certificate_file), std::move(each->key_file),
                                   std::move(each->ocsp_file), std::move(each->names),
                                   each->is_default});
    }
}

} // namespace

Policy policy_from_schema(schema::PolicyT& from) {
    Policy to;
    to.version = from.version;
    to.hostname = std::move(from.hostname);
    if (to.hostname.empty()) refuse("hostname", "is missing");
    fill_start_up(*from.start_up, to.start_up);
    for (auto& listener : from.listeners) {
        const auto address = base::SocketAddress::parse(listener->address);
        if (!address) refuse("listener.address", "not IP:PORT: " + listener->address);
        to.listeners.push_back({std::move(listener->name), *address,
                                as_enum<ListenerKind>(listener->kind, "listener.kind"),
                                listener->proxy_protocol, listener->allow_plain_auth,
                                in_range<std::uint32_t>(listener->connections_max, 1, 10'000'000,
                                                        "listener.connections_max"),
                                transport(listener->transport, to.start_up, "listener.transport")});
    }
    to.relay_networks = networks(from.relay_networks, "relay.networks");
    to.proxy_networks = networks(from.proxy_networks, "relay.proxy_networks");
    to.timeouts = timeouts(*from.timeouts);
    to.limits = limits(*from.limits);
    to.bare_newline = as_enum<BareNewline>(from.bare_newline, "bare_newline");
    fill_tls(*from.tls, to.tls);
    fill_accounts(from, to);
    fill_sources(from, to);
    to.default_route = route(*from.default_route, to);
    for (auto& each : from.routes) {
        RoutePolicy made = route(*each, to);
        if (each->domains.empty()) refuse("routes", "a route has no domain");
        for (std::string& domain : each->domains) {
            if (!to.routes.emplace(std::move(domain), made).second)
                refuse("routes", "a domain is there twice");
        }
    }
    to.default_site = site(*from.default_site);
    for (auto& each : from.sites) {
        if (each->name.empty() || !to.sites.emplace(each->name, site(*each)).second) {
            refuse("sites", "a name is missing or there twice: " + each->name);
        }
    }
    to.retry = retry(*from.retry);
    to.screen = screen(*from.screen);
    for (auto& each : from.dkim)
        to.dkim.push_back(dkim_table(*each));
    return to;
}

} // namespace dataplane::policy
