#include "dataplane/loadgen/run/runner.h"

#include "dataplane/loadgen/run/machine.h"
#include "dataplane/loadgen/run/plan.h"
#include "dataplane/loadgen/run/probe.h"
#include "dataplane/loadgen/run/processes.h"
#include "dataplane/loadgen/run/stretch.h"
#include "dataplane/loadgen/run/trust.h"
#include "dataplane/loadgen/run/worker.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <limits>
#include <netinet/in.h>
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
constexpr auto other_drain = 5s;      // between two trials, at least
constexpr auto ask_every = 250ms;     // the ledgers, while they are waited for

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
        : orders_(orders), profile_(orders.profile), began_(Steady::now()),
          relay_meter_(profile_.relay.pids,
                       profile_.relay.pids.empty() ? profile_.relay.process : ""),
          ledger_(profile_.audit) {}

    RunResult run();

private:
    void start_workers();
    /// \param counted  the phase's name when its samples count for the result; null for a trial
    Stretch drive(double rate_per_s, Steady::duration warm_up, Steady::duration duration,
                  const char* counted = nullptr);
    /// Looks and sleeps until `until`, or until `done` says so.
    template <class Done>
    void watch(Steady::time_point until, Done done);
    /// Returns whether all that was accepted had arrived before the limit. What the sink itself put off is
    /// waited for as well, unless `put_off_too` is false.
    bool drain(Steady::duration limit, bool put_off_too = true);
    void search();
    void sample();
    void report(const Sample& one) const;
    [[nodiscard]] Totals totals() const;
    [[nodiscard]] double profile_rate() const;
    /// Throws when the profile names a process that is not there.
    void find_relay() const;
    [[nodiscard]] std::vector<NamedValue> rooms_now() const;
    void note_use(std::vector<ThreadUse>& lines, const std::vector<NamedValue>& spent,
                  double span) const;
    /// What all ledgers say by now: exact, but it sorts everything.
    [[nodiscard]] Audit audit_now();
    void fill(const Stretch& stretch, double rate_per_s);
    void judge(const Stretch& stretch);

    const RunOrders& orders_;
    const Profile& profile_;
    Steady::time_point began_;
    std::vector<std::unique_ptr<Worker>> workers_;
    ProcessMeter relay_meter_;
    Auditor ledger_; // what was taken from the workers so far
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
    std::vector<double> worker_cpu_, worker_wait_;
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
    for (WorkerPlan& plan : plan_workers(profile_, run_)) {
        if (plan.source && !plan.source->password.empty())
            plan.source->password = read_password(plan.source->password);
        workers_.push_back(std::make_unique<Worker>(std::move(plan)));
    }
    for (const auto& worker : workers_)
        worker->start();
    worker_cpu_.resize(workers_.size());
    worker_wait_.resize(workers_.size());
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

void Runner::find_relay() const {
    if (!profile_.relay.pids.empty() || profile_.relay.process.empty()) return;
    if (processes_named(profile_.relay.process).empty())
        throw std::runtime_error("no process is named '" + profile_.relay.process +
                                 "'; start the relay, or drop process from [relay] when it runs "
                                 "on another machine");
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
        const auto waited = thread_wait_s(workers_[i]->thread());
        if (!waited) evidence_.waits_told = false;
        const double wait = (waited.value_or(0) - worker_wait_[i]) / span;
        worker_wait_[i] = waited.value_or(0);
        if (workers_[i]->plan().source) {
            one.source_cpu = std::max(one.source_cpu, share);
            one.source_wait = std::max(one.source_wait, wait);
        }
        if (workers_[i]->plan().sink) {
            one.sink_cpu = std::max(one.sink_cpu, share);
            one.sink_wait = std::max(one.sink_wait, wait);
        }
        add(current, its);
    }
    const SourceTally fresh = since(current.source, sampled_.source);
    one.offered_per_s = current.sending ? rate_now_ : 0;
    one.accepted_per_s = static_cast<double>(fresh.accepted) / span;
    one.failed_per_s = difference(current.failed(), sampled_.failed()) / span;
    one.delivered_per_s = difference(current.sink.unique, sampled_.sink.unique) / span;
    const bool any = fresh.accept_latency_ns.count() != 0;
    const double none = std::numeric_limits<double>::quiet_NaN();
    one.p50_ms = any ? to_ms(fresh.accept_latency_ns.percentile(0.5)) : none;
    one.p99_ms = any ? to_ms(fresh.accept_latency_ns.percentile(0.99)) : none;
    one.max_ms = any ? to_ms(fresh.accept_latency_ns.max()) : none;
    if (!profile_.sinks.empty()) one.backlog = static_cast<double>(current.backlog());

    const ProcessUse relay = relay_meter_.look();
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
    line += "  accepted " + shown(one.accepted_per_s) + "/s";
    if (!std::isnan(one.p50_ms))
        line += "  p50 " + shown(one.p50_ms) + " p99 " + shown(one.p99_ms) + " ms";
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
        // Looks are that far apart: a sample that waited for the next would make each second longer.
        if (now - sampled_at_ >= sample_every - look_every / 2) sample();
        if (now >= until) return;
        std::this_thread::sleep_for(std::min<Steady::duration>(look_every, until - now));
    }
}

