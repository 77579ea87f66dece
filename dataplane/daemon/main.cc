// main.cc: millraced: starts the shards and what serves them, waits for signals, stops in good order.
//
// Scope      Start-up order and shutdown. Everything that can be refused is refused here, in one sentence
//            that names the file or the setting and the remedy, before a single connection is accepted.
// Threading  main: ordinary, may block. SIGTERM and SIGINT drain and stop; SIGHUP reopens the event log.

#include "dataplane/base/clock.h"
#include "dataplane/daemon/attach.h"
#include "dataplane/daemon/certificates.h"
#include "dataplane/daemon/dkim_cache.h"
#include "dataplane/daemon/log.h"
#include "dataplane/daemon/offload_host.h"
#include "dataplane/daemon/queue_operations.h"
#include "dataplane/daemon/rule_cache.h"
#include "dataplane/daemon/shard.h"
#include "dataplane/delivery/site_ledger.h"
#include "dataplane/delivery/unbound_resolver.h"
#include "dataplane/policy/control_link.h"
#include "dataplane/policy/snapshot.h"
#include "dataplane/telemetry/event_log.h"
#include "dataplane/telemetry/stats.h"
#include "tls_offload/self_signed.h"

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <random>
#include <sys/file.h>
#include <sys/resource.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

using namespace dataplane;
using daemon::log_line;
using daemon::LogLevel;
namespace fs = std::filesystem;

constexpr auto signal_wait = std::chrono::milliseconds{200};
constexpr auto attached_told_every = std::chrono::seconds{10};
constexpr int exit_mail_left = 2; // of --attach: stopped before the pool was empty
constexpr auto snapshot_poll = std::chrono::milliseconds{100};

struct Options {
    std::string state_dir = "/var/lib/millrace";
    unsigned wait_s = 30;
    std::string journal_dir;
    std::string spool_faults, mirror_faults;
    std::string attach; // a dead node's pool
    std::string attach_key;
};

/// One sentence for the operator; main prints it and ends with 1.
struct StartError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

policy::PolicyPtr first_policy(const Options& options) {
    const std::string path = options.state_dir + "/policy.snapshot";
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds{options.wait_s};
    for (bool told = false;; told = true) {
        auto loaded = policy::load_snapshot(path);
        if (loaded) return *loaded;
        const bool missing = loaded.error().error == policy::SnapshotError::missing;
        if (!missing || std::chrono::steady_clock::now() >= give_up) {
            throw StartError(
                loaded.error().text +
                (missing ? "; start millrace-control, which publishes it, or name its state_dir"
                         : ""));
        }
        if (!told) log_line(LogLevel::info, "waiting_for_policy", {{"path", path}});
        std::this_thread::sleep_for(snapshot_poll);
    }
}

daemon::SpoolTampering tampering_of(const Options& options) {
    daemon::SpoolTampering tampering{.journal_dir = options.journal_dir};
    const std::array texts{&options.spool_faults, &options.mirror_faults};
    for (std::size_t side = 0; side < texts.size(); ++side) {
        auto faults = queue::parse_faults(*texts[side]);
        if (!faults) throw StartError(faults.error());
        tampering.faults[side] = std::move(*faults);
    }
    return tampering;
}

/// Two daemons on one state folder would deliver the same mail.
/// Suspensions and reroutes, as millrace-control keeps them. When they cannot be read nothing starts:
/// mail that somebody has stopped must not go out because of it.
std::vector<delivery::StandingOrder> standing_orders(const std::string& state_dir) {
    const std::string path = state_dir + "/queue_orders.json";
    if (access(path.c_str(), F_OK) != 0 && errno == ENOENT) return {};
    std::ifstream in(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>{in}, {}};
    auto orders = daemon::parse_orders(text);
    if (!in || !orders) {
        throw StartError(path + ": " + (orders ? std::string{"cannot be read"} : orders.error()) +
                         "; put it right, or remove it to end all suspensions and reroutes");
    }
    return std::move(*orders);
}

