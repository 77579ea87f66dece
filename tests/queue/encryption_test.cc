// encryption_test.cc: what is on the disk cannot be read without its key, is refused when it was changed, and
// is never lost while keys are exchanged.
#include "queue/cipher.h"
#include "queue/codec.h"
#include "queue/disk/crc32c.h"
#include "queue/keyring.h"
#include "queue/queue.h"
#include "queue/segment_scan.h"
#include "queue/segments.h"
#include "tests/queue/spool_keys.h"
#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <unistd.h>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::key_ring;
using tests::key_text;
using tests::SimDisk;
using tests::small_options;
using tests::World;
namespace base = dataplane::base;

constexpr std::string_view marker = "nobody but the recipient is to see this";

QueueOptions options_with(std::shared_ptr<const KeyRing> keys) {
    QueueOptions options = small_options();
    options.keys = std::move(keys);
    return options;
}

Superblock superblock_of(std::vector<std::byte>& image) {
    return decode_superblock(std::span{image}.first<block_bytes>(), 0).value();
}

bool contains(std::span<const std::byte> image, std::string_view text) {
    const auto bytes = base::as_bytes(text);
    return std::search(image.begin(), image.end(), bytes.begin(), bytes.end()) != image.end();
}

/// Calls visit(whole segment, slot, begin) for each slot that holds one.
template <class Visit>
void for_each_segment(std::vector<std::byte>& image, Visit&& visit) {
    const Superblock superblock = superblock_of(image);
    const SegmentTable geometry{superblock.segment_bytes, superblock.segment_count};
    for (std::uint32_t slot = 0; slot < superblock.segment_count; ++slot) {
        const std::span<std::byte> segment =
            std::span{image}.subspan(geometry.begin_of(slot), geometry.bytes_of(slot));
        if (decode_segment_header(segment.first<block_bytes>(), 0))
            visit(segment, slot, superblock);
    }
}

/// Content by id of all mail that is queued.
std::map<std::uint64_t, std::string> all_mail(World& world) {
    std::vector<MessageId> ids;
    world.queue->for_each({}, [&](EntryRef, const Entry& entry) {
        ids.push_back(entry.id);
        return true;
    });
    std::map<std::uint64_t, std::string> mail;
    for (const MessageId id : ids) {
        auto message = world.run(world.queue->load(id, base::Deadline::never()));
        EXPECT_TRUE(message) << to_string(message.error());
        if (!message) continue;
        auto content = world.content(*message);
        EXPECT_TRUE(content) << to_string(content.error());
        if (content) mail[id.value] = *content;
    }
    return mail;
}

/// A pool with mail of many sizes, some of it deferred, some of it in chunks, and a checkpoint; `mail` is what it
/// holds.
std::vector<std::byte> filled(const std::shared_ptr<const KeyRing>& keys,
                              std::map<std::uint64_t, std::string>& mail,
                              std::vector<std::byte> image = {}) {
    World world{{.bytes = 6 << 20}, options_with(keys), std::move(image)};
    EXPECT_TRUE(world.open().value().has_value()) << world.report.problem;
    std::mt19937_64 random{mail.size()};
    for (int i = 0; i < 12; ++i) {
        const std::size_t bytes = i == 0 ? 700'000 : random() % 20'000;
        std::string body = std::string(marker) + tests::random_body(random, bytes);
        auto sent = world.submit(body, "Received: here\r\n", 1 + random() % 3);
        EXPECT_TRUE(sent) << to_string(sent.error());
        if (sent) mail[(*sent)->id.value] = "Received: here\r\n" + body;
    }
    world.sink();
    EXPECT_TRUE(world.run_until([&] { return !world.ready.empty(); }, 10s));
    world.run_until([] { return false; }, 10ms);
    while (!world.ready.empty()) {
        world.queue->defer(std::move(world.ready.front()), world.loop.wall_now() + 100h,
                           "451 4.7.1 a text that tells who it was for");
        world.ready.pop_front();
    }
    EXPECT_TRUE(world.sync());
    EXPECT_TRUE(world.run(world.queue->close(base::Deadline::in(world.loop, 10s))));
    return world.crash();
}

