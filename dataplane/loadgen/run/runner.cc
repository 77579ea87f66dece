#include "dataplane/loadgen/run/runner.h"

#include "dataplane/loadgen/run/machine.h"
#include "dataplane/loadgen/run/probe.h"
#include "dataplane/loadgen/run/trust.h"
#include "dataplane/loadgen/run/worker.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <stdexcept>
#include <unistd.h>

namespace dataplane::loadgen {
namespace {

using Steady = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto look_every = 50ms;
constexpr auto sample_every = 1s;
constexpr auto finish_grace = 5s;     // beyond a source's limit for replies
constexpr double warm_up_share = 0.2; // of a capacity trial, before what counts
constexpr double other_drain_s = 5;   // between two trials, at least

double seconds(Steady::duration time) {
    return std::chrono::duration<double>(time).count();
}
double to_ms(std::uint64_t nanoseconds) {
    return static_cast<double>(nanoseconds) / 1e6;
}
double difference(std::uint64_t now, std::uint64_t earlier) {
    return static_cast<double>(now) - static_cast<double>(earlier);
}

std::string utc_now() {
    const std::time_t now = std::time(nullptr);
    std::tm parts{};
    gmtime_r(&now, &parts);
    std::array<char, 32> text{};
    std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
    return text.data();
}

/// What was spent between two looks.
std::vector<NamedValue> since(const std::vector<NamedValue>& now,
                              const std::vector<NamedValue>& earlier) {
    std::vector<NamedValue> spent = now;
    for (NamedValue& value : spent) {
        for (const NamedValue& before : earlier)
            value.value -= before.name == value.name ? before.value : 0;
        value.value = std::max(0.0, value.value);
    }
    return spent;
}

std::string read_password(const std::string& file) {
    std::ifstream in(file);
    std::string password;
    if (!std::getline(in, password))
        throw std::runtime_error("cannot read a password from " + file);
    return password;
}

class Runner {
public:
    explicit Runner(const RunOrders& orders)
        : orders_(orders), profile_(orders.profile), began_(Steady::now()) {}

    RunResult run();

private:
    struct Stretch { // what drive() has seen
        double seconds = 0;
        Steady::time_point began; // the measuring
        Totals base;              // when the warm-up was over
        Totals end;               // when the sources were told to stop
        Totals final;             // when they had
        ProcessUse relay_base, relay_end;
        std::vector<NamedValue> rooms_base, rooms_end;
    };

    void start_workers();
    /// \param counted  the phase's name when its samples count for the result; null for a trial
    Stretch drive(double rate_per_s, Steady::duration warm_up, Steady::duration duration,
                  const char* counted = nullptr);
    /// Looks and sleeps until `until`, or until `done` says so.
    template <class Done>
    void watch(Steady::time_point until, Done done);
    /// Returns whether all that was accepted had arrived before the limit.
    bool drain(Steady::duration limit);
    void search();
    void sample();
    void report(const Sample& one) const;
    [[nodiscard]] Totals totals() const;
    [[nodiscard]] double profile_rate() const;
    [[nodiscard]] std::vector<int> relay_pids() const;
    [[nodiscard]] std::vector<NamedValue> rooms_now() const;
    void note_use(std::vector<ThreadUse>& lines, const std::vector<NamedValue>& spent,
                  double span) const;
    void fill(const Stretch& stretch, double rate_per_s);
    void judge(const Stretch& stretch);

