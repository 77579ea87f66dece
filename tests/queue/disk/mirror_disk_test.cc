// mirror_disk_test.cc: two disks as one: what was acknowledged is there, whichever of them fails when.
//
// SPOOL_SEEDS sets how many random lives there are, SPOOL_SEED the first one's seed.
#include "queue/codec.h"
#include "queue/disk/flush_disk.h"
#include "queue/disk/mirror_disk.h"
#include "tests/support/sim_disk.h"
#include "tests/support/sim_net.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <string>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using tests::SimDisk;
using tests::SimDiskOptions;
using State = MirrorRecord::State;
namespace base = dataplane::base;

constexpr std::uint64_t disk_bytes = 1 << 20;
constexpr std::uint64_t first_free = 64 << 10; // behind the superblocks' area

using Images = std::array<tests::SimMedium, 2>;

Images blank() {
    return {std::vector<std::byte>(disk_bytes), std::vector<std::byte>(disk_bytes)};
}

struct Boot {
    Boot(Images images, std::uint64_t seed, bool flushing = false)
        : disks{SimDisk{loop, SimDiskOptions{.bytes = disk_bytes, .seed = seed}, images[0]},
                SimDisk{loop, SimDiskOptions{.bytes = disk_bytes, .seed = seed + 7919}, images[1]}},
          flushes{FlushDisk{loop, disks[0]}, FlushDisk{loop, disks[1]}}, by_flush(flushing) {}
    ~Boot() { loop.drop_tasks(); }

    Disk& side(unsigned index) {
        return by_flush ? static_cast<Disk&>(flushes[index]) : disks[index];
    }
    /// Nothing: the disks stopped before it was open.
    std::optional<std::expected<void, std::string>>
    open(std::array<bool, 2> present, std::array<bool, 2> created, MirrorOptions options = {}) {
        using Opened = std::expected<std::unique_ptr<MirrorDisk>, std::string>;
        std::optional<Opened> opened;
        std::array<MirrorSide, 2> sides;
        for (unsigned i = 0; i < 2; ++i)
            if (present[i]) sides[i] = {&side(i), created[i]};
        options.retry = std::max(options.retry, 1s);
        options.fresh_pair = {std::byte{1}, std::byte{2}};
        options.pool_of = pool_of_superblock;
        if (!options.report)
            options.report = [this](MirrorState state, const std::string& text) {
                reports.emplace_back(state, text);
            };
        auto opening = [](base::Loop* to, std::array<MirrorSide, 2> two, MirrorOptions* with,
                          std::optional<Opened>* out) -> base::Task<void> {
            auto result = co_await MirrorDisk::open(*to, two, std::move(*with));
            out->emplace(std::move(result));
        };
        base::Task<void> task = opening(&loop, sides, &options, &opened);
        task.start();
        run([&] { return opened.has_value(); });
        if (!opened) return std::nullopt;
        if (!*opened) return std::unexpected(opened->error());
        mirror = std::move(**opened);
        return std::expected<void, std::string>{};
    }
    void run(const std::function<bool()>& done, base::Duration limit = 100s) {
        static_cast<void>(tests::run_until(loop, clock, done, limit));
    }
    bool write(std::uint64_t offset, std::byte value) {
        BlockMemory block{block_bytes};
        std::ranges::fill(block.span(), value);
        return tests::run(loop, clock, mirror->write(offset, block.span(), Durable::yes))
            .has_value();
    }
    /// The byte that fills the block, or nothing when it cannot be read or is mixed.
    std::optional<std::byte> read(std::uint64_t offset, unsigned copy = 0) {
        BlockMemory block{block_bytes};
        auto read = copy == 0
                        ? tests::run(loop, clock, mirror->read(offset, block.span()))
                        : tests::run(loop, clock, mirror->read_copy(copy, offset, block.span()));
        if (!read) return std::nullopt;
        const std::byte first = block.span()[0];
        if (!std::ranges::all_of(block.span(), [&](std::byte b) { return b == first; }))
            return std::nullopt;
        return first;
    }
    void close() {
        auto closing = [](MirrorDisk* to) -> base::Task<int> {
            co_await to->close();
            co_return 0;
        };
        static_cast<void>(tests::run(loop, clock, closing(mirror.get())));
    }
    Images crash() {
        Images images{disks[0].crash(), disks[1].crash()};
        return images;
    }

