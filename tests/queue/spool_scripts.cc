// spool_scripts.cc: the exhaustive runs of spool_sim.h: a fixed story, broken at every point.
#include "queue/segment_scan.h"
#include "tests/queue/spool_crew.h"
#include "tests/queue/spool_oracle.h"
#include "tests/queue/spool_probe.h"
#include "tests/queue/spool_sim.h"
#include "tests/queue/spool_world.h"

#include <array>
#include <optional>
#include <random>
#include <utility>

namespace tests {
namespace {

using namespace std::chrono_literals;
using queue::MessageRef;
using queue::RecipientState;

/// Of every kind of record: small and chunked mail, statuses, completions, a refusal, a report.
base::Task<void> mixed_story(World* world, Oracle* oracle, bool* done) {
    std::mt19937_64 random{99};
    for (std::size_t i = 0; i < 10; ++i) {
        Letter letter;
        letter.body = random_body(random, i == 4 ? 300'000 : 500 + 2000 * i);
        letter.prelude = "P: 1\r\n";
        letter.recipients = 2;
        letter.give_up = i == 6;
        if (i == 7) letter.patience = 1us;
        static_cast<void>(co_await send(world, oracle, std::move(letter)));
        static_cast<void>(co_await base::sleep_for(world->loop, 1ms));
        if (world->ready.empty()) continue;
        MessageRef message = std::move(world->ready.front());
        world->ready.pop_front();
        if (i % 3 == 2) {
            if (message->status.size() > 1) message->status[0].state = RecipientState::delivered;
            const base::WallTime due = world->loop.wall_now() + 10s;
            oracle->deferred(*message, due);
            world->queue->defer(std::move(message), due, "later");
        } else {
            queue::MessageId told;
            if (i % 4 == 1) {
                Letter report;
                report.body = "no such user\r\n";
                report.report = true;
                auto sent = co_await send(world, oracle, std::move(report));
                if (!sent) continue;
                told = (*sent)->id;
            }
            oracle->settled(message->id, told);
            world->deliver(std::move(message));
        }
        if (i % 4 != 3) continue;
        auto promises = oracle->sync_begins();
        auto synced = co_await world->queue->sync(base::Deadline::never());
        oracle->sync_ended(std::move(promises), synced.has_value());
    }
    auto closed = co_await world->queue->close(base::Deadline::in(world->loop, 60s));
    if (closed) oracle->closed_cleanly();
    *done = true;
}

/// Round the pool: checkpoints, collected survivors, segments used again.
base::Task<void> round_story(World* world, Oracle* oracle, bool* done) {
    std::mt19937_64 random{7};
    for (std::size_t i = 0; i < 60; ++i) {
        Letter letter;
        letter.body = random_body(random, 20'000 + random() % 40'000);
        auto sent = co_await send(world, oracle, std::move(letter));
        if (!sent) static_cast<void>(co_await base::sleep_for(world->loop, 5ms));
        sent = std::unexpected(queue::SpoolError::cancelled);
        static_cast<void>(co_await base::sleep_for(world->loop, 1ms));
        while (!world->ready.empty()) {
            MessageRef message = std::move(world->ready.front());
            world->ready.pop_front();
            if (i % 6 == 0) {
                const base::WallTime due = world->loop.wall_now() + 24h;
                oracle->deferred(*message, due);
                world->queue->defer(std::move(message), due, "later");
            } else {
                oracle->settled(message->id);
                world->deliver(std::move(message));
            }
        }
    }
    auto promises = oracle->sync_begins();
    auto synced = co_await world->queue->sync(base::Deadline::in(world->loop, 60s));
    oracle->sync_ended(std::move(promises), synced.has_value());
    *done = true;
}

using Story = base::Task<void> (*)(World*, Oracle*, bool*);
constexpr std::array<Story, 2> stories{&mixed_story, &round_story};

SimDiskOptions disk_of(std::uint64_t seed) {
    return {.bytes = 2560U << 10, .seed = seed};
}

queue::QueueOptions options_of() {
    queue::QueueOptions options = small_options();
    options.checkpoint_bytes = 64U << 10;
    return options;
}

class ScriptWorld final : public World {
public:
    ScriptWorld(Commit commit, SimDiskOptions disk, queue::QueueOptions options,
                SimMedium medium = {})
        : World(disk, options, std::move(medium)) {
        if (commit == Commit::flush) commit_by_flush();
    }
};

/// Begins a story on a blank disk; false when it could not even open.
bool tell(World& world, Oracle& oracle, Story story) {
    oracle.boot_begins();
    const auto opened = world.open();
    if (!opened || !*opened) return false;
    world.sink();
    bool done = false;
    world.start(story(&world, &oracle, &done));
    static_cast<void>(world.run_until([&] { return done || world.disk.stopped(); }, 1h));
    if (!done && !world.disk.stopped())
        oracle.violate(Invariant::everything_ends, "the story waits for ever");
    world.stop();
    return true;
}

/// Opens what is left, and judges it.
SimMedium judge(Commit commit, SimMedium medium, Oracle& oracle, std::uint64_t seed) {
    ScriptWorld world{commit, disk_of(seed), options_of(), std::move(medium)};
    oracle.boot_begins();
    const auto opened = world.open();
    if (!opened || !*opened) {
        oracle.violate(Invariant::any_image_opens_or_refuses,
                       "does not open: " + world.report.problem);
        return {};
    }
    oracle.check_opened(world);
    oracle.check_accounting(world);
    oracle.check_disk(world, true);
    oracle.boot_ends(world);
    return world.crash();
}

class Tally {
public:
    void end(const Oracle& oracle, const std::string& where) {
        for (const std::string& violation : oracle.violations())
            if (result_.violations.size() < 20)
                result_.violations.push_back(where + ": " + violation);
        result_.acknowledged += oracle.acknowledged_count();
        result_.lost_and_told += oracle.lost_count();
    }
    void boot(const World& world) {
        ++result_.boots;
        result_.operations += world.disk.operation_count();
    }
    [[nodiscard]] bool good() const noexcept { return result_.violations.empty(); }
    SimResult& result() noexcept { return result_; }

private:
    SimResult result_;
};

struct Length {
    std::uint64_t events = 0, operations = 0;
};

Length length_of(Commit commit, Story story) {
    Oracle oracle;
    ScriptWorld world{commit, disk_of(1), options_of()};
    static_cast<void>(tell(world, oracle, story));
    return {world.disk.event_count(), world.disk.operation_count()};
}

std::string text(const char* what, std::uint64_t story, std::uint64_t point, std::uint64_t draw) {
    return std::string{"story "} + std::to_string(story) + ", " + what + " " +
           std::to_string(point) + ", draw " + std::to_string(draw);
}

} // namespace

SimResult run_crash_at_every_event(std::uint64_t stride, Commit commit) {
    Tally tally;
    for (std::size_t story = 0; story < stories.size(); ++story) {
        const std::uint64_t events = length_of(commit, stories[story]).events;
        for (std::uint64_t stop = 0; stop <= events && tally.good(); stop += stride) {
            for (std::uint64_t draw = 1; draw <= 3; ++draw) {
                Oracle oracle;
                SimMedium medium;
                {
                    ScriptWorld world{commit, disk_of(draw), options_of()};
                    world.disk.stop_after_events(stop);
                    static_cast<void>(tell(world, oracle, stories[story]));
                    oracle.boot_ends(world);
                    tally.boot(world);
                    medium = draw == 3 ? world.kill() : SimMedium{world.crash()};
                }
                medium = judge(commit, std::move(medium), oracle, draw + 10);
                if (oracle.good())
                    static_cast<void>(judge(commit, std::move(medium), oracle, draw + 20));
                tally.end(oracle, text("event", story, stop, draw));
            }
        }
    }
    return tally.result();
}

SimResult run_crash_in_every_recovery(std::uint64_t stride, std::uint64_t every, Commit commit) {
    Tally tally;
    for (std::size_t story = 0; story < stories.size(); ++story) {
        const std::uint64_t events = length_of(commit, stories[story]).events;
        for (std::uint64_t stop = 3; stop <= events && tally.good(); stop += every * stride) {
            Oracle first;
            std::vector<std::byte> image;
            {
                ScriptWorld world{commit, disk_of(stop), options_of()};
                world.disk.stop_after_events(stop);
                static_cast<void>(tell(world, first, stories[story]));
                first.boot_ends(world);
                image = world.crash();
            }
            std::mt19937_64 random{stop};
            for (std::uint64_t second = 0;; second += 1 + (stride - 1) / 2) {
                Oracle oracle = first;
                // Three deep: the recovery of the recovery of the recovery is cut short as well.
                SimMedium medium{image};
                bool through = false;
                for (std::uint64_t depth = 0; depth < 3; ++depth) {
                    ScriptWorld world{commit, disk_of(stop * 8 + depth), options_of(),
                                      std::move(medium)};
                    world.disk.stop_after_events(depth == 0 ? second : random() % 40);
                    oracle.boot_begins();
                    const auto opened = world.open();
                    if (depth == 0 && opened && !world.disk.stopped()) through = true;
                    oracle.boot_ends(world);
                    tally.boot(world);
                    medium = world.crash();
                }
                static_cast<void>(judge(commit, std::move(medium), oracle, second));
                tally.end(oracle, text("event", story, stop, second));
                if (through || !tally.good()) break;
            }
        }
    }
    return tally.result();
}

SimResult run_error_at_every_operation(std::uint64_t stride, Commit commit) {
    Tally tally;
    for (std::size_t story = 0; story < stories.size(); ++story) {
        const std::uint64_t operations = length_of(commit, stories[story]).operations;
        std::vector<std::byte> image; // of a good run: its recovery meets errors, too
        Oracle before;
        {
            ScriptWorld world{commit, disk_of(2), options_of()};
            static_cast<void>(tell(world, before, stories[story]));
            before.boot_ends(world);
            image = world.crash();
        }
        for (std::uint64_t at = 0; at < operations && tally.good(); at += stride) {
            for (const std::uint64_t count : {std::uint64_t{1}, SimDisk::always}) {
                Oracle oracle;
                SimMedium medium;
                {
                    ScriptWorld world{commit, disk_of(at), options_of()};
                    world.disk.fail_operations(at, count);
                    static_cast<void>(tell(world, oracle, stories[story]));
                    oracle.boot_ends(world);
                    tally.boot(world);
                    medium = world.crash();
                }
                static_cast<void>(judge(commit, std::move(medium), oracle, at + 1));
                tally.end(oracle, text("error at operation", story, at, count == 1 ? 1 : 2));
            }
        }
        bool through = false;
        for (std::uint64_t at = 0; !through && tally.good(); at += 1 + (stride - 1) / 4) {
            for (const std::uint64_t count : {std::uint64_t{1}, SimDisk::always}) {
                Oracle oracle = before;
                SimMedium medium;
                {
                    ScriptWorld world{commit, disk_of(at), options_of(), SimMedium{image}};
                    world.disk.fail_operations(at, count);
                    oracle.boot_begins();
                    const auto opened = world.open();
                    const bool good = opened && opened->has_value() && world.report.problem.empty();
                    world.disk.fail_operations(0, 0);
                    if (!good && world.report.problem.empty())
                        oracle.violate(Invariant::any_image_opens_or_refuses, "refused in silence");
                    const queue::RecoveryReport& report = world.report;
                    // What could not be read may be gone, when that is told; else it must be there.
                    if (report.records_damaged != 0 || report.checkpoint_lost) oracle.damage_done();
                    if (good) oracle.check_opened(world);
                    through = world.disk.operation_count() <= at;
                    oracle.boot_ends(world);
                    tally.boot(world);
                    medium = world.crash();
                }
                static_cast<void>(judge(commit, std::move(medium), oracle, at + 1));
                tally.end(oracle, text("error in recovery", story, at, count == 1 ? 1 : 2));
            }
        }
    }
    return tally.result();
}

SimResult run_lying_device(std::uint64_t count) {
    Tally tally;
    for (std::uint64_t seed = 1; seed <= count && tally.good(); ++seed) {
        Oracle oracle;
        SimMedium medium;
        {
            SimDiskOptions disk = disk_of(seed);
            disk.bytes = 8U << 20;
            World world{disk, options_of()};
            oracle.boot_begins();
            const auto opened = world.open();
            if (!opened || !*opened) continue;
            disk.faults.lied = 300;
            world.disk.set_faults(disk.faults);
            start_deliveries(world, oracle, {.seed = seed, .stall = 1h});
            start_clients(world, oracle, {.seed = seed, .writers = 2, .large_percent = 0});
            world.run_for(100ms);
            // Honest again, and long enough that the watermark covers what went before.
            world.disk.set_faults({});
            world.run_for(50ms);
            world.stop();
            static_cast<void>(world.sync());
            world.run_for(2s);
            oracle.boot_ends(world);
            tally.boot(world);
            medium = world.crash();
        }
        if (oracle.damaged())
            static_cast<void>(judge(Commit::dsync, std::move(medium), oracle, seed));
        tally.end(oracle, "seed " + std::to_string(seed));
    }
    if (count > 20 && tally.result().lost_and_told == 0)
        tally.result().violations.emplace_back(
            "the device never lost anything: nothing was tested");
    return tally.result();
}

namespace {

void damage_records(std::uint64_t pool_bytes, std::uint64_t count, Tally& tally) {
    Oracle before;
    std::vector<std::byte> image;
    queue::Superblock superblock;
    struct Target {
        std::uint64_t offset = 0;
        std::uint32_t bytes = 0;
        std::uint64_t id = 0; // of a message that may be lost with it, otherwise 0
    };
    std::vector<Target> targets;
    {
        SimDiskOptions disk = disk_of(5);
        disk.bytes = pool_bytes;
        World world{disk, small_options()};
        before.boot_begins();
        static_cast<void>(world.open());
        start_deliveries(world, before, {.defer_percent = 60});
        start_clients(world, before, {.large_percent = 3});
        world.run_for(700ms);
        world.stop();
        static_cast<void>(world.sync());
        world.run_for(1s);
        queue::QueueCore& core = queue::QueueProbe::core(*world.queue);
        superblock = core.log().superblock();
        const std::span<const std::byte> bytes = world.disk.bytes();
        for (std::uint32_t slot = 0; slot < superblock.segment_count; ++slot) {
            const std::uint64_t begin = core.log().segments().begin_of(slot);
            const auto scan =
                queue::scan_segment(bytes.subspan(begin, core.log().segments().bytes_of(slot)),
                                    superblock.pool, superblock.shard, slot);
            for (const queue::FoundRecord& record : scan.records) {
                const auto type = static_cast<queue::RecordType>(record.header.type);
                const bool mail = type == queue::RecordType::message ||
                                  type == queue::RecordType::message_commit ||
                                  type == queue::RecordType::body_chunk;
                targets.push_back({begin + record.offset,
                                   queue::record_header_bytes + record.header.payload_bytes,
                                   mail ? record.header.id.value : 0});
            }
        }
        before.boot_ends(world);
        image = world.crash();
    }
    // The checkpoint's end says which slots are free: of what it says of slots that there are.
    const queue::CheckpointPointer& end = superblock.checkpoint;
    const std::uint64_t end_begin =
        (end.slot == 0 ? queue::superblock_area_bytes
                       : std::uint64_t{end.slot} * superblock.segment_bytes) +
        end.offset + queue::record_header_bytes;
    const Target map{end_begin + end.payload_bytes - queue::segment_count_max / 8,
                     (superblock.segment_count + 7) / 8, 0};
    std::mt19937_64 random{1};
    for (std::uint64_t i = 0; i < count && tally.good(); ++i) {
        const Target& target = i % 8 == 0 && end.valid() ? map : targets[random() % targets.size()];
        SimMedium medium{image};
        const std::uint64_t at = target.offset + random() % target.bytes;
        medium.safe[at] = medium.visible[at] ^= std::byte{1} << (random() % 8);
        Oracle oracle = before;
        oracle.damage_done();
        SimDiskOptions disk = disk_of(i);
        disk.bytes = image.size();
        World world{disk, options_of(), std::move(medium)};
        oracle.boot_begins();
        const auto opened = world.open();
        if (!opened || !*opened) {
            oracle.violate(Invariant::damage_stays_local, "refused: " + world.report.problem);
        } else {
            oracle.check_opened(world);
            for (const auto& [id, mail] : oracle.mails()) {
                if (mail.lost && id != target.id)
                    oracle.violate(Invariant::damage_stays_local,
                                   "another message is lost: " + queue::MessageId{id}.to_string());
                if (mail.lost && world.report.records_damaged == 0)
                    oracle.violate(Invariant::acknowledged_survives,
                                   "lost in silence: " + queue::MessageId{id}.to_string());
            }
        }
        oracle.boot_ends(world);
        tally.boot(world);
        tally.end(oracle, "damage " + std::to_string(i));
    }
}

} // namespace

SimResult run_one_damaged_record(std::uint64_t count) {
    Tally tally;
    damage_records(6U << 20, count / 2 + 1, tally);  // mostly in a checkpoint
    damage_records(48U << 20, count / 2 + 1, tally); // all in the log
    return tally.result();
}

} // namespace tests
