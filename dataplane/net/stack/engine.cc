#include "dataplane/net/stack/engine.h"

#include "dataplane/net/tcp/isn.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace dataplane::net::stack {
namespace {

using base::NetError;
using base::TimePoint;

std::uint64_t seeded(const std::array<std::uint64_t, 2>& secret, std::uint8_t use) noexcept {
    base::SipMessage message(secret);
    message.add_number(use); // keeps the uses of one key apart
    return message.hash();
}

Placement placement_of(const Port& port, const StackOptions& options) {
    const auto layout = port.rss_layout();
    if (port.info().rss && layout && port.info().queue_count > 1) {
        return {layout->key, layout->table, port.info().queue};
    }
    return {options.shard_count, options.shard};
}

} // namespace

Engine::Engine(base::Loop& loop, Port& port, ip::LayerOptions ip, const StackOptions& options)
    : TurnEnd(base::Room::net), loop_(loop), port_(port), options_(options),
      addresses_(ip.addresses),
      random_(static_cast<std::minstd_rand::result_type>(seeded(options.secret, 'R'))),
      receive_slabs_(options.receive_slab_bytes, options.receive_slabs),
      send_slabs_(std::make_unique<base::SlabPool>(options.send_slab_bytes, options.send_slabs)),
      environment_{options_.tcp, receive_slabs_, *send_slabs_, tcp_counters_, random_},
      ip_(port, std::move(ip), random_),
      flow_seed_{seeded(options.secret, 'F'), seeded(options.secret, 'G')},
      placement_(placement_of(port, options)), ports_(options.secret), cookies_(options.secret),
      time_wait_(options.time_wait_max, options.tcp.time_wait, loop.now()), wheel_(loop.now()),
      tick_(*this), parkings_(0, HashAddress{flow_seed_}), reset_tokens_at_(loop.now()) {
    output_.make_head();
    port.register_memory(send_slabs_->arena()); // if not, it copies
    ip_.on_neighbour([this](const base::IpAddress& next_hop, bool resolved) {
        on_neighbour(next_hop, resolved);
    });
}

Engine::~Engine() {
    for (std::uint32_t index = 0; index < chunks_.size() * connections_per_chunk; ++index) {
        Tcb* const left = tcb(index);
        if (left == nullptr || !left->attached) continue;
        const base::Ref<Tcb> hold{left};
        abort(*left);
        unsigned one = 1;
        static_cast<void>(put_out(*left, one)); // its reset
        end(*left);
    }
    port_.flush();
    CHECK(live_count_ == 0); // somebody still holds a Stream
    CHECK(listeners_.empty());
    // The port gives slabs back when the device is done with them, which may be after our time.
    if (send_slabs_->free_count() != send_slabs_->slab_count()) {
        static_cast<void>(send_slabs_.release()); // never freed: the device may still be reading it
    }
}

// Tcbs

Tcb* Engine::tcb(std::uint32_t index) const noexcept {
    Chunk& chunk = *chunks_[index / connections_per_chunk];
    const std::uint32_t slot = index % connections_per_chunk;
    if (!chunk.live[slot]) return nullptr;
    return std::launder(reinterpret_cast<Tcb*>(chunk.slots[slot].bytes));
}

base::Ref<Tcb> Engine::take_tcb() {
    if (live_count_ >= options_.connections_max) return {};
    if (free_.empty()) {
        const auto first = static_cast<std::uint32_t>(chunks_.size()) * connections_per_chunk;
        chunks_.push_back(std::make_unique_for_overwrite<Chunk>());
        chunks_.back()->live.fill(false);
        free_.reserve(chunks_.size() * connections_per_chunk);
        for (std::uint32_t i = connections_per_chunk; i-- > 0;)
            free_.push_back(first + i);
    }
    const std::uint32_t index = free_.back();
    free_.pop_back();
    ++live_count_;
    Chunk& chunk = *chunks_[index / connections_per_chunk];
    const std::uint32_t slot = index % connections_per_chunk;
    chunk.live[slot] = true;
    return base::Ref<Tcb>{new (chunk.slots[slot].bytes) Tcb{*this, environment_, index}};
}

