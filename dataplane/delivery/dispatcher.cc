// dispatcher.cc: rounds and jobs: how a message comes in, what becomes of each recipient, how the
// round ends.
#include "dataplane/delivery/dispatcher.h"

#include "dataplane/delivery/dispatcher_parts.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace dataplane::delivery {

using base::Task;
using queue::MessageRef;
using queue::RecipientState;
using smtp::Outcome;
using telemetry::Counter;
using telemetry::EventText;
using telemetry::EventType;

namespace {

// Recipients of one message are grouped with those placed last: a list sorted by domain groups
// fully, and one in no order costs no more than this many comparisons each.
constexpr std::size_t grouping_reach = 16;
constexpr std::chrono::seconds report_retry{60}; // after a DSN could not be queued

} // namespace

Dispatcher::Dispatcher(const DeliveryContext& context)
    : context_(context), loop_(context.loop),
      random_(context.seed ^ (0x9e3779b97f4a7c15ULL * (context.loop.shard() + 1))),
      sweep_timer_(&Dispatcher::on_sweep), held_timer_(&Dispatcher::on_look_at_held) {
    sweep_timer_.dispatcher = held_timer_.dispatcher = this;
    loop_.arm(sweep_timer_, loop_.now() + sweep_interval);
}

Dispatcher::~Dispatcher() {
    CHECK(tasks_ == 0);
}

// ---- pools

Round& Dispatcher::take_round() {
    if (free_rounds_.empty()) {
        rounds_.push_back(std::make_unique<Round>());
        free_rounds_.reserve(rounds_.size());
        free_rounds_.push_back(rounds_.back().get());
    }
    Round& round = *free_rounds_.back();
    free_rounds_.pop_back();
    ++rounds_open_;
    return round;
}

void Dispatcher::put_back(Round& round) noexcept {
    round.message.reset();
    round.progressed = false;
    if (!round.fresh) --retries_open_;
    if (round.parking != nullptr) --round.parking->rounds_parking;
    round.parking = nullptr;
    round.park_until = base::WallTime::max();
    round.due = base::WallTime::max();
    round.why.clear();
    round.reports.clear();
    CHECK(round.waiting.empty());
    free_rounds_.push_back(&round);
    --rounds_open_;
    if (std::exchange(queue_waits_, false)) context_.queue.pull();
}

Job& Dispatcher::take_job(Round& round, Lane* lane) {
    if (free_jobs_.empty()) {
        jobs_.push_back(std::make_unique<Job>());
        free_jobs_.reserve(jobs_.size());
        free_jobs_.push_back(jobs_.back().get());
    }
    Job& job = *free_jobs_.back();
    free_jobs_.pop_back();
    job.round = &round;
    job.lane = lane;
    job.fresh = round.fresh;
    job.cost = ReadyQueue::cost_of(round.message->content_bytes);
    ++round.jobs_open;
    return job;
}

void Dispatcher::put_back(Job& job) noexcept {
    job.next = nullptr;
    job.round = nullptr;
    job.lane = nullptr;
    job.recipients.clear();
    job.moves = 0;
    free_jobs_.push_back(&job);
}

// ---- in

std::size_t Dispatcher::room(bool fresh) const noexcept {
    const auto left = [](std::size_t most, std::size_t used) {
        return most > used ? most - used : 0;
    };
    std::size_t room = closing_ ? 0 : left(context_.messages_max, rounds_open_);
    if (!fresh) room = std::min(room, left((context_.messages_max + 1) / 2, retries_open_));
    if (room == 0) queue_waits_ = true;
    return room;
}

void Dispatcher::message_ready(MessageRef message) {
    const base::InRoom in{base::Room::delivery};
    CHECK(assembled_.empty());
    if (closing_)
        return context_.queue.hold(std::move(message)); // the next start hands it out again
    const auto ending = endings_.empty() ? endings_.end() : endings_.find(message->id.value);
    if (ending == endings_.end() && suspended(*message))
        return context_.queue.hold(std::move(message));
    Round& round = take_round();
    round.message = std::move(message);
    round.fresh = round.message->attempts == 0;
    if (!round.fresh) ++retries_open_;
    round.jobs_open = 1; // ours, until all recipients have their place
    if (ending != endings_.end()) {
        const Ending how = ending->second;
        endings_.erase(ending);
        end_by_order(round, how);
        if (--round.jobs_open == 0) end_round(round);
        return;
    }
    const bool over = expired(round);
    const queue::Message& content = *round.message;
    for (std::uint32_t i = 0; i < content.status.size(); ++i) {
        if (content.status[i].state != RecipientState::pending) continue;
        if (over) {
            Outcome outcome;
            outcome.stage = smtp::Stage::route;
            outcome.cause = smtp::Cause::local;
            outcome.text = content.last_error.empty()
                               ? "delivery time expired"
                               : "delivery time expired; last: " + content.last_error;
            recipient_failed(round, i, outcome, NextStep::expire, nullptr, nullptr);
        } else {
            place(round, i);
        }
    }
    enqueue_assembled();
    if (--round.jobs_open == 0) end_round(round);
}

