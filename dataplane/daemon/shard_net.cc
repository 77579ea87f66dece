#include "dataplane/daemon/shard_net.h"

#include "control/schema/capture_limits.h"

#include <algorithm>
#include <array>
#include <stdexcept>

namespace dataplane::daemon {
namespace {

using telemetry::Counter;
using telemetry::Gauge;

constexpr std::size_t views_at_once = 64;

// What millracectl and the admin API let pass is what the port then does.
static_assert(control::schema::capture_bytes_max == net::capture_bytes_max);
static_assert(std::chrono::seconds{control::schema::capture_seconds_max} == net::capture_time_max);

net::ShardThread enter_thread() {
    auto entered = net::ShardThread::enter();
    if (!entered) throw std::runtime_error(entered.error().text);
    return std::move(*entered);
}

std::string_view name_of(net::tcp::State state) noexcept {
    using net::tcp::State;
    switch (state) {
    case State::closed:
        return "closed";
    case State::syn_sent:
        return "syn_sent";
    case State::syn_received:
        return "syn_received";
    case State::established:
        return "established";
    case State::fin_wait_1:
        return "fin_wait_1";
    case State::fin_wait_2:
        return "fin_wait_2";
    case State::close_wait:
        return "close_wait";
    case State::closing:
        return "closing";
    case State::last_ack:
        return "last_ack";
    case State::time_wait:
        return "time_wait";
    }
    return "closed";
}

/// What the ports of a shard count, added up.
class NetTotals {
public:
    void add(const net::stack::StackStatistics& now, const net::stack::SteeringCounters* steering);
    void publish(telemetry::Stats& stats) const {
#define X(name, prometheus, labels, help)                                                          \
    stats.set(Counter::name, counters_[static_cast<std::size_t>(Counter::name)]);
        MILLRACE_NET_COUNTERS(X)
#undef X
#define X(name, prometheus, labels, help)                                                          \
    stats.set(Gauge::name, gauges_[static_cast<std::size_t>(Gauge::name)]);
        MILLRACE_NET_GAUGES(X)
#undef X
    }

private:
    void add(Counter counter, std::uint64_t count) noexcept {
        counters_[static_cast<std::size_t>(counter)] += count;
    }
    void add(Gauge gauge, std::uint64_t count) noexcept {
        gauges_[static_cast<std::size_t>(gauge)] += count;
    }

