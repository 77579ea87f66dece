#include "queue/limits.h"
#include "queue/queue.h"
#include "tests/queue/spool_probe.h"
#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::SimDisk;
using tests::SimDiskOptions;
using tests::small_options;
using tests::World;
namespace base = dataplane::base;

class QueueTest : public testing::Test {
protected:
    void restart(std::vector<std::byte> image, SimDiskOptions disk = {}) {
        world = std::make_unique<World>(disk, small_options(), std::move(image));
        ASSERT_TRUE(world->open().value().has_value()) << world->report.problem;
        world->sink();
    }
    void SetUp() override { restart({}); }

    void settle_turn() { // lets the turn end happen in which messages are handed out
        world->run_until([] { return false; }, 10ms);
    }
    static base::Task<void> note_error(World* to, std::optional<SpoolError>* out) {
        auto sent = co_await tests::submit_task(*to->queue, "x", "", 1);
        *out = sent ? SpoolError::cancelled : sent.error();
    }
    MessageRef take_ready() {
        settle_turn();
        if (world->ready.empty()) return {};
        MessageRef message = std::move(world->ready.front());
        world->ready.pop_front();
        return message;
    }

    std::unique_ptr<World> world;
};

TEST_F(QueueTest, CommittedMessageIsHandedOutWithPreludeThenBody) {
    auto accepted = world->submit("body\r\n", "Received: x\r\n");
    ASSERT_TRUE(accepted);
    EXPECT_EQ((*accepted)->content_bytes, 19U);
    const MessageRef message = take_ready();
    ASSERT_TRUE(message);
    EXPECT_EQ(message->id, (*accepted)->id);
    EXPECT_FALSE(message->content.empty()); // the first attempt is served from memory
    EXPECT_EQ(world->content(message).value(), "Received: x\r\nbody\r\n");
    world->deliver(message);
    EXPECT_EQ(world->queue->counters().queued_messages, 0U);
}

TEST_F(QueueTest, CommitReturnsOnlyWhenTheWriteIsDurable) {
    world->disk.hold(true);
    bool done = false;
    auto client = [](World* w, bool* out) -> base::Task<void> {
        auto committed = co_await tests::submit_task(*w->queue, "x", "", 1);
        *out = committed.has_value();
    };
    world->start(client(world.get(), &done));
    EXPECT_FALSE(world->run_until([&] { return done; }, 10s));
    world->disk.hold(false);
    EXPECT_TRUE(world->run_until([&] { return done; }, 10s));
}

TEST_F(QueueTest, WritersOfOneTurnShareAWrite) {
    const std::uint64_t before = world->queue->counters().batches;
    int done = 0;
    auto client = [](World* w, int* count) -> base::Task<void> {
        auto committed = co_await tests::submit_task(*w->queue, std::string(1000, 'x'), "", 1);
        EXPECT_TRUE(committed.has_value());
        ++*count;
    };
    for (int i = 0; i < 100; ++i)
        world->start(client(world.get(), &done));
    ASSERT_TRUE(world->run_until([&] { return done == 100; }));
    EXPECT_LE(world->queue->counters().batches - before, 2U);
    EXPECT_EQ(world->queue->counters().accepted, 100U);
}

