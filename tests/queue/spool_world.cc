#include "tests/queue/spool_world.h"

#include "queue/codec.h"
#include "queue/pool_content.h"
#include "queue/seeded_defect.h"

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

namespace {

#ifdef MILLRACE_SEEDED_DEFECTS
/// A half of a mirror that is not waited for, or whose refusals nobody hears.
class CarelessDisk final : public queue::Disk {
public:
    explicit CarelessDisk(queue::Disk& disk) noexcept : disk_(disk) {}
    [[nodiscard]] std::uint64_t size_bytes() const noexcept override { return disk_.size_bytes(); }
    base::Task<std::expected<void, queue::DiskError>>
    write(std::uint64_t offset, std::span<const std::byte> bytes, queue::Durable durable) override {
        auto written = co_await disk_.write(
            offset, bytes, SEEDED_DEFECT(mirror_lazy_half) ? queue::Durable::no : durable);
        if (SEEDED_DEFECT(mirror_keeps_refused_half)) written = {};
        co_return written;
    }
    base::Task<std::expected<void, queue::DiskError>> read(std::uint64_t offset,
                                                           std::span<std::byte> bytes) override {
        return disk_.read(offset, bytes);
    }
    base::Task<std::expected<void, queue::DiskError>> flush() override { return disk_.flush(); }

private:
    queue::Disk& disk_;
};
#endif

} // namespace

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
    mirror.reset();
}

void World::commit_by_flush() {
    flushing[0] = std::make_unique<queue::FlushDisk>(loop, disk);
    top = flushing[0].get();
}

void World::add_twin(Twin twin) {
    second = std::make_unique<SimDisk>(loop, twin.disk,
                                       twin.medium.safe.empty()
                                           ? SimMedium{std::vector<std::byte>(twin.disk.bytes)}
                                           : std::move(twin.medium));
    disk.share_power(*second);
    rotten_ = twin.rotten;
    queue::Disk* other = second.get();
    if (flushing[0]) {
        flushing[1] = std::make_unique<queue::FlushDisk>(loop, *second);
        other = flushing[1].get();
    }
#ifdef MILLRACE_SEEDED_DEFECTS
    careless = std::make_unique<CarelessDisk>(*other);
    other = careless.get();
#endif
    const std::array<queue::Disk*, 2> disks{top, other};
    for (unsigned side = 0; side < 2; ++side) {
        if (twin.present[side]) sides_[side] = {disks[side], twin.created[side]};
    }
    mirror_options_.copy_bytes_per_s = twin.copy_bytes_per_s;
    mirror_options_.retry = twin.retry;
    mirror_options_.answer_limit = twin.answer_limit;
    mirror_options_.read_limit = twin.read_limit;
    mirror_options_.report = [this](queue::MirrorState, const std::string& text) {
        if (text.find("did not answer") != std::string::npos) ++unanswered;
    };
    mirror_options_.fresh_pair = {std::byte{1}};
    mirror_options_.pool_of = queue::pool_of_superblock;
    mirror_options_.content = std::make_shared<queue::PoolContent>();
}

base::Task<void> World::hang(base::Loop* loop, SimDisk* half, base::Duration after,
                             base::Duration time) {
    static_cast<void>(co_await base::sleep_for(*loop, after));
    half->hold(true);
    static_cast<void>(co_await base::sleep_for(*loop, time));
    half->hold(false);
}

std::optional<queue::SpoolResult<>> World::open_mirror() {
    using Opened = std::expected<std::unique_ptr<queue::MirrorDisk>, std::string>;
    std::optional<Opened> outcome;
    auto opening = [](World* world, std::optional<Opened>* out) -> base::Task<void> {
        auto opened =
            co_await queue::MirrorDisk::open(world->loop, world->sides_, world->mirror_options_);
        out->emplace(std::move(opened));
    };
    start(opening(this, &outcome));
    run_until([&] { return outcome.has_value() || disk.stopped(); });
    if (!outcome) {
        tasks_.clear(); // it writes to `outcome`
        return std::nullopt;
    }
    if (!*outcome) {
        mirror_refused = true;
        report.problem = outcome->error();
        return std::unexpected(queue::SpoolError::damaged);
    }
    mirror = std::move(**outcome);
    top = mirror.get();
    counted_ = {mirror->counts(0), mirror->counts(1)};
    return queue::SpoolResult<>{};
}

void World::stop_after_events(std::uint64_t events) {
    disk.stop_after_events(events);
    if (second) second->stop_after_events(events);
}

void World::fail_flushes(std::uint64_t count) {
    disk.fail_flushes(count);
    if (second) second->fail_flushes(count);
}

std::uint64_t World::operation_count() const noexcept {
    return disk.operation_count() + (second ? second->operation_count() : 0);
}

std::vector<unsigned> World::copies() const {
    if (!mirror) return {0};
    std::vector<unsigned> sides;
    for (unsigned side = 0; side < 2; ++side) {
        if (mirror->counts(side) && counted_[side]) sides.push_back(side);
    }
    if (sides.empty()) { // given everything since, by the one that is behind now
        for (unsigned side = 0; side < 2; ++side)
            if (mirror->counts(side)) sides.push_back(side);
    }
    if (sides.size() == 2 && rotten_ == sides.front()) std::swap(sides[0], sides[1]);
    return sides;
}

bool World::safe(std::uint64_t offset, std::uint64_t bytes) {
    if (!mirror) return disk.safe(offset, bytes);
    std::optional<unsigned> first;
    for (unsigned side = 0; side < 2; ++side) {
        if (rotten_ == side || !mirror->counts(side)) continue;
        if (!half(side).safe(offset, bytes)) return false;
        if (first && std::memcmp(half(*first).bytes().data() + offset,
                                 half(side).bytes().data() + offset, bytes) != 0)
            return false;
        first = side;
    }
    return true;
}

std::array<SimMedium, 2> World::end_both(bool kill) {
    std::array<SimMedium, 2> media;
    for (unsigned side = 0; side < (second ? 2 : 1); ++side)
        media[side] = kill ? half(side).kill() : SimMedium{half(side).crash()};
    end();
    return media;
}

std::optional<queue::SpoolResult<>> World::open_early() {
    if (second) {
        auto joined = open_mirror();
        if (!joined || !*joined) return joined;
    }
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
