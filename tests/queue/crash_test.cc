// crash_test.cc: nothing acknowledged is ever lost, whatever a crash leaves on the disk.
//
// SPOOL_SEEDS sets how many random runs there are, SPOOL_SEED the first one's seed.
#include "queue/codec.h"
#include "queue/crc32c.h"
#include "queue/queue.h"
#include "queue/segment_scan.h"
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
using tests::Model;
using tests::SimDisk;
using tests::SimDiskOptions;
using tests::small_options;
using tests::World;
namespace base = dataplane::base;

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

struct Mix {
    std::uint64_t seed = 1;
    std::size_t writers = 8;
    std::size_t large_percent = 5;
    std::size_t defer_percent = 20;
    base::Duration pause_max = 5ms;
};

base::Task<void> write_mail(World* world, Model* model, Mix mix, std::uint64_t seed) {
    std::mt19937_64 random{seed};
    for (;;) {
        const bool large = random() % 100 < mix.large_percent;
        const std::size_t bytes = large ? 100'000 + random() % 500'000 : 1 + random() % 12'000;
        const std::size_t recipients = 1 + random() % 4;
        std::string body = tests::random_body(random, bytes);
        std::string prelude = random() % 4 == 0 ? "" : "Received: from somewhere\r\n";
        auto sent = co_await tests::submit_task(*world->queue, std::move(body), std::move(prelude),
                                                recipients, model);
        if (!sent) static_cast<void>(co_await base::sleep_for(world->loop, 20ms));
        const base::Duration pause{static_cast<std::int64_t>(
            random() % static_cast<std::uint64_t>(mix.pause_max.count()))};
        static_cast<void>(co_await base::sleep_for(world->loop, pause));
    }
}

