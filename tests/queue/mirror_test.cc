// mirror_test.cc: a queue on two disks of which each has rotted elsewhere, or missed something else.
#include "queue/codec.h"
#include "queue/disk/crc32c.h"
#include "queue/disk/mirror_disk.h"
#include "queue/pool_content.h"
#include "queue/quarantine.h"
#include "queue/queue.h"
#include "queue/segment_scan.h"
#include "queue/superblock_choice.h"
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
        with.content = std::make_shared<PoolContent>();
        with.copy_bytes_per_s = copy_bytes_per_s;
        whole = 0;
        with.report = [this](MirrorState state, const std::string&) {
            if (state == MirrorState::whole) ++whole;
        };
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
    /// The power goes: the next start does not know that they are alike.
    Images crash() {
        world->stop();
        world->queue.reset();
        world->loop.drop_tasks();
        mirror.reset();
        Images images{tests::SimMedium{world->disk.crash()}, tests::SimMedium{other->crash()}};
        return images;
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
    static std::uint32_t epoch_of(const std::vector<std::byte>& disk) {
        const auto choice =
            choose_superblock(std::span{disk}.first<superblock_copies * block_bytes>());
        return choice.newest ? choice.newest->epoch : 0;
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
    std::uint64_t copy_bytes_per_s = 100U << 20;
    int quarantined = 0;
    int letters = 0;
    int whole = 0; // times in this boot that the copying came to its end
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

struct Loads {
    bool stop = false;
    int failed = 0;
    int running = 0;
};

base::Task<void> load_all(World* world, std::vector<MessageId> ids, Loads* loads) {
    ++loads->running;
    while (!loads->stop) {
        for (const MessageId id : ids) {
            const auto message =
                co_await world->queue->load(id, base::Deadline::in(world->loop, 60s));
            if (!message) ++loads->failed;
        }
    }
    --loads->running;
}

TEST_P(MirroredQueue, AReadBeginsAgainWhenTheHalfThatWasAskedIsLeftBehindUnderIt) {
    open();
    submit();
    note_places();
    for (const std::size_t at : places)
        world->disk.bytes()[at + 4] ^= std::byte{4};
    Loads loads;
    for (int i = 0; i < 8; ++i)
        world->start(load_all(world.get(), ids, &loads));
    for (const unsigned half : {0U, 1U, 0U}) {
        world->run_for(10ms);
        (half == 0 ? world->disk : *other).fail_writes(SimDisk::Fault::io, 1);
        const int before = whole;
        ASSERT_TRUE(world->submit("one more"));
        EXPECT_NE(mirror->state(), MirrorState::whole);
        ASSERT_TRUE(world->run_until([&] { return whole > before; }, 300s));
    }
    loads.stop = true;
    ASSERT_TRUE(world->run_until([&] { return loads.running == 0; }, 60s));
    EXPECT_EQ(loads.failed, 0);
    EXPECT_EQ(quarantined, 0);
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
    ASSERT_TRUE(world->run_until([&] { return world->queue->counters().single_copies == 2; }, 49h));
    const std::uint64_t passes = world->queue->counters().scrub_passes;
    ASSERT_TRUE(
        world->run_until([&] { return world->queue->counters().scrub_passes == passes + 2; }, 73h));
    EXPECT_EQ(world->queue->counters().single_copies, 2U) << "the same two, not two more each day";
    EXPECT_EQ(world->queue->counters().mended_records, 0U);
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

// Copying makes the halves alike after a crash. What is whole on one half only must outlive it.
TEST_P(MirroredQueue, CopyingAfterACrashCostsNothingThatOneHalfHasWhole) {
    open();
    submit();
    note_places();
    Images images = crash();
    rot({&images[0].visible, &images[1].visible});
    for (tests::SimMedium& image : images)
        image.safe = image.visible;
    open(std::move(images));
    ASSERT_TRUE(world->run_until([&] { return whole == 1; }, 60s));
    expect_all_content();
    images = crash(); // and once more, for what was written meanwhile
    open(std::move(images));
    ASSERT_TRUE(world->run_until([&] { return whole == 1; }, 60s));
    EXPECT_EQ(world->report.messages_recovered, static_cast<std::uint64_t>(letters));
    EXPECT_EQ(world->report.records_damaged, 0U);
    expect_all_content();
}

// What was under way at a crash may be on one half alone. A start that relies on it must see to it that it outlives
// that half, and copying the whole pool takes hours.
TEST_P(MirroredQueue, WhatAStartFindsOnOneHalfIsOnBothWhenItIsReliedOn) {
    open();
    submit();
    note_places();
    Images images = crash();
    rot({&images[0].visible, &images[1].visible});
    for (tests::SimMedium& image : images)
        image.safe = image.visible;
    copy_bytes_per_s = 1;
    open(std::move(images));
    EXPECT_EQ(whole, 0);
    for (const std::vector<std::byte>* half : {&world->disk.bytes(), &other->bytes()}) {
        for (const std::size_t at : places) {
            const auto here = std::span{world->disk.bytes()}.subspan(at, 20'000);
            EXPECT_TRUE(std::ranges::equal(here, std::span{*half}.subspan(at, 20'000))) << at;
        }
    }
    EXPECT_EQ(world->report.messages_recovered, static_cast<std::uint64_t>(letters));
    EXPECT_EQ(world->report.records_mended, 0U) << "nothing had to be taken from one half alone";
    expect_all_content();
}

TEST_P(MirroredQueue, CopyingAfterACrashMakesTheHalfThatRottedWholeAgain) {
    for (const unsigned rotten : {0U, 1U}) {
        open();
        submit();
        note_places();
        Images images = crash();
        std::vector<std::byte>& bytes = images[rotten].visible;
        for (const std::size_t at : places)
            bytes[at + record_header_bytes + 7] ^= std::byte{1};
        std::fill_n(bytes.begin() + segment_bytes, segment_header_bytes, std::byte{0});
        images[rotten].safe = bytes;
        images[rotten].unreadable.insert(places[5] / block_bytes + 1);
        open(std::move(images));
        ASSERT_TRUE(world->run_until([&] { return whole == 1; }, 60s));
        const std::vector<std::byte>& here = world->disk.bytes();
        for (const std::size_t at : places) {
            EXPECT_TRUE(std::equal(here.begin() + static_cast<std::ptrdiff_t>(at),
                                   here.begin() + static_cast<std::ptrdiff_t>(at + 20'000),
                                   other->bytes().begin() + static_cast<std::ptrdiff_t>(at)))
                << "rotten " << rotten << ", at " << at;
        }
        expect_all_content();
        world->queue.reset();
        TearDown();
        ids.clear();
        places.clear();
    }
}

// A half that was left behind is given everything by the other one, which may have rotted meanwhile.
TEST_P(MirroredQueue, AHalfThatIsGivenEverythingKeepsWhatTheOtherHasLost) {
    open();
    submit();
    note_places();
    const std::size_t rotten = places[9] + record_header_bytes + 9'000;
    world->disk.bytes()[rotten] ^= std::byte{4};
    other->fail_writes(SimDisk::Fault::io, 1);
    auto sent = world->submit("one more");
    ASSERT_TRUE(sent);
    EXPECT_NE(mirror->state(), MirrorState::whole);
    ASSERT_TRUE(world->run_until([&] { return whole == 1; }, 300s));
    EXPECT_EQ(mirror->state(), MirrorState::whole);
    expect_all_content();
    // And gives it back: who found it on the one half alone would rely on it.
    EXPECT_TRUE(mirror->reconciling());
    ASSERT_TRUE(world->run_until([&] { return whole == 2; }, 300s));
    EXPECT_FALSE(mirror->reconciling());
    EXPECT_EQ(world->disk.bytes()[rotten], other->bytes()[rotten]);
}

TEST_P(MirroredQueue, AHalfThatHasNothingOfItsOwnIsDoneWhenItHasEverything) {
    open();
    submit();
    other->fail_writes(SimDisk::Fault::io, 1);
    auto sent = world->submit("one more");
    ASSERT_TRUE(sent);
    ASSERT_TRUE(world->run_until([&] { return whole == 1; }, 300s));
    EXPECT_FALSE(mirror->reconciling());
}

TEST_P(MirroredQueue, SuperblocksOfTheHalfThatHasTheNewerOnesCount) {
    for (const unsigned stale : {0U, 1U}) {
        open();
        submit(10);
        Images images = end();
        const std::vector<std::byte> before = images[stale].visible;
        open(std::move(images));
        submit(10);
        const std::uint32_t epoch = epoch_of(other->bytes());
        images = crash();
        std::copy_n(before.begin(), superblock_copies * block_bytes, images[stale].visible.begin());
        images[stale].safe = images[stale].visible;
        open(std::move(images));
        EXPECT_EQ(epoch_of(world->disk.bytes()), epoch + 1) << stale;
        EXPECT_EQ(epoch_of(other->bytes()), epoch + 1) << stale;
        EXPECT_EQ(world->report.messages_recovered, 20U) << stale;
        world->queue.reset();
        TearDown();
        ids.clear();
    }
}

// A write of a header that never reached one half, or reached another place: there it is the slot's last generation
// but one that looks valid, and the mail of this one stands behind it.
TEST_P(MirroredQueue, AStartBelievesTheNewerOfTwoGenerationsOfASegment) {
    for (const unsigned stale : {0U, 1U}) {
        open();
        submit();
        note_places();
        const auto mark = static_cast<std::uint32_t>(places.back() / segment_bytes);
        ASSERT_GE(mark, 1U);
        Images images = stale == 0 ? end() : crash();
        for (std::uint32_t slot = 1; slot <= mark; ++slot) {
            for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
                const std::span<std::byte, block_bytes> block =
                    std::span{images[stale].visible}
                        .subspan(slot * segment_bytes + copy * block_bytes)
                        .first<block_bytes>();
                auto header = decode_segment_header(block, copy);
                ASSERT_TRUE(header);
                header->segment_seq = 1 + slot; // of a boot before the first
                encode_segment_header(block, *header, copy);
            }
        }
        images[stale].safe = images[stale].visible;
        open(std::move(images));
        EXPECT_EQ(world->report.messages_recovered, static_cast<std::uint64_t>(letters)) << stale;
        EXPECT_EQ(world->report.records_damaged, 0U) << stale;
        expect_all_content();
        world->queue.reset();
        TearDown();
        ids.clear();
        places.clear();
    }
}

TEST_P(MirroredQueue, AHalfWhoseRecordsAreUnreadableIsMadeAnewAfterAnOrderlyEnd) {
    open();
    submit();
    Images images = end();
    for (std::size_t copy = 0; copy < mirror_record_copies; ++copy) {
        const std::uint64_t at = mirror_record_begin + copy * block_bytes;
        images[0].unreadable.insert(at / block_bytes);
    }
    // Something that must come from the other half.
    std::ranges::fill(std::span{images[0].safe}.subspan(superblock_area_bytes, segment_bytes / 2),
                      std::byte{0});
    images[0].visible = images[0].safe;
    open(std::move(images));
    EXPECT_FALSE(mirror->counts(0));
    ASSERT_TRUE(world->run_until([&] { return mirror->state() == MirrorState::whole; }));
    for (const MessageId id : ids)
        EXPECT_TRUE(world->queue->index().find(id) != no_entry);
    EXPECT_EQ(world->report.records_damaged, 0U);
    Images again = end();
    open(std::move(again));
    EXPECT_FALSE(mirror->reconciling()) << "both have their records again";
}

// --- The bytes -----------------------------------------------------------------------------------

constexpr PoolId pool{std::byte{9}};
constexpr std::uint32_t slot = 1;
constexpr std::uint32_t record_count = 6;
constexpr std::uint32_t record_payload =
    5000; // more than a block, so that each block has parts of two
constexpr std::uint32_t frame_offset = segment_header_bytes;

std::uint32_t record_offset(std::uint32_t number) {
    return frame_offset + frame_header_bytes + number * record_bytes(record_payload);
}

/// A segment with one frame of some records.
std::vector<std::byte> segment_of(std::uint64_t seq, std::byte fill) {
    std::vector<std::byte> bytes(segment_bytes);
    for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy)
        encode_segment_header(std::span{bytes}.subspan(copy * block_bytes).first<block_bytes>(),
                              {.pool = pool, .slot = slot, .segment_seq = seq}, copy);
    const std::uint32_t seed = pool_seed(pool, 0);
    for (std::uint32_t i = 0; i < record_count; ++i) {
        const std::span<std::byte> record = std::span{bytes}.subspan(record_offset(i));
        const std::span<std::byte> payload = record.subspan(record_header_bytes, record_payload);
        std::ranges::fill(payload, fill);
        const RecordSeeds seeds = record_seeds(seed, seq, record_offset(i));
        encode_record_header(record.first<record_header_bytes>(),
                             {.payload_crc = crc32c(seeds.payload, payload),
                              .type = static_cast<std::uint16_t>(RecordType::body_chunk),
                              .payload_bytes = record_payload,
                              .lsn = seq * 100 + i,
                              .id = {i + 1}},
                             seeds);
    }
    const std::uint32_t used = record_offset(record_count) - frame_offset;
    encode_frame_header(
        std::span{bytes}.subspan(frame_offset).first<frame_header_bytes>(),
        {.segment_seq = seq,
         .batch_seq = 1,
         .epoch = 1,
         .offset = frame_offset,
         .bytes = static_cast<std::uint32_t>((used + block_bytes - 1) / block_bytes * block_bytes),
         .used = used,
         .records = record_count},
        seed);
    return bytes;
}

void damage(std::vector<std::byte>& segment, std::uint32_t record) {
    segment[record_offset(record) + record_header_bytes + 100] ^= std::byte{1};
}

/// Numbers of the records that check out.
std::vector<std::uint32_t> found_in(std::span<const std::byte> segment, std::uint64_t seq) {
    const SegmentScan scan = scan_segment(segment, pool, 0, slot);
    EXPECT_EQ(scan.segment_seq, seq);
    std::vector<std::uint32_t> numbers;
    for (const FoundRecord& record : scan.records)
        numbers.push_back(static_cast<std::uint32_t>(record.header.lsn % 100));
    return numbers;
}

const std::vector<std::uint32_t> all_records{0, 1, 2, 3, 4, 5};

TEST(MendedSegment, TakesWhatChecksOutInTheOtherOnly) {
    std::vector<std::byte> one = segment_of(7, std::byte{1}), two = one;
    damage(one, 1);
    damage(two, 4);
    EXPECT_EQ(mend_segment(one, two, pool, 0, slot), 1U);
    EXPECT_EQ(found_in(one, 7), all_records);
}

TEST(MendedSegment, IsOfTheNewerGenerationWhicheverCopyHasIt) {
    const std::vector<std::byte> older = segment_of(7, std::byte{1});
    const std::vector<std::byte> newer = segment_of(8, std::byte{2});
    std::vector<std::byte> one = older;
    EXPECT_EQ(mend_segment(one, newer, pool, 0, slot), record_count);
    EXPECT_EQ(found_in(one, 8), all_records);
    std::vector<std::byte> two = newer;
    EXPECT_EQ(mend_segment(two, older, pool, 0, slot), 0U);
    EXPECT_EQ(two, newer);
}

// The header of the new generation is everywhere before its first frame is anywhere: a copy that has only the header
// of it is still right about the rest, which is nobody's any more.
TEST(MendedSegment, OfAGenerationThatIsJustBeginningHasNothingOfTheOneBefore) {
    const std::vector<std::byte> older = segment_of(7, std::byte{1});
    std::vector<std::byte> begun = segment_of(8, std::byte{2});
    std::copy(older.begin() + segment_header_bytes, older.end(),
              begun.begin() + segment_header_bytes);
    std::vector<std::byte> one = older;
    EXPECT_EQ(mend_segment(one, begun, pool, 0, slot), 0U);
    EXPECT_TRUE(found_in(one, 8).empty());
}

// A header names its slot. Frames do not: those of another slot's segment may have gone astray to this one.
TEST(MendedSegment, BelievesAHeaderBeforeFrames) {
    const std::vector<std::byte> right = segment_of(7, std::byte{1});
    std::vector<std::byte> astray = segment_of(8, std::byte{2});
    std::fill_n(astray.begin(), segment_header_bytes, std::byte{0});
    EXPECT_EQ(mend_segment(astray, right, pool, 0, slot), record_count);
    EXPECT_EQ(found_in(astray, 7), all_records);
}

class JudgedCopy : public testing::Test {
protected:
    void judge(bool both_count) {
        PoolContent content;
        std::vector<std::byte> superblocks(superblock_copies * block_bytes);
        Superblock superblock;
        superblock.pool = pool;
        superblock.generation = 1;
        superblock.pool_bytes = 16 * segment_bytes;
        superblock.segment_bytes = segment_bytes;
        superblock.segment_count = 16;
        for (std::uint32_t copy = 0; copy < superblock_copies; ++copy)
            encode_superblock(
                std::span{superblocks}.subspan(copy * block_bytes).first<block_bytes>(), superblock,
                copy);
        const std::vector<std::byte> nothing(superblock_copies * block_bytes);
        ASSERT_TRUE(content.begin({superblocks, nothing}));
        const MirrorContent::Extent head = content.head_of(slot * segment_bytes);
        ASSERT_EQ(head.offset, slot * segment_bytes);
        before = halves;
        window.offset = slot * segment_bytes;
        window.both_count = both_count;
        for (unsigned half = 0; half < 2; ++half) {
            window.halves[half] = {.head = std::span{before[half]}.first(segment_header_bytes),
                                   .bytes = halves[half],
                                   .lost = std::vector<bool>(segment_bytes / block_bytes),
                                   .write = std::vector<bool>(segment_bytes / block_bytes)};
            for (const std::size_t block : lost[half]) {
                window.halves[half].lost[block] = true;
                std::ranges::fill(std::span{halves[half]}.subspan(block * block_bytes, block_bytes),
                                  std::byte{0});
            }
        }
        EXPECT_EQ(content.judge(window), segment_bytes);
        // What is on the disks then: only what is to be written has changed.
        for (unsigned half = 0; half < 2; ++half) {
            for (std::size_t block = 0; block < segment_bytes / block_bytes; ++block) {
                if (window.halves[half].write[block]) {
                    ++written[half];
                } else {
                    std::copy_n(
                        before[half].begin() + static_cast<std::ptrdiff_t>(block * block_bytes),
                        block_bytes,
                        halves[half].begin() + static_cast<std::ptrdiff_t>(block * block_bytes));
                }
            }
        }
    }

    std::array<std::vector<std::byte>, 2> halves{segment_of(7, std::byte{1}),
                                                 segment_of(7, std::byte{1})};
    std::array<std::vector<std::byte>, 2> before;
    std::array<std::vector<std::size_t>, 2> lost; // blocks of each that cannot be read
    std::array<int, 2> written{};
    MirrorContent::Window window;
};

TEST_F(JudgedCopy, WritesNothingWhereBothHaveTheSame) {
    judge(true);
    EXPECT_EQ(written, (std::array{0, 0}));
}

TEST_F(JudgedCopy, GoesEitherWayAfterACrash) {
    damage(halves[0], 0);
    damage(halves[1], 3);
    judge(true);
    EXPECT_EQ(found_in(halves[0], 7), all_records);
    EXPECT_EQ(found_in(halves[1], 7), all_records);
    EXPECT_EQ(written, (std::array{1, 1})) << "no more than the blocks that differ";
}

TEST_F(JudgedCopy, GivesBothHalvesABlockThatWasTornOnBoth) {
    // In one block: where one record ends and the next begins.
    const std::size_t end = record_offset(2);
    ASSERT_EQ((end - 20) / block_bytes, (end + 4) / block_bytes);
    halves[0][end - 20] ^= std::byte{1};
    halves[1][end + 4] ^= std::byte{1};
    judge(true);
    EXPECT_EQ(written, (std::array{1, 1}));
    EXPECT_EQ(found_in(halves[0], 7), all_records);
    EXPECT_EQ(found_in(halves[1], 7), all_records);
}

// What it alone has must not keep out what it has missed.
TEST_F(JudgedCopy, AHalfThatIsGivenEverythingKeepsOnlyWhatIsInNobodysWay) {
    const std::size_t end = record_offset(2);
    halves[0][end - 20] ^= std::byte{1};
    halves[1][end + 4] ^= std::byte{1};
    judge(false);
    EXPECT_EQ(written[0], 0);
    EXPECT_EQ(found_in(halves[1], 7), all_records);
}

TEST_F(JudgedCopy, AHeaderThatIsAGenerationBehindDoesNotStayWhereTheSourceHasLostIts) {
    for (const bool rotten : {false, true}) {
        halves = {segment_of(7, std::byte{1}), segment_of(6, std::byte{3})};
        lost[0] = {0, 1};
        if (rotten) {
            lost[0].clear();
            std::ranges::fill(std::span{halves[0]}.first(segment_header_bytes), std::byte{0x55});
        }
        judge(false);
        EXPECT_EQ(found_in(halves[1], 7), all_records) << rotten;
    }
}

TEST_F(JudgedCopy, AHeaderOfTheSameGenerationStaysWhereTheSourceHasLostIts) {
    lost[0] = {0, 1};
    judge(false);
    EXPECT_EQ(found_in(halves[1], 7), all_records);
    EXPECT_EQ(halves[1], segment_of(7, std::byte{1}));
}

TEST_F(JudgedCopy, KeepsWhatTheSourceHasLostOnAHalfThatIsGivenEverything) {
    damage(halves[0], 1);
    damage(halves[1], 4);
    judge(false);
    EXPECT_EQ(written[0], 0) << "the source alone counts";
    EXPECT_TRUE(window.one_sided);
    EXPECT_EQ(found_in(halves[1], 7), all_records);
}

TEST_F(JudgedCopy, FillsAHalfThatHasNothing) {
    halves[1].assign(segment_bytes, std::byte{0});
    damage(halves[0], 2); // goes along: its envelope may be whole
    judge(false);
    EXPECT_EQ(halves[1], halves[0]);
    EXPECT_FALSE(window.one_sided);
}

TEST_F(JudgedCopy, OverwritesAnOlderGeneration) {
    halves[1] = segment_of(6, std::byte{3});
    judge(false);
    EXPECT_EQ(halves[1], halves[0]);
    halves = {segment_of(6, std::byte{3}), segment_of(7, std::byte{1})};
    judge(true); // and the half that is asked first is the one that has missed it
    EXPECT_EQ(found_in(halves[0], 7), all_records);
}

TEST_F(JudgedCopy, OverwritesWhatAHalfThatDoesNotCountHadBegun) {
    halves[1] = segment_of(8, std::byte{3});
    judge(false);
    EXPECT_EQ(halves[1], halves[0]);
}

TEST_F(JudgedCopy, WritesAgainWhatCannotBeReadOnOneHalf) {
    lost[0] = {3};
    judge(true);
    EXPECT_EQ(found_in(halves[0], 7), all_records);
    EXPECT_EQ(written[1], 0);
}

TEST_F(JudgedCopy, ZerosOfABlockThatCannotBeReadAreNoContent) {
    // One record more, of zeros: a block in its middle has nothing else, and checks out when it is lost.
    constexpr std::uint32_t at = 16 * block_bytes, bytes = 4 * block_bytes;
    constexpr std::uint32_t payload = bytes - frame_header_bytes - record_header_bytes;
    const std::uint32_t seed = pool_seed(pool, 0);
    const RecordSeeds seeds = record_seeds(seed, 7, at + frame_header_bytes);
    for (std::vector<std::byte>& half : halves) {
        const std::span<std::byte> frame = std::span{half}.subspan(at, bytes);
        encode_frame_header(
            frame.first<frame_header_bytes>(),
            {.segment_seq = 7, .offset = at, .bytes = bytes, .used = bytes, .records = 1}, seed);
        const std::span<std::byte> record = frame.subspan(frame_header_bytes);
        encode_record_header(
            record.first<record_header_bytes>(),
            {.payload_crc = crc32c(seeds.payload, record.subspan(record_header_bytes)),
             .type = static_cast<std::uint16_t>(RecordType::body_chunk),
             .payload_bytes = payload,
             .lsn = 706},
            seeds);
    }
    ASSERT_EQ(found_in(halves[0], 7).size(), record_count + 1U);
    lost[0] = {at / block_bytes + 2};
    judge(true);
    EXPECT_EQ(written, (std::array{1, 0}));
    EXPECT_TRUE(window.halves[0].write[lost[0].front()]);
}

} // namespace
