// Receiving, and what the device says of checksums held against our own.
#include "dataplane/net/port/ethdev_device.h"

#include "dataplane/net/port/frame_view.h"

#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_prefetch.h>

#include <algorithm>

namespace dataplane::net {

void EthdevPort::Queue::check_verdict(const rte_mbuf& mbuf, ReceivedFrame& frame) noexcept {
    const auto state = [](std::uint64_t flags, std::uint64_t good, std::uint64_t bad,
                          std::uint64_t none) {
        if (flags == good || flags == none)
            return ChecksumState::good; // none: known good otherwise
        return flags == bad ? ChecksumState::bad : ChecksumState::unknown;
    };
    frame.ip_checksum =
        state(mbuf.ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK, RTE_MBUF_F_RX_IP_CKSUM_GOOD,
              RTE_MBUF_F_RX_IP_CKSUM_BAD, RTE_MBUF_F_RX_IP_CKSUM_NONE);
    frame.l4_checksum =
        state(mbuf.ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK, RTE_MBUF_F_RX_L4_CKSUM_GOOD,
              RTE_MBUF_F_RX_L4_CKSUM_BAD, RTE_MBUF_F_RX_L4_CKSUM_NONE);
    if (verdicts_left_ == 0) return;

    // The self-test: a device that says good of what is not, or the other way round, is not asked
    // again. What hypervisors hand over with partial sums (NONE) cannot be compared.
    --verdicts_left_;
    const bool partial =
        (mbuf.ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_NONE ||
        (mbuf.ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK) == RTE_MBUF_F_RX_IP_CKSUM_NONE;
    if (partial) return;
    const ChecksumVerdict ours = verify_checksums(frame.bytes);
    const auto contradicts = [](ChecksumState device, ChecksumState own) {
        return device != ChecksumState::unknown && own != ChecksumState::unknown && device != own;
    };
    if (contradicts(frame.ip_checksum, ours.ip) || contradicts(frame.l4_checksum, ours.l4)) {
        trusts_verdicts_ = false;
        info_.receive_checksum = false;
        frame.ip_checksum = ours.ip;
        frame.l4_checksum = ours.l4;
    }
}

std::size_t EthdevPort::Queue::receive(std::span<ReceivedFrame> frames) noexcept {
    if (++turns_ % device_counter_turns == 0) read_device_counters();
    reclaimed_this_turn_ = false;
    std::array<rte_mbuf*, receive_burst_max> mbufs;
    const auto wanted = static_cast<std::uint16_t>(std::min(frames.size(), mbufs.size()));
    const std::uint16_t came = rte_eth_rx_burst(device_.device, index_, mbufs.data(), wanted);
    for (std::uint16_t i = 0; i < came; ++i)
        rte_prefetch0(rte_pktmbuf_mtod(mbufs[i], void*));
    std::size_t count = 0;
    for (std::uint16_t i = 0; i < came; ++i) {
        rte_mbuf* mbuf = mbufs[i];
        if (mbuf->nb_segs > 1 && rte_pktmbuf_linearize(mbuf) != 0) {
            rte_pktmbuf_free(mbuf); // longer than a buffer: no frame of our MTU
            ++counters_.receive_errors;
            continue;
        }
        ReceivedFrame& frame = frames[count++];
        frame = {.bytes = {rte_pktmbuf_mtod(mbuf, std::byte*), mbuf->data_len},
                 .rss_hash = mbuf->hash.rss,
                 .has_rss_hash = (mbuf->ol_flags & RTE_MBUF_F_RX_RSS_HASH) != 0,
                 .handle = mbuf};
        if (trusts_verdicts_) check_verdict(*mbuf, frame);
        counters_.bytes_in += mbuf->data_len;
    }
    counters_.frames_in += count;
    return count;
}

void EthdevPort::Queue::release(std::span<const ReceivedFrame> frames) noexcept {
    std::array<rte_mbuf*, receive_burst_max> mbufs;
    while (!frames.empty()) {
        const std::size_t count = std::min(frames.size(), mbufs.size());
        for (std::size_t i = 0; i < count; ++i)
            mbufs[i] = static_cast<rte_mbuf*>(frames[i].handle);
        rte_pktmbuf_free_bulk(mbufs.data(), static_cast<unsigned>(count));
        frames = frames.subspan(count);
    }
}

void EthdevPort::Queue::read_device_counters() noexcept {
    rte_eth_stats stats{};
    if (index_ != 0 || rte_eth_stats_get(device_.device, &stats) != 0) return;
    counters_.receive_missed = stats.imissed + stats.rx_nombuf;
}

const PortCounters& EthdevPort::Queue::counters() const noexcept {
    counters_.slabs_held = slabs_held_;
    counters_.buffers_free = available(transmit_pool_.get());
    return counters_;
}

} // namespace dataplane::net
