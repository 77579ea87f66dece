// mirror_hang_test.cc: one of two devices takes what it is asked and does not answer, for a while or for good.
#include "tests/queue/disk/mirror_boot.h"

#include <gtest/gtest.h>

#include <cstring>

namespace {

using namespace queue;
using namespace std::chrono_literals;
using namespace tests;

const auto limit = MirrorOptions{}.answer_limit;
const auto read_limit = MirrorOptions{}.read_limit;
constexpr base::Duration soon = 1s; // more than devices that answer ever take

// Of each half, as the one that hangs.
class MirrorHang : public testing::TestWithParam<unsigned> {
protected:
    void open(MirrorOptions options = {}) {
        boot.emplace(blank(), 1);
        ASSERT_TRUE(boot->open(both, both, std::move(options))->has_value());
        ASSERT_TRUE(boot->write(first_free, std::byte{1}));
        boot->run([] { return false; }, 1s);
    }
    [[nodiscard]] HangingDisk& hung() { return boot->hangs[GetParam()]; }
    [[nodiscard]] std::string name() const { return std::string{side_name(GetParam())}; }
    template <class Work>
    base::Duration time_of(Work&& work) {
        const base::TimePoint from = boot->clock.now();
        work();
        return boot->clock.now() - from;
    }
    [[nodiscard]] bool reported(const std::string& text) const {
        return std::ranges::any_of(boot->reports, [&](const auto& report) {
            return report.second.find(text) != std::string::npos;
        });
    }
    bool read_copy(unsigned copy) {
        const auto read = tests::run(boot->loop, boot->clock,
                                     boot->mirror->read_copy(copy, first_free, memory.span()));
        return read && memory.span()[7] == std::byte{1};
    }
    /// Of a write whose memory is used for something else as soon as it has ended.
    struct Write {
        base::Task<void> task;
        std::optional<bool> took;
    };
    static base::Task<void> write_and_forget(MirrorDisk* mirror, std::uint64_t offset,
                                             std::byte value, std::span<std::byte> memory,
                                             std::optional<bool>* took) {
        std::ranges::fill(memory, value);
        auto written = co_await mirror->write(offset, memory, Durable::yes);
        std::ranges::fill(memory, std::byte{0xEE});
        *took = written.has_value();
    }
    void begin_write(Write& write, std::uint64_t offset, std::byte value) {
        write.task =
            write_and_forget(boot->mirror.get(), offset, value, memory.span(), &write.took);
        write.task.start();
    }
    void expect_whole_and_alike() {
        boot->run([&] { return boot->mirror->state() == MirrorState::whole; }, 1000s);
        ASSERT_EQ(boot->mirror->state(), MirrorState::whole);
        EXPECT_EQ(std::memcmp(boot->disks[0].bytes().data() + first_free,
                              boot->disks[1].bytes().data() + first_free, disk_bytes - first_free),
                  0);
    }

