// slices_test.cc: what an operator does to very many messages at once takes many turns, and waits for nothing else.
#include "dataplane/base/check.h"
#include "queue/queue.h"
#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::World;
namespace base = dataplane::base;

/// Delivers one message at the end of each turn, behind what the queue does there.
class OneATurn final : public base::TurnEnd {
public:
    explicit OneATurn(World& world) noexcept : world_(world) { turn_end(); }

private:
    void turn_end() noexcept override {
        if (world_.ready.empty()) return;
        MessageRef message = std::move(world_.ready.front());
        world_.ready.pop_front();
        world_.deliver(std::move(message));
        world_.loop.at_turn_end(*this);
    }
    World& world_;
};

class Slices : public testing::Test {
protected:
    void SetUp() override {
        QueueOptions options = tests::small_options();
        options.resident_bytes_max = 64U << 20;
        world = std::make_unique<World>(tests::SimDiskOptions{.bytes = 96U << 20}, options);
        ASSERT_TRUE(world->open().value().has_value());
    }
    std::vector<MessageId> submit(std::size_t count) {
        std::vector<MessageId> ids;
        for (std::size_t i = 0; i < count; ++i) {
            auto sent = world->submit("x");
            CHECK(sent.has_value());
            ids.push_back((*sent)->id);
        }
        return ids;
    }
    void remove(const std::vector<MessageId>& ids) {
        for (const MessageId id : ids)
            ASSERT_TRUE(world->queue->remove(world->queue->index().find(id)));
    }
    std::unique_ptr<World> world;
};

base::Task<void> sync_then(World* world, bool* synced) {
    auto result = co_await world->queue->sync(base::Deadline::never());
    *synced = result.has_value();
}

TEST_F(Slices, WhoWaitsForTheDiskDoesNotWaitForWhatEndsLater) {
    world->sink();
    const auto held = submit(marks_per_turn_max + 100);
    ASSERT_TRUE(world->run_until([&] { return world->ready.size() == held.size(); }, 10s));
    for (; !world->ready.empty(); world->ready.pop_front())
        world->queue->hold(std::move(world->ready.front()));
    static_cast<void>(submit(2000));
    ASSERT_TRUE(world->run_until([&] { return world->ready.size() == 2000; }, 10s));
    remove(held);
    const OneATurn deliveries{*world};
    bool synced = false;
    world->start(sync_then(world.get(), &synced));
    while (!synced && !world->ready.empty()) {
        world->clock.advance(20us);
        world->loop.turn();
    }
    EXPECT_TRUE(synced);
    EXPECT_GT(world->ready.size(), 1000U);
}

} // namespace
