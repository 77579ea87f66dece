#include "dataplane/loadgen/run/trust.h"

#include "dataplane/loadgen/run/statistics.h"

#include <algorithm>
#include <cmath>

namespace dataplane::loadgen {
namespace {

constexpr double cpu_bound = 0.9; // of a core: a loop that is busier has no time to be punctual
constexpr double clock_step_max_s = 0.1;
constexpr double lateness_max_ms = 1; // or a fifth of the p99 it is part of
constexpr double others_max = 0.1;    // of all cores
constexpr double stolen_max = 0.02;
constexpr double refused_max = 0.01; // of the messages sent
constexpr double drift_max = 0.15;   // between the measured time's first and last third
constexpr std::size_t samples_min = 10;

std::vector<double> column(const std::vector<Sample>& samples, double Sample::* field) {
    std::vector<double> values;
    for (const Sample& sample : samples) {
        if (sample.measured) values.push_back(sample.*field);
    }
    return values;
}

double percent(double share) {
    return std::round(100 * share);
}

} // namespace

std::vector<std::string> doubts(const RunResult& result, const Evidence& evidence) {
    std::vector<std::string> all;
    const std::vector<double> accepted = column(result.samples, &Sample::accepted_per_s);
    const auto mean = [&](double Sample::* field) {
        return estimate(column(result.samples, field)).mean;
    };
    if (evidence.interrupted) all.emplace_back("it was interrupted");
    if (accepted.size() < samples_min)
        all.push_back("only " + std::to_string(accepted.size()) +
                      " seconds were measured; measure 10 or more");
    if (const double share = mean(&Sample::source_cpu); share > cpu_bound)
        all.push_back("the source was short of CPU (" + shown(percent(share)) +
                      " % of a core): more threads in [[source]], or another machine");
    if (const double share = mean(&Sample::sink_cpu); share > cpu_bound)
        all.push_back("the sink was short of CPU (" + shown(percent(share)) +
                      " % of a core): more threads in [[sink]], or another machine");
    if (std::abs(evidence.clock_step_s) > clock_step_max_s)
        all.push_back("the clock stepped by " + shown(evidence.clock_step_s) +
                      " s: stop whatever sets it during a run");
    const double p99_ms = result.latency_ms(0.99);
    if (evidence.wake_lateness_p99_ms > std::max(lateness_max_ms, p99_ms / 5))
        all.push_back("the source itself was late (p99 " + shown(evidence.wake_lateness_p99_ms) +
                      " ms): its core was not its own");
    if (evidence.listen_drops != 0)
        all.push_back("the kernel dropped " + shown(static_cast<double>(evidence.listen_drops)) +
                      " connections at full listen queues");
    if (evidence.port_drops != 0)
        all.push_back("the bench's own port dropped " +
                      shown(static_cast<double>(evidence.port_drops)) + " frames");
    if (accepted.size() >= samples_min) {
        const std::size_t third = accepted.size() / 3;
        const double first = estimate(std::span(accepted).first(third)).mean;
        const double last = estimate(std::span(accepted).last(third)).mean;
        const Estimate whole = estimate_in_batches(accepted);
        if (std::abs(last - first) > drift_max * whole.mean &&
            std::abs(last - first) > 2 * whole.half_width)
            all.push_back("the rate was still moving (" + shown(first) + "/s at first, " +
                          shown(last) + "/s at last): warm up or measure for longer");
    }
    const auto refused = static_cast<double>(result.transient + result.permanent);
    if (const double share = result.sent == 0 ? 0 : refused / static_cast<double>(result.sent);
        share > refused_max)
        all.push_back("the relay turned away " + shown(percent(share)) + " % of what was sent (" +
                      (result.last_error.empty() ? "no reason given" : result.last_error) +
                      "): a relay that takes in more than it hands on fills up; set a rate below "
                      "that, or let it open more connections to the sink");
    const auto cpus = static_cast<double>(evidence.cpus);
    if (const double share = mean(&Sample::others_cpu) / cpus; share > others_max)
        all.push_back("other processes took " + shown(percent(share)) +
                      " % of the machine's CPU: stop them");
    if (evidence.stolen_share > stolen_max)
        all.push_back("the hypervisor took " + shown(percent(evidence.stolen_share)) +
                      " % of the CPU time");
    if (!evidence.not_durable.empty())
        all.push_back("the disk is not durable: " + evidence.not_durable);
    if (evidence.other_runs != 0)
        all.push_back("the relay was still delivering an earlier run's mail (" +
                      shown(static_cast<double>(evidence.other_runs)) +
                      " recipients): let its queue drain first");
    if (evidence.pending != 0)
        all.push_back(
            shown(static_cast<double>(evidence.pending)) +
            " deliveries had not come when the drain time was over: lost, or still queued; "
            "give a longer drain to know");
    return all;
}

} // namespace dataplane::loadgen
