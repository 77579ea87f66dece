#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace tests {

World::World(SimDiskOptions disk_options, queue::QueueOptions queue_options,
             std::vector<std::byte> image)
    : disk(loop, disk_options,
           image.empty() ? std::vector<std::byte>(disk_options.bytes) : std::move(image)),
      options(queue_options) {}

World::~World() {
    tasks_.clear();
    ready.clear();
    queue.reset();
}

std::optional<queue::SpoolResult<>> World::open() {
    std::optional<queue::SpoolResult<>> outcome;
    auto opening = [](World* world, std::optional<queue::SpoolResult<>>* out) -> base::Task<void> {
        auto opened = co_await queue::MessageQueue::open(world->loop, world->disk, world->options,
                                                         world->report);
        if (opened) {
            world->queue = std::move(*opened);
            auto recovered = co_await world->queue->recovered(base::Deadline::never());
            EXPECT_TRUE(recovered.has_value());
            world->report = world->queue->recovery();
            *out = queue::SpoolResult<>{};
        } else {
            *out = std::unexpected(opened.error());
        }
    };
    start(opening(this, &outcome));
    run_until([&] { return outcome.has_value() || disk.stopped(); });
    if (!outcome) tasks_.clear(); // it writes to `outcome`
    return outcome;
}

void World::start(base::Task<void> task) {
    tasks_.push_back(std::move(task));
    tasks_.back().start();
}

bool World::run_until(const std::function<bool()>& done, base::Duration limit) {
    return tests::run_until(loop, clock, done, limit);
}

base::Task<queue::SpoolResult<queue::MessageRef>> submit_task(queue::MessageQueue& queue,
                                                              std::string body, std::string prelude,
                                                              std::size_t recipients,
                                                              Model* model) {
    auto draft = queue.begin(body.size());
    if (!draft) co_return std::unexpected(draft.error());
    const std::uint64_t id = draft->id().value;
    draft->envelope().set_sender("sender@example.org");
    for (std::size_t i = 0; i < recipients; ++i) {
        draft->envelope().add_recipient("user" + std::to_string(i) + "@example.net", "",
                                        queue::notify_failure);
    }
    if (model != nullptr) model->submitted[id] = prelude + body;
    auto appended = co_await draft->append(base::as_bytes(body), base::Deadline::never());
    if (!appended) {
        if (model != nullptr) model->refused.insert(id);
        co_return std::unexpected(appended.error());
    }
    auto committed = co_await draft->commit(prelude, base::Deadline::never());
    if (model != nullptr) (committed ? model->acknowledged : model->refused).insert(id);
    co_return committed;
}

base::Task<queue::SpoolResult<std::string>> content_task(queue::MessageQueue& queue,
                                                         queue::MessageRef message) {
    queue::ContentReader reader{queue, std::move(message)};
    std::string content;
    while (reader.bytes_left() > 0) {
        auto piece = co_await reader.next(base::Deadline::never());
        if (!piece) co_return std::unexpected(piece.error());
        for (const base::SlabView& view : piece->views())
            content += base::as_text(view.bytes());
    }
    co_return content;
}

queue::SpoolResult<queue::MessageRef> World::submit(std::string_view body, std::string_view prelude,
                                                    std::size_t recipients) {
    return run(submit_task(*queue, std::string{body}, std::string{prelude}, recipients, nullptr));
}

queue::SpoolResult<std::string> World::content(const queue::MessageRef& message) {
    return run(content_task(*queue, message));
}

void World::deliver(queue::MessageRef message) {
    for (queue::RecipientStatus& status : message->status)
        status.state = queue::RecipientState::delivered;
    queue->settle(std::move(message));
}

queue::SpoolResult<> World::sync() {
    return run(queue->sync(base::Deadline::never()));
}

std::vector<std::byte> World::crash() {
    std::vector<std::byte> image = disk.crash();
    tasks_.clear();
    ready.clear();
    queue.reset();
    return image;
}

std::string random_body(std::mt19937_64& random, std::size_t bytes) {
    std::string body(bytes, '\0');
    std::uint64_t word = random();
    for (std::size_t at = 0; at < bytes; at += sizeof word) {
        word = word * 6364136223846793005ULL + 1442695040888963407ULL;
        std::memcpy(body.data() + at, &word, std::min(sizeof word, bytes - at));
    }
    return body;
}

queue::QueueOptions small_options() {
    queue::QueueOptions options;
    options.segment_bytes = 256U << 10;
    options.resident_bytes_max = 8U << 20;
    return options;
}

void check_recovered(World& world, Model& model) {
    std::map<std::uint64_t, queue::MessageRef> found;
    std::vector<queue::MessageId> ids;
    world.queue->for_each({}, [&](queue::EntryRef, const queue::Entry& entry) {
        ids.push_back(entry.id);
        return true;
    });
    for (const queue::MessageId id : ids) {
        auto message = world.run(world.queue->load(id, base::Deadline::never()));
        if (!message) {
            ADD_FAILURE() << "unreadable: " << id.to_string() << ": " << to_string(message.error());
            continue;
        }
        found.emplace(id.value, std::move(*message));
    }
    for (const std::uint64_t id : model.acknowledged) {
        if (model.settled.contains(id)) continue;
        EXPECT_TRUE(found.contains(id)) << "acknowledged message lost: " << std::hex << id;
    }
    for (const auto& [id, message] : found) {
        EXPECT_FALSE(model.settled_for_good.contains(id))
            << "finished message is back: " << std::hex << id;
        EXPECT_FALSE(model.refused_for_good.contains(id))
            << "refused message is there: " << std::hex << id;
        const auto submitted = model.submitted.find(id);
        if (submitted == model.submitted.end()) {
            ADD_FAILURE() << "a message nobody sent: " << std::hex << id;
            continue;
        }
        auto content = world.content(message);
        if (!content) {
            ADD_FAILURE() << "unreadable: " << std::hex << id << ": " << to_string(content.error());
            continue;
        }
        EXPECT_TRUE(*content == submitted->second) << "content differs: " << std::hex << id;
        if (const auto attempts = model.attempts.find(id); attempts != model.attempts.end()) {
            EXPECT_GE(message->attempts, attempts->second) << "status lost: " << std::hex << id;
        }
    }
    EXPECT_EQ(world.report.records_damaged, 0U);
    // What came back although its end or its refusal was on the way lives on like any other.
    for (const auto& [id, message] : found) {
        model.settled.erase(id);
        model.refused.erase(id);
    }
}

} // namespace tests