    const RunOrders& orders_;
    const Profile& profile_;
    Steady::time_point began_;
    std::vector<std::unique_ptr<Worker>> workers_;
    std::vector<int> pids_;
    // Every source's run begins with this, and no other time's does.
    const std::string run_ =
        "run-" + std::to_string(std::time(nullptr)) + "-" + std::to_string(getpid()) + "-";
    RunResult result_;
    Evidence evidence_;
    std::string phase_ = "warming up";
    bool measuring_ = false;
    bool stop_ = false;
    double rate_now_ = 0;
    std::uint64_t arrived_ = 0; // recipients, at the last look
    Steady::time_point last_arrival_;
    // As of the last sample.
    Steady::time_point sampled_at_;
    Totals sampled_;
    std::vector<double> worker_cpu_;
    MachineUse machine_;
    ProcessUse relay_;
    std::vector<NamedValue> rooms_;
    double own_cpu_ = 0;
    double clock_gap_ = 0; // wall clock less steady clock
};

double clock_gap() {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
               .count() -
           seconds(Steady::now().time_since_epoch());
}

void Runner::start_workers() {
    const Profile& profile = profile_;
    const auto cpu_of = [](const std::vector<int>& cpus, unsigned number) {
        return cpus.empty() ? -1 : cpus[number % cpus.size()];
    };
    for (const SinkSection& section : profile.sinks) {
        for (unsigned i = 0; i < section.threads; ++i) {
            WorkerPlan plan{
                .sink = section.options, .starttls = section.starttls, .net = profile.net};
            plan.sink->seed += i;
            plan.sink->run_prefix = run_;
            plan.cpu = cpu_of(section.cpus, i);
            workers_.push_back(std::make_unique<Worker>(std::move(plan)));
        }
    }
    unsigned number = 0;
    for (const SourceSection& section : profile.sources) {
        for (unsigned i = 0; i < section.threads; ++i) {
            WorkerPlan plan{
                .source = section.options, .pattern = profile.pattern, .net = profile.net};
            if (!section.options.password.empty())
                plan.source->password = read_password(section.options.password);
            plan.source->connections = section.options.connections / section.threads +
                                       (i < section.options.connections % section.threads ? 1 : 0);
            plan.source->rate_per_s /= section.threads;
            plan.pattern.run = run_ + std::to_string(number);
            plan.pattern.seed += number;
            // Addresses differ between sources too: a refusal is known by its recipient alone.
            plan.pattern.recipient = "s" + std::to_string(number++) + "." + plan.pattern.recipient;
            if (profile.dpdk) plan.hostile = profile.hostile;
            plan.cpu = cpu_of(section.cpus, i);
            if (profile.dpdk && !workers_.empty()) { // one device, one thread
                const WorkerPlan& sink = workers_.front()->plan();
                plan.sink = sink.sink;
                plan.starttls = sink.starttls;
                workers_.clear();
            }
            workers_.push_back(std::make_unique<Worker>(std::move(plan)));
        }
    }
    // On a thread of their own: what they do must not make the source late.
    if (profile.hostile.any() && !profile.dpdk)
        workers_.push_back(
            std::make_unique<Worker>(WorkerPlan{.hostile = profile.hostile, .net = profile.net}));
    for (const auto& worker : workers_)
        worker->start();
    worker_cpu_.resize(workers_.size());
}

Totals Runner::totals() const {
    Totals sum;
    for (const auto& worker : workers_)
        add(sum, worker->totals());
    return sum;
}

double Runner::profile_rate() const {
    double rate = 0;
    for (const SourceSection& source : profile_.sources)
        rate += source.options.rate_per_s;
    return rate;
}

std::vector<int> Runner::relay_pids() const {
    if (!profile_.relay.pids.empty() || profile_.relay.process.empty()) return profile_.relay.pids;
    std::vector<int> found = processes_named(profile_.relay.process);
    if (found.empty())
        throw std::runtime_error("no process is named '" + profile_.relay.process +
                                 "'; start the relay, or drop process from [relay] when it runs "
                                 "on another machine");
    return found;
}

/// A relay that has stopped answering is told by its mail, not by this.
std::vector<NamedValue> Runner::rooms_now() const try {
    std::vector<NamedValue> sum;
    for (const base::SocketAddress& relay : profile_.relay.metrics) {
        for (NamedValue& room : rooms_in(metrics_of(relay))) {
            const auto known = std::ranges::find(sum, room.name, &NamedValue::name);
            if (known == sum.end()) {
                sum.push_back(std::move(room));
            } else {
                known->value += room.value;
            }
        }
    }
    return sum;
} catch (const std::runtime_error&) {
    return rooms_;
}

/// Adds a point to each line, before the sample that it belongs to is kept.
void Runner::note_use(std::vector<ThreadUse>& lines, const std::vector<NamedValue>& spent,
                      double span) const {
    for (const NamedValue& one : spent) {
        auto line = std::find_if(lines.begin(), lines.end(),
                                 [&](const ThreadUse& known) { return known.name == one.name; });
        if (line == lines.end()) line = lines.insert(lines.end(), {.name = one.name});
        line->cores.resize(result_.samples.size()); // nothing until now, when it is new
        line->cores.push_back(one.value / span);
    }
}

void Runner::sample() {
    const Steady::time_point now = Steady::now();
    const double span = seconds(now - sampled_at_);
    Totals current;
    Sample one{.at_s = seconds(now - began_), .measured = measuring_};
    for (std::size_t i = 0; i < workers_.size(); ++i) {
        const Totals its = workers_[i]->totals();
        const double share = (its.cpu_s - worker_cpu_[i]) / span;
        worker_cpu_[i] = its.cpu_s;
        if (workers_[i]->plan().source) one.source_cpu = std::max(one.source_cpu, share);
        if (workers_[i]->plan().sink) one.sink_cpu = std::max(one.sink_cpu, share);
        add(current, its);
    }
    const SourceTally fresh = since(current.source, sampled_.source);
    one.offered_per_s = current.sending ? rate_now_ : 0;
    one.accepted_per_s = static_cast<double>(fresh.accepted) / span;
    one.failed_per_s = difference(current.failed(), sampled_.failed()) / span;
    one.delivered_per_s = difference(current.sink.unique, sampled_.sink.unique) / span;
    one.p50_ms = to_ms(fresh.accept_latency_ns.percentile(0.5));
    one.p99_ms = to_ms(fresh.accept_latency_ns.percentile(0.99));
    one.max_ms = to_ms(fresh.accept_latency_ns.max());
    if (!profile_.sinks.empty()) one.backlog = static_cast<double>(current.backlog());

    const ProcessUse relay = process_use(pids_);
    const MachineUse machine = machine_use();
    const double own = own_cpu_s();
    note_use(result_.relay.over_time, since(relay.threads, relay_.threads), span);
    std::vector<NamedValue> rooms = rooms_now();
    note_use(result_.rooms_over_time, since(rooms, rooms_), span);
    if (relay.alive) {
        one.relay_cpu = std::max(0.0, (relay.cpu_s - relay_.cpu_s) / span);
        one.relay_mb = relay.memory_mb;
        result_.relay.memory_max_mb = std::max(result_.relay.memory_max_mb, relay.memory_mb);
    }
    // Without the relay's pids its own use would count as others': then nothing is said of them.
    if (relay.alive)
        one.others_cpu = std::clamp(
            (machine.busy_s - machine_.busy_s - (own - own_cpu_) - (relay.cpu_s - relay_.cpu_s)) /
                span,
            0.0, static_cast<double>(cpu_count()));
    const double gap = clock_gap();
    if (std::abs(gap - clock_gap_) > std::abs(evidence_.clock_step_s))
        evidence_.clock_step_s = gap - clock_gap_;
    clock_gap_ = gap;
    sampled_at_ = now;
    sampled_ = std::move(current);
    machine_ = machine;
    relay_ = relay;
    rooms_ = std::move(rooms);
    own_cpu_ = own;
    result_.samples.push_back(one);
    if (!orders_.quiet) report(one);
}

void Runner::report(const Sample& one) const {
    std::string line = shown(one.at_s) + " s  " + phase_;
    if (one.offered_per_s > 0) line += "  due " + shown(one.offered_per_s) + "/s";
    line += "  accepted " + shown(one.accepted_per_s) + "/s  p50 " + shown(one.p50_ms) + " p99 " +
            shown(one.p99_ms) + " ms";
    if (!profile_.sinks.empty())
        line += "  delivered " + shown(one.delivered_per_s) + "/s  backlog " + shown(one.backlog);
    line += "  failed " + shown(one.failed_per_s) + "/s";
    if (one.relay_mb > 0)
        line += "  relay " + shown(one.relay_cpu) + " cores " + shown(one.relay_mb) + " MB";
    if (!sampled_.source.last_error.empty() && one.failed_per_s > 0)
        line += "  last: " + sampled_.source.last_error;
    std::fprintf(stderr, "%s\n", line.c_str());
}

template <class Done>
void Runner::watch(Steady::time_point until, Done done) {
    while (!done()) {
        const Steady::time_point now = Steady::now();
        if (const std::uint64_t all = totals().sink.unique; all != arrived_) {
            arrived_ = all;
            last_arrival_ = now;
        }
        if (take_signals().stop) {
            if (!evidence_.interrupted && !orders_.quiet)
                std::fputs("interrupted: waiting for the answers that are due and for what was "
                           "accepted; interrupt again to wait no longer\n",
                           stderr);
            evidence_.interrupted = stop_ = true;
            return;
        }
        if (now - sampled_at_ >= sample_every) sample();
        if (now >= until) return;
        std::this_thread::sleep_for(std::min<Steady::duration>(look_every, until - now));
    }
}

Runner::Stretch Runner::drive(double rate_per_s, Steady::duration warm_up,
                              Steady::duration duration, const char* counted) {
    Stretch stretch;
    std::size_t sources = 0;
    for (const auto& worker : workers_)
        sources += worker->plan().source ? 1 : 0;
    const double whole = profile_rate();
    for (const auto& worker : workers_) {
        if (!worker->plan().source) {
            if (worker->plan().hostile.any()) worker->send(0);
            continue;
        }
        // As the profile shares it out, or evenly.
        const double share = whole > 0 ? worker->plan().source->rate_per_s / whole
                                       : 1.0 / static_cast<double>(sources);
        worker->send(rate_per_s * share);
    }
    rate_now_ = rate_per_s;
    const auto never = [] { return false; };
    watch(Steady::now() + warm_up, never);
    if (Steady::now() - sampled_at_ > sample_every / 5) sample(); // part warm-up, part not: no
    if (counted != nullptr) {
        phase_ = counted;
        measuring_ = true;
    }
    stretch.base = totals();
    stretch.relay_base = process_use(pids_);
    stretch.rooms_base = rooms_now();
    stretch.began = Steady::now();
    if (!stop_) watch(stretch.began + duration, never);
    stretch.seconds = seconds(Steady::now() - stretch.began);
    stretch.end = totals();
    stretch.relay_end = process_use(pids_);
    stretch.rooms_end = rooms_now();
    for (const auto& worker : workers_) {
        if (worker->plan().source) worker->stop_sending();
    }
    const bool was_stopped = std::exchange(stop_, false);
    Steady::duration limit = finish_grace;
    for (const SourceSection& source : profile_.sources)
        limit = std::max<Steady::duration>(limit, source.options.reply_limit + finish_grace);
    std::this_thread::sleep_for(look_every); // the order reaches the threads within a tick
    measuring_ = false;
    phase_ = "finishing";
    watch(Steady::now() + limit, [this] { return !totals().sending; });
    stop_ = stop_ || was_stopped;
    stretch.final = totals();
    return stretch;
}

bool Runner::drain(Steady::duration limit) {
    if (profile_.sinks.empty()) return false;
    phase_ = "draining";
    measuring_ = false;
    const bool was_stopped = std::exchange(stop_, false);
    watch(Steady::now() + limit, [this] { return totals().backlog() == 0; });
    stop_ = stop_ || was_stopped;
    return totals().backlog() == 0;
}

void Runner::search() {
    const CapacityOptions& options = profile_.capacity;
    CapacitySearch finding(options);
    const Steady::duration trial = options.trial;
    while (const auto rate = finding.next()) {
        phase_ = "trial at " + shown(*rate) + "/s";
        const auto warm_up = std::chrono::duration_cast<Steady::duration>(trial * warm_up_share);
        const Stretch stretch = drive(*rate, warm_up, trial);
        if (stop_) break;
        const SourceTally fresh = since(stretch.final.source, stretch.base.source);
        const double due = *rate * stretch.seconds;
        TrialFacts facts{.rate = *rate,
                         .seconds = stretch.seconds,
                         .due = static_cast<std::uint64_t>(due),
                         .accepted = std::min(fresh.accepted, static_cast<std::uint64_t>(due)),
                         .failed = stretch.final.failed() - stretch.base.failed()};
        facts.p99_us = static_cast<double>(fresh.accept_latency_ns.percentile(0.99)) / 1000;
        if (!profile_.sinks.empty()) facts.backlog = static_cast<double>(stretch.end.backlog());
        finding.record(facts);
        const Trial& last = finding.trials().back();
        if (!orders_.quiet)
            std::fprintf(stderr, "trial %zu, repeat %u: %s/s %s%s\n", finding.trials().size(),
                         last.repeat + 1, shown(*rate).c_str(),
                         last.passed ? "kept to the bounds" : "failed: ", last.why_not.c_str());
        // What a trial left behind must not fall to the next one.
        drain(std::max<Steady::duration>(profile_.drain,
                                         std::chrono::seconds(static_cast<int>(other_drain_s))));
        if (stop_) break;
    }
    const Estimate sure = finding.confidence();
    result_.capacity = {.searched = true,
                        .knee = finding.knee(),
                        .half_width = std::isfinite(sure.half_width) ? sure.half_width : 0,
                        .knees = finding.knees(),
                        .caveat = finding.caveat(),
                        .trials = finding.trials()};
    result_.capacity.bounds =
        "p99 from due to 250 within " + shown(static_cast<double>(options.p99_max.count()) / 1000) +
        " ms, backlog within " + shown(options.backlog_max_s) + " s of the rate, " +
        shown(100 * options.accepted_share_min) + " % accepted, none refused, " +
        std::to_string(options.trial.count()) + " s a trial";
}

void Runner::fill(const Stretch& stretch, double rate_per_s) {
    const SourceTally fresh = since(stretch.final.source, stretch.base.source);
    const SourceTally within = since(stretch.end.source, stretch.base.source);
    RunResult& result = result_;
    result.seconds = stretch.seconds;
    result.rate_per_s = rate_per_s;
    result.sent = fresh.sent;
    result.accepted = within.accepted; // what came after the end would flatter the rate
    result.transient = fresh.transient;
    result.permanent = fresh.permanent;
    result.unknown = fresh.unknown;
    result.due = static_cast<std::uint64_t>(rate_per_s * stretch.seconds);
    result.overdue = fresh.overdue;
    result.bytes = within.bytes;
    result.delivered = stretch.end.sink.unique - stretch.base.sink.unique;
    result.connections = fresh.connections_made;
    result.connections_broken = fresh.connections_broken;
    result.tls_connections = fresh.tls_connections;
    result.tls_resumed = fresh.tls_resumed;
    result.last_error = fresh.last_error;
    result.latency_ns = fresh.accept_latency_ns;
    evidence_.wake_lateness_p99_ms = to_ms(fresh.wake_lateness_ns.percentile(0.99));
    if (stretch.relay_base.alive && stretch.relay_end.alive) {
        result.relay.known = true;
        result.relay.cpu_s = stretch.relay_end.cpu_s - stretch.relay_base.cpu_s;
        result.relay.threads = since(stretch.relay_end.threads, stretch.relay_base.threads);
    }
    result.rooms = since(stretch.rooms_end, stretch.rooms_base);
}

void Runner::judge(const Stretch& stretch) {
    const Totals last = totals();
    result_.providers = last.sink.providers;
    for (std::size_t kind = 0; kind < mischief_count; ++kind) {
        const IntruderTally& tally = last.hostile[kind];
        if (profile_.hostile.connections[kind] == 0) continue;
        const std::string name(to_string(static_cast<Mischief>(kind)));
        result_.hostile.push_back({name + " connections", static_cast<double>(tally.connections)});
        result_.hostile.push_back({name + " ended by the relay", static_cast<double>(tally.ended)});
        result_.hostile.push_back({name + " not let in", static_cast<double>(tally.not_let_in)});
    }
    if (!profile_.sinks.empty()) evidence_.pending = last.backlog();
    evidence_.wanted_s = std::chrono::duration<double>(profile_.duration).count();
    evidence_.other_runs = last.sink.other_runs;
    evidence_.port_drops = last.port_drops;
    evidence_.cpus = cpu_count();
    if (!profile_.relay.spool_folder.empty())
        evidence_.not_durable = why_not_durable(profile_.relay.spool_folder);
    if (stretch.final.source.accepted == 0 && !last.source.last_error.empty())
        result_.last_error = last.source.last_error;

    Auditor whole(profile_.audit);
    for (const auto& worker : workers_)
        whole.take_over(worker->finish());
    if (!profile_.sinks.empty()) result_.audit = whole.finish();
    result_.doubts = doubts(result_, evidence_);
}

RunResult Runner::run() {
    catch_signals();
    raise_descriptor_limit();
    pids_ = relay_pids();
    result_.profile = profile_.name;
    result_.profile_text = profile_.text;
    result_.command = orders_.command;
    result_.began = utc_now();
    result_.machine = inventory(profile_.relay.spool_folder);
    result_.machine.emplace_back("transport of the bench",
                                 profile_.dpdk ? "our own TCP/IP on " + profile_.net.device
                                               : "kernel sockets");
    if (!profile_.relay.note.empty())
        result_.machine.emplace_back("relay's set-up", profile_.relay.note);
    start_workers();
    if (!profile_.dpdk)
        result_.relay_greeting = greeting_of(profile_.sources.front().options.targets.front());

    began_ = sampled_at_ = Steady::now();
    machine_ = machine_use();
    relay_ = process_use(pids_);
    for (const base::SocketAddress& relay : profile_.relay.metrics) {
        if (rooms_in(metrics_of(relay)).empty())
            throw std::runtime_error("http://" + relay.to_string() +
                                     "/metrics tells no CPU by room; leave --relay-metrics out");
    }
    rooms_ = rooms_now();
    own_cpu_ = own_cpu_s();
    clock_gap_ = clock_gap();
    const MachineUse machine_base = machine_;
    double rate = profile_rate();
    if (orders_.find_capacity) {
        search();
        rate = result_.capacity.knee; // the figures in full are of the knee
        if (rate <= 0 || stop_) {
            judge({});
            return std::move(result_);
        }
    }
    phase_ = "warming up";
    const Stretch stretch = drive(rate, profile_.warm_up, profile_.duration, "measuring");
    fill(stretch, rate);
    if (drain(profile_.drain) && last_arrival_ > stretch.began) {
        result_.settled_s = seconds(last_arrival_ - stretch.began);
        result_.settled = totals().sink.unique - stretch.base.sink.unique;
        watch(Steady::now() + 300ms, [] { return false; }); // for late copies
    }
    const MachineUse machine_end = machine_use();
    evidence_.listen_drops = machine_end.listen_drops - machine_base.listen_drops;
    if (machine_end.total_s > machine_base.total_s)
        evidence_.stolen_share = (machine_end.stolen_s - machine_base.stolen_s) /
                                 (machine_end.total_s - machine_base.total_s);
    judge(stretch);
    return std::move(result_);
}

} // namespace

RunResult run_profile(const RunOrders& orders) {
    Runner runner(orders);
    return runner.run();
}

} // namespace dataplane::loadgen