    base::ManualClock clock;
    base::Loop loop{clock};
    std::vector<std::pair<MirrorState, std::string>> reports;
    std::array<SimDisk, 2> disks;
    std::array<FlushDisk, 2> flushes;
    bool by_flush;
    std::unique_ptr<MirrorDisk> mirror;
};

constexpr std::array<bool, 2> both{true, true};
constexpr std::array<bool, 2> neither{false, false};

TEST(MirrorDisk, WriteIsOnBothWhenItSucceeds) {
    Boot boot(blank(), 1);
    ASSERT_TRUE(boot.open(both, both)->has_value());
    ASSERT_TRUE(boot.write(first_free, std::byte{7}));
    const Images images = boot.crash();
    for (unsigned side = 0; side < 2; ++side)
        EXPECT_EQ(images[side].safe[first_free], std::byte{7}) << side;
}

TEST(MirrorDisk, ReadThatOneHalfRefusesComesFromTheOther) {
    Boot boot(blank(), 2);
    ASSERT_TRUE(boot.open(both, both)->has_value());
    ASSERT_TRUE(boot.write(first_free, std::byte{9}));
    boot.disks[0].fail_reads(1);
    EXPECT_EQ(boot.read(first_free), std::byte{9});
    EXPECT_EQ(boot.mirror->rescued_reads(), 1U);
    EXPECT_EQ(boot.mirror->state(), MirrorState::whole); // one block is no reason to go without it
}

TEST(MirrorDisk, OtherCopyIsReadWhenTheFirstHasRotted) {
    Boot boot(blank(), 3);
    ASSERT_TRUE(boot.open(both, both)->has_value());
    ASSERT_TRUE(boot.write(first_free, std::byte{9}));
    boot.disks[0].bytes()[first_free + 100] = std::byte{0};
    EXPECT_EQ(boot.read(first_free), std::nullopt);
    EXPECT_EQ(boot.read(first_free, 1), std::byte{9});
}

TEST(MirrorDisk, HalfThatRefusesAWriteIsLeftBehindAndGivenEverythingAgain) {
    Boot boot(blank(), 4);
    ASSERT_TRUE(boot.open(both, both)->has_value());
    ASSERT_TRUE(boot.write(first_free, std::byte{1}));
    boot.disks[1].fail_writes(SimDisk::Fault::io, 1);
    ASSERT_TRUE(boot.write(first_free + block_bytes, std::byte{2}));
    ASSERT_FALSE(boot.reports.empty());
    EXPECT_EQ(boot.reports[0].first, MirrorState::degraded);
    EXPECT_NE(boot.reports[0].second.find("mirror_dir"), std::string::npos);
    boot.run([&] { return boot.reports.back().first == MirrorState::whole; });
    EXPECT_EQ(boot.mirror->state(), MirrorState::whole);
    EXPECT_EQ(boot.read(first_free, 1), std::byte{1});
    EXPECT_EQ(boot.read(first_free + block_bytes, 1), std::byte{2});
}

TEST(MirrorDisk, FirstHalfMayBeTheOneThatIsLeftBehind) {
    Boot boot(blank(), 5);
    ASSERT_TRUE(boot.open(both, both)->has_value());
    boot.disks[0].fail_writes(SimDisk::Fault::io, SimDisk::always);
    ASSERT_TRUE(boot.write(first_free, std::byte{3}));
    EXPECT_EQ(boot.mirror->state(), MirrorState::degraded);
    EXPECT_EQ(boot.read(first_free), std::byte{3}); // from the second, which counts now
    Boot again(boot.crash(), 50);
    ASSERT_TRUE(again.open(both, neither)->has_value());
    EXPECT_EQ(again.read(first_free), std::byte{3});
    again.run([&] { return again.mirror->state() == MirrorState::whole; });
    EXPECT_EQ(again.read(first_free, 1), std::byte{3});
}

TEST(MirrorDisk, WriteFailsWhenBothHalvesRefuseIt) {
    Boot boot(blank(), 6);
    ASSERT_TRUE(boot.open(both, both)->has_value());
    boot.disks[0].fail_writes(SimDisk::Fault::io, 1);
    boot.disks[1].fail_writes(SimDisk::Fault::io, 1);
    EXPECT_FALSE(boot.write(first_free, std::byte{3}));
    EXPECT_EQ(boot.mirror->state(), MirrorState::whole);
    EXPECT_TRUE(boot.write(first_free + block_bytes, std::byte{4}));
}