    BlockMemory memory{block_bytes};
    std::optional<Boot> boot;
};

INSTANTIATE_TEST_SUITE_P(Source, MirrorHang, testing::Values(0U));
INSTANTIATE_TEST_SUITE_P(Other, MirrorHang, testing::Values(1U));

TEST_P(MirrorHang, WriteThatHangsLeavesTheHalfBehindAndTheOtherGoesOn) {
    open();
    hung().hang({.writes = true});
    const auto first =
        time_of([&] { EXPECT_TRUE(boot->write(first_free + block_bytes, std::byte{2})); });
    EXPECT_GE(first, limit);
    EXPECT_LE(first, limit + soon);
    EXPECT_EQ(boot->mirror->state(), MirrorState::degraded);
    EXPECT_FALSE(boot->mirror->counts(GetParam()));
    EXPECT_TRUE(reported(name() + " did not answer for 30 s"));
    const auto next = time_of([&] {
        EXPECT_TRUE(boot->write(first_free + 2 * block_bytes, std::byte{3}));
        EXPECT_EQ(boot->read(first_free + block_bytes), std::byte{2});
    });
    EXPECT_LE(next, soon);
    hung().release();
    expect_whole_and_alike();
    EXPECT_EQ(boot->read(first_free + 2 * block_bytes, 1), std::byte{3});
}

TEST_P(MirrorHang, FlushThatHangsLeavesTheHalfBehind) {
    open();
    hung().hang({.flushes = true});
    const auto took =
        time_of([&] { EXPECT_TRUE(tests::run(boot->loop, boot->clock, boot->mirror->flush())); });
    EXPECT_GE(took, limit);
    EXPECT_LE(took, limit + soon);
    EXPECT_FALSE(boot->mirror->counts(GetParam()));
    hung().release();
    expect_whole_and_alike();
}

TEST_P(MirrorHang, AllThatIsUnderWayEndsWhenTheHalfIsLeftBehind) {
    open();
    hung().hang({.writes = true});
    std::array<Write, 2> writes;
    BlockMemory second{block_bytes};
    begin_write(writes[0], first_free, std::byte{2});
    boot->run([] { return false; }, limit - 1s);
    writes[1].task = write_and_forget(boot->mirror.get(), first_free + block_bytes, std::byte{3},
                                      second.span(), &writes[1].took);
    writes[1].task.start();
    boot->run([&] { return writes[1].took.has_value(); }, limit / 2);
    EXPECT_EQ(writes[0].took, true);
    EXPECT_EQ(writes[1].took, true) << "it need not wait for its own limit";
    EXPECT_EQ(boot->read(first_free + block_bytes), std::byte{3});
}

// The case that everything here is for: a write that lands an hour later, when mail has gone on.
TEST_P(MirrorHang, LateWriteLandsBeforeTheHalfIsGivenEverythingAndAsItWas) {
    open({.copy_bytes_per_s = 64U << 10});
    hung().hang({.writes = true});
    Write late;
    begin_write(late, first_free, std::byte{2});
    boot->run([&] { return late.took.has_value(); });
    ASSERT_EQ(late.took, true);
    hung().hang_no_more();
    ASSERT_TRUE(boot->write(first_free, std::byte{3})); // the same place once more
    boot->run([] { return false; }, 3600s);
    EXPECT_EQ(boot->mirror->state(), MirrorState::degraded) << "one write is still to come";
    EXPECT_EQ(boot->disks[GetParam()].bytes()[first_free], std::byte{1});
    hung().release();
    boot->run([&] { return boot->disks[GetParam()].bytes()[first_free] != std::byte{1}; }, 1s);
    EXPECT_EQ(boot->disks[GetParam()].bytes()[first_free], std::byte{2})
        << "not what the caller's memory holds by now";
    expect_whole_and_alike();
    EXPECT_EQ(boot->read(first_free), std::byte{3});
    EXPECT_EQ(boot->read(first_free, 1), std::byte{3});
}

TEST_P(MirrorHang, ReadThatHangsIsAnsweredByTheOtherHalf) {
    open();
    hung().hang({.reads = true});
    const bool source = GetParam() == 0;
    const auto first = time_of([&] { EXPECT_EQ(boot->read(first_free), std::byte{1}); });
    EXPECT_LE(first, source ? read_limit + soon : soon);
    EXPECT_GE(first, source ? read_limit : 0ms);
    // Whoever goes through the copies gets one that answers first; the other may be the one that hangs.
    const auto copies = time_of([&] {
        EXPECT_TRUE(read_copy(0));
        EXPECT_EQ(read_copy(1), source);
    });
    EXPECT_LE(copies, source ? soon : read_limit + soon);
    const auto more = time_of([&] {
        for (int i = 0; i < 100; ++i) {
            EXPECT_EQ(boot->read(first_free), std::byte{1});
            EXPECT_TRUE(read_copy(0));
            EXPECT_EQ(read_copy(1), source);
        }
    });
    EXPECT_LE(more, 3 * soon) << "a half that owes an answer is not asked";
    EXPECT_EQ(boot->mirror->rescued_reads(), source ? 202U : 0U);
    EXPECT_EQ(hung().hanging(), 1U);
    EXPECT_EQ(boot->mirror->state(), MirrorState::whole)
        << "one read is no reason to go without it";
    hung().release();
    boot->run([&] { return !boot->mirror->hung(); }, 1s);
    EXPECT_TRUE(read_copy(1));
}

// Recovery goes through the copies: when the first hangs and is left behind meanwhile, there is one copy only.
TEST_P(MirrorHang, CopyThatIsLeftBehindWhileItIsReadIsReadFromTheOther) {
    open({.answer_limit = 2s});
    hung().hang({.writes = true, .reads = true});
    Write write;
    begin_write(write, first_free + block_bytes, std::byte{2});
    BlockMemory block{block_bytes};
    bool found = false;
    for (unsigned copy = 0; copy < boot->mirror->copies(); ++copy) {
        auto read = tests::run(boot->loop, boot->clock,
                               boot->mirror->read_copy(copy, first_free, block.span()));
        found = found || (read && block.span()[7] == std::byte{1});
    }
    EXPECT_TRUE(found);
    boot->run([&] { return write.took.has_value(); });
    EXPECT_EQ(write.took, true);
    EXPECT_FALSE(boot->mirror->counts(GetParam()));
}

TEST_P(MirrorHang, LateReadDoesNotTouchTheMemoryOfWhoeverAsked) {
    open();
    hung().hang({.reads = true});
    const std::span<std::byte> bytes = memory.span();
    for (const bool copy : {false, true}) {
        auto reading = copy ? boot->mirror->read_copy(GetParam(), first_free, bytes)
                            : boot->mirror->read(first_free, bytes);
        static_cast<void>(tests::run(boot->loop, boot->clock, std::move(reading)));
    }
    ASSERT_GE(hung().hanging(), 1U);
    std::ranges::fill(bytes, std::byte{0x77});
    hung().release();
    boot->run([&] { return !boot->mirror->hung(); }, 1s);
    EXPECT_FALSE(boot->mirror->hung());
    EXPECT_TRUE(std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0x77}; }));
}

