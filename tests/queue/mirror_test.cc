// mirror_test.cc: a queue on two disks of which each has rotted elsewhere.
#include "queue/codec.h"
#include "queue/disk/mirror_disk.h"
#include "queue/quarantine.h"
#include "queue/queue.h"
#include "tests/queue/spool_keys.h"
#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::SimDisk;
using tests::World;
namespace base = dataplane::base;

constexpr std::size_t segment_bytes = 256U << 10;
constexpr std::size_t pool_bytes = 4U << 20;

std::string body_of(int number) {
    return std::string(20'000 + static_cast<std::size_t>(number),
                       static_cast<char>('a' + number % 20));
}

class MirroredQueue : public testing::TestWithParam<bool> {
protected:
    using Images = std::array<tests::SimMedium, 2>;

    void open(Images images = {}) {
        QueueOptions options = tests::small_options();
        options.scrub_bytes_per_s = 1U << 20;
        options.quarantine = [this](DamagedRecord) { ++quarantined; };
        if (GetParam()) options.keys = tests::spool_keys(1, false, ++boots);
        const bool fresh = images[0].safe.empty();
        world = std::make_unique<World>(tests::SimDiskOptions{.bytes = pool_bytes}, options,
                                        std::move(images[0]));
        other = std::make_unique<SimDisk>(
            world->loop, tests::SimDiskOptions{.bytes = pool_bytes, .seed = 2},
            fresh ? tests::SimMedium{std::vector<std::byte>(pool_bytes)} : std::move(images[1]));
        MirrorOptions with;
        with.fresh_pair = {std::byte{1}};
        with.pool_of = pool_of_superblock;
        with.report = [](MirrorState, const std::string&) {};
        const std::array<MirrorSide, 2> sides{MirrorSide{&world->disk, fresh},
                                              MirrorSide{other.get(), fresh}};
        auto opened = world->run(MirrorDisk::open(world->loop, sides, with));
        ASSERT_TRUE(opened) << opened.error();
        mirror = std::move(*opened);
        world->top = mirror.get();
        ASSERT_TRUE(world->open().value().has_value()) << world->report.problem;
    }
    void TearDown() override {
        world->queue.reset();
        world->loop.drop_tasks();
        mirror.reset();
        other.reset();
    }
    /// The process ends, and finds both halves as they are: nothing is left to make alike.
    Images end() {
        world->stop();
        world->queue.reset();
        const auto closing = [](MirrorDisk* to) -> base::Task<int> {
            co_await to->close();
            co_return 0;
        };
        static_cast<void>(world->run(closing(mirror.get())));
        world->loop.drop_tasks();
        mirror.reset();
        return {tests::SimMedium{world->disk.bytes()}, tests::SimMedium{other->bytes()}};
    }
    /// Mail in several segments, all of it deferred for a month.
    void submit(int count = 40) {
        letters = count;
        world->sink();
        for (int i = 0; i < letters; ++i) {
            auto sent = world->submit(body_of(i));
            ASSERT_TRUE(sent);
            ids.push_back((*sent)->id);
            sent->reset();
            ASSERT_TRUE(world->run_until([&] { return !world->ready.empty(); }, 1s));
            world->queue->defer(std::move(world->ready.front()), world->loop.wall_now() + 700h,
                                "later");
            world->ready.pop_front();
        }
        ASSERT_TRUE(world->sync());
    }
    /// A record's first byte on the disks.
    std::size_t place_of(MessageId id) {
        const Entry& entry = world->queue->index()[world->queue->index().find(id)];
        const std::size_t begin =
            entry.place.slot == 0 ? superblock_area_bytes : entry.place.slot * segment_bytes;
        return begin + entry.place.offset;
    }
    /// Every other letter rots on the one half, the rest on the other: header or payload.
    void rot(std::array<std::vector<std::byte>*, 2> disks) {
        for (int i = 0; i < letters; ++i) {
            const std::size_t at = places[static_cast<std::size_t>(i)];
            (*disks[static_cast<unsigned>(i) %
                    2])[at + (i % 4 < 2 ? 4 : record_header_bytes + 9'000)] ^= std::byte{4};
        }
    }
    void note_places() {
        for (const MessageId id : ids)
            places.push_back(place_of(id));
    }
    void expect_all_content(int each = 1) {
        for (int i = 0; i < letters; i += each) {
            auto loaded = world->run(world->queue->load(ids[static_cast<std::size_t>(i)],
                                                        base::Deadline::in(world->loop, 60s)));
            ASSERT_TRUE(loaded) << i;
            auto content = world->content(*loaded);
            ASSERT_TRUE(content) << i;
            EXPECT_EQ(*content, body_of(i)) << i;
        }
        EXPECT_EQ(world->queue->counters().damaged_records, 0U);
        EXPECT_EQ(quarantined, 0);
    }

    std::unique_ptr<SimDisk> other;
    std::unique_ptr<World> world;
    std::unique_ptr<MirrorDisk> mirror;
    std::vector<MessageId> ids;
    std::vector<std::size_t> places;
    std::uint64_t boots = 0;
    int quarantined = 0;
    int letters = 0;
};

INSTANTIATE_TEST_SUITE_P(Plain, MirroredQueue, testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Encrypted, MirroredQueue, testing::Values(true));

TEST_P(MirroredQueue, DeliveryReadsTheHalfThatIsWhole) {
    open();
    submit();
    note_places();
    rot({&world->disk.bytes(), &other->bytes()});
    expect_all_content();
    EXPECT_GE(world->queue->counters().mended_records, static_cast<unsigned>(letters) / 2);
}

TEST_P(MirroredQueue, AStartFindsWhatOnlyOneHalfHas) {
    open();
    submit();
    note_places();
    Images images = end();
    rot({&images[0].visible, &images[1].visible});
    // And of one half a segment's headers and a frame's, which nothing else tells of: of the half on which what
    // that block holds has rotted already.
    const auto first =
        std::ranges::find_if(places, [](std::size_t at) { return at >= segment_bytes; });
    ASSERT_LT(*first, segment_bytes + segment_header_bytes + block_bytes);
    std::fill_n(images[static_cast<unsigned>(first - places.begin()) % 2].visible.begin() +
                    segment_bytes,
                segment_header_bytes + block_bytes, std::byte{0});
    for (tests::SimMedium& image : images)
        image.safe = image.visible;
    open(std::move(images));
    EXPECT_EQ(world->report.messages_recovered, static_cast<std::uint64_t>(letters));
    EXPECT_EQ(world->report.records_damaged, 0U);
    EXPECT_GE(world->report.records_mended, 1U);
    expect_all_content();
}

TEST_P(MirroredQueue, TheScrubCountsWhatOnlyOneHalfHasAndGivesNothingUp) {
    open();
    submit();
    note_places();
    world->run_for(1s);
    world->disk.bytes()[places[3] + record_header_bytes + 100] ^= std::byte{1};
    other->bytes()[places[7] + record_header_bytes + 100] ^= std::byte{1};
    ASSERT_TRUE(
        world->run_until([&] { return world->queue->counters().mended_records == 2; }, 49h));
    EXPECT_EQ(quarantined, 0);
    other->bytes()[places[3] + record_header_bytes + 200] ^= std::byte{1}; // and now both
    ASSERT_TRUE(world->run_until([&] { return quarantined == 1; }, 49h));
}

// What the collector copies must be the half that is whole, or rot would spread to both.
TEST_P(MirroredQueue, CollectionCopiesTheHalfThatIsWhole) {
    open();
    submit(100); // eight of sixteen segments
    note_places();
    constexpr int kept = 5; // every fifth
    for (int i = 0; i < letters; ++i) {
        if (i % kept == 0) continue;
        ASSERT_TRUE(
            world->queue->remove(world->queue->index().find(ids[static_cast<std::size_t>(i)])));
    }
    rot({&world->disk.bytes(), &other->bytes()});
    const auto wanted = static_cast<std::uint64_t>(letters / kept - 2) * 20'000;
    // Other mail fills the pool and is done with, until what is left of the old has been moved.
    for (int i = 0; i < 2000 && world->queue->counters().collected_bytes < wanted; ++i) {
        auto sent = world->submit(std::string(20'000, 'z'));
        if (sent) sent->reset();
        static_cast<void>(world->run_until([&] { return !world->ready.empty(); }, 1s));
        while (!world->ready.empty()) {
            world->deliver(std::move(world->ready.front()));
            world->ready.pop_front();
        }
    }
    ASSERT_GE(world->queue->counters().collected_bytes, wanted);
    EXPECT_GE(world->queue->counters().mended_records, 8U)
        << "half of them had rotted where they are read first";
    expect_all_content(kept);
}

} // namespace