TEST(Encryption, NothingOfTheMailIsOnTheDiskAndAllOfItComesBack) {
    std::map<std::uint64_t, std::string> mail;
    const auto keys = tests::spool_keys(1);
    std::vector<std::byte> image = filled(keys, mail);
    for (const std::string_view text :
         {marker, std::string_view{"example.org"}, std::string_view{"example.net"},
          std::string_view{"a text that tells"}, std::string_view{"Received:"}}) {
        EXPECT_FALSE(contains(image, text)) << text;
    }
    EXPECT_TRUE(superblock_of(image).encrypted);
    World world{{}, options_with(tests::spool_keys(1)), image};
    ASSERT_TRUE(world.open().value().has_value()) << world.report.problem;
    EXPECT_EQ(world.report.records_damaged, 0U);
    EXPECT_GT(world.report.checkpoint_entries, 0U);
    EXPECT_TRUE(all_mail(world) == mail);
}

TEST(Encryption, WithoutItTheSameMailIsThereForEverybody) { // so that the test above can fail
    std::map<std::uint64_t, std::string> mail;
    std::vector<std::byte> image = filled(nullptr, mail);
    EXPECT_TRUE(contains(image, marker));
    EXPECT_TRUE(contains(image, "example.net"));
    EXPECT_TRUE(contains(image, "a text that tells"));
    EXPECT_FALSE(superblock_of(image).encrypted);
}

// Goal: no key and nonce ever come together twice. Method: over several boots with refused writes in between,
// all records that are on the disk at any time are collected, by their segment and what makes their nonce.
TEST(Encryption, NoNonceComesTwiceUnderOneKey) {
    std::set<std::tuple<std::uint64_t, std::uint64_t, std::uint32_t>> seen;
    std::map<std::tuple<std::uint64_t, std::uint64_t, std::uint32_t>, std::uint32_t> crcs;
    std::set<std::array<std::byte, 32>> wrapped;
    std::vector<std::byte> image;
    for (unsigned boot = 0; boot < 6; ++boot) {
        World world{{.bytes = 3 << 20}, options_with(tests::spool_keys(7, false, boot)), image};
        ASSERT_TRUE(world.open().value().has_value()) << world.report.problem;
        world.sink();
        for (int i = 0; i < 30; ++i) {
            if (i % 11 == 3) world.disk.fail_writes(SimDisk::Fault::io, 1, 0);
            static_cast<void>(world.submit(std::string(9000, 'n')));
            world.run_until([] { return false; }, 5ms);
            while (!world.ready.empty()) {
                if (i % 3 == 0) {
                    world.queue->defer(std::move(world.ready.front()), world.loop.wall_now() + 1h,
                                       "later");
                } else {
                    world.deliver(std::move(world.ready.front()));
                }
                world.ready.pop_front();
            }
            for_each_segment(world.disk.bytes(), [&](std::span<std::byte> segment,
                                                     std::uint32_t slot, const Superblock& pool) {
                const auto header = decode_segment_header(segment.first<block_bytes>(), 0);
                ASSERT_TRUE(header->key);
                wrapped.insert(header->key->key);
                const SegmentScan scan = scan_segment(segment, pool.pool, pool.shard, slot);
                for (const FoundRecord& record : scan.records) {
                    if (!record.header.encrypted()) continue;
                    const std::tuple nonce{scan.segment_seq, record.header.lsn, record.offset};
                    const auto [at, added] = crcs.emplace(nonce, record.header.payload_crc);
                    EXPECT_EQ(at->second, record.header.payload_crc); // else it was written twice
                    seen.insert({scan.segment_seq, record.header.lsn, 0});
                }
            });
        }
        image = world.crash();
    }
    EXPECT_GT(crcs.size(), 100U);
    EXPECT_EQ(seen.size(), crcs.size()); // no LSN twice in one segment
    EXPECT_GT(wrapped.size(), 8U);
}