int lock_state(const std::string& state_dir) {
    const std::string path = state_dir + "/millraced.lock";
    const int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (file < 0) throw std::system_error(errno, std::generic_category(), path);
    if (flock(file, LOCK_EX | LOCK_NB) != 0) {
        close(file);
        throw StartError(path + " is locked: another millraced runs on this state_dir");
    }
    return file;
}

void make_folder(const std::string& path) {
    std::error_code error;
    fs::create_directories(path, error);
    if (error) throw StartError(path + ": cannot make this folder: " + error.message());
}

/// Mail in the spool of a shard that is not started would silently wait forever.
void refuse_orphans(const policy::StartUp& start_up) {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(start_up.spool_dir, error)) {
        const std::string name = entry.path().filename().string();
        unsigned shard = 0;
        if (std::sscanf(name.c_str(), "shard-%u.spool", &shard) != 1 || shard < start_up.shards)
            continue;
        throw StartError(entry.path().string() + " may hold mail of shard " +
                         std::to_string(shard) + ", but [server] shards is " +
                         std::to_string(start_up.shards) + "; set it to at least " +
                         std::to_string(shard + 1) +
                         ", or move the file away once its queue is empty");
    }
}

void raise_descriptor_limit() {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    static_cast<void>(setrlimit(RLIMIT_NOFILE, &limit));
    log_line(LogLevel::info, "descriptor_limit", {{"count", std::to_string(limit.rlim_cur)}});
}

/// The pair to offer TLS with when the policy names none, made at the first start.
tls_offload::CertificateFiles own_certificate(const policy::Policy& policy,
                                              const base::Clock& clock) {
    tls_offload::CertificateFiles own;
    own.certificate_file = policy.start_up.state_dir + "/self-signed.crt";
    own.key_file = policy.start_up.state_dir + "/self-signed.key";
    if (!policy.tls.certificate_file.empty() ||
        (fs::exists(own.certificate_file) && fs::exists(own.key_file))) {
        return own;
    }
    const auto made = tls_offload::make_self_signed(policy.hostname, own.certificate_file,
                                                    own.key_file, clock.wall_now());
    if (!made) throw StartError("no certificate: " + made.error());
    log_line(LogLevel::warning, "self_signed_certificate",
             {{"file", own.certificate_file}, {"remedy", "set [tls] certificate and key"}});
    return own;
}

/// What every shard's TLS stands on. The relief comes first: it must be there before anybody else
/// uses OpenSSL.
std::unique_ptr<tls_offload::Keeper> open_certificates(const policy::Policy& policy,
                                                       const tls_offload::CertificateFiles& own) {
    const auto relief = tls_offload::use_relief(daemon::relief_of(policy.start_up.openssl_relief));
    log_line(LogLevel::info, "openssl_relief",
             {{"active", relief.active ? "yes" : "no"}, {"text", relief.text}});
    auto opened =
        tls_offload::Keeper::open(daemon::tls_settings(policy, own),
                                  [](bool trouble, std::string_view event, std::string_view text) {
                                      log_line(trouble ? LogLevel::warning : LogLevel::info, event,
                                               {{"text", std::string(text)}});
                                  });
    if (!opened) throw StartError(opened.error());
    return std::move(*opened);
}