TEST_P(MirrorHang, WhoeverHasNobodyToTurnToWaits) {
    std::array<bool, 2> present{};
    present[GetParam()] = true;
    Boot alone(blank(), 2);
    ASSERT_TRUE(alone.open(present, both, {.told = true})->has_value());
    alone.hangs[GetParam()].hang({.writes = true, .reads = true, .flushes = true});
    std::optional<bool> took, flushed;
    auto task =
        write_and_forget(alone.mirror.get(), first_free, std::byte{2}, memory.span(), &took);
    auto flushing = [](MirrorDisk* mirror, std::optional<bool>* out) -> base::Task<void> {
        auto done = co_await mirror->flush();
        *out = done.has_value();
    };
    base::Task<void> flush = flushing(alone.mirror.get(), &flushed);
    task.start();
    flush.start();
    alone.run([&] { return took && flushed; }, 600s);
    EXPECT_FALSE(took);
    EXPECT_FALSE(flushed);
    alone.hangs[GetParam()].release();
    alone.run([&] { return took && flushed; }, 1s);
    EXPECT_EQ(took, true);
    EXPECT_EQ(flushed, true);
    EXPECT_EQ(alone.read(first_free), std::byte{2});
}

TEST_P(MirrorHang, BothHangAndAreWaitedFor) {
    open();
    for (HangingDisk& disk : boot->hangs)
        disk.hang({.writes = true, .reads = true});
    Write write;
    begin_write(write, first_free, std::byte{2});
    BlockMemory other{block_bytes};
    std::optional<bool> read;
    auto reading = [](MirrorDisk* mirror, std::span<std::byte> to,
                      std::optional<bool>* out) -> base::Task<void> {
        auto done = co_await mirror->read(first_free + block_bytes, to);
        *out = done.has_value();
    };
    base::Task<void> task = reading(boot->mirror.get(), other.span(), &read);
    task.start();
    boot->run([] { return false; }, 600s);
    EXPECT_FALSE(write.took);
    EXPECT_FALSE(read);
    EXPECT_EQ(boot->mirror->state(), MirrorState::whole);
    hung().release(); // and this one goes on without the other, after a while
    boot->run([&] { return read && write.took; });
    EXPECT_EQ(write.took, true);
    EXPECT_EQ(read, true);
    EXPECT_TRUE(boot->mirror->counts(GetParam()));
    EXPECT_FALSE(boot->mirror->counts(1 - GetParam()));
    boot->hangs[1 - GetParam()].release();
    expect_whole_and_alike();
}

TEST_P(MirrorHang, OneRefusesWhatTheOtherHangsOnAndGoesOnAlone) {
    open();
    hung().hang({.writes = true});
    boot->disks[1 - GetParam()].fail_writes(SimDisk::Fault::io, 1);
    EXPECT_FALSE(boot->write(first_free + block_bytes, std::byte{2}));
    EXPECT_FALSE(boot->mirror->counts(GetParam())) << "that write may land there at any time";
    EXPECT_TRUE(boot->write(first_free + 2 * block_bytes, std::byte{3}));
    hung().release();
    expect_whole_and_alike();
}