Stretch Runner::drive(double rate_per_s, Steady::duration warm_up, Steady::duration duration,
                      const char* counted) {
    Stretch stretch{.rate_per_s = rate_per_s, .start = totals()};
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
    stretch.relay_base = relay_meter_.look();
    stretch.rooms_base = rooms_now();
    stretch.began = Steady::now();
    stretch.began_at_s =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    if (!stop_) watch(stretch.began + duration, never);
    stretch.seconds = seconds(Steady::now() - stretch.began);
    stretch.end = totals();
    stretch.relay_end = relay_meter_.look();
    stretch.rooms_end = rooms_now();
    // The last second is one too, though nobody looked at its very end.
    if (Steady::now() - sampled_at_ > sample_every / 2) sample();
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

Audit Runner::audit_now() {
    for (const auto& worker : workers_)
        ledger_.take_over(worker->take_ledger());
    return ledger_.finish();
}

// Counts cannot tell when all is there: mail of unknown fate arrives too, and a copy at each of two sink
// threads is counted twice. So the ledgers are asked, not oftener than their sorting allows.
bool Runner::drain(Steady::duration limit, bool put_off_too) {
    if (profile_.sinks.empty()) return false;
    phase_ = "draining";
    measuring_ = false;
    const bool was_stopped = std::exchange(stop_, false);
    Steady::time_point next = Steady::now();
    std::uint64_t waited_for = 1;
    const auto ask = [&] {
        const Steady::time_point began = Steady::now();
        const Audit audit = audit_now();
        waited_for = put_off_too ? audit.outstanding() : audit.lost.count;
        next = Steady::now() + std::max<Steady::duration>(ask_every, 5 * (Steady::now() - began));
    };
    watch(Steady::now() + limit, [&] {
        if (Steady::now() >= next) ask();
        return waited_for == 0;
    });
    if (waited_for != 0) ask();
    stop_ = stop_ || was_stopped;
    return waited_for == 0;
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
        const TrialFacts facts = facts_of(stretch);
        finding.record(facts);
        const Trial& last = finding.trials().back();
        if (!orders_.quiet)
            std::fprintf(stderr, "trial %zu, repeat %u: %s/s %s%s\n", finding.trials().size(),
                         last.repeat + 1, shown(*rate).c_str(),
                         last.passed ? "kept to the bounds" : "failed: ", last.why_not.c_str());
        // What a trial left behind must not fall to the next one; what the sink put off comes when it comes.
        drain(std::max<Steady::duration>(profile_.drain, other_drain), false);
        if (stop_) break;
    }
    const Estimate sure = finding.confidence();
    result_.capacity = {.searched = true,
                        .knee = finding.knee(),
                        .half_width = sure.half_width,
                        .knees = finding.knees(),
                        .caveat = finding.caveat(),
                        .trials = finding.trials()};
    result_.capacity.bounds =
        "p99 from due to 250 within " + shown(static_cast<double>(options.p99_max.count()) / 1000) +
        " ms, " +
        (options.watch_backlog
             ? "backlog growing by no more than " + shown(options.backlog_max_s) + " s of the rate"
             : "backlog not watched for want of a sink") +
        ", " + shown(100 * options.accepted_share_min) + " % accepted, none refused, " +
        shown(std::chrono::duration<double>(options.trial).count()) + " s a trial";
}

