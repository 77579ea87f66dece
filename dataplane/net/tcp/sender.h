// sender.h: what has been sent and not yet acknowledged: what of it is lost, and how much may
// leave.
//
// Scope      Sent records with the SACK scoreboard (RFC 2018, 6675), RTT and RTO (6298, Karn),
//            RACK-TLP (8985), PRR (6937), CUBIC (9438) with HyStart++ (9406) or NewReno, undo of
//            spurious recoveries and timeouts (Eifel 3522 and 4015 by timestamps, D-SACK 2883,
//            F-RTO 5682), ECN's response (3168), no growth while the application limits, idle
//            restart (5681 §4.1), pacing. It knows sequence ranges, not bytes, and no states: SYN
//            and FIN are ranges of one. This file puts the parts together: scoreboard.h, rack.h,
//            prr.h, congestion.h, rtt_estimator.h, pacer.h. A peer without SACK gets NewReno's
//            recovery (6582): duplicate ACKs count as reports of the lowest segments behind the
//            first, and RACK and TLP, which need SACK, rest.
// Owns       The ring of sent records: there only while something is in flight, and bounded.
// Threading  One shard. No clock: `now` comes with each event.
// Deviation  SACK marks survive a timeout (RFC 6675 §5.1 allows it) until reneging shows: the
//            first in flight is marked, or a second timeout comes in a row. F-RTO needs SACK; it
//            takes as evidence what was never sent again and arrives after the timeout, and rests
//            when the application has no new data. An undone reduction restores cwnd whole, not by
//            RFC 4015's slow start: pacing spreads the burst.
// Failure    None. What a hostile acknowledgement says is believed only where it can be true.
#pragma once

#include "dataplane/base/clock.h"
#include "dataplane/net/tcp/config.h"
#include "dataplane/net/tcp/congestion.h"
#include "dataplane/net/tcp/pacer.h"
#include "dataplane/net/tcp/prr.h"
#include "dataplane/net/tcp/rack.h"
#include "dataplane/net/tcp/rtt_estimator.h"
#include "dataplane/net/tcp/scoreboard.h"
#include "dataplane/net/tcp/segment.h"

#include <cstdint>
#include <optional>
#include <span>

namespace dataplane::net::tcp {

using base::Duration;
using base::TimePoint;

/// One acknowledgement, as the connection has checked it: SND.UNA <= ack <= SND.MAX.
struct Acknowledgement {
    Seq ack;
    std::span<const SackBlock> sack; // as received, unchecked
    bool pure = false;               // no payload, SYN or FIN, and the window has not changed
    bool ece = false;                // the peer echoes a congestion mark
    /// TSecr less the connection's offset, in timestamp_ticks(); when timestamps are in use.
    std::optional<std::uint32_t> ts_echo;
};

struct SenderCounters { // of one shard: all its connections add to it
    std::uint64_t retransmits_fast = 0, retransmits_timeout = 0, retransmits_probe = 0;
    std::uint64_t timeouts = 0, recoveries = 0, recoveries_undone = 0, timeouts_undone = 0;
    std::uint64_t reneging = 0, dsacks = 0, ecn_reductions = 0;
    std::uint64_t rtt_samples = 0, rtt_us_sum = 0;
};

/// What all connections of a shard share; outlives them.
struct SenderEnvironment {
    const Config& config;
    SenderCounters& counters;
};

struct Range {
    Seq begin;
    Seq end;
};

/// What on_timer() found due.
enum class SenderTimer : std::uint8_t {
    none,
    loss,    // RACK's reordering timer: something was marked lost, retransmission() has it
    probe,   // TLP: send probe() once, whatever cwnd says
    timeout, // RTO: everything in flight is marked lost, cwnd is one segment
};

class Sender {
public:
    explicit Sender(const SenderEnvironment& environment) noexcept;
    ~Sender();

    /// The connection is about to send its first byte (the SYN) at `first`.
    void begin(Seq first, TimePoint now) noexcept;
    /// The handshake is done: both sides' options are known.
    /// \param mss  payload bytes of a full segment, options already taken off
    void established(std::uint32_t mss, bool sack, bool timestamps, bool ecn,
                     TimePoint now) noexcept;
    /// A new path MTU: takes effect for what is sent from now on, and does not touch cwnd (RFC
    /// 8899).
    void set_mss(std::uint32_t mss) noexcept;

