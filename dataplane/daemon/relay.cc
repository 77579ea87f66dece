#include "dataplane/daemon/relay.h"

#include "dataplane/smtp/server_session.h"
#include "queue/keyring.h"

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

namespace dataplane::daemon {
namespace {

constexpr auto accept_retry = std::chrono::milliseconds{100};
constexpr std::uint64_t quarantine_bytes_max = 256ULL << 20; // of one shard's files
constexpr std::uint64_t resident_bytes_limit = 2ULL << 30;   // slab counts and offsets are 32 bits

} // namespace

Relay::Relay(RelayParts parts)
    : parts_(std::move(parts)), dkim_(parts_.signer != nullptr ? *parts_.signer : inline_signer_) {}
Relay::~Relay() = default;

base::Task<std::expected<queue::RecoveryReport, std::string>> Relay::open() {
    const policy::Policy& policy = *parts_.policy.current();
    queue::QueueOptions options{
        .content_bytes_max = policy.limits.message_bytes_max,
        .resident_bytes_max = static_cast<std::uint32_t>(
            std::min(policy.start_up.resident_bytes_per_shard, resident_bytes_limit)),
        .segment_bytes = policy.start_up.spool_segment_bytes,
    };
    options.scrub_bytes_per_s = policy.start_up.scrub_bytes_per_s;
    quarantine_ = std::make_unique<QuarantineFolder>(policy.start_up.state_dir + "/quarantine",
                                                     quarantine_bytes_max);
    options.quarantine = [this](queue::DamagedRecord record) {
        parts_.note(LogLevel::error, "spool_damage",
                    describe(record) + "; a copy goes to " + quarantine_->path_of(record));
        quarantine_->put(std::move(record));
    };
    if (!policy.start_up.spool_key.empty()) {
        auto keys = queue::KeyRing::load(policy.start_up.spool_key);
        if (!keys) co_return std::unexpected("server.spool_key: " + keys.error());
        options.keys = std::move(*keys);
    }
    queue::RecoveryReport report;
    auto opened = co_await queue::MessageQueue::open(parts_.loop, parts_.disk, options, report);
    if (!opened)
        co_return std::unexpected(
            "the spool does not open: " + std::string(to_string(opened.error())) +
            (report.problem.empty() ? "" : ": " + report.problem));
    queue_ = std::move(*opened);

    if (auto loaded = load_screen(); !loaded) co_return std::unexpected(loaded.error());
    if (auto loaded = load_dkim(); !loaded) co_return std::unexpected(loaded.error());

    dispatcher_ = std::make_unique<delivery::Dispatcher>(delivery::DeliveryContext{
        .loop = parts_.loop,
        .transports = parts_.transports,
        .queue = *queue_,
        .policy = parts_.policy,
        .resolver = parts_.resolver,
        .tls = parts_.tls != nullptr ? parts_.tls->client() : nullptr,
        .stats = parts_.stats,
        .events = parts_.events,
        .ledger = parts_.ledger,
        .dkim = &dkim_,
        .seed = parts_.seed,
    });
    server_ = std::make_unique<smtp::ServerContext>(smtp::ServerContext{
        .loop = parts_.loop,
        .queue = *queue_,
        .policy = parts_.policy,
        .authenticator = parts_.authenticator,
        .stats = parts_.stats,
        .events = parts_.events,
        .screener = &screener_,
        .dkim = &dkim_,
        .tls = parts_.tls != nullptr ? parts_.tls->server() : nullptr,
        .shutdown = &stopping_,
        .next_session_id = parts_.seed,
    });
    dispatcher_->set_orders(parts_.orders);
    queue_->set_sink(*dispatcher_);
    co_return report;
}

std::expected<void, std::string> Relay::load_screen() {
    auto loaded = parts_.rules(parts_.policy.current());
    if (!loaded) return std::unexpected("the screening rules do not load: " + loaded.error().text);
    const auto used = screener_.use(std::move(*loaded));
    if (!used) return std::unexpected("the screening rules cannot be used: " + used.error().text);
    return {};
}

std::expected<void, std::string> Relay::load_dkim() {
    if (!parts_.dkim_keys) return {};
    auto loaded = parts_.dkim_keys(parts_.policy.current());
    if (!loaded) return std::unexpected("the DKIM keys do not load: " + loaded.error());
    dkim_.use(std::move(*loaded));
    return {};
}

void Relay::policy_changed() {
    parts_.stats.add(telemetry::Counter::policy_swaps);
    if (auto loaded = load_screen(); !loaded)
        parts_.note(LogLevel::error, "rules_kept", loaded.error());
    if (auto loaded = load_dkim(); !loaded)
        parts_.note(LogLevel::error, "dkim_keys_kept", loaded.error());
}

std::expected<void, std::string> Relay::listen() {
    const policy::PolicyPtr policy = parts_.policy.current();
    for (std::size_t index = 0; index < policy->listeners.size(); ++index) {
        const policy::ListenerPolicy& listener = policy->listeners[index];
        auto opened = parts_.transports.of(listener.transport)
                          .listen(listener.address, {.proxy_protocol = listener.proxy_protocol,
                                                     .connections_max = listener.connections_max});
        if (!opened) {
            return std::unexpected("listener \"" + listener.name + "\" cannot listen on " +
                                   listener.address.to_string() + ": " +
                                   std::string(to_string(opened.error())));
        }
        listeners_.push_back(std::move(*opened));
        parts_.loop.spawn(accept_from(*listeners_.back(), index), "accept", base::Room::smtp);
    }
    return {};
}

base::Task<void> Relay::accept_from(base::Listener& listener, std::size_t index) {
    for (;;) {
        auto accepted = co_await listener.accept({.cancel = &stopping_});
        if (accepted) {
            parts_.loop.spawn(serve_one(std::move(*accepted), index), "smtp session",
                              base::Room::smtp);
            continue;
        }
        if (accepted.error() == base::NetError::closed || stopping_.cancelled()) co_return;
        // Out of descriptors or memory: what is open goes on, and the backlog waits in the kernel.
        const auto woke = co_await base::sleep_for(parts_.loop, accept_retry, &stopping_);
        if (woke == base::Wake::cancelled) co_return;
    }
}

base::Task<void> Relay::serve_one(base::StreamPtr stream, std::size_t index) {
    ++sessions_;
    co_await smtp::serve(*server_, std::move(stream), parts_.policy.current(), index);
    if (--sessions_ == 0) session_ended_.wake_all();
}

base::Task<void> Relay::stop(base::Duration limit) {
    const base::Deadline deadline = base::Deadline::in(parts_.loop, limit);
    stopping_.cancel();
    for (const auto& listener : listeners_)
        listener->close();
    while (sessions_ > 0) {
        const auto woke = co_await session_ended_.wait(parts_.loop, deadline);
        if (woke != base::Wake::event) break;
    }
    if (dispatcher_ != nullptr) co_await dispatcher_->close(deadline);
    if (queue_ == nullptr) co_return;
    const auto closed = co_await queue_->close(base::Deadline::in(parts_.loop, limit));
    if (!closed) parts_.note(LogLevel::warning, "spool_close", to_string(closed.error()));
}

/// A part of the index each time: with very much mail the figure lags by minutes, which its age does
/// not mind.
void Relay::look_for_oldest() {
    constexpr queue::EntryRef slots = 8192;
    const queue::MessageIndex& index = queue_->index();
    const queue::EntryRef end = index.slot_count();
    const queue::EntryRef stop = std::min(end, oldest_at_ + slots);
    for (; oldest_at_ < stop; ++oldest_at_) {
        const queue::Entry& entry = index[oldest_at_];
        if (entry.id.value != 0) oldest_found_ = std::min(oldest_found_, entry.arrival_s);
    }
    if (oldest_at_ < end) return;
    const bool any = oldest_found_ != std::numeric_limits<std::uint32_t>::max();
    parts_.stats.set(telemetry::Gauge::oldest_arrival, any ? oldest_found_ : 0);
    oldest_at_ = 0;
    oldest_found_ = std::numeric_limits<std::uint32_t>::max();
}

void Relay::publish_stats() {
    using telemetry::Counter;
    using telemetry::Gauge;
    telemetry::Stats& stats = parts_.stats;
    const queue::QueueCounters spool = queue_->counters();
    stats.set(Counter::spool_batches, spool.batches);
    stats.set(Counter::spool_batch_bytes, spool.batch_bytes);
    stats.set(Counter::spool_write_errors, spool.write_errors);
    stats.set(Counter::spool_read_errors, spool.read_errors);
    stats.set(Counter::spool_damaged, spool.damaged_records);
    stats.set(Counter::spool_mended, spool.mended_records);
    stats.set(Counter::spool_scrub_bytes, spool.scrub_bytes);
    stats.set(Counter::spool_scrub_passes, spool.scrub_passes);
    stats.set(Counter::spool_collected_bytes, spool.collected_bytes);
    stats.set(Counter::spool_checkpoints, spool.checkpoints);
    stats.set(Counter::spool_checkpoint_bytes, spool.checkpoint_bytes);
    stats.set(Counter::spool_quarantined, quarantine_->kept());
    stats.set(Counter::spool_quarantine_lost, quarantine_->lost());
    stats.set(Gauge::queued_messages, spool.queued_messages);
    stats.set(Gauge::ready_messages, spool.ready_messages);
    stats.set(Gauge::deferred_messages, spool.deferred_messages);
    const queue::Schedule::Counts waiting = queue_->schedule().counts();
    stats.set(Gauge::parked_messages, waiting.parked);
    stats.set(Gauge::held_messages, waiting.held);
    stats.set(Gauge::ready_fresh_messages, waiting.ready_fresh);
    stats.set(Gauge::ready_retry_messages, waiting.ready_retry);
    stats.set(Gauge::paused_sites, waiting.paused_sites);
    look_for_oldest();
    stats.set(Gauge::spool_single_copies, spool.single_copies);
    stats.set(Gauge::segments_free, spool.segments_free);
    stats.set(Gauge::segments_total, spool.segments_total);
    stats.set(Gauge::segments_bad, spool.segments_bad);
    stats.set(Gauge::segments_old_key, spool.segments_old_key);
    const queue::SpoolPressure pressure = queue_->pressure();
    stats.set(Gauge::spool_level, static_cast<std::uint64_t>(pressure.level));
    stats.set(Gauge::spool_used_percent, pressure.used_percent);
    stats.set(
        Gauge::spool_seconds_to_full,
        pressure.time_to_full
            ? std::max<std::uint64_t>(1, static_cast<std::uint64_t>(pressure.time_to_full->count()))
            : 0);
    stats.set(Gauge::spool_stuck, pressure.stuck ? 1 : 0);
    stats.set(Gauge::spool_read_only, spool.read_only);
    if (spool.read_only != 0 && !std::exchange(read_only_told_, true))
        parts_.note(
            LogLevel::error, "spool_read_only",
            "the device refused writes twice in a row: no mail is taken or delivered until it "
            "is mended and millraced started again");
    stats.set(Gauge::resident_bytes, spool.resident_bytes);
    stats.set(Gauge::policy_version, parts_.policy.current()->version);
    stats.set(Counter::loop_turns, parts_.loop.counters().turns);
    stats.set(Counter::loop_slow_turns, parts_.loop.counters().slow_turns);
}

std::vector<base::SocketAddress> Relay::addresses() const {
    std::vector<base::SocketAddress> all;
    for (const auto& listener : listeners_)
        all.push_back(listener->local());
    return all;
}

} // namespace dataplane::daemon
