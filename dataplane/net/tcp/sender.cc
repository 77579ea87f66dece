#include "dataplane/net/tcp/sender.h"

#include "dataplane/base/check.h"

#include <algorithm>

namespace dataplane::net::tcp {

namespace {
/// By distances, for comparisons of sequence numbers do not chain: a peer's block may be half the
/// space away from all three.
bool lies_in(const SackBlock& block, Seq from, Seq until) noexcept {
    return distance(from, block.begin) < distance(from, block.end) &&
           distance(from, block.end) <= distance(from, until);
}
} // namespace

/// What one acknowledgement has changed.
struct Sender::Progress {
    std::uint32_t flight_before = 0;
    std::uint32_t sacked_before = 0;
    std::uint32_t acked = 0;     // SND.UNA has moved by this
    std::uint32_t delivered = 0; // RFC 6937's DeliveredData
    bool covers_syn = false;
    bool window_was_used = false;

    // Karn: among what was acknowledged, was anything sent twice?
    bool acked_retransmitted = false;
    bool delivered_original = false; // sent once, and before RecoveryPoint
    bool taking_reports = false;     // on_delivered is about a SACK block, not the ACK number
    std::optional<TimePoint> first_acked_sent_at;
    std::optional<TimePoint> first_reported_sent_at;
    std::optional<TimePoint> newest_sent_at;
    std::optional<TimePoint> oldest_first_sent_at;

