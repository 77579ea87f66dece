// reassembly.h: datagrams that come in pieces.
//
// Scope      IPv4 (RFC 791, 815's purpose) and IPv6 (RFC 8200 §4.5, 5722). Any overlap refuses the whole datagram; an
//            exact duplicate is passed over. Tiny pieces are refused (RFC 1858).
// Owns       Copies of the pieces, bounded in number and in bytes; the oldest datagram goes first.
// Threading  One shard. No clock. Allocates: TCP's peers discover the path MTU, so this is rare.
// Failure    What is given up is counted in fragments_dropped, piece by piece.
#pragma once

#include "dataplane/net/ip/layer.h"
#include "dataplane/net/ip/packet.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace dataplane::net::ip {

class Reassembly {
public:
    Reassembly(std::size_t datagrams_max, std::size_t bytes_max, LayerCounters& counters);

    /// Takes one fragment. True when its datagram is whole: then `packet` has protocol, payload and
    /// ECN of it, and the payload is valid until the next add().
    [[nodiscard]] bool add(Packet& packet, TimePoint now);
    void on_timer(TimePoint now) noexcept;
    [[nodiscard]] TimePoint deadline() const noexcept;
    [[nodiscard]] std::size_t datagrams() const noexcept { return pending_.size(); }
    [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }

private:
    struct Piece {
        std::uint16_t offset = 0;
        std::uint16_t bytes = 0;
        std::unique_ptr<std::byte[]> data;
    };
    struct Pending {
        IpAddress source;
        IpAddress destination;
        std::uint32_t id = 0;
        std::uint8_t protocol = 0; // IPv4's key; IPv6: of the first piece
        tcp::Ecn ecn = tcp::Ecn::not_ect;
        bool refused = false;   // kept without pieces, so that the rest of it is refused too
        bool ecn_mixed = false; // not-ECT and ECN-capable pieces together
        bool has_first = false;
        std::uint32_t total = 0; // known from the last piece; 0: not yet
        std::uint32_t received = 0;
        TimePoint ends{};
        std::vector<Piece> pieces; // by offset
    };

    [[nodiscard]] Pending* find(const Packet& packet) noexcept;
    [[nodiscard]] Pending& begin(const Packet& packet, TimePoint now);
    /// False: it overlaps or contradicts what is there.
    [[nodiscard]] bool insert(Pending& pending, const Packet& packet);
    void give_up(Pending& pending) noexcept;
    void erase(Pending& pending) noexcept;

    std::size_t datagrams_max_;
    std::size_t bytes_max_;
    LayerCounters& counters_;
    std::vector<Pending> pending_; // oldest first
    std::size_t bytes_ = 0;
    std::vector<std::byte> whole_;
};

} // namespace dataplane::net::ip