bool Dispatcher::expired(const Round& round) const noexcept {
    return loop_.wall_now() >= round.message->envelope.expiry;
}

/// Finds one recipient a job: of the lane to its site, or of those that wait for its domain.
void Dispatcher::place(Round& round, std::uint32_t recipient) {
    const queue::Envelope& envelope = round.message->envelope;
    const FoldedDomain folded{envelope.recipient_domain(recipient)};
    if (folded.text().empty()) {
        Outcome outcome;
        outcome.stage = smtp::Stage::route;
        outcome.cause = smtp::Cause::local;
        outcome.code = 553;
        outcome.enhanced = {5, 1, 3};
        outcome.text = "the address has no domain that mail could be sent to";
        return recipient_failed(round, recipient, outcome, NextStep::bounce, nullptr, nullptr);
    }

    Domain& domain = domain_of(folded.text());
    switch (domain.state) {
    case Domain::State::unknown:
    case Domain::State::resolving: {
        Job* job = domain.waiting_last;
        if (job == nullptr || job->round != &round) {
            job = &take_job(round, nullptr);
            (domain.waiting_last != nullptr ? domain.waiting_last->next : domain.waiting_first) =
                job;
            domain.waiting_last = job;
        }
        job->recipients.push_back(recipient);
        return;
    }
    case Domain::State::failed: {
        const NextStep step = next_step(domain.failure, {.expired = expired(round)});
        if (step == NextStep::retry_later || step == NextStep::try_next_host) {
            return recipient_deferred(round, recipient, domain.failure, nullptr, nullptr);
        }
        return recipient_failed(round, recipient, domain.failure, step, nullptr, nullptr);
    }
    case Domain::State::discard: {
        Outcome outcome;
        outcome.stage = smtp::Stage::last_dot;
        outcome.code = 250;
        outcome.text = "discarded by policy";
        return recipient_delivered(round, recipient, outcome, nullptr);
    }
    case Domain::State::ready:
        break;
    }

    const std::string_view ordered = ordered_source(*round.message);
    const std::string_view wanted = !ordered.empty()            ? ordered
                                    : envelope.source().empty() ? std::string_view{domain.source}
                                                                : envelope.source();
    const policy::PolicyPtr& policy = context_.policy.current();
    Lane& lane = lane_of(*domain.site, choose_source(*policy, wanted));
    const std::size_t recipients_max = std::clamp<std::size_t>(
        lane.site.settings.recipients_per_message_max, 1, smtp::transaction_recipients_max);
    // Those of its domain, and those whose domain was resolved sooner and led to the same site.
    for (const std::vector<Job*>* jobs : {&assembled_, &round.waiting}) {
        for (std::size_t back = 0; back < std::min(jobs->size(), grouping_reach); ++back) {
            Job& job = *(*jobs)[jobs->size() - 1 - back];
            if (job.lane != &lane || job.recipients.size() >= recipients_max) continue;
            job.recipients.push_back(recipient);
            return;
        }
    }
    Job& job = take_job(round, &lane);
    job.recipients.push_back(recipient);
    assembled_.push_back(&job);
}

void Dispatcher::enqueue_assembled() {
    for (Job* job : assembled_)
        enqueue(*job);
    assembled_.clear();
}

void Dispatcher::enqueue(Job& job) {
    Lane& lane = *job.lane;
    const bool paused = lane.paused_until > loop_.now();
    if (paused || lane.ready.size() >= ready_max(lane, job.fresh)) {
        Outcome outcome;
        outcome.stage = smtp::Stage::connect;
        outcome.cause = smtp::Cause::local;
        outcome.text = paused ? lane.pause_reason : "other mail for this site is ahead";
        return park_job(job, outcome);
    }
    job.round->waiting.push_back(&job);
    lane.ready.push(job, job.round->message->envelope.tenant());
    kick(lane);
}

// ---- what became of a recipient

