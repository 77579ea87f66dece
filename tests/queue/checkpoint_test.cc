// checkpoint_test.cc: a checkpoint saves time and never costs mail, whatever becomes of it.
#include "queue/checkpoint.h"
#include "queue/checkpoint_encoder.h"
#include "queue/queue.h"
#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::SimDiskOptions;
using tests::small_options;
using tests::World;
namespace base = dataplane::base;

// Enough segments that checkpoints and collected mail lie apart.
constexpr SimDiskOptions many_segments{.bytes = 24U << 20, .latency_max = 200us};

struct Known {
    std::uint32_t attempts = 0;
    std::string content;
    std::string error;
    bool operator==(const Known&) const = default;
};

std::map<std::uint64_t, Known> all_mail(World& world) {
    std::vector<MessageId> ids;
    world.queue->for_each({}, [&](EntryRef, const Entry& entry) {
        ids.push_back(entry.id);
        return true;
    });
    std::map<std::uint64_t, Known> all;
    for (const MessageId id : ids) {
        auto message = world.run(world.queue->load(id, base::Deadline::never()));
        EXPECT_TRUE(message.has_value()) << id.to_string();
        if (!message) continue;
        auto content = world.content(*message);
        EXPECT_TRUE(content.has_value()) << id.to_string();
        all[id.value] = {(*message)->attempts, content.value_or(""), (*message)->last_error};
    }
    return all;
}

/// Every eighth message is deferred, now and then one of several recipients or in chunks; the rest is
/// delivered at once.
void send(World& world, int count) {
    std::mt19937_64 random{static_cast<std::uint64_t>(count)};
    for (int i = 0; i < count; ++i) {
        const std::size_t bytes = i % 200 == 8 || i % 40 == 9 ? 300'000 : 1000 + random() % 20'000;
        auto sent =
            world.submit(tests::random_body(random, bytes), "P: 1\r\n", i % 16 == 0 ? 3 : 1);
        ASSERT_TRUE(sent) << i << ": " << to_string(sent.error());
        sent->reset();
        ASSERT_TRUE(world.run_until([&] { return !world.ready.empty(); }, 1s));
        MessageRef message = std::move(world.ready.front());
        world.ready.pop_front();
        if (i % 8 == 0) {
            if (message->status.size() > 1) message->status[0].state = RecipientState::delivered;
            world.queue->defer(std::move(message), world.loop.wall_now() + 24h, "451 later");
        } else {
            world.deliver(std::move(message));
        }
    }
    ASSERT_TRUE(world.sync());
}

/// A pool that has gone round, with a checkpoint and mail behind it.
std::vector<std::byte> used_pool(std::map<std::uint64_t, Known>& mail, std::uint64_t& slots) {
    World world{many_segments, small_options()};
    EXPECT_TRUE(world.open().value().has_value());
    world.sink();
    send(world, 2000);
    EXPECT_GT(world.queue->counters().checkpoints, 0U);
    mail = all_mail(world);
    slots = world.queue->counters().segments_total;
    return world.crash();
}

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

std::uint64_t offset_of(const Superblock& superblock, std::uint32_t slot, std::uint32_t offset) {
    const std::uint64_t begin =
        slot == 0 ? superblock_area_bytes : std::uint64_t{slot} * superblock.segment_bytes;
    return begin + offset;
}

TEST(Checkpoint, RestartReadsItAndTheEndOfTheLogOnly) {
    std::map<std::uint64_t, Known> mail;
    std::uint64_t slots = 0;
    std::vector<std::byte> image = used_pool(mail, slots);
    World world{many_segments, small_options(), std::move(image)};
    ASSERT_TRUE(world.open().value().has_value());
    EXPECT_FALSE(world.report.checkpoint_lost);
    EXPECT_GT(world.report.checkpoint_entries, 0U);
    EXPECT_LT(world.report.segments_read, slots / 3);
    EXPECT_TRUE(all_mail(world) == mail);
}

// Goal: what a checkpoint and the log behind it say is what the whole log says. Method: one image opened with
// its checkpoint and with that damaged. Finished mail may come back without it, and a status be older.
TEST(Checkpoint, WithoutItAFullScanFindsTheSameMail) {
    std::map<std::uint64_t, Known> mail;
    std::uint64_t slots = 0;
    std::vector<std::byte> image = used_pool(mail, slots);
    const CheckpointPointer pointer = superblock_of(image).checkpoint;
    ASSERT_TRUE(pointer.valid());
    image[offset_of(superblock_of(image), pointer.slot, pointer.offset) + 40] ^= std::byte{1};
    World world{many_segments, small_options(), std::move(image)};
    ASSERT_TRUE(world.open().value().has_value());
    EXPECT_TRUE(world.report.checkpoint_lost);
    const auto found = all_mail(world);
    for (const auto& [id, known] : mail) {
        ASSERT_TRUE(found.contains(id)) << std::hex << id;
        EXPECT_TRUE(found.at(id).content == known.content);
    }
}

