// uring_file_test.cc: the pool file on a real file system through a real ring.
#include "dataplane/base/uring.h"
#include "queue/disk/uring_file.h"
#include "queue/log.h"
#include "queue/queue.h"
#include "tests/queue/spool_world.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <unistd.h>

namespace {

using namespace queue;
namespace base = dataplane::base;

class UringFileTest : public testing::Test {
protected:
    void SetUp() override {
        // Beside the test program: /tmp may be a tmpfs.
        folder =
            std::filesystem::current_path() / ("uring_file_test." + std::to_string(::getpid()));
        std::filesystem::create_directories(folder);
        auto probe = UringFile::open(loop, ring, folder / "probe", {.pool_bytes = 1 << 20});
        if (!probe && probe.error().kind == UringFileError::Kind::unsuitable)
            GTEST_SKIP() << probe.error().text;
    }
    void TearDown() override { std::filesystem::remove_all(folder); }

    template <class T>
    T run(base::Task<T> task) {
        std::optional<T> value;
        auto wrap = [](base::Task<T> inner, std::optional<T>* out,
                       base::Loop* to_stop) -> base::Task<void> {
            auto result = co_await std::move(inner);
            out->emplace(std::move(result));
            to_stop->stop();
        };
        base::Task<void> outer = wrap(std::move(task), &value, &loop);
        outer.start();
        while (!value) {
            ring.poll();
            if (!loop.turn() && !value) ring.sleep_until(loop.now(), loop.next_due());
        }
        return std::move(*value);
    }

    base::RealClock clock;
    base::Loop loop{clock};
    base::Uring ring;
    std::filesystem::path folder;
};

TEST_F(UringFileTest, LargeWriteDoesNotWaitForTheTurnsEnd) {
    auto file = UringFile::open(loop, ring, folder / "pool", {.pool_bytes = 4 << 20});
    ASSERT_TRUE(file) << file.error().text;
    const auto entries_of_start = [&](std::size_t bytes) {
        const BlockMemory memory{bytes};
        base::Task<std::expected<void, DiskError>> write =
            (*file)->write(0, memory.span(), Durable::yes);
        const std::uint64_t before = ring.enter_count();
        write.start(); // and no poll yet
        const std::uint64_t entries = ring.enter_count() - before;
        run(std::move(write)).value();
        return entries;
    };
    EXPECT_EQ(entries_of_start(block_bytes), 0U);
    EXPECT_EQ(entries_of_start(1 << 20), 1U);
}

TEST_F(UringFileTest, CreatedPoolIsZeroAndKeepsWhatIsWritten) {
    std::uint64_t progress = 0;
    auto file =
        UringFile::open(loop, ring, folder / "pool",
                        {.pool_bytes = 4 << 20,
                         .progress = [&](std::uint64_t done, std::uint64_t) { progress = done; }});
    ASSERT_TRUE(file) << file.error().text;
    EXPECT_TRUE((*file)->created());
    EXPECT_EQ(progress, 4U << 20);
    BlockMemory block{block_bytes};
    ASSERT_TRUE(run((*file)->read(1 << 20, block.span())));
    EXPECT_EQ(block.span()[17], std::byte{0});
    block.span()[17] = std::byte{42};
    ASSERT_TRUE(run((*file)->write(1 << 20, block.span(), Durable::yes)));
    ASSERT_TRUE(run((*file)->flush()));
    file->reset();

    auto again = UringFile::open(loop, ring, folder / "pool", {.pool_bytes = 8 << 20});
    ASSERT_TRUE(again) << again.error().text;
    EXPECT_FALSE((*again)->created());
    EXPECT_EQ((*again)->size_bytes(), 4U << 20); // as it is, not as it was asked for
    block.span()[17] = std::byte{0};
    ASSERT_TRUE(run((*again)->read(1 << 20, block.span())));
    EXPECT_EQ(block.span()[17], std::byte{42});
}

TEST_F(UringFileTest, SecondUserIsTurnedAway) {
    auto file = UringFile::open(loop, ring, folder / "pool", {.pool_bytes = 1 << 20});
    ASSERT_TRUE(file);
    auto second =
        UringFile::open(loop, ring, folder / "pool",
                        {.pool_bytes = 1 << 20, .lock_wait = std::chrono::milliseconds{30}});
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().kind, UringFileError::Kind::locked);
}

