// congestion.h: cwnd and ssthresh, over CUBIC or NewReno.
//
// Scope      Slow start (RFC 5681, byte counting of 3465, HyStart++), congestion avoidance by the
//            algorithm chosen, what losses and timeouts do to both numbers, and taking that back.
//            Static dispatch: the algorithm is one of two values. Recovery's cwnd is prr.h's and
//            comes in by set_cwnd().
// Deviation  RFC 3465's limit of two segments for each ACK holds only after a timeout (there it is
//            one, §2.3); otherwise there is none, as RFC 9406 §4.2 has it for senders that pace:
//            receivers that merge segments acknowledge 16 at once. Dividing ACKs gains nothing
//            either way, for bytes are what counts.
// Threading  None; a value.
#pragma once

#include "dataplane/net/tcp/config.h"
#include "dataplane/net/tcp/cubic.h"
#include "dataplane/net/tcp/hystart.h"
#include "dataplane/net/tcp/new_reno.h"

namespace dataplane::net::tcp {

class Congestion {
public:
    explicit Congestion(CongestionKind kind) noexcept;
    void begin(std::uint32_t cwnd, Seq nxt) noexcept;

    [[nodiscard]] std::uint32_t cwnd() const noexcept { return cwnd_; }
    [[nodiscard]] std::uint32_t ssthresh() const noexcept { return ssthresh_; }
    [[nodiscard]] bool in_slow_start() const noexcept { return cwnd_ < ssthresh_; }
    [[nodiscard]] HyStart::Phase hystart_phase() const noexcept { return hystart_.phase(); }

    void on_rtt(base::Duration rtt) noexcept;
    /// A new window's worth of feedback without growth; ends HyStart's rounds.
    void on_round(Seq ack, Seq nxt) noexcept;
    /// \param after_timeout  retransmissions are being acknowledged: an ACK may cover much that
    /// left long ago
    void grow(std::uint32_t acked_bytes, std::uint32_t mss, bool after_timeout, base::Duration rtt,
              base::TimePoint now) noexcept;
    /// Up to `now` the window was not what limited us.
    void pause(base::TimePoint now) noexcept;
    /// Nothing was in flight for longer than an RTO: RFC 5681 §4.1. ssthresh keeps what was known
    /// (RFC 2861).
    void restart(std::uint32_t window) noexcept;

    void on_congestion(std::uint32_t flight_bytes,
                       std::uint32_t mss) noexcept; // sets ssthresh only
    void on_timeout(std::uint32_t flight_bytes,
                    std::uint32_t mss) noexcept; // the same, and the curve's start
    void set_cwnd(std::uint32_t cwnd) noexcept { cwnd_ = cwnd; }

    struct Before {
        std::uint32_t cwnd = 0;
        std::uint32_t ssthresh = 0;
        float peak = 0;
    };
    [[nodiscard]] Before before() const noexcept;
    void undo(const Before& before) noexcept;

private:
    [[nodiscard]] bool first_slow_start() const noexcept { return ssthresh_ == unknown; }
    [[nodiscard]] bool is_cubic() const noexcept { return kind_ == CongestionKind::cubic; }
    static constexpr std::uint32_t unknown = UINT32_MAX;

    // Both, for together they are smaller than a variant of them; `kind_` says which one is used.
    [[no_unique_address]] Cubic cubic_;
    CongestionKind kind_;
    NewReno reno_;
    std::uint32_t cwnd_ = 0;
    std::uint32_t ssthresh_ = unknown;
    [[no_unique_address]] HyStart hystart_;
};

} // namespace dataplane::net::tcp
