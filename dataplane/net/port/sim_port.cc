#include "dataplane/net/port/sim_port.h"

#include "dataplane/base/check.h"
#include "dataplane/net/port/checksum.h"
#include "dataplane/net/port/sim_link.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace dataplane::net {
namespace {

constexpr int scribble_byte = 0xdd;
constexpr std::size_t frame_overhead = 18; // Ethernet and a tag

std::uint64_t hash_of(std::span<const FrameSlice> slices) noexcept { // FNV-1a, of words
    std::uint64_t hash = 0xcbf2'9ce4'8422'2325;
    for (const FrameSlice& slice : slices) {
        const std::byte* bytes = slice.slab->data + slice.offset;
        for (std::uint32_t at = 0; at < slice.bytes; at += sizeof hash) {
            std::uint64_t word = 0;
            std::memcpy(&word, bytes + at, std::min<std::size_t>(sizeof word, slice.bytes - at));
            hash = (hash ^ word ^ (hash >> 29)) * 0x100'0000'01b3;
        }
    }
    return hash;
}

} // namespace

SimPort::SimPort(SimLink& link, unsigned side, std::uint16_t queue, const SimPortOptions& options)
    : link_(link), side_(side), options_(options) {
    info_ = {.name = options.name,
             .driver = "sim",
             .mac = options.mac,
             .mtu = options.mtu,
             .tso = options.tso,
             .rss = options.queue_count > 1,
             .transmit_checksum = options.transmit_checksum,
             .receive_checksum = options.receive_checksum,
             .multi_segment = true,
             .queue = queue,
             .queue_count = options.queue_count};
    counters_.buffers_total = options.transmit_buffers;
    lent_.resize(options.receive_buffers);
    for (std::uint32_t i = options.receive_buffers; i > 0; --i)
        lent_free_.push_back(i - 1);
}

SimPort::~SimPort() = default;

std::optional<RssLayout> SimPort::rss_layout() const noexcept {
    if (!info_.rss) return std::nullopt;
    return RssLayout{.key = options_.rss_key, .table = options_.rss_table};
}

void SimPort::accept(LineFrame frame) noexcept {
    const std::size_t lent = lent_.size() - lent_free_.size();
    if (received_.size() >= options_.receive_ring ||
        received_.size() + lent >= options_.receive_buffers) {
        ++counters_.receive_missed;
        return;
    }
    received_.push_back() = std::move(frame);
}

std::size_t SimPort::receive(std::span<ReceivedFrame> frames) noexcept {
    std::size_t count = 0;
    while (count < std::min(frames.size(), receive_burst_max) && !received_.empty()) {
        LineFrame& frame = received_.front();
        const std::uint32_t slot = lent_free_.back(); // accept() saw to there being one
        lent_free_.pop_back();
        frames[count++] = {.bytes = frame.span(),
                           .rss_hash = frame.rss_hash,
                           .has_rss_hash = frame.has_rss_hash,
                           .ip_checksum = frame.ip_checksum,
                           .l4_checksum = frame.l4_checksum,
                           .handle = reinterpret_cast<void*>(std::uintptr_t{slot} + 1)};
        ++counters_.frames_in;
        counters_.bytes_in += frame.bytes;
        lent_[slot] = std::move(frame.slab);
        received_.pop_front();
    }
    return count;
}

void SimPort::release(std::span<const ReceivedFrame> frames) noexcept {
    for (const ReceivedFrame& frame : frames) {
        const std::size_t slot = reinterpret_cast<std::uintptr_t>(frame.handle) - 1;
        CHECK(slot < lent_.size());
        CHECK(lent_[slot]); // else it was released before
        if (options_.scribble) {
            std::memset(lent_[slot].data(), scribble_byte, lent_[slot].capacity());
        }
        lent_[slot].reset();
        lent_free_.push_back(static_cast<std::uint32_t>(slot));
    }
}

std::size_t SimPort::buffers_left(bool control) const noexcept {
    if (control ? faults_.no_control_buffers : faults_.no_buffers) return 0;
    const std::size_t limit = options_.transmit_buffers - (control ? 0 : options_.control_reserve);
    return limit > buffers_used_ ? limit - buffers_used_ : 0;
}

