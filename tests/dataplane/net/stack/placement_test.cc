// Goal: our tables give the NIC's own hash, and every source port brings its replies to the shard that opened.
#include "dataplane/net/stack/port_allocator.h"
#include "dataplane/net/stack/toeplitz.h"

#include <cmath>
#include <gtest/gtest.h>
#include <random>
#include <set>

namespace dataplane::net::stack {
namespace {

// The key of Microsoft's "Verifying the RSS Hash Calculation", and its examples.
constexpr std::array<std::uint8_t, 40> microsoft_key = {
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
    0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
    0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

FlowKey flow(const char* local, std::uint16_t local_port, const char* remote,
             std::uint16_t remote_port) {
    return {*base::IpAddress::parse(local), *base::IpAddress::parse(remote), local_port,
            remote_port};
}

TEST(Toeplitz, GivesThePublishedHashes) {
    const Toeplitz toeplitz{microsoft_key};
    const auto hash = [&](auto... flow_parts) { return toeplitz.hash(flow(flow_parts...)); };
    EXPECT_EQ(hash("161.142.100.80", 1766, "66.9.149.187", 2794), 0x51ccc178U);
    EXPECT_EQ(hash("65.69.140.83", 4739, "199.92.111.2", 14230), 0xc626b0eaU);
    EXPECT_EQ(hash("12.22.207.184", 38024, "24.19.198.95", 12898), 0x5c2b394aU);
    EXPECT_EQ(hash("209.142.163.6", 2217, "38.27.205.30", 48228), 0xafc7327fU);
    EXPECT_EQ(hash("202.188.127.2", 1303, "153.39.163.191", 44251), 0x10e828a2U);
    EXPECT_EQ(hash("3ffe:2501:200:3::1", 1766, "3ffe:2501:200:1fff::7", 2794), 0x40207d3dU);
    EXPECT_EQ(hash("ff02::1", 4739, "3ffe:501:8::260:97ff:fe40:efab", 14230), 0xdde51bbfU);
    EXPECT_EQ(hash("fe80::200:f8ff:fe21:67cf", 38024, "3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251),
              0x02d1feefU);
}

base::IpAddress random_ip(std::mt19937& random, bool v6) {
    std::array<std::uint8_t, 16> bytes;
    for (std::uint8_t& byte : bytes)
        byte = static_cast<std::uint8_t>(random());
    bytes[0] = 0x20;
    if (v6) return base::IpAddress::v6(bytes);
    return base::IpAddress::v4({bytes[0], bytes[1], bytes[2], bytes[3]});
}

/// The hash straight from its definition, over the bytes as they lie in a received segment.
std::uint32_t by_definition(std::span<const std::uint8_t> key, const FlowKey& flow) {
    std::vector<std::uint8_t> input;
    const std::size_t ip_bytes = flow.local.is_v6() ? 16 : 4;
    for (const base::IpAddress& ip : {flow.remote, flow.local})
        input.insert(input.end(), ip.bytes().begin(), ip.bytes().begin() + ip_bytes);
    for (const std::uint16_t port : {flow.remote_port, flow.local_port}) {
        input.push_back(static_cast<std::uint8_t>(port >> 8));
        input.push_back(static_cast<std::uint8_t>(port & 255));
    }
    return toeplitz_bitwise(key, input);
}

TEST(Toeplitz, TablesAgreeWithTheDefinitionForAnyKey) {
    std::mt19937 random{3};
    for (const std::size_t key_bytes : {std::size_t{40}, std::size_t{52}}) {
        for (int round = 0; round < 20; ++round) {
            std::vector<std::uint8_t> key(key_bytes);
            for (std::uint8_t& byte : key)
                byte = static_cast<std::uint8_t>(random());
            const Toeplitz toeplitz{key};
            for (const bool v6 : {false, true}) {
                const FlowKey one{random_ip(random, v6), random_ip(random, v6),
                                  static_cast<std::uint16_t>(random()),
                                  static_cast<std::uint16_t>(random())};
                EXPECT_EQ(toeplitz.hash(one), by_definition(key, one));
            }
        }
    }
}

const auto nothing_in_use = [](const FlowKey&) { return false; };

// T16
TEST(PortAllocator, EveryPortChosenBringsItsRepliesToTheQueueThatOpened) {
    std::mt19937 random{5};
    std::vector<std::uint8_t> odd_key(52);
    for (std::uint8_t& byte : odd_key)
        byte = static_cast<std::uint8_t>(random());
    for (const std::span<const std::uint8_t> key :
         {std::span<const std::uint8_t>{microsoft_key}, std::span<const std::uint8_t>{odd_key}}) {
        for (std::uint16_t queues = 1; queues <= 16; ++queues) {
            std::vector<std::uint16_t> table(128);
            for (std::size_t i = 0; i < table.size(); ++i)
                table[i] = static_cast<std::uint16_t>(i % queues);
            const auto mine = static_cast<std::uint16_t>(random() % queues);
            const Placement placement{key, table, mine};
            PortAllocator ports{{11, 12}};
            for (int i = 0; i < 100; ++i) {
                const bool v6 = i % 2 == 1;
                FlowKey chosen{random_ip(random, v6), random_ip(random, v6), 0, 25};
                ASSERT_TRUE(ports.allocate(chosen, placement, nothing_in_use));
                ASSERT_GE(chosen.local_port, source_port_min);
                ASSERT_EQ(table[by_definition(key, chosen) % table.size()], mine);
                ASSERT_EQ(placement.owner(chosen), mine);
            }
        }
    }
}

TEST(PortAllocator, ShardsWithoutRssGetDisjointPortsThatCoverAll) {
    constexpr unsigned shards = 3;
    std::set<std::uint16_t> all;
    for (unsigned shard = 0; shard < shards; ++shard) {
        const Placement placement{shards, shard};
        PortAllocator ports{{1, 2}};
        std::set<std::uint16_t> mine;
        FlowKey key = flow("192.0.2.1", 0, "198.51.100.2", 25);
        while (ports.allocate(key, placement,
                              [&](const FlowKey& k) { return mine.contains(k.local_port); })) {
            mine.insert(key.local_port);
        }
        EXPECT_GT(mine.size(), source_port_count / shards * 9 / 10);
        for (const std::uint16_t port : mine)
            EXPECT_TRUE(all.insert(port).second) << port;
    }
    EXPECT_EQ(all.size(), source_port_count);
}

// T14, T15
TEST(PortAllocator, EveryPortIsFoundBeforeItGivesUpAndOtherDestinationsHaveTheirOwn) {
    PortAllocator ports{{1, 2}};
    const Placement placement;
    std::vector<bool> used(65536);
    const auto in_use = [&](const FlowKey& key) {
        return key.remote == *base::IpAddress::parse("198.51.100.2") && used[key.local_port];
    };
    FlowKey key = flow("192.0.2.1", 0, "198.51.100.2", 25);
    for (std::uint32_t i = 0; i < source_port_count; ++i) {
        ASSERT_TRUE(ports.allocate(key, placement, in_use)) << i;
        ASSERT_FALSE(used[key.local_port]);
        used[key.local_port] = true;
    }
    EXPECT_FALSE(ports.allocate(key, placement, in_use));
    used[32'000] = false;
    EXPECT_TRUE(ports.allocate(key, placement, in_use));
    EXPECT_EQ(key.local_port, 32'000);
    used[32'000] = true;
    FlowKey other = flow("192.0.2.1", 0, "198.51.100.3", 25);
    EXPECT_TRUE(ports.allocate(other, placement, in_use));
}

// T17
TEST(PortAllocator, FirstPortsTowardsManyDestinationsAreSpreadEvenlyAndDependOnTheSecret) {
    PortAllocator ports{{1, 2}};
    PortAllocator others{{1, 3}};
    std::mt19937 random{9};
    constexpr int destinations = 32'000;
    std::array<int, 16> bins{};
    int same = 0;
    for (int i = 0; i < destinations; ++i) {
        FlowKey key{*base::IpAddress::parse("192.0.2.1"), random_ip(random, false), 0, 25};
        FlowKey other = key;
        ASSERT_TRUE(ports.allocate(key, Placement{}, nothing_in_use));
        ASSERT_TRUE(others.allocate(other, Placement{}, nothing_in_use));
        ++bins[(key.local_port - source_port_min) / (source_port_count / 16 + 1)];
        if (key.local_port == other.local_port) ++same;
    }
    double chi_square = 0;
    for (const int bin : bins)
        chi_square += std::pow(bin - destinations / 16, 2) / (destinations / 16.0);
    EXPECT_LT(chi_square, 45.0); // 15 degrees of freedom: one in ten thousand
    EXPECT_LT(same, 10);
}

} // namespace
} // namespace dataplane::net::stack
