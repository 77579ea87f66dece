// What the device does, what it says it does, and what is left to us.
#include "dataplane/net/port/ethdev_device.h"

#include "dataplane/net/port/wire_bytes.h"

#include <rte_ethdev.h>
#include <rte_mbuf.h>

#include <algorithm>
#include <array>
#include <bit>

namespace dataplane::net {
namespace {

constexpr std::uint16_t reta_entries_max = 4096;
constexpr std::size_t rss_key_bytes_max = 128;
constexpr const char* leaves_a_queue_out = "its table leaves a queue out";

std::vector<rte_eth_rss_reta_entry64> table_of(std::uint16_t entries) {
    std::vector<rte_eth_rss_reta_entry64> table((entries + RTE_ETH_RETA_GROUP_SIZE - 1) /
                                                RTE_ETH_RETA_GROUP_SIZE);
    for (auto& group : table)
        group.mask = ~std::uint64_t{0};
    return table;
}

/// A full-sized frame with made-up content and the given offloads, for asking the driver.
bool driver_accepts(std::uint16_t device, rte_mempool* pool, bool v6, bool tso) {
    rte_mbuf* mbuf = rte_pktmbuf_alloc(pool);
    if (mbuf == nullptr) return false;
    const std::uint16_t l3 = v6 ? ipv6_bytes : ipv4_bytes_min;
    const std::uint16_t bytes = ethernet_bytes + l3 + 20 + 1000;
    auto* data = reinterpret_cast<std::byte*>(rte_pktmbuf_append(mbuf, bytes));
    const std::span<std::byte> frame{data, bytes};
    std::ranges::fill(frame, std::byte{0});
    put_be16(frame, 12, v6 ? ethertype_ipv6 : ethertype_ipv4);
    frame[14] = v6 ? std::byte{0x60} : std::byte{0x45};
    put_be16(frame, v6 ? 18 : 16, static_cast<std::uint16_t>(bytes - 14 - (v6 ? 40 : 0)));
    frame[v6 ? 20 : 23] = std::byte{protocol_tcp};
    frame[ethernet_bytes + l3 + 12] = std::byte{0x50};
    mbuf->l2_len = ethernet_bytes;
    mbuf->l3_len = l3;
    mbuf->l4_len = 20;
    mbuf->ol_flags = RTE_MBUF_F_TX_TCP_CKSUM |
                     (v6 ? RTE_MBUF_F_TX_IPV6 : RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM);
    if (tso) {
        mbuf->ol_flags |= RTE_MBUF_F_TX_TCP_SEG;
        mbuf->tso_segsz = 500;
    }
    const bool accepted = rte_eth_tx_prepare(device, 0, &mbuf, 1) == 1;
    rte_pktmbuf_free(mbuf);
    return accepted;
}

} // namespace

Quirks quirks_of(std::string_view driver, std::string_view arguments) {
    Quirks quirks;
    if (driver == "net_tap") quirks.no_offloads = true;
    if (driver == "net_ring") quirks.shares_mbufs = true;
    if (driver == "net_memif") quirks.any_length = true;
    if (driver == "net_memif" && arguments.contains("zero-copy=yes")) quirks.no_attach = true;
    return quirks;
}

const char* EthdevPort::State::why_not(bool wanted) const noexcept {
    if (!wanted) return "switched off";
    return quirks.no_offloads ? "the driver would do it in software" : "not offered";
}

void EthdevPort::State::choose_features(std::uint64_t& receive_offloads,
                                        std::uint64_t& transmit_offloads) {
    const std::uint64_t rx = quirks.no_offloads ? 0 : found->rx_offload_capa;
    const std::uint64_t tx = quirks.no_offloads
                                 ? found->tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS
                                 : found->tx_offload_capa;
    constexpr std::uint64_t rx_checksums =
        RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
    receive_checksum = options.use_receive_checksum && (rx & rx_checksums) == rx_checksums;
    if (receive_checksum) receive_offloads |= rx_checksums | (rx & RTE_ETH_RX_OFFLOAD_UDP_CKSUM);
    feature("receive checksum", receive_checksum, why_not(options.use_receive_checksum));

    if (options.use_transmit_checksum) {
        transmit_ip_checksum = (tx & RTE_ETH_TX_OFFLOAD_IPV4_CKSUM) != 0;
        transmit_tcp_checksum = (tx & RTE_ETH_TX_OFFLOAD_TCP_CKSUM) != 0;
        transmit_udp_checksum = (tx & RTE_ETH_TX_OFFLOAD_UDP_CKSUM) != 0;
    }
    transmit_offloads |= (transmit_ip_checksum ? RTE_ETH_TX_OFFLOAD_IPV4_CKSUM : 0) |
                         (transmit_tcp_checksum ? RTE_ETH_TX_OFFLOAD_TCP_CKSUM : 0) |
                         (transmit_udp_checksum ? RTE_ETH_TX_OFFLOAD_UDP_CKSUM : 0);

    multi_segment = options.use_multi_segment && (tx & RTE_ETH_TX_OFFLOAD_MULTI_SEGS) != 0;
    if (multi_segment) transmit_offloads |= RTE_ETH_TX_OFFLOAD_MULTI_SEGS;

    // A cut frame is several buffers long and summed by the device.
    tso = options.use_tso && (tx & RTE_ETH_TX_OFFLOAD_TCP_TSO) != 0 && multi_segment &&
          transmit_ip_checksum && transmit_tcp_checksum;
    if (tso) transmit_offloads |= RTE_ETH_TX_OFFLOAD_TCP_TSO;

    if ((rx & RTE_ETH_RX_OFFLOAD_RSS_HASH) != 0 && options.queue_count > 1)
        receive_offloads |= RTE_ETH_RX_OFFLOAD_RSS_HASH;
    if ((rx & RTE_ETH_RX_OFFLOAD_SCATTER) != 0) receive_offloads |= RTE_ETH_RX_OFFLOAD_SCATTER;
}

void EthdevPort::State::ask_driver() {
    rte_mempool* pool = queues.front()->transmit_pool();
    const bool checksum_offered = transmit_tcp_checksum && transmit_ip_checksum;
    if (checksum_offered && !(driver_accepts(device, pool, false, false) &&
                              driver_accepts(device, pool, true, false))) {
        transmit_ip_checksum = transmit_tcp_checksum = transmit_udp_checksum = false;
        tso = false;
        feature("transmit checksum", false, "offered, but the driver refuses a test frame");
    } else {
        feature("transmit checksum", checksum_offered, why_not(options.use_transmit_checksum));
    }
    if (tso &&
        !(driver_accepts(device, pool, false, true) && driver_accepts(device, pool, true, true))) {
        tso = false;
        feature("segmentation (TSO)", false, "offered, but the driver refuses a test frame");
    } else {
        feature("segmentation (TSO)", tso, why_not(options.use_tso));
    }

    // Zero-copy: what the payload's mbufs need.
    const bool may_attach =
        multi_segment && !quirks.no_attach && (!quirks.shares_mbufs || options.attach_always);
    attach = may_attach;
    feature("payload read in place", attach,
            !multi_segment        ? "frames are one buffer long"
            : quirks.shares_mbufs ? "another thread frees the buffers"
                                  : "the device reads its own memory only");
}

std::string EthdevPort::State::why_rss_is_not_offered() const {
    constexpr std::uint64_t both = RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV6_TCP;
    const unsigned pairs = std::min(found->max_rx_queues, found->max_tx_queues);
    if (pairs < options.queue_count) {
        return "the device has " + std::to_string(pairs) +
               (pairs == 1 ? " queue pair" : " queue pairs");
    }
    if (quirks.no_offloads) return "the driver would do it in software";
    if ((found->flow_type_rss_offloads & both) != both || found->reta_size == 0)
        return "not offered";
    if (found->reta_size > reta_entries_max || !std::has_single_bit(found->reta_size))
        return "its table has an odd size";
    return "";
}

void EthdevPort::State::read_rss() {
    if (options.queue_count == 1) return;
    why_not_spread = why_rss_is_not_offered();
    if (!why_not_spread.empty()) return;
    rte_eth_rss_conf conf{};
    const std::size_t key_bytes = found->hash_key_size != 0 ? found->hash_key_size : 40;
    std::array<std::uint8_t, rss_key_bytes_max> key{};
    conf.rss_key = key.data();
    conf.rss_key_len = static_cast<std::uint8_t>(std::min(key_bytes, key.size()));
    if (rte_eth_dev_rss_hash_conf_get(device, &conf) != 0) {
        why_not_spread = "the device does not tell its key";
        return;
    }
    why_not_spread = read_table();
    if (why_not_spread == leaves_a_queue_out) { // as some drivers begin; others take no table
        std::vector<rte_eth_rss_reta_entry64> even = table_of(found->reta_size);
        for (std::uint16_t i = 0; i < found->reta_size; ++i) {
            even[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE] =
                static_cast<std::uint16_t>(i % options.queue_count);
        }
        static_cast<void>(rte_eth_dev_rss_reta_update(device, even.data(), found->reta_size));
        why_not_spread = read_table();
    }
    if (why_not_spread.empty()) {
        rss_key.assign(key.begin(), key.begin() + static_cast<std::ptrdiff_t>(key_bytes));
    } else {
        rss_table.clear();
    }
}

std::string EthdevPort::State::read_table() {
    std::vector<rte_eth_rss_reta_entry64> table = table_of(found->reta_size);
    if (rte_eth_dev_rss_reta_query(device, table.data(), found->reta_size) != 0)
        return "the device does not tell its table";
    rss_table.clear();
    std::vector<bool> named(options.queue_count);
    for (std::uint16_t i = 0; i < found->reta_size; ++i) {
        const std::uint16_t queue =
            table[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE];
        if (queue >= named.size()) return "its table names queues we do not have";
        named[queue] = true;
        rss_table.push_back(queue);
    }
    return std::ranges::find(named, false) == named.end() ? "" : leaves_a_queue_out;
}

} // namespace dataplane::net
