#include "dataplane/net/port/ethdev_device.h"

#include "dataplane/base/check.h"
#include "dataplane/net/port/interface_mtu.h"

#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_ethdev.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

namespace dataplane::net {
namespace {

constexpr std::uint16_t ethernet_mtu = 1500;

} // namespace

PortError device_error(PortErrorKind kind, const std::string& device, const std::string& what) {
    std::string log = eal_log::take();
    while (!log.empty() && log.back() == '\n')
        log.pop_back();
    return {kind, device + ": " + what + (log.empty() ? "" : "\nDPDK says: " + log)};
}

std::string EthdevReport::text() const {
    std::array<char, 18> address{};
    std::snprintf(address.data(), address.size(), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1],
                  mac[2], mac[3], mac[4], mac[5]);
    std::string out = device + ": " + driver + " on " + bus + ", " + address.data() + ", MTU " +
                      std::to_string(mtu) + (why_mtu.empty() ? "" : " (" + why_mtu + ")") + ", " +
                      std::to_string(queue_count) + (queue_count == 1 ? " queue" : " queues") +
                      (link_up ? ", link up\n" : ", link down\n");
    for (const Feature& feature : features) {
        out += "  " + feature.name + ": " +
               (feature.device ? "by the device" : "in software (" + feature.why + ")") + "\n";
    }
    return out;
}

EthdevPort::State::State() : found(std::make_unique<rte_eth_dev_info>()) {}

std::expected<void, PortError> EthdevPort::State::open() {
    if (auto looked = look(); !looked) return looked;
    const std::uint16_t wanted = options.queue_count;
    if (options.spread_or_one && wanted > 1) {
        why_not_spread = why_rss_is_not_offered();
        if (!why_not_spread.empty()) options.queue_count = 1;
    }
    if (auto checked = check_options(); !checked) return checked;
    follow_interface_mtu();
    if (auto up = bring_up(); !up) return up;
    if (options.spread_or_one && options.queue_count > 1 && rss_table.empty()) {
        // It offers what it then does not show: once more, with the one queue that we can do with.
        rte_eth_dev_stop(device);
        started = false;
        given_up = std::move(queues);
        queues.clear();
        options.queue_count = 1;
        if (auto up = bring_up(); !up) return up;
    }
    report.queue_count = options.queue_count;
    if (wanted > 1) feature("spreading over queues (RSS)", !rss_table.empty(), why_not_spread);
    for (auto& queue : queues)
        queue->started();
    return {};
}

std::expected<void, PortError> EthdevPort::State::look() {
    if (const int error = rte_eth_dev_info_get(device, found.get()); error != 0) {
        return std::unexpected(
            device_error(PortErrorKind::device_failed, options.device, "tells nothing"));
    }
    const rte_bus* bus = found->device != nullptr ? rte_dev_bus(found->device) : nullptr;
    const rte_devargs* arguments =
        found->device != nullptr ? rte_dev_devargs(found->device) : nullptr;
    report.device = options.device;
    report.driver = found->driver_name;
    report.bus = bus != nullptr ? rte_bus_name(bus) : "none";
    reads_by_iova = (report.bus != "vdev" && report.bus != "none") || options.reads_registered_only;
    segments_per_frame_max = found->tx_desc_lim.nb_mtu_seg_max;
    segments_per_cut_max = found->tx_desc_lim.nb_seg_max;
    quirks = quirks_of(report.driver,
                       arguments != nullptr && arguments->args != nullptr ? arguments->args : "");
    if (options.use_software_offloads) quirks.no_offloads = false;
    return {};
}

std::expected<void, PortError> EthdevPort::State::check_options() {
    const auto refuse = [this](const std::string& what) {
        return std::unexpected(device_error(PortErrorKind::bad_option, options.device, what));
    };
    const unsigned pairs = std::min(found->max_rx_queues, found->max_tx_queues);
    if (options.queue_count == 0 || options.queue_count > pairs)
        return refuse("has " + std::to_string(pairs) + " queue pairs; ask for 1 up to that many");
    if (options.control_reserve < control_reserve_min) {
        return refuse("the control reserve must be at least " +
                      std::to_string(control_reserve_min));
    }
    if (options.receive_buffers <= options.receive_ring)
        return refuse("receive buffers must be more than the receive ring has entries");
    if (found->max_mtu != 0 && options.mtu > found->max_mtu)
        return refuse("carries an MTU of " + std::to_string(found->max_mtu) + " at most");
    return {};
}

