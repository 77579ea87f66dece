// What a segment does to a connection, in the order of RFC 9293 §3.10.7 with RFC 5961's and 7323's checks.
#include "dataplane/net/tcp/connection.h"

#include "dataplane/base/check.h"
#include "dataplane/net/tcp/connection_limits.h"

#include <algorithm>

namespace dataplane::net::tcp {

void Connection::receive(const Segment& segment, TimePoint now) noexcept {
    ++environment_.counters.segments_in;
    if (state_ == State::closed) return;
    if (state_ == State::syn_sent) {
        receive_in_syn_sent(segment, now);
    } else {
        receive_synchronized(segment, now);
    }
    if (state_ != State::closed) update_persist(now);
}

// --- SYN_SENT

void Connection::receive_in_syn_sent(const Segment& segment, TimePoint now) noexcept {
    const bool ack = segment.has(flag::ack);
    if (ack && (sender_.nxt() == iss_ || segment.ack != iss_ + 1)) {
        // A challenge ACK of an old connection comes here too: the reset ends that one, and our next
        // SYN is welcome.
        ++environment_.counters.bad_acks;
        if (segment.has(flag::rst)) return;
        reset_seq_ = segment.ack;
        reset_with_ack_ = false;
        reset_pending_ = true;
        return;
    }
    if (segment.has(flag::rst)) {
        if (!ack) return; // a blind one
        ++environment_.counters.resets_received;
        return die(base::NetError::refused);
    }
    if (!segment.has(flag::syn)) return;

    last_received_ = now;
    receive_.begin_at(segment.seq + 1);
    rcv_adv_ = rcv_nxt() + rcv_window_;
    last_ack_sent_ = rcv_nxt();
    take_syn_options(segment.options);
    snd_wl1_ = segment.seq;
    snd_wnd_ = snd_wnd_max_ = segment.window; // never scaled in a SYN
    if (!ack) {                               // simultaneous open, RFC 9293 §3.5
        ecn_ = ecn_ && segment.has(flag::ece) && segment.has(flag::cwr);
        snd_wl2_ = iss_;
        snd_right_ = iss_ + 1 + snd_wnd_;
        state_ = State::syn_received;
        answer_syn_ = true;
        return;
    }
    ecn_ = ecn_ && segment.has(flag::ece) && !segment.has(flag::cwr);
    snd_wl2_ = segment.ack;
    snd_right_ = segment.ack + snd_wnd_;
    apply_ack(segment, false, now);
    become_established(now);
    ack_now_ = true;
    receive_text(segment, segment.seq + 1, now);
}

// --- every other state

void Connection::receive_synchronized(const Segment& segment, TimePoint now) noexcept {
    Seq seq = segment.seq;
    bool syn = segment.has(flag::syn);
    if (state_ == State::syn_received && syn && !segment.has(flag::rst) &&
        segment.seq + 1 == rcv_nxt()) {
        if (!segment.has(flag::ack)) { // the SYN again: our answer was lost
            answer_syn_ = true;
            return;
        }
        seq += 1; // the answer of a peer that opened at the same time; its SYN we have
        syn = false;
    }
    if (!timestamps_allow(segment, now)) return;

    const Seq nxt = rcv_nxt();
    const Seq end = seq + static_cast<std::uint32_t>(segment.payload.size()) + (syn ? 1U : 0U) +
                    (segment.has(flag::fin) ? 1U : 0U);
    // Without text the right edge itself is fine: it is where a peer stands that filled our window. With a
    // closed window what carries text may still tell its ACK, RST or URG (RFC 9293 §3.10.7.4).
    const bool acceptable = seq == end
                                ? nxt <= seq && seq <= rcv_adv_
                                : (seq < rcv_adv_ && end > nxt) || (rcv_adv_ == nxt && seq == nxt);
    if (!acceptable) return answer_unacceptable(segment, seq, now);
    last_received_ = now;
    keepalive_count_ = 0;

    if (timestamps_ && segment.options.timestamps && seq <= last_ack_sent_) { // RFC 7323 §4.3
        ts_recent_ = segment.options.timestamps->value;
    }
    if (segment.has(flag::rst)) {
        if (state_ == State::time_wait) return;        // RFC 1337
        if (segment.seq != nxt) return challenge(now); // RFC 5961 §3.2
        ++environment_.counters.resets_received;
        if (state_ == State::syn_received && active_) return die(base::NetError::refused);
        // A peer that is through with its TIME_WAIT, or never had one, answers our FIN like this.
        const bool only_fin_left =
            (state_ == State::closing || state_ == State::last_ack) && send_.bytes() == 0;
        return die(only_fin_left ? base::NetError::closed : base::NetError::reset);
    }
    if (syn) return challenge(now); // RFC 5961 §4.2
    if (!segment.has(flag::ack)) return;
    if (!receive_ack(segment, seq, now) || state_ == State::closed) return;
    if (segment.has(flag::cwr)) echo_ce_ = false;
    receive_text(segment, seq, now);
}

bool Connection::timestamps_allow(const Segment& segment, TimePoint now) noexcept {
    if (!timestamps_ || segment.has(flag::rst)) return true;
    if (!segment.options.timestamps) {
        // RFC 7323 §3.2 drops it. The last ACK of a handshake may be a middlebox's: it counts.
        return handshaking();
    }
    const std::uint32_t age = ts_recent_ - segment.options.timestamps->value;
    if (age == 0 || age >= 0x8000'0000U) return true;
    if (now - last_received_ > paws_idle_max) return true; // the clock may have gone round
    ++environment_.counters.paws_dropped;
    challenge(now);
    return false;
}

void Connection::answer_unacceptable(const Segment& segment, Seq seq, TimePoint now) noexcept {
    if (segment.has(flag::rst)) return;
    if (state_ == State::time_wait && segment.has(flag::fin)) {
        state_deadline_ = now + environment_.config.time_wait; // our last ACK was lost
        ack_now_ = true;
        return;
    }
    const Seq end = seq + static_cast<std::uint32_t>(segment.payload.size());
    if (segment.payload.empty() && !segment.has(flag::fin)) {
        // Keepalives and window probes look like this. So do the two sides of an ACK war: the limit of
        // challenges ends that.
        ++environment_.counters.out_of_window;
        if (seq + 1 == rcv_nxt()) { // the peer lives
            last_received_ = now;
            keepalive_count_ = 0;
        }
        return challenge(now);
    }
    if (end <= rcv_nxt()) {
        ++environment_.counters.duplicates;
        last_received_ = now;
        // RFC 7323 §4.3 echoes only what was in the window. But this segment is what our ACK answers,
        // and when many ACKs are lost the older stamp would give its sender an RTT of minutes.
        if (timestamps_ && segment.options.timestamps && distance(seq, rcv_nxt()) <= rcv_window_) {
            ts_recent_ = segment.options.timestamps->value;
        }
        if (!handshaking()) note_duplicate(seq, end);
    } else {
        ++environment_.counters.out_of_window;
    }
    ack_now_ = true;
}

void Connection::challenge(TimePoint now) noexcept {
    const std::uint32_t left = challenge_until_ - timestamp_ticks(now);
    if (left == 0 || left > challenge_ticks_max) {
        // Jittered in length and number: how many are left tells an onlooker nothing (CVE-2016-5696).
        const unsigned rate = std::max(1U, environment_.config.challenge_acks_per_second);
        const auto jitter = static_cast<unsigned>(environment_.random());
        challenge_left_ = static_cast<std::uint8_t>(
            std::min(255U, std::max(1U, rate / 2 + jitter % (rate / 2 + 1))));
        challenge_until_ = timestamp_ticks(now) + challenge_ticks_min +
                           (jitter >> 8) % (challenge_ticks_max - challenge_ticks_min + 1);
    }
    if (challenge_left_ == 0) {
        ++environment_.counters.challenge_acks_suppressed;
        return;
    }
    --challenge_left_;
    ++environment_.counters.challenge_acks;
    ack_now_ = true;
}

// --- what the peer acknowledges

bool Connection::receive_ack(const Segment& segment, Seq seq, TimePoint now) noexcept {
    const Seq una = sender_.una();
    if (state_ == State::syn_received) {
        if (segment.ack <= iss_ || segment.ack > sender_.nxt()) {
            ++environment_.counters.bad_acks;
            reset_seq_ = segment.ack;
            reset_with_ack_ = false;
            reset_pending_ = true;
            return false;
        }
    } else if (segment.ack > sender_.nxt()) {
        ++environment_.counters.bad_acks;
        challenge(now);
        return false;
    } else if (segment.ack < una) {
        // RFC 5961 §5.2: an old ACK is harmless, one from before any window we had is an attack.
        if (distance(segment.ack, una) <= snd_wnd_max_) return true;
        ++environment_.counters.bad_acks;
        challenge(now);
        return false;
    }

    bool window_changed = false;
    // A SYN's window is not scaled: the one with the answer to our SYN-ACK is not.
    const std::uint32_t window = std::uint32_t{segment.window}
                                 << (segment.has(flag::syn) ? 0 : snd_scale_);
    if (snd_wl1_ < seq || (snd_wl1_ == seq && snd_wl2_ <= segment.ack)) {
        window_changed = window != snd_wnd_;
        snd_wnd_ = window;
        snd_wnd_max_ = std::max(snd_wnd_max_, window);
        snd_right_ = segment.ack + window;
        snd_wl1_ = seq;
        snd_wl2_ = segment.ack;
    }
    const bool pure = segment.payload.empty() && !segment.has(flag::fin) && !window_changed;
    const bool opening = state_ == State::syn_received;
    apply_ack(segment, pure, now);
    if (opening) become_established(now);
    return true;
}

void Connection::apply_ack(const Segment& segment, bool pure, TimePoint now) noexcept {
    const Seq una = sender_.una();
    Acknowledgement ack;
    ack.ack = segment.ack;
    if (sack_) ack.sack = std::span{segment.options.sack}.first(segment.options.sack_count);
    ack.pure = pure;
    ack.ece = ecn_ && segment.has(flag::ece) && !segment.has(flag::syn);
    if (timestamps_ && segment.options.timestamps && segment.options.timestamps->echo != 0) {
        ack.ts_echo = segment.options.timestamps->echo - ts_offset_;
    }
    const Sender::Outcome outcome = sender_.on_acknowledgement(ack, now);
    if (outcome.reduced) send_cwr_ = true;
    records_full_ = false;
    // Whoever answers probes may keep the window shut for ever (RFC 9293 §3.8.6.1), unless nobody
    // is there to wait, or the application has set a limit.
    const bool answer_counts = persist_count_ > 0 && !orphan_ && !user_timeout_set_;
    if (segment.ack != una || answer_counts) waiting_since_ = now;
    if (segment.ack == una) return;

    loss_probe_ = false;
    soft_error_ = base::NetError::timed_out;
    const Seq data_end = send_.end();
    send_.acknowledge(min(segment.ack, data_end));
    events_ |= event::writable;
    if (path_probe_ != 0 && segment.ack >= path_probe_end_) {
        use_path_mss(path_probe_, now);
        if (path_mss_ < mss_limit_) raise_path_after({}, now); // and on, as long as it works
    }
    if (fin_staged_ && segment.ack > data_end) on_fin_acknowledged(now);
}

void Connection::on_fin_acknowledged(TimePoint now) noexcept {
    switch (state_) {
    case State::fin_wait_1:
        state_ = State::fin_wait_2;
        if (orphan_) state_deadline_ = now + environment_.config.fin_wait_2;
        break;
    case State::closing:
        become_time_wait(now);
        break;
    case State::last_ack:
        die(base::NetError::closed);
        break;
    case State::closed:
    case State::syn_sent:
    case State::syn_received: // no FIN leaves before ESTABLISHED
    case State::established:
    case State::fin_wait_2:
    case State::close_wait:
    case State::time_wait:
        break;
    }
}

// --- what the peer says

void Connection::receive_text(const Segment& segment, Seq seq, TimePoint now) noexcept {
    if (segment.ecn == Ecn::ce && ecn_ && !segment.payload.empty()) {
        echo_ce_ = true;
        ack_now_ = true;
    }
    if (state_ == State::time_wait && segment.has(flag::fin)) {
        state_deadline_ = now + environment_.config.time_wait;
        ack_now_ = true;
    }
    if (fin_received_) return; // RFC 9293: nothing can follow a FIN
    if (segment.payload.empty() && !segment.has(flag::fin)) return;
    const Seq text_end = seq + static_cast<std::uint32_t>(segment.payload.size());
    if (orphan_ && text_end > receive_.next()) {
        // Nobody reads this any more; the peer must not believe that somebody does (RFC 9293 §3.6.1).
        return reset_and_die(base::NetError::closed);
    }

    const Seq before = receive_.next();
    const bool had_holes = receive_.out_of_order();
    std::span<const std::byte> payload = segment.payload;
    bool fin = segment.has(flag::fin);
    // Cut off what lies behind the window, what lies behind the FIN, and what is known already.
    const std::uint32_t room =
        receive_.room(environment_.config.receive_bytes_max + receive_slack_bytes);
    const Seq right = min(rcv_adv_, before + room);
    if (fin && text_end >= right && text_end != before) fin = false;
    if (fin && right == before) fin = false;
    const Seq stop = fin_seen_ ? min(right, peer_fin_) : right;
    if (text_end > stop) {
        if (text_end > right) ++environment_.counters.out_of_window;
        payload = seq < stop ? payload.first(distance(seq, stop)) : payload.first(0);
        ack_now_ = true;
    }
    if (fin && !fin_seen_) {
        fin_seen_ = true;
        peer_fin_ = text_end;
    }
    if (!payload.empty()) store_text(seq, payload);

    const std::uint32_t grown = distance(before, receive_.next());
    if (grown > 0) {
        environment_.counters.bytes_in += grown;
        events_ |= event::readable;
        rcv_mss_ = static_cast<std::uint16_t>(
            std::max<std::size_t>(rcv_mss_, std::min<std::size_t>(payload.size(), mss_announced_)));
        if (had_holes) ack_now_ = true; // RFC 5681 §4.2: the peer is in recovery
        owe_ack(now);
    }
    if (fin_seen_ && receive_.next() >= peer_fin_) {
        receive_fin(now);
    } else if (segment.has(flag::fin)) {
        ack_now_ = true;
    }
}

void Connection::store_text(Seq seq, std::span<const std::byte> payload) noexcept {
    ConnectionCounters& counters = environment_.counters;
    const Seq nxt = receive_.next();
    const Seq end = seq + static_cast<std::uint32_t>(payload.size());
    if (end <= nxt) {
        ++counters.duplicates;
        note_duplicate(seq, end);
        ack_now_ = true;
        return;
    }
    if (seq < nxt) {
        note_duplicate(seq, nxt);
        payload = payload.subspan(distance(seq, nxt));
        seq = nxt;
        ack_now_ = true;
    }
    if (seq > nxt) {
        ack_now_ = true; // RFC 5681 §4.2: the peer shall know at once
        if (receive_.holds(seq, end)) {
            ++counters.duplicates;
            note_duplicate(seq, end);
            return;
        }
        ++counters.out_of_order;
    }
    switch (receive_.store(seq, payload, environment_.receive_slabs,
                           environment_.config.receive_ranges_max)) {
    case ReceiveBuffer::Stored::all:
        break;
    case ReceiveBuffer::Stored::part_no_slab:
        ++counters.no_receive_slabs;
        if (seq > nxt) ++counters.out_of_order_dropped;
        break;
    case ReceiveBuffer::Stored::no_range:
        ++counters.out_of_order_dropped;
        break;
    }
}

void Connection::note_duplicate(Seq begin, Seq end) noexcept {
    if (!sack_ || begin >= end) return;
    dsack_begin_ = begin;
    dsack_end_ = end;
}

void Connection::receive_fin(TimePoint now) noexcept {
    fin_received_ = true;
    ack_now_ = true;
    events_ |= event::end_of_stream;
    switch (state_) {
    case State::established:
        state_ = State::close_wait;
        break;
    case State::fin_wait_1:
        state_ = State::closing;
        break;
    case State::fin_wait_2:
        become_time_wait(now);
        break;
    case State::closed:
    case State::syn_sent:
    case State::syn_received:
    case State::close_wait:
    case State::closing:
    case State::last_ack:
    case State::time_wait:
        break; // fin_received_ was set before each of these
    }
}

void Connection::owe_ack(TimePoint now) noexcept {
    // RFC 5681 §4.2: at least every second full segment. At the start and after a hole: every one.
    if (quick_acks_ > 0 || receive_.out_of_order() ||
        distance(last_ack_sent_, rcv_nxt()) >= 2U * rcv_mss_) {
        ack_now_ = true;
    }
    if (ack_now_ || ack_deadline_ != TimePoint::max()) return;
    const Duration longest = environment_.config.delayed_ack_max;
    const Duration rtt = sender_.smoothed_rtt();
    const Duration delay =
        rtt == Duration::zero()
            ? longest
            : std::clamp(2 * rtt, std::min(environment_.config.delayed_ack_min, longest), longest);
    ack_deadline_ = now + delay;
}

} // namespace dataplane::net::tcp
