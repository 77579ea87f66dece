// echo_bench.cc: requests and responses over loopback, for finding waste in our own code. Not a
// test.
//
// Usage: net_echo_bench [SECONDS [CONNECTIONS [BYTES]]]. Two shards on two threads: one echoes, one
// asks. Prints round trips per second, and for each side what a round trip cost in turns, ring
// entries and CPU time.
#include "dataplane/base/loop.h"
#include "dataplane/base/uring.h"
#include "dataplane/net/kernel/kernel_transport.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <thread>

namespace dataplane::net::kernel {
namespace {

using namespace std::chrono_literals;

struct Side {
    base::RealClock clock;
    base::Loop loop{clock};
    base::Uring ring;
    KernelTransport transport{loop, ring};
    ~Side() { loop.drop_tasks(); }
};

double thread_cpu_seconds() {
    timespec ts{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return static_cast<double>(ts.tv_sec) + static_cast<double>(ts.tv_nsec) * 1e-9;
}

base::Task<void> echo(base::StreamPtr stream) {
    for (;;) {
        const auto filled = co_await stream->fill(base::Deadline::never());
        if (!filled) break;
        const auto written = co_await stream->write(stream->unread(), base::Deadline::never());
        if (!written) break;
        stream->consume(stream->unread().size());
    }
    stream->close();
}

base::Task<void> serve(base::Loop& loop, base::Listener& listener) {
    for (;;) {
        auto stream = co_await listener.accept(base::Deadline::never());
        if (!stream) co_return;
        loop.spawn(echo(std::move(*stream)), "echo");
    }
}

base::Task<void> ask(Side& side, base::SocketAddress remote, std::size_t bytes, base::TimePoint end,
                     std::uint64_t& round_trips) {
    auto stream =
        co_await side.transport.connect(remote, std::nullopt, base::Deadline::in(side.loop, 5s));
    if (!stream) co_return;
    const std::string line(bytes, 'x');
    while (side.loop.now() < end) {
        const auto written =
            co_await (*stream)->write(base::as_bytes(line), base::Deadline::in(side.loop, 5s));
        if (!written) co_return;
        for (std::size_t got = 0; got < bytes;) {
            const auto filled = co_await (*stream)->fill(base::Deadline::in(side.loop, 5s));
            if (!filled) co_return;
            got += (*stream)->unread().size();
            (*stream)->consume((*stream)->unread().size());
        }
        ++round_trips;
    }
    (*stream)->close();
}

void report(const char* name, const Side& side, double cpu_seconds, std::uint64_t round_trips) {
    const auto each = [&](std::uint64_t count) {
        return static_cast<double>(count) / static_cast<double>(round_trips);
    };
    std::printf("%-7s per round trip: %.3f us cpu, %.3f turns, %.3f ring entries, %.3f sends, %.3f "
                "receives\n",
                name, cpu_seconds * 1e6 / static_cast<double>(round_trips),
                each(side.loop.counters().turns), each(side.ring.enter_count()),
                each(side.transport.counters().sends), each(side.transport.counters().receives));
}

int run(double seconds, int connections, std::size_t bytes) {
    std::atomic<std::uint16_t> port{0};
    std::atomic<bool> finished{false};
    std::atomic<std::uint64_t> final_round_trips{0};
    std::thread server{[&] {
        Side side;
        auto listener = side.transport.listen({*base::IpAddress::parse("127.0.0.1"), 0}, {});
        if (!listener) std::abort();
        side.loop.spawn(serve(side.loop, **listener), "serve");
        port.store((*listener)->local().port);
        const double cpu_before = thread_cpu_seconds();
        while (!finished.load(std::memory_order_relaxed)) {
            side.ring.poll();
            if (side.loop.turn()) continue;
            side.ring.sleep_until(side.loop.now(), side.loop.now() + 10ms);
        }
        report("server", side, thread_cpu_seconds() - cpu_before, final_round_trips.load());
    }};
    while (port.load() == 0)
        std::this_thread::yield();
    std::uint64_t round_trips = 0;
    {
        Side side;
        const base::TimePoint end =
            side.clock.now() + base::Duration{static_cast<std::int64_t>(seconds * 1e9)};
        for (int i = 0; i < connections; ++i) {
            side.loop.spawn(ask(side, {*base::IpAddress::parse("127.0.0.1"), port.load()}, bytes,
                                end, round_trips),
                            "ask");
        }
        const double cpu_before = thread_cpu_seconds();
        while (side.loop.spawned_count() > 0) {
            side.ring.poll();
            if (side.loop.turn()) continue;
            side.ring.sleep_until(side.loop.now(), side.loop.next_due());
        }
        std::printf("%.0f round trips/s\n", static_cast<double>(round_trips) / seconds);
        report("client", side, thread_cpu_seconds() - cpu_before, round_trips);
    }
    final_round_trips.store(round_trips);
    finished.store(true);
    server.join();
    return 0;
}

} // namespace
} // namespace dataplane::net::kernel

int main(int argc, char** argv) {
    const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
    const int connections = argc > 2 ? std::atoi(argv[2]) : 50;
    const int bytes = argc > 3 ? std::atoi(argv[3]) : 64;
    if (seconds <= 0 || connections <= 0 || bytes <= 0) {
        std::fprintf(stderr, "usage: %s [SECONDS [CONNECTIONS [BYTES]]]\n", argv[0]);
        return 2;
    }
    return dataplane::net::kernel::run(seconds, connections, static_cast<std::size_t>(bytes));
}
