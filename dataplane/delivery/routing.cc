// routing.cc: from a recipient's domain to a site, a lane and a source.
#include "dataplane/delivery/dispatcher_parts.h"

#include <algorithm>

namespace dataplane::delivery {

using base::Task;
using policy::PolicyPtr;
using policy::RoutePolicy;
using smtp::EnhancedCode;

namespace {

/// \param secure  whether DNSSEC, or the operator, vouches for the name
[[nodiscard]] SiteHost site_host(std::string_view name, std::uint16_t port,
                                 std::uint16_t preference, bool secure) {
    SiteHost host{std::string{name}, port, preference, address_literal(name), secure};
    if (host.literal) host.name = host.literal->to_string();
    return host;
}

[[nodiscard]] std::string port_suffix(std::uint16_t port) {
    return port == 25 ? std::string{} : ':' + std::to_string(port);
}

/// MX hosts are rolled up; a route's hosts are named one by one, for the operator wrote them so.
[[nodiscard]] std::string name_of(std::span<const SiteHost> hosts, bool rolled_up) {
    if (rolled_up) {
        std::vector<std::string> names;
        for (const SiteHost& host : hosts)
            names.push_back(host.name);
        return site_name(names) + port_suffix(hosts.front().port);
    }
    std::string name;
    for (const SiteHost& host : hosts) {
        if (!name.empty()) name += ',';
        const bool bracketed = host.literal && host.literal->is_v6();
        name += bracketed ? '[' + host.name + ']' : host.name;
        name += port_suffix(host.port);
    }
    return name;
}

} // namespace

// ---- domains

Dispatcher::Domain& Dispatcher::domain_of(std::string_view folded) {
    const auto known = domains_by_name_.find(folded);
    if (known != domains_by_name_.end()) {
        domains_.splice(domains_.begin(), domains_, known->second);
        Domain& domain = *known->second;
        const bool stale = domain.valid_until <= loop_.now() ||
                           domain.policy_version != context_.policy.current()->version;
        if (stale && domain.state != Domain::State::resolving) route(domain);
        return domain;
    }
    domains_.emplace_front();
    Domain& domain = domains_.front();
    domain.name = folded;
    domains_by_name_.emplace(domain.name, domains_.begin());
    route(domain);
    return domain;
}

void Dispatcher::route(Domain& domain) {
    const PolicyPtr policy = context_.policy.current();
    const RoutePolicy& rule = policy->route(domain.name);
    domain.policy_version = policy->version;
    domain.source = rule.source;
    switch (rule.kind) {
    case RoutePolicy::Kind::discard:
        release_site(domain);
        domain.state = Domain::State::discard;
        domain.valid_until = loop_.now() + fixed_route_memory;
        return;
    case RoutePolicy::Kind::smart_host:
        if (std::ranges::none_of(rule.hosts, &RoutePolicy::Host::mx_lookup)) {
            std::vector<SiteHost> hosts;
            for (const RoutePolicy::Host& host : rule.hosts) {
                hosts.push_back(site_host(host.name, host.port,
                                          static_cast<std::uint16_t>(hosts.size()), true));
            }
            settle_domain(domain, *policy, std::move(hosts), loop_.now() + fixed_route_memory);
            return;
        }
        break;
    case RoutePolicy::Kind::mx:
        if (domain.name.starts_with('[')) {
            if (!address_literal(domain.name)) return fail_domain(domain, ResolveError::bad_name);
            std::vector<SiteHost> hosts{site_host(domain.name, rule.port, 0, true)};
            settle_domain(domain, *policy, std::move(hosts), loop_.now() + fixed_route_memory);
            return;
        }
        break;
    }
    domain.state = Domain::State::resolving;
    loop_.spawn(resolve(&domain, TaskMark{*this}), "delivery resolve", base::Room::delivery);
}

Task<void> Dispatcher::resolve(Domain* domain, [[maybe_unused]] TaskMark mark) {
    const PolicyPtr policy = context_.policy.current();
    const RoutePolicy& rule = policy->route(domain->name);
    domain->policy_version = policy->version;
    if (rule.kind == RoutePolicy::Kind::smart_host) {
        co_await resolve_smart_hosts(domain, policy);
        resume_waiting(*domain);
        co_return;
    }

    const auto ascii = to_ascii(domain->name);
    if (!ascii) {
        fail_domain(*domain, ResolveError::bad_name);
        resume_waiting(*domain);
        co_return;
    }
    const base::Deadline deadline = base::Deadline::in(loop_, dns_timeout, &halt_);
    const MxResult found = co_await context_.resolver.mx(*ascii, deadline);
    if (!found) {
        fail_domain(*domain, found.error());
        resume_waiting(*domain);
        co_return;
    }
    std::vector<SiteHost> hosts;
    for (const MxRecord& record : (*found)->hosts) {
        // RFC 5321 §5.1: ourselves and whatever is liked no better would bring the mail back to us.
        if (record.host == policy->hostname) {
            std::erase_if(
                hosts, [&](const SiteHost& host) { return host.preference >= record.preference; });
            break;
        }
        hosts.push_back(site_host(record.host, rule.port, record.preference, (*found)->secure));
    }
    if (hosts.empty()) {
        fail_domain(*domain, 554, {5, 4, 6}, "mail for this domain loops back to myself");
    } else {
        settle_domain(*domain, *policy, std::move(hosts), (*found)->valid_until);
    }
    resume_waiting(*domain);
}

/// A route's hosts, some of which stand for their own MX hosts. One that cannot be resolved is left
/// out while there are others.
Task<void> Dispatcher::resolve_smart_hosts(Domain* domain, PolicyPtr policy) {
    const RoutePolicy& rule = policy->route(domain->name);
    const base::Deadline deadline = base::Deadline::in(loop_, dns_timeout, &halt_);
    std::vector<SiteHost> hosts;
    base::TimePoint valid_until = loop_.now() + fixed_route_memory;
    ResolveError error = ResolveError::temporary;
    std::uint16_t preference = 0;
    for (const RoutePolicy::Host& host : rule.hosts) {
        if (!host.mx_lookup) {
            hosts.push_back(site_host(host.name, host.port, preference++, true));
            continue;
        }
        const auto ascii = to_ascii(host.name);
        if (!ascii) continue;
        const MxResult found = co_await context_.resolver.mx(*ascii, deadline);
        if (!found) {
            error = found.error();
            valid_until =
                std::min<base::TimePoint>(valid_until, loop_.now() + failed_domain_memory);
            continue;
        }
        valid_until = std::min(valid_until, (*found)->valid_until);
        std::uint16_t last = (*found)->hosts.front().preference;
        for (const MxRecord& record : (*found)->hosts) {
            if (record.preference != last) ++preference;
            last = record.preference;
            hosts.push_back(site_host(record.host, host.port, preference, (*found)->secure));
        }
        ++preference;
    }
    if (!hosts.empty()) {
        settle_domain(*domain, *policy, std::move(hosts), valid_until);
        co_return;
    }
    // The operator's own hosts: a mistake there bounces nobody's mail.
    fail_domain(*domain, 451, {4, 4, 3}, to_string(error));
}

void Dispatcher::settle_domain(Domain& domain, const policy::Policy& policy,
                               std::vector<SiteHost> hosts, base::TimePoint valid_until) {
    Site& site = site_of(policy, policy.route(domain.name), domain.name, std::move(hosts));
    ++site.domains;
    release_site(domain);
    domain.site = &site;
    domain.state = Domain::State::ready;
    domain.valid_until = valid_until;
}

void Dispatcher::fail_domain(Domain& domain, std::uint16_t code, EnhancedCode enhanced,
                             std::string_view why) {
    release_site(domain);
    domain.state = Domain::State::failed;
    domain.valid_until = loop_.now() + failed_domain_memory;
    domain.failure.stage = smtp::Stage::route;
    domain.failure.cause = smtp::Cause::local;
    domain.failure.code = code;
    domain.failure.enhanced = enhanced;
    domain.failure.text = domain.name;
    domain.failure.text += ": ";
    domain.failure.text += why;
}

void Dispatcher::fail_domain(Domain& domain, ResolveError error) {
    switch (error) {
    case ResolveError::no_such_domain:
        return fail_domain(domain, 550, {5, 1, 2}, to_string(error));
    case ResolveError::no_mail:
        return fail_domain(domain, 556, {5, 1, 10}, to_string(error)); // RFC 7505 §4
    case ResolveError::no_data:
        return fail_domain(domain, 550, {5, 4, 4}, to_string(error));
    case ResolveError::bad_name:
        return fail_domain(domain, 550, {5, 1, 2}, to_string(error));
    case ResolveError::temporary:
    case ResolveError::cancelled:
        return fail_domain(domain, 451, {4, 4, 3}, to_string(error));
    }
}

/// Places what waited for this domain, now that it has an answer.
void Dispatcher::resume_waiting(Domain& domain) {
    Job* job = std::exchange(domain.waiting_first, nullptr);
    domain.waiting_last = nullptr;
    while (job != nullptr) {
        Job* next = std::exchange(job->next, nullptr);
        for (const std::uint32_t recipient : job->recipients)
            place(*job->round, recipient);
        enqueue_assembled();
        end_job(*job); // it was only a place to wait in
        job = next;
    }
}

void Dispatcher::release_site(Domain& domain) noexcept {
    Site* site = std::exchange(domain.site, nullptr);
    if (site == nullptr) return;
    CHECK(site->domains > 0);
    --site->domains;
}

// ---- sites and lanes

/// The site that these hosts are. Its limits are shared by all domains that lead to it, except
/// where the operator has set a domain or a route apart.
Site& Dispatcher::site_of(const policy::Policy& policy, const RoutePolicy& rule,
                          std::string_view domain, std::vector<SiteHost> hosts) {
    std::string name = name_of(hosts, rule.kind == RoutePolicy::Kind::mx);
    std::string key = name;
    if (rule.shaping) {
        const auto own = std::ranges::find_if(
            policy.routes, [&](const auto& entry) { return &entry.second == &rule; });
        key += own == policy.routes.end() ? std::string{"!route"} : "!route " + own->first;
    } else if (!policy.sites.contains(name) && policy.sites.contains(domain)) {
        (key += "!") += domain;
    }
    // A connection serves every domain of its site: what one of them demands of the host's
    // certificate, and another does not, sets them apart.
    policy::SitePolicy settings = rule.shaping ? *rule.shaping : policy.site(name, domain);
    const bool by_domain =
        settings.tls == policy::TlsLevel::secure && rule.kind == RoutePolicy::Kind::mx;
    if (by_domain) (key += "!secure ") += domain;
    if (asks_zone(settings.tls) && std::ranges::all_of(hosts, &SiteHost::secure)) key += "!dnssec";

    auto known = sites_by_key_.find(key);
    if (known == sites_by_key_.end()) {
        sites_.emplace_front();
        sites_.front().name = std::move(name);
        sites_.front().key = key;
        known = sites_by_key_.emplace(std::move(key), sites_.begin()).first;
        context_.stats.set(telemetry::Gauge::sites, sites_by_key_.size());
    }
    Site& site = *known->second;
    site.hosts = std::move(hosts);
    site.own_hosts = rule.kind != RoutePolicy::Kind::mx;
    site.settings = std::move(settings);
    site.domain = by_domain ? domain : std::string_view{};
    site.last_used = loop_.now();
    return site;
}

/// \param wanted  a source's or a pool's name; what is unknown, or empty, is the default source
Dispatcher::SourceChoice Dispatcher::choose_source(const policy::Policy& policy,
                                                   std::string_view wanted) {
    static const policy::SourcePolicy unnamed; // a policy without sources: the kernel's choice
    if (!wanted.empty()) {
        if (const auto source = policy.source_index.find(wanted);
            source != policy.source_index.end()) {
            return {&policy.sources[source->second], {}};
        }
        const auto pool = policy.pools.find(wanted);
        if (pool != policy.pools.end()) {
            std::uint64_t total = 0;
            for (const auto& member : pool->second.members)
                total += member.weight;
            if (total > 0) {
                std::uint64_t drawn =
                    random_() % total; // weights are small: the modulo's bias is nothing
                for (const auto& member : pool->second.members) {
                    if (drawn < member.weight)
                        return {&policy.sources[member.source_index], pool->first};
                    drawn -= member.weight;
                }
            }
        }
    }
    if (policy.sources.empty()) return {&unnamed, {}};
    return {&policy.sources[0], {}};
}

std::string Dispatcher::lane_name(const Site& site, std::string_view source) {
    std::string name = site.key;
    name += '\n'; // in neither
    name += source;
    return name;
}

Lane& Dispatcher::lane_of(Site& site, const SourceChoice& choice) {
    site.last_used = loop_.now();
    const auto known = site.lanes.find(std::string_view{choice.source->name});
    if (known != site.lanes.end()) {
        Lane& lane = *known->second;
        lane.pool = choice.pool;
        return lane;
    }
    auto lane = std::make_unique<Lane>(site, *this, context_.queue);
    lane->parking = context_.queue.site(lane_name(site, choice.source->name));
    if (context_.queue.site_view(lane->parking).failures > 0) lane->window = 1;
    lane->source = *choice.source;
    lane->pool = choice.pool;
    lane->wake.emplace(&Dispatcher::on_wake);
    lane->wake->lane = lane.get();
    return *site.lanes.emplace(choice.source->name, std::move(lane)).first->second;
}

// ---- forgetting

void Dispatcher::on_sweep(base::Timer& timer) noexcept {
    const base::InRoom in{base::Room::delivery};
    static_cast<SweepTimer&>(timer).dispatcher->sweep();
}

/// Drops what has not been used for long, oldest first and a bounded number at a time.
void Dispatcher::sweep() {
    constexpr std::size_t steps_max = 256;
    const base::TimePoint now = loop_.now();
    for (std::size_t step = 0; step < steps_max && !domains_.empty(); ++step) {
        Domain& oldest = domains_.back();
        const bool over = domains_by_name_.size() > domains_max;
        if (oldest.state == Domain::State::resolving || (oldest.valid_until > now && !over)) break;
        release_site(oldest);
        domains_by_name_.erase(domains_by_name_.find(oldest.name));
        domains_.pop_back();
    }
    // Sites take turns at being looked at: those that stay go to the front.
    for (std::size_t step = 0, count = sites_.size(); step < std::min(steps_max, count); ++step) {
        Site& site = sites_.back();
        const bool unused = site.domains == 0 && now - site.last_used >= site_idle_max &&
                            std::ranges::all_of(site.lanes, [&](const auto& lane) {
                                return lane.second->unused(now);
                            });
        if (!unused) {
            sites_.splice(sites_.begin(), sites_, std::prev(sites_.end()));
            continue;
        }
        sites_by_key_.erase(sites_by_key_.find(site.key));
        sites_.pop_back();
    }
    context_.stats.set(telemetry::Gauge::sites, sites_by_key_.size());
    const bool behind = domains_by_name_.size() > domains_max;
    loop_.arm(sweep_timer_,
              now + (behind ? base::Duration{std::chrono::milliseconds{10}} : sweep_interval));
}

} // namespace dataplane::delivery
