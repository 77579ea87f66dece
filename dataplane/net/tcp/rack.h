// rack.h: a segment is lost when one sent sufficiently later has arrived.
//
// Scope      RFC 8985 §6: RACK's state, its reordering window and how that learns from D-SACKs,
//            detection on ACK, on its timer and on RTO. The timer itself is sender.h's. Needs SACK.
// Threading  None; a value that works on a Scoreboard.
#pragma once

#include "dataplane/net/tcp/scoreboard.h"

#include <optional>

namespace dataplane::net::tcp {

/// The connection's timestamp clock: milliseconds of `now`.
[[nodiscard]] constexpr std::uint32_t timestamp_ticks(base::TimePoint now) noexcept {
    return static_cast<std::uint32_t>(now.time_since_epoch() / std::chrono::milliseconds{1});
}
[[nodiscard]] constexpr bool tick_before(std::uint32_t a, std::uint32_t b) noexcept {
    return static_cast<std::int32_t>(a - b) < 0;
}

class Rack {
public:
    void begin(Seq first) noexcept;
    /// Steps 2 and 3: this record has been acknowledged or reported.
    void on_delivered(const SentRecord& record, base::TimePoint now, base::Duration minimum_rtt,
                      std::optional<std::uint32_t> ts_echo) noexcept;
    /// Step 4: the peer got something twice; once for each round trip the window grows.
    void on_duplicate(Seq una, Seq nxt) noexcept;
    void on_reordering() noexcept { reordering_seen_ = true; }
    void on_recovery_end() noexcept;
    [[nodiscard]] base::Duration window(base::Duration minimum_rtt, base::Duration smoothed_rtt,
                                        bool recovering, unsigned sacked_count) const noexcept;

    struct Detection {
        bool lost = false;
        bool lost_again = false; // a retransmission
        base::Duration wait{};   // look again after this; zero: nothing is in doubt
    };
    /// Step 5. Reads the board in sequence order and stops at the first segment sent once and after
    /// RACK's: all behind it are later still.
    [[nodiscard]] Detection detect(Scoreboard& board, base::Duration window,
                                   base::TimePoint now) const noexcept;
    /// §6.3: the first in flight, and what was sent long enough ago.
    void detect_on_timeout(Scoreboard& board, base::Duration window,
                           base::TimePoint now) const noexcept;

    [[nodiscard]] bool reordering_seen() const noexcept { return reordering_seen_; }
    [[nodiscard]] unsigned window_factor() const noexcept { return window_factor_; }

private:
    [[nodiscard]] bool newest_is_after(const SentRecord& record) const noexcept {
        return newest_sent_at_ > record.sent_at ||
               (newest_sent_at_ == record.sent_at && newest_end_ > record.end);
    }

    base::TimePoint newest_sent_at_{}; // RACK.xmit_ts
    base::Duration rtt_{};
    Seq newest_end_;
    Seq highest_;         // RACK.fack
    Seq duplicate_round_; // RACK.dsack_round
    std::uint8_t window_factor_ = 1;
    std::uint8_t window_persist_ = 0;
    bool in_duplicate_round_ = false;
    bool reordering_seen_ = false;
};

} // namespace dataplane::net::tcp
