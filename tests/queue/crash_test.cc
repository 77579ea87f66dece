// crash_test.cc: what crashes and damage once broke, each in the smallest story that shows it.
//
// The random and the exhaustive runs are spool_sim.h's.
#include "queue/codec.h"
#include "queue/disk/crc32c.h"
#include "queue/queue.h"
#include "queue/segment_scan.h"
#include "tests/queue/spool_crew.h"
#include "tests/queue/spool_oracle.h"
#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <string>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::Mix;
using tests::Oracle;
using tests::SimDisk;
using tests::small_options;
using tests::World;
namespace base = dataplane::base;

void start_load(World& world, Oracle& oracle, const Mix& mix) {
    start_deliveries(world, oracle, mix);
    start_clients(world, oracle, mix);
}

/// Damage of every kind a medium can do: flipped bits, lost blocks, blocks and whole segments elsewhere.
void damage(std::vector<std::byte>& image, std::mt19937_64& random) {
    const auto block_at = [&] { return random() % (image.size() / block_bytes) * block_bytes; };
    for (std::uint64_t i = 1 + random() % 20; i > 0; --i) {
        switch (random() % 4) {
        case 0:
            image[random() % image.size()] ^= std::byte{1} << (random() % 8);
            break;
        case 1:
            std::fill_n(image.begin() + static_cast<std::ptrdiff_t>(block_at()), block_bytes,
                        std::byte{0});
            break;
        case 2:
            std::memmove(image.data() + block_at(), image.data() + block_at(), block_bytes);
            break;
        case 3: {
            const std::size_t segment = small_options().segment_bytes;
            const std::size_t count = image.size() / segment;
            if (random() % 8 != 0) break;
            std::memmove(image.data() + random() % count * segment,
                         image.data() + random() % count * segment, segment);
            break;
        }
        }
    }
}

TEST(SpoolCrash, ADamagedImageOpensOrIsRefusedAndNothingFalseIsHandedOut) {
    Oracle oracle;
    std::vector<std::byte> image;
    {
        World world{{}, small_options()};
        ASSERT_TRUE(world.open().value().has_value());
        start_load(world, oracle, {.large_percent = 10});
        world.run_until([] { return false; }, 500ms);
        image = world.crash();
    }
    std::uint64_t opened_count = 0;
    std::uint64_t damaged_count = 0;
    for (std::uint64_t seed = 1; seed <= 60; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        std::mt19937_64 random{seed};
        std::vector<std::byte> damaged = image;
        damage(damaged, random);
        World world{{}, small_options(), std::move(damaged)};
        if (!world.open().value()) {
            EXPECT_FALSE(world.report.problem.empty());
            continue;
        }
        ++opened_count;
        if (world.report.records_damaged > 0) ++damaged_count;
        std::vector<MessageId> found;
        world.queue->for_each({}, [&](EntryRef, const Entry& entry) {
            found.push_back(entry.id);
            return true;
        });
        for (const MessageId id : found) {
            auto message = world.run(world.queue->load(id, base::Deadline::never()));
            if (!message) {
                EXPECT_EQ(message.error(), SpoolError::damaged);
                continue;
            }
            auto content = world.content(*message);
            if (content) {
                EXPECT_TRUE(tests::digest(*content) == oracle.mails().at(id.value).content);
            } else {
                EXPECT_EQ(content.error(), SpoolError::damaged);
            }
        }
        EXPECT_TRUE(world.submit("still accepting") || world.queue->counters().segments_free < 8);
    }
    EXPECT_GT(opened_count, 40U);
    EXPECT_GT(damaged_count, 10U);
}

