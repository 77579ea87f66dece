// connection.h: one TCP connection as a pure machine: segments, timers and the application's wishes go
// in; segments, a deadline and events come out.
//
// Scope      RFC 9293 with all its states; 7323 timestamps, window scale and PAWS; 2018 SACK to the peer; 5961
//            against blind attacks; 1122 and 9293 §3.8 windows, delayed ACK, persist, keepalive; 5482 user
//            timeout; 3168 ECN; 5461 and 5927 on ICMP. When to send again and how fast is sender.h's.
//            Demultiplexing, listening, TIME_WAIT's long wait, ports and IP are the stack's.
// Owns       Bytes to be sent (slabs by reference) and bytes received but not yet read (slabs of the
//            environment's pool). Without queued bytes it owns no memory beyond itself.
// Threading  One shard. No clock, no I/O, no allocation on the warm path; never calls anybody back.
// Failure    A dead connection says why in error(), once: refused, reset, timed_out, unreachable.
#pragma once

#include "dataplane/base/slab.h"
#include "dataplane/base/stream.h"
#include "dataplane/net/tcp/config.h"
#include "dataplane/net/tcp/receive_buffer.h"
#include "dataplane/net/tcp/segment.h"
#include "dataplane/net/tcp/send_queue.h"
#include "dataplane/net/tcp/sender.h"

#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <utility>

namespace dataplane::net::tcp {

enum class State : std::uint8_t {
    closed,
    syn_sent,
    syn_received,
    established,
    fin_wait_1,
    fin_wait_2,
    close_wait,
    closing,
    last_ack,
    time_wait,
};

struct ConnectionCounters { // of one shard
    SenderCounters sender;
    std::uint64_t active_opens = 0, passive_opens = 0, established = 0, resets_sent = 0,
                  resets_received = 0;
    std::uint64_t segments_in = 0, segments_out = 0, bytes_in = 0, bytes_out = 0;
    std::uint64_t out_of_order = 0, out_of_order_dropped = 0, duplicates = 0, out_of_window = 0;
    std::uint64_t paws_dropped = 0, challenge_acks = 0, challenge_acks_suppressed = 0, bad_acks = 0;
    std::uint64_t zero_window_probes = 0, keepalive_probes = 0, delayed_acks = 0;
    std::uint64_t no_receive_slabs = 0, user_timeouts = 0, path_mtu_reductions = 0, black_holes = 0;
};

/// What all connections of a shard share; outlives them.
struct Environment {
    const Config& config;
    base::SlabPool& receive_slabs;
    base::SlabPool& send_slabs; // for small writes, which are copied
    ConnectionCounters& counters;
    std::minstd_rand& random; // jitter, never secrets
    SenderEnvironment sender{config, counters.sender};
};

/// What the connection wants its owner to know; taken with take_events().
namespace event {
inline constexpr std::uint8_t established = 0x01;   // the handshake is done
inline constexpr std::uint8_t readable = 0x02;      // unread() has grown
inline constexpr std::uint8_t end_of_stream = 0x04; // the peer's FIN came, in order
inline constexpr std::uint8_t writable = 0x08; // send_room() has grown, or all was acknowledged
// Only TIME_WAIT's long wait is left, its ACK has been given out: time_wait_record(). What is unread
// goes with the connection, so one whose reader is not done may stay: it does the wait itself.
inline constexpr std::uint8_t time_wait = 0x10;
// Over; error() says how. No output comes any more: a reset that was due has been given out before.
inline constexpr std::uint8_t dead = 0x20;
} // namespace event

/// One segment to be sent: header fields, and where its payload lies in the send queue.
struct Outgoing {
    Seq seq;
    Seq ack;
    std::uint16_t window = 0;
    std::uint8_t flags = 0;
    Options options;
    Ecn ecn = Ecn::not_ect;
    std::uint32_t payload_bytes = 0; // from `seq` (behind a SYN) on; see payload()
    std::uint16_t segment_bytes = 0; // when payload_bytes is more: cut it at this size (TSO)
    bool retransmission = false;
};

/// All that TIME_WAIT needs once its connection is gone (RFC 9293, 1337, 6191).
struct TimeWaitRecord {
    Seq snd_nxt;
    Seq rcv_nxt;
    std::uint16_t window = 0;
    bool timestamps = false;
    std::uint32_t ts_recent = 0;
    std::uint32_t ts_offset = 0;
};

class Connection {
public:
    explicit Connection(Environment& environment) noexcept;
    ~Connection();
    Connection(const Connection&) = delete;
    Connection& operator=(const Connection&) = delete;

