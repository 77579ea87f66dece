#include "dataplane/daemon/shard.h"

#include "dataplane/base/uring.h"
#include "dataplane/daemon/commands.h"
#include "dataplane/daemon/relay.h"
#include "dataplane/daemon/shard_net.h"
#include "dataplane/net/kernel/kernel_transport.h"
#include "queue/uring_file.h"

#include <array>
#include <pthread.h>
#include <sched.h>

namespace dataplane::daemon {
namespace {

constexpr auto housekeeping_interval = std::chrono::milliseconds{250};
constexpr auto stop_limit = std::chrono::seconds{30};
constexpr auto turn_limit = std::chrono::milliseconds{1};
constexpr auto slow_turn_note_gap = std::chrono::seconds{1}; // a slow machine must not fill the log

void pin_to(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<unsigned>(cpu), &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
}

std::string describe(const base::SlowTurn& slow) {
    const auto us = [](base::Duration time) {
        return std::to_string(std::chrono::duration_cast<std::chrono::microseconds>(time).count());
    };
    return us(slow.turn) + " us; longest step " + us(slow.longest_step) + " us after \"" +
           slow.step + "\"";
}

} // namespace

/// What lives on the shard's thread. Later members stand on earlier ones.
struct Shard::Running {
    Running(Shard& shard, base::Loop& shard_loop, base::Uring& uring, queue::UringFile& file)
        : loop(shard_loop), ring(uring), transport(loop, uring),
          net(shard.parts_.net != nullptr ? std::make_unique<ShardNet>(loop, *shard.parts_.net)
                                          : nullptr),
          policy(shard.parts_.policy), commands(loop, policy),
          port(shard.parts_.link.attach(loop, uring.wakeup(), policy, commands,
                                        [this] { relay.policy_changed(); })),
          resolver(loop, uring.wakeup(), shard.parts_.dns, shard.index_, &shard.stats_),
          relay({.loop = loop,
                 .transports = {.kernel = transport, .dpdk = net ? &net->stack() : nullptr},
                 .disk = file,
                 .policy = policy,
                 .authenticator = port.authenticator(),
                 .resolver = resolver,
                 .ledger = shard.parts_.ledger,
                 .stats = shard.stats_,
                 .events = shard.events_,
                 .seed = shard.parts_.seed,
                 .certificate_file = shard.parts_.certificate_file,
                 .key_file = shard.parts_.key_file,
                 .note = [&shard](LogLevel level, std::string_view event,
                                  std::string_view text) { shard.log_.note(level, event, text); },
                 .rules =
                     [&shard](const policy::PolicyPtr& current) {
                         return shard.parts_.rules.get(current);
                     }}) {
        commands.serve(relay);
        if (net) commands.serve(*net);
        ring.add_inbox(port.inbox());
        ring.add_inbox(resolver.inbox());
    }
    ~Running() {
        ring.remove_inbox(resolver.inbox());
        ring.remove_inbox(port.inbox());
        loop.drop_tasks(); // they hold streams and messages of the rooms below
    }

    base::Loop& loop;
    base::Uring& ring;
    net::kernel::KernelTransport transport;
    std::unique_ptr<ShardNet> net; // null without a port
    policy::PolicySlot policy;
    RelayCommands commands;
    policy::ShardPort& port;
    delivery::UnboundResolver resolver;
    Relay relay;
    base::TimePoint last_slow_note{};
};

Shard::Shard(unsigned index, ShardParts parts)
    : index_(index), parts_(std::move(parts)), stats_(parts_.stats),
      events_(parts_.events.add_shard(stats_)), log_(index), ready_future_(ready_.get_future()) {}

Shard::~Shard() {
    request_stop();
    join();
}

void Shard::start() {
    thread_ = std::thread([this] { run(); });
}

std::expected<ShardStarted, std::string> Shard::wait_ready() {
    return ready_future_.get();
}

void Shard::request_stop() noexcept {
    stop_requested_.store(true, std::memory_order_relaxed);
}

void Shard::join() {
    if (thread_.joinable()) thread_.join();
}

void Shard::run() {
    const policy::StartUp& start_up = parts_.policy->start_up;
    if (index_ < start_up.cpus.size()) pin_to(start_up.cpus[index_]);
    pthread_setname_np(pthread_self(), ("shard-" + std::to_string(index_)).c_str());
    try {
        base::Uring ring;
        base::Loop loop(parts_.clock, index_);
        const std::string path = start_up.spool_dir + "/shard-" + std::to_string(index_) + ".spool";
        auto file = queue::UringFile::open(loop, ring, path,
                                           {.pool_bytes = start_up.spool_bytes_per_shard});
        if (!file) {
            ready_.set_value(std::unexpected(file.error().text));
            return;
        }
        if ((*file)->size_bytes() != start_up.spool_bytes_per_shard) {
            log_.note(LogLevel::warning, "spool_size",
                      path + " keeps its size of " + std::to_string((*file)->size_bytes()) +
                          " bytes");
        }
        Running running(*this, loop, ring, **file);
        running.loop.watch(turn_limit, [this, &running](const base::SlowTurn& slow) {
            if (running.loop.now() - running.last_slow_note < slow_turn_note_gap) return;
            running.last_slow_note = running.loop.now();
            log_.note(LogLevel::warning, "slow_turn", describe(slow));
        });
        running.loop.spawn(open(running), "start");
        if (running.net) {
            ShardNet::Driver driver(*running.net, ring, {.idle_sleep = start_up.dpdk.idle_sleep});
            running.loop.run(driver, start_up.dpdk.busy_poll);
        } else {
            running.loop.run(ring, start_up.busy_poll);
        }
    } catch (const std::exception& error) { // the ring or its buffers: nothing was acknowledged yet
        ready_.set_value(std::unexpected(error.what()));
    }
}

base::Task<void> Shard::open(Running& running) {
    auto recovered = co_await running.relay.open();
    if (!recovered) {
        ready_.set_value(std::unexpected(recovered.error()));
        running.loop.stop();
        co_return;
    }
    if (auto listening = running.relay.listen(); !listening) {
        co_await running.relay.stop(stop_limit);
        ready_.set_value(std::unexpected(listening.error()));
        running.loop.stop();
        co_return;
    }
    running.loop.spawn(housekeeping(running), "housekeeping");
    ready_.set_value(ShardStarted{*recovered, running.relay.addresses()});
}

base::Task<void> Shard::housekeeping(Running& running) {
    while (!stop_requested_.load(std::memory_order_relaxed)) {
        running.relay.publish_stats();
        if (running.net) running.net->publish_stats(stats_);
        stats_.set(telemetry::Counter::auth_cached, running.port.authenticator().counters().cached);
        co_await base::sleep_for(running.loop, housekeeping_interval);
    }
    co_await running.relay.stop(stop_limit);
    running.relay.publish_stats();
    running.loop.stop();
}

} // namespace dataplane::daemon
