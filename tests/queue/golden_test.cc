// golden_test.cc: pools of every format version are opened, and nothing in them is lost.
//
// Each image holds four messages: one deferred to 2100 after one round, one of three recipients the second of
// which is delivered, one that is finished, and one that nothing has happened to. Its file is sparse: magic, size
// of the pool (8), then pieces of offset (8), length (8) and bytes. Those with a minor version in their names end
// with an orderly close and have their mail in a checkpoint; version2_1_encrypted is encrypted as well.
//
// A new format gets a new image: GOLDEN_WRITE=name, and --gtest_also_run_disabled_tests.
#include "queue/queue.h"
#include "tests/queue/spool_keys.h"
#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::World;
namespace base = dataplane::base;

std::vector<std::byte> read_image(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    std::size_t at = 8;
    const auto number = [&] {
        std::uint64_t value = 0;
        text.copy(reinterpret_cast<char*>(&value), sizeof value, at);
        at += sizeof value;
        return value;
    };
    EXPECT_EQ(text.substr(0, 8), "MRSPARSE") << path;
    if (text.size() < 16) return {};
    std::vector<std::byte> image(number());
    while (at < text.size()) {
        const std::uint64_t offset = number();
        const std::uint64_t length = number();
        const auto bytes = base::as_bytes(std::string_view{text}.substr(at, length));
        std::ranges::copy(bytes, image.begin() + static_cast<std::ptrdiff_t>(offset));
        at += length;
    }
    return image;
}

QueueOptions options_of(std::string_view name, std::uint64_t boot) {
    QueueOptions options = tests::small_options();
    if (name.ends_with("encrypted")) options.keys = tests::spool_keys(42, false, boot);
    return options;
}

void write_image(const std::string& path, std::span<const std::byte> image) {
    std::ofstream file(path, std::ios::binary);
    const auto number = [&](std::uint64_t value) {
        file.write(reinterpret_cast<const char*>(&value), sizeof value);
    };
    const auto blank = [](std::span<const std::byte> bytes) {
        return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
    };
    file << "MRSPARSE";
    number(image.size());
    constexpr std::size_t piece = 64;
    for (std::size_t at = 0; at < image.size();) {
        std::size_t end = at;
        while (end < image.size() && !blank(image.subspan(end, piece)))
            end += piece;
        if (end > at) {
            number(at);
            number(end - at);
            file << base::as_text(image.subspan(at, end - at));
        }
        at = end + piece;
    }
}

TEST(Golden, DISABLED_WriteOne) {
    const char* const name = std::getenv("GOLDEN_WRITE");
    ASSERT_NE(name, nullptr);
    World world{{.bytes = 8U * 256U << 10}, options_of(name, 1)};
    ASSERT_TRUE(world.open().value().has_value());
    world.sink();
    const auto next = [&] {
        EXPECT_TRUE(world.run_until([&] { return !world.ready.empty(); }, 10s));
        MessageRef message = std::move(world.ready.front());
        world.ready.pop_front();
        return message;
    };
    ASSERT_TRUE(world.submit("first body\r\n", "Received: v1\r\n"));
    world.queue->defer(next(), base::WallTime{4102444800000ms}, "451 4.7.1 later");
    ASSERT_TRUE(world.submit("second body\r\n", "Received: v1\r\n", 3));
    MessageRef started = next();
    started->status[1].state = RecipientState::delivered;
    world.queue->progress(*started);
    ASSERT_TRUE(world.submit("gone"));
    world.deliver(next());
    ASSERT_TRUE(world.submit("chunky", "small "));
    ASSERT_TRUE(world.sync());
    const MessageRef last = next();
    ASSERT_TRUE(world.run(world.queue->close(base::Deadline::in(world.loop, 10s))));
    write_image(std::string{GOLDEN_FOLDER} + "/" + name + ".image", world.disk.bytes());
}

class GoldenImage : public testing::TestWithParam<const char*> {};

TEST_P(GoldenImage, OpensWithAllItsMailAndStaysOpenable) {
    std::vector<std::byte> image =
        read_image(std::string{GOLDEN_FOLDER} + "/" + GetParam() + ".image");
    ASSERT_FALSE(image.empty());
    for (int boot = 0; boot < 2; ++boot) { // the second one finds what the first has made of it
        SCOPED_TRACE("boot " + std::to_string(boot));
        World world{{.bytes = image.size()},
                    options_of(GetParam(), static_cast<std::uint64_t>(boot) + 2),
                    std::move(image)};
        ASSERT_TRUE(world.open().value().has_value()) << world.report.problem;
        EXPECT_EQ(world.report.records_damaged, 0U);
        EXPECT_FALSE(world.report.checkpoint_lost);
        if (std::string_view{GetParam()}.starts_with("version2_")) {
            EXPECT_EQ(world.report.checkpoint_entries, 3U);
        }
        std::vector<MessageId> ids;
        world.queue->for_each({}, [&](EntryRef, const Entry& entry) {
            ids.push_back(entry.id);
            return true;
        });
        std::map<std::string, MessageRef> found;
        for (const MessageId id : ids) {
            auto message = world.run(world.queue->load(id, base::Deadline::never()));
            ASSERT_TRUE(message);
            found[world.content(*message).value()] = *message;
        }
        ASSERT_EQ(found.size(), 3U);
        const Message& deferred = *found.at("Received: v1\r\nfirst body\r\n");
        EXPECT_EQ(deferred.attempts, 1U);
        EXPECT_EQ(deferred.last_error, "451 4.7.1 later");
        EXPECT_EQ(deferred.due, base::WallTime{4102444800000ms});
        EXPECT_EQ(deferred.envelope.sender(), "sender@example.org");
        const Message& started = *found.at("Received: v1\r\nsecond body\r\n");
        ASSERT_EQ(started.status.size(), 3U);
        EXPECT_EQ(started.status[1].state, RecipientState::delivered);
        EXPECT_EQ(started.pending_count(), 2U);
        EXPECT_TRUE(found.contains("small chunky"));
        found.clear();
        ASSERT_TRUE(world.run(world.queue->close(base::Deadline::in(world.loop, 10s))));
        image = world.crash();
    }
}

INSTANTIATE_TEST_SUITE_P(Versions, GoldenImage,
                         testing::Values("version1", "version2", "version2_0_checkpoint",
                                         "version2_1_checkpoint", "version2_1_encrypted"),
                         [](const auto& version) { return std::string{version.param}; });

} // namespace
