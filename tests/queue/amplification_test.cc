// amplification_test.cc: what the spool writes for each byte that it takes, over many rounds of a small pool.
#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <random>
#include <string>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::World;
namespace base = dataplane::base;

constexpr std::uint64_t pool_bytes = 64U << 20;
constexpr std::size_t clients = 12;

struct Traffic {
    std::uint64_t pools = 12;   // of mail, each as large as the pool
    unsigned deferred = 5;      // of 100 messages are not delivered at once
    base::Duration later_min{}; // and how long that takes
    base::Duration later_max{};
};

struct Measured {
    double amplification = 0;
    double collected = 0, checkpoints = 0; // of it
    std::uint64_t refused = 0;
};

base::Task<void> client(World* world, std::uint64_t seed, std::uint64_t* bytes_left,
                        std::uint64_t* refused) {
    std::mt19937_64 random(seed);
    while (*bytes_left > 0) {
        const std::size_t bytes = 2'000 + random() % 56'000;
        auto draft = world->queue->begin(bytes);
        if (!draft) {
            ++*refused;
            static_cast<void>(co_await base::sleep_for(world->loop, 50ms));
            continue;
        }
        draft->envelope().set_sender("sender@example.org");
        draft->envelope().add_recipient("x@example.net", "", 0);
        draft->envelope().expiry = draft->envelope().arrival + std::chrono::days{5};
        const std::string body = tests::random_body(random, bytes);
        auto appended = co_await draft->append(base::as_bytes(body), base::Deadline::never());
        if (!appended) continue;
        auto committed = co_await draft->commit("", base::Deadline::never());
        if (!committed) continue;
        *bytes_left -= std::min<std::uint64_t>(*bytes_left, bytes);
    }
}

Measured measure(const Traffic& traffic, std::uint64_t seed) {
    QueueOptions options = tests::small_options();
    options.segment_bytes = 512U << 10; // 128 of them: checkpoints have segments apart
    World world{{.bytes = pool_bytes, .latency_min = 2ms, .latency_max = 6ms, .seed = seed},
                options};
    EXPECT_TRUE(world.open().value().has_value());
    world.sink();
    std::mt19937_64 random(seed * 77);
    std::uint64_t bytes_left = traffic.pools * pool_bytes;
    std::uint64_t refused = 0;
    for (std::size_t i = 0; i < clients; ++i)
        world.start(client(&world, seed * 100 + i, &bytes_left, &refused));
    const bool done = world.run_until([&] {
        while (!world.ready.empty()) {
            MessageRef message = std::move(world.ready.front());
            world.ready.pop_front();
            if (message->attempts == 0 && random() % 100 < traffic.deferred) {
                const auto spread = (traffic.later_max - traffic.later_min) / 1ms;
                const auto later =
                    traffic.later_min / 1ms +
                    static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(spread));
                world.queue->defer(message,
                                   world.loop.wall_now() + std::chrono::milliseconds{later},
                                   "451 4.7.1 later");
            } else {
                world.deliver(std::move(message));
            }
        }
        return bytes_left == 0;
    });
    EXPECT_TRUE(done);
    const QueueCounters counters = world.queue->counters();
    const auto accepted = static_cast<double>(counters.accepted_bytes);
    Measured measured;
    measured.collected = static_cast<double>(counters.collected_bytes) / accepted;
    measured.checkpoints = static_cast<double>(counters.checkpoint_bytes) / accepted;
    measured.amplification = static_cast<double>(counters.batch_bytes) / accepted +
                             measured.collected + measured.checkpoints;
    measured.refused = refused;
    return measured;
}

// The number: at most 1.15 bytes written for each byte taken, with five mails in a hundred deferred, and
// these for longer than it takes to go round the pool.
TEST(WriteAmplification, StaysLowWithFivePercentDeferred) {
    const char* longer = std::getenv("SPOOL_POOLS");
    const Traffic traffic{.pools = longer != nullptr ? std::strtoull(longer, nullptr, 10) : 10,
                          .deferred = 5,
                          .later_min = 1s,
                          .later_max = 5s};
    const Measured measured = measure(traffic, 1);
    std::printf("amplification %.3f: collected %.3f, checkpoints %.3f, refused %llu\n",
                measured.amplification, measured.collected, measured.checkpoints,
                static_cast<unsigned long long>(measured.refused));
    EXPECT_LE(measured.amplification, 1.15);
    EXPECT_GT(measured.collected, 0.0) << "or nothing was tested";
}

