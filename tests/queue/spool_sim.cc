#include "tests/queue/spool_sim.h"

#include "queue/superblock_choice.h"
#include "tests/queue/spool_crew.h"
#include "tests/queue/spool_keys.h"
#include "tests/queue/spool_oracle.h"
#include "tests/queue/spool_world.h"

#include <algorithm>
#include <array>
#include <climits>
#include <functional>
#include <optional>
#include <random>
#include <utility>

namespace tests {
namespace {

using namespace std::chrono_literals;
using std::chrono::milliseconds;

constexpr std::uint64_t kib = 1024;

struct Setting {
    SimDiskOptions disk;
    queue::QueueOptions options;
    Mix mix;
    std::size_t ready_max = SIZE_MAX;
    unsigned boots = 3;
    unsigned kill_percent = 0;
    std::uint64_t events_max = 800; // of a boot
    bool media = false;             // the only copy may be damaged
    bool rot = false;               // between boots as well
    bool clock_jumps = false;
    bool early_mail = false; // while recovery goes on
    // Boots from which mail is encrypted, and from which under a new key; not within the run: never.
    unsigned encrypted_from = UINT_MAX;
    unsigned rotated_from = UINT_MAX;
    bool by_flush = false; // strategy B
    // Two halves. What damages bytes happens on one of them, always the same; it never refuses on the other one.
    bool mirrored = false;
    std::optional<unsigned> rotten;
    std::chrono::seconds retry{30};
    std::uint64_t copy_bytes_per_s = 0;
    unsigned missing_percent = 0; // of boots without one of them
    unsigned failing_percent = 0; // of boots in which one of them begins to refuse
    unsigned hanging_percent = 0; // of boots in which one of them does not answer for a while
    milliseconds answer_limit = queue::MirrorOptions{}.answer_limit;
    milliseconds read_limit = queue::MirrorOptions{}.read_limit;
    unsigned stale_percent = 0; // of boots between which the one that rots goes back in a part
};

template <class T>
T pick(std::mt19937_64& random, std::initializer_list<T> from) {
    return from.begin()[random() % from.size()];
}

bool chance(std::mt19937_64& random, unsigned percent) {
    return random() % 100 < percent;
}

void draw_media(Setting& setting, std::mt19937_64& random) {
    setting.media = true;
    SimDiskFaults& faults = setting.disk.faults;
    for (unsigned count = 1 + random() % 2; count > 0; --count) {
        const auto rate = pick<unsigned>(random, {20, 60, 200});
        switch (random() % 6) {
        case 0:
            faults.misdirected = rate;
            break;
        case 1:
            faults.write_flipped = rate;
            break;
        case 2:
            faults.read_flipped = rate;
            break;
        case 3:
            faults.block_unreadable = rate;
            break;
        case 4:
            faults.lied = rate;
            break;
        case 5:
            setting.rot = true;
            break;
        }
    }
}

Setting draw(std::uint64_t seed, std::mt19937_64& random, Devices devices) {
    Setting setting;
    {
        queue::QueueOptions& options = setting.options;
        const auto granules = pick<std::uint32_t>(random, {4, 4, 8, 12, 16});
        options.segment_bytes = granules * queue::segment_granule;
        options.resident_bytes_max = pick<std::uint32_t>(random, {1U << 20, 8U << 20});
        options.checkpoint_bytes = pick<std::uint64_t>(random, {64 * kib, 256 * kib, 1 << 30});
        options.recovery_wait = pick(random, {milliseconds{0}, milliseconds{500}});
    }
    std::uint64_t segments = 12 + random() % 6;
    Mix& mix = setting.mix;
    mix.seed = seed;
    mix.writers = 1 + random() % 12;
    mix.deliverers = 1 + random() % 3;
    mix.small_bytes_max = pick<std::size_t>(random, {100, 4000, 12'000});
    mix.large_percent = pick<std::size_t>(random, {0, 0, 3, 10});
    mix.many_percent = pick<std::size_t>(random, {0, 0, 0, 3});
    mix.defer_percent = random() % 40;
    mix.park_percent = pick<std::size_t>(random, {0, 10});
    mix.hold_percent = pick<std::size_t>(random, {0, 0, 5});
    mix.bounce_percent = pick<std::size_t>(random, {0, 10});
    mix.cancel_percent = pick<std::size_t>(random, {0, 0, 10});
    mix.drop_percent = pick<std::size_t>(random, {0, 5});
    mix.sync_every = pick(random, {20ms, 60ms, 300ms});
    mix.operate = random() % 2 == 0;
    mix.defer_max = pick<base::Duration>(random, {2s, 200s, 3600s});
    if (random() % 3 == 0) mix.pause_max = 100ms;
    if (random() % 12 == 0) { // enough that checkpoints have segments of their own
        setting.options.segment_bytes = 256 * kib;
        segments = queue::side_segments_apart_min + random() % 4;
        setting.events_max = 2000;
    }
    if (random() % 25 == 0) {
        setting.options.segment_bytes = 1024 * kib;
        segments = 24;
        mix.large_percent = 20;
        mix.large_bytes_max = 4 << 20;
        mix.writers = std::min<std::size_t>(mix.writers, 4);
    }
    setting.ready_max = pick<std::size_t>(random, {SIZE_MAX, SIZE_MAX, 1, 20});
    setting.early_mail = random() % 3 == 0;
    setting.boots = 2 + random() % 3;
    setting.kill_percent = pick<unsigned>(random, {0, 30});
    setting.disk.bytes = segments * setting.options.segment_bytes;
    setting.disk.latency_max = pick<base::Duration>(random, {200us, 2ms, 2ms, 30ms});
    SimDiskFaults& faults = setting.disk.faults;
    if (random() % 4 == 0) {
        faults.slow = pick<unsigned>(random, {10, 50});
        faults.slow_max = pick<base::Duration>(random, {50ms, 2s, 60s});
    }
    switch (seed % 10) {
    case 6:
    case 7:
        draw_media(setting, random);
        break;
    case 8: // a full disk: nothing leaves for a while
        mix.stall = pick<base::Duration>(random, {500ms, 2s});
        mix.writers = 12;
        mix.pause_max = 2ms;
        mix.large_percent = 5;
        setting.events_max = 4000;
        break;
    case 9:
        setting.clock_jumps = true;
        break;
    default:
        if (random() % 2 == 0) faults.write_refused = pick<unsigned>(random, {10, 50, 200});
        break;
    }
    // Drawn apart, so that a seed is otherwise what it was.
    std::mt19937_64 keys{seed ^ 0x6B657973};
    if (keys() % 4 == 0) {
        setting.encrypted_from = static_cast<unsigned>(keys() % 2);
        setting.rotated_from = 1 + static_cast<unsigned>(keys() % 4);
    }
    std::mt19937_64 commits{seed ^ 0x666C757368};
    if (commits() % 3 == 0) {
        setting.by_flush = true;
        const auto refused = pick<unsigned>(commits, {0, 50, 300});
        if (!setting.media) faults.flush_refused = refused;
    }
    std::mt19937_64 writes{seed ^ 0x777269746573};
    if (writes() % 3 == 0) {
        queue::WriteBounds& bounds = setting.options.writes;
        bounds.batch_bytes =
            pick<std::uint32_t>(writes, {queue::block_bytes, 2 * queue::block_bytes, 16 * kib,
                                         64 * kib, 256 * kib, queue::batch_bytes_max});
        bounds.buffers = pick<std::size_t>(writes, {2, 2, 3, 4, 8, 16});
        bounds.natural_in_flight = pick<unsigned>(writes, {1, 1, 2, 4, 16});
    }
    if (devices == Devices::two) {
        std::mt19937_64 halves{seed ^ 0x68616C766573};
        setting.mirrored = true;
        if (setting.media) {
            setting.rotten = static_cast<unsigned>(halves() % 2);
            setting.stale_percent = pick<unsigned>(halves, {0, 50});
        }
        setting.retry = pick<std::chrono::seconds>(halves, {1s, 2s, 30s});
        setting.copy_bytes_per_s = pick<std::uint64_t>(halves, {4 << 20, 64 << 20, 1 << 30});
        setting.missing_percent = pick<unsigned>(halves, {0, 0, 30});
        setting.failing_percent = pick<unsigned>(halves, {0, 40, 80});
        std::mt19937_64 hangs{seed ^ 0x68616E6773};
        setting.hanging_percent = pick<unsigned>(hangs, {0, 40, 80});
        if (setting.hanging_percent != 0) {
            // A boot here lasts for seconds only.
            setting.answer_limit = pick<milliseconds>(hangs, {40ms, 400ms, 4s, 30s});
            setting.read_limit = pick<milliseconds>(hangs, {10ms, 300ms, 5s});
            if (setting.rotten) { // the other one keeps these
                setting.answer_limit = 400ms;
                setting.read_limit = 300ms;
            }
        }
    }
    return setting;
}

/// The record that says which slots are free.
void rot_checkpoint(SimMedium& medium, std::mt19937_64& random) {
    const auto choice =
        queue::choose_superblock(std::span<const std::byte>{medium.visible}
                                     .first<queue::superblock_copies * queue::block_bytes>());
    if (!choice.newest || !choice.newest->checkpoint.valid()) return;
    const queue::CheckpointPointer& end = choice.newest->checkpoint;
    const std::uint64_t begin = end.slot == 0
                                    ? queue::superblock_area_bytes
                                    : std::uint64_t{end.slot} * choice.newest->segment_bytes;
    // Mostly of slots that there are: the map has room for many more.
    constexpr std::uint64_t map_bytes = queue::segment_count_max / 8;
    const std::uint64_t map =
        end.payload_bytes - std::min<std::uint64_t>(map_bytes, end.payload_bytes);
    for (int bits = 0; bits < 4; ++bits) {
        const std::uint64_t in_payload = bits != 0
                                             ? map + random() % choice.newest->segment_count / 8
                                             : random() % end.payload_bytes;
        const std::uint64_t at = begin + end.offset + queue::record_header_bytes + in_payload;
        if (at < medium.visible.size()) medium.visible[at] ^= std::byte{1} << (random() % 8);
    }
    medium.safe = medium.visible;
}

/// What lies about for years: flipped bits, blocks that are gone or cannot be read.
void rot(SimMedium& medium, std::mt19937_64& random) {
    if (random() % 3 == 0) return rot_checkpoint(medium, random);
    for (std::uint64_t count = 1 + random() % 6; count > 0; --count) {
        // Most of a pool is zeros: look for a place that matters.
        std::uint64_t at = 0;
        for (int tries = 0; tries < 50; ++tries) {
            at = random() % medium.visible.size();
            if (medium.visible[at] != std::byte{0}) break;
        }
        const std::uint64_t block = at / queue::block_bytes * queue::block_bytes;
        switch (random() % 4) {
        case 0:
            medium.unreadable.insert(block / queue::block_bytes);
            break;
        case 1:
            std::fill_n(medium.visible.begin() + static_cast<std::ptrdiff_t>(block),
                        queue::block_bytes, std::byte{0});
            break;
        default:
            medium.visible[at] ^= std::byte{1} << (random() % 8);
            break;
        }
    }
    medium.safe = medium.visible;
}

/// A part of it is as it was a boot ago, whole and wrong: writes that never arrived.
void go_back(SimMedium& medium, const std::vector<std::byte>& earlier, std::mt19937_64& random) {
    const std::uint64_t blocks = medium.visible.size() / queue::block_bytes;
    const bool superblocks = random() % 3 == 0;
    const std::uint64_t first = superblocks ? 0 : random() % blocks;
    const std::uint64_t count =
        superblocks ? queue::superblock_copies : std::min(blocks - first, 1 + random() % 64);
    std::copy_n(earlier.begin() + static_cast<std::ptrdiff_t>(first * queue::block_bytes),
                count * queue::block_bytes,
                medium.visible.begin() + static_cast<std::ptrdiff_t>(first * queue::block_bytes));
    medium.safe = medium.visible;
}

class Run {
public:
    Run(std::uint64_t seed, Devices devices)
        : random_(seed), halves_(seed ^ 0x6D6972726F72), hangs_(seed ^ 0x73696C656E74),
          setting_(draw(seed, random_, devices)), seed_(seed) {}

    SimResult run() {
        for (unsigned boot = 0; boot < setting_.boots && going(); ++boot)
            live();
        if (going()) last();
        result_.violations = oracle_.violations();
        result_.acknowledged = oracle_.acknowledged_count();
        result_.lost_and_told = oracle_.lost_count();
        return result_;
    }

private:
    [[nodiscard]] bool going() const noexcept { return oracle_.good() && !refused_; }

    std::unique_ptr<World> begin(bool whole) {
        oracle_.boot_begins();
        if (std::exchange(replace_, false)) {
            media_[*setting_.rotten] = {};
            created_[*setting_.rotten] = true;
        }
        if (std::exchange(begin_anew_, false)) {
            media_ = {};
            created_ = {true, true};
        }
        const std::uint64_t number = seed_ * 64 + result_.boots++;
        queue::QueueOptions options = setting_.options;
        if (result_.boots > setting_.encrypted_from)
            options.keys = spool_keys(seed_, result_.boots > setting_.rotated_from, result_.boots);
        auto world =
            std::make_unique<World>(half_options(0, number), options, std::move(media_[0]), wall_);
        world->ready_max = setting_.ready_max;
        if (setting_.by_flush) world->commit_by_flush();
        if (setting_.mirrored) add_twin(*world, number, whole);
        media_ = {};
        return world;
    }

    [[nodiscard]] SimDiskOptions half_options(unsigned side, std::uint64_t number) const {
        SimDiskOptions disk = setting_.disk;
        disk.seed = side == 0 ? number : ~number;
        if (!setting_.rotten || setting_.rotten == side) return disk;
        // Nor must it be left behind: what has rotted on the other would be the only copy.
        const base::Duration patience =
            std::min(setting_.answer_limit / 4, setting_.read_limit / 3);
        disk.faults = {.slow = disk.faults.slow,
                       .slow_max = std::min(disk.faults.slow_max, patience)};
        return disk;
    }

    void add_twin(World& world, std::uint64_t number, bool whole) {
        Twin twin{.disk = half_options(1, number), .medium = std::move(media_[1])};
        twin.created = created_;
        twin.rotten = setting_.rotten;
        twin.retry = setting_.retry;
        twin.copy_bytes_per_s = setting_.copy_bytes_per_s;
        twin.answer_limit = setting_.answer_limit;
        twin.read_limit = setting_.read_limit;
        missing_ = !whole && chance(halves_, setting_.missing_percent);
        if (missing_) twin.present[setting_.rotten.value_or(halves_() % 2)] = false;
        created_ = {};
        world.add_twin(std::move(twin));
    }

    void end(World& world, bool kill) {
        oracle_.boot_ends(world);
        note(world.disk.event_count());
        note(world.clock.now().time_since_epoch().count());
        result_.operations += world.operation_count();
        result_.unanswered += world.unanswered;
        wall_ = world.loop.wall_now() + milliseconds{random_() % 10'000};
        if (setting_.clock_jumps && random_() % 2 == 0) {
            const auto by = std::chrono::hours{random_() % 100};
            wall_ += random_() % 3 == 0 ? -by : by;
        }
        media_ = world.end_both(kill);
        killed_ = kill;
        if (setting_.stale_percent != 0) {
            SimMedium& medium = media_[*setting_.rotten];
            if (!earlier_.empty() && chance(halves_, setting_.stale_percent))
                go_back(medium, earlier_, halves_);
            earlier_ = medium.visible;
        }
        if (!setting_.rot || random_() % 2 == 0) return;
        rot(media_[setting_.rotten.value_or(0)], random_);
        if (!setting_.mirrored) oracle_.damage_done();
    }

    void note(std::uint64_t fact) noexcept {
        result_.trace = (result_.trace ^ fact) * 0x100000001b3ULL;
    }

    [[nodiscard]] bool device_refuses() const noexcept {
        return setting_.disk.faults.write_refused != 0 || setting_.disk.faults.flush_refused != 0;
    }
    /// Whether the boot may fail without anything being wrong with the queue.
    [[nodiscard]] bool excused(const World& world) const {
        return device_refuses() || flush_fails_ || oracle_.damaged() || world.damage_count() != 0;
    }

    /// Some starts are refused rightly; then the operator does what the text says.
    void mirror_refused(World& world) {
        // It is back, or works, at the next start.
        const bool silent = world.report.problem.find("did not answer") != std::string::npos;
        if (missing_ || silent || flush_fails_) return;
        if (setting_.rotten) { // a half whose record of the mirror has gone is made anew
            replace_ = true;
            return;
        }
        if (device_refuses()) return;
        oracle_.violate(Invariant::any_image_opens_or_refuses,
                        "the mirror does not open: " + world.report.problem);
    }

    /// False when this boot is over already.
    bool open(World& world, bool may_stop) {
        flush_fails_ = killed_ && may_stop && chance(random_, 30) && !setting_.rotten;
        if (flush_fails_) world.fail_flushes(1);
        const auto opened = world.open_early();
        if (!opened) return false;
        if (world.mirror_refused) {
            mirror_refused(world);
            return false;
        }
        bool good = opened->has_value();
        const bool early = good && may_stop && setting_.early_mail && !flush_fails_;
        if (good) {
            if (early) start_clients(world, oracle_, setting_.mix);
            const auto recovered = world.recover();
            if (!recovered) return false;
            good = recovered->has_value() && world.report.problem.empty();
            if (early) world.stop(); // judged at rest; they come again afterwards
        }
        if (world.disk.stopped()) return false;
        if (good && flush_fails_)
            oracle_.violate(Invariant::acknowledged_survives, "opened although the flush failed");
        if (!good) {
            // A half that was damaged before there was any mail leaves nothing to go on from.
            if (setting_.rotten && oracle_.acknowledged_count() == 0) {
                begin_anew_ = true;
                return false;
            }
            if (!excused(world))
                oracle_.violate(Invariant::any_image_opens_or_refuses,
                                "does not open: " + world.report.problem);
            const bool damaged = oracle_.damaged() || world.damage_count() != 0;
            if (damaged && world.report.problem.empty())
                oracle_.violate(Invariant::any_image_opens_or_refuses,
                                "does not open, and does not say why");
            refused_ = damaged; // told: the operator has it now
            return false;
        }
        world.stop_after_events(SimDisk::always);
        if (world.damage_count() != 0) oracle_.damage_done();
        oracle_.check_opened(world);
        oracle_.check_disk(world, !early);
        if (!early) oracle_.check_accounting(world);
        note(world.report.messages_recovered);
        return going();
    }

    void live() {
        const auto owned = begin(false);
        World& world = *owned;
        if (chance(random_, 30)) world.stop_after_events(random_() % 120);
        hang_half(world);
        if (open(world, true)) {
            start_deliveries(world, oracle_, setting_.mix);
            start_clients(world, oracle_, setting_.mix);
            world.stop_after_events(world.disk.event_count() + 1 + random_() % setting_.events_max);
            if (setting_.mirrored) fail_half(world);
            if (setting_.clock_jumps) {
                static_cast<void>(world.run_until([&] { return world.disk.stopped(); }, 100ms));
                const auto by = std::chrono::hours{random_() % 60};
                world.clock.step_wall(random_() % 2 == 0 ? -by : by);
            }
            // Often the end comes right after a refused write, while what it failed is still being mended.
            const std::uint64_t hurry = random_() % 2 == 0 ? 1 + random_() % 6 : 0;
            bool hurried = false;
            const auto over = [&] {
                if (hurry != 0 && !hurried && world.queue->counters().write_errors != 0) {
                    hurried = true;
                    world.stop_after_events(world.disk.event_count() + hurry);
                }
                return world.disk.stopped();
            };
            static_cast<void>(world.run_until(over, 5s));
            if (!world.disk.stopped() && chance(random_, 40) && close(world)) return;
        }
        // What a refused flush has dropped can still be read until the power goes: a start without that in
        // between cannot know.
        const bool kill = !flush_fails_ && chance(random_, setting_.kill_percent);
        end(world, kill && world.refused_flush_count() == 0);
    }

    /// An orderly end.
    bool close(World& world) {
        world.stop();
        world.stop_after_events(SimDisk::always);
        auto closed = world.run(world.queue->close(base::Deadline::in(world.loop, 600s)));
        if (!closed) return false;
        if (world.mirror) world.run(close_mirror(world.mirror.get()));
        if (setting_.disk.faults.lied == 0 || setting_.mirrored) oracle_.closed_cleanly();
        end(world, false);
        return true;
    }

    /// One of the halves begins to refuse writes: soon, for a while or for good.
    void fail_half(World& world) {
        if (!chance(halves_, setting_.failing_percent)) return;
        const auto count = pick<std::uint64_t>(halves_, {1, 3, 100, SimDisk::always});
        const auto side = setting_.rotten.value_or(halves_() % 2);
        const auto fault = static_cast<SimDisk::Fault>(halves_() % 4);
        world.half(side).fail_writes(fault, count, halves_() % 100);
    }

    /// One of the halves does not answer for a while: at the start, or while there is mail.
    void hang_half(World& world) {
        if (!setting_.mirrored || !chance(hangs_, setting_.hanging_percent)) return;
        const auto after = pick<base::Duration>(hangs_, {0ms, 10ms, 100ms, 600ms});
        const auto time = pick<base::Duration>(hangs_, {50ms, 1s, 20s, 100s});
        SimDisk& half = world.half(setting_.rotten.value_or(hangs_() % 2));
        world.loop.spawn(World::hang(&world.loop, &half, after, time), "a half that hangs");
    }

    static base::Task<int> close_mirror(queue::MirrorDisk* mirror) {
        co_await mirror->close();
        co_return 0;
    }

    /// Faults are over: everything that is left is delivered, and then it is gone.
    void last() {
        setting_.disk.faults = {};
        setting_.ready_max = SIZE_MAX;
        Mix& mix = setting_.mix;
        mix.defer_percent = mix.park_percent = mix.hold_percent = 0;
        mix.stall = {};
        mix.operate = false;
        mix.sync_every = 24h;
        {
            const auto owned = open_whole();
            if (!owned) return;
            World& world = *owned;
            start_deliveries(world, oracle_, mix);
            const auto empty = [&] { return world.queue->counters().queued_messages == 0; };
            if (!world.run_until(empty, oracle_.damaged() ? 48h : 24h * 60)) give_up(world);
            oracle_.check_drained(world);
            take_mail_again(world);
            if (!going()) return;
            world.run_for(1s);
            oracle_.check_accounting(world);
            oracle_.check_disk(world, true);
            if (!close(world)) {
                if (!oracle_.damaged() && !worn(world)) // else it says that it could not
                    oracle_.violate(Invariant::everything_ends, "does not close");
                return;
            }
        }
        const auto owned = open_whole();
        if (!owned) return;
        World& world = *owned;
        if (world.queue->counters().queued_messages != 0 && !oracle_.damaged())
            oracle_.violate(Invariant::done_stays_done, "something is back after an orderly end");
        start_deliveries(world, oracle_, mix);
        world.run_for(3s);
        check_leak(world);
        oracle_.boot_ends(world);
        note(world.disk.event_count());
    }

    /// Null: it did not open.
    std::unique_ptr<World> open_whole() {
        auto world = begin(true);
        bool opened = open(*world, false);
        if (replace_ || begin_anew_) {
            end(*world, false);
            world = begin(true);
            opened = open(*world, false);
        }
        if (!opened) world = nullptr;
        return world;
    }

    /// What cannot be read is for people; nothing else may be left.
    void give_up(World& world) {
        std::vector<queue::EntryRef> left;
        world.queue->for_each({}, [&](queue::EntryRef ref, const queue::Entry& entry) {
            const std::string error{world.queue->index().error(entry)};
            const bool told =
                oracle_.damaged() && (entry.state == queue::EntryState::damaged ||
                                      error.find("disk") != std::string::npos ||
                                      error.find("cannot be read") != std::string::npos);
            if (!told && !worn(world))
                oracle_.violate(Invariant::everything_ends,
                                "stays queued: " + entry.id.to_string());
            left.push_back(ref);
            return true;
        });
        for (const queue::EntryRef ref : left) {
            oracle_.settled(world.queue->index()[ref].id);
            static_cast<void>(world.queue->remove(ref));
        }
    }

    /// After the worst, with an empty queue, there is room and mail gets through.
    void take_mail_again(World& world) {
        if (!going()) return;
        Letter letter;
        letter.body = "still accepting\r\n";
        queue::SpoolResult<queue::MessageRef> sent = std::unexpected(queue::SpoolError::full);
        for (int tries = 0; !sent && tries < 120; ++tries) { // as a client would
            if (tries != 0) world.run_for(1s);
            sent = world.run(send(&world, &oracle_, letter));
        }
        if (!sent) {
            const auto counters = world.queue->counters();
            if (!oracle_.damaged() && !worn(world))
                oracle_.violate(
                    Invariant::full_disk_goes_on,
                    "an empty queue does not take mail: " + std::string{to_string(sent.error())} +
                        ", " + std::to_string(counters.segments_free) + " of " +
                        std::to_string(counters.segments_total) + " segments are free");
            return;
        }
        const auto empty = [&] { return world.queue->counters().queued_messages == 0; };
        if (!world.run_until(empty, 1h))
            oracle_.violate(Invariant::everything_ends, "the last message stays");
    }

    /// Bad places have left less than a pool may have.
    [[nodiscard]] static bool worn(World& world) {
        const auto counters = world.queue->counters();
        return counters.segments_total - counters.segments_bad < queue::segment_count_min;
    }

    void check_leak(World& world) {
        if (oracle_.damaged()) return;
        // The log's, the checkpoint's with the one before it, the collector's, and what died since.
        constexpr std::uint64_t in_use_max = 5;
        const auto counters = world.queue->counters();
        if (counters.segments_free + counters.segments_bad + in_use_max < counters.segments_total)
            oracle_.violate(Invariant::accounting_agrees,
                            std::to_string(counters.segments_free) + " of " +
                                std::to_string(counters.segments_total) +
                                " segments are free in an empty spool");
    }

    std::mt19937_64 random_;
    std::mt19937_64 halves_; // drawn apart, so that a seed without them is otherwise what it was
    std::mt19937_64 hangs_;  // and these as well
    Setting setting_;
    std::uint64_t seed_;
    Oracle oracle_;
    SimResult result_;
    std::array<SimMedium, 2> media_;
    base::WallTime wall_ = base::ManualClock{}.wall_now();
    bool killed_ = false;
    bool flush_fails_ = false;
    bool refused_ = false;
    std::array<bool, 2> created_{true, true};
    bool missing_ = false; // a half, at this boot
    bool replace_ = false; // the half that rots, before the next one
    bool begin_anew_ = false;
    std::vector<std::byte> earlier_; // what it held a boot ago
};

} // namespace

void SimResult::add(const SimResult& other) {
    violations.insert(violations.end(), other.violations.begin(), other.violations.end());
    boots += other.boots;
    operations += other.operations;
    acknowledged += other.acknowledged;
    lost_and_told += other.lost_and_told;
    unanswered += other.unanswered;
}

SimResult run_spool_seed(std::uint64_t seed, Devices devices) {
    return Run{seed, devices}.run();
}

} // namespace tests
