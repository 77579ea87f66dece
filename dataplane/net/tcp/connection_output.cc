// What a connection sends, and when. plan() decides without changing anything, so that wants_output()
// and next_segment() cannot disagree.
#include "dataplane/net/tcp/connection.h"

#include "dataplane/base/check.h"
#include "dataplane/net/tcp/connection_limits.h"
#include "dataplane/net/tcp/isn.h"

#include <algorithm>

namespace dataplane::net::tcp {

bool Connection::wants_output(TimePoint now) const noexcept {
    return plan(mss_, now).kind != Kind::nothing;
}

Connection::Plan Connection::plan(std::uint32_t payload_max, TimePoint now) const noexcept {
    if (reset_pending_) return {.kind = Kind::reset};
    if (state_ == State::closed) return {};
    // A port copies the options into every frame that it cuts, and a D-SACK goes out once (RFC 2883 §4).
    if (dsack_begin_ != dsack_end_) payload_max = std::min(payload_max, payload_limit());
    if (handshaking()) {
        if (answer_syn_ || sender_.nxt() == iss_ ||
            (sender_.has_lost() && sender_.retransmission(now))) {
            return {.kind = Kind::handshake};
        }
    } else if (can_send_data() && !records_full_) {
        if (sender_.has_lost()) {
            if (const auto lost = sender_.retransmission(now)) {
                const Plan again = plan_again(*lost, payload_max);
                if (again.kind != Kind::nothing) return again;
            }
        }
        if (loss_probe_) {
            const Plan fresh = plan_new_data(payload_max, Urgency::loss_probe, now);
            if (fresh.kind != Kind::nothing) return fresh;
            if (const auto tail = sender_.probe()) {
                const Plan again = plan_again(*tail, payload_max);
                if (again.kind != Kind::nothing) return again;
            }
        }
        const Plan fresh = plan_new_data(
            payload_max, window_probe_ ? Urgency::window_probe : Urgency::normal, now);
        if (fresh.kind != Kind::nothing) return fresh;
    }
    if (window_probe_) return {.kind = Kind::probe};
    if (ack_now_) return {.kind = Kind::acknowledgement};
    return {};
}

Connection::Plan Connection::plan_again(Range range, std::uint32_t payload_max) const noexcept {
    std::uint32_t room = payload_limit();
    if (range.begin < snd_right_) {
        room = std::min(room, distance(range.begin, snd_right_));
    } else if (range.begin != sender_.una()) {
        return {}; // the window was shrunk: only its first byte probes whether it opens again
    }
    Plan result{.kind = Kind::data, .retransmission = true, .begin = range.begin};
    const Seq data_end = min(range.end, send_.end());
    if (range.begin < data_end) {
        result.payload = std::min({distance(range.begin, data_end), room, payload_max});
    }
    result.fin =
        fin_staged_ && range.end > send_.end() && range.begin + result.payload == send_.end();
    if (result.payload == 0 && !result.fin) return {};
    return result;
}

Connection::Plan Connection::plan_new_data(std::uint32_t payload_max, Urgency urgency,
                                           TimePoint now) const noexcept {
    const std::uint32_t staged = unsent();
    if (staged == 0 && !fin_unsent()) return {};
    const std::uint32_t window = window_left();
    if (window == 0) return {};
    const std::uint32_t limit = payload_limit();
    const std::uint32_t allowed = urgency == Urgency::loss_probe ? limit : sender_.allowance(now);
    if (allowed == 0) return {};

    Plan result{.kind = Kind::data, .begin = sender_.nxt()};
    if (staged > 0) {
        if (path_raise_waits_ && path_raise_due(now) && path_probe_ == 0 &&
            urgency == Urgency::normal) {
            const std::uint32_t larger = path_probe_mss() - (path_mss_ - limit);
            if (std::min({staged, window, allowed, payload_max}) >= larger) {
                result.payload = larger;
                result.path_probe = true;
                result.fin = staged == larger && fin_unsent() && window > larger;
                return result;
            }
        }
        std::uint32_t length = std::min({staged, window, allowed, payload_max});
        if (length > limit && length < staged) length -= length % limit;
        if (length < std::min({staged, limit, payload_max})) {
            // Neither all there is nor a full segment. If congestion control is the reason, an ACK
            // will bring more; if the window is, it may be silly to take it (RFC 9293 §3.8.6.2.1).
            const bool window_is_short = window <= allowed;
            if (!window_is_short && sender_.flight_bytes() > 0) return {};
            if (window_is_short && length < snd_wnd_max_ / 2 && urgency == Urgency::normal) {
                return {};
            }
        }
        result.payload = length;
    }
    result.fin = fin_unsent() && result.payload == staged && window > staged;
    if (result.payload == 0 && !result.fin) return {}; // nothing but payload, and none is wanted
    return result;
}

std::uint32_t Connection::sack_bytes() const noexcept {
    Options options;
    if (timestamps_) options.timestamps.emplace();
    std::array<SackBlock, sack_blocks_max> blocks;
    const std::size_t count = receive_.sack_blocks(blocks) + (dsack_begin_ == dsack_end_ ? 0U : 1U);
    options.sack_count = static_cast<std::uint8_t>(std::min(count, sack_blocks_max));
    return static_cast<std::uint32_t>(encoded_options_bytes(options, false)) -
           (timestamps_ ? 12U : 0U);
}

std::uint16_t Connection::path_probe_mss() const noexcept {
    return path_mss_ < path_mss_middle ? std::min(path_mss_middle, mss_limit_) : mss_limit_;
}

bool Connection::next_segment(Outgoing& out, std::uint32_t payload_max, TimePoint now) noexcept {
    Plan next = plan(payload_max, now);
    if (next.kind == Kind::data && !emit_data(next, out, now)) {
        next = plan(payload_max, now); // the sender's records are full: at most an ACK now
        if (next.kind == Kind::data) return false;
    }
    loss_probe_ = loss_probe_ && next.kind == Kind::reset; // had its turn, whatever came of it
    switch (next.kind) {
    case Kind::nothing:
        return false;
    case Kind::data:
        break;
    case Kind::reset:
        emit_reset(out, now);
        break;
    case Kind::handshake:
        if (!emit_handshake(out, now)) return false;
        break;
    case Kind::probe:
        // An old number without text: unacceptable, so it is answered, and it costs the peer nothing.
        // RFC 9293 §3.8.6.1 would send a byte; everybody's keepalive and Linux's persist do this.
        window_probe_ = false;
        fill(out, sender_.una() - 1, flag::ack, 0, now);
        break;
    case Kind::acknowledgement:
        fill(out, sender_.nxt(), flag::ack, 0, now);
        break;
    }
    ++environment_.counters.segments_out;
    return true;
}

bool Connection::emit_data(const Plan& next, Outgoing& out, TimePoint now) noexcept {
    const Seq data_end = next.begin + next.payload;
    const Seq end = data_end + (next.fin ? 1U : 0U);
    const bool last = data_end == send_.end();
    const std::uint32_t limit = payload_limit();
    if (!sender_.sent(next.begin, end, now, last)) {
        records_full_ = true;
        return false;
    }
    records_held_ = true;
    window_probe_ = false;
    std::uint8_t flags = flag::ack;
    if (last && next.payload > 0) flags |= flag::psh;
    if (next.fin) flags |= flag::fin;
    if (!next.retransmission) send_.point_at(next.begin);

    fill(out, next.begin, flags, next.payload, now);
    out.retransmission = next.retransmission;
    if (next.payload > limit && !next.path_probe) {
        out.segment_bytes = static_cast<std::uint16_t>(limit);
    }
    // RFC 3168 §6.1.5: what is sent again is not marked, an attacker could have made it up.
    if (ecn_ && !next.retransmission && next.payload > 0) {
        out.ecn = Ecn::ect0;
        if (send_cwr_) out.flags |= flag::cwr;
        send_cwr_ = false;
    }
    if (next.path_probe) {
        path_probe_ = path_probe_mss();
        path_probe_end_ = end;
    } else if (next.retransmission && path_probe_ != 0 && next.begin < path_probe_end_ &&
               end > path_probe_end_ - path_probe_) {
        path_probe_ = 0; // it did not get through
        raise_path_after(path_raise_after, now);
    }
    environment_.counters.bytes_out += next.payload;
    return true;
}

bool Connection::emit_handshake(Outgoing& out, TimePoint now) noexcept {
    const bool first = sender_.nxt() == iss_;
    if (!sender_.sent(iss_, iss_ + 1, now, true)) {
        // Nothing else is in flight: no room for one record means no memory, and the timer tries again.
        answer_syn_ = false;
        return false;
    }
    records_held_ = true;
    answer_syn_ = false;
    const bool answer = state_ == State::syn_received;
    out = Outgoing{};
    out.seq = iss_;
    out.flags = flag::syn;
    out.window = static_cast<std::uint16_t>(std::min(rcv_window_, syn_window));
    out.options.mss = mss_announced_;
    if (scaling_) {
        out.options.window_scale = std::min<std::uint8_t>(environment_.config.window_scale, 14);
    }
    out.options.sack_permitted = sack_;
    if (timestamps_) {
        out.options.timestamps =
            Timestamps{timestamp_ticks(now) + ts_offset_, answer ? ts_recent_ : 0};
    }
    out.retransmission = !first;
    if (answer) {
        out.flags |= flag::ack;
        if (ecn_) out.flags |= flag::ece;
        out.ack = rcv_nxt();
        last_ack_sent_ = out.ack;
        ack_now_ = false;
    } else if (ecn_ && first) {
        // A path that drops SYNs with these bits lets the second one through (RFC 3168 §6.1.1.1).
        out.flags |= flag::ece | flag::cwr;
    }
    return true;
}

void Connection::emit_reset(Outgoing& out, TimePoint now) noexcept {
    out = Outgoing{};
    out.seq = reset_seq_;
    out.flags = flag::rst;
    if (reset_with_ack_) {
        out.flags |= flag::ack;
        out.ack = rcv_nxt();
        if (timestamps_) {
            out.options.timestamps = Timestamps{timestamp_ticks(now) + ts_offset_, ts_recent_};
        }
    }
    reset_pending_ = false;
    if (dying_) {
        dying_ = false;
        events_ |= event::dead;
    }
    ++environment_.counters.resets_sent;
}

void Connection::fill(Outgoing& out, Seq seq, std::uint8_t flags, std::uint32_t payload,
                      TimePoint now) noexcept {
    const bool with_sack = payload == 0 || payload_limit() != mss_;
    out = Outgoing{};
    out.seq = seq;
    out.ack = rcv_nxt();
    out.flags = flags;
    out.payload_bytes = payload;
    if (echo_ce_) out.flags |= flag::ece;
    out.window = window_to_advertise();
    if (timestamps_) {
        out.options.timestamps = Timestamps{timestamp_ticks(now) + ts_offset_, ts_recent_};
    }
    if (with_sack && owes_sack()) add_sack(out.options);

    last_ack_sent_ = out.ack;
    ack_now_ = false;
    ack_deadline_ = TimePoint::max();
    if (quick_acks_ > 0) --quick_acks_;
    if (state_ == State::time_wait) events_ |= event::time_wait;
}

void Connection::add_sack(Options& options) noexcept {
    std::size_t count = 0;
    if (dsack_begin_ != dsack_end_) { // RFC 2883 §4: first, and once
        options.sack[count++] = {dsack_begin_, dsack_end_};
        dsack_begin_ = dsack_end_;
    }
    count += receive_.sack_blocks(std::span{options.sack}.subspan(count));
    options.sack_count = static_cast<std::uint8_t>(count);
}

// --- our window

std::uint32_t Connection::window_step() const noexcept {
    return std::min<std::uint32_t>(rcv_window_ / 2, mss_announced_);
}

Seq Connection::right_edge_wanted() const noexcept {
    return rcv_nxt() + (rcv_window_ - std::min(rcv_window_, receive_.unread_bytes()));
}

std::uint16_t Connection::window_to_advertise() noexcept {
    const Seq wanted = right_edge_wanted();
    if (wanted > rcv_adv_ && distance(rcv_adv_, wanted) >= window_step()) rcv_adv_ = wanted;
    const Seq nxt = rcv_nxt();
    const std::uint32_t window = rcv_adv_ > nxt ? distance(nxt, rcv_adv_) : 0;
    // Rounded up, for rounded down the right edge would move back (RFC 7323 §2.4).
    const std::uint32_t field =
        std::min((window + (1U << rcv_scale_) - 1) >> rcv_scale_, syn_window);
    rcv_adv_ = max(rcv_adv_, nxt + (field << rcv_scale_));
    return static_cast<std::uint16_t>(field);
}

// --- what next_segment() gave

std::size_t Connection::payload(const Outgoing& segment,
                                std::span<base::SlabView> slices) const noexcept {
    return send_.gather(segment.seq, segment.payload_bytes, slices);
}

void Connection::not_sent(const Outgoing& segment, TimePoint now) noexcept {
    static_cast<void>(now);
    if (state_ == State::closed) return;
    // Data, SYN and FIN count as sent and lost; what tells the peer something comes again at once.
    if ((segment.flags & flag::syn) == 0 && (segment.flags & flag::ack) != 0) ack_now_ = true;
}

} // namespace dataplane::net::tcp