TEST_P(MirrorHang, ProcessThatStoodStillItselfDoesNotBlameTheHalf) {
    open();
    hung().hang({.writes = true});
    Write write;
    begin_write(write, first_free, std::byte{2});
    boot->run([] { return false; }, 1s); // the other has answered
    boot->clock.advance(10 * limit);
    static_cast<void>(boot->loop.turn());
    hung().release(); // it had answered long before
    boot->run([&] { return write.took.has_value(); }, 1s);
    EXPECT_EQ(write.took, true);
    EXPECT_EQ(boot->mirror->state(), MirrorState::whole);
}

TEST_P(MirrorHang, HangingHalfCollectsNothing) {
    open();
    hung().hang({.writes = true, .reads = true, .flushes = true});
    for (std::uint64_t i = 0; i < 200; ++i) {
        ASSERT_TRUE(boot->write(first_free + i * block_bytes, std::byte{2}));
        ASSERT_EQ(boot->read(first_free + i * block_bytes), std::byte{2});
        ASSERT_TRUE(tests::run(boot->loop, boot->clock, boot->mirror->flush()));
        boot->run([] { return false; }, 60s);
    }
    EXPECT_LE(hung().hanging(), 2U);
    EXPECT_LE(boot->mirror->memory_bytes(), 16 * block_bytes);
    hung().release();
    expect_whole_and_alike();
}

TEST_P(MirrorHang, MemoryThatIsKeptForTheNextOneIsBounded) {
    open();
    // As much as a queue ever has under way, and reads as well, several times.
    constexpr std::size_t piece = 64U << 10;
    struct Reading {
        BlockMemory memory{piece};
        base::Task<void> task;
    };
    auto reading = [](MirrorDisk* mirror, std::span<std::byte> to) -> base::Task<void> {
        static_cast<void>(co_await mirror->read(first_free, to));
    };
    for (int round = 0; round < 3; ++round) {
        std::vector<Reading> readings(400);
        for (Reading& one : readings) {
            one.task = reading(boot->mirror.get(), one.memory.span());
            one.task.start();
        }
        boot->run([&] { return !boot->mirror->hung(); }, 10s);
    }
    EXPECT_TRUE(boot->write(first_free, std::byte{5}));
    EXPECT_LE(boot->mirror->memory_bytes(), 10U << 20);
}

TEST_P(MirrorHang, HalfThatHangsWhileItIsGivenEverythingIsLeftForLater) {
    open({.copy_bytes_per_s = 256U << 10});
    boot->disks[GetParam()].fail_writes(SimDisk::Fault::io, 1);
    ASSERT_TRUE(boot->write(first_free, std::byte{2}));
    boot->run([&] { return boot->mirror->state() == MirrorState::copying; });
    ASSERT_EQ(boot->mirror->state(), MirrorState::copying);
    hung().hang({.writes = true, .reads = true});
    boot->run([&] { return boot->mirror->state() == MirrorState::degraded; }, limit + 5s);
    EXPECT_EQ(boot->mirror->state(), MirrorState::degraded);
    const auto wrote = time_of([&] {
        for (std::uint64_t i = 0; i < 100; ++i)
            EXPECT_TRUE(boot->write(first_free + i * block_bytes, std::byte{4}));
    });
    EXPECT_LE(wrote, soon);
    boot->run([] { return false; }, 600s);
    EXPECT_LE(hung().hanging(), 1U);
    hung().release();
    expect_whole_and_alike();
}

TEST_P(MirrorHang, SourceThatHangsWhileItGivesEverythingIsWaitedFor) {
    open({.copy_bytes_per_s = 256U << 10});
    boot->disks[GetParam()].fail_writes(SimDisk::Fault::io, 1);
    ASSERT_TRUE(boot->write(first_free, std::byte{2}));
    boot->run([&] { return boot->mirror->state() == MirrorState::copying; });
    ASSERT_EQ(boot->mirror->state(), MirrorState::copying);
    boot->hangs[1 - GetParam()].hang({.writes = true, .reads = true, .flushes = true});
    Write write;
    begin_write(write, first_free, std::byte{3});
    boot->run([&] { return write.took.has_value(); }, 600s);
    EXPECT_FALSE(write.took) << "the other has not got everything";
    EXPECT_TRUE(boot->mirror->counts(1 - GetParam()));
    boot->hangs[1 - GetParam()].release();
    boot->run([&] { return write.took.has_value(); }, 1s);
    EXPECT_EQ(write.took, true);
    expect_whole_and_alike();
    EXPECT_EQ(boot->read(first_free, 1), std::byte{3});
}