    // --- opening; one of these is called first
    /// \param iss      initial send sequence number (RFC 6528)
    /// \param mss      what we announce: MTU less IP and TCP header, without options
    /// \param ts_offset  added to our timestamp clock, so that uptime does not show
    void open(Seq iss, std::uint16_t mss, std::uint32_t ts_offset, TimePoint now) noexcept;
    /// A listener got this SYN.
    void accept(const Segment& syn, Seq iss, std::uint16_t mss, std::uint32_t ts_offset,
                TimePoint now) noexcept;
    /// A listener got the ACK of a SYN cookie it had sent with `iss`; `syn_options` is what the cookie kept.
    void accept_cookie(const Segment& ack, Seq iss, const Options& syn_options, std::uint16_t mss,
                       std::uint32_t ts_offset, TimePoint now) noexcept;

    // --- from the network
    void receive(const Segment& segment, TimePoint now) noexcept;
    void on_timer(TimePoint now) noexcept;
    /// Packets of this many bytes (MSS: IP and TCP header taken off) are the largest that arrive.
    /// \param quoted  the sequence number in the ICMP error; one that is not in flight is ignored
    void on_path_mtu(std::uint16_t mss, Seq quoted, TimePoint now) noexcept;
    enum class Unreachable : std::uint8_t { soft, hard }; // RFC 5461: hard ends only a handshake
    void on_unreachable(Unreachable kind, base::NetError error, Seq quoted, TimePoint now) noexcept;

    // --- to the network
    /// When on_timer() wants to be called; max() for never. Moves with every call to anything above.
    [[nodiscard]] TimePoint deadline() const noexcept;
    /// Whether next_segment() may have something: an ACK that cannot wait, data, FIN, probe, SYN.
    [[nodiscard]] bool wants_output(TimePoint now) const noexcept;
    /// Whether next_segment() surely has nothing: a glance, where wants_output() thinks it through.
    [[nodiscard]] bool nothing_to_send() const noexcept {
        const bool owes = reset_pending_ || ack_now_ || window_probe_ || loss_probe_;
        return !owes && !handshaking() && !sender_.has_lost() && unsent() == 0 && !fin_unsent();
    }
    /// The next segment to send, counted as sent. Call until false.
    /// \param payload_max  largest payload of one Outgoing: the MSS, or more where the port cuts (TSO);
    ///                     0: only what carries none (RST, SYN, FIN, probe, ACK)
    [[nodiscard]] bool next_segment(Outgoing& out, std::uint32_t payload_max,
                                    TimePoint now) noexcept;
    /// The bytes of a segment that next_segment() gave; fills in slices and returns how many. Needs
    /// at most one slice for each slab touched; when `slices` is short, fills fewer bytes than asked: the caller
    /// asks next_segment() with a payload_max that fits.
    [[nodiscard]] std::size_t payload(const Outgoing& segment,
                                      std::span<base::SlabView> slices) const noexcept;
    /// Pure ACK, RST and SYN-ACK may be asked for at once; nothing else changes. For a port that refused:
    /// what next_segment() gave did not leave. Data comes again by the retransmission timer's rules at the
    /// next opportunity, an ACK at once.
    void not_sent(const Outgoing& segment, TimePoint now) noexcept;

