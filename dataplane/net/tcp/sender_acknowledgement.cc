// What an acknowledgement changes: what was delivered, what is lost, which phase follows, which timers run.
#include "dataplane/net/tcp/sender.h"

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

Sender::Outcome Sender::on_acknowledgement(const Acknowledgement& ack, TimePoint now) noexcept {
    Outcome outcome;
    if (ack.ack < una() || ack.ack > nxt()) return outcome;
    // Every segment that a mere receiver gets: it says nothing about what we sent.
    const bool news = board_.flight_bytes() > 0 || !ack.sack.empty() || ack.ece;
    if (!news && phase_ == Phase::open && doubt_ == Doubt::none && !probe_out_) return outcome;

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
        ++environment_->counters.ecn_reductions;
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
                ++environment_->counters.dsacks;
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
    ++environment_->counters.rtt_samples;
    environment_->counters.rtt_us_sum += static_cast<std::uint64_t>(*sample / 1us);
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

} // namespace dataplane::net::tcp