TEST(MirrorDisk, StaleHalfAloneIsRefusedWithARemedyUnlessTold) {
    Boot boot(blank(), 7);
    ASSERT_TRUE(boot.open(both, both)->has_value());
    boot.disks[0].fail_writes(SimDisk::Fault::io, SimDisk::always);
    ASSERT_TRUE(boot.write(first_free, std::byte{3}));
    const Images images = boot.crash();
    {
        Boot stale(images, 70);
        const auto opened = stale.open({true, false}, neither);
        ASSERT_FALSE(opened->has_value());
        EXPECT_NE(opened->error().find("mirror_alone"), std::string::npos);
    }
    {
        Boot newer(images, 71); // it has written down that it is alone
        EXPECT_TRUE(newer.open({false, true}, neither)->has_value());
        EXPECT_EQ(newer.read(first_free), std::byte{3});
    }
    Boot told(images, 72);
    EXPECT_TRUE(told.open({true, false}, neither, {.told = true})->has_value());
}

TEST(MirrorDisk, CleanEndNeedsNoCopyingAndACrashDoes) {
    Images images = blank();
    {
        Boot boot(images, 8);
        ASSERT_TRUE(boot.open(both, both)->has_value());
        boot.close();
        EXPECT_FALSE(boot.write(first_free, std::byte{1})) << "the records say that nothing came";
        images = boot.crash();
    }
    {
        Boot boot(images, 80);
        ASSERT_TRUE(boot.open(both, neither)->has_value());
        boot.run([] { return false; }, 1s);
        EXPECT_EQ(boot.mirror->copied_bytes(), 0U);
        images = boot.crash();
    }
    Boot boot(images, 81);
    ASSERT_TRUE(boot.open(both, neither)->has_value());
    boot.run([] { return false; }, 1s);
    EXPECT_GE(boot.mirror->copied_bytes(), disk_bytes - 2 * block_bytes);
}

TEST(MirrorDisk, HalfThatWasReplacedByAnEmptyOneIsFilled) {
    Images images = blank();
    {
        Boot boot(images, 9);
        ASSERT_TRUE(boot.open(both, both)->has_value());
        ASSERT_TRUE(boot.write(first_free, std::byte{5}));
        images = boot.crash();
    }
    images[0] = blank()[0];
    Boot boot(images, 90);
    ASSERT_TRUE(boot.open(both, {true, false})->has_value());
    EXPECT_EQ(boot.read(first_free), std::byte{5});
    boot.run([&] { return boot.mirror->state() == MirrorState::whole; });
    EXPECT_EQ(boot.read(first_free, 1), std::byte{5});
}

TEST(MirrorDisk, CopyingKeepsToItsRate) {
    Images images = blank();
    {
        Boot first(images, 10);
        ASSERT_TRUE(first.open(both, both)->has_value());
        images = first.crash();
    }
    Boot boot(images, 100);
    ASSERT_TRUE(boot.open(both, {false, true}, {.copy_bytes_per_s = 1 << 20})->has_value());
    boot.run([] { return false; }, 300ms);
    EXPECT_LT(boot.mirror->copied_bytes(), disk_bytes);
    boot.run([&] { return boot.mirror->state() == MirrorState::whole; });
    EXPECT_GE(boot.loop.now().time_since_epoch() - base::ManualClock{}.now().time_since_epoch(),
              500ms);
}

TEST(MirrorDisk, SourceThatRefusesAtTheStartIsLeftBehind) {
    Images images = blank();
    {
        Boot boot(images, 11);
        ASSERT_TRUE(boot.open(both, both)->has_value());
        ASSERT_TRUE(boot.write(first_free, std::byte{5}));
        images = boot.crash();
    }
    Boot boot(images, 110);
    boot.disks[0].fail_writes(SimDisk::Fault::io, SimDisk::always);
    ASSERT_TRUE(boot.open(both, neither)->has_value());
    EXPECT_EQ(boot.mirror->state(), MirrorState::degraded);
    EXPECT_EQ(boot.read(first_free), std::byte{5});
    EXPECT_TRUE(boot.write(first_free + block_bytes, std::byte{6}));
}