    // --- the application
    [[nodiscard]] std::span<const std::byte> unread() const noexcept; // the part in one piece
    void consume(std::size_t bytes, TimePoint now) noexcept;          // may owe a window update
    // FIN received and everything read
    [[nodiscard]] bool at_end() const noexcept {
        return fin_received_ && receive_.unread_bytes() == 0;
    }
    [[nodiscard]] std::size_t send_room() const noexcept;
    /// Copies as much as there is room and slabs for; returns how much.
    [[nodiscard]] std::size_t write(std::span<const std::byte> bytes) noexcept;
    /// Takes the view as it is, even beyond send_room(): the caller waits for room before the next.
    void write(base::SlabView view) noexcept;
    [[nodiscard]] bool
    all_acknowledged() const noexcept; // nothing staged or in flight, FIN included
    [[nodiscard]] std::size_t unsent_bytes() const noexcept { return unsent(); }
    void shutdown_write(TimePoint now) noexcept; // FIN behind what is staged
    /// The application has gone: no more reading. FIN when all was read, RST otherwise (RFC 2525 §2.17).
    void close(TimePoint now) noexcept;
    void abort(TimePoint now) noexcept; // RST, then dead
    void set_user_timeout(Duration timeout) noexcept;

    // --- for others to see
    [[nodiscard]] std::uint8_t take_events() noexcept {
        return std::exchange(events_, std::uint8_t{0});
    }
    [[nodiscard]] State state() const noexcept { return state_; }
    [[nodiscard]] base::NetError error() const noexcept { return error_; }
    [[nodiscard]] const Sender& sender() const noexcept { return sender_; }
    // payload bytes of a full segment we send
    [[nodiscard]] std::uint32_t mss() const noexcept { return mss_; }
    [[nodiscard]] TimeWaitRecord time_wait_record() const noexcept;
    [[nodiscard]] Seq rcv_nxt() const noexcept {
        return receive_.next() + (fin_received_ ? 1U : 0U);
    }
    [[nodiscard]] TimePoint last_received() const noexcept { return last_received_; }
    /// The largest window that the peer ever offered.
    [[nodiscard]] std::uint32_t peer_window_max() const noexcept { return snd_wnd_max_; }

private:
    enum class Kind : std::uint8_t { nothing, reset, handshake, data, probe, acknowledgement };
    /// What next_segment() would send now.
    struct Plan {
        Kind kind = Kind::nothing;
        bool fin = false;
        bool retransmission = false;
        bool path_probe = false; // larger than the path is known to carry
        Seq begin;
        std::uint32_t payload = 0;
    };
    [[nodiscard]] Plan plan(std::uint32_t payload_max, TimePoint now) const noexcept;
    [[nodiscard]] Plan plan_again(Range range, std::uint32_t payload_max) const noexcept;
    enum class Urgency : std::uint8_t { normal, loss_probe, window_probe };
    [[nodiscard]] Plan plan_new_data(std::uint32_t payload_max, Urgency urgency,
                                     TimePoint now) const noexcept;
    [[nodiscard]] bool emit_data(const Plan& plan, Outgoing& out, TimePoint now) noexcept;
    [[nodiscard]] bool emit_handshake(Outgoing& out, TimePoint now) noexcept;
    void emit_reset(Outgoing& out, TimePoint now) noexcept;
    void fill(Outgoing& out, Seq seq, std::uint8_t flags, std::uint32_t payload,
              TimePoint now) noexcept;
    void add_sack(Options& options) noexcept;
    [[nodiscard]] std::uint16_t window_to_advertise() noexcept;
    [[nodiscard]] Seq right_edge_wanted() const noexcept;
    // of one segment sent now; fill() leaves the blocks out of a segment that small
    [[nodiscard]] std::uint32_t payload_limit() const noexcept {
        const std::uint32_t sack = owes_sack() ? sack_bytes() : 0;
        return mss_ >= 4 * sack ? mss_ - sack : mss_;
    }
    [[nodiscard]] bool owes_sack() const noexcept {
        return sack_ && (receive_.out_of_order() || dsack_begin_ != dsack_end_);
    }
    [[nodiscard]] std::uint32_t sack_bytes() const noexcept;
    [[nodiscard]] std::uint32_t window_left() const noexcept {
        const Seq nxt = sender_.nxt();
        return nxt < snd_right_ ? distance(nxt, snd_right_) : 0;
    }
    [[nodiscard]] std::uint32_t window_step() const noexcept;
    [[nodiscard]] std::uint16_t path_probe_mss() const noexcept;