void Engine::give_back(Tcb& tcb) noexcept {
    CHECK(!tcb.attached);
    if (tcb.listener && tcb.established) tcb.listener->connection_ended();
    const std::uint32_t index = tcb.index;
    tcb.~Tcb();
    chunks_[index / connections_per_chunk]->live[index % connections_per_chunk] = false;
    free_.push_back(index);
    --live_count_;
}

void Engine::attach(Tcb& tcb) {
    flows_.insert(hash_of(tcb.key), tcb.index,
                  [this](std::uint32_t value) { return hash_of(key_of(value)); });
    tcb.attached = base::Ref<Tcb>{&tcb};
}

void Engine::detach(Tcb& tcb) noexcept {
    leave_output(tcb);
    static_cast<DeadlineWheel::Node&>(tcb).cancel();
    if (tcb.phase == Tcb::Phase::half_open && !tcb.established) --half_open_;
    remove_orphan(tcb);
    tcb.attached.reset();
}

// Flows

FlowKey Engine::key_of(std::uint32_t value) const noexcept {
    if ((value & time_wait_bit) != 0) return time_wait_.key(value & ~time_wait_bit);
    return tcb(value)->key;
}

std::optional<std::uint32_t> Engine::find(const FlowKey& key, std::uint64_t hash) const noexcept {
    return flows_.find(hash, [this, &key](std::uint32_t value) { return key_of(value) == key; });
}

// Opening

base::NetResult<FlowKey> Engine::choose_source(const base::SocketAddress& remote,
                                               std::optional<base::IpAddress> source) {
    const auto used = [this](const FlowKey& key) { return in_use(key); };
    FlowKey key{{}, remote.ip, 0, remote.port};
    if (source) {
        if (source->is_v6() != remote.ip.is_v6() || !ip_.is_ours(*source)) {
            return std::unexpected(NetError::address_not_available);
        }
        key.local = *source;
        if (ports_.allocate(key, placement_, used)) return key;
        ++counters.no_port;
        return std::unexpected(NetError::no_port);
    }
    const auto first = ip_.source_for(remote.ip);
    if (!first) return std::unexpected(NetError::unreachable);
    key.local = *first;
    if (ports_.allocate(key, placement_, used)) return key;
    for (const ip::LayerOptions::Address& other : addresses_) {
        if (other.ip == *first || other.ip.is_v6() != remote.ip.is_v6()) continue;
        key.local = other.ip;
        if (ports_.allocate(key, placement_, used)) return key;
    }
    ++counters.no_port;
    return std::unexpected(NetError::no_port);
}

base::NetResult<base::Ref<Tcb>> Engine::open(const base::SocketAddress& remote,
                                             std::optional<base::IpAddress> source) {
    const TimePoint now = loop_.now();
    if (remote.port == 0) return std::unexpected(NetError::refused);
    if (is_unspecified(remote.ip) || is_multicast(remote.ip) || ip_.is_ours(remote.ip)) {
        return std::unexpected(NetError::unreachable);
    }
    const auto key = choose_source(remote, source);
    if (!key) return std::unexpected(key.error());
    const auto path = ip_.path(remote.ip, now);
    if (!path) return std::unexpected(NetError::unreachable);
    base::Ref<Tcb> fresh = take_tcb();
    if (!fresh) return std::unexpected(NetError::no_buffers);
    fresh->key = *key;
    fresh->path = *path;
    fresh->phase = Tcb::Phase::connecting;
    fresh->connection.open(first_sequence(*key), mss_of(*key, *path), ts_offset(*key), now);
    attach(*fresh);
    mark(*fresh);
    rearm(*fresh);
    return fresh;
}