base::Task<void> deliver_mail(World* world, Model* model, Mix mix) {
    std::mt19937_64 random{mix.seed ^ 0x5555};
    for (;;) {
        while (!world->ready.empty()) {
            MessageRef message = std::move(world->ready.front());
            world->ready.pop_front();
            auto content = co_await tests::content_task(*world->queue, message);
            EXPECT_TRUE(content.has_value());
            const auto submitted = model->submitted.find(message->id.value);
            EXPECT_TRUE(content && submitted != model->submitted.end() &&
                        *content == submitted->second);
            if (random() % 100 < mix.defer_percent) {
                const auto wait = std::chrono::milliseconds{random() % 200'000};
                if (random() % 3 == 0) world->queue->progress(*message);
                world->queue->defer(message, world->loop.wall_now() + wait, "451 later");
                continue;
            }
            model->settled.insert(message->id.value);
            world->deliver(std::move(message));
        }
        static_cast<void>(co_await base::sleep_for(world->loop, 3ms));
    }
}

// What a successful sync promises must hold after any crash.
base::Task<void> sync_now_and_then(World* world, Model* model) {
    for (;;) {
        static_cast<void>(co_await base::sleep_for(world->loop, 60ms));
        const std::set<std::uint64_t> settled = model->settled;
        const std::set<std::uint64_t> refused = model->refused;
        std::map<std::uint64_t, std::uint32_t> attempts;
        world->queue->for_each({}, [&](EntryRef, const Entry& entry) {
            attempts[entry.id.value] = entry.attempts;
            return true;
        });
        auto synced = co_await world->queue->sync(base::Deadline::never());
        if (!synced) continue;
        model->settled_for_good = settled;
        model->refused_for_good = refused;
        model->attempts = std::move(attempts);
    }
}

void start_load(World& world, Model& model, const Mix& mix) {
    world.sink();
    world.start(deliver_mail(&world, &model, mix));
    world.start(sync_now_and_then(&world, &model));
    for (std::size_t i = 0; i < mix.writers; ++i) {
        world.start(write_mail(&world, &model, mix, mix.seed * 1000 + i));
    }
}

/// A few boots on one disk, each ended by a crash at a random moment, some inside of recovery.
void run_seed(std::uint64_t seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937_64 random{seed};
    QueueOptions options = small_options();
    options.segment_bytes = static_cast<std::uint32_t>(4 + random() % 3 * 4) * (64U << 10);
    SimDiskOptions disk{.bytes = (8 + random() % 8) * std::uint64_t{options.segment_bytes},
                        .seed = seed};
    if (random() % 4 == 0) disk.latency_max = 30ms;
    Mix mix{.seed = seed,
            .writers = 1 + random() % 12,
            .large_percent = random() % 3 == 0 ? 10U : 0U,
            .defer_percent = random() % 40};
    if (random() % 3 == 0) mix.pause_max = 100ms;

    Model model;
    std::vector<std::byte> image;
    for (int boot = 0; boot < 3 && !testing::Test::HasFailure(); ++boot) {
        disk.seed = seed * 16 + static_cast<std::uint64_t>(boot);
        World world{disk, options, std::move(image)};
        if (random() % 5 == 0)
            world.disk.stop_after(random() % 40); // most of them inside of recovery
        const auto opened = world.open();
        if (!opened) {
            image = world.crash();
            continue;
        }
        ASSERT_TRUE(opened->has_value()) << world.report.problem;
        if (world.disk.stopped()) { // between the end of recovery and now
            image = world.crash();
            continue;
        }
        world.disk.stop_after(SimDisk::always);
        tests::check_recovered(world, model);
        // What is on the disk now is what there is: nothing that was settled before can come back
        // later, and what was recovered although refused is there like any other.
        if (random() % 3 == 0) {
            const auto fault = static_cast<SimDisk::Fault>(random() % 3);
            world.disk.fail_writes(fault, random() % 8 == 0 ? 2 : 1, random() % 60);
        }
        start_load(world, model, mix);
        world.disk.stop_after(world.disk.operation_count() + 1 + random() % 400);
        world.run_until([&] { return world.disk.stopped(); }, 5s);
        image = world.crash();
    }
    // The last boot: everything that is left is delivered, and then it is gone.
    World world{disk, options, std::move(image)};
    ASSERT_TRUE(world.open().value().has_value()) << world.report.problem;
    tests::check_recovered(world, model);
    mix.writers = 0;
    mix.defer_percent = 0;
    start_load(world, model, mix);
    EXPECT_TRUE(world.run_until([&] { return world.queue->counters().queued_messages == 0; }, 24h));
    for (const std::uint64_t id : model.acknowledged)
        EXPECT_TRUE(model.settled.contains(id));
}

TEST(SpoolCrash, NothingAcknowledgedIsLostOverRandomRuns) {
    const std::uint64_t first = from_environment("SPOOL_SEED", 1);
    const std::uint64_t count = from_environment("SPOOL_SEEDS", 200);
    for (std::uint64_t seed = first; seed < first + count; ++seed) {
        run_seed(seed);
        if (HasFailure()) {
            std::fprintf(stderr, "failed: SPOOL_SEED=%llu SPOOL_SEEDS=1\n",
                         static_cast<unsigned long long>(seed));
            return;
        }
    }
}

/// A fixed story with everything in it; returns early when the disk stops.
base::Task<void> script(World* world, Model* model, bool* done) {
    std::mt19937_64 random{99};
    MessageQueue& queue = *world->queue;
    for (int i = 0; i < 10; ++i) {
        const std::size_t bytes = i == 4 ? 300'000 : 500 + 2000 * static_cast<std::size_t>(i);
        auto sent = co_await tests::submit_task(queue, tests::random_body(random, bytes),
                                                "P: 1\r\n", 2, model);
        EXPECT_TRUE(sent.has_value());
        static_cast<void>(co_await base::sleep_for(world->loop, 1ms));
        if (world->ready.empty()) continue;
        MessageRef message = std::move(world->ready.front());
        world->ready.pop_front();
        if (i % 3 == 2) {
            world->queue->defer(message, world->loop.wall_now() + 10s, "later");
        } else {
            model->settled.insert(message->id.value);
            world->deliver(std::move(message));
        }
        if (i % 4 != 3) continue;
        const std::set<std::uint64_t> settled = model->settled;
        auto synced = co_await queue.sync(base::Deadline::never());
        if (synced) model->settled_for_good = settled;
    }
    auto closed = co_await queue.close(base::Deadline::never());
    EXPECT_TRUE(closed.has_value());
    *done = true;
}

/// Runs the script and crashes after `stop` operations. Returns whether it got through to the end.
bool run_script(std::uint64_t stop, std::uint64_t seed, std::uint64_t& operations) {
    Model model;
    const SimDiskOptions disk{.seed = seed};
    std::vector<std::byte> image;
    bool done = false;
    {
        World world{disk, small_options()};
        world.disk.stop_after(stop);
        if (world.open()) {
            world.sink();
            world.start(script(&world, &model, &done));
            world.run_until([&] { return done || world.disk.stopped(); });
        }
        operations = world.disk.operation_count();
        image = world.crash();
    }
    World world{disk, small_options(), std::move(image)};
    const auto opened = world.open();
    EXPECT_TRUE(opened.value().has_value()) << world.report.problem;
    if (opened->has_value()) tests::check_recovered(world, model);
    return done;
}

TEST(SpoolCrash, ACrashAtEveryOperationOfAScriptLosesNothing) {
    std::uint64_t operations = 0;
    ASSERT_TRUE(run_script(SimDisk::always, 1, operations));
    for (std::uint64_t stop = 0; stop <= operations; ++stop) {
        for (std::uint64_t seed = 1; seed <= 4; ++seed) {
            SCOPED_TRACE("stop " + std::to_string(stop) + " seed " + std::to_string(seed));
            std::uint64_t unused = 0;
            static_cast<void>(run_script(stop, seed, unused));
            if (HasFailure()) return;
        }
    }
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
    Model model;
    std::vector<std::byte> image;
    {
        World world{{}, small_options()};
        ASSERT_TRUE(world.open().value().has_value());
        start_load(world, model, {.large_percent = 10});
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
                EXPECT_TRUE(*content == model.submitted.at(id.value));
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
        Model model;
        World world{{.seed = seed}, small_options()};
        ASSERT_TRUE(world.open().value().has_value());
        start_load(world, model, {.seed = seed, .writers = 3});
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

// Goal: what the collector has emptied stays free over a crash, however often: an older copy of a message
// does not count. Method: deferred mail in every segment, two rounds of the pool, then boots that all crash.
TEST(SpoolCrash, ACollectedSegmentStaysFreeOverACrash) {
    std::vector<std::byte> image;
    std::uint64_t free_before = 0;
    const auto submit = [](World& world, int count) {
        for (int i = 0; i < count; ++i) {
            auto sent = world.submit(std::string(20'000, 'c'));
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
    Model model;
    std::vector<std::byte> image;
    {
        World world{{}, small_options()};
        ASSERT_TRUE(world.open().value().has_value());
        start_load(world, model, {});
        world.run_until([] { return false; }, 2s);
        image = world.crash();
    }
    std::uint64_t recovered = 0;
    for (int boot = 0; boot < 3; ++boot) {
        World world{{}, small_options(), image};
        ASSERT_TRUE(world.open().value().has_value());
        tests::check_recovered(world, model);
        if (boot > 0) {
            EXPECT_EQ(world.report.messages_recovered, recovered);
        }
        recovered = world.report.messages_recovered;
        image = world.crash();
    }
    EXPECT_GT(recovered, 0U);
}

} // namespace
