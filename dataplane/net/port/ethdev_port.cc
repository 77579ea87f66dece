#include "dataplane/net/port/ethdev_port.h"

#include "dataplane/base/check.h"
#include "dataplane/base/slab.h"
#include "dataplane/net/port/checksum.h"
#include "dataplane/net/port/frame_cut.h"
#include "dataplane/net/port/frame_view.h"
#include "dataplane/net/port/wire_bytes.h"

#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_prefetch.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>

namespace dataplane::net {
namespace {

constexpr std::uint16_t frame_overhead = 18; // Ethernet and a tag
constexpr std::uint32_t pool_cache = 256;    // an mbuf goes round in a core's cache
constexpr std::size_t cache_line = 64;
constexpr std::uint16_t reta_entries_max = 4096;
constexpr std::size_t rss_key_bytes_max = 128;
constexpr std::uint16_t data_room_min = 2048; // af_packet copies a whole ring frame, unchecked

template <auto release>
struct Release {
    template <class Handle>
    void operator()(Handle* handle) const noexcept {
        static_cast<void>(release(handle));
    }
};
using PoolHandle = std::unique_ptr<rte_mempool, Release<rte_mempool_free>>;

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

/// What drivers do other than they say (tcp.md §2.6).
struct Quirks {
    bool no_offloads = false;  // it computes in software itself, slower than we do
    bool shares_mbufs = false; // whoever receives frees our mbufs
    bool no_attach = false;    // reads only its own memory
};

Quirks quirks_of(std::string_view driver, std::string_view arguments) {
    Quirks quirks;
    if (driver == "net_tap") quirks.no_offloads = true;
    if (driver == "net_ring") quirks.shares_mbufs = true;
    if (driver == "net_memif" && arguments.contains("zero-copy=yes")) quirks.no_attach = true;
    return quirks;
}

PortError device_error(PortErrorKind kind, const std::string& device, const std::string& what) {
    std::string log = eal_log::take();
    while (!log.empty() && log.back() == '\n')
        log.pop_back();
    return {kind, device + ": " + what + (log.empty() ? "" : "\nDPDK says: " + log)};
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

/// What all queues of a device share; written before the shards start, only read afterwards.
struct EthdevPort::State {
    std::uint16_t device = 0;
    EthdevOptions options;
    EthdevReport report;
    rte_eth_dev_info found{};
    Quirks quirks;
    bool receive_checksum = false;
    bool transmit_ip_checksum = false;
    bool transmit_tcp_checksum = false;
    bool transmit_udp_checksum = false;
    bool tso = false;
    bool multi_segment = false;
    bool attach = false;
    bool reads_by_iova = false; // a device with DMA: slabs must be registered
    std::vector<std::span<std::byte>> areas;
    std::vector<std::uint8_t> rss_key;
    std::vector<std::uint16_t> rss_table;
    bool started = false;
    std::vector<std::unique_ptr<Queue>> queues;

    ~State();
    [[nodiscard]] std::expected<void, PortError> configure();
    void choose_features(std::uint64_t& receive_offloads, std::uint64_t& transmit_offloads);
    void ask_driver();
    void read_rss();
    void feature(std::string name, bool device_does, std::string why) {
        report.features.push_back(
            {std::move(name), device_does, device_does ? "" : std::move(why)});
    }
    [[nodiscard]] bool device_reads(const base::Slab& slab) const noexcept {
        if (!reads_by_iova) return true;
        return std::ranges::any_of(areas, [&slab](std::span<std::byte> area) {
            return slab.data >= area.data() && slab.data + slab.bytes <= area.data() + area.size();
        });
    }
};

class EthdevPort::Queue final : public Port {
public:
    Queue(State& device, std::uint16_t index) : device_(device), index_(index) {}
    ~Queue() override;
    [[nodiscard]] std::expected<void, PortError> make_pools();
    [[nodiscard]] rte_mempool* receive_pool() const noexcept { return receive_pool_.get(); }
    [[nodiscard]] rte_mempool* transmit_pool() const noexcept { return transmit_pool_.get(); }
    void started();
    void drop_waiting() noexcept;

    [[nodiscard]] const PortInfo& info() const noexcept override { return info_; }
    [[nodiscard]] std::optional<RssLayout> rss_layout() const noexcept override {
        if (!info_.rss) return std::nullopt;
        return RssLayout{.key = device_.rss_key, .table = device_.rss_table};
    }
    [[nodiscard]] std::size_t receive(std::span<ReceivedFrame> frames) noexcept override;
    void release(std::span<const ReceivedFrame> frames) noexcept override;
    [[nodiscard]] SendResult send(const TransmitFrame& frame) noexcept override;
    [[nodiscard]] std::size_t send_room() const noexcept override;
    void flush() noexcept override;
    [[nodiscard]] const PortCounters& counters() const noexcept override;

private:
    static_assert(std::has_single_bit(transmit_wait_max), "the ring index wraps with a mask");
    static constexpr std::size_t wait_mask = transmit_wait_max - 1;

    [[nodiscard]] std::size_t waiting() const noexcept { return tail_ - head_; }
    [[nodiscard]] std::size_t wait_room(bool control) const noexcept {
        const std::size_t limit = transmit_wait_max - (control ? 0 : transmit_wait_control);
        return limit > waiting() ? limit - waiting() : 0;
    }
    [[nodiscard]] rte_mbuf* allocate(bool control) noexcept;
    [[nodiscard]] bool can_attach(std::span<const FrameSlice> payload,
                                  std::uint32_t bytes) const noexcept;
    [[nodiscard]] rte_mbuf* attach(const FrameSlice& slice) noexcept;
    /// What one mbuf chain is made of: a TransmitFrame itself, or a piece of one.
    struct Piece {
        std::span<const std::byte> header;
        std::span<const FrameSlice> payload;
        std::uint32_t payload_bytes = 0;
    };
    /// Stages one piece, checksums in it or asked for; false when a pool is empty.
    [[nodiscard]] bool stage(const Piece& piece, const TransmitFrame& frame,
                             bool device_cuts) noexcept;
    [[nodiscard]] rte_mbuf* build(const Piece& piece, const TransmitFrame& frame, bool attached,
                                  bool device_cuts) noexcept;
    /// \param header  the copy in the mbuf
    void ask_for_offloads(rte_mbuf* mbuf, std::span<std::byte> header, const Piece& piece,
                          const TransmitFrame& frame, bool device_cuts) noexcept;
    [[nodiscard]] bool device_can_cut(const TransmitFrame& frame,
                                      std::uint32_t bytes) const noexcept;
    void prepare_waiting() noexcept;
    void reclaim() noexcept;
    void check_verdict(const rte_mbuf& mbuf, ReceivedFrame& frame) noexcept;
    void read_device_counters() noexcept;
    [[nodiscard]] static std::uint32_t available(rte_mempool* pool) noexcept;

    State& device_;
    std::uint16_t index_;
    PortInfo info_;
    PoolHandle receive_pool_;
    PoolHandle transmit_pool_;
    PoolHandle attach_pool_;
    PoolHandle control_pool_;
    std::uint16_t transmit_data_room_ = 0;
    // Frames on their way to the device: [head_, prepared_) may go, [prepared_, tail_) not yet.
    std::array<rte_mbuf*, transmit_wait_max> wait_ring_{};
    std::size_t head_ = 0;
    std::size_t prepared_ = 0;
    std::size_t tail_ = 0;
    std::size_t tried_at_ = 0; // tail_ at the last try that the device cut short
    bool asks_offloads_ = false;
    bool can_reclaim_ = true;
    bool reclaimed_this_turn_ = false;
    bool trusts_verdicts_ = false;
    std::uint32_t verdicts_left_ = verdict_checks;
    std::uint32_t turns_ = 0;
    std::uint64_t slabs_held_ = 0;
    mutable PortCounters counters_;
};

// Opening

std::string EthdevReport::text() const {
    std::array<char, 18> address{};
    std::snprintf(address.data(), address.size(), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1],
                  mac[2], mac[3], mac[4], mac[5]);
    std::string out = device + ": " + driver + " on " + bus + ", " + address.data() + ", MTU " +
                      std::to_string(mtu) + ", " + std::to_string(queue_count) +
                      (queue_count == 1 ? " queue" : " queues") +
                      (link_up ? ", link up\n" : ", link down\n");
    for (const Feature& feature : features) {
        out += "  " + feature.name + ": " +
               (feature.device ? "by the device" : "in software (" + feature.why + ")") + "\n";
    }
    return out;
}

void EthdevPort::State::choose_features(std::uint64_t& receive_offloads,
                                        std::uint64_t& transmit_offloads) {
    const std::uint64_t rx = quirks.no_offloads ? 0 : found.rx_offload_capa;
    const std::uint64_t tx = quirks.no_offloads
                                 ? found.tx_offload_capa & RTE_ETH_TX_OFFLOAD_MULTI_SEGS
                                 : found.tx_offload_capa;
    const auto reason = [this](bool wanted) {
        if (!wanted) return "switched off";
        return quirks.no_offloads ? "the driver would do it in software" : "not offered";
    };
    constexpr std::uint64_t rx_checksums =
        RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_TCP_CKSUM;
    receive_checksum = options.use_receive_checksum && (rx & rx_checksums) == rx_checksums;
    if (receive_checksum) receive_offloads |= rx_checksums | (rx & RTE_ETH_RX_OFFLOAD_UDP_CKSUM);
    feature("receive checksum", receive_checksum, reason(options.use_receive_checksum));

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
    const auto reason = [this](bool wanted) {
        if (!wanted) return "switched off";
        return quirks.no_offloads ? "the driver would do it in software" : "not offered";
    };
    const bool checksum_offered = transmit_tcp_checksum && transmit_ip_checksum;
    if (checksum_offered && !(driver_accepts(device, pool, false, false) &&
                              driver_accepts(device, pool, true, false))) {
        transmit_ip_checksum = transmit_tcp_checksum = transmit_udp_checksum = false;
        tso = false;
        feature("transmit checksum", false, "offered, but the driver refuses a test frame");
    } else {
        feature("transmit checksum", checksum_offered, reason(options.use_transmit_checksum));
    }
    if (tso &&
        !(driver_accepts(device, pool, false, true) && driver_accepts(device, pool, true, true))) {
        tso = false;
        feature("segmentation (TSO)", false, "offered, but the driver refuses a test frame");
    } else {
        feature("segmentation (TSO)", tso, reason(options.use_tso));
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

void EthdevPort::State::read_rss() {
    if (options.queue_count == 1) return;
    std::string why = "not offered";
    rte_eth_rss_conf conf{};
    const std::size_t key_bytes = found.hash_key_size != 0 ? found.hash_key_size : 40;
    std::array<std::uint8_t, rss_key_bytes_max> key{};
    conf.rss_key = key.data();
    conf.rss_key_len = static_cast<std::uint8_t>(std::min(key_bytes, key.size()));
    const bool offered = (found.flow_type_rss_offloads & RTE_ETH_RSS_NONFRAG_IPV4_TCP) != 0 &&
                         (found.flow_type_rss_offloads & RTE_ETH_RSS_NONFRAG_IPV6_TCP) != 0 &&
                         found.reta_size != 0 && found.reta_size <= reta_entries_max &&
                         std::has_single_bit(found.reta_size) && !quirks.no_offloads;
    if (offered) {
        std::vector<rte_eth_rss_reta_entry64> table(
            (found.reta_size + RTE_ETH_RETA_GROUP_SIZE - 1) / RTE_ETH_RETA_GROUP_SIZE);
        for (auto& group : table)
            group.mask = ~std::uint64_t{0};
        if (rte_eth_dev_rss_hash_conf_get(device, &conf) != 0) {
            why = "the device does not tell its key";
        } else if (rte_eth_dev_rss_reta_query(device, table.data(), found.reta_size) != 0) {
            why = "the device does not tell its table";
        } else {
            rss_key.assign(key.begin(), key.begin() + static_cast<std::ptrdiff_t>(key_bytes));
            for (std::uint16_t i = 0; i < found.reta_size; ++i) {
                rss_table.push_back(
                    table[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE]);
            }
            if (std::ranges::any_of(rss_table, [this](std::uint16_t queue) {
                    return queue >= options.queue_count;
                })) {
                why = "its table names queues we do not have";
                rss_key.clear();
                rss_table.clear();
            }
        }
    }
    feature("spreading over queues (RSS)", !rss_table.empty(), why);
}

std::expected<void, PortError> EthdevPort::State::configure() {
    const std::string& name = options.device;
    if (const int error = rte_eth_dev_info_get(device, &found); error != 0)
        return std::unexpected(device_error(PortErrorKind::device_failed, name, "tells nothing"));
    if (options.queue_count == 0 ||
        options.queue_count > std::min(found.max_rx_queues, found.max_tx_queues)) {
        return std::unexpected(device_error(
            PortErrorKind::bad_option, name,
            "has " + std::to_string(std::min(found.max_rx_queues, found.max_tx_queues)) +
                " queue pairs; ask for 1 up to that many"));
    }
    if (options.control_reserve < control_reserve_min) {
        return std::unexpected(device_error(PortErrorKind::bad_option, name,
                                            "the control reserve must be at least " +
                                                std::to_string(control_reserve_min)));
    }
    if (options.receive_buffers <= options.receive_ring) {
        return std::unexpected(
            device_error(PortErrorKind::bad_option, name,
                         "receive buffers must be more than the receive ring has entries"));
    }
    if (found.max_mtu != 0 && options.mtu > found.max_mtu) {
        return std::unexpected(
            device_error(PortErrorKind::bad_option, name,
                         "carries an MTU of " + std::to_string(found.max_mtu) + " at most"));
    }
    const rte_bus* bus = found.device != nullptr ? rte_dev_bus(found.device) : nullptr;
    const rte_devargs* arguments =
        found.device != nullptr ? rte_dev_devargs(found.device) : nullptr;
    report.device = name;
    report.driver = found.driver_name;
    report.bus = bus != nullptr ? rte_bus_name(bus) : "none";
    report.mtu = options.mtu;
    report.queue_count = options.queue_count;
    reads_by_iova = report.bus != "vdev" && report.bus != "none";
    quirks = quirks_of(report.driver,
                       arguments != nullptr && arguments->args != nullptr ? arguments->args : "");

    if (options.use_software_offloads) quirks.no_offloads = false;
    rte_eth_conf conf{};
    choose_features(conf.rxmode.offloads, conf.txmode.offloads);
    conf.rxmode.mtu = options.mtu;
    if (options.queue_count > 1 && found.flow_type_rss_offloads != 0 && !quirks.no_offloads) {
        conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf =
            found.flow_type_rss_offloads &
            (RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV6_TCP);
    }
    if (const int error =
            rte_eth_dev_configure(device, options.queue_count, options.queue_count, &conf);
        error != 0) {
        return std::unexpected(
            device_error(PortErrorKind::device_failed, name,
                         "refuses its configuration: " + std::string{std::strerror(-error)}));
    }
    std::uint16_t receive_ring = options.receive_ring;
    std::uint16_t transmit_ring = options.transmit_ring;
    rte_eth_dev_adjust_nb_rx_tx_desc(device, &receive_ring, &transmit_ring);

    for (std::uint16_t i = 0; i < options.queue_count; ++i) {
        queues.push_back(std::make_unique<Queue>(*this, i));
        if (auto made = queues.back()->make_pools(); !made)
            return std::unexpected(std::move(made.error()));
        const int socket = rte_eth_dev_socket_id(device);
        rte_eth_rxconf receive = found.default_rxconf;
        receive.offloads = conf.rxmode.offloads & found.rx_queue_offload_capa;
        rte_eth_txconf transmit = found.default_txconf;
        transmit.offloads = conf.txmode.offloads & found.tx_queue_offload_capa;
        const unsigned place = socket < 0 ? SOCKET_ID_ANY : static_cast<unsigned>(socket);
        int error = rte_eth_rx_queue_setup(device, i, receive_ring, place, &receive,
                                           queues.back()->receive_pool());
        if (error == 0) error = rte_eth_tx_queue_setup(device, i, transmit_ring, place, &transmit);
        if (error != 0) {
            return std::unexpected(
                device_error(PortErrorKind::device_failed, name,
                             "refuses queue " + std::to_string(i) + ": " + std::strerror(-error)));
        }
    }
    if (const int error = rte_eth_dev_start(device); error != 0) {
        return std::unexpected(
            device_error(PortErrorKind::device_failed, name,
                         "does not start: " + std::string{std::strerror(-error)}));
    }
    started = true;
    rte_eth_promiscuous_enable(
        device); // for multicast (ND); the layer above drops what is not ours
    rte_ether_addr mac{};
    if (rte_eth_macaddr_get(device, &mac) == 0)
        std::copy_n(std::begin(mac.addr_bytes), report.mac.size(), report.mac.begin());
    feature("frames of several buffers", multi_segment,
            options.use_multi_segment ? "not offered" : "switched off");
    ask_driver();
    read_rss();
    for (auto& queue : queues)
        queue->started();
    return {};
}

EthdevPort::State::~State() {
    for (auto& queue : queues)
        queue->drop_waiting();
    if (started) rte_eth_dev_stop(device);
    // Frees what the device still held, which gives back slabs, so before the pools go.
    rte_eth_dev_close(device);
    queues.clear();
    if (!reads_by_iova) return;
    for (const std::span<std::byte> area : areas)
        rte_extmem_unregister(area.data(), area.size());
}

EthdevPort::EthdevPort() : state_(std::make_unique<State>()) {}
EthdevPort::~EthdevPort() = default;

std::expected<std::unique_ptr<EthdevPort>, PortError>
EthdevPort::open(const EthdevOptions& options) {
    std::uint16_t device = 0;
    static_cast<void>(eal_log::take());
    if (rte_eth_dev_get_port_by_name(options.device.c_str(), &device) != 0) {
        return std::unexpected(
            device_error(PortErrorKind::no_device, options.device,
                         "no such device: add it first, or bind it to vfio-pci"));
    }
    std::unique_ptr<EthdevPort> port{new EthdevPort};
    port->state_->device = device;
    port->state_->options = options;
    if (auto configured = port->state_->configure(); !configured)
        return std::unexpected(std::move(configured.error()));
    port->state_->report.link_up = port->link_up();
    return port;
}

Port& EthdevPort::queue(std::uint16_t index) noexcept {
    CHECK(index < state_->queues.size());
    return *state_->queues[index];
}

std::uint16_t EthdevPort::queue_count() const noexcept {
    return state_->options.queue_count;
}

const EthdevReport& EthdevPort::report() const noexcept {
    return state_->report;
}

bool EthdevPort::link_up() const noexcept {
    rte_eth_link link{};
    return rte_eth_link_get_nowait(state_->device, &link) == 0 &&
           link.link_status == RTE_ETH_LINK_UP;
}

bool EthdevPort::register_memory(std::span<std::byte> arena) noexcept {
    State& state = *state_;
    if (!state.reads_by_iova) return true;
    if (state.areas.size() == memory_areas_max) return false;
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t bytes = arena.size() / page * page;
    if (rte_extmem_register(arena.data(), bytes, nullptr, 0, page) != 0) return false;
    const auto iova = reinterpret_cast<std::uint64_t>(arena.data()); // IOVA as VA
    if (rte_eal_iova_mode() != RTE_IOVA_VA ||
        rte_dev_dma_map(state.found.device, arena.data(), iova, bytes) != 0) {
        rte_extmem_unregister(arena.data(), bytes);
        return false;
    }
    state.areas.push_back(arena.first(bytes));
    return true;
}

// Queues

std::expected<void, PortError> EthdevPort::Queue::make_pools() {
    const EthdevOptions& options = device_.options;
    const int place = rte_eth_dev_socket_id(device_.device);
    const std::size_t frame = std::max<std::size_t>(data_room_min, options.mtu + frame_overhead);
    const auto room = static_cast<std::uint16_t>(
        RTE_PKTMBUF_HEADROOM + (frame + cache_line - 1) / cache_line * cache_line);
    transmit_data_room_ = static_cast<std::uint16_t>(room - RTE_PKTMBUF_HEADROOM);
    const auto make = [&](const char* kind, std::uint32_t count, std::uint32_t cache,
                          std::uint16_t private_bytes, std::uint16_t data_room) {
        const std::string name =
            std::string{kind} + std::to_string(device_.device) + "q" + std::to_string(index_);
        return PoolHandle{rte_pktmbuf_pool_create(name.c_str(), count, std::min(cache, count / 4),
                                                  private_bytes, data_room, place)};
    };
    receive_pool_ = make("receive", options.receive_buffers, pool_cache, 0, room);
    transmit_pool_ = make("transmit", options.transmit_buffers, pool_cache, 0, room);
    attach_pool_ = make("attach", options.attached_buffers, pool_cache,
                        RTE_ALIGN_CEIL(sizeof(Attachment), RTE_MBUF_PRIV_ALIGN), 0);
    // No cache: buffers in the cache of a thread that is gone would be missing here.
    control_pool_ = make("control", options.control_reserve, 0, 0, room);
    if (!receive_pool_ || !transmit_pool_ || !attach_pool_ || !control_pool_) {
        return std::unexpected(device_error(
            PortErrorKind::no_memory, options.device,
            "no memory for its buffers: " + std::string{rte_strerror(rte_errno)} +
                "; reserve more huge pages (echo 512 > /proc/sys/vm/nr_hugepages), give more "
                "memory to DPDK, or ask for fewer buffers"));
    }
    return {};
}

EthdevPort::Queue::~Queue() {
    CHECK(slabs_held_ == 0 || device_.quirks.shares_mbufs);
}

void EthdevPort::Queue::started() {
    info_ = {.name = device_.report.device,
             .driver = device_.report.driver,
             .mac = device_.report.mac,
             .mtu = device_.options.mtu,
             .tso = device_.tso,
             .rss = !device_.rss_table.empty(),
             .transmit_checksum = device_.transmit_tcp_checksum,
             .receive_checksum = device_.receive_checksum,
             .multi_segment = device_.multi_segment,
             .queue = index_,
             .queue_count = device_.options.queue_count};
    asks_offloads_ = device_.transmit_ip_checksum || device_.transmit_tcp_checksum ||
                     device_.transmit_udp_checksum || device_.tso;
    trusts_verdicts_ = device_.receive_checksum;
    counters_.buffers_total = device_.options.transmit_buffers;
}

void EthdevPort::Queue::drop_waiting() noexcept {
    for (; head_ != tail_; ++head_)
        rte_pktmbuf_free(wait_ring_[head_ & wait_mask]);
    prepared_ = tail_;
}

// Receiving

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

// Sending

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

bool EthdevPort::Queue::can_attach(std::span<const FrameSlice> payload,
                                   std::uint32_t bytes) const noexcept {
    if (!device_.attach || bytes < copy_bytes_max) return false;
    // Kept for what the device cuts too: then no segment can span more (i40e: 8 buffers, or the
    // queue stands still for good).
    const std::size_t limit = device_.found.tx_desc_lim.nb_mtu_seg_max;
    if (limit != 0 && payload.size() + 1 > limit) return false;
    return std::ranges::all_of(
        payload, [this](const FrameSlice& slice) { return device_.device_reads(*slice.slab); });
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
    const bool attached = device_cuts || can_attach(piece.payload, piece.payload_bytes);
    rte_mbuf* mbuf = build(piece, frame, attached, device_cuts);
    if (mbuf == nullptr && can_reclaim_ && !reclaimed_this_turn_) {
        reclaim();
        mbuf = build(piece, frame, attached, device_cuts);
    }
    // Payload that cannot be attached for want of mbufs can still be copied.
    if (mbuf == nullptr && attached && !device_cuts) mbuf = build(piece, frame, false, false);
    if (mbuf == nullptr) return false;
    wait_ring_[tail_++ & wait_mask] = mbuf;
    return true;
}

bool EthdevPort::Queue::device_can_cut(const TransmitFrame& frame,
                                       std::uint32_t bytes) const noexcept {
    const std::size_t limit = device_.found.tx_desc_lim.nb_seg_max;
    return device_.tso && bytes <= cut_payload_bytes_max && can_attach(frame.payload, bytes) &&
           (limit == 0 || frame.payload.size() + 1 <= limit);
}

SendResult EthdevPort::Queue::send(const TransmitFrame& frame) noexcept {
    CHECK(frame.header.size() <= frame_header_bytes_max);
    const std::uint32_t bytes = payload_bytes(frame);
    const bool to_cut = frame.segment_bytes != 0 && bytes > frame.segment_bytes;
    const bool device_cuts = to_cut && device_can_cut(frame, bytes);
    const std::size_t count = device_cuts ? 1 : wire_frame_count(frame);
    if (wait_room(frame.control) < count && waiting() > 0 && tail_ != tried_at_) flush();
    if (wait_room(frame.control) < count) {
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
    return std::min(buffers, wait_room(false));
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
