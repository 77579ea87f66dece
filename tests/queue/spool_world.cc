#include "tests/queue/spool_world.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace tests {

base::Task<queue::SpoolResult<queue::MessageRef>> submit_task(queue::MessageQueue& queue,
                                                              std::string body, std::string prelude,
                                                              std::size_t recipients) {
    auto draft = queue.begin(body.size());
    if (!draft) co_return std::unexpected(draft.error());
    draft->envelope().set_sender("sender@example.org");
    for (std::size_t i = 0; i < recipients; ++i) {
        draft->envelope().add_recipient("user" + std::to_string(i) + "@example.net", "",
                                        queue::notify_failure);
    }
    auto appended = co_await draft->append(base::as_bytes(body), base::Deadline::never());
    if (!appended) co_return std::unexpected(appended.error());
    auto committed = co_await draft->commit(prelude, base::Deadline::never());
    co_return committed;
}

World::World(SimDiskOptions disk_options, queue::QueueOptions queue_options, SimMedium medium,
             base::WallTime start)
    : clock(start), disk(loop, disk_options,
                         medium.safe.empty() ? SimMedium{std::vector<std::byte>(disk_options.bytes)}
                                             : std::move(medium)),
      options(queue_options) {}

World::~World() {
    end();
}

void World::end() noexcept {
    tasks_.clear();
    ready.clear();
    queue.reset();
}

std::optional<queue::SpoolResult<>> World::open_early() {
    std::optional<queue::SpoolResult<>> outcome;
    auto opening = [](World* world, std::optional<queue::SpoolResult<>>* out) -> base::Task<void> {
        auto opened = co_await queue::MessageQueue::open(world->loop, *world->top, world->options,
                                                         world->report);
        if (opened) {
            world->queue = std::move(*opened);
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

std::optional<queue::SpoolResult<>> World::recover() {
    std::optional<queue::SpoolResult<>> outcome;
    auto waiting = [](World* world, std::optional<queue::SpoolResult<>>* out) -> base::Task<void> {
        auto recovered = co_await world->queue->recovered(base::Deadline::never());
        world->report = world->queue->recovery();
        *out = recovered;
    };
    start(waiting(this, &outcome));
    run_until([&] { return outcome.has_value() || disk.stopped(); });
    if (!outcome) tasks_.clear();
    return outcome;
}

std::optional<queue::SpoolResult<>> World::open() {
    auto opened = open_early();
    if (!opened || !*opened) return opened;
    return recover();
}

void World::start(base::Task<void> task) {
    tasks_.push_back(std::move(task));
    tasks_.back().start();
}

bool World::run_until(const std::function<bool()>& done, base::Duration limit) {
    return tests::run_until(loop, clock, done, limit);
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
    return run(submit_task(*queue, std::string{body}, std::string{prelude}, recipients));
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

void World::stop() {
    tasks_.clear();
    ready.clear();
    sinking_ = false;
}

std::vector<std::byte> World::crash() {
    std::vector<std::byte> image = disk.crash();
    end();
    return image;
}

SimMedium World::kill() {
    SimMedium medium = disk.kill();
    end();
    return medium;
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

} // namespace tests
