// damage_test.cc: rot is found in time, put aside, and answered for.
#include "queue/codec.h"
#include "queue/quarantine.h"
#include "queue/queue.h"
#include "tests/queue/spool_keys.h"
#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::small_options;
using tests::World;
namespace base = dataplane::base;

constexpr std::size_t segment_bytes = 256U << 10;

class Damage : public testing::TestWithParam<bool> {
protected:
    QueueOptions options(std::uint64_t boot) {
        QueueOptions made = small_options();
        made.scrub_bytes_per_s = 1U << 20;
        made.quarantine = [this](DamagedRecord record) { found.push_back(std::move(record)); };
        if (GetParam()) made.keys = tests::spool_keys(1, false, boot);
        return made;
    }
    void open(std::vector<std::byte> image = {}) {
        world = std::make_unique<World>(tests::SimDiskOptions{.bytes = 4 << 20}, options(++boots),
                                        std::move(image));
        ASSERT_TRUE(world->open().value().has_value()) << world->report.problem;
    }
    /// Mail in several sealed segments, all of it deferred for a month.
    std::vector<MessageId> submit(int count) {
        world->sink();
        std::vector<MessageId> ids;
        for (int i = 0; i < count; ++i) {
            auto sent = world->submit(std::string(20'000, static_cast<char>('a' + i % 20)));
            EXPECT_TRUE(sent);
            ids.push_back((*sent)->id);
            sent->reset();
            EXPECT_TRUE(world->run_until([&] { return !world->ready.empty(); }, 1s));
            world->queue->defer(std::move(world->ready.front()), world->loop.wall_now() + 700h,
                                "later");
            world->ready.pop_front();
        }
        return ids;
    }
    /// The record's first byte on the disk.
    std::size_t place_of(MessageId id) {
        const Entry& entry = world->queue->index()[world->queue->index().find(id)];
        const std::size_t begin =
            entry.place.slot == 0 ? superblock_area_bytes : entry.place.slot * segment_bytes;
        return begin + entry.place.offset;
    }
    void rot(std::size_t at) { world->disk.bytes()[at] ^= std::byte{4}; }

    std::unique_ptr<World> world;
    std::vector<DamagedRecord> found;
    std::uint64_t boots = 0;
};

INSTANTIATE_TEST_SUITE_P(Plain, Damage, testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Encrypted, Damage, testing::Values(true));

TEST_P(Damage, TheScrubFindsRotWithinADayAndItsMessageIsHandedOut) {
    open();
    const std::vector<MessageId> ids = submit(40);
    world->run_until([] { return false; }, 1s); // a pass without anything to find may be under way
    const std::size_t at = place_of(ids[3]);
    rot(at + record_header_bytes + 15'000);
    const std::vector<std::byte> disk = world->disk.bytes();
    ASSERT_TRUE(world->run_until([&] { return !found.empty(); }, 49h));
    EXPECT_EQ(found.size(), 1U);
    EXPECT_EQ(found[0].id, ids[3]);
    EXPECT_EQ(found[0].found_by, "scrub");
    ASSERT_GE(found[0].bytes.size(), found[0].offset_in_bytes + 20'000);
    EXPECT_EQ(
        std::memcmp(found[0].bytes.data() + found[0].offset_in_bytes, disk.data() + at, 20'000), 0);
    EXPECT_EQ(found[0].header.size(), segment_header_bytes);
    EXPECT_TRUE(
        decode_segment_header(std::span<const std::byte>{found[0].header}.first<block_bytes>(), 0));
    // Delivery gets it, with the envelope that tells whom to answer, and not one byte of the content.
    ASSERT_TRUE(world->run_until([&] { return !world->ready.empty(); }, 10s));
    const MessageRef message = world->ready.front();
    EXPECT_EQ(message->id, ids[3]);
    EXPECT_EQ(message->envelope.sender(), "sender@example.org");
    EXPECT_EQ(world->content(message).error(), SpoolError::damaged);
    EXPECT_EQ(world->queue->counters().damaged_records, 1U);
    EXPECT_EQ(found.size(), 1U); // told once, whoever meets it next
    EXPECT_GT(world->queue->counters().scrub_passes, 0U);
}

TEST_P(Damage, TheScrubReadsEverythingOnceADayAndNoFasterThanItMay) {
    open();
    static_cast<void>(submit(40));
    world->run_until([] { return false; }, 25h);
    const QueueCounters before = world->queue->counters();
    world->run_until([] { return false; }, 24h);
    const QueueCounters after = world->queue->counters();
    EXPECT_EQ(after.scrub_passes, before.scrub_passes + 1);
    const std::uint64_t bytes = after.scrub_bytes - before.scrub_bytes;
    EXPECT_GT(bytes, 30U * 20'000); // what the open segment holds is not read
    EXPECT_LT(bytes, 60U * 20'000);
    EXPECT_TRUE(found.empty());
}

TEST_P(Damage, AReadThatIsWrongOnceIsNoDamage) {
    open();
    static_cast<void>(submit(40));
    world->disk.fail_reads(2); // a window, and then one record of it
    world->run_until([] { return false; }, 25h);
    EXPECT_TRUE(found.empty());
    EXPECT_EQ(world->queue->counters().damaged_records, 0U);
}

TEST_P(Damage, AnUnreadableEnvelopeIsKeptAndNeverTriedAgain) {
    open();
    const std::vector<MessageId> ids = submit(40);
    rot(place_of(ids[3]) + record_header_bytes + message_prefix_bytes + 10);
    ASSERT_TRUE(world->run_until([&] { return !found.empty(); }, 49h));
    world->run_until([] { return false; }, 100h);
    EXPECT_TRUE(world->ready.empty());
    const EntryRef ref = world->queue->index().find(ids[3]);
    ASSERT_NE(ref, no_entry);
    EXPECT_EQ(world->queue->index()[ref].state, EntryState::damaged);
    EXPECT_EQ(found.size(), 1U);
}

TEST_P(Damage, CollectionMovesWhatLiesBesideABadBlock) {
    open();
    const std::vector<MessageId> ids = submit(100);
    std::vector<MessageId> kept;
    std::vector<std::size_t> places;
    for (std::size_t i = 0; i < ids.size(); ++i) {
        if (i % 5 == 0) {
            kept.push_back(ids[i]);
            places.push_back(place_of(ids[i]));
        } else {
            ASSERT_TRUE(world->queue->remove(world->queue->index().find(ids[i])));
        }
    }
    constexpr std::size_t bad = 7;
    const std::size_t block = (places[bad] + 10'000) / block_bytes * block_bytes;
    world->disk.make_unreadable(block);
    // Other mail fills the pool and is done with, until what is left of the old has been moved.
    std::size_t beside = 0; // in its segment
    for (std::size_t i = 0; i < kept.size(); ++i)
        beside += i != bad && places[i] / segment_bytes == places[bad] / segment_bytes;
    ASSERT_GE(beside, 1U);
    const auto moved = [&] {
        std::size_t count = 0;
        for (std::size_t i = 0; i < kept.size(); ++i)
            count += places[i] / segment_bytes == places[bad] / segment_bytes &&
                     place_of(kept[i]) != places[i];
        return count;
    };
    for (int i = 0; i < 2000 && moved() < beside; ++i) {
        auto sent = world->submit(std::string(20'000, 'z'));
        if (sent) sent->reset();
        static_cast<void>(world->run_until([&] { return !world->ready.empty(); }, 1s));
        while (!world->ready.empty()) {
            const MessageId id = world->ready.front()->id;
            ASSERT_TRUE(std::ranges::find(kept, id) == kept.end()) << "it was not due";
            world->deliver(std::move(world->ready.front()));
            world->ready.pop_front();
        }
    }
    EXPECT_EQ(moved(), beside);
    EXPECT_EQ(place_of(kept[bad]), places[bad]);
}

TEST_P(Damage, RecoveryQueuesRottenMailWhoseSenderCanBeTold) {
    open();
    world->sink();
    auto sent = world->submit(std::string(20'000, 'r'));
    ASSERT_TRUE(sent);
    const MessageId id = (*sent)->id;
    sent->reset();
    ASSERT_TRUE(world->submit("another"));
    world->run_until([] { return false; }, 500ms); // the watermark is written
    rot(place_of(id) + record_header_bytes + 15'000);
    std::vector<std::byte> image = world->disk.bytes();
    open(std::move(image));
    EXPECT_EQ(world->report.records_damaged, 1U);
    EXPECT_EQ(world->report.messages_recovered, 1U);
    world->sink();
    ASSERT_TRUE(world->run_until([&] { return world->ready.size() == 2 && !found.empty(); }, 10s));
    EXPECT_EQ(found[0].found_by, "recovery");
    EXPECT_EQ(found[0].id, id);
    for (const MessageRef& message : world->ready) {
        if (message->id != id) continue;
        EXPECT_EQ(message->envelope.sender(), "sender@example.org");
        EXPECT_EQ(world->content(message).error(), SpoolError::damaged);
    }
}

// What was never acknowledged is nobody's: a torn tail with a whole envelope is no mail.
TEST_P(Damage, RecoveryTakesNoTornTailForMail) {
    open();
    world->sink();
    ASSERT_TRUE(world->submit("first"));
    auto sent = world->submit(std::string(20'000, 't'));
    ASSERT_TRUE(sent);
    const MessageId id = (*sent)->id;
    sent->reset();
    rot(place_of(id) + record_header_bytes + 15'000); // before any watermark says it is durable
    std::vector<std::byte> image = world->disk.bytes();
    open(std::move(image));
    EXPECT_EQ(world->queue->index().find(id), no_entry);
    EXPECT_TRUE(found.empty());
}

} // namespace