void log_port(const daemon::NetPort& port, unsigned shards) {
    const net::EthdevReport& report = port.report();
    log_line(LogLevel::info, "port",
             {{"name", port.name()},
              {"device", report.device},
              {"driver", report.driver},
              {"mtu", std::to_string(report.mtu)},
              {"queues", std::to_string(report.queue_count)},
              {"link", report.link_up ? "up" : "down"}});
    if (!report.why_mtu.empty()) {
        log_line(LogLevel::warning, "port_mtu",
                 {{"name", port.name()},
                  {"wanted", std::to_string(report.mtu_wanted)},
                  {"used", std::to_string(report.mtu)},
                  {"why", report.why_mtu}});
    }
    for (const net::EthdevReport::Feature& feature : report.features) {
        log_line(LogLevel::info, "port_feature",
                 {{"name", port.name()},
                  {"feature", feature.name},
                  {"done_by", feature.device ? "device" : "software"},
                  {"why", feature.why}});
    }
    const daemon::NetPort::Sharing sharing = port.sharing();
    log_line(LogLevel::info, "port_shared",
             {{"name", port.name()},
              {"shards", std::to_string(shards)},
              {"by", std::string{sharing.by}},
              {"why", sharing.why}});
}

std::unique_ptr<daemon::NetHost> open_ports(const policy::StartUp& start_up) {
    auto opened = daemon::NetHost::open(start_up);
    if (!opened) throw StartError(opened.error());
    for (const std::unique_ptr<daemon::NetPort>& port : (*opened)->ports())
        log_port(*port, start_up.shards);
    return std::move(*opened);
}

std::unique_ptr<daemon::OffloadHost> open_offload(const policy::StartUp& start_up,
                                                  bool dpdk_is_up) {
    auto opened = daemon::OffloadHost::open(start_up, dpdk_is_up);
    if (!opened) throw StartError(opened.error());
    for (const tls_offload::offload::Finding& finding : (*opened)->backends().findings()) {
        log_line(LogLevel::info, "offload",
                 {{"backend", std::string(finding.backend)},
                  {"used", finding.used ? "yes" : "no"},
                  {"text", finding.text}});
    }
    return std::move(*opened);
}

void log_started(unsigned shard, const daemon::ShardStarted& started) {
    const queue::RecoveryReport& report = started.recovery;
    log_line(LogLevel::info, "spool_recovered",
             {{"shard", std::to_string(shard)},
              {"messages", std::to_string(report.messages_recovered)},
              {"records", std::to_string(report.records_read)},
              {"damaged", std::to_string(report.records_damaged)},
              {"torn_tails", std::to_string(report.torn_tails)},
              {"possible_duplicates", std::to_string(report.possible_duplicates)},
              {"complete", report.complete ? "yes" : "no, the rest follows"},
              {"took_ms", std::to_string(report.took.count())}});
    if (report.checkpoint_lost) {
        log_line(
            LogLevel::warning, "spool_checkpoint_lost",
            {{"shard", std::to_string(shard)},
             {"text", "the checkpoint cannot be read: the whole spool is, and what was finished "
                      "since may be delivered again"}});
    }
    if (report.complete && report.records_damaged != 0) {
        log_line(LogLevel::error, "spool_damage",
                 {{"shard", std::to_string(shard)}, {"text", daemon::describe_damage(report)}});
    }
    for (const base::SocketAddress& address : started.addresses) {
        log_line(LogLevel::info, "listening",
                 {{"shard", std::to_string(shard)}, {"address", address.to_string()}});
    }
}

/// Whether an attached pool holds nothing more to deliver; says now and then how much there is.
class AttachedPool {
public:
    explicit AttachedPool(const daemon::Shard& shard) : shard_(shard) {}
    [[nodiscard]] bool empty() {
        const std::optional<std::uint64_t> left = shard_.left();
        const auto now = std::chrono::steady_clock::now();
        if (left && (*left == 0 || now >= told_ + attached_told_every)) {
            log_line(LogLevel::info, "attached_spool", {{"messages_left", std::to_string(*left)}});
            told_ = now;
        }
        return left == 0;
    }

private:
    const daemon::Shard& shard_;
    std::chrono::steady_clock::time_point told_{};
};

