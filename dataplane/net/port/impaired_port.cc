#include "dataplane/net/port/impaired_port.h"

#include "dataplane/base/check.h"
#include "dataplane/net/port/checksum.h"
#include "dataplane/net/port/frame_cut.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace dataplane::net {
namespace {

constexpr std::uint32_t cache_line = 64;
constexpr std::uint32_t frame_overhead = 18;  // Ethernet and a tag
constexpr std::size_t receive_bursts_max = 8; // per poll(): a flood must not keep the shard here

std::uint32_t buffer_bytes(const PortInfo& info) noexcept {
    return (info.mtu + frame_overhead + cache_line - 1) / cache_line * cache_line;
}

} // namespace

ImpairedPort::ImpairedPort(Port& below, ImpairedPortOptions options)
    : below_(below), options_(std::move(options)), info_(below.info()),
      frames_(buffer_bytes(info_), options_.frame_buffers),
      receive_line_(options_.receive, options_.seed * 2, frames_),
      transmit_line_(options_.transmit, options_.seed * 2 + 1, frames_) {
    CHECK(options_.frame_buffers > options_.control_reserve);
    info_.tso = false;
    info_.transmit_checksum = false;
    lent_.resize(options_.frame_buffers);
    for (std::uint32_t i = options_.frame_buffers; i > 0; --i)
        lent_free_.push_back(i - 1);
    counters_.buffers_total = options_.frame_buffers;
}

ImpairedPort::~ImpairedPort() {
    below_.flush(); // it may still hold frames of ours: frames_ checks that none are left
}

void ImpairedPort::take_in() {
    std::array<ReceivedFrame, receive_burst_max> burst;
    for (std::size_t i = 0; i < receive_bursts_max; ++i) {
        const std::size_t count = below_.receive(burst);
        for (const ReceivedFrame& from : std::span{burst}.first(count)) {
            if (from.bytes.size() > frames_.slab_bytes()) {
                ++counters_.receive_errors;
                continue;
            }
            LineFrame frame{.slab = buffers_left(false) > 0 ? frames_.take() : base::SlabRef{},
                            .bytes = static_cast<std::uint32_t>(from.bytes.size()),
                            .rss_hash = from.rss_hash,
                            .has_rss_hash = from.has_rss_hash,
                            .ip_checksum = from.ip_checksum,
                            .l4_checksum = from.l4_checksum};
            if (!frame.slab) {
                ++counters_.receive_missed;
                continue;
            }
            std::memcpy(frame.slab.data(), from.bytes.data(), from.bytes.size());
            receive_line_.push(std::move(frame), now_);
        }
        below_.release(std::span{burst}.first(count));
        if (count < burst.size()) return;
    }
}

void ImpairedPort::send_due() {
    bool sent = false;
    for (;;) {
        LineFrame frame = refused_.slab ? std::exchange(refused_, {}) : transmit_line_.pop(now_);
        if (!frame.slab) break;
        const std::size_t header = std::min<std::size_t>(frame.bytes, frame_header_bytes_max);
        const FrameSlice rest{frame.slab.get(), static_cast<std::uint32_t>(header),
                              static_cast<std::uint32_t>(frame.bytes - header)};
        const TransmitFrame out{.header = frame.span().first(header),
                                .payload = {&rest, rest.bytes > 0 ? 1U : 0U},
                                .control = frame.control};
        if (below_.send(out) != SendResult::queued) {
            refused_ = std::move(frame);
            break;
        }
        ++counters_.frames_out;
        counters_.bytes_out += frame.bytes;
        sent = true;
    }
    if (sent || refused_.slab) below_.flush();
}

void ImpairedPort::poll(base::TimePoint now) {
    now_ = std::max(now_, now);
    take_in();
    send_due();
}

base::TimePoint ImpairedPort::next_event() const noexcept {
    if (refused_.slab) return now_;
    return std::min(receive_line_.next_event(), transmit_line_.next_event());
}

std::size_t ImpairedPort::receive(std::span<ReceivedFrame> frames) noexcept {
    std::size_t count = 0;
    while (count < std::min(frames.size(), receive_burst_max) && !lent_free_.empty()) {
        LineFrame frame = receive_line_.pop(now_);
        if (!frame.slab) break;
        const std::uint32_t slot = lent_free_.back();
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
    }
    return count;
}

void ImpairedPort::release(std::span<const ReceivedFrame> frames) noexcept {
    for (const ReceivedFrame& frame : frames) {
        const std::size_t slot = reinterpret_cast<std::uintptr_t>(frame.handle) - 1;
        CHECK(slot < lent_.size());
        CHECK(lent_[slot]); // else it was released before
        lent_[slot].reset();
        lent_free_.push_back(static_cast<std::uint32_t>(slot));
    }
}

std::size_t ImpairedPort::buffers_left(bool control) const noexcept {
    const std::size_t reserve = control ? 0 : options_.control_reserve;
    return frames_.free_count() > reserve ? frames_.free_count() - reserve : 0;
}

SendResult ImpairedPort::send(const TransmitFrame& frame) noexcept {
    const std::size_t count = wire_frame_count(frame);
    if (buffers_left(frame.control) < count) {
        ++counters_.no_buffers;
        return SendResult::no_buffers;
    }
    FrameCutter cutter{frame};
    WireFrame wire;
    while (cutter.next(wire)) {
        CHECK(wire.size_bytes() <= frames_.slab_bytes()); // else a layer above miscounted
        fill_checksums(wire.head(), frame, wire.payload());
        LineFrame line{.slab = frames_.take(),
                       .bytes = static_cast<std::uint32_t>(wire.size_bytes()),
                       .control = frame.control};
        wire.copy_to({line.slab.data(), line.slab.capacity()});
        transmit_line_.push(std::move(line), now_);
    }
    return SendResult::queued;
}

std::size_t ImpairedPort::send_room() const noexcept {
    return buffers_left(false);
}

void ImpairedPort::flush() noexcept {
    send_due();
}

const PortCounters& ImpairedPort::counters() const noexcept {
    const PortCounters& below = below_.counters();
    counters_.ring_full = below.ring_full;
    counters_.slabs_held = below.slabs_held;
    counters_.buffers_free = frames_.free_count();
    return counters_;
}

} // namespace dataplane::net