class TamperedRecord : public testing::TestWithParam<const char*> {};

// Goal: bytes that were changed on purpose, with a checksum made to fit, are never taken for mail.
TEST_P(TamperedRecord, IsNeverHandedOut) {
    const std::string what = GetParam();
    std::map<std::uint64_t, std::string> mail;
    std::vector<std::byte> image = filled(tests::spool_keys(3), mail);
    const std::uint32_t seed = pool_seed(superblock_of(image).pool, superblock_of(image).shard);
    std::uint64_t victim = 0;
    std::vector<std::byte> other; // stored bytes of another record of the same size
    for_each_segment(image, [&](std::span<std::byte> segment, std::uint32_t slot,
                                const Superblock& pool) {
        const SegmentScan scan = scan_segment(segment, pool.pool, pool.shard, slot);
        for (const FoundRecord& record : scan.records) {
            if (victim != 0 ||
                record.header.type != static_cast<std::uint16_t>(RecordType::message))
                continue;
            victim = record.header.id.value;
            const RecordSeeds seeds = record_seeds(seed, scan.segment_seq, record.offset);
            RecordHeader header = record.header;
            const std::span<std::byte> stored =
                segment.subspan(record.offset + record_header_bytes, record.header.stored_bytes());
            if (what == "content") stored[header.payload_bytes - 5] ^= std::byte{1};
            if (what == "envelope") stored[message_prefix_bytes + 60] ^= std::byte{1};
            if (what == "tag") stored.back() ^= std::byte{1};
            if (what == "plain") header.flags = 0; // as if it had never been encrypted
            if (what == "id") header.id.value ^= std::uint64_t{1} << 39;
            header.payload_crc = crc32c(seeds.payload, stored.first(header.stored_bytes()));
            encode_record_header(segment.subspan(record.offset).first<record_header_bytes>(),
                                 header, seeds);
            if (what == "id") victim = header.id.value;
        }
    });
    ASSERT_NE(victim, 0U);
    // Without the checkpoint, so that all of the record is looked at afresh.
    const CheckpointPointer pointer = superblock_of(image).checkpoint;
    ASSERT_TRUE(pointer.valid());
    const SegmentTable geometry{superblock_of(image).segment_bytes,
                                superblock_of(image).segment_count};
    image[geometry.begin_of(pointer.slot) + pointer.offset + 40] ^= std::byte{1};

    World world{{}, options_with(tests::spool_keys(3)), std::move(image)};
    ASSERT_TRUE(world.open().value().has_value()) << world.report.problem;
    std::vector<MessageId> ids;
    world.queue->for_each({}, [&](EntryRef, const Entry& entry) {
        ids.push_back(entry.id);
        return true;
    });
    for (const MessageId id : ids) {
        auto message = world.run(world.queue->load(id, base::Deadline::never()));
        if (id.value == victim) {
            EXPECT_EQ(message.error(), SpoolError::forged);
            continue;
        }
        ASSERT_TRUE(message) << to_string(message.error());
        EXPECT_EQ(world.content(*message).value(), mail.at(id.value));
    }
}

INSTANTIATE_TEST_SUITE_P(Encryption, TamperedRecord,
                         testing::Values("content", "envelope", "tag", "plain", "id"),
                         [](const auto& what) { return std::string{what.param}; });

// Goal: a wrong or missing key is told, with its id and what to do, and changes nothing on the disk.
TEST(Encryption, AMissingKeyIsToldAndChangesNothing) {
    std::map<std::uint64_t, std::string> mail;
    std::vector<std::byte> image = filled(tests::spool_keys(1), mail);
    for (const auto& keys : {std::shared_ptr<const KeyRing>{}, tests::spool_keys(2),
                             key_ring("none\n", 5), key_ring("none\n" + key_text(9), 5)}) {
        World world{{}, options_with(keys), image};
        const auto opened = world.open().value();
        ASSERT_FALSE(opened.has_value());
        EXPECT_EQ(opened.error(), SpoolError::no_key);
        std::string id;
        for_each_segment(image, [&](std::span<std::byte> segment, std::uint32_t,
                                    const Superblock&) {
            id = to_string(decode_segment_header(segment.first<block_bytes>(), 0)->key->wrapper);
        });
        EXPECT_NE(world.report.problem.find(id), std::string::npos) << world.report.problem;
        EXPECT_TRUE(world.disk.bytes() == image);
    }
    World world{{}, options_with(tests::spool_keys(1)), image};
    ASSERT_TRUE(world.open().value().has_value());
    EXPECT_TRUE(all_mail(world) == mail);
}