void Runner::fill(const Stretch& stretch, double rate_per_s) {
    const SourceTally fresh = since(stretch.final.source, stretch.base.source);
    const SourceTally within = since(stretch.end.source, stretch.base.source);
    RunResult& result = result_;
    result.seconds = stretch.seconds;
    result.rate_per_s = rate_per_s;
    result.measured_from = stretch.began_at_s;
    result.targets = within.targets;
    result.recipients = within.recipients;
    result.recipients_refused = within.recipients_refused;
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
    result_.sink_messages = last.sink.messages;
    result_.signed_messages = last.sink.signed_messages;
    if (result_.relay_greeting.empty()) result_.relay_greeting = last.source.greeting;
    evidence_.warm_up_s = std::chrono::duration<double>(profile_.warm_up).count();
    evidence_.other_runs = last.sink.other_runs;
    evidence_.port_drops = last.port_drops - stretch.start.port_drops;
    evidence_.sink = !profile_.sinks.empty();
    evidence_.spool_told = !profile_.relay.spool_folder.empty();
    evidence_.busy_poll = profile_.dpdk && profile_.net.busy_poll;
    evidence_.dkim = profile_.relay.dkim;
    evidence_.cpus = cpu_count();
    if (!profile_.relay.spool_folder.empty())
        evidence_.not_durable = why_not_durable(profile_.relay.spool_folder);
    if (stretch.final.source.accepted == 0 && !last.source.last_error.empty())
        result_.last_error = last.source.last_error;

    for (const auto& worker : workers_)
        ledger_.take_over(worker->finish());
    if (!profile_.sinks.empty()) result_.audit = ledger_.finish();
    evidence_.pending = result_.audit.lost.count;
    result_.doubts = doubts(result_, evidence_);
    result_.unchecked = unchecked(result_, evidence_);
    for (std::string& wish : idle_wishes(profile_))
        result_.unchecked.push_back(std::move(wish));
}

RunResult Runner::run() {
    catch_signals();
    raise_descriptor_limit();
    find_relay();
    result_.profile = printable(profile_.name);
    result_.profile_text = profile_.text;
    result_.command = printable(orders_.command);
    result_.setup = setup_of(profile_);
    result_.began = utc_now();
    result_.machine = inventory(profile_.relay.spool_folder);
    result_.machine.emplace_back("transport of the bench",
                                 profile_.dpdk ? "our own TCP/IP on " + profile_.net.device
                                               : "kernel sockets");
    for (auto& [name, version] : library_versions())
        result_.machine.emplace_back(name, version);
    if (!profile_.relay.note.empty())
        result_.machine.emplace_back("relay's set-up", profile_.relay.note);
    start_workers();
    if (!profile_.dpdk)
        result_.relay_greeting = greeting_of(profile_.sources.front().options.targets.front());

    began_ = sampled_at_ = Steady::now();
    machine_ = machine_use();
    relay_ = relay_meter_.look();
    for (const base::SocketAddress& relay : profile_.relay.metrics) {
        if (rooms_in(metrics_of(relay)).empty())
            throw std::runtime_error("http://" + relay.to_string() +
                                     "/metrics tells no CPU by room; leave --relay-metrics out");
    }
    rooms_ = rooms_now();
    own_cpu_ = own_cpu_s();
    clock_gap_ = clock_gap();
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
    const MachineUse machine_base =
        machine_use(); // what a search did to the machine is not the run's
    const Stretch stretch = drive(rate, profile_.warm_up, profile_.duration, "measuring");
    fill(stretch, rate);
    if (orders_.find_capacity)
        result_.capacity.full_run = loadgen::judge(facts_of(stretch), profile_.capacity);
    if (drain(profile_.drain) && last_arrival_ > stretch.began) {
        result_.settled_s = seconds(last_arrival_ - stretch.began);
        result_.settled = totals().sink.unique - stretch.base.sink.unique;
        if (result_.relay.known)
            result_.relay.settled_cpu_s = relay_meter_.look().cpu_s - stretch.relay_base.cpu_s;
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
