// What may be sent, phases and timers. What an acknowledgement changes is in sender_acknowledgement.cc.
#include "dataplane/net/tcp/sender.h"

#include "dataplane/base/check.h"

#include <algorithm>

namespace dataplane::net::tcp {

Sender::Sender(const SenderEnvironment& environment) noexcept
    : environment_(&environment), congestion_(environment.config.congestion) {}

Sender::~Sender() = default;

void Sender::begin(Seq first, TimePoint now) noexcept {
    board_.begin(first);
    rack_.begin(first);
    rtt_.begin(environment_->config.syn_rto);
    congestion_.begin(initial_window(), first);
    recovery_point_ = probe_end_ = use_end_ = undo_.from = undo_.until = first;
    last_sent_at_ = now;
}

void Sender::established(std::uint32_t mss, bool sack, bool timestamps, bool ecn,
                         TimePoint now) noexcept {
    mss_ = std::max(mss, 1U);
    sack_ = sack;
    timestamps_ = timestamps;
    ecn_ = ecn;
    established_ = true;
    rtt_.end_backoff();
    if (syn_timed_out_)
        rtt_.begin(std::max(rto_after_syn_loss, environment_->config.syn_rto)); // RFC 6298 §5.7
    // RFC 5681 §3.1: one segment when the handshake had losses.
    congestion_.begin(syn_timed_out_ ? mss_ : initial_window(), nxt());
    phase_ = Phase::open;
    timeouts_in_row_ = 0;
    last_sent_at_ = now;
    if (board_.flight_bytes() > 0) rto_at_ = now + rto();
}

void Sender::set_mss(std::uint32_t mss) noexcept {
    mss_ = std::max(mss, 1U);
}

std::uint32_t Sender::initial_window() const noexcept { // RFC 6928 §2
    const std::uint32_t segments = std::max(environment_->config.initial_window_segments, 1U);
    return std::min(segments * mss_, std::max(2 * mss_, segments * 1460));
}

// --- what may be sent

std::uint64_t Sender::pacing_bytes_per_second() const noexcept {
    // In recovery cwnd follows the pipe; ssthresh is the rate it settles at.
    const bool recovering = phase_ == Phase::recovery || phase_ == Phase::reduction;
    const std::uint64_t window =
        recovering ? std::max(congestion_.cwnd(), congestion_.ssthresh()) : congestion_.cwnd();
    const auto rtt = static_cast<std::uint64_t>(rtt_.smoothed().count());
    if (rtt == 0 || window <= initial_window() || !environment_->config.pacing) return 0;
    const std::uint64_t tenths = congestion_.in_slow_start() && !recovering ? 20 : 12;
    return window * tenths * 100'000'000 / rtt; // at most 2^30 * 20 * 10^8 < 2^62
}

std::optional<Range> Sender::retransmission(TimePoint now) const noexcept {
    if (doubt_ == Doubt::second_ack) return std::nullopt; // RFC 5682: new data instead
    const std::size_t first = board_.first_lost();
    if (first == board_.size()) return std::nullopt;
    Range range{board_[first].begin, board_[first].end};
    if (distance(range.begin, range.end) > mss_) range.end = range.begin + mss_;
    for (std::size_t i = first + 1; i < board_.size() && board_[i].lost;
         ++i) { // small writes together
        if (board_[i - 1].end != range.end || distance(range.begin, board_[i].end) > mss_) break;
        range.end = board_[i].end;
    }
    if (send_again_now_) return range;
    const std::uint32_t bytes = distance(range.begin, range.end);
    if (board_.pipe_bytes() > 0 && board_.pipe_bytes() + bytes > congestion_.cwnd())
        return std::nullopt;
    const std::uint64_t rate = pacing_bytes_per_second();
    if (rate > 0 && pacer_.allowance(rate, mss_, now) == 0) return std::nullopt;
    return range;
}

std::optional<Range> Sender::probe() const noexcept {
    if (board_.size() == 0) return std::nullopt;
    const SentRecord& last = board_[board_.size() - 1];
    return Range{last.bytes() > mss_ ? last.end - mss_ : last.begin, last.end};
}

bool Sender::idle_too_long(TimePoint now) const noexcept {
    if (!established_ || board_.flight_bytes() > 0) return false;
    const Config& config = environment_->config;
    const Duration idle = now - last_sent_at_;
    // An RTO is never shorter than that: most pauses need no closer look.
    return idle > std::min(config.rto_min, config.rto_max) && idle > rto();
}

std::uint32_t Sender::allowance(TimePoint now) const noexcept {
    if (probe_due_) return mss_; // RFC 8985 §7.3: one segment, whatever cwnd says
    if (board_.lost_bytes() > 0 && doubt_ != Doubt::second_ack) return 0;
    std::uint32_t window = congestion_.cwnd();
    const bool restart = idle_too_long(now);
    if (restart) window = std::min(window, initial_window());
    const std::uint32_t pipe = board_.pipe_bytes();
    std::uint32_t room = window > pipe ? window - pipe : 0;
    if (pipe == 0) room = std::max(room, mss_); // the MSS may have grown beyond cwnd
    if (room < mss_) return 0;                  // never a sliver because cwnd is no multiple
    room -= room % mss_;
    const std::uint64_t rate = restart ? 0 : pacing_bytes_per_second();
    return rate == 0 ? room : std::min(room, pacer_.allowance(rate, mss_, now));
}

bool Sender::sent(Seq begin, Seq end, TimePoint now, bool application_limited) noexcept {
    CHECK(una() <= begin && begin <= nxt() && begin < end);
    const Seq nxt_before = nxt();
    const bool again = begin < nxt_before;
    const bool fresh = nxt_before < end;
    if (fresh) {
        const bool idle = board_.flight_bytes() == 0;
        const bool restart = idle_too_long(now);
        if (!board_.push(distance(nxt_before, end), mss_, now)) return false;
        if (restart) congestion_.restart(initial_window());
        if (idle) congestion_.pause(now);
    }
    const std::uint32_t bytes = distance(begin, end);
    if (again) {
        const Seq again_end = min(end, nxt_before);
        board_.sent_again(begin, again_end, now);
        send_again_now_ = false;
        if (undo_possible_ && phase_ != Phase::open) {
            undo_.bytes += distance(begin, again_end);
            if (!undo_stamped_) undo_.first_sent_again_tick = timestamp_ticks(now);
            undo_stamped_ = true;
        }
        if (probe_due_)
            ++environment_->counters.retransmits_probe;
        else if (phase_ == Phase::loss)
            ++environment_->counters.retransmits_timeout;
        else
            ++environment_->counters.retransmits_fast;
    }
    if (phase_ == Phase::recovery || phase_ == Phase::reduction) prr_.on_sent(bytes);
    if (const std::uint64_t rate = pacing_bytes_per_second(); rate > 0) {
        pacer_.on_sent(bytes, rate, now);
        pacing_waits_ = pacer_.free_at() > now;
    }
    last_sent_at_ = now;
    application_limited_ = application_limited;
    note_window_use();

    if (probe_due_) {
        probe_due_ = false;
        probe_out_ = true;
        probe_was_old_ = again;
        probe_end_ = nxt();
        rto_at_ = now + rto(); // RFC 8985 §7.3: the timeout counts from the probe
        return true;
    }
    if (rto_at_ == TimePoint::max()) rto_at_ = now + rto(); // RFC 6298 §5.1
    if (fresh && early_ != Early::reordering) schedule_probe(now);
    return true;
}

void Sender::note_window_use() noexcept {
    const std::uint32_t pipe = board_.pipe_bytes();
    const bool limited = pipe + mss_ > congestion_.cwnd();
    if (una() >= use_end_ || limited || (!use_limited_ && pipe > use_pipe_max_)) {
        use_limited_ = limited;
        use_pipe_max_ = pipe;
        use_end_ = nxt();
    }
}

bool Sender::window_was_used() const noexcept {
    if (use_limited_) return true;
    return congestion_.in_slow_start() && congestion_.cwnd() / 2 < use_pipe_max_;
}

// --- phases

Duration Sender::reordering_window() const noexcept {
    return rack_.window(rtt_.minimum(), rtt_.smoothed(),
                        phase_ == Phase::recovery || phase_ == Phase::loss, board_.sacked_count());
}

void Sender::remember_for_undo() noexcept {
    undo_ = Undo{.before = congestion_.before(), .from = una(), .until = nxt(), .expires = nxt()};
    undo_possible_ = true;
    undo_stamped_ = false;
}

void Sender::undo() noexcept {
    if (phase_ == Phase::loss)
        ++environment_->counters.timeouts_undone;
    else
        ++environment_->counters.recoveries_undone;
    board_.forget_lost();
    congestion_.undo(undo_.before);
    rack_.on_reordering();
    rtt_.end_backoff();
    phase_ = Phase::open;
    undo_possible_ = false;
    doubt_ = Doubt::none;
    stop_early_timer();
    send_again_now_ = false;
}

void Sender::enter_recovery(std::uint32_t flight_bytes) noexcept {
    ++environment_->counters.recoveries;
    if (phase_ == Phase::open) {
        remember_for_undo();
        congestion_.on_congestion(flight_bytes, mss_);
        prr_.begin(flight_bytes);
    } else {
        undo_possible_ = false; // in the window of a mark: reduced already, and with reason
    }
    phase_ = Phase::recovery;
    recovery_point_ = nxt();
    recovery_point_holds_ = true;
    probe_out_ = false;
    send_again_now_ = true;
}

void Sender::enter_reduction(std::uint32_t flight_bytes) noexcept {
    undo_possible_ = false;
    congestion_.on_congestion(flight_bytes, mss_);
    prr_.begin(flight_bytes);
    phase_ = Phase::reduction;
    recovery_point_ = nxt();
    recovery_point_holds_ = true;
}

void Sender::leave_phase() noexcept {
    if (phase_ == Phase::recovery || phase_ == Phase::reduction) congestion_.set_cwnd(ssthresh());
    if (phase_ == Phase::recovery || phase_ == Phase::loss) rack_.on_recovery_end();
    phase_ = Phase::open;
    doubt_ = Doubt::none;
    if (early_ == Early::doubt) stop_early_timer();
    undo_.expires = nxt();
    if (!sack_) board_.forget_sacked(); // guesses of this recovery
}

// --- timers

void Sender::stop_early_timer() noexcept {
    early_ = Early::none;
    early_at_ = TimePoint::max();
}

// RFC 8985 §7.2
void Sender::schedule_probe(TimePoint now) noexcept {
    stop_early_timer();
    if (!sack_ || phase_ != Phase::open || probe_out_ || probe_due_ || board_.flight_bytes() == 0 ||
        board_.sacked_count() > 0)
        return;
    Duration wait = probe_timeout_without_rtt;
    if (rtt_.smoothed() != Duration::zero()) {
        wait = std::max(2 * rtt_.smoothed(), probe_timeout_min);
        if (board_.flight_bytes() <= mss_) wait += probe_ack_delay;
    }
    if (now + wait >= rto_at_) return; // the timeout comes first and does more
    early_ = Early::probe;
    early_at_ = now + wait;
}

SenderTimer Sender::on_timer(TimePoint now) noexcept {
    if (pacing_waits_ && pacer_.free_at() <= now) pacing_waits_ = false;
    if (rto_at_ <= now) {
        time_out(now);
        return SenderTimer::timeout;
    }
    if (early_at_ > now) return SenderTimer::none;
    const Early due = early_;
    stop_early_timer();
    if (due == Early::probe) {
        probe_due_ = true;
        return SenderTimer::probe;
    }
    if (due == Early::doubt) {
        doubt_ = Doubt::none;
        return SenderTimer::loss;
    }
    const Rack::Detection found = rack_.detect(board_, reordering_window(), now);
    if (found.wait > Duration::zero()) {
        early_ = Early::reordering;
        early_at_ = now + found.wait;
    }
    if (!found.lost) return SenderTimer::none;
    if (phase_ == Phase::open || phase_ == Phase::reduction) enter_recovery(board_.flight_bytes());
    if (phase_ == Phase::recovery)
        congestion_.set_cwnd(
            prr_.on_acknowledgement(0, board_.pipe_bytes(), ssthresh(), mss_, false));
    return SenderTimer::loss;
}

void Sender::time_out(TimePoint now) noexcept {
    CHECK(board_.size() > 0);
    ++environment_->counters.timeouts;
    if (!established_) syn_timed_out_ = true;
    // RFC 5681 §3.1: ssthresh comes down once for a segment, not with each of its timeouts.
    doubt_ = Doubt::none;
    if (timeouts_in_row_ == 0 && established_) {
        undo_possible_ = false;
        if (phase_ == Phase::open) {
            remember_for_undo();
            if (sack_) doubt_ = Doubt::first_ack;
        } else if (phase_ != Phase::loss) {
            congestion_.set_cwnd(ssthresh()); // what it was on its way to
        }
        congestion_.on_timeout(board_.flight_bytes(), mss_);
    }
    const bool reneged = board_[0].sacked || timeouts_in_row_ > 0;
    if (!sack_) {
        board_.forget_sacked();
    } else if (reneged && board_.sacked_bytes() > 0) {
        ++environment_->counters.reneging;
        board_.forget_sacked();
    }
    if (timeouts_in_row_ < 255) ++timeouts_in_row_;
    if (sack_) {
        rack_.detect_on_timeout(board_, reordering_window(), now);
    } else {
        for (std::size_t i = 0; i < board_.size(); ++i)
            board_.mark_lost(i);
    }
    phase_ = Phase::loss;
    recovery_point_ = nxt();
    recovery_point_holds_ = true;
    congestion_.set_cwnd(mss_);
    send_again_now_ = true;
    probe_out_ = false;
    probe_due_ = false;
    stop_early_timer();
    rtt_.back_off();
    rto_at_ = now + rto();
}

// RFC 6069 §3: the network had no route, so the timeout was no sign of congestion, and waiting
// longer helps nobody.
void Sender::on_unreachable(Seq quoted) noexcept {
    if (timeouts_in_row_ == 0 || rtt_.backoff() == 0 || board_.size() == 0) return;
    if (quoted < una() || quoted >= board_[0].end) return;
    const Duration before = rto();
    rtt_.take_back_one();
    rto_at_ -= before - rto();
}

void Sender::resend_all(TimePoint now) noexcept {
    if (board_.size() == 0) return;
    for (std::size_t i = 0; i < board_.size(); ++i)
        board_.mark_lost(i);
    send_again_now_ = true;
    probe_out_ = false;
    probe_due_ = false;
    stop_early_timer();
    rto_at_ = now + rto();
}

void Sender::shrink() noexcept {
    if (board_.size() == 0) board_.release();
}

void Sender::debug_check() const noexcept {
    board_.debug_check();
    const bool flying = board_.flight_bytes() > 0;
    CHECK(flying == (board_.size() > 0));
    CHECK(flying == (rto_at_ != TimePoint::max())); // a timer whenever something is outstanding
    CHECK(flying || early_ == Early::none);
    CHECK((early_ == Early::none) == (early_at_ == TimePoint::max()));
    CHECK(!flying || deadline() <= rto_at_);
    CHECK(cwnd() >= std::min(mss_, mss_before_handshake) || cwnd() > 0);
    CHECK(cwnd() <= cwnd_bytes_max);
    CHECK(!send_again_now_ || flying);
    CHECK(!established_ || phase_ == Phase::open || recovery_point_holds_);
    CHECK(phase_ == Phase::open || una() < recovery_point_ || !flying);
    CHECK(!probe_out_ || probe_end_ <= nxt());
    CHECK(rto() <= environment_->config.rto_max);
}

} // namespace dataplane::net::tcp
