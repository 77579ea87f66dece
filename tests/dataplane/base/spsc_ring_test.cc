// Goal: everything arrives once and in order between two threads, and a full ring refuses.
#include "dataplane/base/spsc_ring.h"

#include <gtest/gtest.h>
#include <memory>
#include <thread>

namespace dataplane::base {
namespace {

TEST(SpscRing, RefusesWhenFullAndLeavesTheValueAlone) {
    SpscRing<std::unique_ptr<int>> ring{3}; // rounded up to 4
    for (int i = 0; i < 4; ++i)
        EXPECT_TRUE(ring.push(std::make_unique<int>(i)));
    auto one_more = std::make_unique<int>(4);
    EXPECT_FALSE(ring.push(std::move(one_more)));
    ASSERT_NE(one_more, nullptr); // NOLINT(bugprone-use-after-move): that is the promise
    EXPECT_EQ(ring.size(), 4U);
    for (int i = 0; i < 4; ++i) {
        auto value = ring.pop();
        ASSERT_TRUE(value);
        EXPECT_EQ(**value, i);
    }
    EXPECT_FALSE(ring.pop());
    EXPECT_TRUE(ring.push(std::move(one_more)));
    EXPECT_EQ(**ring.pop(), 4);
}

TEST(SpscRing, KeepsOrderBetweenTwoThreads) {
    constexpr std::uint64_t count = 300'000;
    SpscRing<std::uint64_t> ring{64};
    std::thread producer{[&] {
        for (std::uint64_t i = 0; i < count;) {
            if (ring.push(std::uint64_t{i})) {
                ++i;
            } else {
                std::this_thread::yield();
            }
        }
    }};
    std::uint64_t wrong = 0;
    for (std::uint64_t expected = 0; expected < count;) {
        if (const auto value = ring.pop()) {
            if (*value != expected) ++wrong;
            ++expected;
        } else {
            std::this_thread::yield();
        }
    }
    producer.join();
    EXPECT_EQ(wrong, 0U);
    EXPECT_EQ(ring.size(), 0U);
}

TEST(SpscRing, SlotsFilledInPlaceArriveOnlyWhenPublished) {
    SpscRing<int> ring{2};
    *ring.claim() = 7;
    EXPECT_EQ(ring.front(), nullptr);
    ring.publish();
    ASSERT_NE(ring.front(), nullptr);
    EXPECT_EQ(*ring.front(), 7);
    ring.release();
    EXPECT_EQ(ring.front(), nullptr);
}

} // namespace
} // namespace dataplane::base
