#include "dataplane/daemon/shard.h"

#include "dataplane/base/room.h"
#include "dataplane/base/uring.h"
#include "dataplane/daemon/commands.h"
#include "dataplane/daemon/journal_events.h"
#include "dataplane/daemon/offload_signer.h"
#include "dataplane/daemon/relay.h"
#include "dataplane/daemon/shard_net.h"
#include "dataplane/net/kernel/kernel_transport.h"
#include "tls_offload/engine/async_key.h"

#include <array>
#include <memory>
#include <optional>
#include <pthread.h>
#include <sched.h>
#include <stdexcept>

namespace dataplane::daemon {
namespace {

constexpr auto housekeeping_interval = std::chrono::milliseconds{250};
constexpr auto room_interval = std::chrono::milliseconds{100}; // for who draws them by the second
constexpr auto stop_limit = std::chrono::seconds{30};
constexpr auto others_wait =
    std::chrono::milliseconds{5}; // between looks whether other shards are done
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

std::string describe_damage(const queue::RecoveryReport& report) {
    return std::to_string(report.records_damaged) +
           " acknowledged records did not validate; the device has lost or changed data";
}

/// What lives on the shard's thread. Later members stand on earlier ones.
struct Shard::Running {
    Running(Shard& shard, base::Loop& shard_loop, base::Uring& uring, queue::Disk& disk,
            telemetry::EventSink& events)
        : loop(shard_loop), ring(uring), transport(loop, uring),
          net(shard.parts_.net != nullptr
                  ? std::make_unique<ShardNet>(loop, uring, *shard.parts_.net)
                  : nullptr),
          policy(shard.parts_.policy), commands(loop, policy),
          port(shard.parts_.link.attach(loop, uring.wakeup(), policy, commands,
                                        [this] { relay.policy_changed(); })),
          resolver(loop, uring.wakeup(), shard.parts_.dns, shard.index_, &shard.stats_),
          offload(loop, shard.parts_.offload.chain(shard.index_, &uring.wakeup())),
          tls(loop, uring.wakeup()), signer(offload),
          relay({.loop = loop,
                 .transports = {.kernel = transport, .dpdk = net ? &net->transport() : nullptr},
                 .disk = disk,
                 .policy = policy,
                 .authenticator = port.authenticator(),
                 .resolver = resolver,
                 .ledger = shard.parts_.ledger,
                 .stats = shard.stats_,
                 .events = events,
                 .orders = shard.parts_.orders,
                 .seed = shard.parts_.seed,
                 .tls = &tls,
                 .note = [&shard](LogLevel level, std::string_view event,
                                  std::string_view text) { shard.log_.note(level, event, text); },
                 .rules =
                     [&shard](const policy::PolicyPtr& current) {
                         return shard.parts_.rules.get(current);
                     },
                 .dkim_keys =
                     [&shard](const policy::PolicyPtr& current) {
                         return shard.parts_.dkim_keys.get(current);
                     },
                 .signer = &signer}) {
        tls.library().sign_with(offload);
        if (const auto attached = shard.parts_.certificates.attach(tls); !attached)
            throw std::runtime_error(attached.error());
        commands.serve(relay);
        commands.serve(offload);
        if (net) commands.serve(*net);
        ring.add_inbox(port.inbox());
        ring.add_inbox(resolver.inbox());
        ring.add_inbox(tls.inbox());
        ring.add_inbox(offload);
    }
    ~Running() {
        ring.remove_inbox(offload);
        ring.remove_inbox(tls.inbox());
        ring.remove_inbox(resolver.inbox());
        ring.remove_inbox(port.inbox());
        loop.drop_tasks(); // they hold streams and messages of the rooms below
        if (net) static_cast<void>(net->settle()); // the port may still read messages' slabs
    }

