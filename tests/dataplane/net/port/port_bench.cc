// Frames per second through EthdevPort alone, one sender and one receiver on a CPU each: over rings
// between two threads, and over memif between two processes.
//
//   port_bench [--huge] [SECONDS]
//
// Data frames are sent as the TCP layer sends them: a header to copy, payload in a slab, checksums asked
// for. The receiver looks at each frame's first bytes and releases it.
#include "dataplane/net/port/eal.h"
#include "dataplane/net/port/ethdev_port.h"
#include "frames.h"

#include <sched.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <thread>

extern char** environ;

namespace dataplane::net::test {
namespace {

using Steady = std::chrono::steady_clock;

bool huge = false;
double seconds = 2;

void pin(unsigned cpu) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    CPU_SET(cpu % std::thread::hardware_concurrency(), &cpus);
    sched_setaffinity(0, sizeof cpus, &cpus);
}

bool running(Steady::time_point began) {
    return std::chrono::duration<double>(Steady::now() - began).count() < seconds;
}

void send_all(Port& port, std::size_t payload, const std::atomic<bool>& stop) {
    base::SlabPool pool{4096, 64};
    Outgoing out{pool, {}, pattern(payload)};
    const auto began = Steady::now();
    while (!stop && running(began)) {
        for (unsigned turn = 0; turn < 64; ++turn) {
            for (unsigned i = 0; i < 32; ++i) {
                if (port.send(out.frame()) != SendResult::queued) break;
            }
            port.flush();
        }
    }
    while (port.counters().slabs_held > 0 && !stop)
        port.flush();
}

/// Frames that came in the given time, after the first.
double receive_rate(Port& port) {
    std::array<ReceivedFrame, 32> burst;
    std::size_t frames = 0;
    std::uint64_t seen = 0;
    auto began = Steady::now();
    double elapsed = 0;
    do {
        for (unsigned turn = 0; turn < 256; ++turn) {
            const std::size_t count = port.receive(burst);
            if (count > 0 && frames == 0) began = Steady::now();
            for (std::size_t i = 0; i < count; ++i)
                seen += std::to_integer<std::uint64_t>(burst[i].bytes[40]);
            port.release(std::span{burst}.first(count));
            frames += count;
        }
        elapsed = std::chrono::duration<double>(Steady::now() - began).count();
    } while (elapsed < seconds * 0.8);
    if (seen == 1) std::puts(""); // so that the frames are really read
    return static_cast<double>(frames) / elapsed;
}

void print(const char* device, std::size_t payload, double rate) {
    const double bits = rate * static_cast<double>(66 + payload) * 8;
    std::printf("%-6s payload %4zu  %7.2f Mframes/s  %7.2f Gbit/s\n", device, payload, rate / 1e6,
                bits / 1e9);
}

void check(bool fine, const std::string& text) {
    if (fine) return;
    std::fprintf(stderr, "%s\n", text.c_str());
    std::exit(1);
}

void ring(Eal& eal, std::size_t payload) {
    static int number = 0;
    auto names = eal.add_ring_pair("bench" + std::to_string(number++));
    check(names.has_value(), names ? "" : names.error().text);
    auto a = EthdevPort::open({.device = names->first});
    check(a.has_value(), a ? "" : a.error().text);
    auto b = EthdevPort::open({.device = names->second});
    check(b.has_value(), b ? "" : b.error().text);
    std::atomic<bool> stop{false};
    std::thread sender{[&] {
        pin(1);
        const auto entered = ShardThread::enter();
        send_all((*a)->queue(0), payload, stop);
    }};
    pin(0);
    const double rate = receive_rate((*b)->queue(0));
    stop = true;
    sender.join();
    receive_all((*b)->queue(0));
    print("ring", payload, rate);
}

/// What one frame costs from send() to release(), both ends on this thread, in its own CPU time: a
/// figure that other programs on the machine hardly move.
void cost(Eal& eal, std::size_t payload, bool attach) {
    static int number = 0;
    auto names = eal.add_ring_pair("cost" + std::to_string(number++));
    check(names.has_value(), names ? "" : names.error().text);
    auto a = EthdevPort::open({.device = names->first, .attach_always = attach});
    check(a.has_value(), a ? "" : a.error().text);
    auto b = EthdevPort::open({.device = names->second});
    check(b.has_value(), b ? "" : b.error().text);
    base::SlabPool pool{4096, 64};
    Outgoing out{pool, {}, pattern(payload)};
    std::array<ReceivedFrame, 32> burst;
    const auto cpu_ns = [] {
        timespec now{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
        return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
    };
    std::size_t frames = 0;
    const double began = cpu_ns();
    const auto until = Steady::now();
    while (running(until)) {
        for (unsigned turn = 0; turn < 256; ++turn) {
            for (unsigned i = 0; i < 32; ++i)
                check((*a)->queue(0).send(out.frame()) == SendResult::queued, "refused");
            (*a)->queue(0).flush();
            const std::size_t count = (*b)->queue(0).receive(burst);
            (*b)->queue(0).release(std::span{burst}.first(count));
            frames += count;
        }
    }
    const double each = (cpu_ns() - began) / static_cast<double>(frames);
    std::printf("cost   payload %4zu  %7.1f ns a frame, both ends, payload %s\n", payload, each,
                attach && payload >= copy_bytes_max ? "read in place, then joined" : "copied");
}

int memif_sender(const std::string& socket, std::size_t payload) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    auto eal = Eal::start(
        {.huge_pages = huge, .memory_mb = 128, .file_prefix = "send" + std::to_string(::getpid())});
    check(eal.has_value(), eal ? "" : eal.error().text);
    auto name = eal->add_device("net_memif0,role=client,id=0,socket=" + socket);
    check(name.has_value(), name ? "" : name.error().text);
    auto port = EthdevPort::open({.device = *name});
    check(port.has_value(), port ? "" : port.error().text);
    for (unsigned i = 0; i < 5000 && !(*port)->link_up(); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds{1});
    pin(1);
    const std::atomic<bool> stop{false};
    send_all((*port)->queue(0), payload, stop);
    return 0;
}

void memif(Eal& eal, std::size_t payload) {
    const std::string socket = "/tmp/millrace_bench_" + std::to_string(::getpid()) + "_" +
                               std::to_string(payload); // memif keeps a socket it once had
    auto name = eal.add_device("net_memif0,role=server,id=0,socket=" + socket);
    check(name.has_value(), name ? "" : name.error().text);
    auto port = EthdevPort::open({.device = *name});
    check(port.has_value(), port ? "" : port.error().text);
    std::string program = "/proc/self/exe";
    std::vector<std::string> words{program,
                                   "--memif-sender",
                                   socket,
                                   std::to_string(payload),
                                   std::to_string(seconds),
                                   huge ? "huge" : "no-huge"};
    std::vector<char*> argv;
    for (std::string& word : words)
        argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_t peer = 0;
    check(posix_spawn(&peer, program.c_str(), nullptr, nullptr, argv.data(), environ) == 0,
          "spawn");
    while (!(*port)->link_up())
        std::this_thread::sleep_for(std::chrono::milliseconds{1});
    pin(0);
    const double rate = receive_rate((*port)->queue(0));
    ::kill(peer, SIGKILL);
    ::waitpid(peer, nullptr, 0);
    port->reset();
    eal.remove_device(*name);
    print("memif", payload, rate);
}

} // namespace
} // namespace dataplane::net::test

int main(int argc, char** argv) {
    using namespace dataplane::net;
    if (argc == 6 && std::string{argv[1]} == "--memif-sender") {
        test::seconds = std::atof(argv[4]);
        test::huge = std::string{argv[5]} == "huge";
        return test::memif_sender(argv[2], static_cast<std::size_t>(std::atoi(argv[3])));
    }
    for (int i = 1; i < argc; ++i) {
        if (std::string{argv[i]} == "--huge")
            test::huge = true;
        else
            test::seconds = std::max(0.1, std::atof(argv[i]));
    }
    auto eal = Eal::start({.huge_pages = test::huge,
                           .memory_mb = 256,
                           .file_prefix = "bench" + std::to_string(::getpid())});
    test::check(eal.has_value(), eal ? "" : eal.error().text);
    for (const std::size_t payload : {0UL, 256UL, 1448UL})
        test::cost(*eal, payload, false);
    test::cost(*eal, 1448, true);
    for (const std::size_t payload : {0UL, 256UL, 1448UL})
        test::ring(*eal, payload);
    for (const std::size_t payload : {0UL, 256UL, 1448UL})
        test::memif(*eal, payload);
}