base::NetResult<base::Ref<ListenPort>> Engine::listen(const base::SocketAddress& local,
                                                      const base::ListenOptions& options) {
    if (!is_unspecified(local.ip) && !ip_.is_ours(local.ip))
        return std::unexpected(NetError::address_not_available);
    const auto taken = [&](std::uint16_t port) {
        return std::ranges::any_of(listeners_, [&](const ListenPort* other) {
            return other->local() == base::SocketAddress{local.ip, port};
        });
    };
    base::SocketAddress bound = local;
    if (local.port == 0) {
        // Out of the range that clients take first; a listener on port 0 is a test's wish.
        for (std::uint16_t tries = 0; tries < 16384 && bound.port == 0; ++tries) {
            const auto port = static_cast<std::uint16_t>(49152 + random_() % 16384);
            if (!taken(port)) bound.port = port;
        }
    }
    if (bound.port == 0 || taken(bound.port)) return std::unexpected(NetError::address_in_use);
    base::Ref<ListenPort> fresh{new ListenPort{*this, bound, options}};
    listeners_.push_back(fresh.get());
    return fresh;
}

void Engine::unlisten(ListenPort& listener) noexcept {
    std::erase(listeners_, &listener);
}

ListenPort* Engine::listener_for(const FlowKey& key) const noexcept {
    ListenPort* found = nullptr;
    for (ListenPort* listener : listeners_) {
        if (!listener->takes(key.local, key.local_port)) continue;
        if (listener->specific()) return listener;
        found = listener;
    }
    return found;
}

std::uint16_t Engine::mss_of(const FlowKey& key, const ip::Path& path) noexcept {
    const unsigned headers = key.local.is_v6() ? 60 : 40;
    return static_cast<std::uint16_t>(path.mtu - headers);
}

tcp::Seq Engine::first_sequence(const FlowKey& key) const noexcept {
    return tcp::initial_sequence(options_.secret, {key.local, key.local_port},
                                 {key.remote, key.remote_port}, loop_.now());
}

std::uint32_t Engine::ts_offset(const FlowKey& key) const noexcept {
    return tcp::timestamp_offset(options_.secret, key.local, key.remote);
}

// Events

void Engine::settle(Tcb& tcb) noexcept {
    const base::Ref<Tcb> hold{&tcb};
    const std::uint8_t events = tcb.connection.take_events();
    if ((events & tcp::event::established) != 0) on_established(tcb);
    if ((events & (tcp::event::readable | tcp::event::end_of_stream)) != 0) {
        if (tcb.phase == Tcb::Phase::closing) drop_input(tcb);
        tcb.readable.wake_all();
    }
    if ((events & tcp::event::writable) != 0) tcb.writable.wake_all();
    if ((events & tcp::event::dead) != 0) return end(tcb);
    if ((events & tcp::event::time_wait) != 0) return enter_time_wait(tcb);
    // Whether it has something to send, and when its timers run, is asked once a turn, when everything that
    // came for it is in and the coroutines have had their say.
    mark(tcb);
}

void Engine::on_established(Tcb& tcb) noexcept {
    const bool passive = tcb.phase == Tcb::Phase::half_open;
    if (passive) --half_open_;
    tcb.established = true;
    if (passive) {
        tcb.listener->established(tcb);
    } else {
        tcb.writable.wake_all();
    }
}

void Engine::drop_input(Tcb& tcb) noexcept {
    for (auto unread = tcb.connection.unread(); !unread.empty(); unread = tcb.connection.unread()) {
        tcb.lingered_bytes = Tcb::lingered_bytes_max &
                             static_cast<std::uint32_t>(std::min<std::size_t>(
                                 tcb.lingered_bytes + unread.size(), Tcb::lingered_bytes_max));
        tcb.connection.consume(unread.size(), loop_.now());
    }
    if (tcb.lingered_bytes <= options_.linger_bytes_max) return;
    tcb.phase = Tcb::Phase::orphan; // a peer that does not stop sending is answered with a reset
    tcb.close_at = TimePoint::max();
    if (tcb.ends_with_reset) {
        tcb.connection.abort(loop_.now());
    } else {
        tcb.connection.close(loop_.now());
    }
}