void Dispatcher::recipient_delivered(Round& round, std::uint32_t recipient, const Outcome& outcome,
                                     const Connection* connection) {
    queue::Message& message = *round.message;
    queue::RecipientStatus& status = message.status[recipient];
    status.state = RecipientState::delivered;
    status.last_code = outcome.code;
    if (status.attempts < 255) ++status.attempts;
    round.progressed = true;

    context_.stats.add(Counter::messages_delivered);
    const auto took = loop_.wall_now() - message.envelope.arrival;
    context_.stats.record(telemetry::Latency::delivery,
                          std::max<base::Duration>(took, base::Duration::zero()));
    emit(EventType::delivery, round, recipient, outcome, connection, nullptr);

    // The next host reports what it delivers when it knows how; otherwise we say that we know no
    // more.
    const bool passed_on =
        connection != nullptr && connection->session->capabilities().offers(smtp::Extension::dsn);
    if (passed_on || !dsn_due(message.envelope, recipient, DsnKind::relayed)) return;
    round.reports.push_back(
        {NextStep::delivered,
         outcome.code,
         {recipient, status_of(outcome, NextStep::delivered), connection != nullptr,
          outcome.to_string(), connection != nullptr ? connection->host : std::string{}}});
}

/// Gives a recipient up. Its status changes once the report about it is safe: see conclude().
void Dispatcher::recipient_failed(Round& round, std::uint32_t recipient, const Outcome& outcome,
                                  NextStep step, const Connection* connection, const Site* site) {
    const bool answered = outcome.cause == smtp::Cause::reply;
    queue::RecipientStatus& status = round.message->status[recipient];
    if (status.attempts < 255) ++status.attempts;
    emit(step == NextStep::expire ? EventType::expiration : EventType::bounce, round, recipient,
         outcome, connection, site);
    round.reports.push_back({step,
                             answered ? outcome.code : std::uint16_t{0},
                             {recipient, status_of(outcome, step), answered, outcome.to_string(),
                              connection != nullptr ? connection->host : std::string{}}});
}

void Dispatcher::recipient_deferred(Round& round, std::uint32_t recipient, const Outcome& outcome,
                                    const Connection* connection, const Site* site) {
    queue::RecipientStatus& status = round.message->status[recipient];
    if (status.attempts < 255) ++status.attempts;
    const policy::PolicyPtr& policy = context_.policy.current();
    const base::WallTime due =
        loop_.wall_now() + retry_wait(policy->retry, status.attempts, random_());
    emit(EventType::transient_failure, round, recipient, outcome, connection, site);
    postpone(round, recipient, outcome, due);
}

/// Leaves a recipient pending until `due`, and tells its sender when that has been going on for
/// long.
void Dispatcher::postpone(Round& round, std::uint32_t recipient, const Outcome& outcome,
                          base::WallTime due) {
    queue::Message& message = *round.message;
    const bool answered = outcome.cause == smtp::Cause::reply;
    message.status[recipient].last_code = answered ? outcome.code : std::uint16_t{0};
    round.due = std::min(round.due, due);
    round.why = outcome.to_string();
    context_.stats.add(Counter::messages_deferred);

    if (!wants_notice(round) || !dsn_due(message.envelope, recipient, DsnKind::delay)) return;
    round.reports.push_back(
        {NextStep::retry_later,
         message.status[recipient].last_code,
         {recipient, status_of(outcome, NextStep::retry_later), answered, round.why, {}}});
}

bool Dispatcher::wants_notice(const Round& round) const noexcept {
    const policy::RetryPolicy& retry = context_.policy.current()->retry;
    const queue::Envelope& envelope = round.message->envelope;
    return retry.delay_notice.count() != 0 && !envelope.delay_notified &&
           loop_.wall_now() - envelope.arrival >= retry.delay_notice;
}

/// When a parked message is handed out in any case: for a notice of its delay, or for its expiry.
base::WallTime Dispatcher::wake_by(const queue::Envelope& envelope) const noexcept {
    const policy::RetryPolicy& retry = context_.policy.current()->retry;
    const base::WallTime notice = envelope.arrival + retry.delay_notice;
    const bool due =
        retry.delay_notice.count() != 0 && !envelope.delay_notified && notice > loop_.wall_now();
    return due ? std::min(notice, envelope.expiry) : envelope.expiry;
}

