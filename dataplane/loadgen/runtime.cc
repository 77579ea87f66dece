#include "dataplane/loadgen/runtime.h"

#include "tls_offload/self_signed.h"
#include "tls_offload/tls_stream.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <sched.h>
#include <stdexcept>
#include <sys/resource.h>
#include <system_error>
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
    base::Task<base::NetResult<base::StreamPtr>> wrap(base::StreamPtr plain,
                                                      base::Deadline deadline) override {
        auto secured =
            co_await tls_offload::connect_tls(std::move(plain), context_, options_, deadline);
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
    base::Task<base::NetResult<base::StreamPtr>> wrap(base::StreamPtr plain,
                                                      base::Deadline deadline) override {
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

Runtime::Runtime() : loop_(clock_), transport_(loop_, ring_), tls_library_(loop_) {}

// Tasks hold streams, and streams hold the transport's buffers.
Runtime::~Runtime() {
    loop_.drop_tasks();
}

std::unique_ptr<TlsWrapper> Runtime::client_tls(std::string server_name) {
    auto context = tls_offload::ClientContext::create(tls_library_, {});
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
    loop_.run(ring_);
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
