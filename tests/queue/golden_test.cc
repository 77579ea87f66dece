// golden_test.cc: pools of every format version are opened, and nothing in them is lost.
//
// Each image holds four messages: one deferred to 2100 after one round, one of three recipients the second of
// which is delivered, one that is finished, and one that nothing has happened to. Its file is sparse: magic, size
// of the pool (8), then pieces of offset (8), length (8) and bytes.
#include "queue/queue.h"
#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

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

class GoldenImage : public testing::TestWithParam<const char*> {};

TEST_P(GoldenImage, OpensWithAllItsMailAndStaysOpenable) {
    std::vector<std::byte> image =
        read_image(std::string{GOLDEN_FOLDER} + "/" + GetParam() + ".image");
    ASSERT_FALSE(image.empty());
    for (int boot = 0; boot < 2; ++boot) { // the second one finds what the first has made of it
        SCOPED_TRACE("boot " + std::to_string(boot));
        World world{{.bytes = image.size()}, tests::small_options(), std::move(image)};
        ASSERT_TRUE(world.open().value().has_value()) << world.report.problem;
        EXPECT_EQ(world.report.records_damaged, 0U);
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

INSTANTIATE_TEST_SUITE_P(Versions, GoldenImage, testing::Values("version1", "version2"),
                         [](const auto& version) { return std::string{version.param}; });

} // namespace