// Goal: commits are few while many messages are on their way, as where signatures are made, and one by itself does
// not wait. Method: drafts stand open while others commit, one a turn, with a little time between.
TEST_F(QueueTest, WritersShareAWriteWhileManyMessagesAreOnTheirWay) {
    constexpr int messages = 40;
    SimDiskOptions quick;
    quick.latency_max = 100us;
    restart({}, quick);
    const auto writes_of = [&](std::size_t standing) {
        std::vector<Draft> drafts;
        for (std::size_t i = 0; i < standing; ++i) {
            auto draft = world->queue->begin(100);
            EXPECT_TRUE(draft.has_value());
            drafts.push_back(std::move(*draft));
        }
        const std::uint64_t before = world->queue->counters().batches;
        int done = 0;
        auto client = [](World* w, int* count) -> base::Task<void> {
            auto committed = co_await tests::submit_task(*w->queue, "x", "", 1);
            EXPECT_TRUE(committed.has_value());
            ++*count;
        };
        const base::TimePoint begin = world->loop.now();
        for (int i = 0; i < messages; ++i) {
            world->start(client(world.get(), &done));
            const base::TimePoint next = world->clock.now() + 500us;
            world->run_until([] { return false; }, 500us);
            world->clock.advance_to(next);
        }
        EXPECT_TRUE(world->run_until([&] { return done == messages; }, 10ms));
        const auto gaps = (world->loop.now() - begin) / commit_gap + 2;
        const std::uint64_t writes = world->queue->counters().batches - before;
        if (standing >= commit_siblings) {
            EXPECT_LE(writes, static_cast<std::uint64_t>(gaps));
        }
        return writes;
    };
    const std::uint64_t apart = writes_of(0), few = writes_of(commit_siblings - 1),
                        many = writes_of(commit_siblings);
    EXPECT_GE(apart, messages * 3U / 4);
    EXPECT_GE(few, messages * 3U / 4);
    EXPECT_LE(many, apart / 2);
    EXPECT_GE(writes_of(0), messages * 3U / 4) << "drafts that are gone count no more";
}

TEST_F(QueueTest, DeferredMessageComesBackWhenDueAndFromDisk) {
    ASSERT_TRUE(world->submit("later"));
    MessageRef message = take_ready();
    const base::WallTime due = world->loop.wall_now() + 300s;
    world->queue->defer(message, due, "451 try later");
    EXPECT_TRUE(message->content.empty());
    EXPECT_EQ(message->attempts, 1U);
    EXPECT_EQ(world->queue->counters().deferred_messages, 1U);
    ASSERT_TRUE(world->run_until([&] { return !world->ready.empty(); }, 400s));
    EXPECT_GE(world->clock.wall_now(), due);
    EXPECT_LE(world->clock.wall_now(), due + 1s);
    EXPECT_EQ(world->content(world->ready.front()).value(), "later");
    EXPECT_EQ(world->queue->counters().deferred_messages, 0U);
}

TEST_F(QueueTest, StatusAndDueSurviveARestart) {
    ASSERT_TRUE(world->submit("later", "", 3));
    MessageRef message = take_ready();
    message->status[0] = {RecipientState::delivered, 1, 250};
    message->status[1] = {RecipientState::pending, 1, 451};
    message->envelope.delay_notified = true;
    const base::WallTime due = world->loop.wall_now() + 300s;
    world->queue->defer(message, due, "451 try later");
    message.reset();
    ASSERT_TRUE(world->sync());
    restart(world->crash());
    EXPECT_EQ(world->report.messages_recovered, 1U);
    EXPECT_EQ(world->report.possible_duplicates, 0U);
    EXPECT_EQ(world->queue->counters().deferred_messages, 1U);
    // The new world's clock began anew, so the message is due a little later than it was.
    ASSERT_TRUE(world->run_until([&] { return !world->ready.empty(); }, 400s));
    const Message& again = *world->ready.front();
    EXPECT_EQ(again.due, due);
    EXPECT_EQ(again.attempts, 1U);
    EXPECT_EQ(again.last_error, "451 try later");
    EXPECT_TRUE(again.envelope.delay_notified);
    EXPECT_EQ(again.status[0].state, RecipientState::delivered);
    EXPECT_EQ(again.status[1].last_code, 451);
    EXPECT_EQ(again.pending_count(), 2U);
}