TEST(Encryption, MailUnderALostKeyIsGivenUpWhenTheOperatorSaysSo) {
    std::map<std::uint64_t, std::string> mail;
    std::vector<std::byte> image = filled(tests::spool_keys(1), mail);
    std::string id;
    for_each_segment(image, [&](std::span<std::byte> segment, std::uint32_t, const Superblock&) {
        id = to_string(decode_segment_header(segment.first<block_bytes>(), 0)->key->wrapper);
    });
    World world{{}, options_with(key_ring(key_text(2) + "lost " + id + "\n", 5)), std::move(image)};
    ASSERT_TRUE(world.open().value().has_value()) << world.report.problem;
    EXPECT_GT(world.report.records_damaged, 0U);
    EXPECT_TRUE(world.submit("still accepting"));
}

TEST(Encryption, SwitchedOnAndOffAgainAllMailStaysReadable) {
    std::map<std::uint64_t, std::string> mail;
    std::vector<std::byte> image = filled(nullptr, mail);
    image = filled(tests::spool_keys(1), mail, std::move(image)); // only what is new is encrypted
    EXPECT_TRUE(contains(image, marker));
    image = filled(key_ring("none\n" + key_text(1), 5), mail, std::move(image));
    World world{{}, options_with(key_ring("none\n" + key_text(1), 6)), std::move(image)};
    ASSERT_TRUE(world.open().value().has_value()) << world.report.problem;
    EXPECT_EQ(world.report.records_damaged, 0U);
    EXPECT_EQ(mail.size(), 36U);
    EXPECT_TRUE(all_mail(world) == mail);
}

std::set<std::string> wrappers(std::vector<std::byte>& image) {
    std::set<std::string> found;
    for_each_segment(image,
                     [&](std::span<std::byte> segment, std::uint32_t slot, const Superblock& pool) {
                         static_cast<void>(slot);
                         for (std::uint32_t copy = 0; copy < segment_header_copies; ++copy) {
                             const auto header = decode_segment_header(
                                 segment.subspan(copy * block_bytes).first<block_bytes>(), copy);
                             if (header && header->key && header->segment_seq >= pool.segment_floor)
                                 found.insert(to_string(header->key->wrapper));
                         }
                     });
    return found;
}

TEST(Encryption, AfterAChangeOfKeysTheOldOneIsNotNeededAnyMore) {
    std::map<std::uint64_t, std::string> mail;
    std::vector<std::byte> image = filled(tests::spool_keys(1), mail);
    const std::set<std::string> old = wrappers(image);
    ASSERT_EQ(old.size(), 1U);
    {
        World world{{}, options_with(tests::spool_keys(1, true)), std::move(image)};
        ASSERT_TRUE(world.open().value().has_value()) << world.report.problem;
        EXPECT_GT(world.queue->counters().segments_old_key, 0U);
        EXPECT_TRUE(
            world.run_until([&] { return world.queue->counters().segments_old_key == 0; }, 10s));
        world.run_until([] { return false; }, 1s); // and the next segment's header is written
        image = world.crash();
    }
    EXPECT_FALSE(wrappers(image).contains(*old.begin()));
    World world{{}, options_with(key_ring(key_text(2), 9)), std::move(image)};
    ASSERT_TRUE(world.open().value().has_value()) << world.report.problem;
    EXPECT_TRUE(all_mail(world) == mail);
}