TEST(Checkpoint, ADamagedPartCostsTimeAndNoMail) {
    std::map<std::uint64_t, Known> mail;
    std::uint64_t slots = 0;
    std::vector<std::byte> image = used_pool(mail, slots);
    const Superblock superblock = superblock_of(image);
    const CheckpointPointer pointer = superblock.checkpoint;
    const std::uint64_t at = offset_of(superblock, pointer.slot, pointer.offset);
    const auto end = decode_checkpoint_end(
        std::span<const std::byte>{image}.subspan(at + record_header_bytes, pointer.payload_bytes));
    ASSERT_TRUE(end);
    ASSERT_FALSE(end->parts.empty());
    const CheckpointPart& part = end->parts.front();
    image[offset_of(superblock, part.slot, part.offset) + record_header_bytes + 100] ^=
        std::byte{1};
    World world{many_segments, small_options(), std::move(image)};
    ASSERT_TRUE(world.open().value().has_value());
    EXPECT_TRUE(world.report.checkpoint_lost);
    const auto found = all_mail(world);
    for (const auto& [id, known] : mail) {
        ASSERT_TRUE(found.contains(id)) << std::hex << id;
        EXPECT_TRUE(found.at(id).content == known.content);
    }
}

TEST(Checkpoint, MailIsAcceptedWhileTheRestIsStillBeingFound) {
    std::map<std::uint64_t, Known> mail;
    std::uint64_t slots = 0;
    std::vector<std::byte> image = used_pool(mail, slots);
    QueueOptions options = small_options();
    options.recovery_wait = 0ms;
    World world{many_segments, options, std::move(image)};
    RecoveryReport report;
    auto opened = world.run(MessageQueue::open(world.loop, world.disk, options, report));
    ASSERT_TRUE(opened);
    world.queue = std::move(*opened);
    EXPECT_FALSE(report.complete);
    world.disk.hold(false);
    auto sent = world.submit("new");
    ASSERT_TRUE(sent) << to_string(sent.error());
    EXPECT_FALSE(world.queue->recovery().complete);
    ASSERT_TRUE(world.run(world.queue->recovered(base::Deadline::never())));
    mail[(*sent)->id.value] = {0, "new", ""};
    sent->reset();
    EXPECT_TRUE(all_mail(world) == mail);
}

TEST(CheckpointPart, RoundTrips) {
    MessageIndex index;
    SegmentTable segments{256U << 10, 8};
    segments.add_sealed(3, 77);
    Envelope envelope;
    envelope.set_sender("a@example.org");
    envelope.set_tenant("tenant");
    envelope.add_recipient("x@One.example", "", notify_absent);
    envelope.add_recipient("y@two.example", "", notify_absent);
    const EntryRef ref = index.insert(MessageId{5});
    index.describe(ref, envelope);
    const std::array<RecipientStatus, 2> status{
        {{RecipientState::delivered, 1, 250}, {RecipientState::pending, 2, 451}}};
    index.set_status(ref, status);
    index.set_error(ref, "451 4.7.1 later");
    const std::array<Chunk, 1> chunks{{{{3, 8192}, 1000}}};
    index.set_chunks(ref, chunks);
    index[ref].place = {3, 16384};
    index[ref].payload_bytes = 500;
    CheckpointEncoder encoder;
    encoder.add(index, segments, index[ref]);
    const std::vector<std::byte> payload = encoder.finish();
    auto reader = CheckpointReader::open(payload);
    ASSERT_TRUE(reader);
    CheckpointEntry entry;
    ASSERT_TRUE(reader->next(entry));
    EXPECT_EQ(entry.id.value, 5U);
    EXPECT_EQ(entry.place.segment_seq, 77U);
    EXPECT_EQ(entry.tenant, "tenant");
    EXPECT_EQ(entry.error, "451 4.7.1 later");
    ASSERT_EQ(entry.status.size(), 2U);
    EXPECT_EQ(entry.status[1], status[1]);
    EXPECT_EQ(entry.domains[0], "one.example");
    ASSERT_EQ(entry.chunks.size(), 1U);
    EXPECT_EQ(entry.chunks[0].offset, 8192U);
    EXPECT_FALSE(reader->next(entry));
    EXPECT_TRUE(reader->good());
    for (std::size_t cut = 0; cut < payload.size(); ++cut) { // never beyond its end
        auto shortened = CheckpointReader::open(std::span{payload}.first(cut));
        while (shortened && shortened->next(entry)) {
        }
    }
}

TEST(MessageIndex, AMillionMessagesTake128BytesEach) {
    MessageIndex index;
    Schedule schedule{0};
    Envelope envelope;
    envelope.add_recipient("user@example.net", "", notify_absent);
    constexpr std::uint32_t count = 1'000'000;
    for (std::uint32_t i = 1; i <= count; ++i) {
        const EntryRef ref = index.insert(MessageId::make(0, 1, i));
        index.describe(ref, envelope);
        schedule.admit(ref, index[ref].tenant, 1000, Schedule::Share::retry);
        schedule.schedule(ref, 100 + i % 4000);
    }
    EXPECT_EQ(index.size(), count);
    EXPECT_LE(index.memory_bytes() + schedule.memory_bytes(), std::size_t{count} * 128);
    for (std::uint32_t i = 1; i <= count; i += 997)
        EXPECT_NE(index.find(MessageId::make(0, 1, i)), no_entry);
}

TEST(MessageIndex, ErrorsBeyondTheTableAreKeptByTheirCode) {
    MessageIndex index;
    EntryRef ref = 0;
    for (std::size_t i = 1; i <= error_texts_max + 2; ++i) {
        ref = index.insert(MessageId{i});
        index.set_error(ref, "451 4.7.1 try later, ticket " + std::to_string(i));
        if (i == 1) {
            ref = index.insert(MessageId{std::uint64_t{1} << 40});
            index.set_error(ref, "451 4.7.1");
        }
    }
    EXPECT_EQ(index.error(index[ref]), "451 4.7.1");
}

} // namespace
