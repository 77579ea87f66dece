// Goal: a slab returns to its pool with its last reference, and only then.
#include "dataplane/base/slab.h"

#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace dataplane::base {
namespace {

SlabView view_of(SlabPool& pool, std::string_view text) {
    SlabRef slab = pool.take();
    std::memcpy(slab.data(), text.data(), text.size());
    return {std::move(slab), 0, static_cast<std::uint32_t>(text.size())};
}

std::string text_of(const SlabChain& chain) {
    std::string text;
    for (const SlabView& view : chain.views())
        text += as_text(view.bytes());
    return text;
}

TEST(SlabPool, HandsOutEachSlabOnceAndThenNone) {
    SlabPool pool{4096, 3, 4096};
    std::vector<SlabRef> taken;
    for (int i = 0; i < 3; ++i) {
        taken.push_back(pool.take());
        ASSERT_TRUE(taken.back());
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(taken.back().data()) % 4096, 0U);
        for (std::size_t other = 0; other + 1 < taken.size(); ++other) {
            EXPECT_NE(taken[other].data(), taken.back().data());
        }
    }
    EXPECT_FALSE(pool.take());
    EXPECT_EQ(pool.free_count(), 0U);
    taken.pop_back();
    EXPECT_EQ(pool.free_count(), 1U);
    EXPECT_TRUE(pool.take());
}

TEST(SlabRef, TheLastReferenceReturnsTheSlab) {
    SlabPool pool{64, 1};
    SlabRef first = pool.take();
    {
        const SlabRef second = first;
        SlabRef third;
        third = second;
        EXPECT_EQ(first.references(), 3U);
        first.reset();
        EXPECT_EQ(pool.free_count(), 0U);
    }
    EXPECT_EQ(pool.free_count(), 1U);
}

TEST(SlabRef, AssigningAReferenceToItselfKeepsIt) {
    SlabPool pool{64, 1};
    SlabRef slab = pool.take();
    const SlabRef& same = slab;
    slab = same;
    EXPECT_EQ(slab.references(), 1U);
    EXPECT_EQ(pool.free_count(), 0U);
}

TEST(SlabChain, SharesAndSplicesTheSameBytes) {
    SlabPool pool{64, 4};
    SlabChain chain;
    chain.push(view_of(pool, "one "));
    chain.push(view_of(pool, "two "));
    SlabChain copy = chain.share();
    SlabChain more;
    more.push(view_of(pool, "three"));
    copy.splice(std::move(more));
    EXPECT_TRUE(more.empty()); // NOLINT(bugprone-use-after-move): a moved-from chain is empty
    chain.clear();
    EXPECT_EQ(text_of(copy), "one two three");
    EXPECT_EQ(copy.size_bytes(), 13U);
    EXPECT_EQ(pool.free_count(), 1U);
    const SlabChain moved = std::move(copy);
    EXPECT_EQ(text_of(moved), "one two three");
}

TEST(SlabChain, GrowsAtItsEndOnlyWhileNobodyElseHoldsTheSlab) {
    SlabPool pool{64, 2};
    SlabChain chain;
    EXPECT_TRUE(chain.tail_room().empty());
    chain.push(view_of(pool, "abc"));
    ASSERT_EQ(chain.tail_room().size(), 61U);
    chain.tail_room()[0] = std::byte{'d'};
    chain.extend_tail(1);
    EXPECT_EQ(text_of(chain), "abcd");
    {
        const SlabChain copy = chain.share();
        EXPECT_TRUE(chain.tail_room().empty());
    }
    EXPECT_EQ(chain.tail_room().size(), 60U);
}

} // namespace
} // namespace dataplane::base
