#include "dataplane/net/stack/port_allocator.h"

#include "dataplane/base/check.h"
#include "dataplane/net/tcp/isn.h"

#include <bit>

namespace dataplane::net::stack {
namespace {

// Our own steering's key: any good one does. Microsoft's well-known repetition of 6d5a would hash a flow and
// its mirror image alike, which we have no use for.
constexpr std::array<std::uint8_t, 40> steering_key = {
    0x3b, 0x9f, 0x5c, 0x11, 0xe8, 0x7a, 0x46, 0xd2, 0x90, 0x2d, 0xbf, 0x63, 0x1c, 0xa5,
    0x74, 0x08, 0xf1, 0x4e, 0xc9, 0x32, 0x8b, 0x67, 0xd5, 0x2a, 0x19, 0xec, 0x80, 0x5f,
    0xb6, 0x43, 0x9d, 0x71, 0x0a, 0xce, 0x38, 0xf4, 0x56, 0xa1, 0x27, 0xdb};
constexpr std::size_t steering_table_size = 1024; // divides nearly evenly by any shard count

} // namespace

Placement::Placement(std::span<const std::uint8_t> rss_key, std::span<const std::uint16_t> table,
                     std::uint16_t mine)
    : toeplitz_(rss_key), table_(table.begin(), table.end()), mine_(mine) {
    CHECK(std::has_single_bit(table.size()));
}

Placement::Placement(unsigned shard_count, unsigned mine)
    : mine_(static_cast<std::uint16_t>(mine)) {
    CHECK(mine < shard_count);
    if (shard_count == 1) return;
    toeplitz_.emplace(steering_key);
    for (std::size_t i = 0; i < steering_table_size; ++i)
        table_.push_back(static_cast<std::uint16_t>(i % shard_count));
}

PortAllocator::Start PortAllocator::start_of(const FlowKey& flow) noexcept {
    base::SipMessage message(secret_);
    message.add_number(std::uint8_t{'P'}); // keeps the uses of one key apart
    tcp::detail::add_address(message, flow.local);
    tcp::detail::add_address(message, flow.remote);
    message.add_number(flow.remote_port);
    const std::uint64_t hash = message.hash();
    std::uint32_t* const count = &counts_[(hash >> 32) % counts_.size()];
    return {static_cast<std::uint32_t>(hash) % source_port_count + *count % source_port_count,
            count};
}

} // namespace dataplane::net::stack
