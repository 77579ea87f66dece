#include "dataplane/loadgen/runtime.h"

#include "dataplane/net/port/eal.h"
#include "dataplane/net/port/ethdev_port.h"
#include "dataplane/net/port/impaired_port.h"
#include "dataplane/net/stack/driver.h"
#include "dataplane/net/stack/stack.h"
#include "tls_offload/self_signed.h"
#include "tls_offload/tls_stream.h"
#include "tls_offload/version.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <sched.h>
#include <stdexcept>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <utility>

namespace dataplane::loadgen {
namespace {

std::atomic<bool> stop_seen{false};
std::atomic<bool> report_seen{false};
static_assert(std::atomic<bool>::is_always_lock_free, "signal handlers write these");

void on_signal(int number) {
    (number == SIGUSR1 ? report_seen : stop_seen).store(true, std::memory_order_relaxed);
}

base::NetError to_net_error(const tls_offload::TlsFailure& failure) noexcept {
    switch (failure.reason) {
    case tls_offload::TlsFailureReason::timed_out:
        return base::NetError::timed_out;
    case tls_offload::TlsFailureReason::cancelled:
        return base::NetError::cancelled;
    case tls_offload::TlsFailureReason::peer_closed:
        return base::NetError::end_of_stream;
    case tls_offload::TlsFailureReason::network:
        return failure.net_error;
    case tls_offload::TlsFailureReason::alert:
    case tls_offload::TlsFailureReason::certificate:
    case tls_offload::TlsFailureReason::protocol:
    case tls_offload::TlsFailureReason::internal:
        break;
    }
    return base::NetError::tls;
}

class ClientTls final : public TlsWrapper {
public:
    ClientTls(tls_offload::ClientContext context, std::string server_name)
        : context_(std::move(context)), options_{.server_name = std::move(server_name)} {}
    base::Task<base::NetResult<base::StreamPtr>>
    wrap(base::StreamPtr plain, base::Deadline deadline, std::size_t client) override {
        tls_offload::ClientOptions options = options_;
        options.session_scope = std::to_string(client);
        auto secured =
            co_await tls_offload::connect_tls(std::move(plain), context_, options, deadline);
        if (!secured) co_return std::unexpected(to_net_error(secured.error()));
        co_return std::move(*secured);
    }

private:
    tls_offload::ClientContext context_;
    tls_offload::ClientOptions options_;
};

class ServerTls final : public TlsWrapper {
public:
    explicit ServerTls(tls_offload::ServerContext context) : context_(std::move(context)) {}
    base::Task<base::NetResult<base::StreamPtr>>
    wrap(base::StreamPtr plain, base::Deadline deadline, std::size_t) override {
        auto secured = co_await tls_offload::accept_tls(std::move(plain), context_, deadline);
        if (!secured) co_return std::unexpected(to_net_error(secured.error()));
        co_return std::move(*secured);
    }

private:
    tls_offload::ServerContext context_;
};

} // namespace

void catch_signals() {
    struct sigaction action{};
    action.sa_handler = on_signal;
    for (const int number : {SIGTERM, SIGINT, SIGUSR1})
        sigaction(number, &action, nullptr);
    std::signal(SIGPIPE, SIG_IGN);
}

SignalsSeen take_signals() noexcept {
    return {stop_seen.exchange(false), report_seen.exchange(false)};
}

std::vector<std::pair<std::string, std::string>> library_versions() {
    return {{"OpenSSL", tls_offload::openssl_version()}, {"DPDK", net::dpdk_version()}};
}

void raise_descriptor_limit() noexcept {
    rlimit limit{};
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
    limit.rlim_cur = limit.rlim_max;
    static_cast<void>(setrlimit(RLIMIT_NOFILE, &limit)); // a refusal shows up as failing connects
}

void pin_to_cpu(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<std::size_t>(cpu), &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
        throw std::system_error(errno, std::generic_category(), "--cpu " + std::to_string(cpu));
    }
}

void be_punctual() noexcept {
    prctl(PR_SET_TIMERSLACK, 1UL);
    const sched_param priority{.sched_priority = 1};
    static_cast<void>(sched_setscheduler(0, SCHED_RR, &priority));
}

/// Later members stand on earlier ones.
struct Runtime::OwnStack {
    OwnStack(base::Loop& loop, base::Uring& ring, net::Eal environment,
             std::unique_ptr<net::EthdevPort> device, net::ShardThread shard_thread,
             const NetOptions& options, net::ip::LayerOptions layer, net::stack::StackOptions tcp)
        : eal(std::move(environment)), port(std::move(device)), thread(std::move(shard_thread)),
          line(make_line(port->queue(0), options)),
          stack(loop, line ? static_cast<net::Port&>(*line) : port->queue(0), std::move(layer),
                tcp),
          driver(loop, ring, stack, line.get()), busy_poll(options.busy_poll) {}

    static std::unique_ptr<net::ImpairedPort> make_line(net::Port& below,
                                                        const NetOptions& options) {
        net::ImpairmentOptions way;
        way.delay = options.delay;
        way.loss = options.loss;
        way.reorder = options.reorder;
        way.duplicate = options.duplicate;
        if (way.loss == 0 && way.reorder == 0 && way.duplicate == 0 && way.delay.count() == 0)
            return nullptr;
        return std::make_unique<net::ImpairedPort>(
            below, net::ImpairedPortOptions{.receive = way, .transmit = way});
    }

