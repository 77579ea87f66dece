// send_queue and receive_buffer alone.
#include "dataplane/net/tcp/receive_buffer.h"
#include "dataplane/net/tcp/send_queue.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

namespace dataplane::net::tcp {
namespace {

std::string gathered(const SendQueue& queue, Seq from, std::uint32_t bytes) {
    std::array<base::SlabView, 64> slices;
    std::string text;
    const std::size_t count = queue.gather(from, bytes, slices);
    for (std::size_t i = 0; i < count; ++i)
        text += base::as_text(slices[i].bytes());
    return text;
}

TEST(SendQueue, SmallWritesShareASlabAndIdleHoldsNone) {
    base::SlabPool pool(64, 8);
    SendQueue queue;
    queue.begin_at(Seq{0xffff'fffa}); // wraps in the middle
    EXPECT_EQ(queue.append_copy(base::as_bytes("MAIL "), pool), 5U);
    EXPECT_EQ(queue.append_copy(base::as_bytes("RCPT "), pool), 5U);
    EXPECT_EQ(pool.free_count(), 7U);
    EXPECT_EQ(gathered(queue, Seq{0xffff'fffa}, 10), "MAIL RCPT ");
    EXPECT_EQ(gathered(queue, Seq{0xffff'fffd}, 4), "L RC");
    queue.acknowledge(queue.begin() + 7);
    EXPECT_EQ(gathered(queue, queue.begin(), 3), "PT ");
    queue.acknowledge(queue.end());
    EXPECT_EQ(pool.free_count(), 8U);
}

// T29: what has been handed out is never written again, also while somebody holds it.
TEST(SendQueue, BytesHandedOutAreNeverWrittenAgain) {
    base::SlabPool pool(64, 8);
    SendQueue queue;
    queue.begin_at(Seq{1});
    static_cast<void>(queue.append_copy(base::as_bytes("first"), pool));
    std::array<base::SlabView, 1> held;
    ASSERT_EQ(queue.gather(Seq{1}, 5, held), 1U);
    static_cast<void>(queue.append_copy(base::as_bytes("second"), pool));
    EXPECT_EQ(gathered(queue, Seq{1}, 11), "firstsecond");
    queue.acknowledge(Seq{12});
    static_cast<void>(queue.append_copy(base::as_bytes("XXXXXXXXXXXXXX"), pool));
    EXPECT_EQ(base::as_text(held[0].bytes()), "first");
}

TEST(SendQueue, NothingIsCopiedIntoASlabOfTheApplication) {
    base::SlabPool pool(64, 8);
    base::SlabPool own(64, 1);
    SendQueue queue;
    queue.begin_at(Seq{1});
    base::SlabRef slab = own.take();
    std::memcpy(slab.data(), "bodyKEEP", 8);
    queue.append({slab, 0, 4});
    static_cast<void>(queue.append_copy(base::as_bytes("tail"), pool));
    EXPECT_EQ(gathered(queue, Seq{1}, 8), "bodytail");
    EXPECT_EQ(base::as_text({slab.data() + 4, 4}), "KEEP");
}

TEST(SendQueue, AnEmptyPoolTakesLess) {
    base::SlabPool pool(64, 2);
    SendQueue queue;
    queue.begin_at(Seq{1});
    EXPECT_EQ(queue.append_copy(base::as_bytes(std::string(200, 'x')), pool), 128U);
    EXPECT_EQ(queue.append_copy(base::as_bytes("y"), pool), 0U);
    EXPECT_EQ(queue.bytes(), 128U);
}

TEST(SendQueue, AnyPartIsFoundWhereverTheCursorStands) {
    base::SlabPool pool(64, 64);
    std::mt19937 random(3);
    SendQueue queue;
    queue.begin_at(Seq{0xffff'ff00});
    std::string all;
    std::uint32_t acked = 0;
    std::uint32_t sent = 0;
    for (int round = 0; round < 5000; ++round) {
        const std::string text(1 + random() % 90, static_cast<char>('a' + round % 26));
        if (random() % 3 == 0) {
            base::SlabRef slab = pool.take();
            if (slab && text.size() <= 64) {
                std::memcpy(slab.data(), text.data(), text.size());
                queue.append({slab, 0, static_cast<std::uint32_t>(text.size())});
                all += text;
            }
        } else {
            all += text.substr(0, queue.append_copy(base::as_bytes(text), pool));
        }
        const auto total = static_cast<std::uint32_t>(all.size());
        if (random() % 2 == 0 && sent < total) {
            queue.point_at(Seq{0xffff'ff00} + sent);
            const std::uint32_t bytes = std::min<std::uint32_t>(total - sent, random() % 300);
            ASSERT_EQ(gathered(queue, Seq{0xffff'ff00} + sent, bytes), all.substr(sent, bytes));
            sent += bytes;
        }
        if (acked < sent) {
            const std::uint32_t from = acked + random() % (sent - acked);
            const std::uint32_t bytes = random() % (sent - from + 1);
            ASSERT_EQ(gathered(queue, Seq{0xffff'ff00} + from, bytes), all.substr(from, bytes));
        }
        if (random() % 3 == 0) {
            acked += random() % (sent - acked + 1);
            queue.acknowledge(Seq{0xffff'ff00} + acked);
        }
    }
    queue.clear();
    EXPECT_EQ(pool.free_count(), 64U);
}

TEST(SendQueue, TooFewSlicesGiveTheFront) {
    base::SlabPool pool(64, 4);
    SendQueue queue;
    queue.begin_at(Seq{1});
    static_cast<void>(queue.append_copy(base::as_bytes(std::string(200, 'x')), pool));
    std::array<base::SlabView, 2> slices;
    ASSERT_EQ(queue.gather(Seq{1}, 200, slices), 2U);
    EXPECT_EQ(slices[0].length + slices[1].length, 128U);
}

class Receiver : public ::testing::Test {
protected:
    Receiver() { buffer.begin_at(Seq{0}); }
    ReceiveBuffer::Stored store(std::uint32_t at, std::string_view text) {
        return buffer.store(Seq{at}, base::as_bytes(text), pool, 4);
    }
    std::string read(std::size_t most = 1000) {
        std::string text;
        while (!buffer.unread().empty() && text.size() < most) {
            const auto front =
                buffer.unread().first(std::min(buffer.unread().size(), most - text.size()));
            text += base::as_text(front);
            buffer.consume(static_cast<std::uint32_t>(front.size()));
        }
        return text;
    }
    base::SlabPool pool{64, 8};
    ReceiveBuffer buffer;
};

TEST_F(Receiver, EarlyBytesAreJoinedWhereTheyLie) {
    store(5, "world");
    EXPECT_EQ(buffer.next(), Seq{0});
    EXPECT_TRUE(buffer.out_of_order());
    store(0, "hello");
    EXPECT_EQ(buffer.next(), Seq{10});
    EXPECT_FALSE(buffer.out_of_order());
    EXPECT_EQ(read(), "helloworld");
    EXPECT_EQ(pool.free_count(), 8U);
}

TEST_F(Receiver, IdleHoldsNothingAndTheNextByteBeginsASlab) {
    store(0, "abc");
    EXPECT_EQ(read(), "abc");
    EXPECT_EQ(pool.free_count(), 8U);
    store(3, std::string(64, 'x'));
    EXPECT_EQ(pool.free_count(), 7U); // one: it begins at offset 0
    EXPECT_EQ(buffer.unread().size(), 64U);
}

TEST_F(Receiver, ReadSlabsGoBackWhileLaterOnesStay) {
    store(0, std::string(200, 'x'));
    EXPECT_EQ(pool.free_count(), 4U);
    EXPECT_EQ(read(130).size(), 130U);
    EXPECT_EQ(pool.free_count(), 6U);
    EXPECT_EQ(buffer.unread_bytes(), 70U);
}

// RFC 2018 §4: the block with the newest segment comes first.
TEST_F(Receiver, SackBlocksAreTheMostRecentFirst) {
    store(10, "a");
    store(20, "b");
    store(30, "c");
    store(21, "b");
    std::array<SackBlock, 4> blocks;
    ASSERT_EQ(buffer.sack_blocks(blocks), 3U);
    EXPECT_EQ(blocks[0], (SackBlock{Seq{20}, Seq{22}}));
    EXPECT_EQ(blocks[1], (SackBlock{Seq{30}, Seq{31}}));
    EXPECT_EQ(blocks[2], (SackBlock{Seq{10}, Seq{11}}));
}

TEST_F(Receiver, OneSegmentMayJoinManyRanges) {
    store(10, "a");
    store(12, "c");
    store(14, "e");
    store(9, "xaxcxex");
    std::array<SackBlock, 4> blocks;
    ASSERT_EQ(buffer.sack_blocks(blocks), 1U);
    EXPECT_EQ(blocks[0], (SackBlock{Seq{9}, Seq{16}}));
}

TEST_F(Receiver, BytesThatReachBeyondAnEarlyRangeSwallowIt) {
    store(5, "fgh");
    store(0, "abcdefghij");
    EXPECT_EQ(buffer.next(), Seq{10});
    EXPECT_FALSE(buffer.out_of_order());
    EXPECT_EQ(read(), "abcdefghij");
}

// T31
TEST_F(Receiver, RangesAreBoundedAndTheFirstHoleCanStillFill) {
    for (std::uint32_t at = 1; at <= 7; at += 2)
        EXPECT_EQ(store(at, "x"), ReceiveBuffer::Stored::all);
    EXPECT_EQ(store(9, "x"), ReceiveBuffer::Stored::no_range);
    EXPECT_EQ(store(8, "x"), ReceiveBuffer::Stored::all); // touches one that is there
    EXPECT_EQ(store(0, "x"), ReceiveBuffer::Stored::all);
    EXPECT_EQ(buffer.next(), Seq{2});
}

TEST_F(Receiver, WithoutASlabOnlyThePartThatFitsIsThere) {
    EXPECT_EQ(store(0, std::string(600, 'x')), ReceiveBuffer::Stored::part_no_slab);
    EXPECT_EQ(buffer.next(), Seq{512});
    EXPECT_EQ(store(512, "y"), ReceiveBuffer::Stored::part_no_slab);
    EXPECT_EQ(buffer.next(), Seq{512});
    EXPECT_EQ(read().size(), 512U);
    EXPECT_EQ(store(512, "y"), ReceiveBuffer::Stored::all);
}

TEST_F(Receiver, AHoleMayBeAWholeSlabWide) {
    store(0, "a");
    store(200, "z");
    EXPECT_EQ(pool.free_count(), 6U);
    EXPECT_EQ(read(), "a");
    store(1, std::string(199, 'm'));
    EXPECT_EQ(read(), std::string(199, 'm') + "z");
    EXPECT_EQ(pool.free_count(), 8U);
}

TEST(ReceiveBuffer, RandomPiecesGiveTheStream) {
    for (unsigned seed = 1; seed <= 200; ++seed) {
        std::mt19937 random(seed);
        base::SlabPool pool(64, 64);
        ReceiveBuffer buffer;
        const Seq first{0xffff'ffff - seed * 7};
        buffer.begin_at(first);
        std::string stream(3000, ' ');
        for (char& c : stream)
            c = static_cast<char>('a' + random() % 26);
        std::string got;
        unsigned rounds = 0;
        while (got.size() < stream.size()) {
            ASSERT_LT(++rounds, 20'000U);
            const auto next = distance(first, buffer.next());
            const std::uint32_t at =
                std::min<std::uint32_t>(next + (random() % 3 == 0 ? 0 : random() % 800),
                                        static_cast<std::uint32_t>(stream.size()));
            const std::uint32_t length = std::min<std::uint32_t>(
                random() % 150, static_cast<std::uint32_t>(stream.size()) - at);
            buffer.store(first + at, base::as_bytes(std::string_view{stream}.substr(at, length)),
                         pool, 8);
            const auto front = buffer.unread();
            const auto take = front.empty() ? 0 : random() % (front.size() + 1);
            got += base::as_text(front.first(take));
            buffer.consume(static_cast<std::uint32_t>(take));
        }
        ASSERT_EQ(got, stream);
        buffer.clear();
        ASSERT_EQ(pool.free_count(), 64U);
    }
}

} // namespace
} // namespace dataplane::net::tcp
