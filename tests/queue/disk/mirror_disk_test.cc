// mirror_disk_test.cc: two disks as one: what was acknowledged is there, whichever of them fails when.
//
// SPOOL_SEEDS sets how many random lives there are, SPOOL_SEED the first one's seed.
#include "tests/queue/disk/mirror_boot.h"

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
using namespace tests;
using State = MirrorRecord::State;

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

/// What both blocks of a half say, so that it survives one that rots.
void expect_records(std::span<const std::byte> disk, State state) {
    for (std::size_t copy = 0; copy < mirror_record_copies; ++copy) {
        const auto block = disk.subspan(mirror_record_begin + copy * block_bytes);
        const auto record = decode_mirror_record(block.first<block_bytes>());
        ASSERT_TRUE(record) << copy;
        EXPECT_EQ(record->state, state) << copy;
    }
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
    expect_records(boot.disks[0].bytes(), State::alone);
    boot.run([&] { return boot.reports.back().first == MirrorState::whole; });
    EXPECT_EQ(boot.mirror->state(), MirrorState::whole);
    EXPECT_EQ(boot.read(first_free, 1), std::byte{1});
    EXPECT_EQ(boot.read(first_free + block_bytes, 1), std::byte{2});
    expect_records(boot.disks[0].bytes(), State::paired);
    expect_records(boot.disks[1].bytes(), State::paired);
}

TEST(MirrorDisk, RecordThatOneOfItsBlocksTakesCounts) {
    Boot boot(blank(), 4);
    ASSERT_TRUE(boot.open(both, both)->has_value());
    boot.disks[1].fail_writes(SimDisk::Fault::io, SimDisk::always);
    boot.disks[0].fail_writes(SimDisk::Fault::io, 1,
                              2); // behind the mail and the record's first block
    EXPECT_TRUE(boot.write(first_free, std::byte{1}));
    EXPECT_NE(boot.mirror->state(), MirrorState::whole);
}

TEST(MirrorDisk, PowerCutLeavesARecordOnAHalfThatHadOneTornAlready) {
    Images whole;
    {
        Boot boot(blank(), 1);
        ASSERT_TRUE(boot.open(both, both)->has_value());
        whole = boot.crash();
    }
    int cuts = 0;
    for (std::uint64_t seed = 0; seed < 12; ++seed) {
        const unsigned side = seed % 2;
        const std::size_t torn = mirror_record_begin + seed / 2 % 2 * block_bytes;
        Images images = whole;
        for (auto* bytes : {&images[side].safe, &images[side].visible})
            std::fill_n(bytes->begin() + static_cast<std::ptrdiff_t>(torn), block_bytes,
                        std::byte{0xEE});
        for (std::uint64_t events = 0;; ++events, ++cuts) {
            Boot cut(images, seed);
            cut.disks[0].share_power(cut.disks[1]);
            cut.disks[0].stop_after_events(events);
            cut.disks[1].stop_after_events(events);
            static_cast<void>(cut.open(both, neither));
            if (!cut.disks[0].stopped() && !cut.disks[1].stopped()) break;
            const Images left = cut.crash();
            MirrorHalf half;
            for (unsigned copy = 0; copy < mirror_record_copies; ++copy)
                take_mirror_record(
                    half, copy,
                    std::span{left[side].visible}.subspan(mirror_record_offset(copy), block_bytes));
            ASSERT_TRUE(half.record) << "seed " << seed << ", after " << events << " events";
        }
    }
    EXPECT_GT(cuts, 200);
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
    for (SimMedium& image : images)
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

base::Task<void> hang_for_a_while(Boot* boot, unsigned side, base::Duration after,
                                  base::Duration time) {
    static_cast<void>(co_await base::sleep_for(boot->loop, after));
    boot->hangs[side].hang({.writes = true, .reads = true, .flushes = true});
    static_cast<void>(co_await base::sleep_for(boot->loop, time));
    boot->hangs[side].hang_no_more();
    static_cast<void>(co_await base::sleep_for(boot->loop, time / 2));
    boot->hangs[side].release();
}

/// One pool from its making through some boots, with crashes, refusals and silence at any time.
void live(std::uint64_t seed) {
    Life life{.random = std::mt19937_64{seed}};
    std::mt19937_64 hangs{seed ^ 0x68616E6773};
    Images images = blank();
    std::array<bool, 2> created = both;
    for (int boots = 0; boots < 6; ++boots) {
        std::array<bool, 2> present = both;
        if (boots > 0 && life.random() % 3 == 0) present[life.random() % 2] = false;
        auto boot = std::make_unique<Boot>(images, life.random(), life.random() % 2 == 0);
        if (life.random() % 4 == 0) // also while it opens and copies
            boot->disks[life.random() % 2].fail_writes(SimDisk::Fault::io, 1 + life.random() % 5,
                                                       life.random() % 20);
        const unsigned slow = hangs() % 2;
        if (hangs() % 3 == 0) {
            boot->loop.spawn(hang_for_a_while(boot.get(), slow,
                                              std::chrono::microseconds{hangs() % 30'000},
                                              std::chrono::microseconds{hangs() % 100'000}),
                             "a half that hangs");
        }
        auto opened = boot->open(present, created,
                                 {.retry = 1s,
                                  .answer_limit = std::chrono::milliseconds{5 + hangs() % 40},
                                  .read_limit = 5ms});
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
            if (boot->mirror->state() != MirrorState::whole || boot->mirror->hung()) continue;
            const auto other = boot->read(offset, 1);
            if (boot->mirror->state() != MirrorState::whole || boot->mirror->hung()) continue;
            ASSERT_EQ(other, value) << "seed " << seed << ", boot " << boots;
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
