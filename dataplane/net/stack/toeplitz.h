// toeplitz.h: the hash by which a NIC spreads flows over queues (RSS), fast for one port after another.
//
// Scope      Microsoft's "RSS hash types" over IPv4 and IPv6 with TCP ports, for any key. The hash is linear
//            over GF(2), so a flow's hash is the sum of what its addresses and the peer's port
//            contribute and what our port does, and the latter comes from two tables of 256: a source port
//            that makes the replies come to our queue is found in nanoseconds a try, with the NIC's own key.
// Owns       The tables, 2 KiB a family.
// Threading  Read-only after construction.
#pragma once

#include "dataplane/net/stack/flow_key.h"

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace dataplane::net::stack {

/// The hash bit by bit, from its definition. \pre  key.size() >= input.size() + 4
[[nodiscard]] std::uint32_t toeplitz_bitwise(std::span<const std::uint8_t> key,
                                             std::span<const std::uint8_t> input) noexcept;

class Toeplitz {
public:
    static constexpr std::size_t key_bytes_min = 40; // what IPv6 with ports needs

    /// \param key  40 or 52 bytes, or more; what lies beyond the 40th is not used by TCP
    explicit Toeplitz(std::span<const std::uint8_t> key);

    /// The NIC's hash of a segment that comes from the flow's remote end: source is the peer, and our
    /// port is the destination port.
    [[nodiscard]] std::uint32_t hash(const FlowKey& flow) const noexcept {
        return hash_without_local_port(flow) ^ local_port_part(flow.local.is_v6(), flow.local_port);
    }
    [[nodiscard]] std::uint32_t hash_without_local_port(const FlowKey& flow) const noexcept;
    [[nodiscard]] std::uint32_t local_port_part(bool v6, std::uint16_t port) const noexcept {
        const PortTables& tables = tables_[v6 ? 1 : 0];
        return tables.high[port >> 8] ^ tables.low[port & 255];
    }

private:
    struct PortTables {
        std::array<std::uint32_t, 256> high;
        std::array<std::uint32_t, 256> low;
    };
    std::vector<std::uint8_t> key_;
    std::array<PortTables, 2> tables_; // IPv4, IPv6
};

} // namespace dataplane::net::stack