    void start(Seq iss, std::uint16_t mss, std::uint32_t ts_offset, TimePoint now) noexcept;
    void take_syn_options(const Options& options) noexcept;
    void become_established(TimePoint now) noexcept;
    void become_time_wait(TimePoint now) noexcept;
    void die(base::NetError error) noexcept;
    void reset_and_die(base::NetError error) noexcept;
    void use_path_mss(std::uint16_t mss, TimePoint now) noexcept;

    void receive_in_syn_sent(const Segment& segment, TimePoint now) noexcept;
    void receive_synchronized(const Segment& segment, TimePoint now) noexcept;
    [[nodiscard]] bool timestamps_allow(const Segment& segment, TimePoint now) noexcept;
    void answer_unacceptable(const Segment& segment, Seq seq, TimePoint now) noexcept;
    [[nodiscard]] bool receive_ack(const Segment& segment, Seq seq, TimePoint now) noexcept;
    void apply_ack(const Segment& segment, bool pure, TimePoint now) noexcept;
    void on_fin_acknowledged(TimePoint now) noexcept;
    void receive_text(const Segment& segment, Seq seq, TimePoint now) noexcept;
    void store_text(Seq seq, std::span<const std::byte> payload) noexcept;
    void receive_fin(TimePoint now) noexcept;
    void owe_ack(TimePoint now) noexcept;
    void challenge(TimePoint now) noexcept;
    void note_duplicate(Seq begin, Seq end) noexcept;
    void grow_window() noexcept;

    void on_sender_timer(TimePoint now) noexcept;
    void on_timeout(TimePoint now) noexcept;
    void update_persist(TimePoint now) noexcept;
    void raise_path_after(Duration wait, TimePoint now) noexcept;
    [[nodiscard]] bool path_raise_due(TimePoint now) const noexcept;
    [[nodiscard]] Duration persist_interval() const noexcept;
    [[nodiscard]] TimePoint user_deadline() const noexcept;
    [[nodiscard]] TimePoint keepalive_deadline() const noexcept;
    [[nodiscard]] bool handshaking() const noexcept {
        return state_ == State::syn_sent || state_ == State::syn_received;
    }
    [[nodiscard]] bool can_send_data() const noexcept { // by state: data or FIN, new or again
        switch (state_) {
        case State::established:
        case State::fin_wait_1:
        case State::close_wait:
        case State::closing:
        case State::last_ack:
            return true;
        case State::closed:
        case State::syn_sent:
        case State::syn_received:
        case State::fin_wait_2:
        case State::time_wait:
            return false;
        }
        return false;
    }
    [[nodiscard]] bool fin_unsent() const noexcept {
        return fin_staged_ && sender_.nxt() <= send_.end();
    }
    [[nodiscard]] std::uint32_t unsent() const noexcept {
        return sender_.nxt() < send_.end() ? distance(sender_.nxt(), send_.end()) : 0;
    }

    Environment& environment_;
    // The order fills what alignment would leave empty behind each part, as in the sender.
    [[no_unique_address]] Sender sender_;
    State state_ = State::closed;
    base::NetError error_ = base::NetError::closed;
    base::NetError soft_error_ = base::NetError::timed_out; // what a timeout is reported as
    std::uint8_t events_ = 0;
    std::uint8_t snd_scale_ = 0;
    SendQueue send_;
    [[no_unique_address]] ReceiveBuffer receive_;
    Seq iss_;

    TimePoint last_received_{};                     // a segment that PAWS let through
    TimePoint ack_deadline_ = TimePoint::max();     // delayed ACK
    TimePoint persist_deadline_ = TimePoint::max(); // window probe or SWS override
    // For the user timeout: when the peer last acknowledged something new, or, while we probe its window,
    // when it last answered.
    TimePoint waiting_since_{};
    TimePoint state_deadline_ = TimePoint::max(); // FIN_WAIT_2's or TIME_WAIT's end