    std::optional<SackBlock> twice; // D-SACK
    bool twice_is_probe = false;
    bool lost = false;
    bool lost_again = false;
    Duration look_again{};
};

Sender::Sender(const Config& config, SenderCounters& counters) noexcept
    : config_(&config), counters_(&counters), congestion_(config.congestion) {}

Sender::~Sender() = default;

void Sender::begin(Seq first, TimePoint now) noexcept {
    board_.begin(first);
    rack_.begin(first);
    rtt_.begin(config_->syn_rto);
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
    if (syn_timed_out_) rtt_.begin(std::max(rto_after_syn_loss, config_->syn_rto)); // RFC 6298 §5.7
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
    const std::uint32_t segments = std::max(config_->initial_window_segments, 1U);
    return std::min(segments * mss_, std::max(2 * mss_, segments * 1460));
}

// --- what may be sent

Seq Sender::una() const noexcept {
    return board_.una();
}
Seq Sender::nxt() const noexcept {
    return board_.nxt();
}
std::uint32_t Sender::cwnd() const noexcept {
    return congestion_.cwnd();
}
std::uint32_t Sender::ssthresh() const noexcept {
    return congestion_.ssthresh();
}
std::uint32_t Sender::flight_bytes() const noexcept {
    return board_.flight_bytes();
}
std::uint32_t Sender::pipe_bytes() const noexcept {
    return board_.pipe_bytes();
}
Duration Sender::smoothed_rtt() const noexcept {
    return rtt_.smoothed();
}
Duration Sender::rto() const noexcept {
    return rtt_.rto(*config_);
}
unsigned Sender::backoff_count() const noexcept {
    return timeouts_in_row_;
}
bool Sender::in_recovery() const noexcept {
    return phase_ != Phase::open;
}

std::optional<TimePoint> Sender::oldest_sent_at() const noexcept {
    if (board_.size() == 0) return std::nullopt;
    return board_[0].first_sent_at();
}

std::uint64_t Sender::pacing_bytes_per_second() const noexcept {
    // In recovery cwnd follows the pipe; ssthresh is the rate it settles at.
    const bool recovering = phase_ == Phase::recovery || phase_ == Phase::reduction;
    const std::uint64_t window =
        recovering ? std::max(congestion_.cwnd(), congestion_.ssthresh()) : congestion_.cwnd();
    const auto rtt = static_cast<std::uint64_t>(rtt_.smoothed().count());
    if (rtt == 0 || window <= initial_window()) return 0;
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
    return established_ && board_.flight_bytes() == 0 && now - last_sent_at_ > rto();
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
            ++counters_->retransmits_probe;
        else if (phase_ == Phase::loss)
            ++counters_->retransmits_timeout;
        else
            ++counters_->retransmits_fast;
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

// --- acknowledgements

Sender::Outcome Sender::on_acknowledgement(const Acknowledgement& ack, TimePoint now) noexcept {
    Outcome outcome;
    if (ack.ack < una() || ack.ack > nxt()) return outcome;

    Progress progress;
    progress.flight_before = board_.flight_bytes();
    progress.sacked_before = board_.sacked_bytes();
    progress.acked = distance(una(), ack.ack);
    progress.covers_syn = progress.acked > 0 && !syn_acked_;
    progress.window_was_used = window_was_used();
    if (board_.size() > 0 && progress.acked > 0)
        progress.oldest_first_sent_at = board_[0].first_sent_at();

    board_.acknowledge(
        ack.ack, [&](const SentRecord& record) { take_delivered(record, ack, now, progress); });
    if (progress.acked > 0) {
        syn_acked_ = true;
        timeouts_in_row_ = 0;
        if (recovery_point_holds_ && una() > recovery_point_) recovery_point_holds_ = false;
        if (phase_ == Phase::open && una() > undo_.expires) undo_possible_ = false;
    }
    if (sack_)
        take_reports(ack, now, progress);
    else
        take_duplicate(ack, progress);
    const std::int64_t delivered =
        std::int64_t{progress.acked} + board_.sacked_bytes() - progress.sacked_before;
    progress.delivered = static_cast<std::uint32_t>(std::max<std::int64_t>(delivered, 0));
    outcome.acked_bytes = progress.acked;

    take_rtt(ack, now, progress);
    const bool probe_was_repair = probe_repaired_loss(ack, progress);
    if (progress.twice) take_twice_received(progress);

    if (was_spurious(ack, progress))
        undo();
    else
        watch_timeout(now, progress);
    find_losses(now, progress);

    const bool ends_phase = phase_ != Phase::open && una() >= recovery_point_;
    if (ends_phase) {
        leave_phase();
        // Something lost beyond RecoveryPoint is a loss of another window.
        progress.lost |= board_.lost_bytes() > 0;
    }
    if (progress.lost && (phase_ == Phase::open || phase_ == Phase::reduction)) {
        enter_recovery(progress.flight_before);
        outcome.reduced = ecn_;
    } else if (progress.lost_again && phase_ == Phase::recovery) {
        // A retransmission is lost: a second sign of congestion (RFC 5681 §4.3).
        congestion_.set_cwnd(ssthresh());
        phase_ = Phase::open;
        enter_recovery(progress.flight_before);
        undo_possible_ = false;
        outcome.reduced = ecn_;
    } else if (probe_was_repair && phase_ == Phase::open) {
        enter_reduction(progress.flight_before);
        outcome.reduced = ecn_;
    }
    if (ack.ece && ecn_ && established_ && !progress.covers_syn && phase_ == Phase::open &&
        !recovery_point_holds_) {
        enter_reduction(progress.flight_before);
        ++counters_->ecn_reductions;
        outcome.reduced = true;
    }

    switch (phase_) {
    case Phase::recovery:
    case Phase::reduction:
        congestion_.set_cwnd(prr_.on_acknowledgement(progress.delivered, board_.pipe_bytes(),
                                                     ssthresh(), mss_,
                                                     progress.acked > 0 && !progress.lost));
        if (una() >= recovery_point_) leave_phase(); // a mark on the last ACK of all
        break;
    case Phase::loss:
        if (established_ && progress.delivered > 0)
            congestion_.grow(progress.delivered, mss_, true, rtt_.smoothed(), now);
        break;
    case Phase::open:
        if (!established_ || progress.acked == 0 || progress.covers_syn) break;
        if (ends_phase) break; // cwnd is ssthresh now; much of what this ACK covers is old
        congestion_.on_round(ack.ack, nxt());
        if (progress.window_was_used)
            congestion_.grow(progress.acked, mss_, false, rtt_.smoothed(), now);
        else
            congestion_.pause(now);
        break;
    }

    // Timers. Only progress moves the RTO (RFC 6298 §5.3); an ACK that brings nothing moves none.
    if (board_.flight_bytes() == 0) {
        rto_at_ = TimePoint::max();
        stop_early_timer();
        probe_due_ = false;
        send_again_now_ = false;
        return outcome;
    }
    if (progress.delivered > 0) probe_due_ = false; // the tail is alive
    if (progress.acked > 0) {
        rto_at_ = now + rto();
        if (sack_ && board_[0].sacked) // RFC 2018 §8: reported, yet not acknowledged
            rto_at_ = std::min(rto_at_, now + std::max(rtt_.smoothed() / 2, reneging_wait_min));
    }
    if (progress.look_again > Duration::zero()) {
        early_ = Early::reordering;
        early_at_ = now + progress.look_again;
    } else if (early_ != Early::doubt &&
               (progress.delivered > 0 || early_ == Early::reordering || phase_ != Phase::open)) {
        schedule_probe(now);
    }
    return outcome;
}

void Sender::take_delivered(const SentRecord& record, const Acknowledgement& ack, TimePoint now,
                            Progress& progress) noexcept {
    if (record.retransmitted) {
        progress.acked_retransmitted |= !progress.taking_reports;
    } else {
        auto& first = progress.taking_reports ? progress.first_reported_sent_at
                                              : progress.first_acked_sent_at;
        if (!first) first = record.sent_at;
        progress.newest_sent_at =
            std::max(progress.newest_sent_at.value_or(record.sent_at), record.sent_at);
        progress.delivered_original |= record.end <= recovery_point_;
        rtt_.on_minimum(now - record.sent_at, now);
    }
    // While a timeout is in doubt, which copy this was is too, and RACK would take all before it
    // for lost.
    if (sack_ && !(record.retransmitted && doubt_ != Doubt::none))
        rack_.on_delivered(record, now, rtt_.minimum(), ack.ts_echo);
}

void Sender::take_reports(const Acknowledgement& ack, TimePoint now, Progress& progress) noexcept {
    const std::size_t count = std::min(ack.sack.size(), sack_blocks_max);
    progress.taking_reports = true;
    for (std::size_t i = 0; i < count; ++i) {
        const SackBlock& block = ack.sack[i];
        if (i == 0) { // RFC 2883 §4: below the ACK, or within the second block
            const bool below = lies_in(block, una() - cwnd_bytes_max, una());
            const bool within = count > 1 && lies_in(ack.sack[1], una(), nxt()) &&
                                lies_in(block, ack.sack[1].begin, ack.sack[1].end);
            if (below || within) {
                progress.twice = block;
                ++counters_->dsacks;
                continue;
            }
        }
        // What begins at SND.UNA would have been acknowledged, were it true.
        if (block.begin == una() || !lies_in(block, una(), nxt())) continue;
        board_.report(
            block, [&](const SentRecord& record) { take_delivered(record, ack, now, progress); });
    }
}

// RFC 5681 and 6582 without SACK: each duplicate ACK says that one more segment behind the first
// has arrived; which one does not matter to the pipe, so the lowest is marked. No RTT and no RACK
// from such a mark.
void Sender::take_duplicate(const Acknowledgement& ack, const Progress& progress) noexcept {
    if (board_.size() == 0 || phase_ == Phase::loss) return;
    const auto mark_next = [this] {
        for (std::size_t i = 1; i < board_.size(); ++i) {
            if (board_[i].sacked || board_[i].lost) continue;
            board_.mark_sacked(i);
            return;
        }
    };
    if (progress.acked > 0) {
        if (phase_ == Phase::open) board_.forget_sacked(); // they were late, the count begins again
        if (!board_[0].sacked) return;
        board_.unmark_sacked(0); // this is the next hole: another segment was meant
        mark_next();
    } else if (ack.pure && established_) {
        mark_next();
    }
}

void Sender::take_rtt(const Acknowledgement& ack, TimePoint now, Progress& progress) noexcept {
    std::optional<Duration> sample;
    // The oldest of what one ACK covers: the peer's delay belongs to the RTO. When part of it was
    // sent twice, the ACK may have waited for that part.
    if (progress.first_acked_sent_at && !progress.acked_retransmitted)
        sample = now - *progress.first_acked_sent_at;
    else if (progress.first_reported_sent_at)
        sample = now - *progress.first_reported_sent_at;
    else if (timestamps_ && ack.ts_echo && progress.acked > 0 && !progress.covers_syn) {
        // RFC 7323 §4.1. Not older than what it acknowledges.
        const Duration elapsed = std::chrono::milliseconds{timestamp_ticks(now) - *ack.ts_echo};
        if (elapsed <= now - *progress.oldest_first_sent_at + 1ms)
            sample = std::max(elapsed, timer_granularity);
    }
    if (!sample || *sample < Duration::zero()) return;
    const std::uint32_t samples =
        (progress.flight_before + 2 * mss_ - 1) / (2 * mss_); // RFC 7323 appendix G
    rtt_.on_sample(*sample, samples);
    ++counters_->rtt_samples;
    counters_->rtt_us_sum += static_cast<std::uint64_t>(*sample / 1us);
    if (progress.newest_sent_at) congestion_.on_rtt(now - *progress.newest_sent_at);
}

void Sender::take_twice_received(const Progress& progress) noexcept {
    const SackBlock& block = *progress.twice;
    if (undo_possible_ && undo_stamped_ && lies_in(block, undo_.from, undo_.until)) {
        // We sent it again, and needlessly: the first was late, not lost.
        rack_.on_reordering();
        undo_.bytes -= std::min(undo_.bytes, distance(block.begin, block.end));
    }
    if (!progress.twice_is_probe) rack_.on_duplicate(una(), nxt());
}

// RFC 8985 §7.4.2. Returns whether the probe has repaired a loss that nobody else noticed.
bool Sender::probe_repaired_loss(const Acknowledgement& ack, Progress& progress) noexcept {
    if (!probe_out_ || ack.ack < probe_end_) return false;
    if (!probe_was_old_) {
        probe_out_ = false;
        return false;
    }
    if (progress.twice && progress.twice->begin < probe_end_ && probe_end_ <= progress.twice->end) {
        progress.twice_is_probe = true; // both copies arrived
        probe_out_ = false;
        return false;
    }
    if (ack.ack > probe_end_) {
        probe_out_ = false;
        return true;
    }
    if (progress.acked == 0 && ack.pure && ack.sack.empty()) probe_out_ = false;
    return false;
}

// RFC 5682 §3.1 steps 2 and 3, when the ACK is no proof that the timeout was spurious.
void Sender::watch_timeout(TimePoint now, const Progress& progress) noexcept {
    if (doubt_ == Doubt::none || progress.delivered == 0) return;
    if (doubt_ == Doubt::first_ack && progress.acked > 0 && !application_limited_) {
        doubt_ = Doubt::second_ack;
        // The peer's window may be shut for new data, and no second ACK come.
        early_ = Early::doubt;
        early_at_ = now + std::max(rtt_.smoothed(), probe_timeout_min);
        return;
    }
    doubt_ = Doubt::none;
    if (early_ == Early::doubt) stop_early_timer();
}

void Sender::find_losses(TimePoint now, Progress& progress) noexcept {
    if (board_.size() == 0 || !established_) return;
    if (sack_) {
        const Rack::Detection found = rack_.detect(board_, reordering_window(), now);
        progress.lost = found.lost;
        progress.lost_again = found.lost_again;
        progress.look_again = found.wait;
        return;
    }
    const bool partial = phase_ == Phase::recovery && progress.acked > 0 && una() < recovery_point_;
    // RFC 6582 §3.2 step 2: duplicates of what recovery sent twice start no other recovery.
    const bool three = (phase_ == Phase::open || phase_ == Phase::reduction) &&
                       board_.sacked_count() >= duplicate_threshold && !recovery_point_holds_ &&
                       !board_[0].lost;
    if (!partial && !three) return;
    board_.mark_lost(0);
    progress.lost = true;
    if (partial) send_again_now_ = true;
}

bool Sender::was_spurious(const Acknowledgement& ack, const Progress& progress) const noexcept {
    if (!undo_possible_ || !undo_stamped_) return false;
    const bool repairing = phase_ == Phase::recovery || phase_ == Phase::loss;
    // Eifel (RFC 3522): what filled the hole left before the retransmission did.
    if (repairing && timestamps_ && progress.acked > 0 && ack.ts_echo &&
        tick_before(*ack.ts_echo, undo_.first_sent_again_tick))
        return true;
    // F-RTO (RFC 5682 §3).
    if (phase_ == Phase::loss && doubt_ != Doubt::none && progress.delivered_original &&
        una() < recovery_point_)
        return true;
    // All that was sent again has arrived twice (RFC 2883 §5.1, 3708).
    return progress.twice.has_value() && undo_.bytes == 0;
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
        ++counters_->timeouts_undone;
    else
        ++counters_->recoveries_undone;
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
    ++counters_->recoveries;
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

TimePoint Sender::deadline() const noexcept {
    const TimePoint pacing = pacing_waits_ ? pacer_.free_at() : TimePoint::max();
    return std::min({rto_at_, early_at_, pacing});
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
    ++counters_->timeouts;
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
        ++counters_->reneging;
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
    CHECK(rto() <= config_->rto_max);
}

} // namespace dataplane::net::tcp
