#include "dataplane/loadgen/run/totals.h"

namespace dataplane::loadgen {
namespace {

constexpr std::array source_counts{&SourceTally::sent,
                                   &SourceTally::accepted,
                                   &SourceTally::transient,
                                   &SourceTally::permanent,
                                   &SourceTally::unknown,
                                   &SourceTally::connections_made,
                                   &SourceTally::connections_broken,
                                   &SourceTally::connections_open,
                                   &SourceTally::tls_connections,
                                   &SourceTally::tls_resumed,
                                   &SourceTally::bytes,
                                   &SourceTally::recipients,
                                   &SourceTally::recipients_refused,
                                   &SourceTally::due,
                                   &SourceTally::overdue};
constexpr std::array target_counts{&TargetTally::accepted, &TargetTally::failed,
                                   &TargetTally::connections};
constexpr std::array sink_counts{
    &SinkTally::messages,        &SinkTally::received,     &SinkTally::unique,
    &SinkTally::duplicated,      &SinkTally::altered,      &SinkTally::foreign,
    &SinkTally::refused_4xx,     &SinkTally::refused_5xx,  &SinkTally::refused_for_good,
    &SinkTally::greylisted,      &SinkTally::disconnected, &SinkTally::connections_refused,
    &SinkTally::bytes,           &SinkTally::connections,  &SinkTally::connections_open,
    &SinkTally::tls_connections, &SinkTally::other_runs,   &SinkTally::signed_messages};
constexpr std::array provider_counts{
    &ProviderTally::taken,      &ProviderTally::refused_4xx,  &ProviderTally::refused_5xx,
    &ProviderTally::greylisted, &ProviderTally::disconnected, &ProviderTally::connections_refused};

} // namespace

void add(SourceTally& sum, const SourceTally& more) {
    for (const auto count : source_counts)
        sum.*count += more.*count;
    if (!more.last_error.empty()) sum.last_error = more.last_error;
    if (sum.greeting.empty()) sum.greeting = more.greeting;
    for (const TargetTally& target : more.targets) {
        auto known = std::find_if(sum.targets.begin(), sum.targets.end(),
                                  [&](const TargetTally& one) { return one.name == target.name; });
        if (known == sum.targets.end())
            known = sum.targets.insert(sum.targets.end(), {.name = target.name});
        for (const auto count : target_counts)
            (*known).*count += target.*count;
        known->accept_latency_ns.merge(target.accept_latency_ns);
    }
    sum.accept_latency_ns.merge(more.accept_latency_ns);
    sum.wake_lateness_ns.merge(more.wake_lateness_ns);
}

SourceTally since(const SourceTally& now, const SourceTally& earlier) {
    SourceTally difference;
    for (const auto count : source_counts)
        difference.*count = now.*count - earlier.*count;
    difference.connections_open = now.connections_open; // a gauge
    difference.last_error = now.last_error;
    difference.greeting = now.greeting;
    for (const TargetTally& target : now.targets) {
        TargetTally fresh = target;
        for (const TargetTally& before : earlier.targets) {
            if (before.name != target.name) continue;
            for (const auto count : target_counts)
                fresh.*count -= before.*count;
            fresh.accept_latency_ns = target.accept_latency_ns.since(before.accept_latency_ns);
        }
        difference.targets.push_back(std::move(fresh));
    }
    difference.accept_latency_ns = now.accept_latency_ns.since(earlier.accept_latency_ns);
    difference.wake_lateness_ns = now.wake_lateness_ns.since(earlier.wake_lateness_ns);
    return difference;
}

void add(SinkTally& sum, const SinkTally& more) {
    for (const auto count : sink_counts)
        sum.*count += more.*count;
    for (std::size_t i = 0; i < more.providers.size(); ++i) {
        if (sum.providers.size() == i) sum.providers.push_back({.name = more.providers[i].name});
        for (const auto count : provider_counts)
            sum.providers[i].*count += more.providers[i].*count;
    }
}

void add(Totals& sum, const Totals& more) {
    add(sum.source, more.source);
    add(sum.sink, more.sink);
    for (std::size_t i = 0; i < sum.hostile.size(); ++i) {
        sum.hostile[i].connections += more.hostile[i].connections;
        sum.hostile[i].not_let_in += more.hostile[i].not_let_in;
        sum.hostile[i].ended += more.hostile[i].ended;
    }
    sum.port_drops += more.port_drops;
    sum.sending = sum.sending || more.sending;
    sum.cpu_s += more.cpu_s;
}

} // namespace dataplane::loadgen