// At 100 % full what ends mail still has room: completions are written, segments come back, mail is taken.
TEST(EssentialReserve, ProgressIsMadeWhenNothingIsFree) {
    World world{{.bytes = 8U << 20}, tests::small_options()};
    ASSERT_TRUE(world.open().value().has_value());
    world.sink();
    std::mt19937_64 random(5);
    // Past every level, as drafts that were begun in time may: until not a segment is left for mail.
    std::vector<Draft> drafts;
    for (int i = 0; i < 2000; ++i) {
        auto draft = world.queue->begin(0);
        if (!draft) break;
        draft->envelope().add_recipient("x@example.net", "", 0);
        drafts.push_back(std::move(*draft));
    }
    const auto commit = [](Draft* draft, const std::string* body, bool* full) -> base::Task<bool> {
        auto appended = co_await draft->append(base::as_bytes(*body), base::Deadline::never());
        if (!appended) co_return false;
        auto committed = co_await draft->commit("", base::Deadline::never());
        if (!committed && committed.error() == SpoolError::full) *full = true;
        co_return committed.has_value();
    };
    bool full = false;
    std::size_t taken = 0;
    for (Draft& draft : drafts) {
        const std::string body = tests::random_body(random, 8'000);
        if (world.run(commit(&draft, &body, &full))) ++taken;
        if (full) break;
    }
    drafts.clear();
    ASSERT_TRUE(full) << "the pool was not filled";
    ASSERT_GT(taken, 100U);
    EXPECT_EQ(world.queue->begin(0).error(), SpoolError::full);
    // Every status finds room, however often.
    for (int round = 0; round < 20; ++round) {
        for (MessageRef& message : world.ready)
            world.queue->progress(*message);
        ASSERT_TRUE(world.sync().has_value()) << "round " << round;
    }
    // Every second one ends; what is left is spread over all segments.
    std::size_t number = 0;
    std::deque<MessageRef> rest;
    while (!world.ready.empty()) {
        MessageRef message = std::move(world.ready.front());
        world.ready.pop_front();
        if (number++ % 4 != 0) {
            world.deliver(std::move(message));
        } else {
            world.queue->defer(message, world.loop.wall_now() + 24h, "later");
        }
    }
    ASSERT_TRUE(world.sync().has_value());
    ASSERT_TRUE(world.run_until(
        [&] { return world.queue->pressure().level < SpoolLevel::nearly_full; }, 10min))
        << world.queue->counters().segments_free << " free";
    EXPECT_TRUE(world.queue->begin(0).has_value()) << "without a restart";
}

base::Task<void> small_mail(World* world, bool* full) {
    while (!*full) {
        auto draft = world->queue->begin(0);
        if (!draft) {
            *full = draft.error() == SpoolError::full;
            static_cast<void>(co_await base::sleep_for(world->loop, 1ms));
            continue;
        }
        draft->envelope().add_recipient("x@example.net", "", 0);
        auto committed = co_await draft->commit("", base::Deadline::never());
        if (!committed && committed.error() == SpoolError::full) *full = true;
    }
}

// A checkpoint of mail that is as small as this takes several segments, and while it is written the one before stays.
TEST(EssentialReserve, HoldsACheckpointOfManySegments) {
    World world{{.bytes = 16U << 20}, tests::small_options()};
    ASSERT_TRUE(world.open().value().has_value());
    world.sink();
    bool full = false;
    for (int i = 0; i < 200; ++i)
        world.start(small_mail(&world, &full));
    ASSERT_TRUE(world.run_until([&] { return full; }, 10min));
    ASSERT_GT(world.ready.size(), 4'000U) << "or its checkpoint is small";
    // As much is written down about them as the pool holds.
    for (int round = 0; round < 20; ++round) {
        for (MessageRef& message : world.ready)
            world.queue->progress(*message);
        ASSERT_TRUE(world.sync().has_value()) << "round " << round;
    }
    EXPECT_GT(world.queue->counters().batch_bytes, 2 * (16U << 20));
    EXPECT_GT(world.queue->counters().checkpoints, 4U);
    while (!world.ready.empty()) {
        world.deliver(std::move(world.ready.front()));
        world.ready.pop_front();
    }
    ASSERT_TRUE(world.sync().has_value());
    EXPECT_TRUE(world.run_until(
        [&] { return world.queue->pressure().level < SpoolLevel::nearly_full; }, 10min))
        << world.queue->counters().segments_free << " free";
}

} // namespace