TEST_F(UringFileTest, PoolThatIsReplacedWhileWeWaitForItsLockIsNotTheOldOne) {
    const auto path = folder / "pool";
    auto before = UringFile::open(loop, ring, path, {.pool_bytes = 1 << 20});
    ASSERT_TRUE(before);
    ASSERT_TRUE(UringFile::open(loop, ring, folder / "upgraded", {.pool_bytes = 2 << 20}));
    std::uint64_t found = 0;
    std::thread waiting([&] {
        base::Loop own_loop{clock};
        base::Uring own_ring;
        auto file = UringFile::open(own_loop, own_ring, path,
                                    {.pool_bytes = 1 << 20, .lock_wait = std::chrono::seconds{30}});
        if (file) found = (*file)->size_bytes();
    });
    std::this_thread::sleep_for(std::chrono::milliseconds{100}); // it has the old one open
    std::filesystem::rename(folder / "upgraded", path);
    before->reset();
    waiting.join();
    EXPECT_EQ(found, 2U << 20);
}

TEST_F(UringFileTest, UnfinishedPoolIsMadeAnew) {
    std::ofstream(folder / "pool.creating") << "half";
    auto file = UringFile::open(loop, ring, folder / "pool", {.pool_bytes = 1 << 20});
    ASSERT_TRUE(file) << file.error().text;
    EXPECT_EQ(std::filesystem::file_size(folder / "pool"), 1U << 20);
    EXPECT_FALSE(std::filesystem::exists(folder / "pool.creating"));
}

TEST_F(UringFileTest, PoolThatDoesNotFitSaysHowMuchIsFree) {
    auto file = UringFile::open(loop, ring, folder / "pool", {.pool_bytes = 1ULL << 60});
    ASSERT_FALSE(file);
    EXPECT_EQ(file.error().kind, UringFileError::Kind::no_space);
    EXPECT_FALSE(std::filesystem::exists(folder / "pool.creating"));
}

TEST_F(UringFileTest, FileSystemInMemoryIsRefusedWithARemedy) {
    if (!std::filesystem::exists("/dev/shm")) GTEST_SKIP() << "no tmpfs at /dev/shm";
    const std::string path = "/dev/shm/uring_file_test." + std::to_string(::getpid());
    auto file = UringFile::open(loop, ring, path, {.pool_bytes = 1 << 20});
    ASSERT_FALSE(file);
    EXPECT_EQ(file.error().kind, UringFileError::Kind::unsuitable);
    EXPECT_NE(file.error().text.find(path), std::string::npos);
    EXPECT_NE(file.error().text.find("real disk"), std::string::npos);
    EXPECT_FALSE(std::filesystem::exists(path + ".creating"));
}

TEST_F(UringFileTest, QueueOnARealFileKeepsMailOverARestart) {
    const QueueOptions options = tests::small_options();
    const std::string body(30'000, 'r');
    std::uint64_t id = 0;
    for (int boot = 0; boot < 2; ++boot) {
        auto file = UringFile::open(loop, ring, folder / "pool", {.pool_bytes = 4 << 20});
        ASSERT_TRUE(file) << file.error().text;
        RecoveryReport report;
        auto queue = run(MessageQueue::open(loop, **file, options, report));
        ASSERT_TRUE(queue) << report.problem;
        if (boot == 0) {
            auto sent = run(tests::submit_task(**queue, body, "P: 1\r\n", 1));
            ASSERT_TRUE(sent);
            id = (*sent)->id.value;
        } else {
            EXPECT_EQ(report.messages_recovered, 1U);
            auto message = run((*queue)->load(MessageId{id}, base::Deadline::never()));
            ASSERT_TRUE(message);
            EXPECT_EQ(run(tests::content_task(**queue, *message)).value(), "P: 1\r\n" + body);
        }
        EXPECT_TRUE(run((*queue)->close(base::Deadline::never())));
    }
}

TEST_F(UringFileTest, QueueThatIsDroppedWhileWritingLetsGoOfItsMemory) {
    auto file = UringFile::open(loop, ring, folder / "pool", {.pool_bytes = 4 << 20});
    ASSERT_TRUE(file);
    RecoveryReport report;
    auto queue = run(MessageQueue::open(loop, **file, tests::small_options(), report));
    ASSERT_TRUE(queue);
    base::Task<SpoolResult<MessageRef>> sending = tests::submit_task(**queue, "x", "", 1);
    auto wrap = [](base::Task<SpoolResult<MessageRef>> inner) -> base::Task<void> {
        static_cast<void>(co_await std::move(inner));
    };
    base::Task<void> task = wrap(std::move(sending));
    task.start();
    loop.turn(); // the write is staged
    task = {};
    queue->reset();
}

} // namespace
