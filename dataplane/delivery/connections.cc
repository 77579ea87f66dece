// connections.cc: connections within their limits: when to open one, where to, and what it carries.
#include "dataplane/delivery/dispatcher_parts.h"

#include <algorithm>
#include <utility>

namespace dataplane::delivery {

using base::NetError;
using base::Task;
using base::TimePoint;
using base::Wake;
using Want = SiteLedger::Entry::Want;
using policy::TlsLevel;
using smtp::Cause;
using smtp::Outcome;
using smtp::Stage;
using telemetry::Counter;

// ---- when

/// A job has come: an idle connection takes it, or another connection is opened for it.
void Dispatcher::kick(Lane& lane) {
    if (!lane.idle.empty()) {
        lane.idle.wake_one();
        return;
    }
    grow(lane);
}

/// Opens connections as the backlog asks for them and every limit allows. Those being opened are at
/// most as many as work already: a new or recovering site sees one first, then two, four, and so
/// on.
void Dispatcher::grow(Lane& lane) {
    const TimePoint now = loop_.now();
    const double limit = lane.window > 0 ? lane.window : lane.site.settings.connections_max;
    while (!stopped() && lane.ready.size() > lane.connecting) {
        if (lane.connecting >= std::max(1U, lane.established)) return;
        if (lane.open + 1 > limit || lane.open >= lane.site.settings.connections_max) return;
        if (lane.paused_until > now) return; // its jobs have been postponed
        if (lane.grow_after > now) return look_again(lane, lane.grow_after);
        if (!take_slot(lane)) return;
        loop_.spawn(run_connection(&lane, SlotGuard{lane}, TaskMark{*this}), "delivery connection",
                    base::Room::delivery);
    }
}

/// Takes one of the connections that all shards together may have. A lane that cannot have its share
/// of them says so: others let go at their next chance, and take no more than their own meanwhile.
bool Dispatcher::take_slot(Lane& lane) {
    if (!lane.slots) {
        lane.slots = context_.ledger.attach(lane_name(lane.site, lane.source.name));
    }
    bool taken = false;
    if (lane.slots) {
        const std::uint32_t limit = lane.site.settings.connections_max;
        const bool short_of_share = lane.open < lane.slots->fair_share(limit);
        taken = (short_of_share || !lane.slots->contended()) && lane.slots->open_connection(limit);
        lane.want(taken ? Want::nothing : short_of_share ? Want::its_share : Want::more);
    }
    if (!taken) look_again(lane, loop_.now() + slot_retry);
    return taken;
}

/// Wants nothing, and gives the lane's entry in the ledger back while there is nothing to count.
void Dispatcher::let_go(Lane& lane) noexcept {
    if (!lane.ready.empty() || !lane.slots) return;
    lane.want(Want::nothing);
    if (lane.open == 0) lane.slots.reset();
}

void Dispatcher::look_again(Lane& lane, TimePoint when) {
    if (lane.wake->armed() && lane.wake->at <= when) return;
    lane.wake->at = when;
    loop_.arm(*lane.wake, when);
}

void Dispatcher::on_wake(base::Timer& timer) noexcept {
    const base::InRoom in{base::Room::delivery};
    Lane& lane = *static_cast<Lane::WakeTimer&>(timer).lane;
    if (lane.paused_until > lane.dispatcher.loop_.now()) return lane.dispatcher.park_ready(lane);
    lane.dispatcher.feed(lane);
    lane.dispatcher.let_go(lane); // what it wanted the slot for may have gone another way
    lane.dispatcher.grow(lane);
}

// ---- where to

/// Walks through the site's hosts by preference, equals in random order, and each host's addresses,
/// those that failed lately last. True with a session that is ready for mail.
Task<bool> Dispatcher::connect(Connection* connection) {
    Lane& lane = connection->lane;
    std::vector<SiteHost> hosts = lane.site.hosts; // a copy: routing may change them meanwhile
    std::ranges::shuffle(hosts, random_);
    std::ranges::stable_sort(hosts, {}, &SiteHost::preference);

    struct Later {
        const SiteHost* host;
        base::IpAddress address;
    };
    std::vector<Later> later;
    bool unresolved = false;  // a host's name gave no answer for now
    bool unreachable = false; // addresses only of a family that the source does not have
    const bool only_v4 = lane.source.address_v4 && !lane.source.address_v6;
    const bool only_v6 = lane.source.address_v6 && !lane.source.address_v4;
    connection->failure = {};
    for (std::size_t i = 0; i < hosts.size(); ++i) {
        const SiteHost& host = hosts[i];
        std::vector<base::IpAddress> addresses;
        if (host.literal) {
            addresses.push_back(*host.literal);
        } else {
            const auto ascii = to_ascii(host.name);
            if (!ascii) continue;
            const base::Deadline deadline = base::Deadline::in(loop_, dns_timeout, &halt_);
            const AddressResult found = co_await context_.resolver.addresses(*ascii, deadline);
            if (!found) {
                unresolved |= found.error() == ResolveError::temporary ||
                              found.error() == ResolveError::cancelled;
                continue;
            }
            addresses = (*found)->addresses;
            const auto v6 = std::ranges::find_if(addresses, &base::IpAddress::is_v6);
            std::shuffle(addresses.begin(), v6, random_);
            std::shuffle(v6, addresses.end(), random_);
        }
        for (const base::IpAddress& address : addresses) {
            if ((only_v4 && address.is_v6()) || (only_v6 && !address.is_v6())) {
                unreachable = true;
                continue;
            }
            const auto* note = lane.site.note({address, host.port});
            if (note != nullptr && note->avoid_until > loop_.now()) {
                later.push_back({&host, address});
                continue;
            }
            if (connection->tried >= connect_candidates_max) co_return false;
            connection->alternatives = i + 1 < hosts.size() || addresses.size() > 1 ||
                                       !later.empty() || connection->tried > 0;
            const bool connected = co_await try_address(connection, &host, address);
            if (connected) co_return true;
            if (halt_.cancelled()) co_return false;
        }
    }
    for (const Later& candidate : later) {
        if (connection->tried >= connect_candidates_max) co_return false;
        connection->alternatives = later.size() > 1 || connection->tried > 0;
        const bool connected = co_await try_address(connection, candidate.host, candidate.address);
        if (connected) co_return true;
        if (halt_.cancelled()) co_return false;
    }
    if (connection->tried > 0) co_return false;

    Outcome& failure = connection->failure;
    failure.stage = Stage::route;
    failure.cause = Cause::local;
    if (unresolved) {
        failure.code = 451;
        failure.enhanced = {4, 4, 3};
        failure.text = "the addresses of the mail hosts could not be resolved for now";
    } else if (unreachable) {
        failure.code = 451;
        failure.enhanced = {4, 4, 4};
        failure.text = "no mail host has an address of the source's family";
    } else if (lane.site.own_hosts) {
        failure.code = 451; // the operator's mistake bounces nobody's mail
        failure.enhanced = {4, 4, 4};
        failure.text = "no host of the route has an address";
    } else {
        failure.code = 550; // RFC 5321 §5.1: none of them usable
        failure.enhanced = {5, 4, 4};
        failure.text = "no mail host of the domain has an address";
    }
    co_return false;
}

Task<bool> Dispatcher::try_address(Connection* connection, const SiteHost* host,
                                   base::IpAddress address) {
    ++connection->tried;
    Site& site = connection->lane.site;
    const base::SocketAddress remote{address, host->port};
    const bool planned = co_await plan(connection, host);
    if (!planned) co_return false;
    const auto* note = site.note(remote);
    const bool may_go_plain = connection->plan.level == TlsLevel::may;
    const bool plain = may_go_plain && note != nullptr && note->plain_until > loop_.now();
    bool connected = co_await dial(connection, host, remote, plain);
    if (!connected && !plain && may_go_plain && connection->failure.cause == Cause::tls) {
        // Opportunistic TLS is better than none and no reason to withhold the mail.
        site.make_note(remote).plain_until = loop_.now() + plain_memory;
        connected = co_await dial(connection, host, remote, true);
    }
    if (!connected && !halt_.cancelled())
        site.make_note(remote).avoid_until = loop_.now() + host_avoid;
    co_return connected;
}

/// How this host is to be spoken to. False: not at all for now; see the connection's failure.
Task<bool> Dispatcher::plan(Connection* connection, const SiteHost* host) {
    const Site& site = connection->lane.site;
    const TlsLevel wanted = site.settings.tls;
    if (!asks_zone(wanted)) {
        connection->plan = plan_tls(wanted, site.domain);
        co_return true;
    }
    const base::Deadline deadline = base::Deadline::in(loop_, dns_timeout, &halt_);
    bool vouched = false;
    TlsaResult answer{std::unexpect, ResolveError::no_data};
    if (host->secure && !host->literal) {
        const AddressResult addresses = co_await context_.resolver.addresses(host->name, deadline);
        vouched = addresses && (*addresses)->secure;
        if (vouched) { // otherwise not asked for: RFC 7672 §2.2.2 has seen what such servers answer
            std::string name = "_" + std::to_string(host->port) + "._tcp." + host->name;
            answer = co_await context_.resolver.tlsa(std::move(name), deadline);
        }
    }
    auto made = plan_dane(wanted, vouched, answer);
    if (made) {
        connection->plan = std::move(*made);
        co_return true;
    }
    connection->host = host->name;
    Outcome& failure = connection->failure;
    failure = {};
    failure.stage = Stage::starttls;
    failure.cause = Cause::tls;
    failure.net = NetError::tls;
    failure.text = host->name + ": " + made.error();
    co_return false;
}

Task<bool> Dispatcher::dial(Connection* connection, const SiteHost* host,
                            base::SocketAddress remote, bool plain) {
    Lane& lane = connection->lane;
    const policy::Policy& policy = *connection->policy;
    Outcome& failure = connection->failure;
    connection->host = host->name;
    connection->remote = remote;
    connection->session.reset();
    const base::Deadline deadline = base::Deadline::in(loop_, policy.timeouts.connect, &halt_);
    const auto source = remote.ip.is_v6() ? lane.source.address_v6 : lane.source.address_v4;
    auto stream =
        co_await context_.transports.of(lane.source.transport).connect(remote, source, deadline);
    if (!stream) {
        failure = {};
        failure.stage = Stage::connect;
        failure.cause = Cause::network;
        failure.net = stream.error();
        failure.text = "connect to " + host->name + " (" + remote.to_string() + "): ";
        failure.text += base::to_string(stream.error());
        co_return false;
    }
    context_.stats.add(Counter::connections_out);

    smtp::ClientOptions options;
    options.helo_name = lane.source.helo_name.empty() ? policy.hostname : lane.source.helo_name;
    if (!host->literal) options.host_name = host->name;
    options.tls = plain ? TlsLevel::none : connection->plan.level;
    options.tlsa = connection->plan.tlsa;
    options.peer_names = connection->plan.peer_names;
    options.tls_context = context_.tls;
    options.pipelining = lane.site.settings.pipelining;
    options.chunking = lane.site.settings.chunking;
    options.timeouts = policy.timeouts;
    options.cancel = &halt_;
    auto session = std::make_unique<smtp::ClientSession>(loop_, std::move(options));
    const bool ready = co_await session->open(std::move(*stream));
    if (!ready) {
        failure = session->failure();
        if (failure.cause == Cause::tls) context_.stats.add(Counter::tls_failed_out);
        if (failure.cause != Cause::reply)
            failure.text = host->name + " (" + remote.to_string() + "): " + failure.text;
        co_await session->quit();
        co_return false;
    }
    if (session->tls()) {
        context_.stats.add(Counter::tls_handshakes_out);
        if (session->info().tls_resumed) context_.stats.add(Counter::tls_resumed_out);
    }
    if (!session->tls()) connection->plan.level = TlsLevel::none;
    connection->session = std::move(session);
    co_return true;
}

/// A connection could not be opened to any host. While others work the site has only had enough of
/// them; otherwise it is paused, and what waits for it goes back to the queue.
void Dispatcher::connect_failed(Lane& lane, const Outcome& failure) {
    if (closing_) return;
    if (lane.established > 0) {
        lane.grow_after = loop_.now() + growth_pause;
        if (lane.window > 0) lane.window = std::max(1.0, lane.window - 1 / lane.window);
        return;
    }
    if (lane.connecting > 0) return; // the last one decides

    const NextStep step = next_step(failure, {});
    if (step == NextStep::bounce) {
        while (Job* job = lane.ready.pop()) {
            std::erase(job->round->waiting, job);
            for (const std::uint32_t recipient : job->recipients) {
                recipient_failed(*job->round, recipient, failure, step, nullptr, &lane.site);
            }
            end_job(*job);
        }
        return;
    }
    failing(lane, failure);
}

// ---- what it carries

/// Waits for a place in the site's message rate. False: look at the lane again first.
Task<bool> Dispatcher::wait_for_place(Lane* lane) {
    Site& site = lane->site;
    if (!site.rate) {
        site.rate = context_.ledger.attach(site.key);
        if (!site.rate) {
            static_cast<void>(
                co_await base::sleep_for(loop_, std::chrono::milliseconds{1}, &halt_));
            co_return false;
        }
    }
    const TimePoint place =
        site.rate->next_message(loop_.now(), site.settings.messages_per_second_max);
    if (place <= loop_.now()) co_return true;
    ++lane->awaiting_place;
    const Wake why = co_await base::sleep_until(loop_, {place, &halt_});
    --lane->awaiting_place;
    co_return why == Wake::timed_out;
}

/// Waits for a job. False when the connection is not worth keeping any longer: it has had its time, or
/// another shard has mail for this site. That is looked for after twice as long each time, so nobody
/// waits longer for the connection than it has been idle.
Task<bool> Dispatcher::idle(Lane* lane) {
    const TimePoint since = loop_.now();
    const TimePoint until = since + lane->site.settings.idle;
    base::Duration look_after = slot_retry;
    lane->want(Want::nothing);
    while (!lane->slots->wanted()) {
        const TimePoint next = std::min(until, loop_.now() + look_after);
        const Wake why = co_await lane->idle.wait(loop_, {next, &halt_});
        if (why == Wake::event) co_return true;
        if (why != Wake::timed_out || loop_.now() >= until) co_return false;
        look_after *= 2;
    }
    co_return false;
}

Task<void> Dispatcher::run_connection(Lane* lane, SlotGuard slot, [[maybe_unused]] TaskMark mark) {
    Connection connection{*lane, context_.policy.current()};
    // The source as policy has it now: the lane may be older.
    const auto source = connection.policy->source_index.find(lane->source.name);
    if (source != connection.policy->source_index.end())
        lane->source = connection.policy->sources[source->second];

    const bool connected = co_await connect(&connection);
    if (!connected) {
        slot.release();
        connect_failed(*lane, connection.failure);
        grow(*lane);
        let_go(*lane);
        co_return;
    }
    slot.establish();
    if (std::exchange(lane->paused_until, {}) > loop_.now()) context_.queue.unpause(lane->parking);
    feed(*lane);

    const policy::SitePolicy& limits = lane->site.settings;
    smtp::ClientSession& session = *connection.session;
    while (!stopped() && session.usable()) {
        if (connection.served >= std::max(1U, limits.messages_per_connection_max)) break;
        if (connection.served >= messages_while_contended_max &&
            lane->slots->too_many(lane->open, limits.connections_max)) {
            break;
        }
        feed(*lane);
        if (lane->ready.size() <= lane->awaiting_place) {
            const bool kept = co_await idle(lane);
            if (!kept) break;
            continue;
        }
        if (limits.messages_per_second_max > 0) {
            const bool mine = co_await wait_for_place(lane);
            if (!mine) continue;
        }
        if (stopped() || session.disturbed()) break; // it has said goodbye while nobody asked
        Job* job = lane->ready.pop();
        if (job == nullptr) continue;
        std::erase(job->round->waiting, job);
        grow(*lane); // for those behind it, now that one connection works
        if (expired(*job->round)) {
            expire_job(*job);
            continue;
        }
        queue::MessageRef message = job->round->message;
        queue::ContentReader content{context_.queue, message};
        co_await session.transact(*message, job->recipients, std::move(content));
        ++connection.served;
        settle_transaction(connection, *job);
    }
    co_await session.quit();
    const bool contended = lane->slots->contended();
    slot.release();
    // Leave the slot to whoever waits for it: it looks every slot_retry.
    if (contended && lane->open == 0) lane->grow_after = loop_.now() + 2 * slot_retry;
    grow(*lane);
    let_go(*lane);
}

void Dispatcher::settle_transaction(Connection& connection, Job& job) {
    Lane& lane = connection.lane;
    Round& round = *job.round;
    const std::span<const Outcome> results = connection.session->results();
    CHECK(results.size() == job.recipients.size());
    const bool may_move = job.moves < moves_max && !closing_;
    const Circumstances circumstances{.last_host = !(may_move && connection.alternatives),
                                      .reused_connection = may_move && connection.served > 1,
                                      .expired = expired(round)};
    moved_.clear();
    bool delivered = false;
    bool lost_again = false;
    for (std::size_t i = 0; i < results.size(); ++i) {
        const Outcome& outcome = results[i];
        const std::uint32_t recipient = job.recipients[i];
        const NextStep step = next_step(outcome, circumstances);
        switch (step) {
        case NextStep::delivered:
            recipient_delivered(round, recipient, outcome, &connection);
            delivered = true;
            break;
        case NextStep::try_next_host:
            moved_.push_back(recipient);
            break;
        case NextStep::retry_later:
            if (outcome.cause == Cause::network && outcome.net == NetError::cancelled) {
                postpone(round, recipient, outcome, loop_.wall_now()); // our doing, not an attempt
            } else {
                recipient_deferred(round, recipient, outcome, &connection, &lane.site);
            }
            break;
        case NextStep::bounce:
        case NextStep::expire:
            recipient_failed(round, recipient, outcome, step, &connection, &lane.site);
            break;
        }
    }
    if (delivered) context_.stats.add(Counter::bytes_delivered, round.message->content_bytes);
    const bool answered = std::ranges::any_of(results, [](const Outcome& outcome) {
        return outcome.cause == Cause::reply && outcome.code != 421;
    });
    if (answered) {
        succeeded(lane);
    } else if (!halt_.cancelled() && connection.served == 1) {
        // A fresh connection that breaks: the site counts as failing when that is all it does.
        if (lane.window > 0) lane.window = std::max(1.0, lane.window - 1);
        if (++lane.lost >= lost_in_a_row_max) lost_again = true;
    }
    if (moved_.empty()) {
        const Outcome failure = lost_again ? results.front() : Outcome{};
        end_job(job);
        if (lost_again) failing(lane, failure);
        return;
    }

    if (connection.served == 1) { // a fresh connection that broke: another host first
        lane.site.make_note(connection.remote).avoid_until = loop_.now() + host_avoid;
    }
    std::swap(job.recipients, moved_);
    ++job.moves;
    if (std::exchange(round.progressed, false)) context_.queue.progress(*round.message);
    lane.ready.push_front(job, round.message->envelope.tenant());
}

} // namespace dataplane::delivery