void EthdevPort::State::follow_interface_mtu() {
    report.mtu_wanted = options.mtu;
    if (found->if_index != 0) {
        const InterfaceMtu there = interface_mtu(found->if_index);
        if (there.bytes != 0 && there.bytes < options.mtu) {
            options.mtu = there.bytes;
            report.why_mtu = there.of_peer ? "the other end of the veth has no more"
                                           : "the interface has no more";
        } else if (there.peer_hidden) {
            report.why_mtu =
                "of the veth's other end nothing could be learned: it must not have less";
        }
    }
    report.mtu = options.mtu;
}

std::expected<void, PortError> EthdevPort::State::bring_up() {
    report.features.clear();
    rte_eth_conf conf{};
    choose_features(conf.rxmode.offloads, conf.txmode.offloads);
    // Our own buffers are as large as the options say; this is only what the driver is told.
    conf.rxmode.mtu = quirks.any_length ? std::min(options.mtu, ethernet_mtu) : options.mtu;
    if (options.queue_count > 1 && found->flow_type_rss_offloads != 0 && !quirks.no_offloads) {
        conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
        conf.rx_adv_conf.rss_conf.rss_hf =
            found->flow_type_rss_offloads &
            (RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV6_TCP);
    }
    const auto failed = [this](const std::string& what, int error) {
        return std::unexpected(device_error(PortErrorKind::device_failed, options.device,
                                            what + ": " + std::strerror(-error)));
    };
    if (const int error =
            rte_eth_dev_configure(device, options.queue_count, options.queue_count, &conf);
        error != 0) {
        return failed("refuses its configuration", error);
    }
    if (auto made = set_up_queues(conf); !made) return made;
    if (const int error = rte_eth_dev_start(device); error != 0)
        return failed("does not start", error);
    started = true;
    // For multicast (ND); the layer above drops what is not ours.
    rte_eth_promiscuous_enable(device);
    rte_ether_addr mac{};
    if (rte_eth_macaddr_get(device, &mac) == 0)
        std::copy_n(std::begin(mac.addr_bytes), report.mac.size(), report.mac.begin());
    feature("frames of several buffers", multi_segment, why_not(options.use_multi_segment));
    ask_driver();
    read_rss();
    return {};
}

std::expected<void, PortError> EthdevPort::State::set_up_queues(const rte_eth_conf& conf) {
    std::uint16_t receive_ring = options.receive_ring;
    std::uint16_t transmit_ring = options.transmit_ring;
    rte_eth_dev_adjust_nb_rx_tx_desc(device, &receive_ring, &transmit_ring);
    const int socket = rte_eth_dev_socket_id(device);
    const unsigned place = socket < 0 ? SOCKET_ID_ANY : static_cast<unsigned>(socket);
    for (std::uint16_t i = 0; i < options.queue_count; ++i) {
        queues.push_back(std::make_unique<Queue>(*this, i));
        if (auto made = queues.back()->make_pools(); !made)
            return std::unexpected(std::move(made.error()));
        rte_eth_rxconf receive = found->default_rxconf;
        receive.offloads = conf.rxmode.offloads & found->rx_queue_offload_capa;
        rte_eth_txconf transmit = found->default_txconf;
        transmit.offloads = conf.txmode.offloads & found->tx_queue_offload_capa;
        int error = rte_eth_rx_queue_setup(device, i, receive_ring, place, &receive,
                                           queues.back()->receive_pool());
        if (error == 0) error = rte_eth_tx_queue_setup(device, i, transmit_ring, place, &transmit);
        if (error != 0) {
            return std::unexpected(
                device_error(PortErrorKind::device_failed, options.device,
                             "refuses queue " + std::to_string(i) + ": " + std::strerror(-error)));
        }
    }
    return {};
}

EthdevPort::State::~State() {
    for (auto& queue : queues)
        queue->drop_waiting();
    if (started) rte_eth_dev_stop(device);
    unmap_all();
    // Frees what the device still held, which gives back slabs, so before the pools go.
    rte_eth_dev_close(device);
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
    if (auto opened = port->state_->open(); !opened)
        return std::unexpected(std::move(opened.error()));
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

} // namespace dataplane::net