// Goal: a change of keys may be cut short anywhere, by a crash or a refused write, and again when it is tried
// again; with both keys at hand everything opens.
TEST(Encryption, AChangeOfKeysThatIsCutShortAnywhereLosesNothing) {
    std::map<std::uint64_t, std::string> mail;
    const std::vector<std::byte> before = filled(tests::spool_keys(1), mail);
    std::uint64_t operations = 0;
    {
        World world{{}, options_with(tests::spool_keys(1, true)), before};
        ASSERT_TRUE(world.open().value().has_value());
        ASSERT_TRUE(
            world.run_until([&] { return world.queue->counters().segments_old_key == 0; }, 10s));
        operations = world.disk.operation_count();
    }
    ASSERT_GT(operations, 20U);
    for (std::uint64_t cut = 1; cut <= operations; ++cut) {
        for (const bool refuse : {false, true}) {
            SCOPED_TRACE("operation " + std::to_string(cut) + (refuse ? " refused" : " cut"));
            std::vector<std::byte> image;
            {
                World world{{.seed = cut}, options_with(tests::spool_keys(1, true)), before};
                if (!refuse) world.disk.stop_after(cut);
                if (refuse) world.disk.fail_writes(SimDisk::Fault::io, 1, cut);
                static_cast<void>(world.open());
                world.run_until([] { return false; }, 1s);
                image = world.crash();
            }
            World world{{}, options_with(tests::spool_keys(1, true)), std::move(image)};
            const auto opened = world.open();
            ASSERT_TRUE(opened && opened->has_value()) << world.report.problem;
            ASSERT_TRUE(all_mail(world) == mail);
            ASSERT_TRUE(world.run_until(
                [&] { return world.queue->counters().segments_old_key == 0; }, 10s));
        }
    }
}

