// Goal: whatever comes and goes, the table finds exactly what is in it, and no single call is long.
#include "dataplane/net/stack/flow_key.h"
#include "dataplane/net/stack/flow_table.h"

#include <chrono>
#include <ctime>
#include <gtest/gtest.h>
#include <random>
#include <unordered_map>
#include <vector>

namespace dataplane::net::stack {
namespace {

/// A table whose values are their own keys; the hash can be made poor, so that buckets overflow.
struct Keys {
    explicit Keys(std::uint64_t mask) : hash_mask(mask) {}
    [[nodiscard]] std::uint64_t hash(std::uint32_t key) const {
        return ((key + 1) * 0x9e3779b97f4a7c15ULL ^ (key + 1) * 0xbf58476d1ce4e5b9ULL >> 31) &
               hash_mask;
    }
    void insert(std::uint32_t key) {
        table.insert(hash(key), key, [this](std::uint32_t value) { return hash(value); });
    }
    void erase(std::uint32_t key) { table.erase(hash(key), key); }
    [[nodiscard]] bool has(std::uint32_t key) const {
        const auto found =
            table.find(hash(key), [key](std::uint32_t value) { return value == key; });
        return found == key;
    }
    std::uint64_t hash_mask;
    FlowTable table;
};

void keep_finding(std::uint64_t hash_mask, std::uint32_t key_count, int steps) {
    Keys keys{hash_mask};
    std::mt19937 random{7};
    std::vector<bool> in(key_count);
    std::size_t size = 0;
    for (int step = 0; step < steps; ++step) {
        const auto key = static_cast<std::uint32_t>(random() % key_count);
        if (in[key]) {
            ASSERT_TRUE(keys.has(key));
            keys.erase(key);
            --size;
        } else {
            ASSERT_FALSE(keys.has(key));
            keys.insert(key);
            ++size;
        }
        in[key] = !in[key];
        if (step % 64 == 0) keys.table.work([&](std::uint32_t value) { return keys.hash(value); });
    }
    EXPECT_EQ(keys.table.size(), size);
    for (std::uint32_t key = 0; key < key_count; ++key)
        ASSERT_EQ(keys.has(key), in[key]) << key;
}

TEST(FlowTable, FindsExactlyWhatIsInItWhileItGrowsAndShrinks) {
    keep_finding(~std::uint64_t{0}, 30'000, 300'000);
}

TEST(FlowTable, StaysRightWhenManyKeysShareABucket) {
    // Two bits of place and the tag are all that is left: long runs of full buckets.
    keep_finding(0xffff000000000003ULL, 200, 40'000);
}

TEST(FlowTable, TellsKeysOfTheSameHashApart) {
    Keys keys{0};
    for (std::uint32_t key = 0; key < 40; ++key)
        keys.insert(key);
    for (std::uint32_t key = 0; key < 40; ++key)
        EXPECT_TRUE(keys.has(key));
    EXPECT_FALSE(keys.has(40));
}

TEST(FlowTable, AnEntryCanBecomeAnotherValueOfTheSameKey) {
    Keys keys{~std::uint64_t{0}};
    for (std::uint32_t key = 0; key < 1000; ++key)
        keys.insert(key);
    keys.table.replace(keys.hash(500), 500, 77'777);
    const auto found =
        keys.table.find(keys.hash(500), [](std::uint32_t value) { return value == 77'777; });
    EXPECT_EQ(found, 77'777U);
    EXPECT_FALSE(keys.has(500));
}

TEST(FlowTable, GrowingToAMillionNeverTakesLongInOneCall) {
    Keys keys{~std::uint64_t{0}};
    // The thread's own time: a machine that is busy with other things is not the table's doing. A rehash in
    // one go would be tens of milliseconds, once for each doubling.
    const auto own_time = [] {
        timespec time{};
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
        return std::chrono::seconds{time.tv_sec} + std::chrono::nanoseconds{time.tv_nsec};
    };
    std::chrono::nanoseconds longest{};
    for (std::uint32_t key = 0; key < 1'000'000; ++key) {
        const auto before = own_time();
        keys.insert(key);
        longest = std::max<std::chrono::nanoseconds>(longest, own_time() - before);
    }
    EXPECT_LT(longest, std::chrono::milliseconds{5});
}

TEST(FlowKey, HashDependsOnEveryFieldAndOnTheSeed) {
    const FlowKey key{*base::IpAddress::parse("192.0.2.1"), *base::IpAddress::parse("198.51.100.2"),
                      40000, 25};
    const std::array<std::uint64_t, 2> seed{1, 2};
    std::vector<std::uint64_t> hashes{flow_hash(key, seed), flow_hash(key, {1, 3}),
                                      flow_hash(key, {2, 2})};
    FlowKey other = key;
    other.local_port = 40001;
    hashes.push_back(flow_hash(other, seed));
    other = key;
    other.remote_port = 26;
    hashes.push_back(flow_hash(other, seed));
    other = key;
    std::swap(other.local, other.remote);
    hashes.push_back(flow_hash(other, seed));
    other = key;
    other.remote = *base::IpAddress::parse("198.51.100.3");
    hashes.push_back(flow_hash(other, seed));
    FlowKey six{*base::IpAddress::parse("2001:db8::1"), *base::IpAddress::parse("2001:db8::2"), 1,
                2};
    hashes.push_back(flow_hash(six, seed));
    six.remote = *base::IpAddress::parse("2001:db8:0:0:1::2");
    hashes.push_back(flow_hash(six, seed));
    std::ranges::sort(hashes);
    EXPECT_EQ(std::ranges::adjacent_find(hashes), hashes.end());
}

} // namespace
} // namespace dataplane::net::stack
