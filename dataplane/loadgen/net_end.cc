#include "dataplane/loadgen/child.h"
#include "dataplane/loadgen/net_bench.h"
#include "dataplane/net/stack/stack.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <sys/resource.h>
#include <unistd.h>
#include <utility>

namespace dataplane::loadgen {
namespace {

using Json = nlohmann::ordered_json;
using namespace std::chrono_literals;

constexpr std::chrono::milliseconds tick{2};
constexpr auto warm_up = 1s;
constexpr auto start_limit = 30s;
constexpr unsigned port_count = 4;

double cpu_seconds() {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& time) {
        return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
    };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

std::uint64_t resident_bytes() {
    std::ifstream file("/proc/self/statm");
    std::uint64_t total = 0;
    std::uint64_t resident = 0;
    file >> total >> resident;
    return resident * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

long involuntary_switches() noexcept {
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_nivcsw;
}

/// The longest turns since they were last asked for.
class TurnWatch {
public:
    void note(base::Duration turn) noexcept {
        // Another process on this CPU makes a turn long, and says nothing about ours.
        const bool disturbed = switched();
        longest_ = std::max(longest_, turn);
        if (!disturbed) longest_undisturbed_ = std::max(longest_undisturbed_, turn);
    }
    /// Often: what disturbed an earlier turn must not excuse a later one.
    void tick() noexcept { static_cast<void>(switched()); }
    void reset() noexcept { longest_ = longest_undisturbed_ = {}; }
    void tell(Json& json) const {
        using Microseconds = std::chrono::duration<double, std::micro>;
        json["longest_turn_us"] = Microseconds(longest_).count();
        json["longest_undisturbed_turn_us"] = Microseconds(longest_undisturbed_).count();
    }

private:
    bool switched() noexcept {
        const long before = std::exchange(switches_, involuntary_switches());
        return switches_ != before;
    }

    base::Duration longest_{}, longest_undisturbed_{};
    long switches_ = 0;
};

Json snapshot(const NetTally& tally, const base::Loop& loop, const TurnWatch& turns) {
    Json json{{"exchanges", tally.exchanges},
              {"bytes", tally.bytes},
              {"open", tally.open},
              {"failed", tally.failed},
              {"cpu_s", cpu_seconds()},
              {"resident_bytes", resident_bytes()},
              {"slow_turns", loop.counters().slow_turns},
              {"at_s", std::chrono::duration<double>(loop.now().time_since_epoch()).count()}};
    turns.tell(json);
    return json;
}

/// What the stack's senders had to mend; empty on kernel sockets, whose parent asks the kernel.
Json repairs(const Runtime& runtime) {
    const net::stack::Stack* stack = runtime.own_stack();
    if (stack == nullptr) return Json::object();
    const net::tcp::ConnectionCounters tcp = stack->statistics().tcp;
    return {{"segments_out", tcp.segments_out},
            {"segments_in", tcp.segments_in},
            {"retransmits_fast", tcp.sender.retransmits_fast},
            {"retransmits_timeout", tcp.sender.retransmits_timeout},
            {"retransmits_probe", tcp.sender.retransmits_probe},
            {"timeouts", tcp.sender.timeouts},
            {"recoveries", tcp.sender.recoveries},
            {"recoveries_undone", tcp.sender.recoveries_undone},
            {"timeouts_undone", tcp.sender.timeouts_undone},
            {"dsacks", tcp.sender.dsacks}};
}

/// Of the first connection; what the other stack's tools call rtt.
double smoothed_rtt_ms(const Runtime& runtime) {
    std::array<net::stack::ConnectionView, 1> view{};
    std::size_t cursor = 0;
    const net::stack::Stack* stack = runtime.own_stack();
    if (stack == nullptr || stack->list(view, cursor) == 0) return 0;
    return std::chrono::duration<double, std::milli>(view[0].smoothed_rtt).count();
}

base::SocketAddress parse_address(const std::string& text) {
    const auto address = base::SocketAddress::parse(text);
    if (!address) throw std::runtime_error("'" + text + "' is not ADDRESS:PORT");
    return *address;
}

} // namespace

int run_net_end(const NetEndCommand& command) {
    catch_signals();
    raise_descriptor_limit();
    if (command.cpu >= 0) pin_to_cpu(command.cpu);
    if (command.punctual) be_punctual();
    base::SlabPool bulk_pool(32768, 1);
    Runtime runtime(command.net);
    base::Loop& loop = runtime.loop();
    TurnWatch turns;
    // Watching reads the clock at each step: only where the turns are what is asked for.
    if (command.which == NetCase::idle) {
        loop.watch(100us, [&](const base::SlowTurn& slow) { turns.note(slow.turn); });
    }
    const base::SocketAddress address = parse_address(command.address);

    if (command.server) {
        NetServer server(loop, runtime.transport());
        for (unsigned i = 0; i < port_count; ++i) {
            const auto port = static_cast<std::uint16_t>(address.port + i);
            if (const auto bound = server.listen({address.ip, port}); !bound) {
                throw std::runtime_error("cannot listen on " + command.address + ": " +
                                         std::string(base::to_string(bound.error())));
            }
        }
        say("ready");
        bool reported = false;
        runtime.run(tick, [&] {
            const SignalsSeen signals = take_signals();
            turns.tick();
            if (reported) turns.reset(); // the report's own turn does not count
            reported = signals.report;
            if (reported) say("at " + snapshot(server.tally(), loop, turns).dump());
            if (signals.stop) loop.stop();
        });
        return 0;
    }

    if (!runtime.wait_for_link(start_limit)) throw std::runtime_error("the device has no peer");
    NetClientOptions options{.which = command.which, .connections = command.connections};
    for (unsigned i = 0; i < port_count; ++i)
        options.servers.push_back({address.ip, static_cast<std::uint16_t>(address.port + i)});
    for (const std::string& source : command.sources) {
        const auto ip = base::IpAddress::parse(source);
        if (!ip) throw std::runtime_error("'" + source + "' is not an address");
        options.sources.push_back(*ip);
    }
    NetClient client(loop, runtime.transport(), bulk_pool, std::move(options));
    client.start();
    // A lost SYN must not cost bulk a second of its time; idle connections are all there first.
    const auto under_way = [&] {
        if (command.which == NetCase::idle) return client.settled();
        return command.which != NetCase::bulk || client.tally().open > 0;
    };
    base::TimePoint begin = base::TimePoint::max();
    base::TimePoint end = base::TimePoint::max();
    double cpu_before = 0;
    runtime.run(tick, [&] {
        if (take_signals().stop) loop.stop();
        if (begin == base::TimePoint::max() && under_way()) begin = loop.now() + warm_up;
        if (end == base::TimePoint::max() && loop.now() >= begin) {
            end = loop.now() + command.time;
            cpu_before = cpu_seconds();
            say("begin " + repairs(runtime).dump());
        }
        if (loop.now() >= end) {
            Json json = snapshot(client.tally(), loop, turns);
            json["cpu_s"] = cpu_seconds() - cpu_before;
            json["rtt_seen_ms"] = smoothed_rtt_ms(runtime);
            json["tcp"] = repairs(runtime);
            say("end " + json.dump());
            end = base::TimePoint::max() - base::Duration{1}; // said; the parent ends us
        }
    });
    return 0;
}

} // namespace dataplane::loadgen
