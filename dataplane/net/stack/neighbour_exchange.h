// neighbour_exchange.h: what all shards of a port tell each other about neighbours: an answer reaches one shard.
//
// Scope      News of 32 bytes, from every shard to every other.
// Owns       The rings.
// Threading  attach() and inbox(i) are shard i's; between shards are only SPSC rings.
// Failure    A full ring loses the news: the other shard asks for itself when it needs to know.
#pragma once

#include "dataplane/base/mailbox.h"
#include "dataplane/base/spsc_ring.h"
#include "dataplane/net/stack/stack.h"

#include <memory>
#include <vector>

namespace dataplane::net::stack {

class NeighbourExchange {
public:
    explicit NeighbourExchange(unsigned shard_count, std::size_t ring_entries = 1024);
    ~NeighbourExchange();

    /// From shard i's thread, or before it runs.
    void attach(unsigned shard, Stack& stack);
    /// What others have heard for shard i: its Uring drains it (Uring::add_inbox), or a test.
    [[nodiscard]] base::Inbox& inbox(unsigned shard) noexcept;

private:
    struct News {
        base::IpAddress ip;
        MacAddress mac{};
    };
    class Box;
    std::vector<std::unique_ptr<base::SpscRing<News>>> rings_;
    std::vector<std::unique_ptr<Box>> boxes_;
};

} // namespace dataplane::net::stack