/// Waits for signals and passes the shards' notes on, until it is time to stop.
void serve(const sigset_t& signals, std::vector<std::unique_ptr<daemon::Shard>>& shards,
           telemetry::EventLog& events, const std::function<bool()>& done) {
    const timespec wait{0, std::chrono::nanoseconds{signal_wait}.count()};
    std::uint64_t lost_told = 0;
    for (;;) {
        const int signal = sigtimedwait(&signals, nullptr, &wait);
        for (const auto& shard : shards)
            shard->drain_log();
        if (const std::uint64_t lost = events.lost_count(); lost != lost_told) {
            log_line(LogLevel::error, "events_lost", {{"count", std::to_string(lost)}});
            lost_told = lost;
        }
        if (signal == SIGHUP) {
            events.reopen();
            log_line(LogLevel::info, "event_log_reopened", {});
        }
        if (done()) return;
        if (signal == SIGTERM || signal == SIGINT) {
            log_line(LogLevel::info, "stopping", {{"signal", strsignal(signal)}});
            return;
        }
    }
}

int run(const Options& options) {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP})
        sigaddset(&signals, signal);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr); // before the first thread: all inherit it
    std::signal(SIGPIPE, SIG_IGN);

    const base::RealClock clock;
    policy::PolicyPtr policy = first_policy(options);
    const bool attached = !options.attach.empty();
    if (attached) {
        auto made = daemon::deliver_only(*policy, options.attach, options.attach_key);
        if (!made) throw StartError(made.error());
        policy = std::move(*made);
    }
    const policy::StartUp& start_up = policy->start_up;
    make_folder(start_up.state_dir);
    make_folder(start_up.run_dir);
    const unsigned first_shard = attached ? start_up.shards - 1 : 0;
    if (!attached) make_folder(start_up.spool_dir);
    if (!attached && !start_up.mirror_dir.empty()) {
        std::error_code gone; // one half of a mirror may be
        fs::create_directories(start_up.mirror_dir, gone);
    }
    // An attached pool has its own lock, and the node's relay may be running.
    const int lock = lock_state(attached ? start_up.run_dir : start_up.state_dir);
    if (!attached) refuse_orphans(start_up);
    raise_descriptor_limit();
    const tls_offload::CertificateFiles own = own_certificate(*policy, clock);
    const auto certificates = open_certificates(*policy, own); // outlives the shards

    std::unique_ptr<daemon::NetHost> net; // outlives the shards
    if (!start_up.ports.empty()) net = open_ports(start_up);
    const std::unique_ptr<daemon::OffloadHost> offload = open_offload(start_up, net != nullptr);

    telemetry::StatsFile stats(start_up.run_dir + "/stats.page", start_up.shards, clock.wall_now());
    telemetry::EventLog events(start_up.event_log, policy->hostname);
    delivery::DnsService dns({.servers = start_up.dns_servers,
                              .threads = start_up.resolver_threads,
                              .shards = start_up.shards,
                              .dnssec = start_up.dnssec});
    delivery::SiteLedger ledger;
    daemon::RuleCache rules;
    daemon::DkimCache dkim_keys;
    policy::ControlLink link(
        {.socket_path = start_up.run_dir + "/control.sock",
         .snapshot_path = options.state_dir + "/policy.snapshot",
         .log =
             [](std::string_view line) {
                 log_line(LogLevel::info, "control_link", {{"text", std::string(line)}});
             },
         .prepare =
             [&rules, &dkim_keys](const policy::PolicyPtr& next) {
                 const auto loaded = rules.get(next);
                 if (!loaded) return "screening rules: " + loaded.error().text;
                 const auto keys = dkim_keys.get(next);
                 return keys ? std::string{} : "DKIM keys: " + keys.error();
             },
         .adopt =
             [&certificates, &own](const policy::PolicyPtr& next) {
                 const std::string kept = certificates->use(daemon::tls_settings(*next, own));
                 return kept.empty() ? kept : "the certificates stay as they were: " + kept;
             },
         .certificates = [&certificates](bool reload) -> std::expected<std::string, std::string> {
             if (reload) {
                 if (const std::string kept = certificates->reload(); !kept.empty())
                     return std::unexpected("the certificates stay as they were: " + kept);
             }
             return daemon::certificates_json(*certificates);
         }},
        policy);

    const std::vector<delivery::StandingOrder> orders = standing_orders(options.state_dir);
    std::random_device entropy;
    daemon::SpoolDevices devices; // both outlive the shards
    const daemon::SpoolTampering tampering = tampering_of(options);
    std::vector<std::unique_ptr<daemon::Shard>> shards;
    for (unsigned index = first_shard; index < start_up.shards; ++index) {
        const std::uint64_t seed = std::uint64_t{entropy()} << 32 | entropy();
        shards.push_back(std::make_unique<daemon::Shard>(
            index, daemon::ShardParts{clock, policy, link, dns, ledger, rules, dkim_keys,
                                      stats.shard(index), events, net.get(), *certificates,
                                      offload->backends(), seed, devices, tampering, orders,
                                      options.attach}));
    }
    events.start();
    for (const auto& shard : shards)
        shard->start();
    std::string failure;
    for (unsigned index = first_shard; index < start_up.shards; ++index) {
        auto started = shards[index - first_shard]->wait_ready();
        if (started) {
            log_started(index, *started);
        } else if (failure.empty()) {
            failure = "shard " + std::to_string(index) + ": " + started.error();
        }
    }
    if (failure.empty()) {
        if (!attached) link.start(); // the node's relay is who control speaks with
        certificates->start();
        log_line(LogLevel::info, "ready",
                 {{"shards", std::to_string(start_up.shards)},
                  {"policy_version", std::to_string(policy->version)}});
        AttachedPool pool(*shards.front());
        serve(signals, shards, events, [&] { return attached && pool.empty(); });
    }
    const bool mail_left = attached && shards.front()->left() != 0;
    for (const auto& shard : shards)
        shard->request_stop();
    for (const auto& shard : shards) {
        shard->join();
        shard->drain_log();
    }
    link.stop();
    certificates->stop();
    dns.stop();
    shards.clear();
    close(lock);
    if (!failure.empty()) throw StartError(failure);
    log_line(LogLevel::info, "stopped", {});
    return mail_left ? exit_mail_left : 0;
}

} // namespace

