#include "dataplane/loadgen/run/plan.h"

#include "dataplane/loadgen/run/statistics.h"

#include <memory>

namespace dataplane::loadgen {
namespace {

int cpu_of(const std::vector<int>& cpus, unsigned number) {
    return cpus.empty() ? -1 : cpus[number % cpus.size()];
}

std::string seconds_of(std::chrono::milliseconds time) {
    return shown(std::chrono::duration<double>(time).count()) + " s";
}

std::string_view name_of(SourceTls tls) {
    switch (tls) {
    case SourceTls::none:
        return "no TLS";
    case SourceTls::starttls:
        return "STARTTLS";
    case SourceTls::implicit:
        return "implicit TLS";
    }
    return "";
}

std::string targets_of(const SourceOptions& options) {
    std::string text;
    for (const base::SocketAddress& target : options.targets)
        text += (text.empty() ? "" : " ") + target.to_string();
    return text;
}

std::string describe(const SourceSection& source) {
    const SourceOptions& options = source.options;
    std::string text = std::to_string(options.connections) + " connections on " +
                       std::to_string(source.threads) + " threads, ";
    text += options.rate_per_s > 0 ? shown(options.rate_per_s) + " messages/s due" : "closed loop";
    text += ", ";
    text += name_of(options.tls);
    if (options.tls != SourceTls::none)
        text += " on " + shown(100 * options.tls_share) + " %, " +
                shown(100 * options.resumption_share) + " % may resume";
    if (options.messages_per_connection != 0)
        text += ", " + std::to_string(options.messages_per_connection) + " messages each";
    text += options.pipelining ? ", PIPELINING" : ", no PIPELINING";
    text += options.chunking ? ", BDAT" : ", DATA";
    if (!options.user.empty()) text += ", AUTH";
    return text;
}

} // namespace

std::vector<WorkerPlan> plan_workers(const Profile& profile, const std::string& run_prefix) {
    std::vector<WorkerPlan> plans;
    for (const SinkSection& section : profile.sinks) {
        const auto reception = std::make_shared<Reception>();
        for (unsigned i = 0; i < section.threads; ++i) {
            WorkerPlan plan{
                .sink = section.options, .starttls = section.starttls, .net = profile.net};
            plan.sink->seed += i;
            plan.sink->run_prefix = run_prefix;
            plan.sink->reception = reception;
            plan.cpu = cpu_of(section.cpus, i);
            plans.push_back(std::move(plan));
        }
    }
    unsigned number = 0;
    for (const SourceSection& section : profile.sources) {
        std::size_t dealt_out = 0;
        for (unsigned i = 0; i < section.threads; ++i) {
            WorkerPlan plan{
                .source = section.options, .pattern = profile.pattern, .net = profile.net};
            SourceOptions& source = *plan.source;
            source.connections = section.options.connections / section.threads +
                                 (i < section.options.connections % section.threads ? 1 : 0);
            source.first_connection = dealt_out;
            dealt_out += source.connections;
            source.rate_per_s /= section.threads;
            source.reconnect_limit = std::chrono::milliseconds{0}; // an outage is a result
            plan.pattern.run = run_prefix + std::to_string(number);
            plan.pattern.seed += number++;
            plan.cpu = cpu_of(section.cpus, i);
            if (profile.dpdk) { // one device, one thread
                plan.hostile = profile.hostile;
                if (!plans.empty()) {
                    plan.sink = plans.front().sink;
                    plan.starttls = plans.front().starttls;
                    plans.clear();
                }
            }
            plans.push_back(std::move(plan));
        }
    }
    // On a thread of their own: what they do must not make the source late.
    if (profile.hostile.any() && !profile.dpdk)
        plans.push_back({.hostile = profile.hostile, .net = profile.net});
    return plans;
}

Facts setup_of(const Profile& profile) {
    Facts facts;
    for (std::size_t i = 0; i < profile.sources.size(); ++i) {
        const std::string name = "source " + std::to_string(i + 1);
        facts.emplace_back(name, describe(profile.sources[i]));
        facts.emplace_back(name + " to", targets_of(profile.sources[i].options));
    }
    for (std::size_t i = 0; i < profile.sinks.size(); ++i) {
        const SinkSection& sink = profile.sinks[i];
        facts.emplace_back("sink " + std::to_string(i + 1),
                           std::to_string(sink.threads) + " threads, " +
                               std::to_string(sink.options.providers.size()) + " providers, " +
                               (sink.starttls ? "STARTTLS" : "no TLS"));
    }
    facts.emplace_back("times", "warm-up " + seconds_of(profile.warm_up) + ", measured " +
                                    seconds_of(profile.duration) + ", drain up to " +
                                    seconds_of(profile.drain));
    facts.emplace_back("transport", profile.dpdk ? "our own TCP/IP" : "kernel sockets");
    return facts;
}

std::vector<std::string> idle_wishes(const Profile& profile) {
    std::vector<std::string> all;
    if (profile.sinks.empty()) return all;
    const Manner usual;
    for (const Provider& provider : profile.sinks.front().options.providers) {
        if (!provider.addresses.empty()) continue;
        const Manner& manner = provider.manner;
        std::string keys;
        const auto name = [&](bool set, const char* key) {
            if (set) keys += std::string(keys.empty() ? "" : ", ") + key;
        };
        name(manner.connections_max != usual.connections_max, "connections_max");
        name(manner.messages_per_connection_max != usual.messages_per_connection_max,
             "messages_per_connection_max");
        name(manner.tarpit != usual.tarpit, "tarpit");
        name(manner.tls != usual.tls, "tls");
        name(manner.chunking != usual.chunking, "chunking");
        name(manner.pipelining != usual.pipelining, "pipelining");
        if (!keys.empty())
            all.push_back("provider " + provider.name + ": " + keys +
                          " without effect, for they hold at an address of its own: give it listen "
                          "= \"ADDRESS:PORT\" and the relay a route to it");
    }
    return all;
}

} // namespace dataplane::loadgen