TEST_F(QueueTest, ProgressWithinARoundSurvivesARestart) {
    ASSERT_TRUE(world->submit("x", "", 2));
    const MessageRef message = take_ready();
    message->status[1].state = RecipientState::delivered;
    world->queue->progress(*message);
    ASSERT_TRUE(world->sync());
    restart(world->crash());
    ASSERT_TRUE(world->run_until([&] { return !world->ready.empty(); }, 1s));
    EXPECT_EQ(world->ready.front()->status[0].state, RecipientState::pending);
    EXPECT_EQ(world->ready.front()->status[1].state, RecipientState::delivered);
    EXPECT_EQ(world->report.possible_duplicates, 1U);
}

TEST_F(QueueTest, CompletionIsWrittenSoonWithoutAnythingElseToWrite) {
    ASSERT_TRUE(world->submit("x"));
    world->deliver(take_ready());
    world->run_until([] { return false; }, 20ms); // idle: nobody syncs
    restart(world->crash());
    EXPECT_EQ(world->report.messages_recovered, 0U);
}

TEST_F(QueueTest, CleanCloseLeavesNothingInDoubt) {
    ASSERT_TRUE(world->submit("x"));
    ASSERT_TRUE(world->run(world->queue->close(base::Deadline::never())));
    EXPECT_EQ(world->queue->begin(0).error(), SpoolError::read_only);
    restart(world->crash());
    EXPECT_EQ(world->report.messages_recovered, 1U);
    EXPECT_EQ(world->report.possible_duplicates, 0U);
    EXPECT_EQ(world->report.torn_tails, 0U);
}

