#include "dataplane/net/tcp/rack.h"

namespace dataplane::net::tcp {

using base::Duration;
using base::TimePoint;

void Rack::begin(Seq first) noexcept {
    *this = Rack{};
    newest_end_ = highest_ = duplicate_round_ = first;
}

void Rack::on_delivered(const SentRecord& record, TimePoint now, Duration minimum_rtt,
                        std::optional<std::uint32_t> ts_echo) noexcept {
    // Step 3. Only what was sent once tells of the network: a retransmission is late by itself.
    if (record.end > highest_)
        highest_ = record.end;
    else if (record.end < highest_ && !record.retransmitted)
        reordering_seen_ = true;

    const Duration rtt = now - record.sent_at;
    if (record.retransmitted) { // it may have been the first copy that arrived
        if (ts_echo && tick_before(*ts_echo, timestamp_ticks(record.sent_at))) return;
        if (rtt < minimum_rtt) return;
    }
    rtt_ = rtt;
    if (newest_is_after(record)) return;
    newest_sent_at_ = record.sent_at;
    newest_end_ = record.end;
}

void Rack::on_duplicate(Seq una, Seq nxt) noexcept {
    if (in_duplicate_round_ && una < duplicate_round_) return;
    in_duplicate_round_ = true;
    duplicate_round_ = nxt;
    if (window_factor_ < 255) ++window_factor_;
    window_persist_ = rack_window_persist;
}

void Rack::on_recovery_end() noexcept {
    if (window_persist_ == 0) return;
    if (--window_persist_ == 0) window_factor_ = 1;
}

Duration Rack::window(Duration minimum_rtt, Duration smoothed_rtt, bool recovering,
                      unsigned sacked_count) const noexcept {
    if (!reordering_seen_ && (recovering || sacked_count >= duplicate_threshold)) return {};
    return std::min(minimum_rtt * window_factor_ / 4, smoothed_rtt);
}

Rack::Detection Rack::detect(Scoreboard& board, Duration window, TimePoint now) const noexcept {
    Detection found;
    for (std::size_t i = 0; i < board.size(); ++i) {
        const SentRecord& record = board[i];
        if (record.sacked || record.lost) continue;
        if (!newest_is_after(record)) {
            if (!record.retransmitted) break;
            continue;
        }
        const Duration remaining = record.sent_at + rtt_ + window - now;
        if (remaining > Duration::zero()) {
            found.wait = std::max(found.wait, remaining);
            continue;
        }
        found.lost = true;
        found.lost_again |= record.retransmitted;
        board.mark_lost(i);
    }
    return found;
}

void Rack::detect_on_timeout(Scoreboard& board, Duration window, TimePoint now) const noexcept {
    for (std::size_t i = 0; i < board.size(); ++i) {
        if (i == 0 || board[i].sent_at + rtt_ + window <= now) board.mark_lost(i);
    }
}

} // namespace dataplane::net::tcp
