#include "dataplane/loadgen/run/profile.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <functional>
#include <netdb.h>
#include <optional>
#include <set>
#include <stdexcept>
#include <toml++/toml.h>

namespace dataplane::loadgen {
namespace {

using Errors = std::vector<ProfileError>;

struct Unit {
    std::string_view name;
    double factor;
};
constexpr std::array<Unit, 8> byte_units{{{"B", 1},
                                          {"KB", 1e3},
                                          {"MB", 1e6},
                                          {"GB", 1e9},
                                          {"KiB", 1024.0},
                                          {"MiB", 1048576.0},
                                          {"GiB", 1073741824.0},
                                          {"", 1}}};
constexpr std::array<Unit, 6> time_units{
    {{"us", 1e-6}, {"ms", 1e-3}, {"s", 1}, {"m", 60}, {"min", 60}, {"h", 3600}}};

/// "8KiB" in the unit's base; nothing when it is no such thing.
template <std::size_t count>
std::optional<double> with_unit(std::string_view text, const std::array<Unit, count>& units) {
    double number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc{} || !(number >= 0) || number > 1e15) return std::nullopt;
    std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
    while (unit.starts_with(' '))
        unit.remove_prefix(1);
    for (const Unit& known : units) {
        if (known.name == unit) return number * known.factor;
    }
    return std::nullopt;
}

/// One table of the file. Every key that is asked for is a known one; finish() names the others.
class Table {
public:
    Table(Errors& errors, const toml::table* node, std::string label, unsigned line)
        : errors_(&errors), node_(node), label_(std::move(label)), line_(line) {}

    [[nodiscard]] bool has(std::string_view key) const {
        known_.insert(std::string(key));
        return node_ != nullptr && node_->contains(key);
    }
    void fault(std::string_view key, const std::string& text) const {
        const toml::node* at = node_ != nullptr && !key.empty() ? node_->get(key) : nullptr;
        const std::string place = label_.empty() ? std::string(key)
                                  : key.empty()  ? label_
                                                 : label_ + "." + std::string(key);
        errors_->push_back({at != nullptr ? at->source().begin.line : line_, place + ": " + text});
    }
    void finish() const {
        if (node_ == nullptr) return;
        std::string names;
        for (const std::string& name : known_)
            names += (names.empty() ? "" : ", ") + name;
        for (const auto& [key, value] : *node_) {
            if (known_.contains(key.str())) continue;
            errors_->push_back({value.source().begin.line,
                                (label_.empty() ? "" : label_ + ".") + std::string(key.str()) +
                                    ": no such key; this table knows " + names});
        }
    }

