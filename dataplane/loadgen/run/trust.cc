#include "dataplane/loadgen/run/trust.h"

#include "dataplane/loadgen/run/statistics.h"

#include <algorithm>
#include <cmath>

namespace dataplane::loadgen {
namespace {

constexpr double cpu_bound = 0.9; // of a core: a loop that is busier has no time to be punctual
constexpr double clock_step_max_s = 0.1;
constexpr double wait_max = 0.1; // of the time: waiting for a core that somebody else has
// Or a fifth of the p99 it is part of. The loop's timers go by ticks of 1 ms and are never early, so that
// up to a tick is the tool's even where nothing disturbs it.
constexpr double lateness_max_ms = 2;
constexpr double others_max = 0.1; // of all cores
constexpr double stolen_max = 0.02;
constexpr double refused_max = 0.01; // of the messages sent
constexpr double drift_max = 0.15;   // between the measured time's first and last third
constexpr double latency_drift_max = 0.5;
constexpr double backlog_growth_max = 0.02; // of the recipients that were accepted
constexpr double seconds_min = 9.9;
constexpr double warm_up_min_s = 1;
constexpr std::size_t samples_min = 9; // for thirds that mean something

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

struct Thirds {
    double first = 0, last = 0;
    bool moved = false; // by more than `least` of the mean, and by more than the noise
};

Thirds thirds_of(std::vector<double> values, double least) {
    std::erase_if(values, [](double value) { return std::isnan(value); });
    if (values.size() < samples_min) return {};
    const std::size_t third = values.size() / 3;
    Thirds thirds{.first = estimate(std::span(values).first(third)).mean,
                  .last = estimate(std::span(values).last(third)).mean};
    const Estimate whole = estimate_in_batches(values);
    const double moved = std::abs(thirds.last - thirds.first);
    thirds.moved = moved > least * whole.mean && moved > 2 * whole.half_width;
    return thirds;
}

/// A thread that gets all it wants uses that; one that does not waits as well.
std::string short_of_cpu(const std::string& who, double used, double waited) {
    if (used + waited <= cpu_bound && waited <= wait_max) return {};
    return "the " + who + " was short of CPU (" + shown(percent(used)) + " % of a core" +
           (waited > 0.01 ? ", and waited for one " + shown(percent(waited)) + " % of the time"
                          : "") +
           "): more threads in [[" + who + "]], cores of its own, or another machine";
}

/// Whether rate, latency and backlog had settled.
void doubt_steadiness(const RunResult& result, std::vector<std::string>& all) {
    const Thirds rate = thirds_of(column(result.samples, &Sample::accepted_per_s), drift_max);
    if (rate.moved)
        all.push_back("the rate was still moving (" + shown(rate.first) + "/s at first, " +
                      shown(rate.last) + "/s at last): warm up or measure for longer");
    const Thirds latency = thirds_of(column(result.samples, &Sample::p50_ms), latency_drift_max);
    if (latency.moved && latency.last > latency.first)
        all.push_back("the latency was still rising (p50 " + shown(latency.first) +
                      " ms at first, " + shown(latency.last) +
                      " ms at last): what is offered is more than the relay sustains, or the "
                      "warm-up was too short");
    const Thirds backlog = thirds_of(column(result.samples, &Sample::backlog), 0);
    // Between the middles of the two thirds lie two thirds of the time.
    const double growth = backlog.last - backlog.first;
    const double accepted =
        static_cast<double>(std::max(result.recipients, result.accepted)) * 2 / 3;
    if (backlog.moved && growth > backlog_growth_max * accepted)
        all.push_back("the backlog was still growing (" + shown(backlog.first) +
                      " recipients at first, " + shown(backlog.last) +
                      " at last): the relay accepts faster than it hands on, and no rate that "
                      "fills a queue can be kept up");
}

} // namespace

std::vector<std::string> doubts(const RunResult& result, const Evidence& evidence) {
    std::vector<std::string> all;
    const auto mean = [&](double Sample::* field) {
        return estimate(column(result.samples, field)).mean;
    };
    if (evidence.interrupted) all.emplace_back("it was interrupted");
    if (result.seconds < seconds_min)
        all.push_back("only " + shown(std::round(10 * result.seconds) / 10) +
                      " seconds were measured; measure 10 or more");
    if (evidence.warm_up_s < warm_up_min_s)
        all.emplace_back("there was no warm-up of a second or more: connections, caches and queues "
                         "were still being filled");
    if (!evidence.busy_poll) {
        for (const std::string& doubt :
             {short_of_cpu("source", mean(&Sample::source_cpu), mean(&Sample::source_wait)),
              short_of_cpu("sink", mean(&Sample::sink_cpu), mean(&Sample::sink_wait))}) {
            if (!doubt.empty()) all.push_back(doubt);
        }
    }
    if (std::abs(evidence.clock_step_s) > clock_step_max_s)
        all.push_back("the clock stepped by " + shown(evidence.clock_step_s) +
                      " s: stop whatever sets it during a run");
    const double p99_ms = result.latency_ms(0.99);
    if (evidence.wake_lateness_p99_ms > std::max(lateness_max_ms, p99_ms / 5))
        all.push_back("the source itself was late (p99 " + shown(evidence.wake_lateness_p99_ms) +
                      " ms): its core was not its own");
    if (evidence.listen_drops != 0)
        all.push_back("the kernel dropped " + shown(static_cast<double>(evidence.listen_drops)) +
                      " connections at full listen queues (of all programs here, the relay too "
                      "where it runs on this machine)");
    if (evidence.port_drops != 0)
        all.push_back("the bench's own port dropped " +
                      shown(static_cast<double>(evidence.port_drops)) + " frames");
    doubt_steadiness(result, all);
    const auto refused = static_cast<double>(result.transient + result.permanent);
    if (const double share = result.sent == 0 ? 0 : refused / static_cast<double>(result.sent);
        share > refused_max)
        all.push_back("the relay turned away " + shown(percent(share)) + " % of what was sent (" +
                      (result.last_error.empty() ? "no reason given" : result.last_error) +
                      "): a relay that takes in more than it hands on fills up; set a rate below "
                      "that, or let it open more connections to the sink");
    if (const double share = result.sent == 0 ? 0
                                              : static_cast<double>(result.unknown) /
                                                    static_cast<double>(result.sent);
        share > refused_max)
        all.push_back("of " + shown(percent(share)) +
                      " % of the messages nobody knows the fate: the answer did not come (" +
                      (result.last_error.empty() ? "no reason given" : result.last_error) + ")");
    const auto let_in = static_cast<double>(result.recipients + result.recipients_refused);
    if (const double share =
            let_in == 0 ? 0 : static_cast<double>(result.recipients_refused) / let_in;
        share > refused_max)
        all.push_back("the relay refused " + shown(percent(share)) +
                      " % of the recipients of messages that it accepted");
    if (!result.capacity.full_run.empty())
        all.push_back("the run in full at the rate that was found did not keep to the bounds (" +
                      result.capacity.full_run +
                      "): the capacity is lower, or moves; longer trials find it");
    if (evidence.dkim && result.sink_messages != 0) {
        const auto share =
            static_cast<double>(result.signed_messages) / static_cast<double>(result.sink_messages);
        if (*evidence.dkim ? share < 0.99 : share > 0.01)
            all.push_back(std::string("[relay] dkim says that the relay ") +
                          (*evidence.dkim ? "signs" : "does not sign") + ", but " +
                          shown(percent(share)) + " % of what came bore a signature");
    }
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
    if (result.audit.put_off.count != 0)
        all.push_back(
            shown(static_cast<double>(result.audit.put_off.count)) +
            " deliveries that the sink itself had put off did not come again in the drain "
            "time: a drain longer than the relay's retry interval tells whether they are "
            "lost");
    return all;
}

std::vector<std::string> unchecked(const RunResult& result, const Evidence& evidence) {
    std::vector<std::string> all;
    if (!evidence.spool_told)
        all.emplace_back("whether the relay's disk is durable: no spool was told ([relay] spool)");
    if (!result.relay.known)
        all.emplace_back("the relay's CPU and memory, and whether other processes took CPU: its "
                         "processes were not told ([relay] process or pids)");
    if (!evidence.sink) all.emplace_back("whether anything was delivered: there is no [[sink]]");
    if (!evidence.waits_told)
        all.emplace_back("how long source and sink waited for a core: this kernel does not say");
    return all;
}

} // namespace dataplane::loadgen