TEST_F(QueueTest, LargeMessageGoesInChunksAndComesBack) {
    std::mt19937_64 random{3};
    const std::string body = tests::random_body(random, 1'300'000);
    auto accepted = world->submit(body, "Received: y\r\n");
    ASSERT_TRUE(accepted);
    EXPECT_LT(world->queue->counters().resident_bytes, 100'000U);
    EXPECT_TRUE((*accepted)->content.empty());
    EXPECT_EQ(world->content(*accepted).value(), "Received: y\r\n" + body);
    accepted->reset();
    restart(world->crash());
    ASSERT_TRUE(world->run_until([&] { return !world->ready.empty(); }, 1s));
    EXPECT_EQ(world->content(world->ready.front()).value(), "Received: y\r\n" + body);
}

TEST_F(QueueTest, ContentOverTheLimitIsTooLarge) {
    auto draft = world->queue->begin(0);
    ASSERT_TRUE(draft);
    EXPECT_EQ(world->queue->begin(world->options.content_bytes_max + 1).error(),
              SpoolError::too_large);
}

TEST_F(QueueTest, RefusedWriteIsNeverAcknowledgedAndDeliveriesGoOn) {
    ASSERT_TRUE(world->submit("before"));
    const MessageRef before = take_ready();
    world->disk.fail_writes(SimDisk::Fault::io, 1);
    EXPECT_EQ(world->submit("lost").error(), SpoolError::write_failed);
    EXPECT_EQ(world->queue->counters().write_errors, 1U);
    ASSERT_TRUE(world->submit("after")); // in a new segment
    EXPECT_EQ(world->content(before).value(), "before");
    world->deliver(before);
    ASSERT_TRUE(world->sync());
    restart(world->crash());
    EXPECT_EQ(world->report.messages_recovered, 1U);
    EXPECT_EQ(world->report.records_damaged, 0U);
    ASSERT_TRUE(world->run_until([&] { return !world->ready.empty(); }, 1s));
    EXPECT_EQ(world->content(world->ready.front()).value(), "after");
}

TEST_F(QueueTest, ShortWriteIsARefusedWrite) {
    ASSERT_TRUE(world->submit("before")); // opens a segment
    world->deliver(take_ready());
    ASSERT_TRUE(world->sync());
    world->disk.fail_writes(SimDisk::Fault::short_transfer, 1);
    EXPECT_EQ(world->submit("lost").error(), SpoolError::write_failed);
    ASSERT_TRUE(world->sync());
    restart(world->crash());
    EXPECT_EQ(world->report.messages_recovered, 0U);
}

TEST_F(QueueTest, CompletionInARefusedBatchIsWrittenAgain) {
    ASSERT_TRUE(world->submit("x"));
    world->deliver(take_ready());
    world->disk.fail_writes(SimDisk::Fault::no_space, 1);
    EXPECT_TRUE(world->sync());
    EXPECT_EQ(world->queue->counters().write_errors, 1U);
    restart(world->crash());
    EXPECT_EQ(world->report.messages_recovered, 0U);
}

TEST_F(QueueTest, DeviceThatRefusesEverythingMakesTheQueueReadOnly) {
    ASSERT_TRUE(world->submit("before"));
    world->disk.fail_writes(SimDisk::Fault::io, SimDisk::always);
    EXPECT_EQ(world->submit("one").error(), SpoolError::write_failed);
    world->run_until([] { return false; }, 100ms);
    EXPECT_EQ(world->queue->begin(0).error(), SpoolError::read_only);
    EXPECT_EQ(world->sync().error(), SpoolError::read_only);
    EXPECT_EQ(world->content(take_ready()).value(), "before");
}

// What is delivered cannot be written down any more, and would be delivered again after the next start.
TEST_F(QueueTest, ReadOnlyQueueHandsNothingOut) {
    ASSERT_TRUE(world->submit("in a round"));
    MessageRef message = take_ready();
    world->ready_max = 0;
    ASSERT_TRUE(world->submit("waits"));
    ASSERT_TRUE(world->submit("is deferred"));
    EXPECT_FALSE(world->queue->read_only());
    world->disk.fail_writes(SimDisk::Fault::io, SimDisk::always);
    EXPECT_FALSE(world->submit("one"));
    world->run_for(100ms);
    EXPECT_TRUE(world->queue->read_only());
    EXPECT_EQ(world->queue->counters().read_only, 1U);
    world->ready_max = 10;
    world->queue->pull();
    world->run_for(1h);
    EXPECT_TRUE(world->ready.empty());
    EXPECT_EQ(world->queue->counters().queued_messages, 3U);
    world->deliver(std::move(message)); // its end is not kept for a write that never comes
    std::size_t marks = 0;
    QueueProbe::for_each_mark(QueueProbe::core(*world->queue),
                              [&](Place, std::uint32_t) { ++marks; });
    EXPECT_EQ(marks, 0U);
    restart(world->crash());
    EXPECT_EQ(world->report.messages_recovered, 3U);
}

// Several writes are in flight all the time, and what strikes the device strikes them all.
TEST_F(QueueTest, WritesThatFailTogetherAreOneFailure) {
    ASSERT_TRUE(world->submit("before"));
    world->disk.hold(true);
    world->disk.fail_writes(SimDisk::Fault::io, 2);
    std::array<std::optional<SpoolError>, 2> errors;
    for (auto& error : errors) {
        world->start(note_error(world.get(), &error));
        settle_turn(); // each has a write of its own
    }
    world->disk.hold(false);
    EXPECT_TRUE(world->run_until([&] { return errors[0] && errors[1]; }, 10s));
    EXPECT_EQ(errors[0], SpoolError::write_failed);
    EXPECT_EQ(errors[1], SpoolError::write_failed);
    EXPECT_EQ(world->queue->counters().write_errors, 2U);
    EXPECT_TRUE(world->submit("after"));
    EXPECT_TRUE(world->sync());
}

TEST_F(QueueTest, MailGoesOnAfterOneFailedFlush) {
    world = std::make_unique<World>(SimDiskOptions{}, small_options());
    world->commit_by_flush();
    ASSERT_TRUE(world->open().value().has_value());
    world->sink();
    ASSERT_TRUE(world->submit("before"));
    world->disk.fail_flushes(1);
    std::vector<std::optional<SpoolError>> errors(6);
    for (auto& error : errors) {
        world->start(note_error(world.get(), &error));
        world->run_for(100us);
    }
    const auto all = [&] { return std::ranges::all_of(errors, [](auto& e) { return !!e; }); };
    EXPECT_TRUE(world->run_until(all, 10s));
    EXPECT_GT(world->queue->counters().write_errors, 1U) << "several waited for that flush";
    ASSERT_TRUE(world->submit("after"));
    EXPECT_TRUE(world->sync());
    const auto sent = std::ranges::count(errors, SpoolError::cancelled); // by later flushes
    restart(world->crash());
    EXPECT_EQ(world->report.messages_recovered, 2U + static_cast<std::uint64_t>(sent));
}

// It has one place only. The clean mark of an orderly end is its last update, in two writes.
TEST_F(QueueTest, SuperblockThatIsRefusedOnceIsWrittenAgain) {
    const auto end = [&](std::optional<std::uint64_t> refused) {
        restart({});
        EXPECT_TRUE(world->submit("x"));
        if (refused) world->disk.fail_writes(SimDisk::Fault::io, 1, *refused);
        const std::uint64_t before = world->disk.write_count();
        EXPECT_TRUE(world->run(world->queue->close(base::Deadline::in(world->loop, 60s))));
        EXPECT_EQ(world->queue->counters().write_errors, refused ? 1U : 0U);
        return world->disk.write_count() - before;
    };
    const std::uint64_t writes = end({});
    ASSERT_GT(writes, 2U);
    for (const std::uint64_t last : {1U, 2U}) {
        EXPECT_EQ(end(writes - last), writes + 1);
        restart(world->crash());
        EXPECT_EQ(world->report.messages_recovered, 1U);
        EXPECT_EQ(world->report.possible_duplicates, 0U) << "the mark is there";
    }
}

TEST_F(QueueTest, CommitThatTimedOutIsNotDeliveredLater) {
    ASSERT_TRUE(world->submit("before")); // opens a segment
    world->deliver(take_ready());
    world->disk.hold(true);
    auto draft = world->queue->begin(0);
    draft->envelope().add_recipient("a@example.net", "", 0);
    auto committed = world->run(draft->commit("x", base::Deadline::in(world->loop, 5s)));
    EXPECT_EQ(committed.error(), SpoolError::timed_out);
    world->disk.hold(false);
    ASSERT_TRUE(world->sync());
    EXPECT_FALSE(take_ready());
    restart(world->crash());
    EXPECT_EQ(world->report.messages_recovered, 0U);
}

TEST_F(QueueTest, CancelledCommitSaysSo) {
    base::CancelSource cancel;
    world->disk.hold(true);
    auto draft = world->queue->begin(0);
    draft->envelope().add_recipient("a@example.net", "", 0);
    std::optional<SpoolError> error;
    auto client = [](Draft* d, base::CancelSource* c,
                     std::optional<SpoolError>* out) -> base::Task<void> {
        auto committed = co_await d->commit("x", base::Deadline{.cancel = c});
        *out = committed.error();
    };
    world->start(client(&*draft, &cancel, &error));
    world->run_until([] { return false; }, 1s);
    cancel.cancel();
    world->run_until([&] { return error.has_value(); }, 1s);
    EXPECT_EQ(error, SpoolError::cancelled);
    world->disk.hold(false);
}

TEST_F(QueueTest, DroppedDraftLeavesNothing) {
    {
        auto draft = world->queue->begin(0);
        draft->envelope().add_recipient("a@example.net", "", 0);
        ASSERT_TRUE(
            world->run(draft->append(base::as_bytes("half a mess"), base::Deadline::never())));
    }
    EXPECT_EQ(world->queue->counters().resident_bytes, 0U);
    ASSERT_TRUE(world->sync());
    restart(world->crash());
    EXPECT_EQ(world->report.records_read, 0U);
}

TEST_F(QueueTest, FullPoolRefusesNewMailUntilSpaceComesBack) {
    const std::string body(60'000, 'f');
    std::optional<SpoolError> error;
    std::size_t accepted = 0;
    while (!error) {
        auto result = world->submit(body);
        if (result) {
            ++accepted;
        } else {
            error = result.error();
        }
        ASSERT_LT(accepted, 1000U);
    }
    EXPECT_EQ(error, SpoolError::full);
    EXPECT_GT(accepted, 16U); // of 16 segments with three or four each, all but the reserve
    // Deliveries go on, and their completion can be recorded.
    settle_turn();
    ASSERT_EQ(world->ready.size(), accepted);
    while (!world->ready.empty()) {
        world->deliver(std::move(world->ready.front()));
        world->ready.pop_front();
    }
    ASSERT_TRUE(world->sync());
    // The next checkpoint gives the space back.
    EXPECT_TRUE(world->run_until([&] { return world->queue->counters().segments_free > 8; }, 2s));
    EXPECT_TRUE(world->submit(body));
}

TEST_F(QueueTest, ReportIsTakenWhenNewMailIsRefused) {
    const std::string body(60'000, 'f');
    for (int i = 0; i < 1000 && world->submit(body); ++i)
        continue;
    ASSERT_EQ(world->queue->begin(0).error(), SpoolError::full);
    auto report = world->queue->begin(1000, DraftUse::report);
    ASSERT_TRUE(report);
    report->envelope().add_recipient("sender@example.org", "", 0);
    ASSERT_TRUE(world->run(
        report->append(base::as_bytes("it could not be delivered"), base::Deadline::never())));
    EXPECT_TRUE(world->run(report->commit("", base::Deadline::never())));
}

TEST_F(QueueTest, DeclaredSizeThatDoesNotFitIsRefusedAtOnce) {
    EXPECT_EQ(world->queue->begin(world->disk.size_bytes()).error(), SpoolError::full);
}

TEST_F(QueueTest, OneDeferredMessageDoesNotPinThePool) {
    std::mt19937_64 random{11};
    const std::string pinned = tests::random_body(random, 30'000);
    const std::string large = tests::random_body(random, 700'000);
    ASSERT_TRUE(world->submit(pinned));
    MessageRef first = take_ready();
    ASSERT_TRUE(world->submit(large));
    MessageRef second = take_ready();
    first->status[0].last_code = 451;
    world->queue->defer(std::move(first), world->loop.wall_now() + 24h, "later");
    world->queue->defer(std::move(second), world->loop.wall_now() + 24h, "later");
    // Ten times the pool goes through behind it.
    const std::string body(60'000, 'b');
    for (int i = 0; i < 700; ++i) {
        auto accepted = world->submit(body);
        ASSERT_TRUE(accepted) << i << ": " << to_string(accepted.error());
        accepted->reset();
        world->deliver(take_ready());
    }
    ASSERT_TRUE(world->sync());
    EXPECT_EQ(world->queue->counters().queued_messages, 2U);
    restart(world->crash());
    EXPECT_EQ(world->report.messages_recovered, 2U);
    EXPECT_EQ(world->report.records_damaged, 0U);
    ASSERT_TRUE(world->run_until([&] { return world->ready.size() == 2; }, 48h));
    for (const MessageRef& message : world->ready) {
        const bool is_first = message->content_bytes == pinned.size();
        EXPECT_TRUE(world->content(message).value() == (is_first ? pinned : large));
        EXPECT_EQ(message->attempts, 1U);
        if (is_first) {
            EXPECT_EQ(message->status[0].last_code, 451);
        }
    }
}

TEST_F(QueueTest, DamagedContentIsNeverHandedOut) {
    ASSERT_TRUE(world->submit(std::string(20'000, 'd')));
    MessageRef message = take_ready();
    world->queue->defer(message, world->loop.wall_now() + 60s, "");
    auto& bytes = world->disk.bytes();
    const auto begin = std::search_n(bytes.begin(), bytes.end(), 1000, std::byte{'d'});
    ASSERT_NE(begin, bytes.end());
    *(begin + 10'000) ^= std::byte{1};
    EXPECT_EQ(world->content(message).error(), SpoolError::damaged);
    EXPECT_EQ(world->queue->counters().damaged_records, 1U);
    world->disk.fail_reads(1);
    EXPECT_EQ(world->content(message).error(), SpoolError::read_failed);
}

// While a read waits for memory, the collector may move the message and its place be used again: by a record that
// checks out, has the same length and is somebody else's.
TEST_F(QueueTest, APlaceThatIsAnotherMessagesNowIsNotRead) {
    auto mine = world->submit("mine, and as long\r\n");
    auto other = world->submit("his,  and as long\r\n");
    ASSERT_TRUE(mine && other);
    const MessageId id = (*mine)->id;
    const MessageId other_id = (*other)->id;
    mine->reset();
    other->reset();
    for (int i = 0; i < 2; ++i)
        world->queue->defer(take_ready(), world->loop.wall_now() + 1h, "later");
    ASSERT_TRUE(world->sync());
    auto image = world->crash();
    restart(std::move(image)); // nothing is in memory any more
    MessageIndex& index = QueueProbe::core(*world->queue).index();
    Entry& entry = index[index.find(id)];
    const Place place = entry.place;
    ASSERT_EQ(entry.payload_bytes, index[index.find(other_id)].payload_bytes);
    entry.place = index[index.find(other_id)].place;
    auto loaded = world->run(world->queue->load(id, base::Deadline::never()));
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error(), SpoolError::damaged);
    index[index.find(id)].place = place;
    loaded = world->run(world->queue->load(id, base::Deadline::never()));
    ASSERT_TRUE(loaded);
    EXPECT_EQ(world->content(*loaded).value(), "mine, and as long\r\n");
}

TEST_F(QueueTest, RotBelowTheWatermarkIsReportedAndATornTailIsNot) {
    ASSERT_TRUE(world->submit(std::string(20'000, 'd')));
    ASSERT_TRUE(world->submit("another"));
    world->run_until([] { return false; }, 500ms); // idle: the watermark is written
    auto& bytes = world->disk.bytes();
    const auto begin = std::search_n(bytes.begin(), bytes.end(), 1000, std::byte{'d'});
    std::vector<std::byte> rotten = bytes;
    rotten[static_cast<std::size_t>(begin - bytes.begin()) + 10'000] ^= std::byte{1};
    restart(std::move(rotten));
    EXPECT_EQ(world->report.records_damaged, 1U);
    EXPECT_EQ(world->report.torn_tails, 0U);
    EXPECT_EQ(world->report.messages_recovered, 1U);
}

TEST_F(QueueTest, HeldMailWaitsForItsReleaseAndKeepsItsContent) {
    ASSERT_TRUE(world->submit("x"));
    world->queue->hold(take_ready());
    EXPECT_FALSE(take_ready());
    EXPECT_EQ(world->queue->flush({}), 0U);
    EXPECT_EQ(world->queue->release_held(10), 1U);
    const MessageRef message = take_ready();
    ASSERT_TRUE(message);
    EXPECT_EQ(message->attempts, 0U);
    EXPECT_EQ(world->content(message).value(), "x");
}

TEST_F(QueueTest, ParkedMailWaitsForItsSiteAndNothingIsWritten) {
    ASSERT_TRUE(world->submit("x"));
    const SiteRef site = world->queue->site("mx.example");
    MessageRef message = take_ready();
    ASSERT_TRUE(world->sync());
    const std::uint64_t written = world->queue->counters().batch_bytes;
    world->queue->pause(site, world->loop.wall_now() + 10min);
    world->queue->park(std::move(message), site, world->loop.wall_now() + 1h);
    world->run_until([] { return false; }, 9min);
    EXPECT_FALSE(take_ready());
    EXPECT_LE(world->queue->counters().batch_bytes, written + 8192); // a watermark
    world->run_until([] { return false; }, 2min);
    message = take_ready(); // one goes ahead after the pause
    ASSERT_TRUE(message);
    EXPECT_EQ(message->attempts, 0U);
    EXPECT_EQ(world->content(message).value(), "x");
}

TEST_F(QueueTest, FlushMakesDeferredMailDueNow) {
    ASSERT_TRUE(world->submit("x"));
    world->queue->defer(take_ready(), world->loop.wall_now() + 1h, "later");
    EXPECT_EQ(world->queue->flush({.tenant = "nobody"}), 0U);
    EXPECT_EQ(world->queue->flush({}), 1U);
    EXPECT_TRUE(take_ready());
}

TEST_F(QueueTest, ManyDraftsWaitForMemoryAndAllGetThrough) {
    const std::string body(200'000, 'm');
    int done = 0;
    auto client = [](World* w, std::string text, int* count) -> base::Task<void> {
        for (;;) {
            auto committed = co_await tests::submit_task(*w->queue, text, "", 1);
            if (committed) break;
            const bool passes = committed.error() == SpoolError::full ||
                                committed.error() == SpoolError::overloaded;
            EXPECT_TRUE(passes) << to_string(committed.error());
            static_cast<void>(co_await base::sleep_for(w->loop, 10ms));
        }
        ++*count;
    };
    auto deliverer = [](World* w) -> base::Task<void> {
        for (;;) {
            while (!w->ready.empty()) {
                w->deliver(std::move(w->ready.front()));
                w->ready.pop_front();
            }
            static_cast<void>(co_await base::sleep_for(w->loop, 5ms));
        }
    };
    world->start(deliverer(world.get()));
    for (int i = 0; i < 200; ++i)
        world->start(client(world.get(), body, &done));
    EXPECT_TRUE(world->run_until([&] { return done == 200; }, 600s)) << done;
}

TEST_F(QueueTest, PoolOfAnotherShardOrLaterFormatIsRefusedWithAReason) {
    std::vector<std::byte> image = world->crash();
    base::ManualClock clock;
    base::Loop loop{clock, 5};
    SimDisk disk{loop, {}, image};
    RecoveryReport report;
    auto opened = tests::run(loop, clock, MessageQueue::open(loop, disk, small_options(), report));
    EXPECT_EQ(opened.error(), SpoolError::damaged);
    EXPECT_NE(report.problem.find("shard"), std::string::npos);
}

TEST_F(QueueTest, OneSuperblockCopyAloneIsNotTrusted) {
    std::vector<std::byte> image = world->crash();
    for (std::size_t copy : {1U, 2U, 3U})
        image[copy * block_bytes + 100] ^= std::byte{1};
    World other{{}, small_options(), image};
    EXPECT_EQ(other.open().value().error(), SpoolError::damaged);
    image[block_bytes + 100] ^= std::byte{1}; // two agree again
    World third{{}, small_options(), image};
    EXPECT_TRUE(third.open().value().has_value());
}

TEST(QueueOpen, TooSmallAPoolIsRefusedWithAReason) {
    World world{{.bytes = 1 << 20}, small_options()};
    EXPECT_EQ(world.open().value().error(), SpoolError::full);
    EXPECT_FALSE(world.report.problem.empty());
}

TEST(MessageIdText, RoundTrips) {
    const MessageId id = MessageId::make(3, 0x1234, 0xABCDEF);
    EXPECT_EQ(id.to_string(), "0312340000abcdef");
    EXPECT_EQ(MessageId::parse(id.to_string()), id);
    EXPECT_FALSE(MessageId::parse("0312340000abcde"));
    EXPECT_FALSE(MessageId::parse("0312340000abcdeg"));
}

} // namespace
