// pool_test.cc: what is decided about a device and a file system before a pool is used.
#include "queue/disk/block_memory.h"
#include "queue/disk/calibration.h"
#include "queue/disk/faulty_disk.h"
#include "queue/disk/pool_checks.h"
#include "tests/support/sim_disk.h"
#include "tests/support/sim_net.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <linux/magic.h>

namespace {

using namespace queue;
namespace base = dataplane::base;

Calibration rates(double dsync, double flush, double plain, bool volatile_cache = true) {
    Calibration measured{.volatile_cache = volatile_cache};
    for (std::size_t i = 0; i < calibration_sizes.size(); ++i)
        measured.rates[i] = {calibration_sizes[i], dsync, flush, plain};
    return measured;
}

TEST(Calibration, FlushIsChosenWhereItIsClearlyFaster) {
    EXPECT_EQ(choose(rates(171, 802, 20'000)).strategy, CommitStrategy::flush);
    EXPECT_EQ(choose(rates(34'041, 33'763, 90'000)).strategy, CommitStrategy::dsync);
    EXPECT_EQ(choose(rates(1000, 1400, 20'000)).strategy, CommitStrategy::dsync) << "not by enough";
}

TEST(Calibration, AllSizesCount) {
    Calibration measured = rates(1000, 1000, 5000);
    measured.rates[0].flush = 3000; // faster for small writes, slower for large ones
    measured.rates[2].flush = 600;
    EXPECT_EQ(choose(measured).strategy, CommitStrategy::dsync);
    measured.rates[2].flush = 1500;
    EXPECT_EQ(choose(measured).strategy, CommitStrategy::flush);
}

TEST(Calibration, DeviceWhoseDurableWritesCostNothingIsSuspectOnlyWithAVolatileCache) {
    EXPECT_TRUE(choose(rates(91'375, 2767, 92'000)).suspect);
    EXPECT_FALSE(choose(rates(91'375, 2767, 92'000, false)).suspect);
    EXPECT_FALSE(choose(rates(2325, 2215, 90'000)).suspect);
}

TEST(Calibration, ReasonNamesTheNumbers) {
    const std::string why = choose(rates(171, 802, 20'000)).why;
    for (const char* const part : {"171/171/171", "802/802/802", "20000", "4/64/512", "volatile"})
        EXPECT_NE(why.find(part), std::string::npos) << part << " in " << why;
    EXPECT_EQ(choose(Calibration{}).strategy, CommitStrategy::dsync) << "nothing was measured";
}

TEST(Calibration, MeasuresARealFolderAndLeavesNothingBehind) {
    const std::filesystem::path folder =
        std::filesystem::current_path() / ("pool_test." + std::to_string(::getpid()));
    std::filesystem::create_directory(folder);
    const auto measured = measure(folder);
    EXPECT_TRUE(std::filesystem::is_empty(folder));
    std::filesystem::remove_all(folder);
    if (!measured) GTEST_SKIP() << measured.error();
    for (const CommitRates& rate : measured->rates) {
        EXPECT_GT(rate.dsync, 0);
        EXPECT_GT(rate.flush, 0);
        EXPECT_GT(rate.plain, 0);
    }
    const auto missing = measure("/nowhere/at/all");
    ASSERT_FALSE(missing);
    EXPECT_NE(missing.error().find("/nowhere/at/all"), std::string::npos);
}

TEST(PoolChecks, PlainFileSystemsOverwrite) {
    EXPECT_EQ(judge({.file_system = EXT4_SUPER_MAGIC, .extents_known = true}).verdict,
              PoolVerdict::overwrites);
    EXPECT_EQ(judge({.file_system = 0x5846'5342}).verdict, PoolVerdict::overwrites); // XFS
    EXPECT_TRUE(judge({.file_system = EXT4_SUPER_MAGIC}).why.empty());
}

TEST(PoolChecks, WhatLosesMailIsRefusedWithARemedy) {
    for (const std::uint64_t magic :
         {std::uint64_t{TMPFS_MAGIC}, std::uint64_t{RAMFS_MAGIC}, std::uint64_t{NFS_SUPER_MAGIC},
          std::uint64_t{0xFF53'4D42}, std::uint64_t{V9FS_MAGIC}}) {
        const PoolJudgement judgement = judge({.file_system = magic});
        EXPECT_EQ(judgement.verdict, PoolVerdict::refused) << std::hex << magic;
        EXPECT_NE(judgement.why.find("real disk"), std::string::npos);
    }
    EXPECT_EQ(judge({.file_system = EXT4_SUPER_MAGIC, .direct_known = true}).verdict,
              PoolVerdict::refused);
    EXPECT_EQ(judge({.file_system = EXT4_SUPER_MAGIC,
                     .direct_known = true,
                     .direct_offset_bytes = 65'536,
                     .direct_memory_bytes = 512})
                  .verdict,
              PoolVerdict::refused);
}

TEST(PoolChecks, WhatDoesNotOverwriteInPlaceIsFlushedAndSaysWhy) {
    for (const PoolFacts& facts :
         {PoolFacts{.file_system = BTRFS_SUPER_MAGIC}, PoolFacts{.file_system = 0x2FC1'2FC1},
          PoolFacts{.file_system = OVERLAYFS_SUPER_MAGIC},
          PoolFacts{.file_system = 0x5846'5342, .shared = true},
          PoolFacts{.file_system = EXT4_SUPER_MAGIC, .unwritten = true},
          PoolFacts{.file_system = EXT4_SUPER_MAGIC, .encoded = true},
          PoolFacts{.file_system = EXT4_SUPER_MAGIC, .in_metadata = true}}) {
        const PoolJudgement judgement = judge(facts);
        EXPECT_EQ(judgement.verdict, PoolVerdict::flush_only);
        EXPECT_GT(judgement.why.size(), 40U);
    }
}

TEST(DiskFaults, AreReadFromTheirText) {
    const auto faults =
        parse_faults("write:io:100,write:short:7+3,flush:io:5+,read:space:1,read:hang:2");
    ASSERT_TRUE(faults);
    ASSERT_EQ(faults->size(), 5U);
    EXPECT_EQ((*faults)[4].error, DiskError::timed_out);
    EXPECT_EQ((*faults)[1].error, DiskError::short_transfer);
    EXPECT_EQ((*faults)[1].first, 7U);
    EXPECT_EQ((*faults)[1].count, 3U);
    EXPECT_GT((*faults)[2].count, 1ULL << 60);
    EXPECT_TRUE(parse_faults("")->empty());
    for (const char* const text : {"write", "write:io", "write:io:0", "write:io:x", "erase:io:1",
                                   "write:eio:1", "write:io:1+x", "write:io:1,"})
        EXPECT_EQ(parse_faults(text).has_value(), std::string_view{text} == "write:io:1,") << text;
}

TEST(DiskFaults, FailTheOperationsThatWereNamed) {
    base::ManualClock clock;
    base::Loop loop{clock};
    tests::SimDisk below{loop, {.bytes = 1 << 20}};
    FaultyDisk disk{below, *parse_faults("write:io:2+2,read:io:1,flush:io:2")};
    const BlockMemory block{2 * block_bytes};
    const auto write = [&] {
        return tests::run(loop, clock, disk.write(0, block.span(), Durable::yes)).has_value();
    };
    EXPECT_TRUE(write());
    EXPECT_FALSE(write());
    EXPECT_FALSE(write());
    EXPECT_TRUE(write());
    EXPECT_FALSE(tests::run(loop, clock, disk.read(0, block.span())).has_value());
    EXPECT_TRUE(tests::run(loop, clock, disk.read(0, block.span())).has_value());
    EXPECT_TRUE(tests::run(loop, clock, disk.flush()).has_value());
    EXPECT_FALSE(tests::run(loop, clock, disk.flush()).has_value());
}

} // namespace