/// When a closed connection ends, whatever its peer does. One that was closed with something unread does not
/// wait for the peer's FIN: it is reset once the peer has our last reply and has fallen silent.
TimePoint Engine::close_due(const Tcb& tcb) const noexcept {
    if (tcb.phase != Tcb::Phase::closing || !tcb.ends_with_reset) return tcb.close_at;
    if (!tcb.connection.all_acknowledged()) return tcb.close_at;
    if (tcb.connection.at_end())
        return tcb.connection.last_received(); // it has closed as well: now
    return std::min(tcb.close_at, tcb.connection.last_received() + reset_silence);
}

void Engine::add_orphan(Tcb& tcb) noexcept {
    if (tcb.in_orphans || !tcb.attached) return;
    tcb.in_orphans = true;
    tcb.orphan_older = newest_orphan_;
    tcb.orphan_newer = Tcb::no_orphan;
    (newest_orphan_ == Tcb::no_orphan ? oldest_orphan_ : this->tcb(newest_orphan_)->orphan_newer) =
        tcb.index;
    newest_orphan_ = tcb.index;
    if (++orphan_count_ <= options_.orphans_max) return;
    ++counters.orphans_reset;
    Tcb& oldest = *this->tcb(oldest_orphan_);
    remove_orphan(oldest); // it goes when its reset has left, at the turn's end
    abort(oldest);
}

void Engine::remove_orphan(Tcb& tcb) noexcept {
    if (!tcb.in_orphans) return;
    tcb.in_orphans = false;
    --orphan_count_;
    (tcb.orphan_older == Tcb::no_orphan ? oldest_orphan_
                                        : this->tcb(tcb.orphan_older)->orphan_newer) =
        tcb.orphan_newer;
    (tcb.orphan_newer == Tcb::no_orphan ? newest_orphan_
                                        : this->tcb(tcb.orphan_newer)->orphan_older) =
        tcb.orphan_older;
}

void Engine::end(Tcb& tcb) noexcept {
    if (!tcb.attached) return;
    const base::Ref<Tcb> hold{&tcb};
    const NetError error = tcb.connection.error();
    if (!tcb.failed && error != NetError::closed && error != NetError::end_of_stream) {
        tcb.failed = true;
        tcb.failure = error;
    }
    flows_.erase(hash_of(tcb.key), tcb.index);
    detach(tcb);
    tcb.readable.wake_all();
    tcb.writable.wake_all();
}

void Engine::fail(Tcb& tcb, NetError error) noexcept {
    tcb.failed = true;
    tcb.failure = error;
    tcb.connection.abort(loop_.now());
    end(tcb);
}

void Engine::enter_time_wait(Tcb& tcb) noexcept {
    if (!tcb.attached) return;
    const base::Ref<Tcb> hold{&tcb};
    if (time_wait_.full()) {
        const std::uint32_t oldest = *time_wait_.oldest();
        flows_.erase(hash_of(time_wait_.key(oldest)), oldest | time_wait_bit);
        time_wait_.remove(oldest);
        ++time_wait_.counters.evicted;
    }
    const std::uint32_t number =
        time_wait_.add(tcb.key, tcb.connection.time_wait_record(), loop_.now());
    flows_.replace(hash_of(tcb.key), tcb.index, number | time_wait_bit);
    detach(tcb);
    tcb.readable.wake_all();
    tcb.writable.wake_all();
}

void Engine::wait_for_send_slab(Tcb& tcb) {
    if (tcb.waits_for_slab) return;
    tcb.waits_for_slab = true;
    ++counters.slabs_starved;
    starved_.push_back(base::Ref<Tcb>{&tcb});
}

