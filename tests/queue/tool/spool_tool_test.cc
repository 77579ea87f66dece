// spool_tool_test.cc: millrace-spool's commands on pools that a queue has made, and on what damage makes of them.
#include "queue/checkpoint.h"
#include "queue/disk/mirror_record.h"
#include "queue/keyring.h"
#include "queue/segment_scan.h"
#include "queue/tool/catalogue.h"
#include "queue/tool/commands.h"
#include "queue/tool/pool_file.h"
#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <sys/file.h>
#include <unistd.h>

namespace {

using namespace queue;
using namespace queue::tool;
using namespace std::chrono_literals;
using nlohmann::json;
using tests::World;
namespace base = dataplane::base;
namespace fs = std::filesystem;

constexpr std::uint64_t pool_bytes = 4U << 20;
constexpr base::WallTime far_off{4'102'444'800'000ms}; // 2100, by the tool's own clock, too

std::string slurp(const fs::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void spill(const fs::path& path, std::span<const std::byte> bytes) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
}

struct Said {
    int code = -1;
    std::string out, err;
    [[nodiscard]] json parsed() const { return json::parse(out); }
};

template <class Command, class Options>
Said said(Command command, const Options& options) {
    std::ostringstream out, err;
    Said result;
    result.code = command(options, Console{out, err});
    result.out = out.str();
    result.err = err.str();
    return result;
}

class SpoolTool : public testing::Test {
protected:
    SpoolTool() {
        std::string pattern = (fs::temp_directory_path() / "spool-tool.XXXXXX").string();
        folder = ::mkdtemp(pattern.data());
        pool = (folder / "shard-0.spool").string();
    }
    ~SpoolTool() override { fs::remove_all(folder); }

    static base::Task<SpoolResult<MessageRef>> submit(MessageQueue* queue, std::string sender,
                                                      std::vector<std::string> recipients,
                                                      std::string tenant, std::string body) {
        auto draft = queue->begin(body.size());
        if (!draft) co_return std::unexpected(draft.error());
        Envelope& envelope = draft->envelope();
        envelope.set_sender(sender);
        envelope.set_tenant(tenant);
        envelope.expiry = envelope.arrival + std::chrono::days{5};
        for (const std::string& recipient : recipients)
            envelope.add_recipient(recipient, "", notify_failure);
        auto appended = co_await draft->append(base::as_bytes(body), base::Deadline::never());
        if (!appended) co_return std::unexpected(appended.error());
        auto committed = co_await draft->commit("", base::Deadline::never());
        co_return committed;
    }