TEST(MirrorDisk, StartAfterACrashNeedsAHalfThatCanBeFlushed) {
    Images images = blank();
    {
        Boot boot(images, 12);
        ASSERT_TRUE(boot.open(both, both)->has_value());
        images = boot.crash();
    }
    {
        Boot neither_can(images, 120);
        neither_can.disks[0].fail_flushes(1);
        neither_can.disks[1].fail_flushes(1);
        EXPECT_FALSE(neither_can.open(both, neither)->has_value());
    }
    Boot one_can(images, 121);
    one_can.disks[1].fail_flushes(1);
    ASSERT_TRUE(one_can.open(both, neither)->has_value());
    EXPECT_EQ(one_can.mirror->state(), MirrorState::degraded);
}

TEST(MirrorDisk, CrashBeforeTheFirstRecordsIsABeginning) {
    Images images = blank();
    for (int records = 0; records < 2; ++records) { // how many landed
        Boot boot(images, 13);
        ASSERT_TRUE(boot.open(both, neither)->has_value()) << records;
        boot.run([&] { return boot.mirror->state() == MirrorState::whole; });
        EXPECT_TRUE(boot.write(first_free, std::byte{1}));
        EXPECT_EQ(boot.mirror->state(), MirrorState::whole);
        images = {boot.crash()[0], blank()[1]};
    }
}

/// A block counts as whole when its first byte and its last are the same.
class ToyContent final : public MirrorContent {
public:
    bool begin(std::array<std::span<const std::byte>, 2>) override { return true; }
    [[nodiscard]] Extent head_of(std::uint64_t) const noexcept override {
        return {first_free, block_bytes};
    }
    std::size_t judge(Window& window) const override {
        for (const Half& half : window.halves)
            heads_right = heads_right && half.head.size() == block_bytes;
        const std::size_t looked_at = std::min(window.halves[0].bytes.size(), most);
        for (std::size_t at = 0; at < looked_at; at += block_bytes) {
            std::array<std::span<std::byte>, 2> blocks;
            std::array<bool, 2> whole{};
            for (unsigned half = 0; half < 2; ++half) {
                blocks[half] = window.halves[half].bytes.subspan(at, block_bytes);
                whole[half] = blocks[half].front() == blocks[half].back() &&
                              !window.halves[half].lost[at / block_bytes];
            }
            if (whole[0] == whole[1]) continue;
            const unsigned from = whole[0] ? 0 : 1;
            if (from == 1 && !window.both_count) continue;
            std::ranges::copy(blocks[from], blocks[1 - from].begin());
            window.halves[1 - from].write[at / block_bytes] = true;
        }
        return looked_at;
    }

    mutable bool heads_right = true;
    std::size_t most = 5 * block_bytes; // does not divide anything
};

TEST(MirrorDisk, WhatIsCopiedIsJudgedFirst) {
    Images images = blank();
    std::uint64_t blocks = 40;
    {
        Boot boot(images, 14);
        ASSERT_TRUE(boot.open(both, both)->has_value());
        for (std::uint64_t i = 0; i < blocks; ++i)
            ASSERT_TRUE(boot.write(first_free + i * block_bytes, static_cast<std::byte>(i + 1)));
        images = boot.crash();
    }
    for (std::uint64_t i = 0; i < blocks; ++i) { // every block has rotted on one half
        images[i % 2].visible[first_free + i * block_bytes] = std::byte{0};
        if (i % 5 == 0) images[i % 2].unreadable.insert(first_free / block_bytes + i);
    }
    for (tests::SimMedium& image : images)
        image.safe = image.visible;
    Boot boot(images, 140);
    const auto content = std::make_shared<ToyContent>();
    ASSERT_TRUE(boot.open(both, neither, {.content = content})->has_value());
    EXPECT_TRUE(boot.mirror->reconciling());
    boot.run([&] { return !boot.mirror->reconciling(); });
    EXPECT_TRUE(content->heads_right);
    for (std::uint64_t i = 0; i < blocks; ++i) {
        for (unsigned copy = 0; copy < 2; ++copy)
            EXPECT_EQ(boot.read(first_free + i * block_bytes, copy), static_cast<std::byte>(i + 1))
                << i;
    }
}

// --- What the records decide -------------------------------------------------------------------