/// Ends a job without an attempt: its lane takes nothing now, or has enough. The recipients' own
/// back-off stays where it was.
void Dispatcher::park_job(Job& job, const Outcome& outcome) {
    Round& round = *job.round;
    Lane& lane = *job.lane;
    if (expired(round)) return expire_job(job);
    round.why = outcome.text;
    if (wants_notice(round)) {
        for (const std::uint32_t recipient : job.recipients) {
            if (!dsn_due(round.message->envelope, recipient, DsnKind::delay)) continue;
            round.reports.push_back(
                {NextStep::retry_later,
                 round.message->status[recipient].last_code,
                 {recipient, status_of(outcome, NextStep::retry_later), false, round.why, {}}});
        }
    }
    const base::Duration pause =
        std::max<base::Duration>(lane.paused_until - loop_.now(), overflow_pause);
    if (round.parking == nullptr) {
        round.parking = &lane;
        ++lane.rounds_parking;
    } else if (round.parking != &lane) {
        round.due = std::min(round.due, scatter(pause, 0.25)); // it waits for both
    }
    round.park_until = std::min(round.park_until, scatter(pause, 0.25));
    end_job(job);
}

void Dispatcher::expire_job(Job& job) {
    Outcome outcome;
    outcome.stage = smtp::Stage::connect;
    outcome.cause = smtp::Cause::local;
    outcome.text = "delivery time expired while waiting for a connection";
    for (const std::uint32_t recipient : job.recipients) {
        recipient_failed(*job.round, recipient, outcome, NextStep::expire, nullptr,
                         &job.lane->site);
    }
    end_job(job);
}

/// Now plus `wait`, give or take its `share`.
base::WallTime Dispatcher::scatter(base::Duration wait, double share) {
    const double unit = static_cast<double>(random_() >> 11) / static_cast<double>(1ULL << 53);
    const double spread = 1.0 + share * (2.0 * unit - 1.0);
    const auto scattered =
        base::Duration{static_cast<std::int64_t>(static_cast<double>(wait.count()) * spread)};
    return loop_.wall_now() + std::chrono::ceil<std::chrono::milliseconds>(scattered);
}

// ---- the round's end

void Dispatcher::end_job(Job& job) {
    Round& round = *job.round;
    put_back(job);
    CHECK(round.jobs_open > 0);
    if (--round.jobs_open == 0) return end_round(round);
    if (!std::exchange(round.progressed, false)) return;
    context_.queue.progress(
        *round.message); // a crash must not repeat what is done while others are tried
}

void Dispatcher::end_round(Round& round) {
    const queue::Envelope& envelope = round.message->envelope;
    const bool tell = std::ranges::any_of(round.reports, [&](const Round::Report& report) {
        const bool failure = report.step == NextStep::bounce || report.step == NextStep::expire;
        return !failure || dsn_due(envelope, report.dsn.index, DsnKind::failure);
    });
    if (!tell) return conclude(round, true);
    loop_.spawn(end_with_reports(&round, TaskMark{*this}), "delivery report", base::Room::delivery);
}

/// Queues the reports that are due, and only then lets the round end: when the status says
/// "bounced", the sender's notice is as safe as the message was.
Task<void> Dispatcher::end_with_reports(Round* round, [[maybe_unused]] TaskMark mark) {
    const policy::PolicyPtr policy = context_.policy.current();
    bool failures_told = true;
    static constexpr std::array<DsnKind, 3> kinds{DsnKind::failure, DsnKind::delay,
                                                  DsnKind::relayed};
    for (const DsnKind kind : kinds) {
        std::vector<DsnRecipient> recipients;
        for (const Round::Report& report : round->reports) {
            const bool failure = report.step == NextStep::bounce || report.step == NextStep::expire;
            const DsnKind of_report = failure                              ? DsnKind::failure
                                      : report.step == NextStep::delivered ? DsnKind::relayed
                                                                           : DsnKind::delay;
            const bool due =
                of_report == kind && dsn_due(round->message->envelope, report.dsn.index, kind);
            if (due) recipients.push_back(report.dsn);
        }
        if (recipients.empty()) continue;
        DsnOptions options{policy->hostname, policy->retry.expiry, random_()};
        const auto sent = co_await send_dsn(loop_, context_.queue, round->message, kind, recipients,
                                            options, context_.dkim);
        if (sent) {
            context_.stats.add(Counter::dsn_sent);
            if (kind == DsnKind::delay) round->message->envelope.delay_notified = true;
        } else if (kind == DsnKind::failure) {
            failures_told =
                false; // notices of delay and success are only courtesy: no retry for them
        }
    }
    conclude(*round, failures_told);
}