std::size_t SimPort::ring_left(bool control) const noexcept {
    if (faults_.ring_full) return 0;
    const std::size_t limit = options_.transmit_ring + (control ? transmit_wait_control : 0);
    return limit > staged_frames_ ? limit - staged_frames_ : 0;
}

bool SimPort::make_frames(const TransmitFrame& frame, Outgoing& out) noexcept {
    FrameCutter cutter{frame};
    WireFrame wire;
    while (cutter.next(wire)) {
        CHECK(wire.size_bytes() <= info_.mtu + frame_overhead); // else a layer above miscounted
        fill_checksums(wire.head(), frame, wire.payload());
        LineFrame line{.slab = link_.take_buffer(), .control = frame.control};
        if (!line.slab) return false;
        wire.copy_to({line.slab.data(), line.slab.capacity()});
        line.bytes = static_cast<std::uint32_t>(wire.size_bytes());
        if (line.bytes < options_.frame_bytes_min) {
            std::memset(line.slab.data() + line.bytes, 0, options_.frame_bytes_min - line.bytes);
            line.bytes = static_cast<std::uint32_t>(options_.frame_bytes_min);
        }
        out.frames.push_back(std::move(line));
    }
    return true;
}

SendResult SimPort::send(const TransmitFrame& frame) noexcept {
    const std::size_t count = wire_frame_count(frame);
    if (buffers_left(frame.control) < count) {
        ++counters_.no_buffers;
        return SendResult::no_buffers;
    }
    if (ring_left(frame.control) < count) flush(); // as a driver does when the burst is full
    if (ring_left(frame.control) < count) {
        ++counters_.ring_full;
        return SendResult::ring_full;
    }
    Outgoing& out = outgoing_.push_back();
    if (!make_frames(frame, out)) {
        out.frames.clear();
        outgoing_.pop_back();
        ++counters_.no_buffers;
        return SendResult::no_buffers;
    }
    out.buffer_count = count;
    for (const FrameSlice& slice : frame.payload) {
        out.slabs.emplace_back(slice.slab);
        out.slices.push_back(slice);
    }
    out.payload_hash = hash_of(out.slices);
    counters_.slabs_held += out.slabs.size();
    buffers_used_ += count;
    staged_frames_ += count;
    return SendResult::queued;
}

std::size_t SimPort::send_room() const noexcept {
    return std::min(buffers_left(false), ring_left(false));
}

void SimPort::flush() noexcept {
    if (faults_.stuck) return;
    for (; in_flight_count_ < outgoing_.size(); ++in_flight_count_) {
        Outgoing& out = outgoing_[in_flight_count_];
        staged_frames_ -= out.frames.size();
        for (LineFrame& frame : out.frames) {
            ++counters_.frames_out;
            counters_.bytes_out += frame.bytes;
            link_.carry(side_, std::move(frame));
        }
        out.frames.clear();
        out.done_at = link_.now() + options_.completion_delay;
    }
    complete(link_.now());
}

void SimPort::complete(base::TimePoint now) noexcept {
    while (in_flight_count_ > 0 && outgoing_.front().done_at <= now) {
        Outgoing& done = outgoing_.front();
        if (hash_of(done.slices) != done.payload_hash) ++rewritten_in_flight_;
        for (base::SlabRef& slab : done.slabs) {
            // Whoever still reads it without a reference reads this.
            if (options_.scribble && slab.references() == 1)
                std::memset(slab.data(), scribble_byte, slab.capacity());
            slab.reset();
        }
        counters_.slabs_held -= done.slabs.size();
        buffers_used_ -= done.buffer_count;
        done.slabs.clear();
        done.slices.clear();
        outgoing_.pop_front();
        --in_flight_count_;
    }
}

base::TimePoint SimPort::next_completion() const noexcept {
    return in_flight_count_ == 0 ? base::TimePoint::max() : outgoing_.front().done_at;
}

const PortCounters& SimPort::counters() const noexcept {
    counters_.buffers_free = options_.transmit_buffers - buffers_used_;
    return counters_;
}

} // namespace dataplane::net