    /// Five messages: deferred with an error, half delivered, finished, untouched and large.
    std::vector<std::byte> make_image(QueueOptions options = tests::small_options(),
                                      bool clean = true, std::uint64_t bytes = pool_bytes) {
        World world{{.bytes = bytes}, options};
        EXPECT_TRUE(world.open().value().has_value());
        const auto send = [&](std::string sender, std::vector<std::string> recipients,
                              std::string tenant, std::string body) {
            auto message = world.run(submit(world.queue.get(), sender, recipients, tenant, body));
            EXPECT_TRUE(message.has_value());
            return *message;
        };
        world.sink();
        const auto handed = [&](const MessageRef& message) {
            EXPECT_TRUE(world.run_until([&] {
                return std::ranges::find(world.ready, message->id, [](const MessageRef& ready) {
                           return ready->id;
                       }) != world.ready.end();
            }));
        };
        auto deferred = send("a@one.example", {"x@dead.example"}, "acme", "deferred\r\n");
        handed(deferred);
        deferred->status[0] = {RecipientState::pending, 1, 451};
        world.queue->defer(deferred, far_off, "451 4.7.1 later");
        auto half = send("b@two.example", {"x@up.example", "y@dead.example"}, "acme", "half\r\n");
        handed(half);
        half->status[0] = {RecipientState::delivered, 1, 250};
        half->status[1] = {RecipientState::pending, 1, 0};
        world.queue->defer(half, far_off, "no route");
        auto done = send("c@three.example", {"z@up.example"}, "other", "finished\r\n");
        handed(done);
        world.deliver(done);
        auto fresh = send("A@One.example", {"q@Late.example"}, "other", "untouched\r\n");
        large_body.assign(700'000, 'x');
        for (std::size_t i = 0; i < large_body.size(); i += 71)
            large_body[i] = static_cast<char>('a' + i % 26);
        auto large = send("d@four.example", {"l@late.example"}, "acme", large_body);
        ids = {deferred->id, half->id, done->id, fresh->id, large->id};
        deferred.reset();
        half.reset();
        done.reset();
        fresh.reset();
        large.reset();
        EXPECT_TRUE(world.sync().has_value());
        world.ready.clear();
        if (clean) {
            EXPECT_TRUE(world.run(world.queue->close(base::Deadline::in(world.loop, 10s))));
        }
        return world.crash();
    }

    void make_pool(QueueOptions options = tests::small_options(), bool clean = true) {
        spill(pool, make_image(options, clean));
    }

    /// Inverts a byte of a message's own record.
    void damage(MessageId id, std::uint32_t behind) {
        auto file = PoolFile::open(pool, PoolFile::Lock::none).value();
        const auto geometry = read_geometry(*file).value();
        Unlock unlock{geometry.superblock, nullptr};
        const Catalogue catalogue = Catalogue::read(*file, geometry.superblock, unlock, {});
        const StoredRecord& record = *catalogue.find(id)->record;
        const SegmentTable segments{geometry.superblock.segment_bytes,
                                    geometry.superblock.segment_count};
        flip(segments.begin_of(record.place.slot) + record.place.offset + behind);
    }
    void flip(std::uint64_t offset) const {
        std::fstream file(pool, std::ios::binary | std::ios::in | std::ios::out);
        file.seekg(static_cast<std::streamoff>(offset));
        const int byte = file.get();
        file.seekp(static_cast<std::streamoff>(offset));
        file.put(static_cast<char>(byte ^ 0xFF));
    }
    void wipe(std::uint64_t from, std::size_t bytes) const {
        std::fstream file(pool, std::ios::binary | std::ios::in | std::ios::out);
        file.seekp(static_cast<std::streamoff>(from));
        const std::string zeros(bytes, '\0');
        file.write(zeros.data(), static_cast<std::streamsize>(zeros.size()));
    }
    [[nodiscard]] std::string eml(const std::string& to, MessageId id) const {
        return slurp(fs::path{to} / (id.to_string() + ".eml"));
    }
    [[nodiscard]] json beside(const std::string& to, MessageId id) const {
        return json::parse(slurp(fs::path{to} / (id.to_string() + ".json")));
    }

    fs::path folder;
    std::string pool;
    std::string large_body;
    std::vector<MessageId> ids;
};

TEST_F(SpoolTool, InspectCountsWhatIsQueued) {
    make_pool();
    const Said said_ = said(
        inspect, InspectOptions{.pool = pool, .segments = true, .messages = true, .json = true});
    ASSERT_EQ(said_.code, exit_ok) << said_.err;
    const json got = said_.parsed();
    EXPECT_EQ(got["superblock"]["clean"], true);
    EXPECT_EQ(got["superblock"]["copies_valid"], 4);
    EXPECT_EQ(got["queued"]["messages"], 4);
    EXPECT_EQ(got["queued"]["deferred"], 2);
    EXPECT_EQ(got["queued"]["recipients_by_state"], (json{{"delivered", 1}, {"pending", 4}}));
    EXPECT_EQ(got["queued"]["pending_by_domain"], (json{{"dead.example", 2}, {"late.example", 2}}));
    EXPECT_EQ(got["queued"]["messages_by_tenant"], (json{{"acme", 3}, {"other", 1}}));
    EXPECT_TRUE(got["damage"].empty());
    EXPECT_EQ(got["messages"].size(), 4U);
    std::uint64_t live = 0, records = 0, chunks = 0;
    for (const json& segment : got["segments"]) {
        live += segment["live_records"].get<std::uint64_t>();
        chunks += segment["records"].value("body_chunk", std::uint64_t{0});
        records += segment["record_bytes"].get<std::uint64_t>();
        EXPECT_LE(segment["live_bytes"], segment["record_bytes"]);
    }
    EXPECT_GE(chunks, 2U);
    EXPECT_EQ(live, 4U + chunks) << "four messages, and what the large one consists of";
    EXPECT_GT(records, large_body.size());
}

TEST_F(SpoolTool, InspectShowsOneRecordWhateverHasBecomeOfIt) {
    make_pool();
    const Said finished = said(inspect, InspectOptions{.pool = pool, .record = ids[2]});
    ASSERT_EQ(finished.code, exit_ok);
    EXPECT_EQ(finished.parsed()["ended"], "done");
    EXPECT_EQ(finished.parsed()["queued"], false);
    EXPECT_EQ(finished.parsed()["sender"], "c@three.example");
    const Said missing = said(inspect, InspectOptions{.pool = pool, .record = MessageId{77}});
    EXPECT_EQ(missing.code, exit_damage);
    EXPECT_NE(missing.err.find("holds nothing"), std::string::npos);
}

TEST_F(SpoolTool, ARunningRelaysPoolIsRefusedUnlessNoLockIsAsked) {
    make_pool();
    const int held = ::open(pool.c_str(), O_RDWR | O_CLOEXEC);
    ASSERT_EQ(::flock(held, LOCK_EX), 0);
    const Said refused = said(verify, VerifyOptions{.pool = pool});
    EXPECT_EQ(refused.code, exit_no_pool);
    EXPECT_NE(refused.err.find("running relay"), std::string::npos) << refused.err;
    const Said looked = said(inspect, InspectOptions{.pool = pool, .json = true, .lock = false});
    EXPECT_EQ(looked.code, exit_ok);
    EXPECT_NE(looked.err.find("may not fit together"), std::string::npos);
    ::close(held);
}

TEST_F(SpoolTool, WhatIsNoPoolIsRefusedInOneSentence) {
    for (const std::size_t bytes : {0U, 100U, 1U << 20}) {
        spill(pool, std::vector<std::byte>(bytes));
        const Said refused = said(verify, VerifyOptions{.pool = pool});
        EXPECT_EQ(refused.code, exit_no_pool);
        EXPECT_NE(refused.err.find("spool pool"), std::string::npos) << refused.err;
    }
    EXPECT_EQ(said(verify, VerifyOptions{.pool = (folder / "none").string()}).code, exit_no_pool);
}

TEST_F(SpoolTool, VerifyFindsASoundPoolSoundAndLeavesItAsItIs) {
    for (const bool clean : {true, false}) {
        make_pool(tests::small_options(), clean);
        const std::string before = slurp(pool);
        const Said said_ = said(verify, VerifyOptions{.pool = pool, .json = true});
        EXPECT_EQ(said_.code, exit_ok) << said_.out;
        EXPECT_EQ(said_.parsed()["messages"], 4);
        EXPECT_TRUE(slurp(pool) == before);
    }
}

TEST_F(SpoolTool, VerifyNamesTheMessageWhoseBytesHaveChanged) {
    make_pool();
    damage(ids[3], record_header_bytes + message_prefix_bytes + 40);
    const Said said_ = said(verify, VerifyOptions{.pool = pool});
    EXPECT_EQ(said_.code, exit_damage);
    EXPECT_NE(said_.out.find(ids[3].to_string()), std::string::npos) << said_.out;
    EXPECT_EQ(said_.out.find(ids[0].to_string()), std::string::npos) << said_.out;
}

TEST_F(SpoolTool, VerifyFindsEachDamagedCopyOfTheSuperblock) {
    for (std::uint64_t copy = 0; copy < superblock_copies; ++copy) {
        make_pool();
        flip(copy * block_bytes + 60);
        const Said said_ = said(verify, VerifyOptions{.pool = pool});
        EXPECT_EQ(said_.code, exit_damage) << copy;
        EXPECT_NE(said_.out.find("only 3 of 4 copies"), std::string::npos) << said_.out;
    }
}

TEST_F(SpoolTool, VerifyFindsALostCheckpoint) {
    make_pool();
    auto file = PoolFile::open(pool, PoolFile::Lock::none).value();
    const Superblock block = read_geometry(*file).value().superblock;
    ASSERT_TRUE(block.checkpoint.valid());
    const SegmentTable segments{block.segment_bytes, block.segment_count};
    flip(segments.begin_of(block.checkpoint.slot) + block.checkpoint.offset + 40);
    const Said said_ = said(verify, VerifyOptions{.pool = pool});
    EXPECT_EQ(said_.code, exit_damage);
    EXPECT_NE(said_.out.find("checkpoint cannot be read"), std::string::npos) << said_.out;
}

TEST_F(SpoolTool, ExportWritesContentAndEnvelope) {
    make_pool();
    const std::string before = slurp(pool);
    const std::string to = (folder / "out").string();
    const Said said_ = said(export_messages, ExportOptions{.pool = pool, .folder = to});
    ASSERT_EQ(said_.code, exit_ok) << said_.err << said_.out;
    EXPECT_EQ(eml(to, ids[0]), "deferred\r\n");
    EXPECT_EQ(eml(to, ids[3]), "untouched\r\n");
    EXPECT_TRUE(eml(to, ids[4]) == large_body);
    EXPECT_FALSE(fs::exists(fs::path{to} / (ids[2].to_string() + ".eml"))) << "it is finished";
    const json deferred = beside(to, ids[0]);
    EXPECT_EQ(deferred["sender"], "a@one.example");
    EXPECT_EQ(deferred["tenant"], "acme");
    EXPECT_EQ(deferred["last_error"], "451 4.7.1 later");
    EXPECT_EQ(deferred["rounds"], 1);
    EXPECT_EQ(deferred["complete"], true);
    EXPECT_EQ(deferred["recipients"][0]["last_code"], 451);
    EXPECT_EQ(deferred["due"], "2100-01-01T00:00:00Z");
    const json half = beside(to, ids[1]);
    EXPECT_EQ(half["recipients"][0]["state"], "delivered");
    EXPECT_EQ(half["recipients"][1]["state"], "pending");
    EXPECT_EQ(half["recipients"][1]["address"], "y@dead.example");
    EXPECT_TRUE(slurp(pool) == before);
}

TEST_F(SpoolTool, ExportSelectsByMessageDomainAndSender) {
    make_pool();
    const auto exported = [&](ExportOptions options) {
        static int number = 0;
        options.pool = pool;
        options.folder = (folder / ("out" + std::to_string(number++))).string();
        EXPECT_EQ(said(export_messages, options).code, exit_ok);
        std::set<std::string> found;
        for (const auto& entry : fs::directory_iterator(options.folder)) {
            if (entry.path().extension() == ".eml") found.insert(entry.path().stem().string());
        }
        return found;
    };
    const auto names = [&](std::initializer_list<std::size_t> numbers) {
        std::set<std::string> wanted;
        for (const std::size_t number : numbers)
            wanted.insert(ids[number].to_string());
        return wanted;
    };
    EXPECT_EQ(exported({.domain = "DEAD.example"}), names({0, 1}));
    EXPECT_EQ(exported({.sender = "a@one.example"}), names({0, 3}));
    EXPECT_EQ(exported({.messages = {ids[1], ids[2]}}), names({1, 2}));
    EXPECT_EQ(exported({.finished = true}), names({0, 1, 2, 3, 4}));
    EXPECT_EQ(exported({.domain = "up.example", .finished = true}), names({1, 2}));
}

TEST_F(SpoolTool, ExportSalvagesAPoolWithoutASuperblock) {
    make_pool();
    wipe(0, superblock_area_bytes);
    const std::string to = (folder / "out").string();
    const Said said_ = said(export_messages, ExportOptions{.pool = pool, .folder = to});
    EXPECT_EQ(said_.code, exit_damage) << "what is delivered cannot be known for certain";
    EXPECT_NE(said_.err.find("superblock is lost"), std::string::npos) << said_.err;
    EXPECT_EQ(eml(to, ids[0]), "deferred\r\n");
    EXPECT_TRUE(eml(to, ids[4]) == large_body);
    EXPECT_EQ(beside(to, ids[1])["recipients"][0]["state"], "delivered");
}

TEST_F(SpoolTool, ExportGivesTheEnvelopeOfDamagedContentAndSaysSo) {
    make_pool();
    // The last byte of the payload is content; the envelope's own checksum still holds.
    const auto bytes = [&] {
        auto file = PoolFile::open(pool, PoolFile::Lock::none).value();
        const auto geometry = read_geometry(*file).value();
        Unlock unlock{geometry.superblock, nullptr};
        const Catalogue catalogue = Catalogue::read(*file, geometry.superblock, unlock, {});
        return catalogue.find(ids[3])->record->payload_bytes;
    }();
    damage(ids[3], record_header_bytes + bytes - 1);
    const std::string to = (folder / "out").string();
    const Said said_ = said(export_messages, ExportOptions{.pool = pool, .folder = to});
    EXPECT_EQ(said_.code, exit_damage);
    const json damaged = beside(to, ids[3]);
    EXPECT_EQ(damaged["sender"], "A@One.example");
    EXPECT_EQ(damaged["complete"], false);
    EXPECT_FALSE(damaged["problem"].get<std::string>().empty());
    EXPECT_EQ(beside(to, ids[0])["complete"], true);
}

TEST_F(SpoolTool, ExportNeverWritesOverAFile) {
    make_pool();
    const std::string to = (folder / "out").string();
    EXPECT_EQ(said(export_messages, ExportOptions{.pool = pool, .folder = to}).code, exit_ok);
    const Said again = said(export_messages, ExportOptions{.pool = pool, .folder = to});
    EXPECT_EQ(again.code, exit_damage);
    EXPECT_NE(again.err.find("cannot create"), std::string::npos);
}

TEST_F(SpoolTool, UpgradeWritesTheSameMailIntoALargerPool) {
    make_pool();
    const std::string before = slurp(pool);
    const Said said_ = said(
        upgrade, UpgradeOptions{.pool = pool, .pool_bytes = 16U << 20, .segment_bytes = 1U << 20});
    ASSERT_EQ(said_.code, exit_ok) << said_.err;
    EXPECT_TRUE(slurp(pool + ".before-upgrade") == before);
    EXPECT_EQ(fs::file_size(pool), 16U << 20);
    EXPECT_FALSE(fs::exists(pool + ".upgrading"));

    const std::string image = slurp(pool);
    World world{{.bytes = image.size()},
                tests::small_options(),
                std::vector<std::byte>(base::as_bytes(image).begin(), base::as_bytes(image).end())};
    ASSERT_TRUE(world.open().value().has_value()) << world.report.problem;
    EXPECT_EQ(world.queue->counters().queued_messages, 4U);
    EXPECT_EQ(world.report.possible_duplicates, 0U) << "it was closed in good order";
    auto half = world.run(world.queue->load(ids[1], base::Deadline::never()));
    ASSERT_TRUE(half.has_value());
    EXPECT_EQ((*half)->status[0].state, RecipientState::delivered);
    EXPECT_EQ((*half)->last_error, "no route");
    auto large = world.run(world.queue->load(ids[4], base::Deadline::never()));
    ASSERT_TRUE(large.has_value());
    EXPECT_TRUE(world.content(*large).value() == large_body);
    // Names of new mail are new.
    auto next = world.submit("more");
    ASSERT_TRUE(next.has_value());
    for (const MessageId id : ids)
        EXPECT_NE((*next)->id, id);
}

TEST_F(SpoolTool, UpgradeIntoAnotherFilePutsTheOldOneAside) {
    make_pool();
    const std::string to = (folder / "new.spool").string();
    ASSERT_EQ(said(upgrade, UpgradeOptions{.pool = pool, .to = to, .pool_bytes = 8U << 20}).code,
              exit_ok);
    EXPECT_FALSE(fs::exists(pool)) << "a relay must not deliver from both";
    EXPECT_TRUE(fs::exists(pool + ".before-upgrade"));
    EXPECT_EQ(said(verify, VerifyOptions{.pool = to, .json = true}).parsed()["messages"], 4);
    EXPECT_EQ(said(upgrade, UpgradeOptions{.pool = to, .to = pool + ".before-upgrade"}).code,
              exit_no_pool)
        << "nothing is written over";
}

TEST_F(SpoolTool, UpgradeThatDoesNotFitLeavesThePoolAsItWas) {
    make_pool();
    const std::string before = slurp(pool);
    const Said small = said(upgrade, UpgradeOptions{.pool = pool, .pool_bytes = 1U << 20});
    EXPECT_EQ(small.code, exit_no_pool);
    EXPECT_NE(small.err.find("--pool-size"), std::string::npos) << small.err;
    // Eight segments hold mail, but not so much besides the reserve that chunks need.
    damage(ids[0], record_header_bytes + message_prefix_bytes + 10);
    const std::string damaged = slurp(pool);
    EXPECT_EQ(said(upgrade, UpgradeOptions{.pool = pool}).code, exit_damage);
    EXPECT_TRUE(slurp(pool) == damaged);
    EXPECT_FALSE(fs::exists(pool + ".upgrading"));
    EXPECT_FALSE(fs::exists(pool + ".before-upgrade"));
    EXPECT_EQ(before.size(), damaged.size());
}

TEST_F(SpoolTool, UpgradeBringsTheFirstFormatUpToDate) {
    // As golden_test.cc has it: pieces of a sparse file.
    const std::string text = slurp(std::string{GOLDEN_FOLDER} + "/version1.image");
    std::size_t at = 8;
    const auto number = [&] {
        std::uint64_t value = 0;
        text.copy(reinterpret_cast<char*>(&value), sizeof value, at);
        at += sizeof value;
        return value;
    };
    std::vector<std::byte> image(number());
    while (at < text.size()) {
        const std::uint64_t offset = number();
        const std::uint64_t length = number();
        std::ranges::copy(base::as_bytes(std::string_view{text}.substr(at, length)),
                          image.begin() + static_cast<std::ptrdiff_t>(offset));
        at += length;
    }
    spill(pool, image);
    const Said said_ = said(upgrade, UpgradeOptions{.pool = pool});
    ASSERT_EQ(said_.code, exit_ok) << said_.err;
    const Said seen = said(inspect, InspectOptions{.pool = pool, .json = true});
    EXPECT_EQ(seen.parsed()["queued"]["messages"], 3);
    EXPECT_EQ(slurp(pool).substr(12, 2), (std::string{static_cast<char>(format_major), '\0'}));
}

TEST_F(SpoolTool, AttachLooksBeforeItLeaps) {
    make_pool();
    const Said nowhere =
        said(attach, AttachOptions{.pool = pool, .state_dir = (folder / "state").string()});
    EXPECT_EQ(nowhere.code, exit_no_pool);
    EXPECT_NE(nowhere.err.find("policy.snapshot"), std::string::npos);
    fs::create_directories(folder / "state");
    spill(folder / "state" / "policy.snapshot", {});
    const Said looked = said(
        attach,
        AttachOptions{.pool = pool, .state_dir = (folder / "state").string(), .dry_run = true});
    EXPECT_EQ(looked.code, exit_ok) << looked.err;
    EXPECT_NE(looked.out.find("4 messages queued"), std::string::npos) << looked.out;
}

constexpr const char* key_text =
    "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

TEST_F(SpoolTool, AnEncryptedPoolOpensWithItsKeyAndNotWithoutIt) {
    const fs::path key = folder / "key";
    spill(key, base::as_bytes(std::string_view{key_text}));
    fs::permissions(key, fs::perms::owner_read | fs::perms::owner_write);
    QueueOptions options = tests::small_options();
    options.keys = KeyRing::parse(key_text, "test").value();
    make_pool(options);
    EXPECT_EQ(slurp(pool).find("untouched"), std::string::npos);

    const Said locked = said(verify, VerifyOptions{.pool = pool});
    EXPECT_EQ(locked.code, exit_damage);
    EXPECT_NE(locked.out.find("key"), std::string::npos) << locked.out;
    const Said opened =
        said(verify, VerifyOptions{.pool = pool, .key = key.string(), .json = true});
    EXPECT_EQ(opened.code, exit_ok) << opened.out;
    EXPECT_EQ(opened.parsed()["messages"], 4);

    const std::string to = (folder / "out").string();
    EXPECT_EQ(
        said(export_messages, ExportOptions{.pool = pool, .key = key.string(), .folder = to}).code,
        exit_ok);
    EXPECT_EQ(eml(to, ids[3]), "untouched\r\n");
    EXPECT_TRUE(eml(to, ids[4]) == large_body);
    const Said rewritten =
        said(upgrade, UpgradeOptions{.pool = pool, .key = key.string(), .pool_bytes = 8U << 20});
    EXPECT_EQ(rewritten.code, exit_ok) << rewritten.err;
    EXPECT_EQ(slurp(pool).find("untouched"), std::string::npos) << "it stays encrypted";
}

// Whatever a disk makes of a pool, every command ends in good order.
TEST_F(SpoolTool, NoDamageBreaksTheTool) {
    const std::vector<std::byte> image = make_image();
    for (std::uint64_t seed = 1; seed <= 24; ++seed) {
        SCOPED_TRACE(seed);
        std::mt19937_64 random(seed);
        std::vector<std::byte> damaged = image;
        for (std::uint64_t i = 0, count = 1 + random() % 200; i < count; ++i) {
            // Where things are: the superblocks and the first segments.
            const std::uint64_t span = random() % 3 == 0 ? 4 * block_bytes : damaged.size() / 2;
            damaged[random() % span] ^= static_cast<std::byte>(1 + random() % 255);
        }
        if (random() % 4 == 0) damaged.resize(damaged.size() / block_bytes / 3 * block_bytes);
        spill(pool, damaged);
        const std::string to = (folder / ("out" + std::to_string(seed))).string();
        EXPECT_NE(
            said(inspect,
                 InspectOptions{.pool = pool, .segments = true, .messages = true, .json = true})
                .code,
            -1);
        EXPECT_NE(said(verify, VerifyOptions{.pool = pool}).code, -1);
        EXPECT_NE(
            said(export_messages, ExportOptions{.pool = pool, .folder = to, .finished = true}).code,
            -1);
        EXPECT_TRUE(slurp(pool).size() == damaged.size());
        fs::remove_all(to);
    }
}

TEST_F(SpoolTool, StatusOfTheCheckpointCountsWhereTheRecordIsDamaged) {
    make_pool();
    auto file = PoolFile::open(pool, PoolFile::Lock::none).value();
    const Superblock block = read_geometry(*file).value().superblock;
    const SegmentTable segments{block.segment_bytes, block.segment_count};
    int damaged = 0;
    for (std::uint32_t slot = 0; slot < block.segment_count; ++slot) {
        std::vector<std::byte> bytes(segments.bytes_of(slot));
        ASSERT_TRUE(file->read_file(segments.begin_of(slot), bytes));
        for (const FoundRecord& record :
             scan_segment(bytes, block.pool, block.shard, slot).records) {
            if (record.header.type != static_cast<std::uint16_t>(RecordType::status)) continue;
            flip(segments.begin_of(slot) + record.offset + record_header_bytes + 3);
            ++damaged;
        }
    }
    ASSERT_GE(damaged, 2);
    const Said looked = said(inspect, InspectOptions{.pool = pool, .messages = true, .json = true});
    ASSERT_EQ(looked.code, exit_ok) << looked.err;
    bool found = false;
    const json got = looked.parsed();
    for (const json& message : got["messages"]) {
        if (message["id"] != ids[0].to_string()) continue;
        found = true;
        EXPECT_EQ(message.value("last_error", ""), "451 4.7.1 later");
        EXPECT_EQ(message["recipients"][0]["last_code"], 451);
        EXPECT_EQ(message.value("due", ""), "2100-01-01T00:00:00Z");
    }
    EXPECT_TRUE(found);
    EXPECT_NE(
        said(inspect, InspectOptions{.pool = pool, .messages = true}).out.find("451 4.7.1 later"),
        std::string::npos);
    const std::string to = (folder / "out").string();
    static_cast<void>(said(export_messages, ExportOptions{.pool = pool, .folder = to}));
    EXPECT_EQ(beside(to, ids[1])["recipients"][0]["state"], "delivered");
    EXPECT_EQ(beside(to, ids[0])["rounds"], 1);
}

/// Two copies of a pool, each with a record of the mirror that they are halves of.
class SpoolToolMirror : public SpoolTool {
protected:
    void make_halves(MirrorRecord first, MirrorRecord second) {
        const std::vector<std::byte> image = make_image();
        other = (folder / "other.spool").string();
        spill(pool, image);
        spill(other, image);
        put(pool, first);
        put(other, second);
    }
    static void put(const std::string& path, const MirrorRecord& record) {
        std::array<std::byte, block_bytes> block{};
        encode_mirror_record(block, record);
        put_block(path, record.generation % mirror_record_copies, block);
    }
    static void put_block(const std::string& path, std::uint64_t copy,
                          std::span<const std::byte> block) {
        std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
        file.seekp(static_cast<std::streamoff>(mirror_record_begin + copy * block_bytes));
        file.write(reinterpret_cast<const char*>(block.data()),
                   static_cast<std::streamsize>(block.size()));
    }
    [[nodiscard]] json state_of(const std::string& half, const std::string& second = {}) const {
        const Said looked =
            said(inspect, InspectOptions{.pool = half, .mirror = second, .json = true});
        EXPECT_EQ(looked.code, exit_ok) << looked.err;
        return looked.parsed()["mirror"];
    }
    static bool says(const std::string& text, const std::string& what) {
        return text.find(what) != std::string::npos;
    }

