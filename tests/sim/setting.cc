#include "tests/sim/setting.h"

#include "control/screen/screen_compiler.h"
#include "dataplane/delivery/domain.h"

#include <algorithm>

namespace tests::sim {

using dataplane::policy::ListenerKind;
using dataplane::policy::Policy;
using dataplane::policy::RoutePolicy;
using dataplane::policy::SitePolicy;
using std::chrono::seconds;

namespace {

[[nodiscard]] base::SocketAddress address(std::uint8_t b, std::uint8_t c, std::uint8_t d,
                                          std::uint16_t port) {
    return {base::IpAddress::v4({10, b, c, d}), port};
}

[[nodiscard]] std::uint32_t number(Random& random, std::uint32_t low, std::uint32_t high) {
    return static_cast<std::uint32_t>(random.between(low, high));
}

void draw_places(Setting& setting, Random& random) {
    const std::size_t provider_count = random.between(2, 5);
    for (std::size_t provider = 0; provider < provider_count; ++provider) {
        auto& hosts = setting.providers.emplace_back();
        const std::size_t host_count = random.chance(50) ? 1 : random.between(2, 3);
        for (std::size_t i = 0; i < host_count; ++i) {
            const auto digit = static_cast<std::uint8_t>(i + 1);
            hosts.push_back(
                {.name = "mx" + std::to_string(i) + ".p" + std::to_string(provider) + ".test",
                 .address = address(9, static_cast<std::uint8_t>(provider), digit, 25),
                 .provider = provider,
                 .preference = static_cast<std::uint16_t>(random.pick({10, 10, 20}))});
        }
        SitePolicy& shape = setting.shapes.emplace_back();
        shape.connections_max = number(random, 1, 5);
        shape.messages_per_connection_max = random.pick<std::uint32_t>({1, 2, 5, 100});
        shape.recipients_per_message_max = random.pick<std::uint32_t>({1, 2, 4, 100});
        shape.messages_per_second_max = random.chance(25) ? number(random, 1, 5) : 0;
        shape.idle = seconds{random.between(1, 5)};
        shape.pipelining = random.chance(80);
        shape.chunking = random.chance(80);
    }
    const std::size_t domain_count = random.between(2, 6);
    for (std::size_t i = 0; i < domain_count; ++i) {
        DomainSetting domain;
        domain.name = "d" + std::to_string(i) + ".test";
        domain.provider = random.between(1, provider_count - 1);
        setting.domains.push_back(std::move(domain));
    }
    // Some are special. A provider of a smart host or of an implicit MX is that domain's alone: its site has
    // another name, and so limits of its own.
    const auto special = [&](DomainSetting::Kind kind) {
        DomainSetting& domain = setting.domains.emplace_back();
        domain.kind = kind;
        domain.name = "s" + std::to_string(setting.domains.size()) + ".test";
        if (kind == DomainSetting::Kind::null_mx || kind == DomainSetting::Kind::missing) return;
        domain.provider = setting.providers.size();
        const bool implicit = kind == DomainSetting::Kind::implicit_mx;
        const auto at = address(9, static_cast<std::uint8_t>(domain.provider), 1, 25);
        setting.providers.push_back({{.name = implicit ? domain.name : "smart." + domain.name,
                                      .address = at,
                                      .provider = domain.provider}});
        setting.shapes.push_back(setting.shapes.at(1));
    };
    if (random.chance(30)) special(DomainSetting::Kind::implicit_mx);
    if (random.chance(30)) special(DomainSetting::Kind::smart_host);
    if (random.chance(20)) special(DomainSetting::Kind::null_mx);
    if (random.chance(20)) special(DomainSetting::Kind::missing);
    DomainSetting home;
    home.name = sender_domain;
    home.provider = 0;
    setting.domains.push_back(std::move(home));
}

void draw_routes(Policy& policy, const Setting& setting) {
    for (const DomainSetting& domain : setting.domains) {
        if (domain.provider == Terms::no_provider) continue;
        const auto& hosts = setting.providers[domain.provider];
        if (domain.kind == DomainSetting::Kind::smart_host) {
            RoutePolicy route;
            route.kind = RoutePolicy::Kind::smart_host;
            route.hosts.push_back({.name = hosts.front().name, .port = 25});
            route.shaping = setting.shapes[domain.provider];
            policy.routes[domain.name] = route;
            continue;
        }
        std::vector<std::string> names;
        for (const HostSetting& host : hosts)
            names.push_back(host.name);
        policy.sites[dataplane::delivery::site_name(names)] = setting.shapes[domain.provider];
    }
}

void draw_policies(Setting& setting, Random& random) {
    Policy policy;
    policy.hostname = "relay.test";
    policy.start_up.spool_segment_bytes =
        random.pick<std::uint32_t>({1U << 20, 1U << 20, 2U << 20});
    policy.start_up.resident_bytes_per_shard = random.pick<std::uint64_t>({1, 4, 16}) << 20;
    policy.listeners.resize(2);
    policy.listeners[0].name = "relay";
    policy.listeners[0].address = address(0, 0, 1, 25);
    policy.listeners[0].kind = ListenerKind::relay;
    policy.listeners[0].allow_plain_auth = true;
    policy.listeners[1].name = "submission";
    policy.listeners[1].address = address(0, 0, 1, 587);
    policy.listeners[1].allow_plain_auth = true;
    policy.relay_networks.push_back(*base::Network::parse("10.1.0.0/16"));

    auto& timeouts = policy.timeouts;
    timeouts.command = timeouts.data_block = seconds{random.pick({20, 120, 300})};
    timeouts.connect = seconds{random.pick({3, 30})};
    timeouts.greeting = timeouts.helo = timeouts.mail = timeouts.rcpt =
        seconds{random.pick({5, 60})};
    timeouts.data_init = timeouts.data_send = seconds{random.pick({5, 60})};
    timeouts.data_done = seconds{random.pick({10, 60})};
    timeouts.idle = seconds{30};
    auto& limits = policy.limits;
    limits.message_bytes_max = random.chance(20) ? 100'000 : 1U << 20;
    limits.recipients_max = random.pick<std::uint32_t>({3, 100});
    limits.errors_max = random.pick<std::uint32_t>({2, 20});
    limits.messages_per_session_max = random.pick<std::uint32_t>({2, 100});
    limits.connections_per_client_max = random.pick<std::uint32_t>({2, 100});

    dataplane::policy::AccountPolicy account;
    account.name = account_name;
    account.tenant = "acme";
    account.source = random.pick<const char*>({"", "s1", "pool"});
    account.messages_per_hour_max = random.chance(10) ? 10 : 0;
    policy.accounts[account.name] = account;
    account.name = disabled_name;
    account.enabled = false;
    policy.accounts[account.name] = account;
    for (std::uint8_t i = 0; i < 2; ++i) {
        dataplane::policy::SourcePolicy source;
        source.name = "s" + std::to_string(i);
        source.address_v4 = address(0, 1, static_cast<std::uint8_t>(i + 1), 0).ip;
        source.helo_name = "out" + std::to_string(i) + ".relay.test";
        policy.source_index[source.name] = i;
        policy.sources.push_back(std::move(source));
    }
    policy.pools["pool"] = {.name = "pool", .members = {{0, 1}, {1, 3}}};

    auto& retry = policy.retry;
    retry.first = seconds{random.pick({2, 10, 30})};
    retry.factor = random.pick({1.0, 1.5, 2.0});
    retry.interval_max = seconds{random.pick({60, 300})};
    retry.expiry = seconds{random.pick({1800, 7200, 36'000})};
    retry.delay_notice = seconds{random.chance(50) ? 0 : retry.expiry.count() / 6};
    retry.site_pause_first = seconds{random.between(1, 30)};
    retry.site_pause_max = seconds{120};
    setting.rules = random.chance(50);
    if (setting.rules) policy.screen = screening_rules();
    draw_routes(policy, setting);
    setting.big_bytes =
        std::min<std::uint64_t>(700'000, limits.message_bytes_max + limits.message_bytes_max / 4);

    const std::uint64_t count = random.between(1, 3);
    for (std::uint64_t version = 1; version <= count; ++version) {
        policy.version = version;
        setting.policies.push_back(std::make_shared<const Policy>(policy));
        setting.expiry_max = std::max(setting.expiry_max, policy.retry.expiry);
        // The next one differs in what may change under traffic.
        policy.retry.first = seconds{random.pick({2, 10, 30})};
        policy.retry.expiry = seconds{random.pick({1800, 7200, 36'000})};
        policy.limits.errors_max = random.pick<std::uint32_t>({2, 20});
        policy.limits.recipients_max = random.pick<std::uint32_t>({3, 100});
    }
}

void draw_clients(Setting& setting, Random& random, milliseconds window) {
    const std::uint64_t count = setting.heavy ? random.between(15, 40) : random.between(4, 24);
    for (std::uint64_t i = 0; i < count; ++i) {
        Arrivals arrival{.at = random.time(milliseconds{1}, window), .plan = {}};
        ClientPlan& plan = arrival.plan;
        plan.seed = setting.seed << 16 | i;
        plan.submission = random.chance(60);
        plan.listed = random.chance(50);
        plan.letters = number(random, 1, 6);
        const std::uint64_t draw = random.below(100);
        if (draw >= 80) {
            plan.kind = random.pick({ClientKind::wrong_password, ClientKind::disabled,
                                     ClientKind::stranger, ClientKind::garbage});
            plan.listed =
                plan.listed && plan.submission; // the relay port would let them in, and rightly
            if (plan.kind == ClientKind::garbage) plan.listed = false;
        }
        setting.clients.push_back(arrival);
    }
}

void draw_trouble(Setting& setting, Random& random) {
    using What = Happening::What;
    std::size_t host_index = 0;
    for (const auto& provider : setting.providers) {
        for (const HostSetting& host : provider) {
            const bool home = host.provider == 0; // reports must arrive before they expire
            milliseconds at = random.time(milliseconds{0}, seconds{60});
            for (unsigned i = 0; i < (home ? 2U : 40U) && at < setting.trouble_ends; ++i) {
                if (random.chance(30)) break;
                const milliseconds lasts =
                    home ? random.time(seconds{1}, seconds{120})
                         : random.time(seconds{1}, setting.trouble_ends / 2 + seconds{1});
                const bool off = random.chance(25);
                setting.happenings.push_back({.what = off ? What::unreachable : What::mood,
                                              .at = at,
                                              .host = host_index,
                                              .silent = random.chance(30)});
                setting.happenings.push_back({.what = off ? What::reachable : What::calm,
                                              .at = at + lasts,
                                              .host = host_index});
                at += lasts + random.time(seconds{1}, seconds{home ? 600 : 120});
            }
            ++host_index;
        }
    }
    const auto sometime = [&] { return random.time(milliseconds{0}, setting.trouble_ends); };
    // One refused write in a row is a bad place, two are a bad device: then the spool becomes read-only.
    for (std::uint64_t faults = random.chance(50) ? 0 : random.between(1, 4); faults > 0;
         --faults) {
        setting.happenings.push_back(
            {.what = What::disk_fault,
             .at = random.time(milliseconds{0}, setting.clients_end),
             .fault = random.pick(
                 {SimDisk::Fault::io, SimDisk::Fault::short_transfer, SimDisk::Fault::no_space}),
             .after = random.below(10),
             .count = random.chance(15) ? 2U : 1U});
    }
    if (random.chance(20)) { // longer than a commit or a report may wait, or not
        const milliseconds begin = random.time(milliseconds{0}, setting.clients_end);
        const milliseconds time = random.pick({seconds{1}, seconds{35}, seconds{140}});
        setting.happenings.push_back({.what = What::disk_stalls, .at = begin});
        setting.happenings.push_back({.what = What::disk_goes_on, .at = begin + time});
    }
    if (random.chance(15))
        setting.happenings.push_back({.what = What::read_fault, .at = sometime()});
    for (std::size_t i = 1; i < setting.policies.size(); ++i) {
        setting.happenings.push_back({.what = What::swap_policy, .at = sometime(), .policy = i});
    }
    if (random.chance(25)) setting.happenings.push_back({.what = What::restart, .at = sometime()});
    // Drawn apart, so that a seed is otherwise what it was. Not the senders' own domain: reports go there.
    Random operator_random{setting.seed, 4};
    const std::uint64_t operations = operator_random.chance(50) ? 0 : operator_random.between(1, 6);
    for (std::uint64_t i = 0; i < operations; ++i) {
        setting.happenings.push_back(
            {.what = What::operate,
             .at = operator_random.time(milliseconds{0}, setting.trouble_ends),
             .operation = static_cast<Happening::Operation>(operator_random.below(8)),
             .domain = operator_random.below(setting.domains.size() - 1)});
    }
    std::ranges::stable_sort(setting.happenings, {}, &Happening::at);

    const std::uint64_t crashes = random.chance(30) ? 0 : random.between(1, 3);
    for (std::uint64_t i = 0; i < crashes; ++i) {
        using After = CrashPlan::After;
        CrashPlan crash;
        crash.after =
            random.pick({After::milliseconds, After::disk_writes, After::mails_taken,
                         After::acknowledgements, After::acknowledgements, After::mails_taken});
        if (i > 0 && random.chance(30)) crash.after = After::recovery_operations;
        switch (crash.after) {
        case After::milliseconds:
            crash.count = random.between(1, 200'000);
            break;
        case After::disk_writes:
            crash.count = random.between(1, 80);
            break;
        case After::mails_taken:
            crash.count = random.between(1, 12);
            break;
        case After::acknowledgements:
            crash.count = random.between(1, 12);
            break;
        case After::recovery_operations:
            crash.count = random.between(1, 12);
            break;
        }
        crash.turns = static_cast<unsigned>(random.below(12));
        crash.down = random.time(milliseconds{0}, seconds{5});
        setting.crashes.push_back(crash);
    }
}

} // namespace

Setting draw_setting(std::uint64_t seed) {
    Random random{seed, 3};
    Setting setting;
    setting.seed = seed;
    setting.net.seed = random.next();
    setting.net.latency = std::chrono::microseconds{random.pick({50, 500, 5'000})};
    setting.net.fragment = random.chance(80);
    setting.disk.seed = random.next();
    setting.disk.bytes = random.pick<std::uint64_t>({10, 12, 20, 32}) << 20;
    setting.heavy = random.chance(25);
    if (setting.heavy) setting.disk.bytes = 10 << 20;
    setting.disk.latency_max = std::chrono::microseconds{random.pick({100, 2'000, 20'000})};
    draw_places(setting, random);
    draw_policies(setting, random);
    const milliseconds window = random.time(seconds{5}, seconds{300});
    draw_clients(setting, random, window);
    setting.clients_end = setting.trouble_ends = window;
    if (random.chance(60)) setting.trouble_ends += random.time(seconds{0}, seconds{600});
    if (random.chance(25)) setting.trouble_ends += setting.policies.front()->retry.expiry;
    draw_trouble(setting, random);
    return setting;
}

dataplane::policy::ScreenPolicy screening_rules() {
    using dataplane::policy::ScreenRule;
    static const control::screen::CompiledPatterns compiled = [] {
        std::vector<control::screen::Pattern> patterns;
        for (const char* word : {"SIMREJECT", "SIMDEFER", "SIMTAG"})
            patterns.push_back({.name = word, .pattern = word});
        auto made = control::screen::compile_patterns(patterns);
        CHECK(made.has_value());
        return std::move(*made);
    }();
    dataplane::policy::ScreenPolicy screen;
    screen.header_database = compiled.header_database;
    screen.body_database = compiled.body_database;
    screen.rules.push_back(
        {.name = "SIMREJECT", .action = ScreenRule::Action::reject, .text = "no such words"});
    screen.rules.push_back(
        {.name = "SIMDEFER", .action = ScreenRule::Action::defer, .text = "not now"});
    screen.rules.push_back({.name = "SIMTAG",
                            .action = ScreenRule::Action::tag,
                            .header = "X-Sim-Tag",
                            .value = "hit"});
    return screen;
}

} // namespace tests::sim