MirrorHalf half(State state, std::uint64_t generation, bool clean = false) {
    return {.present = true,
            .record = MirrorRecord{.generation = generation, .state = state, .clean = clean}};
}

TEST(MirrorRecord, SurvivesItsBlockAndNothingElsePasses) {
    std::array<std::byte, block_bytes> block{};
    EXPECT_FALSE(decode_mirror_record(block));
    encode_mirror_record(block, {.generation = 77, .state = State::alone, .clean = true});
    const auto record = decode_mirror_record(block);
    ASSERT_TRUE(record);
    EXPECT_EQ(record->generation, 77U);
    EXPECT_EQ(record->state, State::alone);
    EXPECT_TRUE(record->clean);
    for (std::size_t at = 0; at < 40; ++at) {
        auto broken = block;
        broken[at] ^= std::byte{1};
        if (at == 34 || at == 35) continue; // zeros that are checksummed as well
        EXPECT_FALSE(decode_mirror_record(broken)) << at;
    }
}

TEST(MirrorRecord, NewestHalfCounts) {
    const auto plan = settle_mirror({half(State::paired, 3), half(State::alone, 4)}, {}, false);
    ASSERT_TRUE(plan);
    EXPECT_EQ(plan->source, 1U);
    EXPECT_TRUE(plan->copy);
    EXPECT_EQ(plan->record.generation, 5U);
    EXPECT_EQ(plan->record.state, State::alone);
}

TEST(MirrorRecord, StaleHalfNeverCountsBesideAnother) {
    const auto plan = settle_mirror({half(State::stale, 9), half(State::alone, 9)}, {}, false);
    ASSERT_TRUE(plan);
    EXPECT_EQ(plan->source, 1U);
    EXPECT_TRUE(plan->copy);
}

TEST(MirrorRecord, OneHalfOfAPairAloneMayBeTheOlderOne) {
    EXPECT_FALSE(settle_mirror({half(State::paired, 3), {}}, {}, false));
    EXPECT_TRUE(settle_mirror({half(State::paired, 3), {}}, {}, true));
    EXPECT_TRUE(settle_mirror({half(State::alone, 3), {}}, {}, false));
    const MirrorHalf without{.present = true}; // its first record never landed
    EXPECT_FALSE(settle_mirror({without, {}}, {}, false));
}

TEST(MirrorRecord, TwoThatTookMailWithoutEachOtherAreRefused) {
    EXPECT_FALSE(settle_mirror({half(State::alone, 3), half(State::alone, 4)}, {}, true));
    EXPECT_FALSE(settle_mirror({half(State::stale, 3), half(State::stale, 4)}, {}, true));
    auto stranger = half(State::paired, 3);
    stranger.record->pair[0] = std::byte{1};
    EXPECT_FALSE(settle_mirror({half(State::paired, 3), stranger}, {}, true));
    const MirrorHalf local{.present = true};
    EXPECT_FALSE(settle_mirror({local, local}, {}, true));
}

TEST(MirrorRecord, HalfWithoutARecordIsACopyOnlyIfItHoldsNothingElse) {
    const auto alone = [] {
        MirrorHalf made = half(State::alone, 2);
        made.pool = PoolId{std::byte{7}};
        return made;
    };
    EXPECT_FALSE(settle_mirror({alone(), {.present = true}}, {}, false));
    EXPECT_FALSE(
        settle_mirror({alone(), {.present = true, .pool = PoolId{std::byte{8}}}}, {}, false));
    EXPECT_TRUE(settle_mirror({alone(), {.present = true, .blank = true}}, {}, false)->copy);
    EXPECT_TRUE(
        settle_mirror({half(State::paired, 3), {.present = true, .blank = true}}, {}, false)->copy);
    EXPECT_FALSE(
        settle_mirror({half(State::stale, 3), {.present = true, .blank = true}}, {}, false));
    EXPECT_TRUE(
        settle_mirror({alone(), {.present = true, .pool = PoolId{std::byte{7}}}}, {}, false)->copy);
}

TEST(MirrorRecord, PoolThatGoesOnAloneSaysSo) {
    EXPECT_FALSE(settle_alone(std::nullopt, false)->has_value());
    const auto next = settle_alone(half(State::paired, 3).record, false);
    ASSERT_TRUE(next && *next);
    EXPECT_EQ((*next)->state, State::alone);
    EXPECT_EQ((*next)->generation, 4U);
    EXPECT_FALSE(settle_alone(half(State::stale, 3).record, false));
}

