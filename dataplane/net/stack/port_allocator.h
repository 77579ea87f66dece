// port_allocator.h: the source port of an outbound connection.
//
// Scope      RFC 6056 algorithm 3: a secret hash of (source, destination, destination port) and a count give
//            the place to start, so that ports are not predictable to others and not reused soon. Of the
//            ports from there on, the first that (1) brings the replies to this shard and (2) is not
//            in use towards this destination, TIME_WAIT included. One sweep at most.
// Owns       The counts: a small table by another secret hash (algorithm 4's, so that busy destinations do
//            not move each other's start).
// Threading  One shard. Shards share no state: what another shard may use never comes back to us.
// Failure    nullopt when no port is left towards this destination from this source.
#pragma once

#include "dataplane/net/stack/flow_key.h"
#include "dataplane/net/stack/toeplitz.h"

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace dataplane::net::stack {

inline constexpr std::uint16_t source_port_min = 1024;
inline constexpr std::uint32_t source_port_count = 65536 - source_port_min;

/// Which shard gets a flow's segments.
class Placement {
public:
    /// One shard: everything is ours.
    Placement() noexcept = default;
    /// The NIC decides: queue `mine` of the redirection table, by its own key.
    Placement(std::span<const std::uint8_t> rss_key, std::span<const std::uint16_t> table,
              std::uint16_t mine);
    /// We decide (steering.h): our own hash, one key for all shards.
    Placement(unsigned shard_count, unsigned mine);

    [[nodiscard]] bool everything_is_mine() const noexcept { return table_.empty(); }
    [[nodiscard]] std::uint32_t hash_without_local_port(const FlowKey& flow) const noexcept {
        return everything_is_mine() ? 0 : toeplitz_->hash_without_local_port(flow);
    }
    /// \param start  hash_without_local_port() of the flow
    [[nodiscard]] bool is_mine(std::uint32_t start, bool v6, std::uint16_t port) const noexcept {
        if (everything_is_mine()) return true;
        return owner_of(start ^ toeplitz_->local_port_part(v6, port)) == mine_;
    }
    [[nodiscard]] bool is_mine(const FlowKey& flow) const noexcept { return owner(flow) == mine_; }
    [[nodiscard]] std::uint16_t owner(const FlowKey& flow) const noexcept {
        return everything_is_mine() ? mine_ : owner_of(toeplitz_->hash(flow));
    }
    /// The hash that the NIC should have given with a segment of this flow; for checking that it does.
    [[nodiscard]] std::uint32_t hash(const FlowKey& flow) const noexcept {
        return everything_is_mine() ? 0 : toeplitz_->hash(flow);
    }

private:
    [[nodiscard]] std::uint16_t owner_of(std::uint32_t hash) const noexcept {
        return table_[hash & (table_.size() - 1)];
    }
    std::optional<Toeplitz> toeplitz_;
    std::vector<std::uint16_t> table_; // a power of two of them
    std::uint16_t mine_ = 0;
};

class PortAllocator {
public:
    explicit PortAllocator(std::array<std::uint64_t, 2> secret) noexcept : secret_(secret) {}

    /// Fills in flow.local_port. \param in_use  bool(const FlowKey&)
    template <class InUse>
    [[nodiscard]] bool allocate(FlowKey& flow, const Placement& placement, const InUse& in_use) {
        const Start start = start_of(flow);
        const std::uint32_t hash = placement.hash_without_local_port(flow);
        const bool v6 = flow.local.is_v6();
        for (std::uint32_t step = 0; step < source_port_count; ++step) {
            const auto port = static_cast<std::uint16_t>(source_port_min +
                                                         (start.offset + step) % source_port_count);
            if (!placement.is_mine(hash, v6, port)) continue;
            flow.local_port = port;
            if (in_use(flow)) continue;
            *start.count += step + 1;
            return true;
        }
        flow.local_port = 0;
        return false;
    }

private:
    struct Start {
        std::uint32_t offset;
        std::uint32_t* count;
    };
    [[nodiscard]] Start start_of(const FlowKey& flow) noexcept;

    std::array<std::uint64_t, 2> secret_;
    std::array<std::uint32_t, 1024> counts_{};
};

} // namespace dataplane::net::stack