    std::string other;
    using State = MirrorRecord::State;
};

TEST_F(SpoolToolMirror, InspectSaysWhatAHalfsRecordSays) {
    make_halves({.generation = 4, .state = State::alone}, {.generation = 4, .state = State::stale});
    EXPECT_EQ(state_of(pool)["state"], "alone");
    EXPECT_EQ(state_of(pool)["generation"], 4);
    EXPECT_EQ(state_of(other)["state"], "stale");
    EXPECT_TRUE(says(state_of(other)["meaning"], "use the other half"));
    EXPECT_TRUE(says(state_of(other, pool)["meaning"], "use " + pool));
    EXPECT_TRUE(says(said(inspect, InspectOptions{.pool = other}).out, "missed mail"));
    make_pool();
    EXPECT_FALSE(
        said(inspect, InspectOptions{.pool = pool, .json = true}).parsed().contains("mirror"));
}

TEST_F(SpoolToolMirror, TheOtherHalfTellsWhatOneDoesNotKnow) {
    make_halves({.generation = 3}, {.generation = 4, .state = State::alone});
    EXPECT_EQ(state_of(pool)["state"], "paired");
    EXPECT_EQ(state_of(pool, other)["state"], "stale");
    EXPECT_EQ(state_of(other, pool)["state"], "alone");
    EXPECT_EQ(said(verify, VerifyOptions{.pool = pool}).code, exit_ok);
    const Said older = said(verify, VerifyOptions{.pool = pool, .mirror = other});
    EXPECT_EQ(older.code, exit_damage);
    EXPECT_TRUE(says(older.out, "use " + other)) << older.out;
    make_halves({.generation = 4, .clean = true}, {.generation = 4, .clean = true});
    EXPECT_TRUE(says(state_of(pool, other)["meaning"], "both have everything"));
    make_halves({.generation = 4, .state = State::alone}, {.generation = 5, .state = State::alone});
    EXPECT_EQ(state_of(pool, other)["state"], "undecided");
    EXPECT_TRUE(says(state_of(pool, other)["meaning"], "without the other"));
}

TEST_F(SpoolToolMirror, AStaleHalfIsNotSoundNotAttachedAndExportedOnlyWhenAskedTo) {
    make_halves({.generation = 4, .state = State::stale}, {.generation = 4, .state = State::alone});
    EXPECT_EQ(said(verify, VerifyOptions{.pool = pool}).code, exit_damage);
    EXPECT_EQ(said(verify, VerifyOptions{.pool = other}).code, exit_ok);
    const std::string to = (folder / "out").string();
    const Said refused = said(export_messages, ExportOptions{.pool = pool, .folder = to});
    EXPECT_EQ(refused.code, exit_no_pool);
    EXPECT_TRUE(says(refused.err, "--stale")) << refused.err;
    EXPECT_FALSE(fs::exists(to));
    const Said asked =
        said(export_messages, ExportOptions{.pool = pool, .stale = true, .folder = to});
    EXPECT_EQ(asked.code, exit_damage);
    EXPECT_EQ(eml(to, ids[0]), "deferred\r\n");
    spill(folder / "policy.snapshot", {});
    const AttachOptions attaching{
        .pool = pool, .mirror = other, .state_dir = folder.string(), .dry_run = true};
    const Said attached = said(attach, attaching);
    EXPECT_EQ(attached.code, exit_no_pool);
    EXPECT_TRUE(says(attached.err, "use " + other)) << attached.err;
    EXPECT_EQ(
        said(attach, AttachOptions{.pool = other, .state_dir = folder.string(), .dry_run = true})
            .code,
        exit_ok);
}

TEST_F(SpoolToolMirror, DamagedRecordsAreNotTakenForAPoolWithoutAMirror) {
    make_halves({.generation = 4, .clean = true}, {.generation = 4, .clean = true});
    const std::vector<std::byte> junk(block_bytes, std::byte{0xEE});
    for (std::uint64_t copy = 0; copy < mirror_record_copies; ++copy)
        put_block(other, copy, junk);
    EXPECT_EQ(state_of(other)["state"], "unreadable");
    EXPECT_EQ(said(verify, VerifyOptions{.pool = other}).code, exit_damage);
    EXPECT_EQ(state_of(pool, other)["state"], "alone");
    EXPECT_TRUE(says(state_of(pool, other)["meaning"], "both ended together"));
}

} // namespace
