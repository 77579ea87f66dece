#include "dataplane/net/stack/frame_lane.h"

#include "dataplane/net/port/frame_view.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <optional>
#include <utility>

namespace dataplane::net::stack {
namespace {

constexpr std::size_t ethernet_bytes = 14;
constexpr std::uint8_t protocol_icmp = 1, protocol_tcp = 6, protocol_icmp6 = 58;
constexpr std::uint8_t icmp6_neighbour_advertisement = 136;
constexpr std::size_t icmp_error_header_bytes = 8;

unsigned byte_at(std::span<const std::byte> bytes, std::size_t at) noexcept {
    return at < bytes.size() ? std::to_integer<unsigned>(bytes[at]) : 0;
}

bool is_icmp_error(const FrameView& view, unsigned type) noexcept {
    if (view.protocol == protocol_icmp) return type == 3 || type == 11 || type == 12;
    return view.protocol == protocol_icmp6 && type >= 1 && type <= 4;
}

/// The flow of ours that an ICMP error quotes.
std::optional<FlowKey> quoted_flow(std::span<const std::byte> frame,
                                   const FrameView& outer) noexcept {
    const std::size_t at = outer.l4_at + icmp_error_header_bytes;
    if (at >= frame.size()) return std::nullopt;
    // The quoted packet has lost its Ethernet header: one is made for the view.
    std::array<std::byte, 128> inner{};
    const std::size_t bytes = std::min(frame.size() - at, inner.size() - ethernet_bytes);
    inner[12] = std::byte{static_cast<std::uint8_t>(outer.v6 ? 0x86 : 0x08)};
    inner[13] = std::byte{static_cast<std::uint8_t>(outer.v6 ? 0xdd : 0x00)};
    std::memcpy(inner.data() + ethernet_bytes, frame.data() + at, bytes);
    const auto view = view_headers({inner.data(), ethernet_bytes + bytes});
    if (!view || view->protocol != protocol_tcp) return std::nullopt;
    return FlowKey{view->source, view->destination, view->source_port, view->destination_port};
}

} // namespace

FrameKind kind_of(std::span<const std::byte> frame) noexcept {
    using enum FrameKind::Is;
    const auto view = view_frame(frame);
    if (!view) {
        const std::size_t tag = byte_at(frame, 12) == 0x81 && byte_at(frame, 13) == 0 ? 4 : 0;
        const bool arp = byte_at(frame, 12 + tag) == 0x08 && byte_at(frame, 13 + tag) == 0x06;
        const bool reply = byte_at(frame, ethernet_bytes + tag + 7) == 2;
        return {.is = arp && reply ? neighbour_answer : other, .flow = {}};
    }
    if (view->fragment)
        return {.is = view->protocol == protocol_tcp ? fragment : other, .flow = {}};
    if (view->protocol == protocol_tcp) {
        return {
            .is = segment,
            .flow = {view->destination, view->source, view->destination_port, view->source_port}};
    }
    const unsigned type = byte_at(frame, view->l4_at);
    if (view->protocol == protocol_icmp6 && type == icmp6_neighbour_advertisement)
        return {.is = neighbour_answer, .flow = {}};
    if (is_icmp_error(*view, type)) {
        if (const auto flow = quoted_flow(frame, *view)) return {.is = error, .flow = *flow};
    }
    return {};
}

bool is_plain_segment(std::span<const std::byte> frame, bool& v6) noexcept {
    if (frame.size() < ethernet_bytes + 40) return false;
    const unsigned type = byte_at(frame, 12) << 8 | byte_at(frame, 13);
    v6 = type == 0x86dd;
    if (v6) return byte_at(frame, 20) == protocol_tcp;
    const unsigned fragment = byte_at(frame, 20) << 8 | byte_at(frame, 21);
    return type == 0x0800 && byte_at(frame, 23) == protocol_tcp && (fragment & 0x3fff) == 0;
}

void FrameLane::put(const ReceivedFrame& frame, SteeringCounters& counters) noexcept {
    if (frame.bytes.size() > steered_frame_bytes_max) {
        ++counters.dropped_long;
        return;
    }
    Slot* const slot = ring_.claim();
    if (slot == nullptr) {
        ++counters.dropped_full;
        return;
    }
    slot->bytes = static_cast<std::uint32_t>(frame.bytes.size());
    slot->ip_checksum = frame.ip_checksum;
    slot->l4_checksum = frame.l4_checksum;
    std::memcpy(slot->frame.data(), frame.bytes.data(), frame.bytes.size());
    ring_.publish();
    ++counters.forwarded;
}

LaneReader::LaneReader(std::vector<FrameLane*> lanes) : lanes_(std::move(lanes)) {
    buffers_.resize(receive_burst_max);
    for (std::size_t i = buffers_.size(); i > 0; --i)
        free_.push_back(i - 1);
}

std::size_t LaneReader::receive(std::span<ReceivedFrame> frames) noexcept {
    std::size_t count = 0;
    for (FrameLane* const lane : lanes_) {
        while (count < frames.size() && !free_.empty()) {
            const FrameLane::Slot* const slot = lane->ring_.front();
            if (slot == nullptr) break;
            const std::size_t index = free_.back();
            free_.pop_back();
            std::memcpy(buffers_[index].data(), slot->frame.data(), slot->bytes);
            frames[count++] = {.bytes = {buffers_[index].data(), slot->bytes},
                               .ip_checksum = slot->ip_checksum,
                               .l4_checksum = slot->l4_checksum,
                               .handle = &buffers_[index]};
            lane->ring_.release();
        }
    }
    return count;
}

bool LaneReader::release(const ReceivedFrame& frame) noexcept {
    const auto* const buffer = static_cast<const Buffer*>(frame.handle);
    if (std::less<>{}(buffer, buffers_.data()) ||
        !std::less<>{}(buffer, buffers_.data() + buffers_.size())) {
        return false;
    }
    free_.push_back(static_cast<std::size_t>(buffer - buffers_.data()));
    return true;
}

} // namespace dataplane::net::stack