int main(int argc, char** argv) {
    Options options;
    CLI::App app{"millraced: the Millrace data plane. Its configuration comes from "
                 "millrace-control as a policy "
                 "snapshot in the state folder."};
    app.add_option("--state-dir", options.state_dir, "folder that holds policy.snapshot")
        ->capture_default_str();
    app.add_option("--wait", options.wait_s, "seconds to wait for the first policy snapshot")
        ->capture_default_str();
    app.add_option(
           "--spool-journal", options.journal_dir,
           "for tests: an existing folder where everything that new spools do to their disks is "
           "written down")
        ->check(CLI::ExistingDirectory);
    app.add_option(
        "--spool-faults", options.spool_faults,
        "for tests: what fails in each spool: write:io:100+3 is three writes from the "
        "hundredth; write, flush or read; io, short, space or hang; no count after + is for good");
    app.add_option("--mirror-faults", options.mirror_faults, "for tests: the same in mirror_dir");
    app.add_option(
           "--attach", options.attach,
           "deliver this dead node's pool and nothing else: accept no mail, end when it is empty "
           "(status 0), or at a signal with mail left (status 2)")
        ->type_name("POOL");
    app.add_option(
           "--attach-key", options.attach_key,
           "key file of that pool, or env:NAME, when it was encrypted with another key than this "
           "node's")
        ->type_name("SOURCE");
    CLI11_PARSE(app, argc, argv);
    try {
        return run(options);
    } catch (const std::exception& error) {
        log_line(LogLevel::error, "start_failed", {{"text", error.what()}});
        return 1;
    }
}
