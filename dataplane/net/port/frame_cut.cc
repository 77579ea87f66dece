#include "dataplane/net/port/frame_cut.h"

#include "dataplane/base/check.h"
#include "dataplane/net/port/wire_bytes.h"

#include <algorithm>
#include <cstring>

namespace dataplane::net {
namespace {

constexpr std::size_t tcp_seq_at = 4;
constexpr std::size_t tcp_flags_at = 13;
constexpr std::byte tcp_fin{0x01};
constexpr std::byte tcp_psh{0x08};
constexpr std::byte tcp_cwr{0x80};

} // namespace

void WireFrame::copy_to(std::span<std::byte> out) const noexcept {
    CHECK(out.size() >= size_bytes());
    std::memcpy(out.data(), header.data(), header_bytes);
    std::byte* to = out.data() + header_bytes;
    for (const FrameSlice& slice : payload()) {
        std::memcpy(to, slice.slab->data + slice.offset, slice.bytes);
        to += slice.bytes;
    }
}

std::uint32_t payload_bytes(const TransmitFrame& frame) noexcept {
    std::uint32_t bytes = 0;
    for (const FrameSlice& slice : frame.payload)
        bytes += slice.bytes;
    return bytes;
}

std::size_t wire_frame_count(const TransmitFrame& frame) noexcept {
    const std::uint32_t bytes = payload_bytes(frame);
    if (frame.segment_bytes == 0 || bytes <= frame.segment_bytes) return 1;
    return (bytes + frame.segment_bytes - 1) / frame.segment_bytes;
}

FrameCutter::FrameCutter(const TransmitFrame& frame) noexcept
    : frame_(&frame), left_bytes_(payload_bytes(frame)),
      cut_(frame.segment_bytes != 0 && left_bytes_ > frame.segment_bytes) {
    CHECK(frame.header.size() <= frame_header_bytes_max);
    CHECK(frame.payload.size() <= frame_slices_max);
    if (!cut_) return;
    // Only TCP is cut, and the lengths must leave room for what is rewritten.
    CHECK(frame.l3_bytes >= ipv4_bytes_min && frame.l4_bytes >= 20);
    CHECK(frame.header.size() == std::size_t{frame.l2_bytes} + frame.l3_bytes + frame.l4_bytes);
}

bool FrameCutter::next(WireFrame& out) noexcept {
    if (done_) return false;
    const std::uint32_t take =
        cut_ ? std::min<std::uint32_t>(left_bytes_, frame_->segment_bytes) : left_bytes_;
    out.header_bytes = frame_->header.size();
    std::memcpy(out.header.data(), frame_->header.data(), out.header_bytes);
    out.payload_bytes = take;
    out.slice_count = 0;
    for (std::uint32_t missing = take; missing > 0;) {
        const FrameSlice& slice = frame_->payload[slice_];
        const std::uint32_t bytes = std::min(missing, slice.bytes - slice_used_);
        if (bytes > 0)
            out.slices[out.slice_count++] = {slice.slab, slice.offset + slice_used_, bytes};
        missing -= bytes;
        slice_used_ += bytes;
        if (slice_used_ == slice.bytes) {
            ++slice_;
            slice_used_ = 0;
        }
    }
    left_bytes_ -= take;
    done_ = left_bytes_ == 0;
    if (!cut_) return true;

    const std::span<std::byte> ip = out.head().subspan(frame_->l2_bytes);
    const std::size_t ip_bytes = frame_->l3_bytes + frame_->l4_bytes + take;
    if (byte_at(ip, 0) >> 4 == 4) {
        put_be16(ip, 2, static_cast<std::uint16_t>(ip_bytes));
        const std::uint32_t id = be16(ip, 4) + sent_bytes_ / frame_->segment_bytes;
        put_be16(ip, 4, static_cast<std::uint16_t>(id));
    } else {
        put_be16(ip, 4, static_cast<std::uint16_t>(ip_bytes - ipv6_bytes));
    }
    const std::span<std::byte> tcp = ip.subspan(frame_->l3_bytes);
    put_be32(tcp, tcp_seq_at, be32(tcp, tcp_seq_at) + sent_bytes_);
    if (!done_) tcp[tcp_flags_at] &= ~(tcp_fin | tcp_psh);
    if (sent_bytes_ != 0) tcp[tcp_flags_at] &= ~tcp_cwr;
    sent_bytes_ += take;
    return true;
}

} // namespace dataplane::net