    // In timestamp_ticks(): these two are coarse, and half the size so.
    std::uint32_t path_raise_at_ = 0;   // when to try a larger segment again, if path_raise_waits_
    std::uint32_t challenge_until_ = 0; // the end of the second that challenge_left_ counts in

    Seq snd_wl1_, snd_wl2_; // SEG.SEQ and SEG.ACK of the last window update
    Seq snd_right_;         // right edge of the peer's window
    std::uint32_t snd_wnd_ = 0;
    std::uint32_t snd_wnd_max_ = 0;
    Seq rcv_adv_; // right edge of ours, as advertised
    Seq last_ack_sent_;
    Seq peer_fin_;                // its number, once fin_seen_
    Seq dsack_begin_, dsack_end_; // to be reported once; equal: nothing
    Seq reset_seq_;
    Seq path_probe_end_;
    std::uint32_t rcv_window_ = 0; // what we would offer with nothing unread
    std::uint32_t consumed_ = 0;   // since rcv_window_ last grew
    std::uint32_t ts_recent_ = 0;
    std::uint32_t ts_offset_ = 0;
    std::uint32_t user_timeout_ms_ = 0;
    std::uint16_t mss_announced_ = 0;
    std::uint16_t mss_limit_ = 0; // min of ours and the peer's
    std::uint16_t path_mss_ = 0;  // <= mss_limit_: what the path is believed to carry
    std::uint16_t mss_ = 0;       // path_mss_ less the timestamps option
    std::uint16_t path_probe_ =
        0;                      // MSS of the larger segment in flight up to path_probe_end_, or 0
    std::uint16_t rcv_mss_ = 0; // largest payload seen: the peer's MSS, near enough
    std::uint8_t rcv_scale_ = 0;
    std::uint8_t quick_acks_ = 0;
    std::uint8_t challenge_left_ = 0;
    std::uint8_t persist_count_ = 0;
    std::uint8_t keepalive_count_ = 0;

    bool active_ : 1 = false;     // we opened it
    bool timestamps_ : 1 = false; // offered, then: in use
    bool sack_ : 1 = false;       // as timestamps_
    bool scaling_ : 1 = false;    // as timestamps_
    bool ecn_ : 1 = false;        // as timestamps_
    bool ack_now_ : 1 = false;
    bool answer_syn_ : 1 = false; // the SYN came again: so must our SYN-ACK
    bool reset_pending_ : 1 = false;
    bool reset_with_ack_ : 1 = false;
    bool dying_ : 1 = false;        // dead as soon as the reset has been given out
    bool fin_staged_ : 1 = false;   // ours, behind send_.end()
    bool fin_seen_ : 1 = false;     // the peer's, perhaps ahead of missing data
    bool fin_received_ : 1 = false; // the peer's, in order
    bool orphan_ : 1 = false;       // the application has gone
    bool loss_probe_ : 1 = false;   // the sender's TLP is due
    bool window_probe_ : 1 = false; // persist or keepalive is due
    bool records_full_ : 1 = false; // sender_ took no more: until the next ACK or timeout
    bool records_held_ : 1 = false; // sender_ may have memory to give back
    bool echo_ce_ : 1 = false;      // set ECE until the peer's CWR
    bool send_cwr_ : 1 = false;
    bool path_raise_waits_ : 1 = false;
    bool user_timeout_set_ : 1 =
        false; // by the application: also counts while a zero window is answered
};

static_assert(sizeof(Connection) <= 544,
              "an idle connection is to take 768 bytes, with the stack's share");

/// The answer to a segment that belongs to no connection (RFC 9293 §3.10.7.1); nothing for an RST.
[[nodiscard]] std::optional<Header> reset_for(const Segment& segment) noexcept;

} // namespace dataplane::net::tcp
