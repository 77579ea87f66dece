// offload_bench.cc: DKIM's signatures through the engine, backend by backend: rate, and what the shard pays.
//
// Scope      Not a test: `ninja tests/tls_offload/engine/offload_bench`, then run it by hand on a quiet machine.
//            shard_us is the shard thread's own CPU time for each signature, everything included: coroutine,
//            hand-over, polling, waking. turn_max_us is the longest turn of the loop.
#include "dataplane/base/uring.h"
#include "tests/tls_offload/engine/rig.h"
#include "tls_offload/engine/mb8_kernel.h"
#include "tls_offload/engine/sim_backend.h"
#include "tls_offload/engine/worker_pool.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <time.h>

namespace tests {
namespace {

double cpu_seconds() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

struct Measure {
    unsigned signatures = 2000;
    unsigned at_once = 64;
    unsigned bits = 2048;
};

base::Task<void> sign_many(offload::Engine& engine, offload::KeyRef key, unsigned& left,
                           unsigned& running) {
    const offload::Sha256Digest digest = digest_of("message");
    while (left > 0) {
        --left;
        const offload::SignResult made =
            co_await engine.sign_sha256(key, digest, base::Deadline::never());
        CHECK(made.has_value());
    }
    if (--running == 0) engine.loop().stop();
}

void measure(std::string_view name, const Measure& wanted,
             const std::function<std::unique_ptr<offload::Backend>(base::Wakeup&)>& make) {
    base::RealClock clock;
    base::Uring ring;
    base::Loop loop{clock};
    Rig::Backends backends;
    if (make) backends.push_back(make(ring.wakeup()));
    backends.push_back(offload::make_inline_backend());
    offload::Engine engine(loop, std::move(backends), {.high_water = 1U << 20});
    ring.add_inbox(engine);
    base::Duration turn_max{};
    loop.watch(base::Duration::zero(), [&](const base::SlowTurn& slow) {
        if (slow.turn > turn_max) turn_max = slow.turn;
    });
    const offload::KeyRef key = engine_key(wanted.bits);
    unsigned left = wanted.signatures, running = wanted.at_once;
    for (unsigned i = 0; i < wanted.at_once; ++i)
        loop.spawn(sign_many(engine, key, left, running), "bench");
    const base::TimePoint begin = clock.now();
    const double cpu = cpu_seconds();
    loop.run(ring);
    const double seconds = std::chrono::duration<double>(clock.now() - begin).count();
    const double shard_us = (cpu_seconds() - cpu) * 1e6 / wanted.signatures;
    const offload::EngineCounters& counters = engine.counters();
    std::printf("%-22.*s rsa%u  %8.0f/s  shard_us %7.2f  turn_max_us %7.0f  fallbacks %llu\n",
                static_cast<int>(name.size()), name.data(), wanted.bits,
                wanted.signatures / seconds, shard_us,
                std::chrono::duration<double, std::micro>(turn_max).count(),
                static_cast<unsigned long long>(counters.fallbacks));
    ring.remove_inbox(engine);
}

} // namespace
} // namespace tests

int main(int argc, char** argv) {
    using namespace tests;
    Measure wanted;
    if (argc > 1) wanted.signatures = static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10));
    if (argc > 2) wanted.at_once = static_cast<unsigned>(std::strtoul(argv[2], nullptr, 10));
    if (argc > 3) wanted.bits = static_cast<unsigned>(std::strtoul(argv[3], nullptr, 10));
    if (wanted.signatures == 0 || wanted.at_once == 0) {
        std::fputs("usage: offload_bench [SIGNATURES [AT_ONCE [KEY_BITS]]]\n", stderr);
        return 2;
    }
    measure("inline", wanted, {});
    {
        offload::WorkerPool pool({.workers = 1});
        measure("threads (1)", wanted,
                [&](base::Wakeup& wakeup) { return pool.backend(0, &wakeup); });
        Measure large = wanted;
        large.bits = 4096;
        large.signatures = wanted.signatures / 16 + 1;
        measure("threads (1)", large,
                [&](base::Wakeup& wakeup) { return pool.backend(0, &wakeup); });
    }
    if (const auto library = offload::Mb8Library::open()) {
        offload::WorkerPool pool(
            {.kernel = [&] { return (*library)->make_kernel(); }, .name = "mb8"});
        measure("mb8 (1 worker)", wanted,
                [&](base::Wakeup& wakeup) { return pool.backend(0, &wakeup); });
        measure("mb8 (on the shard)", wanted, [&](base::Wakeup&) {
            return offload::make_inline_backend((*library)->make_kernel(), "mb8");
        });
    } else {
        std::printf("mb8                    %s\n", library.error().c_str());
    }
    return 0;
}