void Engine::close(Tcb& tcb) noexcept {
    const base::Ref<Tcb> hold{&tcb};
    tcb.readable.wake_all();
    tcb.writable.wake_all();
    tcb.phase = Tcb::Phase::closing;
    if (!tcb.attached) {
        tcb.phase = Tcb::Phase::orphan;
        return;
    }
    const bool unread = !tcb.connection.unread().empty();
    if (unread) ++counters.closed_unread;
    if (options_.linger_bytes_max == 0) {
        tcb.phase = Tcb::Phase::orphan;
        tcb.connection.close(loop_.now());
    } else {
        tcb.ends_with_reset = unread; // a FIN would say that all was read (RFC 2525 §2.17)
        drop_input(tcb);
        if (tcb.phase == Tcb::Phase::closing) tcb.close_at = loop_.now() + options_.close_limit;
        if (!tcb.write_shut && !tcb.ends_with_reset) tcb.connection.shutdown_write(loop_.now());
    }
    tcb.write_shut = true;
    mark(tcb);
    rearm(tcb);
    add_orphan(tcb);
}

void Engine::abort(Tcb& tcb) noexcept {
    const base::Ref<Tcb> hold{&tcb};
    if (tcb.phase == Tcb::Phase::half_open && !tcb.established) --half_open_;
    tcb.phase = Tcb::Phase::orphan;
    tcb.readable.wake_all();
    tcb.writable.wake_all();
    if (!tcb.attached) return;
    ++counters.aborted;
    tcb.close_at = TimePoint::max();
    tcb.connection.abort(loop_.now());
    mark(tcb);
}

// Timers

void Engine::rearm(Tcb& tcb) noexcept {
    if (!tcb.attached) return;
    const TimePoint due = std::min(tcb.connection.deadline(), close_due(tcb));
    // A deadline that moved away is looked at when the node comes up: an ACK then costs nothing here.
    if (due == TimePoint::max()) return;
    DeadlineWheel::Node& node = tcb;
    if (!node.armed() || due < node.when()) {
        wheel_.arm(node, due);
        if (due < tick_at_) arm_tick(); // what else waits is asked once a turn
    }
}

void Engine::run_timers(TimePoint now) noexcept {
    unsigned budget = timers_per_turn_max;
    while (DeadlineWheel::Node* node = wheel_.take(now, budget)) {
        const base::Ref<Tcb> hold{static_cast<Tcb*>(node)};
        Tcb& due = *hold;
        if (close_due(due) <= now) {
            due.close_at = TimePoint::max();
            if (due.ends_with_reset || !due.connection.all_acknowledged()) {
                abort(due);
            } else {
                due.phase = Tcb::Phase::orphan;
                due.connection.close(now);
            }
            settle(due);
            continue;
        }
        if (due.connection.deadline() > now) { // it moved since the node was filed
            rearm(due);
            continue;
        }
        due.connection.on_timer(now);
        settle(due);
    }
    if (budget == 0) ++counters.timer_budget;
    for (unsigned left = expiries_per_turn_max; left > 0 && time_wait_.due(now); --left) {
        const std::uint32_t oldest = *time_wait_.oldest();
        flows_.erase(hash_of(time_wait_.key(oldest)), oldest | time_wait_bit);
        time_wait_.remove(oldest);
        ++time_wait_.counters.expired;
    }
    if (ip_.deadline() <= now) {
        ip_.on_timer(now);
        loop_.at_turn_end(*this); // it may have asked for an address: flushes
    }
    arm_tick();
}

TimePoint Engine::next_due() const noexcept {
    TimePoint due = std::min({wheel_.next_due(), time_wait_.deadline(loop_.now()), ip_.deadline()});
    if (stalled_) due = std::min(due, stalled_until_);
    return due;
}