    // --- what may be sent
    // oldest unacknowledged
    [[nodiscard]] Seq una() const noexcept { return board_.una(); }
    // next new byte: the highest ever sent, plus one
    [[nodiscard]] Seq nxt() const noexcept { return board_.nxt(); }
    /// The range to send again next (at most one mss of it is used), if cwnd, PRR and pacing allow
    /// it now. Ask before allowance(), which is zero while something lost waits.
    [[nodiscard]] std::optional<Range> retransmission(TimePoint now) const noexcept;
    /// The range a tail loss probe sends when there is no new data (RFC 8985 §7.3).
    [[nodiscard]] std::optional<Range> probe() const noexcept;
    /// Bytes of new data that congestion control, recovery and pacing allow now; the peer's window
    /// is the connection's business.
    [[nodiscard]] std::uint32_t allowance(TimePoint now) const noexcept;

    /// [begin, end) has left, new or again or both. More than an mss (TSO) becomes a record for
    /// each mss.
    /// \param application_limited  nothing new waits behind it. (Whether cwnd was the limit is
    /// seen from cwnd.)
    /// \return false when the ring of records is full: nothing was recorded, do not send
    [[nodiscard]] bool sent(Seq begin, Seq end, TimePoint now, bool application_limited) noexcept;

    // --- events
    struct Outcome {
        std::uint32_t acked_bytes = 0;
        bool reduced = false; // cwnd was cut because of ECN: set CWR on the next new segment
    };
    /// \pre  una() <= ack.ack <= nxt()
    [[nodiscard]] Outcome on_acknowledgement(const Acknowledgement& ack, TimePoint now) noexcept;
    [[nodiscard]] SenderTimer on_timer(TimePoint now) noexcept;
    /// The earliest of RTO, TLP, RACK and pacing; max() when nothing waits.
    [[nodiscard]] TimePoint deadline() const noexcept {
        const TimePoint pacing = pacing_waits_ ? pacer_.free_at() : TimePoint::max();
        return std::min({rto_at_, early_at_, pacing});
    }
    /// ICMP said that this host is unreachable, or the port could not send: take back one backoff
    /// (RFC 6069). `quoted` is the sequence number in the error.
    void on_unreachable(Seq quoted) noexcept;
    /// Everything in flight that was not reported is to be sent again, in segments of the present
    /// mss: a router found it too big. No sign of congestion: cwnd, ssthresh and backoff stay (RFC
    /// 1191 §6.5).
    void resend_all(TimePoint now) noexcept;
    /// Gives the ring of records back when nothing is in flight.
    void shrink() noexcept;

    // --- for others to see
    [[nodiscard]] std::uint32_t cwnd() const noexcept { return congestion_.cwnd(); } // bytes
    [[nodiscard]] std::uint32_t ssthresh() const noexcept { return congestion_.ssthresh(); }
    // SND.NXT - SND.UNA
    [[nodiscard]] std::uint32_t flight_bytes() const noexcept { return board_.flight_bytes(); }
    // RFC 6675's pipe
    [[nodiscard]] std::uint32_t pipe_bytes() const noexcept { return board_.pipe_bytes(); }
    /// Something waits to be sent again, whether it may leave now or not.
    [[nodiscard]] bool has_lost() const noexcept { return board_.lost_bytes() > 0; }
    // zero before the first sample
    [[nodiscard]] Duration smoothed_rtt() const noexcept { return rtt_.smoothed(); }
    // with backoff
    [[nodiscard]] Duration rto() const noexcept { return rtt_.rto(environment_->config); }
    // timeouts in a row
    [[nodiscard]] unsigned backoff_count() const noexcept { return timeouts_in_row_; }
    // first transmission of una()
    [[nodiscard]] std::optional<TimePoint> oldest_sent_at() const noexcept {
        if (board_.size() == 0) return std::nullopt;
        return board_[0].first_sent_at();
    }
    [[nodiscard]] bool in_recovery() const noexcept { return phase_ != Phase::open; }

    [[nodiscard]] const Congestion& congestion() const noexcept { return congestion_; }
    [[nodiscard]] const Scoreboard& scoreboard() const noexcept { return board_; }
    [[nodiscard]] std::uint64_t pacing_bytes_per_second() const noexcept; // zero: not paced
    /// Walks everything and holds it against what must be so; for tests.
    void debug_check() const noexcept;

private:
    enum class Phase : std::uint8_t {
        open,
        reduction, // RFC 3168: after a mark, or a loss that a probe has repaired
        recovery,  // RFC 6675, 6582
        loss,      // after a timeout, until RecoveryPoint
    };
    enum class Early : std::uint8_t {
        none,
        reordering,
        probe,
        doubt
    }; // what waits until early_at_
    /// F-RTO: whether a timeout was one, RFC 5682 §3.1.
    enum class Doubt : std::uint8_t {
        none,
        first_ack,  // the first segment has been sent again, nothing else is
        second_ack, // it was acknowledged: new data goes, and the next ACK tells
    };
    struct Progress; // of one acknowledgement

