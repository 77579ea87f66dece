#include "dataplane/loadgen/commands.h"

#include "dataplane/loadgen/audit.h"
#include "dataplane/loadgen/runtime.h"

#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>

namespace dataplane::loadgen {
namespace {

using Json = nlohmann::ordered_json;
using namespace std::chrono_literals;

constexpr std::chrono::milliseconds tick{20};
constexpr base::Duration progress_every = 1s;

double seconds(base::Duration time) {
    return std::chrono::duration<double>(time).count();
}
double per_second(std::uint64_t count, base::Duration time) {
    return time.count() > 0 ? static_cast<double>(count) / seconds(time) : 0.0;
}
double to_ms(std::uint64_t nanoseconds) {
    return static_cast<double>(nanoseconds) / 1e6;
}

unsigned long long print(std::uint64_t number) {
    return number;
} // for %llu

void write_json(const std::string& file, const Json& json) {
    if (file.empty()) return;
    std::ofstream out(file, std::ios::trunc);
    out << json.dump(2) << '\n';
    out.close();
    if (!out) throw std::runtime_error("cannot write " + file);
}

Json to_json(const SourceTally& tally, base::Duration elapsed) {
    const Histogram& latency = tally.accept_latency_ns;
    return Json{
        {"sent", tally.sent},
        {"accepted", tally.accepted},
        {"rejected", tally.transient + tally.permanent},
        {"rejected_transient", tally.transient},
        {"rejected_permanent", tally.permanent},
        {"unknown", tally.unknown},
        {"seconds", seconds(elapsed)},
        {"accept_per_s", per_second(tally.accepted, elapsed)},
        {"accept_ms_p50", to_ms(latency.percentile(0.5))},
        {"accept_ms_p99", to_ms(latency.percentile(0.99))},
        {"accept_ms_p999", to_ms(latency.percentile(0.999))},
        {"accept_ms_max", to_ms(latency.max())},
        {"connections", tally.connections_made},
        {"connections_broken", tally.connections_broken},
        {"last_error", tally.last_error},
    };
}

Json to_json(const SinkTally& tally) {
    const base::Duration span = tally.last_arrival - tally.first_arrival;
    return Json{
        {"messages", tally.messages},
        {"received", tally.received},
        {"unique", tally.unique},
        {"duplicated", tally.duplicated},
        {"altered", tally.altered},
        {"foreign", tally.foreign},
        {"refused_4xx", tally.refused_4xx},
        {"refused_5xx", tally.refused_5xx},
        {"bytes", tally.bytes},
        {"connections", tally.connections},
        {"tls_connections", tally.tls_connections},
        {"first_arrival",
         static_cast<double>(tally.first_arrival_wall.time_since_epoch().count()) / 1e3},
        {"last_arrival",
         static_cast<double>(tally.last_arrival_wall.time_since_epoch().count()) / 1e3},
        {"seconds", seconds(span)},
        {"delivered_per_s", per_second(tally.unique, span)},
    };
}

/// Once a second, a line of what happened in that second.
class Progress {
public:
    Progress(base::Loop& loop, bool quiet)
        : loop_(loop), quiet_(quiet), started_(loop.now()), last_(started_) {}
    /// Whether a line is due; then `count` is how much there is by now and `rate` what came per
    /// second.
    bool due(std::uint64_t count, double& rate, double& age) {
        const base::Duration since = loop_.now() - last_;
        if (quiet_ || since < progress_every) return false;
        rate = per_second(count - last_count_, since);
        age = seconds(loop_.now() - started_);
        last_ = loop_.now();
        last_count_ = count;
        return true;
    }

private:
    base::Loop& loop_;
    bool quiet_;
    base::TimePoint started_;
    base::TimePoint last_;
    std::uint64_t last_count_ = 0;
};

std::optional<LedgerWriter>& open_ledger(std::optional<LedgerWriter>& ledger, base::Loop& loop,
                                         const std::string& file) {
    if (!file.empty()) ledger.emplace(loop, file);
    return ledger;
}

void prepare_thread(int cpu) {
    catch_signals();
    raise_descriptor_limit();
    if (cpu >= 0) pin_to_cpu(cpu);
}

} // namespace

int run_source(const SourceCommand& command) {
    prepare_thread(command.cpu);
    Runtime runtime;
    base::Loop& loop = runtime.loop();
    std::unique_ptr<TlsWrapper> tls;
    if (command.source.tls != SourceTls::none)
        tls = runtime.client_tls(command.source.helo_name, command.source.connections);
    std::optional<LedgerWriter> ledger;
    open_ledger(ledger, loop, command.ledger_file);
    Source source(loop, runtime.transport(), command.source, MessageMaker(command.pattern),
                  tls.get(), ledger ? &*ledger : nullptr);
    const SourceTally& tally = source.tally();
    source.start();
    Progress progress(loop, command.quiet);
    bool stop_asked = false;
    runtime.run(tick, [&] {
        const SignalsSeen signals = take_signals();
        if (signals.report) write_json(command.json_file, to_json(tally, source.elapsed()));
        if (signals.stop && stop_asked) loop.stop(); // asked twice: do not wait for answers
        if (signals.stop) {
            stop_asked = true;
            source.stop();
        }
        double rate = 0;
        double age = 0;
        if (progress.due(tally.accepted, rate, age)) {
            std::fprintf(stderr,
                         "source %3.0f s  accepted %llu (%.0f/s)  refused %llu  unknown %llu  open "
                         "%llu%s%s\n",
                         age, print(tally.accepted), rate, print(tally.transient + tally.permanent),
                         print(tally.unknown), print(tally.connections_open),
                         tally.last_error.empty() ? "" : "  last: ", tally.last_error.c_str());
        }
        if (source.finished()) loop.stop();
    });

    const Json json = to_json(tally, source.elapsed());
    write_json(command.json_file, json);
    const Histogram& latency = tally.accept_latency_ns;
    std::printf(
        "source: sent %llu, accepted %llu, refused %llu, unknown %llu in %.2f s: %.0f accepted/s; "
        "accept ms p50 %.2f, p99 %.2f, p99.9 %.2f; connections %llu\n",
        print(tally.sent), print(tally.accepted), print(tally.transient + tally.permanent),
        print(tally.unknown), seconds(source.elapsed()),
        per_second(tally.accepted, source.elapsed()), to_ms(latency.percentile(0.5)),
        to_ms(latency.percentile(0.99)), to_ms(latency.percentile(0.999)),
        print(tally.connections_made));
    if (!tally.last_error.empty())
        std::fprintf(stderr, "source: last error: %s\n", tally.last_error.c_str());
    return tally.accepted != 0 && tally.accepted == tally.sent ? 0 : 1;
}

int run_sink(const SinkCommand& command) {
    prepare_thread(command.cpu);
    Runtime runtime;
    base::Loop& loop = runtime.loop();
    std::unique_ptr<TlsWrapper> tls;
    if (command.starttls) tls = runtime.server_tls(command.sink.host_name);
    std::optional<LedgerWriter> ledger;
    open_ledger(ledger, loop, command.ledger_file);
    Sink sink(loop, runtime.transport(), command.sink, tls.get(), ledger ? &*ledger : nullptr);
    if (const auto started = sink.start(); !started) {
        throw std::runtime_error("cannot listen on " + sink.failed_address().to_string() + ": " +
                                 std::string(base::to_string(started.error())));
    }
    for (const base::SocketAddress& address : sink.local_addresses()) {
        std::printf("listening %s\n", address.to_string().c_str());
    }
    std::fflush(stdout);

    const SinkTally& tally = sink.tally();
    Progress progress(loop, command.quiet);
    base::TimePoint last_change = loop.now();
    base::TimePoint complete_at = base::TimePoint::max();
    std::uint64_t last_received = 0;
    std::uint64_t last_reported = 0;
    runtime.run(tick, [&] {
        const SignalsSeen signals = take_signals();
        if (signals.report) write_json(command.json_file, to_json(tally));
        if (signals.stop) loop.stop();
        if (tally.received != last_received) {
            last_received = tally.received;
            last_change = loop.now();
        }
        double rate = 0;
        double age = 0;
        if (progress.due(tally.received, rate, age) && tally.received != last_reported) {
            last_reported = tally.received;
            std::fprintf(stderr,
                         "sink   %3.0f s  received %llu (%.0f/s)  duplicated %llu  altered %llu  "
                         "open %llu\n",
                         age, print(tally.received), rate, print(tally.duplicated),
                         print(tally.altered), print(tally.connections_open));
        }
        if (command.idle_exit.count() != 0 && tally.received != 0 &&
            loop.now() - last_change >= command.idle_exit) {
            loop.stop();
        }
        if (command.expect != 0 && tally.unique >= command.expect) {
            if (complete_at == base::TimePoint::max()) complete_at = loop.now();
            if (loop.now() - complete_at >= command.linger) loop.stop();
        }
    });

    write_json(command.json_file, to_json(tally));
    std::printf("sink: received %llu, unique %llu, duplicated %llu, altered %llu, foreign %llu: "
                "%.0f delivered/s\n",
                print(tally.received), print(tally.unique), print(tally.duplicated),
                print(tally.altered), print(tally.foreign),
                per_second(tally.unique, tally.last_arrival - tally.first_arrival));
    return tally.altered == 0 && tally.unique >= command.expect ? 0 : 1;
}

int run_load(const LoadCommand& command) {
    prepare_thread(command.cpu);
    Runtime runtime(command.net);
    base::Loop& loop = runtime.loop();
    SinkOptions receiving{.addresses = {command.listen}};
    std::unique_ptr<TlsWrapper> client_tls;
    std::unique_ptr<TlsWrapper> server_tls;
    if (command.source.tls != SourceTls::none) {
        client_tls = runtime.client_tls(command.source.helo_name, command.source.connections);
        server_tls = runtime.server_tls(receiving.host_name);
    }
    Sink sink(loop, runtime.transport(), receiving, server_tls.get(), nullptr);
    if (const auto started = sink.start(); !started) {
        throw std::runtime_error("cannot listen on " + command.listen.to_string() + ": " +
                                 std::string(base::to_string(started.error())));
    }
    if (!runtime.wait_for_link(30s)) throw std::runtime_error("the device has no peer");
    Source source(loop, runtime.transport(), command.source, MessageMaker(command.pattern),
                  client_tls.get(), nullptr);
    const SourceTally& sent = source.tally();
    const SinkTally& arrived = sink.tally();
    const base::TimePoint began = loop.now();
    source.start();
    runtime.run(tick, [&] {
        const bool all = source.finished() && arrived.unique >= sent.accepted;
        if (all || take_signals().stop || loop.now() - began >= command.limit) loop.stop();
    });
    const base::Duration span = arrived.last_arrival - began;
    Json json = to_json(sent, source.elapsed());
    json["delivered"] = arrived.unique;
    json["duplicated"] = arrived.duplicated;
    json["altered"] = arrived.altered;
    json["end_to_end_per_s"] = per_second(arrived.unique, span);
    write_json(command.json_file, json);
    std::printf("load: accepted %llu, delivered %llu, duplicated %llu, altered %llu: %.0f/s end to "
                "end; accept ms p50 %.2f, p99 %.2f\n",
                print(sent.accepted), print(arrived.unique), print(arrived.duplicated),
                print(arrived.altered), per_second(arrived.unique, span),
                to_ms(sent.accept_latency_ns.percentile(0.5)),
                to_ms(sent.accept_latency_ns.percentile(0.99)));
    if (!sent.last_error.empty())
        std::fprintf(stderr, "load: last error: %s\n", sent.last_error.c_str());
    return sent.accepted == sent.sent && arrived.unique == sent.accepted &&
                   arrived.duplicated == 0 && arrived.altered == 0
               ? 0
               : 1;
}

int run_audit(const AuditCommand& command) {
    std::ifstream source(command.source_ledger);
    if (!source) throw std::runtime_error("cannot read " + command.source_ledger);
    std::ifstream sink(command.sink_ledger);
    if (!sink) throw std::runtime_error("cannot read " + command.sink_ledger);
    const Audit result = audit(source, sink);
    std::fputs(to_text(result).c_str(), stdout);
    write_json(command.json_file, Json{{"promised", result.promised},
                                       {"delivered", result.delivered},
                                       {"unknown", result.unknown_messages},
                                       {"unknown_delivered", result.unknown_delivered},
                                       {"lost", result.lost.count},
                                       {"duplicated", result.duplicated.count},
                                       {"altered", result.altered.count},
                                       {"misdelivered", result.misdelivered.count},
                                       {"unexplained", result.unexplained.count}});
    return result.passed() ? 0 : 1;
}

} // namespace dataplane::loadgen
