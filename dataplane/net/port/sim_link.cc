#include "dataplane/net/port/sim_link.h"

#include "dataplane/base/check.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

namespace dataplane::net {
namespace {

constexpr std::uint32_t cache_line = 64;
constexpr std::uint32_t frame_overhead = 18; // Ethernet and a tag
constexpr std::uint32_t rss_table_default = 128;

std::uint32_t frame_buffer_bytes(const SimLinkOptions& options) noexcept {
    const std::uint32_t mtu = std::max(options.ports[0].mtu, options.ports[1].mtu);
    return (mtu + frame_overhead + cache_line - 1) / cache_line * cache_line;
}

SimLinkOptions completed(SimLinkOptions options) {
    for (SimPortOptions& port : options.ports) {
        CHECK(port.queue_count > 0);
        CHECK(port.transmit_buffers > port.control_reserve);
        if (port.rss_table.empty()) {
            for (std::uint32_t i = 0; i < rss_table_default; ++i)
                port.rss_table.push_back(static_cast<std::uint16_t>(i % port.queue_count));
        }
        CHECK(std::has_single_bit(port.rss_table.size()));
    }
    return options;
}

} // namespace

SimLink::SimLink(SimLinkOptions options)
    : options_(completed(std::move(options))),
      frames_(frame_buffer_bytes(options_), options_.frame_buffers),
      // Two dice, so that traffic one way leaves the other way's fates alone.
      lines_{ImpairedLine{options_.lines[0], options_.seed * 2, frames_},
             ImpairedLine{options_.lines[1], options_.seed * 2 + 1, frames_}} {
    for (unsigned side = 0; side < 2; ++side) {
        for (std::uint16_t queue = 0; queue < options_.ports[side].queue_count; ++queue)
            ports_[side].push_back(
                std::make_unique<SimPort>(*this, side, queue, options_.ports[side]));
    }
}

SimLink::~SimLink() = default;

SimPort& SimLink::port(unsigned side, std::uint16_t queue) noexcept {
    CHECK(side < 2 && queue < ports_[side].size());
    return *ports_[side][queue];
}

void SimLink::run_until(base::TimePoint now) {
    while (next_event() <= now) {
        now_ = std::max(now_, next_event());
        for (unsigned from = 0; from < 2; ++from) {
            for (LineFrame frame = lines_[from].pop(now_); frame.slab;
                 frame = lines_[from].pop(now_)) {
                if (tap_) tap_(from, TapPoint::arrived, frame.span(), now_);
                arrive(1 - from, std::move(frame));
            }
        }
        for (auto& side : ports_) {
            for (auto& port : side)
                port->complete(now_);
        }
    }
    now_ = std::max(now_, now);
}

base::TimePoint SimLink::next_event() const noexcept {
    base::TimePoint next = std::min(lines_[0].next_event(), lines_[1].next_event());
    for (const auto& side : ports_) {
        for (const auto& port : side)
            next = std::min(next, port->next_completion());
    }
    return next;
}

void SimLink::carry(unsigned from_side, LineFrame frame) {
    if (tap_) tap_(from_side, TapPoint::sent, frame.span(), now_);
    lines_[from_side].push(std::move(frame), now_);
}

void SimLink::arrive(unsigned to_side, LineFrame frame) {
    const SimPortOptions& options = options_.ports[to_side];
    std::uint16_t queue = 0;
    if (options.queue_count > 1) {
        if (const auto hash = rss_hash(frame.span(), options.rss_key)) {
            queue = options.rss_table[*hash & (options.rss_table.size() - 1)];
            frame.rss_hash = *hash;
            frame.has_rss_hash = true;
        }
    }
    CHECK(queue < ports_[to_side].size());
    if (options.receive_checksum) {
        const ChecksumVerdict verdict = verify_checksums(frame.span());
        frame.ip_checksum = verdict.ip;
        frame.l4_checksum = verdict.l4;
    }
    ports_[to_side][queue]->accept(std::move(frame));
}

void SimLink::inject(unsigned from_side, std::span<const std::byte> frame) {
    LineFrame copy{.slab = take_buffer(), .bytes = static_cast<std::uint32_t>(frame.size())};
    if (!copy.slab) return;
    CHECK(frame.size() <= copy.slab.capacity());
    std::memcpy(copy.slab.data(), frame.data(), frame.size());
    carry(from_side, std::move(copy));
}

void SimLink::deliver(unsigned to_side, std::span<const std::byte> frame) {
    LineFrame copy{.slab = take_buffer(), .bytes = static_cast<std::uint32_t>(frame.size())};
    if (!copy.slab) return;
    CHECK(frame.size() <= copy.slab.capacity());
    std::memcpy(copy.slab.data(), frame.data(), frame.size());
    arrive(to_side, std::move(copy));
}

} // namespace dataplane::net
