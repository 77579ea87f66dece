#include "tls_offload/bench/engine_bench.h"

#include "dataplane/base/uring.h"
#include "tls_offload/bench/turn_meter.h"
#include "tls_offload/engine/engine.h"
#include "tls_offload/engine/inline_backend.h"
#include "tls_offload/engine/mb8_kernel.h"
#include "tls_offload/engine/worker_pool.h"
#include "tls_offload/openssl.h"

#include <array>
#include <functional>
#include <sched.h>
#include <stdexcept>
#include <thread>
#include <utility>

namespace tls_offload::bench {
namespace {

using base::Deadline;
using base::Task;

constexpr unsigned at_once = 64; // messages whose signature is waited for
constexpr double shard_us_max = 5;
constexpr double turn_us_max = 1000;
constexpr double mb8_ratio_max = 1 / 2.5;

double cpu_us() {
    return static_cast<double>(thread_cpu_ns()) / 1e3;
}

/// Microseconds of EVP_DigestSign over the headers of a message.
double stock_us(EVP_PKEY& key, double seconds) {
    const std::string headers(700, 'h');
    const double end = cpu_us() + seconds * 1e6;
    const double begin = cpu_us();
    long count = 0;
    for (; cpu_us() < end; ++count) {
        const std::unique_ptr<EVP_MD_CTX, Release<EVP_MD_CTX_free>> context{EVP_MD_CTX_new()};
        std::array<unsigned char, 512> signature;
        std::size_t bytes = signature.size();
        if (EVP_DigestSignInit(context.get(), nullptr, EVP_sha256(), nullptr, &key) != 1 ||
            EVP_DigestSign(context.get(), signature.data(), &bytes,
                           reinterpret_cast<const unsigned char*>(headers.data()),
                           headers.size()) != 1)
            throw std::runtime_error("signing: " + take_error_text());
    }
    return (cpu_us() - begin) / static_cast<double>(count);
}

struct Seen {
    double us = 0;       // from one signature to the next
    double shard_us = 0; // the shard's own time for each, in the turns that submit or finish some
    double turn_us = 0;  // the longest turn, in CPU time
};

Task<void> sign_until(offload::Engine& engine, offload::KeyRef key, base::TimePoint end,
                      std::uint64_t& count, unsigned& running) {
    offload::Sha256Digest digest{};
    while (engine.loop().now() < end) {
        const offload::SignResult made =
            co_await engine.sign_sha256(key, digest, Deadline::never());
        CHECK(made.has_value());
        ++count;
    }
    if (--running == 0) engine.loop().stop();
}

using MakeBackend = std::function<std::unique_ptr<offload::Backend>(base::Wakeup&)>;

/// The shard on CPU 0 and the crypto worker on CPU 1, where there are two.
class Placed {
public:
    Placed() {
        sched_getaffinity(0, sizeof before_, &before_);
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(0, &set);
        if (std::thread::hardware_concurrency() > 1) sched_setaffinity(0, sizeof set, &set);
    }
    ~Placed() { sched_setaffinity(0, sizeof before_, &before_); }
    Placed(const Placed&) = delete;
    Placed& operator=(const Placed&) = delete;

private:
    cpu_set_t before_;
};

offload::WorkerPoolOptions one_worker() {
    offload::WorkerPoolOptions options;
    if (std::thread::hardware_concurrency() > 1) options.cores = {1};
    return options;
}

Seen sign(const EVP_PKEY& native, const MakeBackend& make, double seconds) {
    auto loaded = offload::PrivateKey::from_evp(native);
    if (!loaded) throw std::runtime_error(loaded.error().text);
    const Placed placed;
    const base::RealClock clock;
    base::Uring ring;
    base::Loop loop{clock};
    std::vector<std::unique_ptr<offload::Backend>> backends;
    if (make) backends.push_back(make(ring.wakeup()));
    backends.push_back(offload::make_inline_backend());
    // Nothing may overflow to the shard: the row is of one backend.
    offload::Engine engine(loop, std::move(backends), {.high_water = 1U << 20});
    ring.add_inbox(engine);
    TurnMeter meter;
    std::uint64_t count = 0;
    unsigned running = at_once;
    const base::TimePoint begin = clock.now();
    const base::TimePoint end =
        begin + std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(seconds));
    for (unsigned i = 0; i < at_once; ++i)
        loop.spawn(sign_until(engine, *loaded, end, count, running), "bench");
    // Without sleeping: a shard that has signatures to make has other work as well, and is awake.
    std::uint64_t before = 0;
    meter.run(loop, ring, true, [&] {
        const std::uint64_t now = engine.counters().submitted + engine.counters().completed;
        return std::exchange(before, now) != now;
    });
    const auto us = [](base::Duration time) {
        return std::chrono::duration<double, std::micro>(time).count();
    };
    ring.remove_inbox(engine);
    const auto made = static_cast<double>(count);
    return {us(clock.now() - begin) / made, meter.worked_us() / made, meter.cpu_us_max()};
}

KeyHandle make_key(unsigned bits) {
    KeyHandle key{EVP_RSA_gen(bits)};
    if (key == nullptr) throw std::runtime_error("making a key: " + take_error_text());
    return key;
}

} // namespace

SignatureRows signatures(double seconds) {
    SignatureRows out;
    const KeyHandle key = make_key(2048), large = make_key(4096);
    const double stock = stock_us(*key, seconds);
    const double stock_large = stock_us(*large, seconds);
    const auto add = [&](const char* backend, const MakeBackend& make, double ratio_max) {
        const Seen seen = sign(*key, make, seconds);
        out.rows.push_back({"dkim_rsa2048", backend, seen.us, stock, ratio_max, 0});
        return seen;
    };
    static_cast<void>(add("inline", {}, 0));
    {
        offload::WorkerPool pool(one_worker());
        const MakeBackend threads = [&](base::Wakeup& wakeup) { return pool.backend(0, &wakeup); };
        const Seen seen = add("threads", threads, 0);
        out.rows.push_back(
            {"dkim_rsa2048_shard", "threads", seen.shard_us, stock, 0, shard_us_max});
        const Seen slow = sign(*large, threads, seconds);
        out.rows.push_back({"dkim_rsa4096", "threads", slow.us, stock_large, 0, 0});
        out.rows.push_back({"dkim_rsa4096_shard", "threads", slow.shard_us, stock_large, 0, 0});
        out.rows.push_back(
            {"dkim_rsa4096_turn_max", "threads", slow.turn_us, stock_large, 0, turn_us_max});
    }
    if (const auto library = offload::Mb8Library::open()) {
        offload::WorkerPoolOptions options = one_worker();
        options.kernel = [&] { return (*library)->make_kernel(); };
        options.name = "mb8";
        offload::WorkerPool pool(std::move(options));
        static_cast<void>(add(
            "mb8", [&](base::Wakeup& wakeup) { return pool.backend(0, &wakeup); }, mb8_ratio_max));
        static_cast<void>(add(
            "mb8 (on the shard)",
            [&](base::Wakeup&) {
                return offload::make_inline_backend((*library)->make_kernel(), "mb8");
            },
            mb8_ratio_max));
    } else {
        out.left_out.push_back("mb8: " + library.error());
    }
    return out;
}

} // namespace tls_offload::bench
