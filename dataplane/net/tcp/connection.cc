// The connection's life and its application's side. Input, output and timers have files of their own.
#include "dataplane/net/tcp/connection.h"

#include "dataplane/base/check.h"
#include "dataplane/net/tcp/connection_limits.h"
#include "dataplane/net/tcp/isn.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace dataplane::net::tcp {

Connection::Connection(Environment& environment) noexcept
    : environment_(environment), sender_(environment.sender) {
    set_user_timeout(environment.config.user_timeout);
    user_timeout_set_ = false;
}

Connection::~Connection() = default;

void Connection::start(Seq iss, std::uint16_t mss, std::uint32_t ts_offset,
                       TimePoint now) noexcept {
    CHECK(state_ == State::closed);
    const Config& config = environment_.config;
    iss_ = iss;
    mss_announced_ = std::max(mss, peer_mss_min);
    mss_limit_ = path_mss_ = mss_ = mss_announced_;
    ts_offset_ = ts_offset;
    timestamps_ = config.timestamps;
    sack_ = config.sack;
    scaling_ = true;
    rcv_window_ = std::min(syn_window, config.receive_bytes_max);
    last_received_ = now;
    send_.begin_at(iss + 1);
}

void Connection::open(Seq iss, std::uint16_t mss, std::uint32_t ts_offset, TimePoint now) noexcept {
    start(iss, mss, ts_offset, now);
    active_ = true;
    ecn_ = environment_.config.ecn && environment_.config.ecn_request;
    state_ = State::syn_sent;
    sender_.begin(iss, now);
    ++environment_.counters.active_opens;
}

void Connection::accept(const Segment& syn, Seq iss, std::uint16_t mss, std::uint32_t ts_offset,
                        TimePoint now) noexcept {
    start(iss, mss, ts_offset, now);
    take_syn_options(syn.options);
    // RFC 3168 §6.1.1: both flags ask for ECN, one of them alone does not.
    ecn_ = environment_.config.ecn && syn.has(flag::ece) && syn.has(flag::cwr);
    // Text in the SYN stays with the peer: it sends it again behind our SYN-ACK.
    receive_.begin_at(syn.seq + 1);
    rcv_adv_ = rcv_nxt() + rcv_window_;
    snd_wnd_ = snd_wnd_max_ = syn.window;
    snd_wl1_ = syn.seq;
    snd_wl2_ = iss;
    snd_right_ = iss + 1 + syn.window;
    state_ = State::syn_received;
    sender_.begin(iss, now);
    ++environment_.counters.segments_in;
    ++environment_.counters.passive_opens;
}

void Connection::accept_cookie(const Segment& ack, Seq iss, const Options& syn_options,
                               std::uint16_t mss, std::uint32_t ts_offset, TimePoint now) noexcept {
    start(iss, mss, ts_offset, now);
    take_syn_options(syn_options);
    if (timestamps_ && ack.options.timestamps) ts_recent_ = ack.options.timestamps->value;
    receive_.begin_at(ack.seq);
    rcv_adv_ = ack.seq + rcv_window_;
    last_ack_sent_ = ack.seq;
    snd_wl1_ = ack.seq - 1;
    snd_wl2_ = iss;
    snd_right_ = iss + 1;
    ++environment_.counters.passive_opens;
    // The SYN and its answer were never ours to count or to time.
    sender_.begin(iss + 1, now);
    become_established(now);
    receive(ack, now);
}

void Connection::take_syn_options(const Options& options) noexcept {
    const std::uint16_t peer_mss = std::max(options.mss.value_or(peer_mss_default), peer_mss_min);
    mss_limit_ = std::min(mss_announced_, peer_mss);
    path_mss_ = std::min(path_mss_, mss_limit_);
    // What only one side offered is not used.
    timestamps_ = timestamps_ && options.timestamps.has_value();
    sack_ = sack_ && options.sack_permitted;
    scaling_ = scaling_ && options.window_scale.has_value();
    if (scaling_) {
        snd_scale_ = std::min<std::uint8_t>(*options.window_scale, 14);
        rcv_scale_ = std::min<std::uint8_t>(environment_.config.window_scale, 14);
    }
    if (timestamps_) ts_recent_ = options.timestamps->value;
    mss_ = static_cast<std::uint16_t>(path_mss_ - (timestamps_ ? 12 : 0));
}

void Connection::become_established(TimePoint now) noexcept {
    CHECK(state_ != State::established);
    state_ = fin_staged_ ? State::fin_wait_1 : State::established;
    sender_.established(mss_, sack_, timestamps_, ecn_, now);
    rcv_window_ =
        std::min(scaling_ ? window_initial : syn_window, environment_.config.receive_bytes_max);
    rcv_mss_ = std::min(mss_announced_, peer_mss_default);
    quick_acks_ = quick_acks_initial;
    soft_error_ = base::NetError::timed_out;
    answer_syn_ = false;
    if (path_mss_ < mss_limit_) raise_path_after(path_raise_after, now);
    events_ |= event::established | event::writable;
    ++environment_.counters.established;
}

void Connection::become_time_wait(TimePoint now) noexcept {
    state_ = State::time_wait;
    state_deadline_ = now + environment_.config.time_wait;
    persist_deadline_ = TimePoint::max();
    window_probe_ = loss_probe_ = false;
    // A FIN that crossed ours is answered first; whoever gets the record finds nothing left to send.
    if (!ack_now_) events_ |= event::time_wait;
}

void Connection::die(base::NetError error) noexcept {
    if (state_ == State::closed) return;
    state_ = State::closed;
    error_ = error;
    send_.clear();
    // What came before a reset is still the reader's, unless there is none.
    if (orphan_) receive_.clear();
    events_ |= event::dead;
}