// --- Random lives ------------------------------------------------------------------------------

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

struct Life {
    std::mt19937_64 random;
    std::uint64_t next = first_free;
    std::map<std::uint64_t, std::byte> acknowledged;
};

base::Task<void> write_for_ever(Boot* boot, Life* life) {
    BlockMemory block{block_bytes};
    while (life->next + block_bytes <= disk_bytes) {
        const std::uint64_t offset = life->next;
        life->next += block_bytes;
        const auto value = static_cast<std::byte>(1 + life->random() % 255);
        std::ranges::fill(block.span(), value);
        auto written = co_await boot->mirror->write(offset, block.span(), Durable::yes);
        if (written) life->acknowledged[offset] = value;
        const auto pause = std::chrono::microseconds{life->random() % 4000};
        static_cast<void>(co_await base::sleep_for(boot->loop, pause));
    }
}

/// One pool from its making through some boots, with crashes and refusals at any time.
void live(std::uint64_t seed) {
    Life life{.random = std::mt19937_64{seed}};
    Images images = blank();
    std::array<bool, 2> created = both;
    for (int boots = 0; boots < 6; ++boots) {
        std::array<bool, 2> present = both;
        if (boots > 0 && life.random() % 3 == 0) present[life.random() % 2] = false;
        auto boot = std::make_unique<Boot>(images, life.random(), life.random() % 2 == 0);
        if (life.random() % 4 == 0) // also while it opens and copies
            boot->disks[life.random() % 2].fail_writes(SimDisk::Fault::io, 1 + life.random() % 5,
                                                       life.random() % 20);
        auto opened = boot->open(present, created, {.retry = 1s});
        if (!opened || !*opened) {
            // Only a half whose other half is away may be refused; or the disk would not take the record.
            images = boot->crash();
            boot = std::make_unique<Boot>(images, life.random());
            opened = boot->open(both, created);
            ASSERT_TRUE(opened && *opened) << "seed " << seed << ": " << opened->error();
            present = both;
        }
        created = neither;
        for (const auto& [offset, value] : life.acknowledged) {
            ASSERT_EQ(boot->read(offset), value) << "seed " << seed << ", boot " << boots;
            if (boot->mirror->state() != MirrorState::whole) continue;
            ASSERT_EQ(boot->read(offset, 1), value) << "seed " << seed << ", boot " << boots;
        }
        for (int writer = 0; writer < 3; ++writer)
            boot->loop.spawn(write_for_ever(boot.get(), &life), "writer");
        for (int faults = static_cast<int>(life.random() % 3); faults > 0; --faults) {
            boot->run([] { return false; }, std::chrono::microseconds{life.random() % 8000});
            const bool for_good = life.random() % 4 == 0;
            boot->disks[life.random() % 2].fail_writes(
                SimDisk::Fault::io, for_good ? SimDisk::always : 1 + life.random() % 3,
                life.random() % 4);
        }
        // Sometimes long enough for a half to be brought back, sometimes in the middle of it.
        const std::uint64_t most_us = life.random() % 3 == 0 ? 1'200'000 : 15'000;
        boot->run([] { return false; }, std::chrono::microseconds{life.random() % most_us});
        if (life.random() % 4 == 0) boot->loop.drop_tasks();
        images = boot->crash();
    }
    Boot last(images, seed);
    const auto opened = last.open(both, created);
    ASSERT_TRUE(opened && *opened) << "seed " << seed;
    last.run([&] { return last.mirror->state() == MirrorState::whole; });
    for (const auto& [offset, value] : life.acknowledged) {
        ASSERT_EQ(last.read(offset), value) << "seed " << seed;
        ASSERT_EQ(last.read(offset, 1), value) << "seed " << seed;
    }
}

TEST(MirrorDisk, NothingAcknowledgedIsLostWhicheverHalfFails) {
    const std::uint64_t first = from_environment("SPOOL_SEED", 1);
    const std::uint64_t count = from_environment("SPOOL_SEEDS", 200);
    for (std::uint64_t seed = first; seed < first + count && !HasFatalFailure(); ++seed)
        live(seed);
}

} // namespace
