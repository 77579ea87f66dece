#include "dataplane/daemon/shard_net.h"

#include "control/schema/capture_limits.h"

#include <algorithm>
#include <array>
#include <stdexcept>

namespace dataplane::daemon {
namespace {

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

} // namespace

ShardNet::ShardNet(base::Loop& loop, base::Uring& ring, NetHost& host)
    : loop_(loop), ring_(ring), host_(host), steering_(host.steering(loop.shard())),
      thread_(enter_thread()), tap_(host.port(loop.shard())),
      stack_(loop, tap_, host.layer_options(), host.stack_options(loop.shard())) {
    host_.attach(loop_.shard(), stack_);
    ring_.add_inbox(host_.inbox(loop_.shard()));
}

ShardNet::~ShardNet() {
    ring_.remove_inbox(host_.inbox(loop_.shard()));
}

void ShardNet::publish_stats(telemetry::Stats& stats) const {
    using telemetry::Counter;
    using telemetry::Gauge;
    const net::stack::StackStatistics now = stack_.statistics();
    const net::tcp::ConnectionCounters& tcp = now.tcp;
    stats.set(Counter::tcp_retransmits_fast, tcp.sender.retransmits_fast);
    stats.set(Counter::tcp_retransmits_timeout, tcp.sender.retransmits_timeout);
    stats.set(Counter::tcp_retransmits_probe, tcp.sender.retransmits_probe);
    stats.set(Counter::tcp_timeouts, tcp.sender.timeouts);
    stats.set(Counter::tcp_undone_recoveries, tcp.sender.recoveries_undone);
    stats.set(Counter::tcp_undone_timeouts, tcp.sender.timeouts_undone);
    stats.set(Counter::tcp_resets_in, tcp.resets_received);
    stats.set(Counter::tcp_resets_out, tcp.resets_sent + now.stack.resets_unknown);
    stats.set(Counter::tcp_rtt_samples, tcp.sender.rtt_samples);
    stats.set(Counter::tcp_rtt_us_sum, tcp.sender.rtt_us_sum);
    stats.set(Counter::tcp_opens_in, now.stack.accepted);
    stats.set(Counter::tcp_opens_out, now.stack.connected);
    stats.set(Counter::tcp_segments_in, tcp.segments_in);
    stats.set(Counter::tcp_segments_out, tcp.segments_out);
    stats.set(Counter::tcp_syn_cookies_sent, now.stack.cookies_sent);
    stats.set(Counter::tcp_syn_cookies_accepted, now.stack.cookies_accepted);
    stats.set(Counter::tcp_ports_exhausted, now.stack.no_port);
    stats.set(Counter::tcp_user_timeouts, tcp.user_timeouts);
    stats.set(Counter::tcp_black_holes, tcp.black_holes);
    stats.set(Counter::tcp_dropped_out_of_window, tcp.out_of_window);
    stats.set(Counter::tcp_dropped_paws, tcp.paws_dropped);
    stats.set(Counter::tcp_dropped_bad_ack, tcp.bad_acks);
    stats.set(Counter::tcp_dropped_out_of_order, tcp.out_of_order_dropped);
    stats.set(Counter::tcp_dropped_no_slabs, tcp.no_receive_slabs);
    stats.set(Counter::tcp_dropped_connections_full,
              now.stack.syn_dropped + now.stack.refused_at_max);
    const net::ip::LayerCounters& ip = now.ip;
    stats.set(Counter::ip_dropped_bad_checksum, ip.bad_checksum);
    stats.set(Counter::ip_dropped_bad_header, ip.bad_header + now.stack.segments_malformed);
    stats.set(Counter::ip_dropped_bad_source, ip.bad_source + now.stack.segments_land);
    stats.set(Counter::ip_dropped_not_ours, ip.not_ours);
    stats.set(Counter::ip_dropped_unknown_protocol, ip.unknown_protocol);
    stats.set(Counter::ip_dropped_no_route, ip.no_route);
    stats.set(Counter::ip_dropped_neighbours_failed, ip.neighbours_failed);
    stats.set(Counter::ip_dropped_neighbours_full, ip.neighbours_full);
    stats.set(Counter::ip_dropped_fragments, ip.fragments_dropped);
    stats.set(Counter::ip_reassembled, ip.reassembled);
    stats.set(Counter::ip_icmp_errors_in, ip.icmp_errors_in);
    stats.set(Counter::ip_icmp_errors_ignored, ip.icmp_errors_ignored);
    stats.set(Counter::ip_path_mtu_lowered, ip.path_mtu_lowered);
    const net::PortCounters& port = now.port;
    stats.set(Counter::port_frames_in, port.frames_in);
    stats.set(Counter::port_frames_out, port.frames_out);
    stats.set(Counter::port_bytes_in, port.bytes_in);
    stats.set(Counter::port_bytes_out, port.bytes_out);
    stats.set(Counter::port_refused_no_buffers, port.no_buffers);
    stats.set(Counter::port_refused_ring_full, port.ring_full);
    stats.set(Counter::port_receive_missed, port.receive_missed);
    stats.set(Counter::port_receive_errors, port.receive_errors);
    stats.set(Counter::port_payload_copied, port.payload_copied);
    stats.set(Counter::port_transmit_errors, port.transmit_errors);
    if (steering_ != nullptr) {
        stats.set(Counter::steering_forwarded, steering_->forwarded);
        stats.set(Counter::steering_sent, steering_->sent_for_others);
        stats.set(Counter::steering_sent_later, steering_->sent_later);
        stats.set(Counter::steering_dropped_full, steering_->dropped_full);
        stats.set(Counter::steering_dropped_long, steering_->dropped_long);
    }
    stats.set(Gauge::tcp_connections, now.connections);
    stats.set(Gauge::tcp_half_open, now.half_open);
    stats.set(Gauge::tcp_time_wait, now.time_waiting);
    stats.set(Gauge::tcp_receive_slabs_free, now.receive_slabs_free);
    stats.set(Gauge::tcp_receive_slabs_total, now.receive_slabs_total);
    stats.set(Gauge::tcp_send_slabs_free, now.send_slabs_free);
    stats.set(Gauge::tcp_send_slabs_total, now.send_slabs_total);
    stats.set(Gauge::port_queues, 1);
    stats.set(Gauge::port_buffers_free, port.buffers_free);
    stats.set(Gauge::port_buffers_total, port.buffers_total);
    stats.set(Gauge::port_slabs_held, port.slabs_held);
}

std::size_t
ShardNet::net_connections(std::uint32_t limit,
                          const std::function<void(const policy::NetConnection&)>& visit) const {
    std::array<net::stack::ConnectionView, views_at_once> views;
    std::size_t cursor = 0;
    std::size_t left = limit == 0 ? stack_.connection_count() : limit;
    while (left > 0) {
        const std::size_t wanted = std::min(left, views.size());
        const std::size_t got = stack_.list(std::span{views}.first(wanted), cursor);
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
        if (got < wanted) break;
    }
    return stack_.connection_count();
}

std::expected<void, std::string> ShardNet::capture_start(const policy::CaptureRequest& request) {
    if (tap_.running()) return std::unexpected("a capture runs already");
    const policy::CaptureFilter& wanted = request.filter;
    net::CaptureFilter filter{.connection_a = wanted.local, .connection_b = wanted.remote};
    if (wanted.address)
        filter.address = base::Network{*wanted.address, wanted.address->bit_count()};
    if (wanted.port != 0) filter.port = wanted.port;
    tap_.start(filter,
               {.bytes = request.bytes, .time = request.time_max, .interface = loop_.shard()},
               loop_.now(), loop_.wall_now());
    capture_id_ = request.id;
    return {};
}

std::optional<policy::CaptureState> ShardNet::capture_read(const policy::CaptureRequest& request) {
    if (request.id != capture_id_ || capture_id_ == 0) return std::nullopt;
    return policy::CaptureState{.running = tap_.running(),
                                .frames = tap_.packet_count(),
                                .dropped = tap_.left_out(),
                                .blocks = tap_.next_packets(request.bytes)};
}

bool ShardNet::capture_stop(std::uint64_t id) {
    if (id != capture_id_ || capture_id_ == 0) return false;
    static_cast<void>(tap_.stop());
    capture_id_ = 0;
    return true;
}

} // namespace dataplane::daemon