void Dispatcher::conclude(Round& round, bool failures_told) {
    queue::Message& message = *round.message;
    for (const Round::Report& report : round.reports) {
        if (report.step != NextStep::bounce && report.step != NextStep::expire) continue;
        queue::RecipientStatus& status = message.status[report.dsn.index];
        status.last_code = report.code;
        if (!failures_told) {
            // Comes back, fails again, and is reported then.
            round.due = std::min<base::WallTime>(round.due, loop_.wall_now() + report_retry);
            round.why = "the report to the sender could not be queued";
            continue;
        }
        const bool expiry = report.step == NextStep::expire;
        status.state = expiry ? RecipientState::expired : RecipientState::bounced;
        context_.stats.add(expiry ? Counter::messages_expired : Counter::messages_bounced);
    }
    const bool only_parks = round.parking != nullptr && round.due == base::WallTime::max();
    if (message.settled()) {
        context_.queue.settle(std::move(round.message));
    } else if (only_parks) {
        if (round.progressed || !round.reports.empty()) context_.queue.progress(message);
        const base::WallTime wake = wake_by(message.envelope);
        context_.queue.park(std::move(round.message), round.parking->parking, wake);
    } else {
        // Expiry is an appointment too: the message wakes for it, not some hours later.
        const base::WallTime now = loop_.wall_now();
        base::WallTime due = std::min(round.due, round.park_until);
        if (message.envelope.expiry > now) due = std::min(due, message.envelope.expiry);
        context_.queue.defer(std::move(round.message), std::max(due, now), round.why);
    }
    put_back(round);
}

// ---- events

void Dispatcher::emit(EventType type, const Round& round, std::uint32_t recipient,
                      const Outcome& outcome, const Connection* connection, const Site* site) {
    telemetry::Event* event = context_.events.claim();
    if (event == nullptr) return; // the ring counts it
    const queue::Message& message = *round.message;
    const queue::Envelope& envelope = message.envelope;
    const auto address = envelope.recipient(recipient);
    event->clear();
    event->type = type;
    event->message_id = message.id.value;
    event->time = loop_.wall_now();
    event->created = envelope.arrival;
    event->size_bytes = message.content_bytes;
    event->attempts = message.status[recipient].attempts;
    event->code = outcome.code;
    event->enhanced = {outcome.enhanced.status_class, outcome.enhanced.subject,
                       outcome.enhanced.detail};

    std::array<char, 512> text; // what is longer is cut by the event anyway
    const auto join = [&text](std::initializer_list<std::string_view> parts) {
        std::size_t used = 0;
        for (const std::string_view part : parts) {
            const std::size_t bytes = std::min(part.size(), text.size() - used);
            std::memcpy(text.data() + used, part.data(), bytes);
            used += bytes;
        }
        return std::string_view{text.data(), used};
    };
    event->set(EventText::sender, envelope.sender());
    event->set(EventText::recipient, address.address);
    const std::string_view domain = envelope.recipient_domain(recipient);
    event->set(EventText::queue,
               envelope.tenant().empty() ? domain : join({envelope.tenant(), "@", domain}));
    event->set(EventText::response, outcome.text);
    const std::string_view command = smtp::to_string(outcome.stage);
    event->set(EventText::command, outcome.stage == smtp::Stage::rcpt
                                       ? join({command, ":<", address.address, ">"})
                                       : command);
    event->set(EventText::account, envelope.account());
    if (connection != nullptr) {
        const base::StreamInfo& info = connection->session->info();
        site = &connection->lane.site;
        event->peer = info.peer;
        event->source = info.local;
        event->set(EventText::peer_name, connection->host);
        event->set(EventText::egress_source, connection->lane.source.name);
        event->set(EventText::egress_pool, connection->lane.pool);
        event->set(EventText::tls_version, info.tls_version);
        event->set(EventText::tls_cipher, info.tls_cipher);
        event->tls_resumed = info.tls_resumed;
        if (const tls_offload::TlsState* tls = connection->session->tls_state()) {
            event->set(EventText::tls_group, tls->group);
            event->set(EventText::tls_level, policy::to_string(connection->plan.level));
            event->set(EventText::tls_verify,
                       tls->verified ? tls->authenticated_by : tls->verify_result);
        }
    }
    if (site != nullptr) event->set(EventText::site, site->name);
    context_.events.publish();
}

// ---- out

Task<void> Dispatcher::close(base::Deadline deadline) {
    closing_ = true;
    for (Site& site : sites_) {
        for (const auto& entry : site.lanes)
            entry.second->idle.wake_all(); // they say QUIT
    }
    while (tasks_ > 0) {
        const base::Wake why = co_await quiet_.wait(loop_, deadline);
        if (why != base::Wake::event) break;
    }
    halt_.cancel();
    while (tasks_ > 0)
        static_cast<void>(co_await quiet_.wait(loop_, base::Deadline::never()));
}

} // namespace dataplane::delivery