    /// Polls the line, the stack and the ring in one turn.
    class PollDriver final : public base::Driver {
    public:
        PollDriver(base::Loop& loop, base::Uring& ring, net::stack::Stack& stack,
                   net::ImpairedPort* line) noexcept
            : loop_(loop), stack_({&stack}, ring), line_(line) {}
        void poll() override {
            if (line_ != nullptr) line_->poll(loop_.now());
            stack_.poll();
        }
        void sleep_until(base::TimePoint now, base::TimePoint until) override {
            stack_.sleep_until(now, until);
        }

    private:
        base::Loop& loop_;
        net::stack::StackDriver stack_;
        net::ImpairedPort* line_;
    };

    net::Eal eal;
    std::unique_ptr<net::EthdevPort> port;
    net::ShardThread thread;
    std::unique_ptr<net::ImpairedPort> line;
    net::stack::Stack stack;
    PollDriver driver;
    bool busy_poll;
};

Runtime::Runtime(const NetOptions& options) : loop_(clock_), tls_library_(loop_) {
    if (options.device.empty()) {
        kernel_.emplace(loop_, ring_);
        return;
    }
    const auto must = [](auto result) {
        if (!result) throw std::runtime_error(result.error().text);
        return std::move(*result);
    };
    net::Eal eal =
        must(net::Eal::start({.huge_pages = options.huge_pages,
                              .memory_mb = options.memory_mb,
                              .file_prefix = "millrace-bench-" + std::to_string(getpid())}));
    const std::string name = must(eal.add_device(options.device));
    auto port = must(net::EthdevPort::open({.device = name, .mtu = options.mtu}));
    net::ip::LayerOptions layer;
    layer.mtu = options.mtu;
    for (const std::string& text : options.addresses) {
        const std::size_t slash = text.find('/');
        const auto ip = base::IpAddress::parse(text.substr(0, slash));
        const int bits = slash == std::string::npos ? -1 : std::atoi(text.c_str() + slash + 1);
        if (!ip || bits < 0) throw std::runtime_error("'" + text + "' is not ADDRESS/PREFIX");
        layer.addresses.push_back({*ip, static_cast<unsigned>(bits)});
    }
    net::stack::StackOptions tcp{.connections_max = options.connections_max};
    std::random_device entropy;
    for (std::uint64_t& word : tcp.secret)
        word = std::uint64_t{entropy()} << 32 | entropy();
    own_ =
        std::make_unique<OwnStack>(loop_, ring_, std::move(eal), std::move(port),
                                   must(net::ShardThread::enter()), options, std::move(layer), tcp);
}

base::Transport& Runtime::transport() noexcept {
    if (own_ != nullptr) return own_->stack;
    return *kernel_;
}

const net::stack::Stack* Runtime::own_stack() const noexcept {
    return own_ != nullptr ? &own_->stack : nullptr;
}

std::uint64_t Runtime::port_drops() const {
    if (own_ == nullptr) return 0;
    const net::PortCounters& counters = own_->port->queue(0).counters();
    return counters.receive_missed + counters.receive_errors;
}

bool Runtime::wait_for_link(std::chrono::seconds limit) {
    const base::TimePoint end = clock_.now() + limit;
    while (own_ != nullptr && !own_->port->link_up()) {
        if (clock_.now() >= end) return false;
        std::this_thread::sleep_for(std::chrono::milliseconds{10});
    }
    return true;
}

// Tasks hold streams, and streams hold the transport's buffers.
Runtime::~Runtime() {
    loop_.drop_tasks();
}

std::unique_ptr<TlsWrapper> Runtime::client_tls(std::string server_name, std::size_t clients) {
    tls_offload::ClientContextOptions options;
    options.session_keys_max = clients;
    auto context = tls_offload::ClientContext::create(tls_library_, options);
    if (!context) throw std::runtime_error("TLS client: " + context.error().text);
    return std::make_unique<ClientTls>(std::move(*context), std::move(server_name));
}

std::unique_ptr<TlsWrapper> Runtime::server_tls(const std::string& host_name) {
    std::string folder =
        (std::filesystem::temp_directory_path() / "millrace-bench-XXXXXX").string();
    if (mkdtemp(folder.data()) == nullptr)
        throw std::system_error(errno, std::generic_category(), folder);
    struct Remove {
        std::string folder;
        ~Remove() {
            std::error_code ignored; // a left-over temporary folder is no reason to fail
            std::filesystem::remove_all(folder, ignored);
        }
    } const remove{folder};
    const std::string certificate = folder + "/certificate.pem";
    const std::string key = folder + "/key.pem";
    const auto made = tls_offload::make_self_signed(host_name, certificate, key, loop_.wall_now());
    if (!made) throw std::runtime_error("self-signed certificate: " + made.error());
    auto context = tls_offload::ServerContext::create(
        tls_library_, {.certificate_file = certificate, .key_file = key});
    if (!context) throw std::runtime_error("TLS server: " + context.error().text);
    return std::make_unique<ServerTls>(std::move(*context));
}

void Runtime::run(std::chrono::milliseconds every, std::function<void()> tick) {
    loop_.spawn(keep_ticking(every, &tick), "bench tick");
    if (own_ != nullptr) {
        loop_.run(own_->driver, own_->busy_poll);
    } else {
        loop_.run(ring_);
    }
    loop_.drop_tasks();
}

base::Task<void> Runtime::keep_ticking(std::chrono::milliseconds every,
                                       const std::function<void()>* tick) {
    for (;;) {
        static_cast<void>(co_await base::sleep_for(loop_, every));
        (*tick)();
    }
}

} // namespace dataplane::loadgen