TEST_P(MirrorHang, HalfThatHangsWhileBothAreMadeAlikeIsLeftBehind) {
    open();
    boot.emplace(boot->crash(), 3);
    ASSERT_TRUE(boot->open(both, neither, {.copy_bytes_per_s = 64U << 10})->has_value());
    ASSERT_TRUE(boot->mirror->reconciling());
    hung().hang({.reads = true});
    const auto took = time_of([&] {
        EXPECT_TRUE(
            tests::run(boot->loop, boot->clock, boot->mirror->make_alike(first_free, 64U << 10)));
    });
    EXPECT_LE(took, 2 * limit);
    EXPECT_FALSE(boot->mirror->counts(GetParam()));
    EXPECT_TRUE(reported(name() + " did not answer for 30 s"));
    EXPECT_EQ(boot->read(first_free), std::byte{1});
    hung().release();
    expect_whole_and_alike();
}

TEST_P(MirrorHang, HalfThatHangsAtTheStartIsAsOneThatCannotBeOpened) {
    open();
    const Images pair = boot->crash();
    Images images = pair;
    {
        Boot unsure(pair, 4); // which of them is the newer one
        unsure.hangs[GetParam()].hang({.reads = true});
        const auto opened = unsure.open(both, neither);
        ASSERT_TRUE(opened);
        ASSERT_FALSE(opened->has_value());
        EXPECT_NE(opened->error().find(name() + " did not answer for 30 s"), std::string::npos);
        EXPECT_NE(opened->error().find("mirror_alone"), std::string::npos);
    }
    boot.emplace(pair, 5);
    hung().hang({.writes = true});
    ASSERT_TRUE(boot->open(both, neither)->has_value()) << "only the record's write hangs";
    EXPECT_FALSE(boot->mirror->counts(GetParam()));
    ASSERT_TRUE(boot->write(first_free, std::byte{3}));
    images = boot->crash();
    boot.emplace(images, 6);
    hung().hang({.reads = true});
    ASSERT_TRUE(boot->open(both, neither)->has_value()) << "the other knows that it was alone";
    EXPECT_TRUE(reported(name() + " did not answer for 30 s"));
    EXPECT_EQ(boot->read(first_free), std::byte{3});
    hung().release();
    boot->run([] { return false; }, 600s);
    EXPECT_EQ(boot->mirror->state(), MirrorState::degraded) << "nobody knows what it holds";
}

TEST_P(MirrorHang, EndComesInGoodOrderAndTheNextStartKnows) {
    open();
    hung().hang({.writes = true});
    Write write;
    begin_write(write, first_free, std::byte{2});
    boot->run([] { return false; }, 1ms);
    const auto closing = time_of([&] { boot->close(); });
    EXPECT_LE(closing, 2 * limit + soon);
    EXPECT_EQ(write.took, true);
    EXPECT_TRUE(boot->mirror->hung()) << "whoever destroys it must know";
    boot.emplace(boot->crash(), 7);
    ASSERT_TRUE(boot->open(both, neither)->has_value());
    EXPECT_FALSE(boot->mirror->counts(GetParam()));
    EXPECT_EQ(boot->read(first_free), std::byte{2});
    expect_whole_and_alike();
}

TEST_P(MirrorHang, EndComesAlsoWhenBothHangAndIsNotCalledClean) {
    open();
    for (HangingDisk& disk : boot->hangs)
        disk.hang({.writes = true});
    Write write;
    begin_write(write, first_free, std::byte{2});
    const auto closing = time_of([&] { boot->close(); });
    EXPECT_LE(closing, 2 * limit + soon);
    EXPECT_FALSE(write.took);
    EXPECT_TRUE(boot->mirror->hung());
    const Images images = boot->crash();
    write.task = {};
    boot.emplace(images, 8);
    ASSERT_TRUE(boot->open(both, neither)->has_value());
    EXPECT_TRUE(boot->mirror->reconciling());
}

TEST_P(MirrorHang, RecordOfTheEndThatHangsHoldsNobodyUp) {
    open();
    hung().hang({.writes = true});
    const auto closing = time_of([&] { boot->close(); });
    EXPECT_LE(closing, limit + soon);
    boot.emplace(boot->crash(), 9);
    ASSERT_TRUE(boot->open(both, neither)->has_value());
    expect_whole_and_alike();
}

} // namespace
