// pacing.cc: how fast a lane goes: slow start, pauses, and mail that parks meanwhile.
#include "dataplane/delivery/dispatcher_parts.h"

#include <algorithm>

namespace dataplane::delivery {

using smtp::Cause;
using smtp::Outcome;
using smtp::Stage;
using telemetry::Counter;

/// How many jobs may wait in the lane. Fresh mail is not held back behind retries that wait for a
/// recovering site; it has a share of its own when the lane is asked.
std::size_t Dispatcher::ready_max(const Lane& lane, bool fresh) noexcept {
    if (!lane.proven) return ready_jobs_unproven_max;
    if (fresh || lane.window == 0) return ready_jobs_per_lane_max;
    return static_cast<std::size_t>(lane.window) * ready_jobs_per_connection;
}

/// Calls for parked mail when the lane is getting through with what it has.
void Dispatcher::feed(Lane& lane) {
    if (closing_ || lane.paused_until > loop_.now()) return;
    const auto parked = context_.queue.site_view(lane.parking).parked;
    if (parked == 0) return;
    const auto working = static_cast<std::size_t>(lane.window > 0 ? lane.window : lane.established);
    const std::size_t wanted =
        std::max<std::size_t>(lane.proven ? working : 1, 1) * ready_jobs_per_connection;
    if (lane.ready.size() >= (wanted + 1) / 2) return;
    if (loop_.now() < lane.fed + feed_apart) return look_again(lane, lane.fed + feed_apart);
    lane.fed = loop_.now();
    const std::size_t count = std::min(wanted - lane.ready.size(), room(false));
    if (count > 0) {
        static_cast<void>(context_.queue.release(lane.parking, static_cast<std::uint32_t>(count)));
    }
    look_again(lane, loop_.now() + feed_again); // what was called for may go another way
}

/// The site has given an answer to a message: one connection more for each round of them.
void Dispatcher::succeeded(Lane& lane) {
    lane.lost = 0;
    lane.proven = true;
    if (lane.window == 0) return;
    context_.queue.set_failures(lane.parking, 0, {});
    lane.window += 1 / lane.window;
    if (lane.window >= lane.site.settings.connections_max) lane.window = 0;
}

/// Pauses the site for this lane, longer each time; what waits for it parks.
void Dispatcher::failing(Lane& lane, const Outcome& failure) {
    const std::uint32_t failures = context_.queue.site_view(lane.parking).failures + 1;
    context_.queue.set_failures(lane.parking, failures, failure.to_string());
    const policy::RetryPolicy& retry = context_.policy.current()->retry;
    const base::WallTime until = scatter(site_pause(retry, failures), retry.jitter);
    lane.paused_until = loop_.now() + (until - loop_.wall_now());
    lane.pause_reason = failure.to_string();
    lane.window = 1;
    lane.proven = false;
    lane.lost = 0;
    context_.queue.pause(lane.parking, until);
    park_ready(lane);
}

/// A part of them each turn: there may be thousands.
void Dispatcher::park_ready(Lane& lane) {
    Outcome outcome;
    outcome.stage = Stage::connect;
    outcome.cause = Cause::local;
    outcome.text = lane.pause_reason;
    for (std::size_t count = 0; count < parked_per_turn_max; ++count) {
        Job* job = lane.ready.pop();
        if (job == nullptr) break;
        std::erase(job->round->waiting, job);
        for (const std::uint32_t recipient : job->recipients) {
            emit(telemetry::EventType::transient_failure, *job->round, recipient, outcome, nullptr,
                 &lane.site);
        }
        context_.stats.add(Counter::messages_deferred, job->recipients.size());
        park_job(*job, outcome);
    }
    if (!lane.ready.empty()) return look_again(lane, loop_.now());
    let_go(lane);
}

} // namespace dataplane::delivery