    base::Loop& loop;
    base::Uring& ring;
    net::kernel::KernelTransport transport;
    std::unique_ptr<ShardNet> net; // null without ports
    policy::PolicySlot policy;
    RelayCommands commands;
    policy::ShardPort& port;
    delivery::UnboundResolver resolver;
    tls_offload::offload::Engine offload; // certificates' keys sign through it
    tls_offload::TlsPort tls;
    OffloadSigner signer;
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
    struct Leave { // however this thread ends, when all of it is gone
        NetHost* net;
        unsigned shard;
        ~Leave() {
            if (net != nullptr) net->leave(shard);
        }
    } const leave{parts_.net, index_};
    if (index_ < start_up.cpus.size()) pin_to(start_up.cpus[index_]);
    pthread_setname_np(pthread_self(), ("shard-" + std::to_string(index_)).c_str());
    try {
        auto owned_ring = std::make_unique<base::Uring>();
        base::Uring& ring = *owned_ring;
        base::Loop loop(parts_.clock, index_);
        auto pool = SpoolPool::open(
            loop, ring, start_up, index_, parts_.attached, parts_.devices, parts_.tampering,
            [this](LogLevel level, std::string_view event, std::string_view text) {
                log_.note(level, event, text);
            });
        if (!pool) {
            ready_.set_value(std::unexpected(pool.error()));
            return;
        }
        pool_ = pool->get();
        struct
            KeepHung { // what a device may be at for good outlives this thread, and nobody hears it any more
            std::unique_ptr<SpoolPool>& pool;
            std::unique_ptr<base::Uring>& ring;
            ~KeepHung() {
                if (!pool->hung()) return;
                static_cast<void>(pool.release());
                static_cast<void>(ring.release());
            }
        } const keep_hung{*pool, owned_ring};
        std::optional<JournalEvents> marks;
        if ((*pool)->journal() != nullptr) marks.emplace(events_, *(*pool)->journal());
        queue::Disk& disk = (*pool)->disk();
        telemetry::EventSink& events = marks ? static_cast<telemetry::EventSink&>(*marks) : events_;
        Running running(*this, loop, ring, disk, events);
        base::RoomMeter::here().start(parts_.clock);
        running.loop.watch(turn_limit, [this, &running](const base::SlowTurn& slow) {
            if (running.loop.now() - running.last_slow_note < slow_turn_note_gap) return;
            running.last_slow_note = running.loop.now();
            log_.note(LogLevel::warning, "slow_turn", describe(slow));
        });
        running.loop.spawn(open(running), "start", base::Room::spool);
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
    if (running.net) {
        for (const std::span<std::byte> arena : running.relay.queue().arenas()) {
            if (running.net->register_memory(arena)) continue;
            log_.note(LogLevel::warning, "payload_copied",
                      "a port does not read the memory of messages in place, and gets copies");
        }
    }
    if (auto listening = running.relay.listen(); !listening) {
        co_await running.relay.stop(stop_limit);
        ready_.set_value(std::unexpected(listening.error()));
        running.loop.stop();
        co_return;
    }
    running.loop.spawn(housekeeping(running), "housekeeping", base::Room::control);
    running.loop.spawn(count_rooms(running), "room statistics", base::Room::control);
    if (!recovered->complete)
        running.loop.spawn(report_recovery(running), "recovery report", base::Room::control);
    ready_.set_value(ShardStarted{*recovered, running.relay.addresses()});
}

/// Mail is taken already; what the spool still held is found in the background.
base::Task<void> Shard::report_recovery(Running& running) {
    auto done = co_await running.relay.queue().recovered(base::Deadline::never());
    const queue::RecoveryReport& report = running.relay.queue().recovery();
    if (!done) {
        log_.note(LogLevel::error, "spool_recovery_failed",
                  "mail from before the start may be missing until the next one: " +
                      std::string(to_string(done.error())));
        co_return;
    }
    log_.note(LogLevel::info, "spool_recovered",
              std::to_string(report.messages_recovered) + " messages, " +
                  std::to_string(report.records_read) + " records, " +
                  std::to_string(report.torn_tails) + " torn tails, " +
                  std::to_string(report.possible_duplicates) + " possible duplicates, in " +
                  std::to_string(report.took_all.count()) + " ms in all");
    if (report.records_damaged != 0)
        log_.note(LogLevel::error, "spool_damage", describe_damage(report));
}

/// Shard 0 may carry the others' frames: it goes last.
base::Task<void> Shard::serve_others(Running& running) {
    const base::Deadline limit = base::Deadline::in(running.loop, stop_limit);
    while (running.net->needed_by_others() && running.loop.now() < limit.at)
        co_await base::sleep_for(running.loop, others_wait);
    // What they sent at their very end lies in the rings: one turn more.
    co_await base::sleep_for(running.loop, others_wait);
}

/// What is damaged stays in the pool for people to look at, and nobody waits for it.
void Shard::count_left(Running& running) {
    constexpr std::uint64_t looked_at_max = 10'000; // one turn's work
    const queue::MessageQueue& queue = running.relay.queue();
    if (!queue.recovery().complete) return;
    std::uint64_t left = queue.counters().queued_messages;
    if (left != 0 && left <= looked_at_max) {
        queue.for_each({}, [&left](queue::EntryRef, const queue::Entry& entry) {
            if (entry.state == queue::EntryState::damaged) --left;
            return true;
        });
    }
    left_.store(left, std::memory_order_relaxed);
}

/// Only the sum of all shards is told, and each counts in whole microseconds.
void Shard::publish_rooms() noexcept {
    using telemetry::Counter;
    constexpr std::array counters{Counter::room_loop_us,   Counter::room_kernel_us,
                                  Counter::room_net_us,    Counter::room_tls_us,
                                  Counter::room_smtp_us,   Counter::room_message_us,
                                  Counter::room_screen_us, Counter::room_delivery_us,
                                  Counter::room_spool_us,  Counter::room_control_us};
    static_assert(counters.size() == base::room_count);
    base::RoomMeter& rooms = base::RoomMeter::here();
    rooms.settle();
    for (std::size_t i = 0; i < counters.size(); ++i) {
        const auto spent = std::chrono::duration_cast<std::chrono::microseconds>(
            rooms.cpu(static_cast<base::Room>(i)));
        stats_.set(counters[i], static_cast<std::uint64_t>(spent.count()));
    }
}

void Shard::publish_offload(const tls_offload::offload::Engine& engine) noexcept {
    using telemetry::Counter;
    using telemetry::Gauge;
    const tls_offload::offload::EngineCounters& from = engine.counters();
    for (const auto& [counter, value] :
         {std::pair{Counter::offload_submitted, from.submitted},
          std::pair{Counter::offload_completed, from.completed},
          std::pair{Counter::offload_failed, from.failed},
          std::pair{Counter::offload_cancelled, from.cancelled},
          std::pair{Counter::offload_refused, from.refused},
          std::pair{Counter::offload_fallbacks, from.fallbacks},
          std::pair{Counter::offload_verify_failures, from.verify_failures},
          std::pair{Counter::offload_device_errors, from.device_errors},
          std::pair{Counter::offload_ring_full, from.ring_full},
          std::pair{Counter::offload_lost, from.lost}, std::pair{Counter::offload_late, from.late},
          std::pair{Counter::offload_downs, from.downs},
          std::pair{Counter::offload_readmissions, from.readmissions},
          std::pair{Counter::offload_batches, from.batches},
          std::pair{Counter::offload_batched, from.batched},
          std::pair{Counter::offload_wait_us, from.wait_us_sum}}) {
        stats_.set(counter, value);
    }
    const tls_offload::offload::AsyncKeyCounters& keys =
        tls_offload::offload::async_key_counters(); // of this thread
    stats_.set(Counter::tls_signed_apart, keys.offloaded - keys.given_up);
    stats_.set(Counter::tls_signed_here, keys.inline_made);
    stats_.set(Counter::tls_given_up, keys.given_up);
    stats_.set(Gauge::offload_in_flight, engine.in_flight());
    stats_.set(Gauge::offload_state, static_cast<std::uint64_t>(engine.state()));
}

base::Task<void> Shard::count_rooms(Running& running) {
    while (!stop_requested_.load(std::memory_order_relaxed)) {
        publish_rooms();
        co_await base::sleep_for(running.loop, room_interval);
    }
}

base::Task<void> Shard::housekeeping(Running& running) {
    while (!stop_requested_.load(std::memory_order_relaxed)) {
        running.relay.publish_stats();
        if (!parts_.attached.empty()) count_left(running);
        if (running.net) running.net->publish_stats(stats_);
        pool_->publish_stats(stats_);
        publish_offload(running.offload);
        stats_.set(telemetry::Counter::tls_put_off, running.tls.library().counters().put_off);
        stats_.set(telemetry::Counter::auth_cached, running.port.authenticator().counters().cached);
        co_await base::sleep_for(running.loop, housekeeping_interval);
    }
    co_await running.relay.stop(stop_limit);
    co_await pool_->close();
    if (pool_->hung())
        log_.note(LogLevel::error, "spool_hung",
                  "a device of the mirror has not answered; the process ends without it");
    running.relay.publish_stats();
    publish_rooms();
    if (running.net) co_await serve_others(running);
    running.loop.stop();
}

} // namespace dataplane::daemon