void Engine::arm_tick() noexcept {
    const TimePoint due = next_due();
    if (due >= tick_at_) return;
    tick_at_ = due;
    loop_.arm(tick_, due);
}

void Engine::on_tick(base::Timer& timer) noexcept {
    const base::InRoom in{base::Room::net};
    Engine& engine = static_cast<Tick&>(timer).engine;
    engine.tick_at_ = TimePoint::max();
    engine.run_timers(engine.loop_.now());
    if (!engine.output_.alone()) engine.loop_.at_turn_end(engine);
}

// To be seen

StackStatistics Engine::statistics() const noexcept {
    StackStatistics all;
    all.stack = counters;
    all.tcp = tcp_counters_;
    all.ip = ip_.counters();
    all.port = port_.counters();
    all.time_wait = time_wait_.counters;
    all.connections = live_count_;
    all.half_open = half_open_;
    all.orphans = orphan_count_;
    all.time_waiting = time_wait_.size();
    all.flow_table_entries = flows_.size();
    all.receive_slabs_free = receive_slabs_.free_count();
    all.receive_slabs_total = receive_slabs_.slab_count();
    all.send_slabs_free = send_slabs_->free_count();
    all.send_slabs_total = send_slabs_->slab_count();
    return all;
}

void Engine::debug_check() const noexcept {
    std::size_t live = 0, half_open = 0, orphans = 0;
    for (std::uint32_t index = 0; index < chunks_.size() * connections_per_chunk; ++index) {
        const Tcb* const one = tcb(index);
        if (one == nullptr) continue;
        ++live;
        const tcp::Connection& connection = one->connection;
        connection.sender().debug_check();
        if (!one->attached) continue;
        CHECK(find(one->key, hash_of(one->key)) == index);
        if (one->phase == Tcb::Phase::half_open && !one->established) ++half_open;
        if (one->in_orphans) ++orphans;
        if (connection.state() == tcp::State::closed) continue;
        const std::uint32_t flight = connection.sender().flight_bytes();
        CHECK(flight <= connection.peer_window_max() + 1); // a SYN or a FIN
        // Somebody looks at it again: a timer, the turn's end, or a next hop's answer.
        const bool waited_for = static_cast<const DeadlineWheel::Node&>(*one).armed() ||
                                static_cast<const OutputLink&>(*one).linked();
        CHECK(flight == 0 || waited_for);
        // What the glance says must be what the long look says, or output would be forgotten.
        CHECK(!connection.nothing_to_send() || !connection.wants_output(loop_.now()));
        CHECK(one->in_output == 0 || static_cast<const OutputLink&>(*one).linked());
    }
    CHECK(live == live_count_ && half_open == half_open_ && orphans == orphan_count_);
    CHECK(flows_.size() <= live + time_wait_.size());
}

std::size_t Engine::list(std::span<ConnectionView> views, std::size_t& cursor) const {
    std::size_t count = 0;
    const std::size_t end = chunks_.size() * connections_per_chunk;
    for (; cursor < end && count < views.size(); ++cursor) {
        const Tcb* const one = tcb(static_cast<std::uint32_t>(cursor));
        if (one == nullptr || !one->attached) continue;
        const tcp::Connection& connection = one->connection;
        const tcp::Sender& sender = connection.sender();
        views[count++] = {.local = {one->key.local, one->key.local_port},
                          .remote = {one->key.remote, one->key.remote_port},
                          .state = connection.state(),
                          .outgoing = !one->listener,
                          .cwnd = sender.cwnd(),
                          .flight_bytes = sender.flight_bytes(),
                          .unsent_bytes = connection.unsent_bytes(),
                          .unread_bytes = connection.unread().size(),
                          .mss = connection.mss(),
                          .smoothed_rtt = sender.smoothed_rtt(),
                          .rto = sender.rto(),
                          .backoff_count = sender.backoff_count(),
                          .in_recovery = sender.in_recovery()};
    }
    return count;
}

} // namespace dataplane::net::stack
