// From frames to connections.
#include "dataplane/net/stack/engine.h"

#include "dataplane/net/tcp/isn.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>

namespace dataplane::net::stack {

using base::TimePoint;

std::size_t Engine::poll() {
    const std::span<ReceivedFrame> frames{burst_->frames};
    std::size_t total = 0;
    while (total < frames_per_poll_max) {
        const std::size_t count = port_.receive(frames);
        if (count == 0) break;
        if (total == 0) loop_.refresh_time(); // what arrived while we slept arrived now
        take_frames(frames.first(count));
        port_.release(frames.first(count));
        total += count;
        if (count < frames.size()) break;
    }
    const TimePoint now = loop_.now();
    flows_.work([this](std::uint32_t value) { return hash_of(key_of(value)); });
    if (now >= tick_at_) run_timers(now); // it is never later than what is due
    for (std::uint32_t left = send_slabs_->free_count(); left > 0 && !starved_.empty(); --left) {
        starved_.front()->waits_for_slab = false;
        starved_.front()->writable.wake_all();
        starved_.pop_front();
    }
    if (total > 0) loop_.at_turn_end(*this); // IP answers by itself: to be flushed
    if (!output_.alone() && (!stalled_ || port_.send_room() > 0 || now >= stalled_until_)) {
        loop_.at_turn_end(*this);
    }
    return total;
}

void Engine::take_frames(std::span<const ReceivedFrame> frames) {
    const TimePoint now = loop_.now();
    std::array<Arrival, receive_burst_max>& arrivals = burst_->arrivals;
    std::size_t count = 0;
    for (const ReceivedFrame& frame : frames) {
        std::optional<ip::TransportError> error;
        const auto datagram = ip_.receive(frame, now, error);
        if (error) deliver_error(*error);
        if (!datagram || !classify(*datagram, arrivals[count])) continue;
        Arrival& arrival = arrivals[count];
        const std::byte* const at = datagram->payload.data();
        if (std::less<>{}(at, frame.bytes.data()) ||
            std::less<>{}(frame.bytes.data() + frame.bytes.size(), at)) {
            deliver(arrival); // put together from fragments: gone with the next receive()
            continue;
        }
        flows_.prefetch(arrival.hash);
        ++count;
    }
    constexpr std::size_t ahead = 4;
    for (std::size_t i = 0; i < std::min(count, ahead); ++i)
        prefetch_connection(arrivals[i]);
    for (std::size_t i = 0; i < count; ++i) {
        if (i + ahead < count) prefetch_connection(arrivals[i + ahead]);
        deliver(arrivals[i]);
    }
}

void Engine::prefetch_connection(const Arrival& arrival) const noexcept {
    const auto value = flows_.guess(arrival.hash);
    if (!value || (*value & time_wait_bit) != 0) return;
    const Chunk& chunk = *chunks_[*value / connections_per_chunk];
    const std::byte* const at = chunk.slots[*value % connections_per_chunk].bytes;
    for (std::size_t line = 0; line < sizeof(Tcb); line += 64)
        __builtin_prefetch(at + line, 1);
}

bool Engine::classify(const ip::Datagram& datagram, Arrival& arrival) {
    const auto segment = tcp::parse(datagram.payload);
    if (!segment) {
        ++counters.segments_malformed;
        return false;
    }
    arrival.segment = *segment;
    arrival.segment.ecn = datagram.ecn;
    arrival.key = {datagram.destination, datagram.source, segment->destination_port,
                   segment->source_port};
    if (arrival.key.local == arrival.key.remote) { // LAND: we do not talk to ourselves over a wire
        ++counters.segments_land;
        return false;
    }
    arrival.hash = hash_of(arrival.key);
    return true;
}

void Engine::deliver(const Arrival& arrival) {
    const auto found = find(arrival.key, arrival.hash);
    if (!found) return to_listener(arrival, std::nullopt);
    if ((*found & time_wait_bit) != 0) {
        return to_time_wait_record(*found & ~time_wait_bit, arrival);
    }
    const base::Ref<Tcb> hold{tcb(*found)};
    hold->connection.receive(arrival.segment, loop_.now());
    settle(*hold);
}

void Engine::deliver_error(const ip::TransportError& error) {
    const FlowKey key{error.source, error.destination, error.source_port, error.destination_port};
    const auto found = find(key, hash_of(key));
    if (!found || (*found & time_wait_bit) != 0) return;
    const TimePoint now = loop_.now();
    const base::Ref<Tcb> hold{tcb(*found)};
    tcp::Connection& connection = hold->connection;
    switch (error.kind) {
    case ip::TransportError::Kind::packet_too_big: {
        const unsigned headers = key.local.is_v6() ? 60 : 40;
        if (error.mtu <= headers) return;
        const std::uint32_t before = connection.mss();
        connection.on_path_mtu(static_cast<std::uint16_t>(error.mtu - headers), error.seq, now);
        // Only what a segment of ours in flight vouches for is believed for the whole path.
        if (connection.mss() < before) ip_.accept_path_mtu(error, now);
        break;
    }
    case ip::TransportError::Kind::soft:
        connection.on_unreachable(tcp::Connection::Unreachable::soft, error.error, error.seq, now);
        break;
    case ip::TransportError::Kind::hard:
        connection.on_unreachable(tcp::Connection::Unreachable::hard, error.error, error.seq, now);
        break;
    }
    settle(*hold);
}

void Engine::to_time_wait_record(std::uint32_t number, const Arrival& arrival) {
    const TimePoint now = loop_.now();
    switch (time_wait_.on_segment(number, arrival.segment, now)) {
    case TimeWaitAnswer::nothing:
        return;
    case TimeWaitAnswer::acknowledge: {
        const tcp::TimeWaitRecord record = time_wait_.record(number);
        tcp::Header header{.source_port = arrival.key.local_port,
                           .destination_port = arrival.key.remote_port,
                           .seq = record.snd_nxt,
                           .ack = record.rcv_nxt,
                           .window = record.window,
                           .flags = tcp::flag::ack};
        if (record.timestamps) {
            header.options.timestamps = tcp::Timestamps{
                tcp::timestamp_ticks(now) + ts_offset(arrival.key), record.ts_recent};
        }
        return answer(arrival.key, header);
    }
    case TimeWaitAnswer::reopen: {
        if (listener_for(arrival.key) == nullptr) return refuse(arrival);
        // The new incarnation begins beyond the old one's numbers (RFC 9293 §3.4.3, 1122 §4.2.2.13).
        const tcp::Seq beyond = time_wait_.record(number).snd_nxt;
        flows_.erase(arrival.hash, number | time_wait_bit);
        time_wait_.remove(number);
        ++time_wait_.counters.reopened;
        return to_listener(arrival, beyond);
    }
    }
}

void Engine::to_listener(const Arrival& arrival, std::optional<tcp::Seq> beyond) {
    if (!placement_.is_mine(arrival.key)) { // of fragments, which every shard of the port is given
        ++counters.segments_unknown;
        return;
    }
    const tcp::Segment& segment = arrival.segment;
    ListenPort* const listener = listener_for(arrival.key);
    const bool syn = segment.has(tcp::flag::syn);
    const bool ack = segment.has(tcp::flag::ack);
    const bool rst = segment.has(tcp::flag::rst);
    if (listener != nullptr && !syn && !ack && !rst) return; // RFC 9293 §3.10.7.2, fourth
    if (listener == nullptr || rst || syn == ack || is_unspecified(arrival.key.remote) ||
        is_multicast(arrival.key.remote)) {
        return refuse(arrival);
    }
    if (ack) {
        if (!take_cookie(*listener, arrival)) refuse(arrival);
        return;
    }
    ++counters.syns;
    if (listener->at_maximum()) {
        ++counters.refused_at_max;
        return refuse(arrival);
    }
    if (listener->queue_full()) { // as Linux does: the SYN comes again when there may be room
        ++counters.syn_dropped;
        return;
    }
    if (half_open_ >= options_.half_open_max) return send_cookie(arrival);
    const auto path = ip_.path(arrival.key.remote, loop_.now());
    base::Ref<Tcb> fresh = path ? take_tcb() : base::Ref<Tcb>{};
    if (!fresh) {
        ++counters.syn_dropped;
        return;
    }
    tcp::Seq first = first_sequence(arrival.key);
    if (beyond && first <= *beyond) first = *beyond + 65'536;
    fresh->key = arrival.key;
    fresh->path = *path;
    fresh->listener = base::Ref<ListenPort>{listener};
    fresh->phase = Tcb::Phase::half_open;
    fresh->connection.accept(segment, first, mss_of(fresh->key, *path), ts_offset(arrival.key),
                             loop_.now());
    ++half_open_;
    attach(*fresh);
    settle(*fresh);
}

void Engine::send_cookie(const Arrival& arrival) {
    const TimePoint now = loop_.now();
    const auto path = ip_.path(arrival.key.remote, now);
    if (!path) return;
    ++counters.cookies_sent;
    last_cookie_at_ = now;
    const tcp::Header header =
        cookies_.answer(arrival.segment, {arrival.key.local, arrival.key.local_port},
                        {arrival.key.remote, arrival.key.remote_port}, options_.tcp,
                        mss_of(arrival.key, *path), ts_offset(arrival.key), now);
    answer(arrival.key, header);
}

bool Engine::take_cookie(ListenPort& listener, const Arrival& arrival) {
    const TimePoint now = loop_.now();
    // Nothing is believed to be the answer to a cookie unless cookies went out.
    if (last_cookie_at_ == TimePoint::min() || now - last_cookie_at_ > cookie_life) return false;
    const std::uint32_t offset = ts_offset(arrival.key);
    const auto accepted =
        cookies_.check(arrival.segment, {arrival.key.local, arrival.key.local_port},
                       {arrival.key.remote, arrival.key.remote_port}, offset, now);
    if (!accepted) {
        ++counters.cookies_bad;
        return false;
    }
    if (listener.at_maximum() || listener.queue_full()) {
        ++(listener.at_maximum() ? counters.refused_at_max : counters.accept_overflow);
        return false;
    }
    const auto path = ip_.path(arrival.key.remote, now);
    base::Ref<Tcb> fresh = path ? take_tcb() : base::Ref<Tcb>{};
    if (!fresh) {
        ++counters.syn_dropped;
        return true; // not reset: the peer sends again, and then there may be room
    }
    ++counters.cookies_accepted;
    fresh->key = arrival.key;
    fresh->path = *path;
    fresh->listener = base::Ref<ListenPort>{&listener};
    fresh->phase = Tcb::Phase::half_open;
    ++half_open_;
    attach(*fresh);
    fresh->connection.accept_cookie(arrival.segment, accepted->iss, accepted->syn_options,
                                    mss_of(fresh->key, *path), offset, now);
    settle(*fresh);
    return true;
}

void Engine::refuse(const Arrival& arrival) {
    ++counters.segments_unknown;
    const auto header = tcp::reset_for(arrival.segment);
    if (!header) return;
    const TimePoint now = loop_.now();
    const std::chrono::duration<double> passed = now - reset_tokens_at_;
    reset_tokens_at_ = now;
    reset_tokens_ =
        std::min<double>(resets_per_second, reset_tokens_ + passed.count() * resets_per_second);
    if (reset_tokens_ < 1) {
        ++counters.resets_suppressed;
        return;
    }
    reset_tokens_ -= 1;
    ++counters.resets_unknown;
    answer(arrival.key, *header);
}

void Engine::answer(const FlowKey& key, const tcp::Header& header) {
    Answer fresh;
    fresh.key = key;
    fresh.length = tcp::encode(fresh.bytes, header);
    if (send_answer(fresh) == ip::Sent::unresolved) hold_answer(fresh);
}

ip::Sent Engine::send_answer(const Answer& answer) {
    const TimePoint now = loop_.now();
    auto path = ip_.path(answer.key.remote, now);
    if (!path) return ip::Sent::unreachable;
    loop_.at_turn_end(*this); // flushes
    return ip_.send(*path, answer.key.local, answer.key.remote, tcp::Ecn::not_ect,
                    {answer.bytes.data(), answer.length}, {}, 0, true, now);
}

void Engine::hold_answer(const Answer& answer) {
    const auto next_hop = ip_.next_hop(answer.key.remote);
    if (!next_hop) return;
    auto at = parkings_.find(*next_hop);
    if ((at == parkings_.end() || !at->second.answer) && held_answers_ == held_answers_max) {
        ++counters.answers_dropped;
        return;
    }
    if (at == parkings_.end()) at = parkings_.try_emplace(*next_hop).first;
    if (at->second.answer) {
        ++counters.answers_dropped; // RFC 1122 §2.3.2.2: the latest is worth the most
    } else {
        ++held_answers_;
    }
    at->second.answer = std::make_unique<Answer>(answer);
    ++counters.answers_held;
}

} // namespace dataplane::net::stack