TEST(Encryption, ASlotThatIsUsedAgainHasAnotherKey) {
    World world{{.bytes = 3 << 20}, options_with(tests::spool_keys(1))};
    ASSERT_TRUE(world.open().value().has_value());
    world.sink();
    std::map<std::uint32_t, std::set<std::array<std::byte, 32>>> keys;
    for (int i = 0; i < 300; ++i) {
        ASSERT_TRUE(world.submit(std::string(30'000, 's')));
        world.run_until([] { return false; }, 5ms);
        while (!world.ready.empty()) {
            world.deliver(std::move(world.ready.front()));
            world.ready.pop_front();
        }
        for_each_segment(world.disk.bytes(), [&](std::span<std::byte> segment, std::uint32_t slot,
                                                 const Superblock&) {
            const auto header = decode_segment_header(segment.first<block_bytes>(), 0);
            keys[slot].insert(header->key->key);
        });
    }
    std::size_t most = 0;
    for (const auto& [slot, used] : keys)
        most = std::max(most, used.size());
    EXPECT_GT(most, 2U);
}

TEST(KeyRing, SaysWhichLineIsWrongAndNeverRepeatsIt) {
    const auto wrong = KeyRing::parse("# mine\n\n" + std::string(63, 'a'), "the keys");
    ASSERT_FALSE(wrong);
    EXPECT_NE(wrong.error().find("the keys:3:"), std::string::npos) << wrong.error();
    EXPECT_EQ(wrong.error().find("aaaa"), std::string::npos);
    EXPECT_FALSE(KeyRing::parse("", "x"));
    EXPECT_FALSE(KeyRing::parse(key_text(1) + "none", "x")); // it would say nothing there
    EXPECT_FALSE(KeyRing::parse("lost 123", "x"));
    EXPECT_FALSE(KeyRing::parse(std::string(64, 'g'), "x"));
    const auto none = KeyRing::parse("none # from now on\n", "x");
    ASSERT_TRUE(none);
    EXPECT_FALSE((*none)->encrypts());
    EXPECT_TRUE((*KeyRing::parse("  " + key_text(1), "x"))->encrypts());
}

TEST(KeyRing, WrapsForOneSegmentOnly) {
    const auto ring = tests::spool_keys(1);
    const PoolId pool{std::byte{1}};
    const DataKey key = ring->fresh_key();
    const WrappedKey wrapped = ring->wrap(key, pool, 2, 77);
    EXPECT_EQ(ring->unwrap(wrapped, pool, 2, 77), key);
    EXPECT_EQ(ring->unwrap(wrapped, pool, 2, 78).error(), KeyError::refused);
    EXPECT_EQ(ring->unwrap(wrapped, pool, 3, 77).error(), KeyError::refused);
    EXPECT_EQ(ring->unwrap(wrapped, PoolId{}, 2, 77).error(), KeyError::refused);
    EXPECT_EQ(tests::spool_keys(2)->unwrap(wrapped, pool, 2, 77).error(), KeyError::unknown);
    EXPECT_EQ(tests::spool_keys(1, true)->unwrap(wrapped, pool, 2, 77), key);
    EXPECT_NE(ring->wrap(key, pool, 2, 77).nonce, wrapped.nonce);
}

TEST(KeyRing, AFileThatOthersMayReadIsRefused) {
    const std::filesystem::path path =
        std::filesystem::temp_directory_path() / ("spool-key-" + std::to_string(getpid()));
    std::ofstream(path) << key_text(1);
    std::filesystem::permissions(path, std::filesystem::perms{0640});
    auto loaded = KeyRing::load(path.string());
    ASSERT_FALSE(loaded);
    EXPECT_NE(loaded.error().find("chmod 600"), std::string::npos) << loaded.error();
    std::filesystem::permissions(path, std::filesystem::perms{0600});
    loaded = KeyRing::load(path.string());
    EXPECT_TRUE(loaded) << loaded.error();
    std::filesystem::remove(path);
    EXPECT_NE(KeyRing::load(path.string()).error().find("cannot be read"), std::string::npos);
    EXPECT_FALSE(KeyRing::load(std::filesystem::temp_directory_path().string()));
}

TEST(KeyRing, ComesFromTheEnvironmentToo) {
    setenv("MILLRACE_TEST_KEY", key_text(1).c_str(), 1); // NOLINT: one thread
    EXPECT_TRUE(KeyRing::load("env:MILLRACE_TEST_KEY"));
    unsetenv("MILLRACE_TEST_KEY"); // NOLINT: one thread
    const auto missing = KeyRing::load("env:MILLRACE_TEST_KEY");
    ASSERT_FALSE(missing);
    EXPECT_NE(missing.error().find("MILLRACE_TEST_KEY"), std::string::npos);
}

// NIST SP 800-38D's vectors are OpenSSL's business; that ours is AES-256-GCM over the documented bytes is this.
TEST(RecordCipher, DoesWhatTheFormatSays) {
    DataKey key;
    for (std::size_t i = 0; i < key.size(); ++i)
        key[i] = static_cast<std::byte>(i);
    PoolId pool;
    pool.fill(std::byte{0x50});
    RecordCipher cipher{pool, 1};
    const RecordHeader header{.type = 0x10,
                              .flags = record_encrypted,
                              .payload_bytes = 5,
                              .lsn = 0x0102030405060708,
                              .id = {0x1112131415161718}};
    std::array<std::byte, 21> stored{};
    std::ranges::copy(base::as_bytes(std::string_view{"hello"}), stored.begin());
    cipher.seal_record({key, 7, 0x2040, header}, stored);
    std::string hex;
    for (const std::byte byte : stored) {
        std::array<char, 3> text{};
        std::snprintf(text.data(), text.size(), "%02x", std::to_integer<unsigned>(byte));
        hex += text.data();
    }
    EXPECT_EQ(hex, "7fa8633e62aa66f2b477a64de5fd55aeac7a6f7327");
    std::array<std::byte, 21> moved = stored;
    EXPECT_FALSE(cipher.open_record({key, 7, 0x2080, header}, moved));
    moved = stored;
    EXPECT_FALSE(cipher.open_record({key, 8, 0x2040, header}, moved));
    EXPECT_TRUE(cipher.open_record({key, 7, 0x2040, header}, stored));
    EXPECT_EQ(base::as_text(std::span{stored}.first(5)), "hello");
}

} // namespace