    std::array<std::uint64_t, static_cast<std::size_t>(Counter::count)> counters_{};
    std::array<std::uint64_t, static_cast<std::size_t>(Gauge::count)> gauges_{};
};

void NetTotals::add(const net::stack::StackStatistics& now,
                    const net::stack::SteeringCounters* steering) {
    const net::tcp::ConnectionCounters& tcp = now.tcp;
    add(Counter::tcp_retransmits_fast, tcp.sender.retransmits_fast);
    add(Counter::tcp_retransmits_timeout, tcp.sender.retransmits_timeout);
    add(Counter::tcp_retransmits_probe, tcp.sender.retransmits_probe);
    add(Counter::tcp_timeouts, tcp.sender.timeouts);
    add(Counter::tcp_undone_recoveries, tcp.sender.recoveries_undone);
    add(Counter::tcp_undone_timeouts, tcp.sender.timeouts_undone);
    add(Counter::tcp_resets_in, tcp.resets_received);
    add(Counter::tcp_resets_out, tcp.resets_sent + now.stack.resets_unknown);
    add(Counter::tcp_rtt_samples, tcp.sender.rtt_samples);
    add(Counter::tcp_rtt_us_sum, tcp.sender.rtt_us_sum);
    add(Counter::tcp_opens_in, now.stack.accepted);
    add(Counter::tcp_opens_out, now.stack.connected);
    add(Counter::tcp_segments_in, tcp.segments_in);
    add(Counter::tcp_segments_out, tcp.segments_out);
    add(Counter::tcp_syn_cookies_sent, now.stack.cookies_sent);
    add(Counter::tcp_syn_cookies_accepted, now.stack.cookies_accepted);
    add(Counter::tcp_ports_exhausted, now.stack.no_port);
    add(Counter::tcp_user_timeouts, tcp.user_timeouts);
    add(Counter::tcp_black_holes, tcp.black_holes);
    add(Counter::tcp_dropped_out_of_window, tcp.out_of_window);
    add(Counter::tcp_dropped_paws, tcp.paws_dropped);
    add(Counter::tcp_dropped_bad_ack, tcp.bad_acks);
    add(Counter::tcp_dropped_out_of_order, tcp.out_of_order_dropped);
    add(Counter::tcp_dropped_no_slabs, tcp.no_receive_slabs);
    add(Counter::tcp_dropped_connections_full, now.stack.syn_dropped + now.stack.refused_at_max);
    add(Counter::tcp_closed_unread, now.stack.closed_unread);
    add(Counter::tcp_orphans_reset, now.stack.orphans_reset);
    add(Counter::tcp_segments_unknown, now.stack.segments_unknown);
    add(Counter::tcp_resets_suppressed, now.stack.resets_suppressed);
    add(Counter::tcp_answers_held, now.stack.answers_held);
    add(Counter::tcp_answers_dropped, now.stack.answers_dropped);
    const net::ip::LayerCounters& ip = now.ip;
    add(Counter::ip_dropped_bad_checksum, ip.bad_checksum);
    add(Counter::ip_dropped_bad_header, ip.bad_header + now.stack.segments_malformed);
    add(Counter::ip_dropped_bad_source, ip.bad_source + now.stack.segments_land);
    add(Counter::ip_dropped_not_ours, ip.not_ours);
    add(Counter::ip_dropped_unknown_protocol, ip.unknown_protocol);
    add(Counter::ip_dropped_no_route, ip.no_route);
    add(Counter::ip_dropped_neighbours_failed, ip.neighbours_failed);
    add(Counter::ip_dropped_neighbours_full, ip.neighbours_full);
    add(Counter::ip_dropped_fragments, ip.fragments_dropped);
    add(Counter::ip_reassembled, ip.reassembled);
    add(Counter::ip_icmp_errors_in, ip.icmp_errors_in);
    add(Counter::ip_icmp_errors_ignored, ip.icmp_errors_ignored);
    add(Counter::ip_path_mtu_lowered, ip.path_mtu_lowered);
    const net::PortCounters& port = now.port;
    add(Counter::port_frames_in, port.frames_in);
    add(Counter::port_frames_out, port.frames_out);
    add(Counter::port_bytes_in, port.bytes_in);
    add(Counter::port_bytes_out, port.bytes_out);
    add(Counter::port_refused_no_buffers, port.no_buffers);
    add(Counter::port_refused_ring_full, port.ring_full);
    add(Counter::port_receive_missed, port.receive_missed);
    add(Counter::port_receive_errors, port.receive_errors);
    add(Counter::port_payload_copied, port.payload_copied);
    add(Counter::port_transmit_errors, port.transmit_errors);
    if (steering != nullptr) {
        add(Counter::steering_forwarded, steering->forwarded);
        add(Counter::steering_sent, steering->sent_for_others);
        add(Counter::steering_sent_later, steering->sent_later);
        add(Counter::steering_dropped_full, steering->dropped_full);
        add(Counter::steering_dropped_long, steering->dropped_long);
    }
    add(Gauge::tcp_connections, now.connections);
    add(Gauge::tcp_half_open, now.half_open);
    add(Gauge::tcp_orphans, now.orphans);
    add(Gauge::tcp_time_wait, now.time_waiting);
    add(Gauge::tcp_receive_slabs_free, now.receive_slabs_free);
    add(Gauge::tcp_receive_slabs_total, now.receive_slabs_total);
    add(Gauge::tcp_send_slabs_free, now.send_slabs_free);
    add(Gauge::tcp_send_slabs_total, now.send_slabs_total);
    add(Gauge::port_queues, 1);
    add(Gauge::port_buffers_free, port.buffers_free);
    add(Gauge::port_buffers_total, port.buffers_total);
    add(Gauge::port_slabs_held, port.slabs_held);
}

} // namespace

ShardNet::Line::Line(ShardNet& net, NetPort& its_port)
    : port(its_port), tap(port.queue(net.loop_.shard())),
      stack(net.loop_, tap, port.layer_options(), net.host_.stack_options(net.loop_.shard())),
      steering(port.steering(net.loop_.shard())) {
    port.attach(net.loop_.shard(), stack);
}

ShardNet::ShardNet(base::Loop& loop, base::Uring& ring, NetHost& host)
    : loop_(loop), ring_(ring), host_(host), thread_(enter_thread()), transport_(loop) {
    for (const std::unique_ptr<NetPort>& port : host.ports()) {
        Line& line = *lines_.emplace_back(std::make_unique<Line>(*this, *port));
        transport_.add(line.stack, port->layer_options());
        ring_.add_inbox(port->inbox(loop_.shard()));
    }
}

ShardNet::~ShardNet() {
    for (const std::unique_ptr<Line>& line : lines_)
        ring_.remove_inbox(line->port.inbox(loop_.shard()));
}

bool ShardNet::register_memory(std::span<std::byte> arena) noexcept {
    bool all = true;
    for (const std::unique_ptr<Line>& line : lines_)
        all &= line->tap.register_memory(arena);
    return all;
}

bool ShardNet::settle() noexcept {
    bool all = true;
    for (const std::unique_ptr<Line>& line : lines_)
        all &= line->tap.settle();
    return all;
}

std::vector<net::stack::Stack*> ShardNet::stacks() const {
    std::vector<net::stack::Stack*> all;
    for (const std::unique_ptr<Line>& line : lines_)
        all.push_back(&line->stack);
    return all;
}

std::uint64_t ShardNet::carried_for_others() const noexcept {
    std::uint64_t carried = 0;
    for (const std::unique_ptr<Line>& line : lines_) {
        if (line->steering == nullptr) continue;
        carried += line->steering->forwarded + line->steering->sent_for_others;
    }
    return carried;
}

/// The sums over all ports.
void ShardNet::publish_stats(telemetry::Stats& stats) const {
    NetTotals totals;
    for (const std::unique_ptr<Line>& line : lines_)
        totals.add(line->stack.statistics(), line->steering);
    totals.publish(stats);
}

std::size_t
ShardNet::net_connections(std::uint32_t limit,
                          const std::function<void(const policy::NetConnection&)>& visit) const {
    std::array<net::stack::ConnectionView, views_at_once> views;
    std::size_t count = 0;
    for (const std::unique_ptr<Line>& line : lines_)
        count += line->stack.connection_count();
    std::size_t left = limit == 0 ? count : limit;
    auto line = lines_.begin();
    std::size_t cursor = 0;
    while (left > 0 && line != lines_.end()) {
        const std::size_t wanted = std::min(left, views.size());
        const std::size_t got = (*line)->stack.list(std::span{views}.first(wanted), cursor);
        for (const net::stack::ConnectionView& view : std::span{views}.first(got)) {
            visit({.local = view.local,
                   .remote = view.remote,
                   .state = name_of(view.state),
                   .outgoing = view.outgoing,
                   .rtt = std::chrono::duration_cast<std::chrono::microseconds>(view.smoothed_rtt),
                   .cwnd_bytes = view.cwnd,
                   .flight_bytes = view.flight_bytes,
                   .unsent_bytes = static_cast<std::uint32_t>(view.unsent_bytes),
                   .unread_bytes = static_cast<std::uint32_t>(view.unread_bytes)});
        }
        left -= got;
        if (got == wanted) continue;
        ++line; // that was its last
        cursor = 0;
    }
    return count;
}

/// Each port has its part of the bytes.
std::expected<void, std::string> ShardNet::capture_start(const policy::CaptureRequest& request) {
    const auto runs = [](const std::unique_ptr<Line>& line) { return line->tap.running(); };
    if (std::ranges::any_of(lines_, runs)) return std::unexpected("a capture runs already");
    const policy::CaptureFilter& wanted = request.filter;
    net::CaptureFilter filter{.connection_a = wanted.local, .connection_b = wanted.remote};
    if (wanted.address)
        filter.address = base::Network{*wanted.address, wanted.address->bit_count()};
    if (wanted.port != 0) filter.port = wanted.port;
    const net::CaptureLimits limits{.bytes = request.bytes / lines_.size(),
                                    .time = request.time_max,
                                    .interface = loop_.shard()};
    for (const std::unique_ptr<Line>& line : lines_)
        line->tap.start(filter, limits, loop_.now(), loop_.wall_now());
    capture_id_ = request.id;
    return {};
}

std::optional<policy::CaptureState> ShardNet::capture_read(const policy::CaptureRequest& request) {
    if (request.id != capture_id_ || capture_id_ == 0) return std::nullopt;
    policy::CaptureState state;
    captured_.clear();
    for (const std::unique_ptr<Line>& line : lines_) {
        state.running |= line->tap.running();
        state.frames += line->tap.packet_count();
        state.dropped += line->tap.left_out();
        if (captured_.size() >= request.bytes) continue;
        const auto blocks = line->tap.next_packets(request.bytes - captured_.size());
        captured_.insert(captured_.end(), blocks.begin(), blocks.end());
    }
    state.blocks = captured_;
    return state;
}

bool ShardNet::capture_stop(std::uint64_t id) {
    if (id != capture_id_ || capture_id_ == 0) return false;
    for (const std::unique_ptr<Line>& line : lines_)
        static_cast<void>(line->tap.stop());
    capture_id_ = 0;
    return true;
}

} // namespace dataplane::daemon
