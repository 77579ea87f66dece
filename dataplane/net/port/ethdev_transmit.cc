// Sending: what the device does is asked for, the rest is done here.
#include "dataplane/net/port/ethdev_device.h"

#include "dataplane/base/check.h"
#include "dataplane/base/slab.h"
#include "dataplane/net/port/checksum.h"
#include "dataplane/net/port/frame_cut.h"
#include "dataplane/net/port/wire_bytes.h"

#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <new>
#include <thread>

namespace dataplane::net {
namespace {

constexpr unsigned settle_tries = 100;
constexpr auto settle_pause = std::chrono::microseconds{200};

/// In the private area of each mbuf that a slab is attached to.
struct Attachment {
    rte_mbuf_ext_shared_info shared;
    base::Slab* slab; // one reference of it
    std::uint64_t* held;
};

void detach_slab(void* /*address*/, void* opaque) {
    auto* attachment = static_cast<Attachment*>(opaque);
    --*attachment->held;
    base::SlabRef last{attachment->slab};
    --attachment->slab->references; // the one the mbuf held; `last` gives the slab back if need be
}

} // namespace

static_assert(sizeof(Attachment) <= attachment_bytes_max);

void EthdevPort::Queue::drop_waiting() noexcept {
    for (; head_ != tail_; ++head_)
        rte_pktmbuf_free(wait_ring_[head_ & wait_mask]);
    prepared_ = tail_;
}

std::uint32_t EthdevPort::Queue::available(rte_mempool* pool) noexcept {
    // rte_mempool_avail_count() walks the caches of all 128 possible cores; ours is enough.
    std::uint32_t count = rte_mempool_get_ops(pool->ops_index)->get_count(pool);
    if (const rte_mempool_cache* cache = rte_mempool_default_cache(pool, rte_lcore_id()))
        count += cache->len;
    return count;
}

void EthdevPort::Queue::reclaim() noexcept {
    if (!can_reclaim_ || reclaimed_this_turn_) return;
    reclaimed_this_turn_ = true;
    if (rte_eth_tx_done_cleanup(device_.device, index_, 0) == -ENOTSUP) can_reclaim_ = false;
}

rte_mbuf* EthdevPort::Queue::allocate(bool control) noexcept {
    if (rte_mbuf* mbuf = rte_pktmbuf_alloc(transmit_pool_.get())) return mbuf;
    return control ? rte_pktmbuf_alloc(control_pool_.get()) : nullptr;
}

bool EthdevPort::Queue::device_reads(const base::Slab& slab) const noexcept {
    if (!device_.reads_by_iova) return true;
    return std::ranges::any_of(areas_, [&slab](std::span<std::byte> area) {
        return slab.data >= area.data() && slab.data + slab.bytes <= area.data() + area.size();
    });
}

bool EthdevPort::Queue::can_attach(std::span<const FrameSlice> payload,
                                   std::uint32_t bytes) const noexcept {
    if (!device_.attach || bytes < copy_bytes_max) return false;
    // Kept for what the device cuts too: then no segment can span more (i40e: 8 buffers, or the
    // queue stands still for good).
    const std::size_t limit = device_.segments_per_frame_max;
    if (limit != 0 && payload.size() + 1 > limit) return false;
    return std::ranges::all_of(
        payload, [this](const FrameSlice& slice) { return device_reads(*slice.slab); });
}

rte_mbuf* EthdevPort::Queue::attach(const FrameSlice& slice) noexcept {
    rte_mbuf* mbuf = rte_pktmbuf_alloc(attach_pool_.get());
    if (mbuf == nullptr) return nullptr;
    auto* attachment = new (rte_mbuf_to_priv(mbuf)) Attachment{};
    attachment->shared.free_cb = detach_slab;
    attachment->shared.fcb_opaque = attachment;
    rte_mbuf_ext_refcnt_set(&attachment->shared, 1);
    attachment->slab = slice.slab;
    attachment->held = &slabs_held_;
    ++slice.slab->references; // until detach_slab()
    ++slabs_held_;
    std::byte* data = slice.slab->data + slice.offset;
    rte_pktmbuf_attach_extbuf(mbuf, data, reinterpret_cast<rte_iova_t>(data),
                              static_cast<std::uint16_t>(slice.bytes), &attachment->shared);
    mbuf->data_off = 0;
    mbuf->data_len = static_cast<std::uint16_t>(slice.bytes);
    mbuf->pkt_len = slice.bytes;
    return mbuf;
}

void EthdevPort::Queue::ask_for_offloads(rte_mbuf* mbuf, std::span<std::byte> header,
                                         const Piece& piece, const TransmitFrame& frame,
                                         bool device_cuts) noexcept {
    const bool sums_l4 = (frame.l4_checksum == L4::tcp && device_.transmit_tcp_checksum) ||
                         (frame.l4_checksum == L4::udp && device_.transmit_udp_checksum);
    const bool sums_ip = frame.ipv4_checksum && device_.transmit_ip_checksum;
    if (frame.ipv4_checksum && !sums_ip)
        fill_ipv4_checksum(header.subspan(frame.l2_bytes, frame.l3_bytes));
    if (!sums_l4) {
        fill_l4_checksum(header, frame.l2_bytes, frame.l3_bytes, frame.l4_checksum, piece.payload);
    }
    if (!sums_ip && !sums_l4) return;
    const bool v6 = byte_at(header, frame.l2_bytes) >> 4 == 6;
    mbuf->l2_len = frame.l2_bytes;
    mbuf->l3_len = frame.l3_bytes;
    mbuf->l4_len = frame.l4_bytes;
    mbuf->ol_flags |= v6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4;
    if (sums_ip) mbuf->ol_flags |= RTE_MBUF_F_TX_IP_CKSUM;
    if (!sums_l4) return;
    const auto l4_bytes = static_cast<std::uint32_t>(header.size() - frame.l2_bytes -
                                                     frame.l3_bytes + piece.payload_bytes);
    fill_pseudo_header_checksum(header, frame.l2_bytes, frame.l3_bytes, frame.l4_checksum,
                                device_cuts ? 0 : l4_bytes);
    mbuf->ol_flags |=
        frame.l4_checksum == L4::tcp ? RTE_MBUF_F_TX_TCP_CKSUM : RTE_MBUF_F_TX_UDP_CKSUM;
    if (device_cuts) {
        mbuf->ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
        mbuf->tso_segsz = frame.segment_bytes;
    }
}

rte_mbuf* EthdevPort::Queue::build(const Piece& piece, const TransmitFrame& frame, bool attached,
                                   bool device_cuts) noexcept {
    const std::size_t header_bytes = piece.header.size();
    const std::size_t frame_bytes = header_bytes + piece.payload_bytes;
    CHECK(attached || frame_bytes <= transmit_data_room_); // else a layer above ignored the MTU
    rte_mbuf* head = allocate(frame.control);
    if (head == nullptr) return nullptr;
    auto* to = rte_pktmbuf_mtod(head, std::byte*);
    std::memcpy(to, piece.header.data(), header_bytes);
    ask_for_offloads(head, {to, header_bytes}, piece, frame, device_cuts);
    head->pkt_len = static_cast<std::uint32_t>(frame_bytes);
    if (!attached) {
        to += header_bytes;
        for (const FrameSlice& slice : piece.payload) {
            std::memcpy(to, slice.slab->data + slice.offset, slice.bytes);
            to += slice.bytes;
        }
        head->data_len = static_cast<std::uint16_t>(frame_bytes);
        return head;
    }
    head->data_len = static_cast<std::uint16_t>(header_bytes);
    rte_mbuf* last = head;
    for (const FrameSlice& slice : piece.payload) {
        rte_mbuf* mbuf = attach(slice);
        if (mbuf == nullptr) {
            rte_pktmbuf_free(head);
            return nullptr;
        }
        last->next = mbuf;
        last = mbuf;
        ++head->nb_segs;
    }
    return head;
}

bool EthdevPort::Queue::stage(const Piece& piece, const TransmitFrame& frame,
                              bool device_cuts) noexcept {
    bool attached = device_cuts || can_attach(piece.payload, piece.payload_bytes);
    rte_mbuf* mbuf = build(piece, frame, attached, device_cuts);
    if (mbuf == nullptr && can_reclaim_ && !reclaimed_this_turn_) {
        reclaim();
        mbuf = build(piece, frame, attached, device_cuts);
    }
    // Payload that cannot be attached for want of mbufs can still be copied.
    if (mbuf == nullptr && attached && !device_cuts) {
        attached = false;
        mbuf = build(piece, frame, false, false);
    }
    if (mbuf == nullptr) return false;
    if (!attached && piece.payload_bytes >= copy_bytes_max) ++counters_.payload_copied;
    wait_ring_[tail_++ & wait_mask] = mbuf;
    return true;
}

bool EthdevPort::Queue::device_can_cut(const TransmitFrame& frame,
                                       std::uint32_t bytes) const noexcept {
    const std::size_t limit = device_.segments_per_cut_max;
    return device_.tso && bytes <= cut_payload_bytes_max && can_attach(frame.payload, bytes) &&
           (limit == 0 || frame.payload.size() + 1 <= limit);
}

SendResult EthdevPort::Queue::send(const TransmitFrame& frame) noexcept {
    CHECK(frame.header.size() <= frame_header_bytes_max);
    const std::uint32_t bytes = payload_bytes(frame);
    const bool to_cut = frame.segment_bytes != 0 && bytes > frame.segment_bytes;
    // Nobody takes it, and a veth would not let anything pass behind it (see interface_mtu.h).
    const std::size_t largest =
        frame.header.size() - frame.l2_bytes + (to_cut ? frame.segment_bytes : bytes);
    if (largest > info_.mtu) {
        ++counters_.transmit_errors;
        return SendResult::queued;
    }
    const bool device_cuts = to_cut && device_can_cut(frame, bytes);
    const std::size_t count = device_cuts ? 1 : wire_frame_count(frame);
    if (wait_room(frame.control) < count && waiting() > 0 && tail_ != tried_at_) flush();
    if (settled_ || wait_room(frame.control) < count) {
        ++counters_.ring_full;
        return SendResult::ring_full;
    }
    const std::size_t began_at = tail_;
    bool staged = true;
    if (count == 1) {
        staged = stage({frame.header, frame.payload, bytes}, frame, device_cuts);
    } else {
        FrameCutter cutter{frame};
        WireFrame wire;
        while (staged && cutter.next(wire))
            staged = stage({wire.head(), wire.payload(), wire.payload_bytes}, frame, false);
    }
    if (!staged) { // all or nothing
        while (tail_ != began_at)
            rte_pktmbuf_free(wait_ring_[--tail_ & wait_mask]);
        ++counters_.no_buffers;
        return SendResult::no_buffers;
    }
    // A full burst goes out at once, unless the device just refused one: then at the next flush().
    if (waiting() >= transmit_burst_max && tail_ - tried_at_ >= transmit_burst_max) flush();
    return SendResult::queued;
}

void EthdevPort::Queue::prepare_waiting() noexcept {
    if (!asks_offloads_) {
        prepared_ = tail_;
        return;
    }
    while (prepared_ != tail_) {
        const std::size_t at = prepared_ & wait_mask;
        const std::size_t run =
            std::min({tail_ - prepared_, transmit_wait_max - at, transmit_burst_max});
        const std::uint16_t good = rte_eth_tx_prepare(device_.device, index_, &wait_ring_[at],
                                                      static_cast<std::uint16_t>(run));
        prepared_ += good;
        if (good == run) continue;
        // This one the driver never takes: those before it move up, and it is gone.
        rte_mbuf* refused = wait_ring_[prepared_ & wait_mask];
        for (std::size_t i = prepared_; i != head_; --i)
            wait_ring_[i & wait_mask] = wait_ring_[(i - 1) & wait_mask];
        ++head_;
        ++prepared_;
        ++counters_.transmit_errors;
        rte_pktmbuf_free(refused);
    }
}

void EthdevPort::Queue::flush() noexcept {
    if (settled_) return;
    prepare_waiting();
    while (head_ != prepared_) {
        const std::size_t at = head_ & wait_mask;
        const std::size_t run =
            std::min({prepared_ - head_, transmit_wait_max - at, transmit_burst_max});
        std::uint64_t bytes = 0; // asked before: the device frees what it has sent
        std::array<std::uint32_t, transmit_burst_max> lengths;
        for (std::size_t i = 0; i < run; ++i)
            lengths[i] = wait_ring_[at + i]->pkt_len;
        const std::uint16_t sent = rte_eth_tx_burst(device_.device, index_, &wait_ring_[at],
                                                    static_cast<std::uint16_t>(run));
        for (std::uint16_t i = 0; i < sent; ++i)
            bytes += lengths[i];
        head_ += sent;
        counters_.frames_out += sent;
        counters_.bytes_out += bytes;
        if (sent < run) { // the device is full: the rest waits for the next turn
            tried_at_ = tail_;
            return;
        }
    }
}

std::size_t EthdevPort::Queue::send_room() const noexcept {
    const std::size_t buffers = available(transmit_pool_.get());
    return settled_ ? 0 : std::min(buffers, wait_room(false));
}

bool EthdevPort::Queue::settle() noexcept {
    for (unsigned tries = 0; tries < settle_tries; ++tries) {
        flush();
        reclaimed_this_turn_ = false;
        reclaim();
        if (slabs_held_ == 0) return true;
        std::this_thread::sleep_for(settle_pause);
    }
    drop_waiting();
    // Drivers that give nothing back on request do so when their queue stops.
    static_cast<void>(rte_eth_dev_tx_queue_stop(device_.device, index_));
    settled_ = true;
    return slabs_held_ == 0;
}

} // namespace dataplane::net
