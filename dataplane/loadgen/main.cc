// main.cc: the command line of millrace-bench.
//
// Scope      Options to the structs of commands.h, nothing else.
// Failure    Exit status 2 for a bad command line, 1 for a run that failed.

#include "dataplane/loadgen/commands.h"
#include "dataplane/loadgen/crypto_bench.h"
#include "dataplane/loadgen/net_bench.h"
#include "dataplane/loadgen/run/commands.h"
#include "dataplane/loadgen/run/profile.h"
#include "dataplane/loadgen/spool_bench.h"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>
#include <ctime>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <unistd.h>

namespace {

using namespace dataplane::loadgen;
namespace base = dataplane::base;

/// "4096" or "1024-65536".
void read_sizes(const std::string& text, MessagePattern& pattern) {
    const char* const end = text.data() + text.size();
    auto [next, error] = std::from_chars(text.data(), end, pattern.bytes_min);
    pattern.bytes_max = pattern.bytes_min;
    if (error == std::errc{} && next != end && *next == '-') {
        const auto second = std::from_chars(next + 1, end, pattern.bytes_max);
        next = second.ptr;
        error = second.ec;
    }
    if (error != std::errc{} || next != end)
        throw std::runtime_error("--size '" + text + "' is not BYTES or MIN-MAX");
}

std::string read_password(const std::string& file) {
    std::ifstream in(file);
    std::string password;
    if (!std::getline(in, password))
        throw std::runtime_error("cannot read a password from " + file);
    return password;
}

std::chrono::milliseconds to_ms(double seconds) {
    return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

std::chrono::microseconds to_us(double milliseconds) {
    return std::chrono::microseconds(static_cast<std::int64_t>(milliseconds * 1000));
}

/// As a shell would have to be given it.
std::string quoted(const std::string& word) {
    constexpr std::string_view plain =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
        "_-./:,=@%+";
    if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
    std::string text = "'";
    for (const char c : word)
        text += c == '\'' ? std::string("'\\''") : std::string(1, c);
    return text + "'";
}

int run(int argc, char** argv) {
    CLI::App app{"millrace-bench: sends numbered mail, receives it, and proves what became of it"};
    app.require_subcommand(1);
    app.set_version_flag("--version", "millrace-bench " + std::string(bench_version));

    SourceCommand source;
    std::string target, size = "4096", password_file;
    double source_seconds = 0, reconnect_s = 10, reply_s = 60;
    bool no_pipelining = false, starttls = false, implicit_tls = false;
    source.pattern.run =
        "run-" + std::to_string(std::time(nullptr)) + "-" + std::to_string(getpid());
    CLI::App* send =
        app.add_subcommand("source", "submits messages and measures the time to each 250");
    send->add_option("--target", target, "the relay, HOST:PORT")->required();
    send->add_option("--connections", source.source.connections, "at the same time")
        ->capture_default_str()
        ->check(CLI::Range(std::size_t{1}, connections_max));
    send->add_option("--messages", source.source.messages, "how many to send");
    send->add_option("--seconds", source_seconds, "how long to send, when --messages does not say");
    send->add_option("--size", size, "content bytes: N, or MIN-MAX")->capture_default_str();
    send->add_option("--recipients", source.pattern.recipient_count, "of each message")
        ->capture_default_str();
    send->add_option("--domains", source.pattern.domain_count, "how many values {domain} takes")
        ->capture_default_str();
    send->add_option("--from", source.pattern.sender, "with {seq}, {domain}")
        ->capture_default_str();
    send->add_option("--to", source.pattern.recipient, "with {seq}, {n}, {domain}")
        ->capture_default_str();
    send->add_flag("--no-pipelining,!--pipelining", no_pipelining, "one command at a time");
    send->add_flag("--chunking", source.source.chunking, "BDAT instead of DATA, when offered");
    send->add_flag("--tls", starttls, "STARTTLS");
    send->add_flag("--implicit-tls", implicit_tls, "TLS from the first byte (port 465)")
        ->excludes("--tls");
    send->add_option("--user", source.source.user, "AUTH PLAIN as this account")
        ->needs(
            send->add_option("--password-file", password_file, "its first line is the password"));
    send->add_option("--rate", source.source.rate_per_s,
                     "messages/s, open loop: latency counts from when each was due");
    send->add_option("--per-connection", source.source.messages_per_connection,
                     "then connect anew; 0: never")
        ->capture_default_str();
    send->add_option("--reconnect", reconnect_s, "seconds to go on trying when connections break")
        ->capture_default_str();
    send->add_option("--reply-limit", reply_s, "seconds to wait for a reply")
        ->capture_default_str();
    send->add_option("--run-id", source.pattern.run, "names the run, in messages and ledgers");
    send->add_option("--first", source.source.first_sequence, "the first sequence number")
        ->capture_default_str();
    send->add_option("--seed", source.pattern.seed, "of the bodies")->capture_default_str();
    send->add_option("--helo", source.source.helo_name, "our name in EHLO")->capture_default_str();
    send->add_option("--ledger", source.ledger_file, "appends the fate of every message");
    send->add_option("--json", source.json_file, "writes the results");
    send->add_option("--cpu", source.cpu, "runs on this CPU only");
    send->add_flag("--quiet", source.quiet, "no progress");

    SinkCommand sink;
    std::vector<std::string> addresses;
    double percent_4xx = 0, percent_5xx = 0, delay_ms = 0, tarpit_ms = 0, idle_exit_s = 0,
           linger_s = 0.5;
    std::string refuse_at = "rcpt";
    bool no_chunking = false;
    CLI::App* receive = app.add_subcommand("sink", "receives messages, checks and counts them");
    receive
        ->add_option("--listen", addresses,
                     "ADDRESS:PORT, several allowed; port 0 takes a free one")
        ->required();
    receive->add_option("--name", sink.sink.host_name, "in the greeting")->capture_default_str();
    receive->add_flag("--starttls", sink.starttls,
                      "offers STARTTLS with a self-signed certificate");
    receive->add_flag("--no-chunking", no_chunking, "does not offer CHUNKING");
    receive->add_option("--reply-4xx", percent_4xx, "percent to refuse for now")
        ->check(CLI::Range(0.0, 100.0));
    receive->add_option("--reply-5xx", percent_5xx, "percent to refuse for good")
        ->check(CLI::Range(0.0, 100.0));
    receive->add_option("--refuse-at", refuse_at, "rcpt, or data: in place of the final 250")
        ->capture_default_str()
        ->check(CLI::IsMember({"rcpt", "data"}));
    receive->add_option("--delay", delay_ms, "ms before the answer to each message");
    receive->add_option("--tarpit", tarpit_ms, "ms before the answer to each group of commands");
    receive->add_option("--seed", sink.sink.seed, "of the refusals")->capture_default_str();
    receive->add_option("--expect", sink.expect, "stops when this many deliveries have come");
    receive->add_option("--linger", linger_s, "seconds to stay after that, for late duplicates")
        ->capture_default_str();
    receive->add_option("--idle-exit", idle_exit_s,
                        "stops after so many seconds without mail, once some came");
    receive->add_option("--ledger", sink.ledger_file, "appends every delivery");
    receive->add_option("--json", sink.json_file, "writes the results at the end, and at SIGUSR1");
    receive->add_option("--cpu", sink.cpu, "runs on this CPU only");
    receive->add_flag("--quiet", sink.quiet, "no progress");

    LoadCommand load;
    std::string load_target, load_listen, load_size = "4096";
    bool load_tls = false;
    CLI::App* both = app.add_subcommand(
        "load", "source and sink on one thread: what one core can give a relay and take from it");
    both->add_option("--target", load_target, "the relay, ADDRESS:PORT")->required();
    both->add_option("--listen", load_listen, "where the relay delivers to, ADDRESS:PORT")
        ->required();
    both->add_option("--messages", load.source.messages)->required();
    both->add_option("--connections", load.source.connections)
        ->capture_default_str()
        ->check(CLI::Range(std::size_t{1}, connections_max));
    both->add_option("--size", load_size, "content bytes: N, or MIN-MAX")->capture_default_str();
    both->add_option("--domains", load.pattern.domain_count)->capture_default_str();
    both->add_flag("--tls", load_tls, "STARTTLS to the relay, and offered to it");
    both->add_option("--device", load.net.device, "our own TCP/IP on this DPDK device");
    both->add_option("--own-address", load.net.addresses, "ADDRESS/PREFIX on that device");
    both->add_option("--memory-mb", load.net.memory_mb, "for DPDK")->capture_default_str();
    both->add_option("--json", load.json_file, "writes the results");
    both->add_option("--cpu", load.cpu, "runs on this CPU only");

    NetCommand net;
    double net_seconds = 5;
    double net_delay_ms = 5, net_jitter_ms = 0;
    CLI::App* compare = app.add_subcommand(
        "net", "measures our own TCP/IP beside the kernel's: the same program on both");
    compare->add_option("--case", net.cases, "short, request, bulk, bulk_loss, idle")
        ->delimiter(',')
        ->capture_default_str();
    compare->add_option("--stack", net.stacks, "millrace, kernel")
        ->delimiter(',')
        ->check(CLI::IsMember({"millrace", "kernel"}))
        ->capture_default_str();
    compare->add_option("--seconds", net_seconds, "measured for each figure")
        ->capture_default_str()
        ->check(CLI::Range(0.1, 600.0));
    compare->add_option("--connections", net.connections, "instead of what suits the case");
    compare->add_option("--server-cpu", net.server_cpu)->capture_default_str();
    compare->add_option("--client-cpu", net.client_cpu)->capture_default_str();
    compare
        ->add_option("--kernel-line", net.kernel_lines,
                     "what joins the kernel's ends: loopback, veth (MTU 1500, Linux's offloads), "
                     "frames (veth without offloads, as memif)")
        ->delimiter(',')
        ->check(CLI::IsMember({"loopback", "veth", "frames"}))
        ->capture_default_str();
    compare->add_option("--repeats", net.repeats,
                        "of each figure, the median counts (5 for bulk_loss, else 1)");
    compare->add_option("--loss", net.quality.loss, "bulk_loss: probability, each way")
        ->capture_default_str()
        ->check(CLI::Range(0.0, 1.0));
    compare->add_option("--delay-ms", net_delay_ms, "bulk_loss: each way")->capture_default_str();
    compare->add_option("--jitter-ms", net_jitter_ms, "bulk_loss: added, from 0 to this")
        ->capture_default_str();
    compare->add_option("--rate-mbit", net.quality.rate_mbit_per_s, "bulk_loss: of the line")
        ->capture_default_str();
    compare->add_option("--queue-kb", net.quality.queue_kb, "bulk_loss: before the line")
        ->capture_default_str();
    compare->add_option("--seed", net.quality.seed, "bulk_loss: of what is lost")
        ->capture_default_str();
    compare->add_flag("--sweep", net.sweep,
                      "bulk_loss: losses of 0.1, 1 and 3 % at round trips of 1, 10 and 40 ms");
    compare->add_flag("--huge-pages", net.huge_pages, "for DPDK's memory");
    compare->add_option("--mtu", net.mtu, "of memif and of the veth lines; loopback's is its own")
        ->capture_default_str()
        ->check(CLI::Range(1280, 60'000));
    compare->add_option("--json", net.json_file, "writes the rows");
    compare->add_flag("--quiet", net.quiet, "no progress");

    NetEndCommand end;
    std::string end_case = "request";
    std::int64_t end_ms = 5000, end_delay_us = 0;
    CLI::App* one_end = app.add_subcommand("net-end", "one end of `net`, which starts it");
    one_end->group(""); // not for people
    one_end->add_flag("--server", end.server);
    one_end->add_option("--case", end_case);
    one_end->add_option("--time-ms", end_ms);
    one_end->add_option("--connections", end.connections);
    one_end->add_option("--address", end.address)->required();
    one_end->add_option("--source", end.sources);
    one_end->add_option("--cpu", end.cpu);
    one_end->add_option("--device", end.net.device);
    one_end->add_option("--own-address", end.net.addresses);
    one_end->add_option("--memory-mb", end.net.memory_mb);
    one_end->add_option("--mtu", end.net.mtu);
    one_end->add_option("--connections-max", end.net.connections_max);
    one_end->add_flag("--huge-pages", end.net.huge_pages);
    one_end->add_option("--loss", end.net.loss);
    one_end->add_option("--reorder", end.net.reorder);
    one_end->add_option("--duplicate", end.net.duplicate);
    one_end->add_option("--delay-us", end_delay_us);
    one_end->add_flag("--punctual", end.punctual);

    NetWireCommand wire;
    std::int64_t wire_delay_us = 0, wire_jitter_us = 0;
    CLI::App* line = app.add_subcommand("net-wire", "the bad line of `net`, which starts it");
    line->group(""); // not for people
    line->add_option("--device-a", wire.devices[0])->required();
    line->add_option("--device-b", wire.devices[1])->required();
    line->add_option("--loss", wire.line.loss);
    line->add_option("--delay-us", wire_delay_us);
    line->add_option("--jitter-us", wire_jitter_us);
    line->add_option("--rate-mbit", wire.line.rate_mbit_per_s);
    line->add_option("--queue-kb", wire.line.queue_kb);
    line->add_option("--seed", wire.line.seed);

    SpoolCommand spool;
    double spool_seconds = 5;
    CLI::App* store = app.add_subcommand(
        "spool", "measures the durable queue on a disk, beside fio and a file per message");
    store->add_option("--folder", spool.folder, "on the disk to be measured")
        ->capture_default_str()
        ->check(CLI::ExistingDirectory);
    store->add_option("--case", spool.cases, "accept, paced, file, queued")
        ->delimiter(',')
        ->capture_default_str();
    store->add_option("--sizes", spool.sizes, "of the messages, bytes")
        ->delimiter(',')
        ->check(CLI::Range(1U, 512U << 10))
        ->capture_default_str();
    store->add_option("--seconds", spool_seconds, "measured for each figure")
        ->capture_default_str()
        ->check(CLI::Range(0.1, 600.0));
    store->add_option("--writers", spool.writers, "commits under way at the same time")
        ->capture_default_str()
        ->check(CLI::Range(std::size_t{1}, std::size_t{4096}));
    store->add_option("--rate", spool.rate_per_s, "paced: messages of 30 KB a second")
        ->capture_default_str()
        ->check(CLI::Range(1U, 1'000'000U));
    store->add_option("--messages", spool.queued, "queued: how many wait")->capture_default_str();
    store->add_option("--destinations", spool.destinations, "queued: domains they are for")
        ->capture_default_str()
        ->check(CLI::Range(1U, 100'000'000U));
    store->add_option("--pool-mib", spool.pool_mib, "of the pool's file")->capture_default_str();
    store->add_flag("--encrypt", spool.encrypt, "encrypts the spool at rest");
    store->add_option("--commit", spool.commit, "auto, dsync, flush: how a write becomes durable")
        ->check(CLI::IsMember({"auto", "dsync", "flush"}))
        ->capture_default_str();
    store->add_option("--cpu", spool.cpu, "runs on this CPU only")->capture_default_str();
    store->add_option("--json", spool.json_file, "writes the rows");

    CryptoCommand crypto;
    CLI::App* ciphers = app.add_subcommand(
        "crypto", "measures TLS and signatures beside stock OpenSSL, and the shard's turns");
    ciphers->add_option("--case", crypto.cases, "handshake, bulk, dkim, turns, contention")
        ->delimiter(',')
        ->capture_default_str();
    ciphers->add_option("--seconds", crypto.seconds, "measured for each row")
        ->capture_default_str()
        ->check(CLI::Range(0.05, 60.0));
    ciphers->add_option("--json", crypto.json_file, "writes the rows");

    RunCommand measured;
    double run_seconds = 0, run_warm_up = 0, run_drain = 0, run_rate = 0;
    std::size_t run_connections = 0;
    CLI::App* profile_run = app.add_subcommand(
        "run", "measures any relay as a profile says, and tells whether to believe it");
    profile_run->add_option("profile", measured.profile, "a name of --list, or a TOML file");
    profile_run->add_flag("--list", measured.list, "the profiles that are built in");
    profile_run->add_flag("--show", measured.show, "prints the profile, to start one from");
    profile_run->add_flag("--check", measured.check, "only says whether the profile is right");
    profile_run->add_option("--target", measured.targets, "the relay, HOST:PORT, several allowed")
        ->delimiter(',');
    profile_run
        ->add_option("--listen", measured.listen, "where the relay delivers to, ADDRESS:PORT")
        ->delimiter(',');
    profile_run->add_flag("--find-capacity", measured.find_capacity,
                          "looks for the highest rate within the bounds of [capacity] first");
    CLI::Option* with_rate =
        profile_run->add_option("--rate", run_rate, "messages/s, open loop; 0: closed loop");
    CLI::Option* with_connections = profile_run->add_option("--connections", run_connections)
                                        ->check(CLI::Range(std::size_t{1}, connections_max));
    CLI::Option* with_seconds =
        profile_run->add_option("--seconds", run_seconds, "measured")->check(CLI::Range(1.0, 1e6));
    CLI::Option* with_warm_up = profile_run->add_option("--warm-up", run_warm_up, "seconds before");
    CLI::Option* with_drain =
        profile_run->add_option("--drain", run_drain, "seconds to wait for what was accepted");
    profile_run
        ->add_option("--relay-pid", measured.relay_pids,
                     "of the relay's processes, when it runs here")
        ->delimiter(',');
    profile_run->add_option("--relay-process", measured.relay_process, "or their name");
    profile_run
        ->add_option("--relay-metrics", measured.relay_metrics,
                     "HOST:PORT of its /metrics, for its CPU by room")
        ->delimiter(',');
    profile_run->add_option("--spool", measured.spool_folder,
                            "the relay's, when it runs here: is its disk durable?");
    profile_run->add_option("--note", measured.note, "about the relay's set-up, for the report");
    profile_run->add_option("--json", measured.json_file, "writes the result");
    profile_run->add_option("--report", measured.report_file, "writes the result as one HTML file");
    profile_run->add_flag("--quiet", measured.quiet, "no progress");

    std::string report_of, report_to, diff_before, diff_after;
    CLI::App* report =
        app.add_subcommand("report", "writes the HTML file of a result of run --json");
    report->add_option("result", report_of, "JSON")->required();
    report->add_option("html", report_to)->required();
    AddCommand adding;
    CLI::App* add = app.add_subcommand(
        "add", "adds the results of several machines that measured at the same time");
    add->add_option("results", adding.results, "JSON")->required();
    add->add_option("-o,--json", adding.json_file, "writes the sum");
    add->add_option("--report", adding.report_file, "writes the sum as one HTML file");
    CLI::App* diff = app.add_subcommand(
        "diff", "what changed between two results: exit 1 when something is worse than noise");
    diff->add_option("before", diff_before, "JSON")->required();
    diff->add_option("after", diff_after, "JSON")->required();

    AuditCommand audit;
    CLI::App* check = app.add_subcommand(
        "audit", "compares two ledgers: exit 1 when something was lost or altered");
    check->add_option("--source-ledger", audit.source_ledger)->required();
    check->add_option("--sink-ledger", audit.sink_ledger)->required();
    check->add_option("--json", audit.json_file, "writes the results");

    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }

    if (check->parsed()) return run_audit(audit);
    if (report->parsed()) return run_report(report_of, report_to);
    if (add->parsed()) return run_add(adding);
    if (diff->parsed()) return run_diff(diff_before, diff_after);
    if (profile_run->parsed()) {
        if (with_rate->count() != 0) measured.rate = run_rate;
        if (with_connections->count() != 0) measured.connections = run_connections;
        if (with_seconds->count() != 0) measured.duration = to_ms(run_seconds);
        if (with_warm_up->count() != 0) measured.warm_up = to_ms(run_warm_up);
        if (with_drain->count() != 0) measured.drain = to_ms(run_drain);
        for (int i = 0; i < argc; ++i)
            measured.command_line += (i == 0 ? "" : " ") + quoted(argv[i]);
        return run_run(measured);
    }
    if (ciphers->parsed()) return run_crypto(crypto);
    if (store->parsed()) {
        spool.time = to_ms(spool_seconds);
        return run_spool(spool);
    }
    if (both->parsed()) {
        load.source.targets = {read_address(load_target)};
        load.source.chunking = true;
        if (load_tls) load.source.tls = SourceTls::starttls;
        load.listen = read_address(load_listen);
        load.pattern.run = source.pattern.run;
        read_sizes(load_size, load.pattern);
        if (const std::string fault = check_pattern(load.pattern); !fault.empty())
            throw std::runtime_error(fault);
        return run_load(load);
    }
    if (compare->parsed()) {
        net.time = to_ms(net_seconds);
        net.quality.delay = to_us(net_delay_ms);
        net.quality.jitter = to_us(net_jitter_ms);
        return run_net(net);
    }
    if (one_end->parsed()) {
        const auto which = net_case(end_case);
        if (!which) throw std::runtime_error("no case is named '" + end_case + "'");
        end.which = *which;
        end.net.busy_poll = !end.punctual;
        end.time = std::chrono::milliseconds(end_ms);
        end.net.delay = std::chrono::microseconds(end_delay_us);
        return run_net_end(end);
    }
    if (line->parsed()) {
        wire.line.delay = std::chrono::microseconds(wire_delay_us);
        wire.line.jitter = std::chrono::microseconds(wire_jitter_us);
        return run_net_wire(wire);
    }
    if (send->parsed()) {
        source.source.targets = {read_address(target)};
        source.source.time = to_ms(source_seconds);
        source.source.reconnect_limit = to_ms(reconnect_s);
        source.source.reply_limit = to_ms(reply_s);
        source.source.pipelining = !no_pipelining;
        source.source.tls = implicit_tls ? SourceTls::implicit
                            : starttls   ? SourceTls::starttls
                                         : SourceTls::none;
        if (!source.source.user.empty()) source.source.password = read_password(password_file);
        if (source.source.messages == 0 && source.source.time.count() == 0) {
            throw std::runtime_error("say --messages or --seconds: a run must end");
        }
        read_sizes(size, source.pattern);
        if (const std::string fault = check_pattern(source.pattern); !fault.empty())
            throw std::runtime_error(fault);
        return run_source(source);
    }
    for (const std::string& address : addresses)
        sink.sink.addresses.push_back(read_address(address));
    sink.sink.manner.reply_4xx_share = percent_4xx / 100;
    sink.sink.manner.reply_5xx_share = percent_5xx / 100;
    sink.sink.manner.refuse_at = refuse_at == "data" ? RefuseAt::data : RefuseAt::rcpt;
    sink.sink.manner.delay = std::chrono::milliseconds(static_cast<std::int64_t>(delay_ms));
    sink.sink.manner.tarpit = std::chrono::milliseconds(static_cast<std::int64_t>(tarpit_ms));
    sink.sink.manner.chunking = !no_chunking;
    sink.linger = to_ms(linger_s);
    sink.idle_exit = to_ms(idle_exit_s);
    return run_sink(sink);
}

} // namespace

int main(int argc, char** argv) {
    try {
        return run(argc, argv);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "millrace-bench: %s\n", error.what());
        return 1;
    }
}
