// A connection's deadlines, and what happens when they have come. One timer of the owner serves all.
#include "dataplane/net/tcp/connection.h"

#include "dataplane/net/tcp/connection_limits.h"

#include <algorithm>

namespace dataplane::net::tcp {

namespace {

constexpr TimePoint never = TimePoint::max();

} // namespace

TimePoint Connection::deadline() const noexcept {
    if (state_ == State::closed) return never;
    TimePoint next = std::min(ack_deadline_, state_deadline_);
    if (state_ == State::time_wait) return next;
    next = std::min({next, sender_.deadline(), user_deadline(), keepalive_deadline()});
    if (can_send_data() && (unsent() > 0 || fin_unsent())) {
        next = std::min(next, persist_deadline_);
    }
    if (records_held_ && sender_.flight_bytes() == 0) {
        next = std::min(next, last_received_ + shrink_after);
    }
    return next;
}

TimePoint Connection::user_deadline() const noexcept {
    const Duration timeout = std::chrono::milliseconds{user_timeout_ms_};
    if (persist_count_ > 0) return waiting_since_ + timeout;
    const auto oldest = sender_.oldest_sent_at();
    if (!oldest) return never;
    // Counted from the last progress: on a slow path a full window waits long, but not in vain.
    TimePoint since = std::max(*oldest, waiting_since_);
    // A peer that closed its window over data in flight and still answers is alive.
    if (snd_right_ <= sender_.una() && !user_timeout_set_ && !orphan_ && !handshaking()) {
        since = std::max(since, last_received_);
    }
    return since + timeout;
}

TimePoint Connection::keepalive_deadline() const noexcept {
    const Config& config = environment_.config;
    const bool open =
        state_ == State::established || state_ == State::close_wait || state_ == State::fin_wait_2;
    if (!open || config.keepalive_idle <= Duration::zero()) return never;
    if (sender_.flight_bytes() > 0 || unsent() > 0) return never; // those have timers of their own
    return last_received_ + config.keepalive_idle + keepalive_count_ * config.keepalive_interval;
}

void Connection::on_timer(TimePoint now) noexcept {
    if (state_ == State::closed) return;
    ConnectionCounters& counters = environment_.counters;
    if (ack_deadline_ <= now) {
        ack_deadline_ = never;
        ack_now_ = true;
        ++counters.delayed_acks;
    }
    if (state_deadline_ <= now) return die(base::NetError::closed);
    if (state_ == State::time_wait) return;
    if (user_deadline() <= now) {
        ++counters.user_timeouts;
        return die(soft_error_);
    }
    if (sender_.deadline() <= now) {
        on_sender_timer(now);
        if (state_ == State::closed) return;
    }
    if (persist_deadline_ <= now && can_send_data() && (unsent() > 0 || fin_unsent())) {
        window_probe_ = true;
        if (persist_count_ == 0) waiting_since_ = now;
        if (persist_count_ < persist_shift_max) ++persist_count_;
        persist_deadline_ = now + persist_interval();
        ++counters.zero_window_probes;
    }
    if (keepalive_deadline() <= now) {
        if (keepalive_count_ >= environment_.config.keepalive_probes) {
            return reset_and_die(soft_error_);
        }
        ++keepalive_count_;
        window_probe_ = true;
        ++counters.keepalive_probes;
    }
    if (records_held_ && sender_.flight_bytes() == 0 && last_received_ + shrink_after <= now) {
        records_held_ = false;
        sender_.shrink();
    }
}

void Connection::on_sender_timer(TimePoint now) noexcept {
    records_full_ = false;
    switch (sender_.on_timer(now)) {
    case SenderTimer::none:
    case SenderTimer::loss:
        return; // plan() asks for what is lost
    case SenderTimer::probe:
        loss_probe_ = true;
        return;
    case SenderTimer::timeout:
        return on_timeout(now);
    }
}

void Connection::on_timeout(TimePoint now) noexcept {
    loss_probe_ = false;
    const unsigned timeouts = sender_.backoff_count();
    if (handshaking()) {
        if (timeouts > environment_.config.syn_retries) die(soft_error_);
        return;
    }
    path_probe_ = 0;
    // Full segments vanish and no ICMP says why: something on the way drops what is large and filters the
    // errors (RFC 2923 §2.1). Smaller ones may get through; if they do, a larger one is tried later.
    if (timeouts < black_hole_timeouts || timeouts % black_hole_timeouts != 0) return;
    if (sender_.flight_bytes() < mss_ || path_mss_ <= path_mss_min) return;
    ++environment_.counters.black_holes;
    use_path_mss(path_mss_ > path_mss_middle ? path_mss_middle : path_mss_min, now);
    raise_path_after(black_hole_doubt, now);
}

void Connection::use_path_mss(std::uint16_t mss, TimePoint now) noexcept {
    path_mss_ = mss;
    mss_ = static_cast<std::uint16_t>(mss - (timestamps_ ? 12 : 0));
    path_probe_ = 0;
    path_raise_waits_ = false;
    if (path_mss_ < mss_limit_) raise_path_after(path_raise_after, now);
    if (!handshaking()) sender_.set_mss(mss_);
}

void Connection::raise_path_after(Duration wait, TimePoint now) noexcept {
    path_raise_at_ = timestamp_ticks(now + wait);
    path_raise_waits_ = true;
}

bool Connection::path_raise_due(TimePoint now) const noexcept {
    const Duration left =
        std::chrono::milliseconds{std::uint32_t{path_raise_at_ - timestamp_ticks(now)}};
    return path_raise_waits_ && (left == Duration::zero() || left > path_raise_after);
}

void Connection::update_persist(TimePoint now) noexcept {
    // Armed with or without something to send: write() has no time to arm it with, and deadline() asks.
    const std::uint32_t useful = std::max(1U, std::min<std::uint32_t>(mss_, snd_wnd_max_ / 2));
    if (!can_send_data() || sender_.flight_bytes() > 0 || window_left() >= useful) {
        persist_deadline_ = never;
        persist_count_ = 0;
        return;
    }
    if (persist_deadline_ == never) persist_deadline_ = now + persist_interval();
}

Duration Connection::persist_interval() const noexcept {
    const Config& config = environment_.config;
    const Duration first = std::max(sender_.rto(), config.rto_min);
    return std::min(first * (1U << persist_count_), config.persist_max);
}

// --- what ICMP says

void Connection::on_path_mtu(std::uint16_t mss, Seq quoted, TimePoint now) noexcept {
    if (state_ == State::closed || state_ == State::time_wait) return;
    // RFC 5927 §4.1: an error that quotes nothing in flight is not about us.
    if (quoted < sender_.una() || quoted >= sender_.nxt()) return;
    mss = std::max(mss, path_mss_min);
    if (mss >= path_mss_) return;
    ++environment_.counters.path_mtu_reductions;
    use_path_mss(mss, now);
    if (!handshaking()) sender_.resend_all(now); // at once: nothing was lost to congestion
}

void Connection::on_unreachable(Unreachable kind, base::NetError error, Seq quoted,
                                TimePoint now) noexcept {
    static_cast<void>(now);
    if (state_ == State::closed || state_ == State::time_wait) return;
    if (quoted < sender_.una() || quoted >= sender_.nxt()) return;
    // RFC 5461 §2.1, 1122 §4.2.3.9: hard errors end a handshake; a connection that is up outlives them.
    if (kind == Unreachable::hard && handshaking()) return die(error);
    soft_error_ = error;
    sender_.on_unreachable(quoted);
}

} // namespace dataplane::net::tcp
