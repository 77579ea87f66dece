#include "dataplane/net/port/capture_port.h"

#include "dataplane/net/port/checksum.h"
#include "dataplane/net/port/frame_cut.h"
#include "dataplane/net/port/frame_view.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace dataplane::net {
namespace {

constexpr std::size_t capture_bytes_min = 1024; // room for the descriptions
constexpr std::size_t frame_bytes_max = frame_header_bytes_max + 65'536;

} // namespace

bool CaptureFilter::matches(std::span<const std::byte> frame) const noexcept {
    if (!address && !port && !connection_a && !connection_b) return true;
    const auto view = view_headers(frame);
    if (!view) return false;
    if (address && !address->contains(view->source) && !address->contains(view->destination))
        return false;
    if (port && view->source_port != *port && view->destination_port != *port) return false;
    const base::SocketAddress from{view->source, view->source_port};
    const base::SocketAddress to{view->destination, view->destination_port};
    if (connection_a && connection_b) {
        return (from == *connection_a && to == *connection_b) ||
               (from == *connection_b && to == *connection_a);
    }
    const auto& one = connection_a ? connection_a : connection_b;
    return !one || from == *one || to == *one;
}

CapturePort::CapturePort(Port& below) : below_(below) {}

void CapturePort::start(CaptureFilter filter, CaptureLimits limits, base::TimePoint now,
                        base::WallTime wall_now) {
    filter_ = std::move(filter);
    limits_ = limits;
    limits_.bytes = std::clamp(limits.bytes, capture_bytes_min, capture_bytes_max);
    limits_.time = std::min(limits.time, capture_time_max);
    started_at_ = now_ = now;
    wall_ns_at_start_ = std::chrono::nanoseconds{wall_now.time_since_epoch()}.count();
    frame_.resize(frame_bytes_max);
    writer_.emplace(limits_.bytes, limits_.interface);
    writer_->add_interface(below_.info().name, below_.info().mac, limits_.snap_bytes);
    running_ = true;
}

void CapturePort::advance(base::TimePoint now) noexcept {
    if (!running_) return;
    now_ = std::max(now_, now);
    if (now_ - started_at_ >= limits_.time) running_ = false;
}

std::vector<std::byte> CapturePort::stop() {
    running_ = false;
    if (!writer_) return {};
    std::vector<std::byte> bytes = writer_->take();
    writer_.reset();
    frame_ = {};
    return bytes;
}

void CapturePort::write(std::span<const std::byte> frame, Direction direction) noexcept {
    const auto kept = limits_.snap_bytes == 0 || frame.size() <= limits_.snap_bytes
                          ? frame
                          : frame.first(limits_.snap_bytes);
    const std::int64_t time_ns = wall_ns_at_start_ + (now_ - started_at_).count();
    const auto original = static_cast<std::uint32_t>(frame.size());
    if (!writer_->add_packet(limits_.interface, time_ns, kept, direction, original))
        running_ = false;
}

void CapturePort::write_sent(const TransmitFrame& frame) noexcept {
    if (!filter_.matches(frame.header)) return;
    FrameCutter cutter{frame};
    WireFrame wire;
    while (running_ && cutter.next(wire)) {
        if (wire.size_bytes() > frame_.size()) return;
        fill_checksums(wire.head(), frame, wire.payload());
        wire.copy_to(frame_);
        write(std::span{frame_}.first(wire.size_bytes()), Direction::out);
    }
}

std::size_t CapturePort::receive(std::span<ReceivedFrame> frames) noexcept {
    const std::size_t count = below_.receive(frames);
    if (running_) [[unlikely]] {
        for (std::size_t i = 0; i < count && running_; ++i) {
            if (filter_.matches(frames[i].bytes)) write(frames[i].bytes, Direction::in);
        }
    }
    return count;
}

SendResult CapturePort::send(const TransmitFrame& frame) noexcept {
    const SendResult result = below_.send(frame);
    if (running_ && result == SendResult::queued) [[unlikely]]
        write_sent(frame);
    return result;
}

} // namespace dataplane::net