void Connection::reset_and_die(base::NetError error) noexcept {
    if (state_ == State::closed) return;
    reset_seq_ = sender_.nxt();
    reset_with_ack_ = true;
    reset_pending_ = true;
    dying_ = true;
    state_ = State::closed;
    error_ = error;
    send_.clear();
    if (orphan_) receive_.clear();
}

// --- the application

std::span<const std::byte> Connection::unread() const noexcept {
    return receive_.unread();
}

void Connection::consume(std::size_t bytes, TimePoint now) noexcept {
    CHECK(bytes <= receive_.unread_bytes());
    receive_.consume(static_cast<std::uint32_t>(bytes));
    consumed_ += static_cast<std::uint32_t>(bytes);
    grow_window();
    if (fin_received_ || state_ == State::closed || handshaking()) return;
    // The next ACK says so anyway; of its own the news is worth a segment when the peer may be waiting for
    // it, or when half of the window is open again (RFC 9293 §3.8.6.2.2).
    const Seq wanted = right_edge_wanted();
    if (wanted <= rcv_adv_) return;
    const std::uint32_t gain = distance(rcv_adv_, wanted);
    const std::uint32_t left = rcv_adv_ > rcv_nxt() ? distance(rcv_nxt(), rcv_adv_) : 0;
    const bool peer_may_wait = left < 2 * window_step();
    if (gain >= (peer_may_wait ? window_step() : rcv_window_ / 2)) ack_now_ = true;
    static_cast<void>(now);
}

void Connection::grow_window() noexcept {
    // A reader that takes a whole window and leaves little behind could take more.
    if (consumed_ < rcv_window_ || receive_.unread_bytes() > rcv_window_ / 4) return;
    consumed_ = 0;
    const std::uint32_t sayable = syn_window << rcv_scale_;
    rcv_window_ = std::min({rcv_window_ * 2, environment_.config.receive_bytes_max, sayable});
}

std::size_t Connection::send_room() const noexcept {
    if (state_ == State::closed || fin_staged_) return 0;
    const std::uint32_t bound = environment_.config.send_bytes_max;
    return send_.bytes() < bound ? bound - send_.bytes() : 0;
}

std::size_t Connection::write(std::span<const std::byte> bytes) noexcept {
    return send_.append_copy(bytes.first(std::min(bytes.size(), send_room())),
                             environment_.send_slabs);
}

void Connection::write(base::SlabView view) noexcept {
    if (state_ == State::closed || fin_staged_) return;
    send_.append(std::move(view));
}

bool Connection::all_acknowledged() const noexcept {
    return send_.bytes() == 0 && !fin_unsent() && sender_.una() == sender_.nxt();
}

void Connection::shutdown_write(TimePoint now) noexcept {
    static_cast<void>(now);
    if (state_ == State::closed || fin_staged_) return;
    fin_staged_ = true;
    switch (state_) {
    case State::established:
        state_ = State::fin_wait_1;
        break;
    case State::close_wait:
        state_ = State::last_ack;
        break;
    case State::closed:
    case State::syn_sent:
    case State::syn_received: // become_established() goes on to FIN_WAIT_1
    case State::fin_wait_1:
    case State::fin_wait_2:
    case State::closing:
    case State::last_ack:
    case State::time_wait:
        break;
    }
}

void Connection::close(TimePoint now) noexcept {
    if (orphan_) return;
    orphan_ = true;
    if (state_ == State::closed) {
        receive_.clear();
        return;
    }
    if (state_ == State::syn_sent) return die(base::NetError::closed);
    if (receive_.unread_bytes() > 0 && state_ != State::time_wait) {
        return abort(now); // the peer would take a FIN for "all was read" (RFC 2525 §2.17)
    }
    receive_.clear();
    shutdown_write(now);
    if (state_ == State::fin_wait_2) state_deadline_ = now + environment_.config.fin_wait_2;
}

void Connection::abort(TimePoint now) noexcept {
    static_cast<void>(now);
    orphan_ = true;
    switch (state_) {
    case State::syn_received:
    case State::established:
    case State::fin_wait_1:
    case State::fin_wait_2:
    case State::close_wait:
        return reset_and_die(base::NetError::closed);
    case State::syn_sent: // RFC 9293 §3.10.5: there is nobody to tell, or both have closed already
    case State::closing:
    case State::last_ack:
    case State::time_wait:
        return die(base::NetError::closed);
    case State::closed:
        receive_.clear();
        return;
    }
}

void Connection::set_user_timeout(Duration timeout) noexcept {
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(timeout).count();
    user_timeout_ms_ = static_cast<std::uint32_t>(
        std::clamp<std::int64_t>(ms, 1, std::numeric_limits<std::uint32_t>::max()));
    user_timeout_set_ = true;
}

// --- for others to see

TimeWaitRecord Connection::time_wait_record() const noexcept {
    const std::uint32_t window = rcv_adv_ > rcv_nxt() ? distance(rcv_nxt(), rcv_adv_) : 0;
    return {.snd_nxt = sender_.nxt(),
            .rcv_nxt = rcv_nxt(),
            .window = static_cast<std::uint16_t>(std::min(window >> rcv_scale_, syn_window)),
            .timestamps = timestamps_,
            .ts_recent = ts_recent_,
            .ts_offset = ts_offset_};
}

std::optional<Header> reset_for(const Segment& segment) noexcept {
    if (segment.has(flag::rst)) return std::nullopt;
    Header header;
    header.source_port = segment.destination_port;
    header.destination_port = segment.source_port;
    header.flags = flag::rst;
    if (segment.has(flag::ack)) {
        header.seq = segment.ack;
    } else {
        header.flags |= flag::ack;
        header.ack = segment.seq + segment.sequence_length();
    }
    return header;
}

} // namespace dataplane::net::tcp