    void text(std::string_view key, std::string& value) const {
        if (!has(key)) return;
        if (const auto* found = node_->get(key)->as_string())
            value = found->get();
        else
            fault(key, "must be a text in quotes");
    }
    void flag(std::string_view key, bool& value) const {
        if (!has(key)) return;
        if (const auto* found = node_->get(key)->as_boolean())
            value = found->get();
        else
            fault(key, "must be true or false");
    }
    void real(std::string_view key, double& value, double least, double most) const {
        if (!has(key)) return;
        const auto found = node_->get(key)->value<double>();
        if (found && *found >= least && *found <= most)
            value = *found;
        else
            fault(key, "must be a number from " + shown(least) + " to " + shown(most));
    }
    /// Written as percent, kept as a share.
    void percent(std::string_view key, double& share) const {
        double value = share * 100;
        real(key, value, 0, 100);
        share = value / 100;
    }
    template <class Number>
    void count(std::string_view key, Number& value, std::uint64_t least, std::uint64_t most) const {
        if (!has(key)) return;
        const auto* found = node_->get(key)->as_integer();
        if (found != nullptr && found->get() >= 0 &&
            static_cast<std::uint64_t>(found->get()) >= least &&
            static_cast<std::uint64_t>(found->get()) <= most)
            value = static_cast<Number>(found->get());
        else
            fault(key, "must be a whole number from " + std::to_string(least) + " to " +
                           std::to_string(most));
    }
    /// "250ms", "10s", "2m", or a number of seconds.
    template <class Time>
    void time(std::string_view key, Time& value, double most_s = 86'400 * 7) const {
        if (!has(key)) return;
        const toml::node& node = *node_->get(key);
        std::optional<double> seconds;
        if (node.is_number()) seconds = node.value<double>();
        if (const auto* found = node.as_string()) seconds = with_unit(found->get(), time_units);
        if (seconds && *seconds >= 0 && *seconds <= most_s)
            value = std::chrono::duration_cast<Time>(std::chrono::duration<double>(*seconds));
        else
            fault(key, "must be a time such as \"250ms\", \"10s\" or \"2m\"");
    }
    /// Calls take(element, line) for a list's elements, or for the one value that stands in for it.
    void each(std::string_view key,
              const std::function<void(const toml::node&, unsigned)>& take) const {
        if (!has(key)) return;
        const toml::node& node = *node_->get(key);
        if (const auto* list = node.as_array()) {
            for (const toml::node& element : *list)
                take(element, element.source().begin.line);
        } else {
            take(node, node.source().begin.line);
        }
    }
    void texts(std::string_view key, std::vector<std::string>& values) const {
        each(key, [&](const toml::node& element, unsigned) {
            if (const auto* found = element.as_string())
                values.push_back(found->get());
            else
                fault(key, "must be a text, or a list of texts");
        });
    }
    void addresses(std::string_view key, std::vector<base::SocketAddress>& values) const {
        std::vector<std::string> names;
        texts(key, names);
        for (const std::string& name : names) {
            try {
                values.push_back(read_address(name));
            } catch (const std::runtime_error& error) {
                fault(key, error.what());
            }
        }
    }
    void numbers(std::string_view key, std::vector<int>& values) const {
        each(key, [&](const toml::node& element, unsigned) {
            const auto found = element.value<int>();
            if (element.is_integer() && found && *found >= 0)
                values.push_back(*found);
            else
                fault(key, "must be a number, or a list of numbers");
        });
    }
    [[nodiscard]] Table child(std::string_view key) const {
        const toml::node* node = has(key) ? node_->get(key) : nullptr;
        const toml::table* table = node != nullptr ? node->as_table() : nullptr;
        if (node != nullptr && table == nullptr)
            fault(key, "must be a table: [" + std::string(key) + "]");
        return {*errors_, table, std::string(key),
                node != nullptr ? node->source().begin.line : line_};
    }
    /// The tables of [[key]], or the one of [key].
    [[nodiscard]] std::vector<Table> children(std::string_view key) const {
        std::vector<Table> tables;
        each(key, [&](const toml::node& element, unsigned line) {
            if (const auto* table = element.as_table())
                tables.emplace_back(*errors_, table,
                                    std::string(key) + " " + std::to_string(tables.size() + 1),
                                    line);
            else
                fault(key, "must be a table: [[" + std::string(key) + "]]");
        });
        return tables;
    }
    [[nodiscard]] const toml::table* node() const noexcept { return node_; }

private:
    Errors* errors_;
    const toml::table* node_;
    std::string label_;
    unsigned line_;
    mutable std::set<std::string, std::less<>> known_;
};

/// "8KB", 8192 or "1MB-10MB".
bool read_size(const toml::node& node, SizeRange& size) {
    if (const auto* number = node.as_integer()) {
        size.bytes_min = size.bytes_max =
            static_cast<std::size_t>(std::max<std::int64_t>(0, number->get()));
        return true;
    }
    const auto* text = node.as_string();
    if (text == nullptr) return false;
    const std::string_view whole = text->get();
    const std::size_t dash = whole.find('-');
    const auto least = with_unit(whole.substr(0, dash), byte_units);
    const auto most =
        dash == std::string_view::npos ? least : with_unit(whole.substr(dash + 1), byte_units);
    if (!least || !most) return false;
    size.bytes_min = static_cast<std::size_t>(*least);
    size.bytes_max = static_cast<std::size_t>(*most);
    return true;
}

void read_message(const Table& table, MessagePattern& pattern) {
    table.each("size", [&](const toml::node& element, unsigned) {
        SizeRange size;
        bool good = false;
        if (const auto* entry = element.as_table()) { // {bytes = "8KB", weight = 3}
            const toml::node* bytes = entry->get("bytes");
            good = bytes != nullptr && read_size(*bytes, size);
            for (const auto& [key, value] : *entry)
                good =
                    good && (key.str() == "bytes" || (key.str() == "weight" && value.is_number()));
            size.weight = (*entry)["weight"].value_or(size.weight);
        } else {
            good = read_size(element, size);
        }
        if (good)
            pattern.sizes.push_back(size);
        else
            table.fault("size", "must be a size such as \"8KB\" or \"1MB-10MB\", or a list of "
                                "{bytes = \"8KB\", weight = 3}");
    });
    table.each("recipients", [&](const toml::node& element, unsigned) {
        SizeRange range;
        if (!read_size(element, range) || range.bytes_min < 1 || range.bytes_max > recipients_max) {
            return table.fault("recipients",
                               "must be a number such as 1, or a range such as \"1-5\"");
        }
        pattern.recipient_count = range.bytes_min;
        pattern.recipient_count_max = range.bytes_max;
    });
    // With the run in it no other message has the address: a refusal then is one message's alone.
    pattern.recipient = "r{seq}-{n}-{run}@{domain}";
    table.text("sender", pattern.sender);
    table.text("recipient", pattern.recipient);
    table.count("seed", pattern.seed, 0, UINT32_MAX);
    table.finish();
}

void read_domains(const Table& table, MessagePattern& pattern) {
    if (table.node() != nullptr) {
        for (const auto& [key, value] : *table.node()) {
            const std::string name(key.str());
            WeightedDomain domain{.name = name};
            table.real(name, domain.weight, 0, 1e9);
            pattern.domains.push_back(std::move(domain));
        }
    }
    if (pattern.domains.empty()) pattern.domains.push_back({.name = "bench.example"});
}

SourceSection read_source(const Table& table) {
    SourceSection section;
    SourceOptions& options = section.options;
    options.connections = 50;
    table.addresses("target", options.targets);
    if (options.targets.empty() && !table.has("target"))
        table.fault("", "has no target; say target = \"HOST:PORT\", the relay to be measured");
    table.count("threads", section.threads, 1, 64);
    table.numbers("cpus", section.cpus);
    table.count("connections", options.connections, 1, connections_max);
    table.count("messages_per_connection", options.messages_per_connection, 0, UINT32_MAX);
    table.time("ramp", options.ramp, 3600);
    table.flag("pipelining", options.pipelining);
    table.flag("chunking", options.chunking);
    table.real("rate", options.rate_per_s, 0, 1e7);
    std::string tls = "none";
    table.text("tls", tls);
    if (tls == "starttls")
        options.tls = SourceTls::starttls;
    else if (tls == "implicit")
        options.tls = SourceTls::implicit;
    else if (tls != "none")
        table.fault("tls", "must be \"none\", \"starttls\" or \"implicit\"");
    table.percent("tls_percent", options.tls_share);
    table.percent("resumption_percent", options.resumption_share);
    table.text("user", options.user);
    table.text("password_file", options.password); // a name: the file is read when the run begins
    if (options.user.empty() != options.password.empty())
        table.fault("user", "AUTH needs both user and password_file");
    table.text("helo", options.helo_name);
    table.time("reply_limit", options.reply_limit);
    if (options.connections < section.threads)
        table.fault("connections", "must be at least one for each thread");
    table.finish();
    return section;
}

void read_manner(const Table& table, Manner& manner) {
    table.percent("reply_4xx_percent", manner.reply_4xx_share);
    table.percent("reply_5xx_percent", manner.reply_5xx_share);
    if (manner.reply_4xx_share + manner.reply_5xx_share > 1)
        table.fault("reply_5xx_percent", "together with reply_4xx_percent must not exceed 100");
    std::string refuse_at = manner.refuse_at == RefuseAt::data ? "data" : "rcpt";
    table.text("refuse_at", refuse_at);
    if (refuse_at != "rcpt" && refuse_at != "data")
        table.fault("refuse_at", "must be \"rcpt\" or \"data\"");
    manner.refuse_at = refuse_at == "data" ? RefuseAt::data : RefuseAt::rcpt;
    table.time("delay", manner.delay);
    table.time("delay_max", manner.delay_max);
    table.time("tarpit", manner.tarpit);
    table.time("greylist", manner.greylist);
    table.percent("disconnect_percent", manner.disconnect_share);
    table.count("connections_max", manner.connections_max, 0, connections_max);
    table.count("messages_per_connection_max", manner.messages_per_connection_max, 0, UINT32_MAX);
    table.flag("tls", manner.tls);
    table.flag("chunking", manner.chunking);
    table.flag("pipelining", manner.pipelining);
}

SinkSection read_sink(const Table& table) {
    SinkSection section;
    table.addresses("listen", section.options.addresses);
    if (section.options.addresses.empty() && !table.has("listen"))
        table.fault("",
                    "has no listen; say listen = \"ADDRESS:PORT\", where the relay delivers to");
    table.count("threads", section.threads, 1, 64);
    table.numbers("cpus", section.cpus);
    table.flag("starttls", section.starttls);
    table.text("name", section.options.host_name);
    table.count("seed", section.options.seed, 0, UINT32_MAX);
    read_manner(table, section.options.manner);
    table.finish();
    return section;
}

Provider read_provider(const Table& table, const toml::table& presets) {
    Provider provider;
    table.text("name", provider.name);
    std::string preset;
    table.text("preset", preset);
    if (!preset.empty()) {
        const toml::table* found = presets[preset].as_table();
        if (found == nullptr) {
            std::string names;
            for (const auto& [key, value] : presets)
                names += " " + std::string(key.str());
            table.fault("preset", "no preset is named \"" + preset + "\"; there are" + names);
        }
        Errors mistakes; // ours: a test reads every preset
        const Table manner(mistakes, found, preset, 0);
        read_manner(manner, provider.manner);
        manner.texts("domains", provider.domains);
        manner.finish();
        for (const ProfileError& mistake : mistakes)
            table.fault("preset", mistake.text);
        if (provider.name.empty()) provider.name = preset;
    }
    if (table.has("domains")) provider.domains.clear();
    table.texts("domains", provider.domains);
    table.addresses("listen", provider.addresses);
    read_manner(table, provider.manner);
    if (provider.name.empty())
        table.fault("", "has no name; say name = \"...\" or preset = \"...\"");
    if (provider.domains.empty() && provider.addresses.empty())
        table.fault("", "needs domains, or addresses of its own to listen on");
    table.finish();
    return provider;
}

void read_hostile(const Table& table, Profile& profile) {
    IntruderOptions& options = profile.hostile;
    for (std::size_t kind = 0; kind < mischief_count; ++kind)
        table.count(to_string(static_cast<Mischief>(kind)), options.connections[kind], 0,
                    connections_max);
    table.time("life", options.life);
    table.time("pause", options.pause);
    table.addresses("target", options.targets);
    table.finish();
    if (!options.targets.empty()) return;
    for (const SourceSection& source : profile.sources)
        options.targets.insert(options.targets.end(), source.options.targets.begin(),
                               source.options.targets.end());
}

void read_capacity(const Table& table, CapacityOptions& options) {
    table.real("rate_first", options.rate_first, 1, 1e7);
    table.real("rate_max", options.rate_max, 1, 1e7);
    table.real("precision", options.precision, 0.001, 1);
    table.count("repeats", options.repeats, 1, 100);
    table.count("trials_max", options.trials_max, 1, 10'000);
    table.time("p99_max", options.p99_max);
    table.real("backlog_max_s", options.backlog_max_s, 0, 86'400);
    table.real("accepted_share_min", options.accepted_share_min, 0, 1);
    table.time("trial", options.trial);
    if (options.trial < std::chrono::seconds{1}) table.fault("trial", "must be at least \"1s\"");
    if (options.rate_first > options.rate_max)
        table.fault("rate_first", "must not be above rate_max, " + shown(options.rate_max));
    table.finish();
}

void read_dpdk(const Table& table, Profile& profile) {
    table.text("device", profile.net.device);
    table.texts("addresses", profile.net.addresses);
    table.count("memory_mb", profile.net.memory_mb, 64, 1U << 20);
    table.flag("huge_pages", profile.net.huge_pages);
    table.flag("busy_poll", profile.net.busy_poll);
    table.finish();
    if (!profile.dpdk) {
        profile.net = {};
        return;
    }
    if (profile.net.device.empty() || profile.net.addresses.empty())
        table.fault("", "transport \"dpdk\" needs [dpdk] with device and addresses = "
                        "[\"ADDRESS/PREFIX\"]");
    if (profile.sources.size() > 1 || profile.sinks.size() > 1 ||
        (!profile.sources.empty() && profile.sources[0].threads > 1) ||
        (!profile.sinks.empty() && profile.sinks[0].threads > 1))
        table.fault("",
                    "transport \"dpdk\" runs on one thread; have one [[source]] and one [[sink]] "
                    "with threads = 1, and start millrace-bench again for more");
}

void check_loops(const Table& root, const Profile& profile) {
    std::size_t open = 0;
    for (const SourceSection& source : profile.sources)
        open += source.options.rate_per_s > 0 ? 1 : 0;
    if (open != 0 && open != profile.sources.size())
        root.fault("source",
                   "either every source has a rate (open loop) or none has (closed loop): "
                   "their latencies are added");
}

} // namespace

base::SocketAddress read_address(const std::string& text) {
    if (const auto address = base::SocketAddress::parse(text)) return *address;
    const std::size_t colon = text.rfind(':');
    if (colon == std::string::npos) throw std::runtime_error("'" + text + "' is not HOST:PORT");
    const std::string host = text.substr(0, colon);
    const std::string port = text.substr(colon + 1);
    addrinfo hints{};
    hints.ai_family = AF_INET;
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* found = nullptr;
    const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
    if (error != 0) throw std::runtime_error("'" + text + "': " + gai_strerror(error));
    std::array<char, NI_MAXHOST> digits{};
    getnameinfo(found->ai_addr, found->ai_addrlen, digits.data(), digits.size(), nullptr, 0,
                NI_NUMERICHOST);
    freeaddrinfo(found);
    const auto address = base::SocketAddress::parse(std::string(digits.data()) + ":" + port);
    if (!address) throw std::runtime_error("'" + text + "' is not HOST:PORT");
    return *address;
}

std::expected<Profile, Errors> read_profile(const std::string& text, const std::string& name,
                                            std::string_view presets) {
    Errors errors;
    toml::table file, known;
    try {
        file = toml::parse(text);
        known = toml::parse(presets);
    } catch (const toml::parse_error& error) {
        errors.push_back({error.source().begin.line, std::string(error.description()) +
                                                         "; see docs/capacity.md for an example"});
        return std::unexpected(errors);
    }
    Profile profile{.name = name, .text = text};
    const Table root(errors, &file, "", 1);
    root.text("name", profile.name);
    root.text("description", profile.description);
    root.time("duration", profile.duration);
    root.time("warm_up", profile.warm_up);
    root.time("drain", profile.drain);
    if (profile.duration < std::chrono::seconds{1})
        root.fault("duration", "must be at least \"1s\"");
    std::string transport = "kernel";
    root.text("transport", transport);
    if (transport != "kernel" && transport != "dpdk")
        root.fault("transport", "must be \"kernel\" or \"dpdk\"");
    profile.dpdk = transport == "dpdk";

    read_message(root.child("message"), profile.pattern);
    read_domains(root.child("domains"), profile.pattern);
    for (const Table& table : root.children("source"))
        profile.sources.push_back(read_source(table));
    if (profile.sources.empty())
        root.fault("source", "nothing would be sent; add [[source]] with target = \"HOST:PORT\"");
    for (const Table& table : root.children("sink"))
        profile.sinks.push_back(read_sink(table));
    std::vector<Provider> providers;
    for (const Table& table : root.children("provider"))
        providers.push_back(read_provider(table, known));
    if (!providers.empty() && profile.sinks.empty())
        root.fault("provider",
                   "providers answer at a sink; add [[sink]] with listen = \"ADDRESS:PORT\"");
    for (SinkSection& sink : profile.sinks)
        sink.options.providers = providers;
    for (std::size_t i = 1; i < profile.sinks.size(); ++i) { // their own hosts are one sink's
        for (Provider& provider : profile.sinks[i].options.providers)
            provider.addresses.clear();
    }
    read_hostile(root.child("hostile"), profile);
    const Table audit = root.child("audit");
    audit.time("late_after", profile.audit.late_after);
    audit.time("reorder_slack", profile.audit.reorder_slack);
    audit.finish();
    read_capacity(root.child("capacity"), profile.capacity);
    profile.capacity.watch_backlog = !profile.sinks.empty();
    const Table relay = root.child("relay");
    relay.numbers("pids", profile.relay.pids);
    relay.text("process", profile.relay.process);
    relay.addresses("metrics", profile.relay.metrics);
    relay.text("spool", profile.relay.spool_folder);
    relay.text("note", profile.relay.note);
    if (relay.has("dkim")) relay.flag("dkim", profile.relay.dkim.emplace(false));
    relay.finish();
    read_dpdk(root.child("dpdk"), profile);
    root.finish();
    check_loops(root, profile);
    if (errors.empty()) {
        if (const std::string fault = check_pattern(profile.pattern); !fault.empty())
            root.fault("message", fault);
    }
    if (errors.empty()) return profile;
    std::stable_sort(errors.begin(), errors.end(),
                     [](const auto& a, const auto& b) { return a.line < b.line; });
    return std::unexpected(errors);
}

} // namespace dataplane::loadgen