// Goal: refused writes in a bad order end in a log that goes on or is read-only, never in one that waits
// for ever: for example, a batch that holds what another refused one had to say, refused as well.
TEST(SpoolCrash, RefusedWritesNeverLeaveTheLogWaiting) {
    for (std::uint64_t seed = 1; seed <= 300; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        std::mt19937_64 random{seed};
        Oracle oracle;
        World world{{.seed = seed}, small_options()};
        ASSERT_TRUE(world.open().value().has_value());
        start_load(world, oracle, {.seed = seed, .writers = 3});
        for (int fault = 0; fault < 3; ++fault) {
            static_cast<void>(world.run_until([] { return false; },
                                              std::chrono::microseconds{random() % 20'000}));
            world.disk.fail_writes(SimDisk::Fault::io, 1, random() % 3);
        }
        static_cast<void>(world.run_until([] { return false; }, 100ms));
        auto synced = world.run(world.queue->sync(base::Deadline::in(world.loop, 10s)));
        ASSERT_TRUE(synced || synced.error() == SpoolError::read_only);
    }
}

// Goal: one refused flush that takes all writes along leaves a buffer to mend them with. Method: the device stands
// still until more completions wait than all buffers hold.
TEST(SpoolCrash, AFlushThatFailsAllBuffersIsMended) {
    for (const std::size_t buffers : {std::size_t{2}, std::size_t{3}, batch_buffer_count}) {
        SCOPED_TRACE("buffers " + std::to_string(buffers));
        QueueOptions options = small_options();
        options.writes = {.batch_bytes = block_bytes, .buffers = buffers};
        World world{{.bytes = 16 << 20}, options};
        world.commit_by_flush();
        ASSERT_TRUE(world.open().value().has_value());
        world.sink();
        // Of whose completions a block holds 126.
        const std::size_t messages = std::max<std::size_t>(1000, 130 * buffers);
        for (std::size_t i = 0; i < messages; ++i)
            ASSERT_TRUE(world.submit("hello\r\n"));
        ASSERT_TRUE(world.run_until([&] { return world.ready.size() == messages; }, 10s));
        world.disk.hold(true);
        for (; !world.ready.empty(); world.ready.pop_front())
            world.deliver(std::move(world.ready.front()));
        world.run_for(100ms);
        world.fail_flushes(1);
        world.disk.hold(false);
        EXPECT_TRUE(world.run(world.queue->sync(base::Deadline::in(world.loop, 10s))));
        EXPECT_EQ(world.queue->counters().write_errors, buffers - 1);
    }
}

// Goal: what the collector has emptied stays free over a crash, however often: an older copy of a message
// does not count. Method: deferred mail in every segment, two rounds of the pool, then boots that all crash.
TEST(SpoolCrash, ACollectedSegmentStaysFreeOverACrash) {
    std::vector<std::byte> image;
    std::uint64_t free_before = 0;
    const auto submit = [](World& world, int count) {
        for (int i = 0; i < count; ++i) {
            auto sent = world.submit(std::string(20'000, 'c'));
            for (int tries = 0; !sent && tries < 20; ++tries) { // the collector may be at it
                world.run_for(50ms);
                sent = world.submit(std::string(20'000, 'c'));
            }
            ASSERT_TRUE(sent) << i << ": " << to_string(sent.error()) << ", free "
                              << world.queue->counters().segments_free;
            sent->reset();
            ASSERT_TRUE(world.run_until([&] { return !world.ready.empty(); }, 1s));
            if (i % 8 == 0) {
                world.queue->defer(std::move(world.ready.front()), world.loop.wall_now() + 24h,
                                   "later");
            } else {
                world.deliver(std::move(world.ready.front()));
            }
            world.ready.pop_front();
        }
        ASSERT_TRUE(world.sync());
    };
    {
        World world{{}, small_options()};
        ASSERT_TRUE(world.open().value().has_value());
        world.sink();
        ASSERT_NO_FATAL_FAILURE(submit(world, 500));
        free_before = world.queue->counters().segments_free;
        image = world.crash();
    }
    for (int boot = 0; boot < 3; ++boot) {
        World world{{}, small_options(), std::move(image)};
        ASSERT_TRUE(world.open().value().has_value());
        world.sink();
        static_cast<void>(
            world.run_until([] { return false; }, 2s)); // a checkpoint frees what died
        // One may go for the segment that the crash left half full, one for this boot's own.
        EXPECT_GE(world.queue->counters().segments_free + 2, free_before) << "boot " << boot;
        ASSERT_NO_FATAL_FAILURE(submit(world, 5));
        static_cast<void>(world.run_until([] { return false; }, 2s)); // the collector catches up
        EXPECT_GE(world.queue->counters().segments_free + 2, free_before) << "boot " << boot;
        image = world.crash();
    }
}

struct Slot {
    std::uint64_t begin = 0;
    std::uint32_t number = 0;
    SegmentScan scan;
};

/// Of the copies the crash may have torn one half.
Superblock superblock_of(const std::vector<std::byte>& image) {
    const std::span<const std::byte> bytes = image;
    std::optional<Superblock> newest;
    for (std::uint32_t copy = 0; copy < superblock_copies; ++copy) {
        auto decoded =
            decode_superblock(bytes.subspan(copy * block_bytes).first<block_bytes>(), copy);
        if (decoded && (!newest || decoded->generation > newest->generation)) newest = *decoded;
    }
    return newest.value();
}

std::vector<Slot> scan_all(const std::vector<std::byte>& image) {
    const std::span<const std::byte> bytes = image;
    const Superblock superblock = superblock_of(image);
    std::vector<Slot> slots;
    for (std::uint32_t number = 0; number < superblock.segment_count; ++number) {
        const std::uint64_t end = std::uint64_t{number + 1} * superblock.segment_bytes;
        const std::uint64_t begin =
            number == 0 ? superblock_area_bytes : end - superblock.segment_bytes;
        slots.push_back({begin, number,
                         scan_segment(bytes.subspan(begin, end - begin), superblock.pool,
                                      superblock.shard, number)});
    }
    return slots;
}

// Goal: a copy that the collector was making when the power went does not make the original's segment,
// with the status that only lies there, look dead. Method: such a copy is put into the image by hand.
TEST(SpoolCrash, HalfMadeCopyOfAMessageDoesNotCostItsStatus) {
    std::vector<std::byte> image;
    MessageId id;
    const auto pump = [](World& world, int count) {
        for (int i = 0; i < count; ++i) {
            auto sent = world.submit(std::string(60'000, 'f'));
            ASSERT_TRUE(sent) << i << ": " << to_string(sent.error()) << ", free "
                              << world.queue->counters().segments_free;
            const MessageId mine = (*sent)->id;
            sent->reset();
            ASSERT_TRUE(world.run_until(
                [&] { return !world.ready.empty() && world.ready.back()->id == mine; }, 1s));
            world.deliver(std::move(world.ready.back()));
            world.ready.pop_back();
        }
        ASSERT_TRUE(world.sync());
    };
    {
        World world{{}, small_options()};
        ASSERT_TRUE(world.open().value().has_value());
        world.sink();
        pump(world, 80); // once round, so that no slot is new
        id = (*world.submit("the one"))->id;
        ASSERT_TRUE(world.run_until([&] { return !world.ready.empty(); }, 1s));
        world.queue->defer(std::move(world.ready.front()), world.loop.wall_now() + 24h, "later");
        world.ready.pop_front();
        pump(world, 36); // nine segments that it keeps from being used again
        image = world.crash();
    }
    const std::vector<Slot> slots = scan_all(image);
    const auto newest = std::ranges::max_element(slots, {}, [](const Slot& slot) {
        return slot.scan.records.empty() ? 0 : slot.scan.segment_seq;
    });
    for (const Slot& slot : slots) {
        for (const FoundRecord& record : slot.scan.records) {
            if (record.header.id != id ||
                record.header.type != static_cast<std::uint16_t>(RecordType::message))
                continue;
            ASSERT_NE(&slot, &*newest);
            const FrameHeader& last = newest->scan.frames.back().header;
            const std::uint32_t at =
                last.offset + last.bytes + frame_header_bytes; // its frame header is lost
            const Superblock superblock = superblock_of(image);
            const RecordSeeds seeds = record_seeds(pool_seed(superblock.pool, superblock.shard),
                                                   newest->scan.segment_seq, at);
            const std::span<std::byte> to = std::span{image}.subspan(newest->begin + at);
            RecordHeader header = record.header;
            header.lsn += 1U << 20;
            header.payload_crc = crc32c(seeds.payload, record.payload);
            std::ranges::copy(record.payload, to.begin() + record_header_bytes);
            encode_record_header(to.first<record_header_bytes>(), header, seeds);
        }
    }
    for (int boot = 0; boot < 2; ++boot) {
        World world{{}, small_options(), std::move(image)};
        ASSERT_TRUE(world.open().value().has_value());
        world.sink();
        const EntryRef found = world.queue->index().find(id);
        ASSERT_NE(found, no_entry);
        EXPECT_EQ(world.queue->index()[found].attempts, 1U);
        pump(world, 30); // over the original's slot, but not so far that the copy's is collected
        image = world.crash();
    }
}

TEST(SpoolCrash, RecoveryIsIdempotent) {
    Oracle oracle;
    std::vector<std::byte> image;
    {
        World world{{}, small_options()};
        oracle.boot_begins();
        ASSERT_TRUE(world.open().value().has_value());
        start_load(world, oracle, {});
        world.run_for(2s);
        oracle.boot_ends(world);
        image = world.crash();
    }
    std::uint64_t recovered = 0;
    for (int boot = 0; boot < 3; ++boot) {
        World world{{}, small_options(), image};
        oracle.boot_begins();
        ASSERT_TRUE(world.open().value().has_value());
        oracle.check_opened(world);
        if (boot > 0) {
            EXPECT_EQ(world.report.messages_recovered, recovered);
        }
        recovered = world.report.messages_recovered;
        oracle.boot_ends(world);
        image = world.crash();
    }
    EXPECT_GT(recovered, 0U);
    EXPECT_TRUE(oracle.good()) << oracle.violations().front();
}

// Goal: a spool that is full when the power goes, again and again, can still write down what is delivered, and
// takes mail again. Before, the log and the collector took the last segments, and after the next start there was
// none to write a completion or a checkpoint to, for good.
TEST(SpoolCrash, AFullSpoolThatCrashesOftenGetsOutOfItAgain) {
    for (std::uint64_t seed = 1; seed <= 12; ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        Oracle oracle;
        std::vector<std::byte> image;
        base::WallTime wall = base::ManualClock{}.wall_now();
        for (std::uint64_t boot = 0; boot < 6; ++boot) {
            World world{{.bytes = 12 * (256U << 10), .seed = seed * 10 + boot},
                        small_options(),
                        std::move(image),
                        wall};
            oracle.boot_begins();
            ASSERT_TRUE(world.open().value().has_value());
            oracle.check_opened(world);
            start_load(world, oracle,
                       {.seed = seed + boot, .large_percent = 0, .defer_percent = 90});
            world.run_for(boot == 0 ? 2s : std::chrono::milliseconds{50 * boot});
            oracle.boot_ends(world);
            wall = world.loop.wall_now();
            image = world.crash();
        }
        World world{{.seed = seed}, small_options(), std::move(image), wall};
        oracle.boot_begins();
        ASSERT_TRUE(world.open().value().has_value());
        oracle.check_opened(world);
        start_deliveries(world, oracle, {.seed = seed, .defer_percent = 0, .sync_every = 24h});
        EXPECT_TRUE(
            world.run_until([&] { return world.queue->counters().queued_messages == 0; }, 24h));
        world.run_for(60s);
        static_cast<void>(world.run(tests::send(&world, &oracle, {.body = "one more"})));
        world.run_for(60s);
        EXPECT_TRUE(world.run(tests::send(&world, &oracle, {.body = "one more"})))
            << world.queue->counters().segments_free;
        EXPECT_TRUE(oracle.good()) << oracle.violations().front();
        world.stop();
    }
}

} // namespace