    [[nodiscard]] std::uint32_t initial_window() const noexcept;
    [[nodiscard]] bool idle_too_long(TimePoint now) const noexcept;
    [[nodiscard]] bool window_was_used() const noexcept;
    void note_window_use() noexcept;

    void take_delivered(const SentRecord& record, const Acknowledgement& ack, TimePoint now,
                        Progress& progress) noexcept;
    void take_reports(const Acknowledgement& ack, TimePoint now, Progress& progress) noexcept;
    void take_duplicate(const Acknowledgement& ack, const Progress& progress) noexcept;
    void take_rtt(const Acknowledgement& ack, TimePoint now, Progress& progress) noexcept;
    void take_twice_received(const Progress& progress) noexcept;
    [[nodiscard]] bool probe_repaired_loss(const Acknowledgement& ack, Progress& progress) noexcept;
    void watch_timeout(TimePoint now, const Progress& progress) noexcept;
    void find_losses(TimePoint now, Progress& progress) noexcept;
    [[nodiscard]] bool was_spurious(const Acknowledgement& ack,
                                    const Progress& progress) const noexcept;

    void remember_for_undo() noexcept;
    void undo() noexcept;
    void enter_recovery(std::uint32_t flight_bytes) noexcept;
    void enter_reduction(std::uint32_t flight_bytes) noexcept;
    void leave_phase() noexcept;
    void time_out(TimePoint now) noexcept;
    [[nodiscard]] Duration reordering_window() const noexcept;
    void schedule_probe(TimePoint now) noexcept;
    void stop_early_timer() noexcept;

    struct Undo {
        Congestion::Before before;
        Seq from;                // SND.UNA as the reduction began
        Seq until;               // and SND.NXT
        Seq expires;             // D-SACKs may come for a window after the end
        std::uint32_t bytes = 0; // sent again and not yet reported as received twice
        std::uint32_t first_sent_again_tick = 0;
    };

    const SenderEnvironment* environment_;
    // The order fills what eight-byte alignment would leave empty behind each part: a million idle
    // connections have this.
    [[no_unique_address]] Scoreboard board_;
    std::uint32_t mss_ = mss_before_handshake;
    [[no_unique_address]] RttEstimator rtt_;
    Phase phase_ = Phase::open;
    Early early_ = Early::none;
    Doubt doubt_ = Doubt::none;
    [[no_unique_address]] Rack rack_;
    [[no_unique_address]] Congestion congestion_;
    std::uint32_t use_pipe_max_ = 0;
    Pacer pacer_;
    TimePoint rto_at_ = TimePoint::max();
    TimePoint early_at_ = TimePoint::max();
    TimePoint last_sent_at_{};
    Prr prr_;
    Undo undo_;
    Seq recovery_point_;
    Seq probe_end_; // TLP.end_seq
    // How much of the window one window's sending used, together with use_pipe_max_ (RFC 7661's
    // question, answered as Linux does).
    Seq use_end_;

    std::uint8_t timeouts_in_row_ = 0;
    bool recovery_point_holds_ : 1 = false; // SND.UNA has not passed it
    bool undo_possible_ : 1 = false;
    bool undo_stamped_ : 1 = false;   // something was sent again since
    bool send_again_now_ : 1 = false; // the first retransmission asks nobody
    bool probe_due_ : 1 = false;      // on_timer() said probe, it has not left yet
    bool probe_out_ : 1 = false;      // TLP.end_seq is set
    bool probe_was_old_ : 1 = false;  // TLP.is_retrans
    bool pacing_waits_ : 1 = false;
    bool use_limited_ : 1 = false;
    bool application_limited_ : 1 = false;
    bool established_ : 1 = false;
    bool syn_acked_ : 1 = false;
    bool syn_timed_out_ : 1 = false;
    bool sack_ : 1 = false;
    bool timestamps_ : 1 = false;
    bool ecn_ : 1 = false;
};

} // namespace dataplane::net::tcp
