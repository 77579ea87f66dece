#include "dataplane/loadgen/crypto_turns.h"

#include "dataplane/base/uring.h"
#include "dataplane/net/kernel/kernel_transport.h"
#include "tls_offload/bench/tls_bench.h"
#include "tls_offload/bench/turn_meter.h"
#include "tls_offload/engine/engine.h"
#include "tls_offload/engine/inline_backend.h"
#include "tls_offload/engine/worker_pool.h"
#include "tls_offload/tls_stream.h"

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <sched.h>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

namespace dataplane::loadgen {
namespace {

namespace offload = tls_offload::offload;
using base::Deadline;
using base::Task;

constexpr unsigned clients = 32;
constexpr unsigned key_bits = 4096;
constexpr double slow_us = 1000;
constexpr auto handshake_limit = std::chrono::seconds{10};
constexpr auto warm_up = std::chrono::milliseconds{300};

void pin_to(unsigned cpu) {
    if (cpu >= std::thread::hardware_concurrency()) return;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set);
}

class TemporaryPair {
public:
    TemporaryPair() {
        folder_ = (std::filesystem::temp_directory_path() / "millrace-bench-XXXXXX").string();
        if (mkdtemp(folder_.data()) == nullptr)
            throw std::system_error(errno, std::generic_category(), folder_);
        tls_offload::bench::write_rsa_pair(key_bits, certificate(), key());
    }
    ~TemporaryPair() {
        std::error_code ignored;
        std::filesystem::remove_all(folder_, ignored);
    }
    TemporaryPair(const TemporaryPair&) = delete;
    TemporaryPair& operator=(const TemporaryPair&) = delete;
    [[nodiscard]] std::string certificate() const { return folder_ + "/certificate.pem"; }
    [[nodiscard]] std::string key() const { return folder_ + "/key.pem"; }

private:
    std::string folder_;
};

struct Shared {
    base::SocketAddress server;
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> handshakes{0};
};

Task<void> come_again(base::Loop& loop, net::kernel::KernelTransport& transport,
                      tls_offload::ClientContext& context, Shared& shared, unsigned& running) {
    const tls_offload::ClientOptions options{.server_name = "mx.example.com"};
    while (!shared.stop.load(std::memory_order_relaxed)) {
        const Deadline deadline = Deadline::in(loop, handshake_limit);
        auto plain = co_await transport.connect(shared.server, std::nullopt, deadline);
        if (!plain) continue;
        auto secured = co_await connect_tls(std::move(*plain), context, options, deadline);
        if (!secured) continue;
        shared.handshakes.fetch_add(1, std::memory_order_relaxed);
        (*secured)->close();
    }
    if (--running == 0) loop.stop();
}

void run_clients(Shared& shared) {
    pin_to(1);
    const base::RealClock clock;
    base::Uring ring;
    base::Loop loop{clock};
    net::kernel::KernelTransport transport(loop, ring);
    tls_offload::TlsLibrary library(loop);
    tls_offload::ClientContextOptions options;
    options.session_keys_max = 0; // every handshake in full
    auto context = tls_offload::ClientContext::create(library, options);
    CHECK(context.has_value());
    unsigned running = clients;
    for (unsigned i = 0; i < clients; ++i)
        loop.spawn(come_again(loop, transport, *context, shared, running), "client");
    loop.run(ring);
    loop.drop_tasks();
}

Task<void> serve(base::Loop& loop, base::StreamPtr plain, tls_offload::ServerContext& context) {
    const Deadline deadline = Deadline::in(loop, handshake_limit);
    auto secured = co_await accept_tls(std::move(plain), context, deadline);
    if (!secured) co_return;
    static_cast<void>(co_await (*secured)->fill(deadline)); // its end
    (*secured)->close();
}

Task<void> accept_all(base::Loop& loop, base::Listener& listener,
                      tls_offload::ServerContext& context) {
    for (;;) {
        auto plain = co_await listener.accept(Deadline::never());
        if (!plain) co_return;
        loop.spawn(serve(loop, std::move(*plain), context), "serve");
    }
}

Task<void> end_after(base::Loop& loop, std::chrono::milliseconds time) {
    static_cast<void>(co_await base::sleep_for(loop, time));
    loop.stop();
}

} // namespace

TurnsSeen measure_turns(bool with_engine, std::chrono::milliseconds time) {
    const TemporaryPair pair;
    const base::RealClock clock;
    base::Uring ring;
    base::Loop loop{clock};
    net::kernel::KernelTransport transport(loop, ring);
    std::optional<offload::WorkerPool> pool;
    std::optional<offload::Engine> engine;
    tls_offload::TlsLibrary library(loop);
    if (with_engine) {
        offload::WorkerPoolOptions options;
        options.cores = {1};
        pool.emplace(std::move(options));
        std::vector<std::unique_ptr<offload::Backend>> backends;
        backends.push_back(pool->backend(0, &ring.wakeup()));
        backends.push_back(offload::make_inline_backend());
        engine.emplace(loop, std::move(backends));
        ring.add_inbox(*engine);
        library.sign_with(*engine);
    }
    auto context = tls_offload::ServerContext::create(
        library, {.certificate_file = pair.certificate(), .key_file = pair.key()});
    if (!context) throw std::runtime_error(context.error().text);
    auto listener = transport.listen(*base::SocketAddress::parse("127.0.0.1:0"), {});
    if (!listener) throw std::runtime_error("cannot listen on 127.0.0.1");

    Shared shared{.server = (*listener)->local()};
    std::thread client([&] { run_clients(shared); });
    cpu_set_t before;
    sched_getaffinity(0, sizeof before, &before);
    pin_to(0);
    tls_offload::bench::TurnMeter meter;
    const base::TimePoint begin = clock.now() + warm_up;
    loop.spawn(accept_all(loop, **listener, *context), "accept");
    loop.spawn(end_after(loop, warm_up + time), "end");
    meter.run(loop, ring, false, [&] { return loop.now() >= begin; });
    shared.stop = true;
    (*listener)->close();
    loop.drop_tasks(); // resets the clients' connections
    // Those that a client still opens nobody accepts any more: the listener's socket is closed.
    for (unsigned i = 0; i < 100; ++i) {
        ring.poll();
        loop.turn();
    }
    client.join();
    sched_setaffinity(0, sizeof before, &before);
    if (engine) ring.remove_inbox(*engine);

    return {.handshakes = shared.handshakes,
            .turns = meter.turns(),
            .slow_turns = meter.over(slow_us),
            .cpu_us_max = meter.cpu_us_max(),
            .wall_us_max = meter.wall_us_max()};
}

} // namespace dataplane::loadgen
