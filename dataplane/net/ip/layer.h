// layer.h: IP on one shard's port: frames in, TCP datagrams and errors out; datagrams in, frames out.
//
// Scope      Ethernet with 802.1Q, IPv4 (RFC 791, 1122), IPv6 (8200), ARP (826, 5227's probing is not ours),
//            Neighbour Discovery (4861: NS and NA), ICMP and ICMPv6
//            echo, path MTU (1191, 8201), reassembly (bounded; overlaps refused, RFC 5722), static
//            routes, thousands of addresses. It answers ARP, ND and echo by itself.
// Owns       Neighbours, path MTUs, fragments under reassembly: each table bounded.
// Threading  One shard. No clock. Other shards' neighbours are learned by learn().
// Failure    What cannot be understood or is not for us is dropped and counted by reason.
#pragma once

#include "dataplane/base/address.h"
#include "dataplane/base/clock.h"
#include "dataplane/base/stream.h"
#include "dataplane/net/port/port.h"
#include "dataplane/net/tcp/segment.h"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <vector>

namespace dataplane::net::ip {

using base::Duration;
using base::IpAddress;
using base::TimePoint;

struct Route {
    base::Network destination; // 0.0.0.0/0 or ::/0 for the default
    IpAddress gateway;
};

struct LayerOptions {
    struct Address {
        IpAddress ip;
        unsigned prefix_bits = 0; // the network that is reached without a gateway; 0: none
    };
    std::vector<Address> addresses; // ours; link-local IPv6 is added from the MAC
    std::vector<Route> routes;
    std::optional<std::uint16_t> vlan;
    std::uint16_t mtu = 1500;
    std::size_t neighbours_max = 4096;
    std::size_t path_mtus_max = 16384;
    std::size_t reassemblies_max = 64;
    Duration neighbour_reachable = std::chrono::seconds{30};
};

/// A transport datagram for us, valid as long as its frame, or until the next receive() when reassembled.
struct Datagram {
    IpAddress source;
    IpAddress destination;
    tcp::Ecn ecn = tcp::Ecn::not_ect;
    std::span<const std::byte> payload; // the TCP header and what follows; padding cut off
};

/// An ICMP error about a TCP segment of ours (RFC 1191, 5461, 5927, 8201, 4443).
struct TransportError {
    enum class Kind : std::uint8_t { packet_too_big, soft, hard };
    Kind kind = Kind::soft;
    base::NetError error = base::NetError::unreachable; // refused for "port unreachable"
    std::uint16_t mtu = 0;                              // packet_too_big: of IP, already clamped
    IpAddress source;                                   // as we had sent it
    IpAddress destination;
    std::uint16_t source_port = 0;
    std::uint16_t destination_port = 0;
    tcp::Seq seq;
};

struct LayerCounters {
    std::uint64_t frames = 0, not_ours = 0, bad_checksum = 0, bad_header = 0, bad_source = 0,
                  unknown_protocol = 0;
    std::uint64_t fragments = 0, reassembled = 0, fragments_dropped = 0;
    std::uint64_t arp_in = 0, nd_in = 0, echo_answered = 0, icmp_errors_in = 0,
                  icmp_errors_ignored = 0;
    std::uint64_t neighbours_learned = 0, neighbours_failed = 0, neighbours_full = 0, no_route = 0;
    std::uint64_t path_mtu_lowered = 0;
    std::uint64_t echo_suppressed = 0;   // over the rate, or too long for one frame
    std::uint64_t address_conflicts = 0; // somebody else says that one of our addresses is his
};

/// Where datagrams to one destination go: kept by each connection, refreshed when stale.
struct Path {
    std::uint32_t neighbour = 0;  // index
    std::uint32_t generation = 0; // 0: never resolved
    std::uint16_t mtu = 0;        // of IP, path MTU discovery included
};

enum class Sent : std::uint8_t {
    sent,
    unresolved,  // the next hop's address is being asked for: on_neighbour() will tell
    unreachable, // no route, or the next hop did not answer lately
    no_buffers,
    ring_full,
};

class Layer {
public:
    /// Told once when a next hop that send() found unresolved has an answer, or has none.
    using OnNeighbour = std::function<void(const IpAddress& next_hop, bool resolved)>;
    /// A neighbour that only this shard has heard: for telling the other shards' learn().
    using OnLearned = std::function<void(const IpAddress& ip, const MacAddress& mac)>;

    Layer(Port& port, LayerOptions options, std::minstd_rand& random);
    ~Layer();

    void on_neighbour(OnNeighbour handler);
    void on_learned(OnLearned handler);

    /// Handles one frame. Gives the TCP datagram in it, if that is what it holds; its TCP checksum is
    /// right. An ICMP error about TCP goes to `error` instead.
    [[nodiscard]] std::optional<Datagram> receive(const ReceivedFrame& frame, TimePoint now,
                                                  std::optional<TransportError>& error);

    /// What a path to `destination` can carry, without sending anything; nullopt when there is no route.
    [[nodiscard]] std::optional<Path> path(const IpAddress& destination, TimePoint now);
    /// The next hop towards a destination: the gateway, or itself.
    [[nodiscard]] std::optional<IpAddress> next_hop(const IpAddress& destination) const noexcept;
    /// Our address for a destination when the caller has no wish (RFC 6724's spirit: same network first).
    [[nodiscard]] std::optional<IpAddress> source_for(const IpAddress& destination) const noexcept;
    [[nodiscard]] bool is_ours(const IpAddress& ip) const noexcept;

    /// Whether send() would find the next hop's address: `sent` when it is known; otherwise it is asked for
    /// as send() would, and the answer is send()'s. For asking before something is taken out to be sent.
    [[nodiscard]] Sent resolve(Path& path, const IpAddress& destination, TimePoint now);
    /// Sends one TCP datagram. `tcp_header` has a zero checksum; the port or this layer fills it in.
    [[nodiscard]] Sent send(Path& path, const IpAddress& source, const IpAddress& destination,
                            tcp::Ecn ecn, std::span<const std::byte> tcp_header,
                            std::span<const FrameSlice> payload, std::uint16_t segment_bytes,
                            bool control, TimePoint now);

    /// Takes over the MTU of a packet_too_big error that its connection found to be about a segment in
    /// flight. Not done by receive(): whoever knows two addresses could forge it (RFC 5927 §7).
    void accept_path_mtu(const TransportError& error, TimePoint now);

    void learn(const IpAddress& ip, const MacAddress& mac, TimePoint now);
    /// Refreshes neighbours before they expire, ends reassemblies, asks again; the earliest is deadline().
    void on_timer(TimePoint now);
    [[nodiscard]] TimePoint deadline() const noexcept;

    [[nodiscard]] const LayerCounters& counters() const noexcept;

private:
    struct State;
    std::unique_ptr<State> state_;
};

} // namespace dataplane::net::ip
