// layer_state.h: the inside of Layer, for its own files: layer_receive.cc is what came, layer.cc what goes out.
#pragma once

#include "dataplane/net/ip/arp.h"
#include "dataplane/net/ip/headers.h"
#include "dataplane/net/ip/icmp.h"
#include "dataplane/net/ip/layer.h"
#include "dataplane/net/ip/limits.h"
#include "dataplane/net/ip/nd.h"
#include "dataplane/net/ip/neighbours.h"
#include "dataplane/net/ip/packet.h"
#include "dataplane/net/ip/path_mtu.h"
#include "dataplane/net/ip/reassembly.h"
#include "dataplane/net/ip/routes.h"

#include <algorithm>
#include <array>
#include <utility>

namespace dataplane::net::ip {

using FrameHeader = std::array<std::byte, frame_header_bytes_max>;

struct IpFields {
    const IpAddress& source;
    const IpAddress& destination;
    std::uint8_t protocol;
    std::uint8_t hop_limit = hop_limit_sent;
    tcp::Ecn ecn = tcp::Ecn::not_ect;
};

/// Writes an IP header with a zero checksum; returns its length.
/// \param payload_bytes  transport header included
[[nodiscard]] std::uint16_t write_ip_header(std::byte* at, const IpFields& fields,
                                            std::size_t payload_bytes) noexcept;

[[nodiscard]] std::uint64_t draw_seed(std::minstd_rand& random);

struct Layer::State final : Solicitor {
    State(Port& port_, LayerOptions options_, std::minstd_rand& random)
        : port(port_), options(std::move(options_)), mac(port.info().mac),
          mtu(std::min(options.mtu, port.info().mtu)),
          l2_bytes(
              static_cast<std::uint16_t>(ethernet_bytes + (options.vlan ? vlan_tag_bytes : 0))),
          routes(options, mac, draw_seed(random)),
          neighbours(options.neighbours_max, options.neighbour_reachable, draw_seed(random), random,
                     *this, counters),
          path_mtus(options.path_mtus_max, draw_seed(random)),
          reassembly(options.reassemblies_max, reassembly_bytes_max, counters),
          echo_slabs_pool(std::make_unique<base::SlabPool>(echo_slab_bytes, echo_slabs)) {}

    ~State() override {
        // What a device may still read must not be freed; it gives back only what its port polls.
        if (echo_slabs_pool->free_count() != echo_slabs_pool->slab_count())
            static_cast<void>(echo_slabs_pool.release());
    }
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    // What came.
    struct Frame {
        Bytes l3;
        MacAddress from{};
        bool to_us = false; // to our MAC, not to a group's
        TimePoint now{};
    };
    using Datagrams = std::optional<Datagram>;
    Datagrams on_ipv4(const Frame& frame, const ReceivedFrame& received,
                      std::optional<TransportError>& error);
    Datagrams on_ipv6(const Frame& frame, const ReceivedFrame& received,
                      std::optional<TransportError>& error);
    Datagrams on_transport(const Frame& frame, Packet& packet, ChecksumState checksum,
                           std::optional<TransportError>& error);
    void on_arp(const Frame& frame);
    void on_icmp(const Frame& frame, const Packet& packet, std::optional<TransportError>& error);
    void on_icmp6(const Frame& frame, const Packet& packet, std::optional<TransportError>& error);
    void on_solicitation(const Frame& frame, const Packet& packet, const NeighbourMessage& message);
    void on_advertisement(const Frame& frame, const NeighbourMessage& message);
    void on_error(const Packet& packet, const std::optional<TransportError>& read,
                  std::optional<TransportError>& error);
    void echo(const Frame& frame, const Packet& packet);

    // What goes out.
    std::byte* begin_frame(FrameHeader& header, const MacAddress& to,
                           std::uint16_t ethertype) const noexcept;
    void send_arp(const Arp& arp, const MacAddress& to) noexcept;
    void send_neighbour(const NeighbourMessage& message, const IpFields& fields,
                        const MacAddress& to) noexcept;
    Sent resolve(Path& path, const IpAddress& destination, TimePoint now,
                 const MacAddress*& to) noexcept;
    [[nodiscard]] std::uint16_t mtu_to(const IpAddress& destination) const noexcept {
        return std::min(mtu, path_mtus.find(destination).value_or(mtu));
    }

    // Solicitor
    void solicit(const IpAddress& ip, const MacAddress* at) noexcept override;
    void settled(const IpAddress& ip, bool resolved) noexcept override {
        if (neighbour_handler) neighbour_handler(ip, resolved);
    }

    void tell_learned(const IpAddress& ip, const MacAddress& at) {
        if (learned_handler) learned_handler(ip, at);
    }
    std::nullopt_t drop(Drop why) noexcept {
        switch (why) {
        case Drop::not_ours:
            ++counters.not_ours;
            break;
        case Drop::bad_checksum:
            ++counters.bad_checksum;
            break;
        case Drop::bad_header:
            ++counters.bad_header;
            break;
        case Drop::bad_source:
            ++counters.bad_source;
            break;
        case Drop::unknown_protocol:
            ++counters.unknown_protocol;
            break;
        }
        return std::nullopt;
    }
    [[nodiscard]] bool ours(const IpAddress& ip) const noexcept {
        return routes.known(ip) == Routes::Known::ours;
    }
    [[nodiscard]] bool echo_allowed(TimePoint now) noexcept {
        if (now - echo_second >= std::chrono::seconds{1}) {
            echo_second = now;
            echo_count = 0;
        }
        return echo_count++ < echo_replies_per_second;
    }

    Port& port;
    LayerOptions options;
    MacAddress mac;
    std::uint16_t mtu;
    std::uint16_t l2_bytes;
    LayerCounters counters;
    Routes routes;
    Neighbours neighbours;
    PathMtus path_mtus;
    Reassembly reassembly;
    OnNeighbour neighbour_handler;
    OnLearned learned_handler;
    std::unique_ptr<base::SlabPool> echo_slabs_pool;
    TimePoint echo_second{};
    unsigned echo_count = 0;
};

} // namespace dataplane::net::ip
