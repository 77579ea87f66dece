// From connections to frames.
#include "dataplane/net/stack/engine.h"

#include <algorithm>
#include <cstring>

namespace dataplane::net::stack {

using base::NetError;
using base::TimePoint;

void Engine::mark(Tcb& tcb) noexcept {
    if (!tcb.attached) return;
    if (!tcb.in_output) {
        leave_output(tcb); // perhaps parked at a next hop: it is tried again
        join_output(tcb);
    }
    loop_.at_turn_end(*this);
}

void Engine::join_output(Tcb& tcb) noexcept {
    static_cast<OutputLink&>(tcb).link_before(output_);
    tcb.in_output = 1;
}

void Engine::leave_output(Tcb& tcb) noexcept {
    static_cast<OutputLink&>(tcb).unlink();
    tcb.in_output = 0;
}

void Engine::mark_if_wanted(Tcb& tcb) noexcept {
    if (tcb.attached && !tcb.in_output && tcb.connection.wants_output(loop_.now())) mark(tcb);
}

void Engine::turn_end() noexcept {
    put_out();
    port_.flush();
    arm_tick();
}

void Engine::put_out() noexcept {
    unsigned budget = segments_per_turn_max;
    unsigned refusals = refusals_per_turn_max;
    stalled_ = false;
    while (!output_.alone() && budget > 0 && refusals > 0) {
        const base::Ref<Tcb> hold{static_cast<Tcb*>(static_cast<OutputLink*>(output_.next))};
        Tcb& next = *hold;
        leave_output(next);
        const Put result = put_out(next, budget);
        if (!next.attached) continue;
        const std::uint8_t events = next.connection.take_events();
        if ((events & tcp::event::dead) != 0) {
            end(next);
            continue;
        }
        if ((events & tcp::event::time_wait) != 0) { // its last ACK is out
            enter_time_wait(next);
            continue;
        }
        rearm(next);
        if (!next.writable.empty() &&
            ((events & tcp::event::writable) != 0 || next.connection.unsent_bytes() == 0)) {
            next.writable.wake_all();
        }
        if (result == Put::more) join_output(next);
        if (result == Put::stalled) {
            // Behind the others: their ACKs may pass where data does not.
            join_output(next);
            stalled_ = true;
            --refusals;
        }
    }
    if (output_.alone()) return;
    if (stalled_) {
        ++counters.output_stalls;
        stalled_until_ = loop_.now() + stalled_retry;
    } else {
        ++counters.output_budget;
        loop_.at_turn_end(*this);
    }
}

Engine::Put Engine::put_out(Tcb& tcb, unsigned& budget) noexcept {
    const TimePoint now = loop_.now();
    tcp::Outgoing out;
    for (unsigned count = 0; count < segments_per_connection_max; ++count) {
        if (tcb.connection.nothing_to_send()) return Put::done;
        if (budget == 0) return Put::more;
        if (!tcb.established) {
            // Asked for first: a SYN that was taken and did not leave would count as lost, and come again
            // after a second only.
            const ip::Sent known = ip_.resolve(tcb.path, tcb.key.remote, now);
            if (known == ip::Sent::unresolved) {
                ++counters.parked;
                park(tcb);
                return Put::parked;
            }
            if (known == ip::Sent::unreachable) {
                fail(tcb, NetError::unreachable);
                return Put::done;
            }
        }
        // Only we send, so what was counted down is never more than there is.
        if (send_room_ < send_room_asked_below) send_room_ = port_.send_room();
        const std::size_t room = send_room_;
        const auto payload_max = static_cast<std::uint32_t>(
            std::min<std::size_t>(segment_payload_max, room * tcb.connection.mss()));
        if (!tcb.connection.next_segment(out, payload_max, now)) {
            const bool held_back = room == 0 && tcb.connection.wants_output(now);
            return held_back ? Put::stalled : Put::done;
        }
        const unsigned frames =
            out.segment_bytes == 0 ? 1 : 1 + out.payload_bytes / out.segment_bytes;
        budget -= std::min(budget, frames);
        send_room_ -= std::min<std::size_t>(send_room_, frames);
        switch (send(tcb, out)) {
        case ip::Sent::sent:
            continue;
        case ip::Sent::unresolved:
            tcb.connection.not_sent(out, now);
            ++counters.parked;
            park(tcb);
            return Put::parked;
        case ip::Sent::unreachable:
            // As if lost on the way, so that the retransmission timer says when to try again. But one that
            // has not begun yet is told at once: another host may do.
            if (!tcb.established) fail(tcb, NetError::unreachable);
            return Put::done;
        case ip::Sent::no_buffers:
        case ip::Sent::ring_full:
            tcb.connection.not_sent(out, now);
            return Put::stalled;
        }
    }
    return Put::more;
}

ip::Sent Engine::send(Tcb& tcb, const tcp::Outgoing& out) noexcept {
    slice_count_ = 0;
    if (out.payload_bytes > 0 && !collect(tcb, out) && !collect_copy(tcb, out)) {
        return ip::Sent::no_buffers;
    }
    const tcp::Header header{.source_port = tcb.key.local_port,
                             .destination_port = tcb.key.remote_port,
                             .seq = out.seq,
                             .ack = out.ack,
                             .window = out.window,
                             .flags = out.flags,
                             .options = out.options};
    std::array<std::byte, tcp::header_bytes_max> bytes;
    const std::size_t length = tcp::encode(bytes, header);
    const bool control = out.payload_bytes == 0;
    const ip::Sent sent =
        ip_.send(tcb.path, tcb.key.local, tcb.key.remote, out.ecn, {bytes.data(), length},
                 {slices_.data(), slice_count_}, out.segment_bytes, control, loop_.now());
    for (base::SlabView& view : views_) {
        if (!view.slab) break;
        view.slab.reset(); // the port has its own reference
    }
    return sent;
}

bool Engine::collect(const Tcb& tcb, const tcp::Outgoing& out) noexcept {
    const std::size_t count =
        tcb.connection.payload(out, std::span{views_}.first(frame_slices_max));
    std::uint32_t bytes = 0;
    for (std::size_t i = 0; i < count; ++i) {
        slices_[i] = {views_[i].slab.get(), views_[i].offset, views_[i].length};
        bytes += views_[i].length;
    }
    slice_count_ = count;
    return bytes == out.payload_bytes;
}

bool Engine::collect_copy(const Tcb& tcb, const tcp::Outgoing& out) noexcept {
    // Many small pieces: they go into slabs of ours, which the port holds until they have left.
    ++counters.payload_copied;
    std::array<base::SlabView, frame_slices_max> copies;
    std::size_t copy_count = 0;
    tcp::Outgoing rest = out;
    while (rest.payload_bytes > 0) {
        const std::size_t count = tcb.connection.payload(rest, views_);
        if (count == 0) return false;
        for (std::size_t i = 0; i < count; ++i) {
            std::span<const std::byte> piece = views_[i].bytes();
            rest.seq += static_cast<std::uint32_t>(piece.size());
            rest.payload_bytes -= static_cast<std::uint32_t>(piece.size());
            while (!piece.empty()) {
                base::SlabView* last = copy_count == 0 ? nullptr : &copies[copy_count - 1];
                if (last == nullptr || last->length == last->slab.capacity()) {
                    if (copy_count == copies.size()) return false;
                    last = &copies[copy_count];
                    *last = {send_slabs_->take(), 0, 0};
                    if (!last->slab) return false;
                    ++copy_count;
                }
                const std::size_t step =
                    std::min<std::size_t>(piece.size(), last->slab.capacity() - last->length);
                std::memcpy(last->slab.data() + last->length, piece.data(), step);
                last->length += static_cast<std::uint32_t>(step);
                piece = piece.subspan(step);
            }
        }
    }
    for (base::SlabView& view : views_)
        view = {};
    for (std::size_t i = 0; i < copy_count; ++i) {
        slices_[i] = {copies[i].slab.get(), 0, copies[i].length};
        views_[i] = std::move(copies[i]); // until the port has its references
    }
    slice_count_ = copy_count;
    return true;
}

void Engine::park(Tcb& tcb) {
    const auto next_hop = ip_.next_hop(tcb.key.remote);
    if (!next_hop) return;
    Parking& parking = parkings_.try_emplace(*next_hop).first->second;
    leave_output(tcb);
    static_cast<OutputLink&>(tcb).link_before(parking.connections);
}

void Engine::on_neighbour(const base::IpAddress& next_hop, bool resolved) {
    // Taken out first: whoever is told may ask for the next hop again.
    auto parked = parkings_.extract(next_hop);
    if (parked.empty()) return;
    base::detail::Link& connections = parked.mapped().connections;
    if (const std::unique_ptr<Answer> held = std::move(parked.mapped().answer)) {
        --held_answers_;
        if (!resolved || send_answer(*held) != ip::Sent::sent) ++counters.answers_dropped;
    }
    while (!connections.alone()) {
        const base::Ref<Tcb> hold{static_cast<Tcb*>(static_cast<OutputLink*>(connections.next))};
        static_cast<OutputLink&>(*hold).unlink();
        if (resolved) {
            mark(*hold);
        } else if (!hold->established) {
            fail(*hold, NetError::unreachable);
        } // otherwise the retransmission timer tries again, and asks again
    }
}

} // namespace dataplane::net::stack
