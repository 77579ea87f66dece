#include "dataplane/loadgen/run/sum.h"

#include "dataplane/loadgen/run/statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>

namespace dataplane::loadgen {
namespace {

constexpr double overlap_min = 0.9; // of the longest

constexpr std::array counts{&RunResult::sent,
                            &RunResult::accepted,
                            &RunResult::transient,
                            &RunResult::permanent,
                            &RunResult::unknown,
                            &RunResult::due,
                            &RunResult::overdue,
                            &RunResult::bytes,
                            &RunResult::recipients,
                            &RunResult::delivered,
                            &RunResult::recipients_refused,
                            &RunResult::settled,
                            &RunResult::sink_messages,
                            &RunResult::signed_messages,
                            &RunResult::connections,
                            &RunResult::tls_resumed,
                            &RunResult::connections_broken,
                            &RunResult::tls_connections};
constexpr std::array audit_counts{&Audit::promised, &Audit::delivered, &Audit::refused,
                                  &Audit::unknown_messages, &Audit::unknown_delivered};
constexpr std::array audit_faults{&Audit::lost,         &Audit::duplicated, &Audit::altered,
                                  &Audit::misdelivered, &Audit::put_off,    &Audit::unexplained,
                                  &Audit::late,         &Audit::reordered};
constexpr std::array provider_counts{
    &ProviderTally::taken,      &ProviderTally::refused_4xx,  &ProviderTally::refused_5xx,
    &ProviderTally::greylisted, &ProviderTally::disconnected, &ProviderTally::connections_refused};
constexpr std::array sample_sums{&Sample::offered_per_s, &Sample::accepted_per_s,
                                 &Sample::delivered_per_s, &Sample::failed_per_s, &Sample::backlog};
constexpr std::array sample_worst{&Sample::p50_ms,     &Sample::p99_ms,    &Sample::max_ms,
                                  &Sample::source_cpu, &Sample::sink_cpu,  &Sample::source_wait,
                                  &Sample::sink_wait,  &Sample::relay_cpu, &Sample::relay_mb,
                                  &Sample::others_cpu};

void add(Audit& sum, const Audit& more) {
    for (const auto count : audit_counts)
        sum.*count += more.*count;
    for (const auto fault : audit_faults) {
        Fault& whole = sum.*fault;
        whole.count += (more.*fault).count;
        for (const std::string& example : (more.*fault).examples) {
            if (whole.examples.size() < named_examples_max) whole.examples.push_back(example);
        }
    }
}

template <class Named>
Named& named(std::vector<Named>& all, const std::string& name) {
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Named& one) { return one.name == name; });
    return found != all.end() ? *found : all.emplace_back(Named{.name = name});
}

/// Second by second from the measured time's begin, as long as all have one.
std::vector<Sample> add_samples(const std::vector<NamedResult>& results) {
    std::vector<Sample> sum;
    for (std::size_t i = 0; i < results.size(); ++i) {
        std::vector<Sample> measured;
        for (const Sample& sample : results[i].result.samples) {
            if (sample.measured) measured.push_back(sample);
        }
        if (i == 0) {
            sum = std::move(measured);
            continue;
        }
        sum.resize(std::min(sum.size(), measured.size()));
        for (std::size_t second = 0; second < sum.size(); ++second) {
            for (const auto field : sample_sums)
                sum[second].*field += measured[second].*field;
            for (const auto field : sample_worst)
                sum[second].*field = std::fmax(sum[second].*field, measured[second].*field);
        }
    }
    return sum;
}

/// The share of the longest measured time in which all of them measured; negative when nobody knows.
double overlap_of(const std::vector<NamedResult>& results) {
    double from = 0, to = 0, longest = 0;
    for (const NamedResult& one : results) {
        const RunResult& result = one.result;
        if (result.measured_from <= 0 || result.seconds <= 0) return -1;
        const double end = result.measured_from + result.seconds;
        from = std::max(from, result.measured_from);
        to = to == 0 ? end : std::min(to, end);
        longest = std::max(longest, result.seconds);
    }
    return std::max(0.0, to - from) / longest;
}

void doubt(const std::vector<NamedResult>& results, RunResult& sum) {
    for (const NamedResult& one : results) {
        for (const std::string& reason : one.result.doubts)
            sum.doubts.push_back(one.name + ": " + reason);
        for (const std::string& what : one.result.unchecked)
            sum.unchecked.push_back(one.name + ": " + what);
        if (one.result.profile_text != results.front().result.profile_text)
            sum.unchecked.push_back(one.name + ": whether it did the same, its profile is another");
    }
    const double overlap = overlap_of(results);
    if (overlap < 0)
        sum.doubts.emplace_back("when they were measured is not known: their rates may not add");
    else if (overlap < overlap_min)
        sum.doubts.push_back("they were measured at the same time for " +
                             shown(std::round(100 * overlap)) +
                             " % of the longest only: their rates do not add");
}

} // namespace

RunResult sum_of(const std::vector<NamedResult>& results) {
    if (results.empty()) throw std::runtime_error("nothing to add");
    const RunResult& first = results.front().result;
    RunResult sum{.profile = first.profile,
                  .profile_text = first.profile_text,
                  .began = first.began,
                  .relay_greeting = first.relay_greeting,
                  .measured_from = first.measured_from,
                  .samples = add_samples(results)};
    sum.unchecked.emplace_back(
        "the seconds' percentiles, CPU and memory are those of the worst of them");
    for (const NamedResult& one : results) {
        const RunResult& result = one.result;
        sum.command += (sum.command.empty() ? "" : "\n") + one.name + ": " + result.command;
        sum.seconds = std::max(sum.seconds, result.seconds);
        sum.settled_s = std::max(sum.settled_s, result.settled_s);
        sum.rate_per_s += result.rate_per_s;
        for (const auto count : counts)
            sum.*count += result.*count;
        if (!result.last_error.empty()) sum.last_error = result.last_error;
        sum.latency_ns.merge(result.latency_ns);
        add(sum.audit, result.audit);
        for (const ProviderTally& tally : result.providers) {
            ProviderTally& whole = named(sum.providers, tally.name);
            for (const auto count : provider_counts)
                whole.*count += tally.*count;
        }
        for (const TargetTally& tally : result.targets) {
            TargetTally& whole = named(sum.targets, tally.name);
            whole.accepted += tally.accepted;
            whole.failed += tally.failed;
            whole.connections += tally.connections;
            whole.accept_latency_ns.merge(tally.accept_latency_ns);
        }
        for (const NamedValue& value : result.hostile)
            named(sum.hostile, value.name).value += value.value;
        if (result.relay.known) {
            sum.relay.known = true;
            sum.relay.cpu_s += result.relay.cpu_s;
            sum.relay.settled_cpu_s += result.relay.settled_cpu_s;
            sum.relay.memory_max_mb += result.relay.memory_max_mb;
            for (const NamedValue& thread : result.relay.threads)
                named(sum.relay.threads, thread.name).value += thread.value;
        }
        for (const auto& [name, value] : result.setup)
            sum.setup.emplace_back(one.name + ": " + name, value);
        for (const auto& [name, value] : result.machine)
            sum.machine.emplace_back(one.name + ": " + name, value);
    }
    // Only when all were seen to settle, the slowest tells how long it took.
    for (const NamedResult& one : results) {
        if (one.result.settled_s == 0) sum.settled_s = 0;
    }
    doubt(results, sum);
    return sum;
}

} // namespace dataplane::loadgen
